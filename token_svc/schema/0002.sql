-- Under which name it is counted; '' for what is counted under an address alone.
ALTER TABLE attempt ADD COLUMN username_key TEXT NOT NULL DEFAULT '';

CREATE INDEX attempt_username ON attempt (username_key);
