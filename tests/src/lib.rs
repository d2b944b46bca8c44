//! Whole-system walkthroughs over real processes.
