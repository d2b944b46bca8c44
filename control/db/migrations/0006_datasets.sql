-- A dataset is kept like a project without tasks and runs: a name (one namespace, so that ds://<name>/... names one thing),
-- members, one volume and its commits. Its id is its volume's. `kind` is project or dataset.
ALTER TABLE projects ADD COLUMN kind key_text NOT NULL DEFAULT 'project';

-- The commit of another dataset that a dataset was cloned from, whose blocks it shares.
ALTER TABLE projects ADD COLUMN cloned_from key_text REFERENCES commits (id);
CREATE INDEX projects_by_origin ON projects (cloned_from);
