CREATE TABLE secret (
    name TEXT PRIMARY KEY,
    value TEXT NOT NULL
);
