CREATE TABLE probe (
    name TEXT PRIMARY KEY,
    stored_at BIGINT NOT NULL
);
