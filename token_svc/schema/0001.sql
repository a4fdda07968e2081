-- Times are milliseconds since 1970. A key is a name as it is compared: NFKC, case folded.
CREATE TABLE account (
    id TEXT PRIMARY KEY,
    username TEXT NOT NULL,
    username_key TEXT NOT NULL UNIQUE,
    email TEXT NOT NULL,
    email_key TEXT NOT NULL UNIQUE,
    password_hash TEXT NOT NULL,
    scope TEXT NOT NULL,
    version BIGINT NOT NULL,
    is_disabled BIGINT NOT NULL,
    item_count BIGINT NOT NULL,
    created_at BIGINT NOT NULL
);

CREATE TABLE session (
    id TEXT PRIMARY KEY,
    account_id TEXT NOT NULL,
    scope TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL
);

CREATE INDEX session_account ON session (account_id, id);

CREATE INDEX session_expiry ON session (expires_at);

-- The tokens themselves are known to their holders only. A used one is kept, so that its second use is noticed.
CREATE TABLE refresh_token (
    digest TEXT PRIMARY KEY,
    session_id TEXT NOT NULL,
    expires_at BIGINT NOT NULL,
    used_at BIGINT
);

CREATE INDEX refresh_token_session ON refresh_token (session_id);

CREATE INDEX refresh_token_expiry ON refresh_token (expires_at);

CREATE TABLE attempt (
    key TEXT PRIMARY KEY,
    failures BIGINT NOT NULL,
    last_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL
);

CREATE INDEX attempt_expiry ON attempt (expires_at);

CREATE TABLE event (
    id TEXT PRIMARY KEY,
    account_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    address TEXT NOT NULL,
    at BIGINT NOT NULL
);

CREATE INDEX event_account ON event (account_id, id);

CREATE INDEX event_at ON event (at);

CREATE TABLE item (
    id TEXT PRIMARY KEY,
    account_id TEXT NOT NULL,
    data TEXT NOT NULL,
    version BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);

CREATE INDEX item_list ON item (account_id, id);
