-- `task` is the task that each tick makes, as JSON. Of a schedule that stands in code, `mark` says what the code says of
-- it; those of callers have none.
CREATE TABLE schedule (
    caller TEXT NOT NULL,
    name TEXT NOT NULL,
    in_code BIGINT NOT NULL,
    mark TEXT,
    cron TEXT,
    every_ms BIGINT,
    timezone TEXT NOT NULL,
    task TEXT NOT NULL,
    overlap BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    next_run_at BIGINT NOT NULL,
    last_task_id TEXT,
    skipped BIGINT NOT NULL,
    PRIMARY KEY (caller, name, in_code)
);

CREATE INDEX schedule_due ON schedule (next_run_at);

-- The marks of the schedules that the worker's code has.
ALTER TABLE worker ADD COLUMN schedules TEXT NOT NULL DEFAULT '[]';
