-- Whose turn it is (see shares.py). `is_person`: bounds of people hold for it. `lane`: '', or the type's own.
-- `is_alone` says from here on what it has always done: the run has its child to itself, as all of `def` do.
ALTER TABLE task ADD COLUMN is_person BIGINT NOT NULL DEFAULT 0;
ALTER TABLE task ADD COLUMN lane TEXT NOT NULL DEFAULT '';

-- What the task is about, and what there is to be one of.
ALTER TABLE task ADD COLUMN key TEXT;
ALTER TABLE task ADD COLUMN unique_key TEXT;

-- Which gate it is held at (see gates.py): its key's, or '' for its type's; and which it has passed: 1 its key's, 2 its
-- type's.
ALTER TABLE task ADD COLUMN gate TEXT;
ALTER TABLE task ADD COLUMN permits BIGINT NOT NULL DEFAULT 0;

-- The one index that a claim walks holds what can be claimed and nothing else, each caller's by itself.
DROP INDEX task_claim;
CREATE INDEX task_claim ON task (is_alone, lane, caller, priority DESC, run_at, id) WHERE status = 'queued';

CREATE INDEX task_apart ON task (lane) WHERE lane <> '' AND finished_at IS NULL;

CREATE INDEX task_held ON task (type, gate, caller, priority DESC, run_at, id) WHERE status = 'held';

CREATE INDEX task_permit ON task (type, key) WHERE permits > 0 AND finished_at IS NULL;

CREATE INDEX task_list_by_key ON task (caller, key, id) WHERE key IS NOT NULL;

CREATE UNIQUE INDEX task_unique ON task (caller, type, unique_key) WHERE unique_key IS NOT NULL AND finished_at IS NULL;

-- The types whose tasks wait apart from all others. `is_kept`: all of them do, always.
CREATE TABLE lane (type TEXT PRIMARY KEY, is_paused BIGINT NOT NULL, is_kept BIGINT NOT NULL);

-- How many of a type (key '') or of a key may run at once, how many have a permit to, and whose turn was last.
CREATE TABLE gate (
    type TEXT NOT NULL,
    key TEXT NOT NULL,
    most BIGINT NOT NULL,
    taken BIGINT NOT NULL,
    served TEXT NOT NULL,
    PRIMARY KEY (type, key)
);
