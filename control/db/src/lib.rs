//! The hub's metadata in SQLite or PostgreSQL, behind the same queries.
