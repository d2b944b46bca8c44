//! Every speed claim, measured against its peers in the same run.
fn main() {}
