-- PostgreSQL only: gives it the two type names under which the rest of the schema is the same as on SQLite.
--
-- SQLite reads a type name by the words in it, so that `key_text` is text there, compared byte by byte. Ids and names
-- are compared so on PostgreSQL as well, whatever the database's own collation: pages and short ids depend on it.
CREATE DOMAIN key_text AS text COLLATE "C";
CREATE DOMAIN blob AS bytea;
