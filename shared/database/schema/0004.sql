-- Whose a key is, and how many bytes of its answer count for that owner.
ALTER TABLE idempotency_key ADD COLUMN owner TEXT NOT NULL DEFAULT '';

ALTER TABLE idempotency_key ADD COLUMN bytes BIGINT NOT NULL DEFAULT 0;

CREATE INDEX idempotency_key_owner ON idempotency_key (owner) WHERE owner <> '';

CREATE TABLE kept_answers (owner TEXT PRIMARY KEY, bytes BIGINT NOT NULL);

-- Owners who are gone, and the services that still have to delete what they keep for them.
CREATE TABLE departure (
    owner TEXT NOT NULL,
    service TEXT NOT NULL,
    at BIGINT NOT NULL,
    looked_at BIGINT NOT NULL,
    PRIMARY KEY (owner, service)
);

CREATE INDEX departure_service ON departure (service, looked_at);
