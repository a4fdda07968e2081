-- The export of a task has all that its caller has said of it, its checkpoint and its webhook, and the status that its
-- caller sees. A worker's name, its lease and tracebacks are the operator's own.
DROP VIEW exported_task;

CREATE VIEW exported_task AS
SELECT task.caller AS owner, task.id AS position, task.id AS task_id, task.type, task.key, task.unique_key,
    CASE WHEN task.status IN ('scheduled', 'held') THEN 'queued' ELSE task.status END AS status,
    task.priority, task.timeout_ms, task.attempt, task.max_attempts, task.traceparent, task.created_at, task.run_at,
    task.started_at, task.finished_at, task_payload.body AS payload, task_result.body AS result, task.error,
    task.progress, task_checkpoint.body AS checkpoint, webhook.url AS notify_url, webhook.status AS notify_status,
    webhook.attempts AS notify_attempts, webhook.last_error AS notify_error
FROM task
LEFT JOIN task_payload ON task_payload.task_id = task.id
LEFT JOIN task_result ON task_result.task_id = task.id
LEFT JOIN task_checkpoint ON task_checkpoint.task_id = task.id
LEFT JOIN webhook ON webhook.task_id = task.id;

UPDATE exported SET columns = 'task_id type key unique_key status priority timeout_ms attempt max_attempts traceparent created_at run_at started_at finished_at payload/json result/json error/json progress/json checkpoint/json notify_url notify_status notify_attempts notify_error'
WHERE member = 'tasks';

CREATE VIEW exported_failure AS
SELECT task.caller AS owner, task.id AS position, task.id AS task_id, task_failure.attempt, task_failure.at AS failed_at,
    task_failure.error
FROM task JOIN task_failure ON task_failure.task_id = task.id;

INSERT INTO exported (member, view_name, columns) VALUES
    ('task_failures', 'exported_failure', 'failed_at task_id attempt error/json');
