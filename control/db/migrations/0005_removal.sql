-- A removed user stays for the tasks that they asked for, and keeps the name under which commits and runs were made.
ALTER TABLE users ADD COLUMN removed_ms BIGINT;

-- Deleting a commit asks for the tasks that point at it.
CREATE INDEX tasks_by_base ON tasks (base_commit);
CREATE INDEX tasks_by_result ON tasks (result_commit);
