-- By a trigger, so that no end of a task can be without its news, whichever statement makes it; and a task that has no
-- webhook costs no statement more. A task that is tried again takes back what was not told yet.
CREATE FUNCTION tell_task() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN UPDATE webhook SET status = ''pending'', attempts = 0, last_error = NULL, next_at = NEW.finished_at, number = number + CASE WHEN NEW.finished_at IS NULL THEN 0 ELSE 1 END WHERE task_id = NEW.id; RETURN NULL; END';

CREATE TRIGGER task_told AFTER UPDATE OF finished_at ON task FOR EACH ROW
WHEN (NEW.has_webhook = 1 AND (NEW.finished_at IS NULL) <> (OLD.finished_at IS NULL)) EXECUTE FUNCTION tell_task();

CREATE FUNCTION forget_task() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN DELETE FROM webhook WHERE task_id = OLD.id; RETURN NULL; END';

CREATE TRIGGER task_forgotten AFTER DELETE ON task FOR EACH ROW
WHEN (OLD.has_webhook = 1) EXECUTE FUNCTION forget_task();
