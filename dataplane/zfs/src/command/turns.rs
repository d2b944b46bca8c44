//! One mount at a time on the whole machine, where ZFS is zfs-fuse: its daemon hands a new mount to its listening thread in two
//! writes into one pipe, and two mounts whose writes mix make that thread wait for ever for hundreds of megabytes (version
//! 0.7; `new_fs` of `fuse_listener.c`). Nothing on any pool can be read or written then.

use std::{fs::File, io, path::Path};

/// Root's own folder, so that nobody else can hold it.
const LOCK: &str = "/run/dotstream-zfs-fuse.lock";

/// There is one where ZFS is in the kernel.
const KERNEL_DEVICE: &str = "/dev/zfs";

/// Commands of `zfs` that may mount.
const MOUNTING: [&str; 6] = ["clone", "create", "inherit", "mount", "rename", "set"];

/// Waits until no other process that uses this crate mounts anything, where the command may mount and that matters. The turn
/// is over when the answer is dropped. Others wait no longer than a command may take.
pub(super) async fn take(program: &str, arguments: &[&str]) -> Option<File> {
    let mounts = program == "zfs" && arguments.first().is_some_and(|verb| MOUNTING.contains(verb));
    if !mounts || Path::new(KERNEL_DEVICE).exists() {
        return None;
    }
    let lock = || -> io::Result<File> {
        let file = File::options().create(true).truncate(false).write(true).open(LOCK)?;
        file.lock()?;
        Ok(file)
    };
    match tokio::task::spawn_blocking(lock).await.map_err(io::Error::other).flatten() {
        Ok(file) => Some(file),
        Err(error) => {
            // Two mounts at the same moment are rare.
            tracing::debug!(%error, file = LOCK, "mounting without a turn");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn only_one_mounts_and_others_look_on() {
        let Some(turn) = take("zfs", &["mount", "a"]).await else {
            println!("skipped: this machine's ZFS is in its kernel, or this user may not write {LOCK}");
            return;
        };
        assert!(take("zfs", &["list"]).await.is_none());
        let waiting = tokio::spawn(take("zfs", &["clone", "a@b", "c"]));
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(!waiting.is_finished());
        drop(turn);
        let next = timeout(Duration::from_mins(1), waiting).await.unwrap().unwrap();
        assert!(next.is_some());
    }
}
