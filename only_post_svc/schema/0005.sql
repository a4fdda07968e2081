-- Who is told of a task's end (see webhooks.py). `number` counts the task's ends; `next_at` is when its news is to be
-- sent, or sent again, NULL while there is none.
CREATE TABLE webhook (
    task_id TEXT PRIMARY KEY,
    url TEXT NOT NULL,
    host TEXT NOT NULL,
    status TEXT NOT NULL,
    number BIGINT NOT NULL,
    attempts BIGINT NOT NULL,
    last_error TEXT,
    next_at BIGINT
);

CREATE INDEX webhook_due ON webhook (next_at) WHERE status = 'pending';

CREATE INDEX webhook_host ON webhook (host, next_at) WHERE next_at IS NOT NULL;

ALTER TABLE task ADD COLUMN has_webhook BIGINT NOT NULL DEFAULT 0;
