-- What each service has of its owners, for an export (see shared/exports.py): the member that it becomes, the view that
-- has its rows, and the columns of that, with spaces between.
CREATE TABLE exported (member TEXT PRIMARY KEY, view_name TEXT NOT NULL, columns TEXT NOT NULL);
