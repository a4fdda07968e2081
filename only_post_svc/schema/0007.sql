-- The W3C header that the task came with, and the news of its end goes with.
ALTER TABLE task ADD COLUMN traceparent TEXT;
ALTER TABLE webhook ADD COLUMN traceparent TEXT;
