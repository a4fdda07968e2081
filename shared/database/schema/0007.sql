-- The answers kept for an owner's idempotency keys, in an export (see shared/exports.py). A scope is the route and the
-- owner. The index has what the view is walked by.
DROP INDEX idempotency_key_owner;

CREATE INDEX idempotency_key_owner ON idempotency_key (owner, (scope || ' ' || key)) WHERE owner <> '';

CREATE VIEW exported_answer AS
SELECT owner, scope || ' ' || key AS position, replace(scope, ' ' || owner, '') AS route, key, status, body, headers,
    expires_at
FROM idempotency_key WHERE owner <> '';

INSERT INTO exported (member, view_name, columns) VALUES
    ('kept_answers', 'exported_answer', 'route key status body/json headers/json expires_at');
