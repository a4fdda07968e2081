-- What an export has of an account beside what handlers/me.py reads (see shared/exports.py), without any digest of a token
-- or a secret. Each view has an index that gives an account's rows in the order of their positions.
CREATE INDEX deleted_item_list ON deleted_item (account_id, id);

DROP INDEX mail_account;
CREATE INDEX mail_account ON mail (account_id, id);

DROP INDEX mail_token_account;
CREATE INDEX mail_token_account ON mail_token (account_id, digest);

DROP INDEX client_secret_account;
CREATE INDEX client_secret_account ON client_secret (account_id, digest);

CREATE VIEW exported_deletion AS SELECT account_id AS owner, id AS position, id, deleted_at FROM deleted_item;

CREATE VIEW exported_mail AS
SELECT account_id AS owner, id AS position, kind, email, language, attempts, created_at, due_at FROM mail;

CREATE VIEW exported_mail_token AS
SELECT account_id AS owner, digest AS position, kind, email, expires_at FROM mail_token;

CREATE VIEW exported_client_secret AS
SELECT account_id AS owner, digest AS position, created_at, used_at FROM client_secret;

INSERT INTO exported (member, view_name, columns) VALUES
    ('deleted_items', 'exported_deletion', 'id deleted_at'),
    ('mails', 'exported_mail', 'kind email language attempts created_at due_at'),
    ('mail_tokens', 'exported_mail_token', 'kind email expires_at'),
    ('client_secrets', 'exported_client_secret', 'created_at used_at');
