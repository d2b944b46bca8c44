//! Snapshots, clones, send and receive on OpenZFS or zfs-fuse.
