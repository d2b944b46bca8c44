-- One schema for SQLite and PostgreSQL. Ids are hyphenated UUIDs, times Unix milliseconds, flags 0 or 1, hashes hex.

CREATE TABLE settings (
    name key_text PRIMARY KEY,
    value TEXT NOT NULL
);

CREATE TABLE users (
    id key_text PRIMARY KEY,
    username key_text NOT NULL UNIQUE,
    password_hash TEXT NOT NULL,
    admin BIGINT NOT NULL,
    created_ms BIGINT NOT NULL
);

CREATE TABLE sessions (
    token key_text PRIMARY KEY,
    user_id key_text NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    created_ms BIGINT NOT NULL,
    expires_ms BIGINT NOT NULL
);
CREATE INDEX sessions_by_end ON sessions (expires_ms);
CREATE INDEX sessions_by_user ON sessions (user_id);

CREATE TABLE api_keys (
    id key_text PRIMARY KEY,
    user_id key_text NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    token key_text NOT NULL UNIQUE,
    created_ms BIGINT NOT NULL,
    used_ms BIGINT
);
CREATE INDEX api_keys_by_user ON api_keys (user_id);

CREATE TABLE projects (
    id key_text PRIMARY KEY,
    name key_text NOT NULL UNIQUE,
    description TEXT NOT NULL,
    created_ms BIGINT NOT NULL,
    -- How many runs it has: counting 100,000 each time a list of projects is shown would be slow.
    runs BIGINT NOT NULL
);

CREATE TABLE members (
    project_id key_text NOT NULL REFERENCES projects (id) ON DELETE CASCADE,
    user_id key_text NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    access TEXT NOT NULL,
    PRIMARY KEY (project_id, user_id)
);
CREATE INDEX members_by_user ON members (user_id);

-- A project's workspace. `head` is the newest commit of the main line; a commit and its volume refer to each other, so
-- only one of the two is a declared reference.
CREATE TABLE volumes (
    id key_text PRIMARY KEY,
    project_id key_text NOT NULL UNIQUE REFERENCES projects (id) ON DELETE CASCADE,
    head key_text NOT NULL
);

CREATE TABLE commits (
    id key_text PRIMARY KEY,
    volume_id key_text NOT NULL REFERENCES volumes (id) ON DELETE CASCADE,
    snapshot key_text NOT NULL UNIQUE,
    guid TEXT NOT NULL,
    parent key_text REFERENCES commits (id),
    -- Distance from the volume's first commit: bounds and orders walks along the parents.
    depth BIGINT NOT NULL,
    message TEXT NOT NULL,
    author TEXT NOT NULL,
    task_id key_text,
    -- Set where it is not on the main line.
    branch TEXT,
    metadata TEXT NOT NULL,
    changed_files BIGINT NOT NULL,
    created_ms BIGINT NOT NULL
);
CREATE INDEX commits_by_volume ON commits (volume_id, created_ms, id);
CREATE INDEX commits_by_parent ON commits (parent);

-- `path_key` is the path's first 500 bytes: PostgreSQL refuses index entries that are much longer.
CREATE TABLE commit_files (
    commit_id key_text NOT NULL REFERENCES commits (id) ON DELETE CASCADE,
    position BIGINT NOT NULL,
    volume_id key_text NOT NULL,
    path_key key_text NOT NULL,
    path TEXT NOT NULL,
    kind TEXT NOT NULL,
    size_bytes BIGINT NOT NULL,
    PRIMARY KEY (commit_id, position)
);
CREATE INDEX commit_files_by_path ON commit_files (volume_id, path_key, commit_id);

CREATE TABLE runners (
    id key_text PRIMARY KEY,
    name key_text NOT NULL,
    token key_text NOT NULL UNIQUE,
    token_expires_ms BIGINT NOT NULL,
    registered_ms BIGINT,
    -- SHA-256 of its certificate's DER.
    certificate key_text,
    labels TEXT NOT NULL,
    slots BIGINT NOT NULL,
    version TEXT NOT NULL,
    machine TEXT,
    created_ms BIGINT NOT NULL,
    seen_ms BIGINT,
    removed_ms BIGINT
);
-- A removed runner stays for the tasks that it executed; its name is free again.
CREATE UNIQUE INDEX runners_by_name ON runners (name) WHERE removed_ms IS NULL;

