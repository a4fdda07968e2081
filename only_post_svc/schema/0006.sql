-- What went wrong in each attempt that failed, until its task is pruned. `error` is JSON as the task has it.
CREATE TABLE task_failure (
    task_id TEXT NOT NULL,
    attempt BIGINT NOT NULL,
    at BIGINT NOT NULL,
    worker TEXT NOT NULL,
    error TEXT NOT NULL,
    traceback TEXT
);

CREATE INDEX task_failure_of ON task_failure (task_id, at);

-- Where a task has come to, for its next attempt, until it ends.
CREATE TABLE task_checkpoint (task_id TEXT PRIMARY KEY, body TEXT NOT NULL);
