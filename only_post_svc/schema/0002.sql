-- What the worker has counted since it started: see tallies.py.
ALTER TABLE worker ADD COLUMN counts TEXT NOT NULL DEFAULT '[]';
