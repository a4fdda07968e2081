-- What the worker has counted since it started: see TaskCounts.
ALTER TABLE worker ADD COLUMN counts TEXT NOT NULL DEFAULT '[]';
