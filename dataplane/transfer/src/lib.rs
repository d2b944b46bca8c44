//! Moves snapshots between pools: drives the wire over a link into ZFS; the store.
