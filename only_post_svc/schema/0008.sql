-- A caller's tasks and schedules, in an export by a service that has this database, too (see shared/exports.py).
CREATE VIEW exported_task AS
SELECT task.caller AS owner, task.id AS position, task.id AS task_id, task.type, task.key, task.status, task.priority,
    task.attempt, task.max_attempts, task.created_at, task.run_at, task.started_at, task.finished_at,
    task_payload.body AS payload, task_result.body AS result, task.error, task.progress
FROM task
LEFT JOIN task_payload ON task_payload.task_id = task.id
LEFT JOIN task_result ON task_result.task_id = task.id;

CREATE VIEW exported_schedule AS
SELECT caller AS owner, name AS position, name, cron, every_ms, timezone, task, overlap, created_at, next_run_at,
    last_task_id, skipped
FROM schedule WHERE in_code = 0;

INSERT INTO exported (member, view_name, columns) VALUES
    ('tasks', 'exported_task', 'task_id type key status priority attempt max_attempts created_at run_at started_at finished_at payload/json result/json error/json progress/json'),
    ('schedules', 'exported_schedule', 'name cron every_ms timezone task/json overlap created_at next_run_at last_task_id skipped');