CREATE TABLE tasks (
    id key_text PRIMARY KEY,
    project_id key_text NOT NULL REFERENCES projects (id) ON DELETE CASCADE,
    volume_id key_text NOT NULL REFERENCES volumes (id) ON DELETE CASCADE,
    author_id key_text NOT NULL REFERENCES users (id),
    spec TEXT NOT NULL,
    state key_text NOT NULL,
    phase TEXT,
    detail TEXT NOT NULL,
    outcome TEXT,
    exit_code BIGINT,
    error TEXT NOT NULL,
    warnings TEXT NOT NULL,
    cancelling BIGINT NOT NULL,
    runner_id key_text REFERENCES runners (id),
    base_commit key_text REFERENCES commits (id),
    result_snapshot key_text NOT NULL,
    result_commit key_text REFERENCES commits (id),
    -- Whether the head moved to `result_commit` when the task ended.
    advanced BIGINT NOT NULL,
    branch TEXT,
    log_bytes BIGINT NOT NULL,
    created_ms BIGINT NOT NULL,
    started_ms BIGINT,
    ended_ms BIGINT
);
CREATE INDEX tasks_by_project ON tasks (project_id, created_ms, id);
CREATE INDEX tasks_open ON tasks (state, created_ms, id) WHERE state <> 'ended';
CREATE INDEX tasks_by_runner ON tasks (runner_id, state);

CREATE TABLE task_logs (
    task_id key_text NOT NULL REFERENCES tasks (id) ON DELETE CASCADE,
    start_byte BIGINT NOT NULL,
    data blob NOT NULL,
    PRIMARY KEY (task_id, start_byte)
);

CREATE TABLE runs (
    id key_text PRIMARY KEY,
    project_id key_text NOT NULL REFERENCES projects (id) ON DELETE CASCADE,
    commit_id key_text NOT NULL REFERENCES commits (id) ON DELETE CASCADE,
    task_id key_text,
    -- Its place among the runs that were recorded together, which have one time.
    position BIGINT NOT NULL,
    authority TEXT NOT NULL,
    author TEXT NOT NULL,
    description TEXT NOT NULL,
    workload_file TEXT,
    error TEXT,
    success BIGINT NOT NULL,
    start_text TEXT,
    end_text TEXT,
    -- All that was published, in JSON: a page of runs is then read from this table alone.
    parameters TEXT NOT NULL,
    metrics TEXT NOT NULL,
    labels TEXT NOT NULL,
    conflicts TEXT NOT NULL,
    created_ms BIGINT NOT NULL
);
CREATE INDEX runs_by_project ON runs (project_id, created_ms, position, id);
CREATE INDEX runs_by_commit ON runs (commit_id);
CREATE INDEX runs_by_task ON runs (task_id);

-- The same values once more, to filter and sort by. `kind` is p, m or l. `number` is what the text means as a number, if
-- it is one; `text_key` is the text's first 200 bytes. Each index has the rows that the other has not.
CREATE TABLE run_values (
    run_id key_text NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
    project_id key_text NOT NULL,
    kind key_text NOT NULL,
    name key_text NOT NULL,
    text_key key_text NOT NULL,
    number DOUBLE PRECISION,
    PRIMARY KEY (run_id, kind, name)
);
CREATE INDEX run_values_by_number ON run_values (project_id, kind, name, number, run_id) WHERE number IS NOT NULL;
CREATE INDEX run_values_by_text ON run_values (project_id, kind, name, text_key, run_id) WHERE number IS NULL;

CREATE TABLE run_files (
    run_id key_text NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
    -- i (input) or o (output).
    direction key_text NOT NULL,
    position BIGINT NOT NULL,
    path TEXT NOT NULL,
    -- The commit that made this version of the file, and the run that wrote it there.
    commit_id key_text,
    written_by key_text,
    PRIMARY KEY (run_id, direction, position)
);
