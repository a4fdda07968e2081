-- Every task is written at least three times. Room for it in its page keeps what does not touch an index out of them
-- all; and what is dead goes, and what is known is renewed, long before a fifth of all finished tasks has changed.
ALTER TABLE task SET (
    fillfactor = 70,
    autovacuum_vacuum_scale_factor = 0.01,
    autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_insert_scale_factor = 0.01,
    autovacuum_analyze_scale_factor = 0.01,
    autovacuum_vacuum_cost_limit = 2000
);
