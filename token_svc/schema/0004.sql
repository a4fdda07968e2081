ALTER TABLE account ADD COLUMN email_verified BIGINT NOT NULL DEFAULT 0;

-- What was mailed to an address, by its SHA-256. It is good for that address, and up to the next password, alone.
CREATE TABLE mail_token (
    digest TEXT PRIMARY KEY,
    kind TEXT NOT NULL,
    account_id TEXT NOT NULL,
    email TEXT NOT NULL,
    version BIGINT NOT NULL,
    expires_at BIGINT NOT NULL
);

CREATE INDEX mail_token_account ON mail_token (account_id);

CREATE INDEX mail_token_expiry ON mail_token (expires_at);

-- What is still to be sent. Its token is made when it is sent, so that none is ever on disk.
CREATE TABLE mail (
    id TEXT PRIMARY KEY,
    kind TEXT NOT NULL,
    account_id TEXT NOT NULL,
    email TEXT NOT NULL,
    version BIGINT NOT NULL,
    language TEXT NOT NULL,
    attempts BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    due_at BIGINT NOT NULL
);

CREATE INDEX mail_due ON mail (due_at);

CREATE INDEX mail_account ON mail (account_id);
