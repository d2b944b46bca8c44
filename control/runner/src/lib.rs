//! Executes tasks in containers on a clone of the workspace, and commits what they did.
