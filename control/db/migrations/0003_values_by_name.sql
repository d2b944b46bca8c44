-- All values of one name, whatever they are: for conditions that numbers and other texts can meet alike, which neither of
-- the two partial indexes answers alone.
CREATE INDEX run_values_by_name ON run_values (project_id, kind, name, run_id, number, text_key);
