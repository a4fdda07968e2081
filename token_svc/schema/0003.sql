-- A machine client is an account that has secrets in place of a password.
ALTER TABLE account ADD COLUMN is_client BIGINT NOT NULL DEFAULT 0;

CREATE INDEX account_client ON account (id) WHERE is_client = 1;

-- Random, of 256 bits: a plain digest keeps them. Two work while one is rotated.
CREATE TABLE client_secret (
    digest TEXT PRIMARY KEY,
    account_id TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    used_at BIGINT
);

CREATE INDEX client_secret_account ON client_secret (account_id);

-- Access tokens of machines, which have no session to end. Kept until they would have expired.
CREATE TABLE revoked_token (
    jti TEXT PRIMARY KEY,
    expires_at BIGINT NOT NULL
);

CREATE INDEX revoked_token_expiry ON revoked_token (expires_at);
