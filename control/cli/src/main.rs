//! The program ds: the hub, store and runner roles, and the user's verbs.
fn main() {}
