-- JSON: headers of the kept answer that not every one has.
ALTER TABLE idempotency_key ADD COLUMN headers TEXT;
