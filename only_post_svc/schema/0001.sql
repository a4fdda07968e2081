-- Times are milliseconds since 1970. 'scheduled' waits for its run_at; clients see it as queued.
CREATE TABLE task (
    id TEXT PRIMARY KEY,
    caller TEXT NOT NULL,
    type TEXT NOT NULL,
    status TEXT NOT NULL,
    priority BIGINT NOT NULL,
    timeout_ms BIGINT NOT NULL,
    attempt BIGINT NOT NULL,
    max_attempts BIGINT NOT NULL,
    is_alone BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    run_at BIGINT NOT NULL,
    started_at BIGINT,
    finished_at BIGINT,
    lease TEXT,
    lease_until BIGINT,
    progress TEXT,
    error TEXT
);

-- Out of the rows' way: a claim or a renewal rewrites the row, never these.
CREATE TABLE task_payload (task_id TEXT PRIMARY KEY, body TEXT NOT NULL);

CREATE TABLE task_result (task_id TEXT PRIMARY KEY, body TEXT NOT NULL);

-- The one index that a claim walks holds what can be claimed and nothing else.
CREATE INDEX task_claim ON task (type, priority DESC, run_at, id) WHERE status = 'queued';

CREATE INDEX task_due ON task (run_at) WHERE status = 'scheduled';

CREATE INDEX task_lease ON task (lease_until) WHERE status = 'running';

CREATE INDEX task_finished ON task (finished_at) WHERE finished_at IS NOT NULL;

CREATE INDEX task_list ON task (caller, id);

CREATE INDEX task_list_by_type ON task (caller, type, id);

CREATE INDEX task_list_unfinished ON task (caller, status, id) WHERE finished_at IS NULL;

CREATE INDEX task_list_failed ON task (caller, id) WHERE status = 'failed';

CREATE INDEX task_list_cancelled ON task (caller, id) WHERE status = 'cancelled';

CREATE TABLE worker (
    id TEXT PRIMARY KEY,
    host TEXT NOT NULL,
    pid BIGINT NOT NULL,
    processes BIGINT NOT NULL,
    running BIGINT NOT NULL,
    started_at BIGINT NOT NULL,
    seen_at BIGINT NOT NULL,
    claimed_at BIGINT
);
