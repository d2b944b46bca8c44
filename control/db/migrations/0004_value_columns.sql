-- The values of runs by column: all of one name lie together, in the order in which the runs were recorded, under short
-- numbers instead of ids. A page that is sorted by one value and filtered by another then reads two columns, not runs.

-- A run's number in its project counts up from 1 in the order of recording; `projects.runs` is the last one.
ALTER TABLE runs ADD COLUMN no BIGINT NOT NULL DEFAULT 0;
CREATE TABLE numbering (id key_text PRIMARY KEY, no BIGINT NOT NULL);
INSERT INTO numbering
    SELECT id, ROW_NUMBER() OVER (PARTITION BY project_id ORDER BY created_ms, position, id) FROM runs;
UPDATE runs SET no = (SELECT n.no FROM numbering n WHERE n.id = runs.id);
DROP TABLE numbering;
DROP INDEX runs_by_project;
ALTER TABLE runs DROP COLUMN position;
CREATE UNIQUE INDEX runs_by_number ON runs (project_id, no);

-- `kind` is p, m or l (parameter, metric, label).
CREATE TABLE value_names (
    id INTEGER PRIMARY KEY,
    project_id key_text NOT NULL REFERENCES projects (id) ON DELETE CASCADE,
    kind key_text NOT NULL,
    name key_text NOT NULL,
    UNIQUE (project_id, kind, name)
);
INSERT INTO value_names (project_id, kind, name) SELECT DISTINCT project_id, kind, name FROM run_values;

DROP INDEX run_values_by_number;
DROP INDEX run_values_by_text;
DROP INDEX run_values_by_name;
ALTER TABLE run_values RENAME TO run_values_by_run;

-- `number` is what the text means as a number, if it is one; `text_key` is the text's first 200 bytes. Of the two indexes
-- each has the rows that the other has not.
CREATE TABLE run_values (
    name_id BIGINT NOT NULL REFERENCES value_names (id) ON DELETE CASCADE,
    run_no BIGINT NOT NULL,
    number DOUBLE PRECISION,
    text_key key_text NOT NULL,
    PRIMARY KEY (name_id, run_no)
) WITHOUT ROWID;
INSERT INTO run_values (name_id, run_no, number, text_key)
    SELECT n.id, r.no, v.number, v.text_key FROM run_values_by_run v
    JOIN runs r ON r.id = v.run_id
    JOIN value_names n ON n.project_id = v.project_id AND n.kind = v.kind AND n.name = v.name;
DROP TABLE run_values_by_run;
CREATE INDEX run_values_by_number ON run_values (name_id, number, run_no) WHERE number IS NOT NULL;
CREATE INDEX run_values_by_text ON run_values (name_id, text_key, run_no) WHERE number IS NULL;
