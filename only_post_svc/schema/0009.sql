-- Permits of cancelled runs whose code may not have stopped yet (see gates.py); `until` is the end of their leases.
CREATE TABLE stopping (
    lease TEXT PRIMARY KEY,
    type TEXT NOT NULL,
    key TEXT,
    permits BIGINT NOT NULL,
    until BIGINT NOT NULL
);
