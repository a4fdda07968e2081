-- What an account stores, in bytes; the number of its latest change; and the latest of its deletions that is forgotten.
ALTER TABLE account ADD COLUMN item_bytes BIGINT NOT NULL DEFAULT 0;

ALTER TABLE account ADD COLUMN change BIGINT NOT NULL DEFAULT 0;

ALTER TABLE account ADD COLUMN forgotten BIGINT NOT NULL DEFAULT 0;

-- The account's changes are numbered; an item has the number of its own latest.
ALTER TABLE item ADD COLUMN change BIGINT NOT NULL DEFAULT 0;

UPDATE item SET change = numbered.change FROM (
    SELECT id, row_number() OVER (PARTITION BY account_id ORDER BY id) AS change FROM item
) AS numbered WHERE numbered.id = item.id;

UPDATE account SET change = item_count;

CREATE INDEX item_change ON item (account_id, change);

CREATE TABLE deleted_item (
    id TEXT PRIMARY KEY,
    account_id TEXT NOT NULL,
    change BIGINT NOT NULL,
    deleted_at BIGINT NOT NULL
);

CREATE INDEX deleted_item_change ON deleted_item (account_id, change);

CREATE INDEX deleted_item_at ON deleted_item (deleted_at);
