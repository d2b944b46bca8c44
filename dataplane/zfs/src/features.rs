//! What this machine's ZFS is and can do, read once from what its programs say of themselves.

use crate::{Result, command};

/// Which ZFS answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Implementation {
    /// The kernel module.
    OpenZfs,
    /// The user-space daemon of Debian main, at pool version 23.
    ZfsFuse,
}

/// What this machine's ZFS can do; [`crate::StreamMode::negotiate`] finds what two machines have in common.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is one independent fact of a probe")]
pub struct Features {
    /// Which ZFS answers.
    pub implementation: Implementation,
    /// As it names itself, such as `zfs-2.3.2-1` or `pool version 23`.
    pub version: String,
    /// A broken receive can be resumed (`receive -s`, `send -t`).
    pub resume: bool,
    /// `zfs bookmark`.
    pub bookmarks: bool,
    /// `zfs hold` and `zfs release`.
    pub holds: bool,
    /// `send -c`.
    pub compressed: bool,
    /// `send -L`.
    pub large_blocks: bool,
    /// `send -e`.
    pub embedded: bool,
    /// `send -w`.
    pub raw: bool,
    /// `send -n` with `-P`: the size of a stream before it is sent.
    pub dry_run: bool,
    /// `receive -u`: what is received is not mounted.
    pub receive_unmounted: bool,
    /// `receive -x`: properties in a stream are ignored.
    pub receive_excluding: bool,
    /// The properties `devices` and `setuid`: what a mounted filesystem must not do.
    pub mount_limits: bool,
    /// `zfs diff`.
    pub diff: bool,
}

/// What a machine's ZFS can do with streams: what the other end of a transfer has to know of it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is one independent fact of a probe")]
pub struct StreamSupport {
    /// As it names itself; see [`Features::version`].
    pub version: String,
    /// Large blocks (`send -L`).
    pub large_blocks: bool,
    /// Compressed blocks (`send -c`).
    pub compressed: bool,
    /// Embedded blocks (`send -e`).
    pub embedded: bool,
    /// Raw streams (`send -w`).
    pub raw: bool,
}

/// What every ZFS can: plain streams.
impl Default for StreamSupport {
    fn default() -> Self {
        let version = "an unknown ZFS".to_owned();
        Self { version, large_blocks: false, compressed: false, embedded: false, raw: false }
    }
}

impl Features {
    /// What it can do with streams.
    pub fn streams(&self) -> StreamSupport {
        StreamSupport {
            version: self.version.clone(),
            large_blocks: self.large_blocks,
            compressed: self.compressed,
            embedded: self.embedded,
            raw: self.raw,
        }
    }

    /// Whether a decrypted send of an encrypted filesystem leaves that whole: OpenZFS from 2.2.9, 2.3.9 and 2.4 on. A version that
    /// cannot be read is taken for an old one.
    pub fn decrypts_safely(&self) -> bool {
        let numbers = self.version.trim_start_matches(|c: char| !c.is_ascii_digit());
        let mut numbers =
            numbers.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse().unwrap_or(0_u32));
        let mut next = || numbers.next().unwrap_or(0);
        self.implementation == Implementation::OpenZfs
            && match (next(), next(), next()) {
                (2, 2 | 3, patch) => patch >= 9,
                newer => newer >= (2, 4, 0),
            }
    }

    /// Asks `zfs` and `zpool`. Fails with [`crate::Error::NotInstalled`] where they are missing and [`crate::Error::NotRunning`] where the
    /// daemon or the module is.
    pub(crate) async fn probe() -> Result<Self> {
        let usage = command::zfs_said(&[]).await?;
        let pools = command::zpool(&["upgrade", "-v"]).await?;
        let version = match command::zfs(&["version"]).await {
            Ok(version) => version.lines().next().map(str::to_owned),
            Err(_) => None,
        };
        let properties = command::zfs_said(&["get"]).await?;
        Ok(Self::read(&usage, &properties, &pools, version))
    }

    fn read(usage: &str, properties: &str, pools: &str, version: Option<String>) -> Self {
        let pool_version =
            pools.lines().find_map(|line| Some(line.split_once("pool version ")?.1.trim_end_matches('.')));
        let implementation = match pool_version {
            Some(_) => Implementation::ZfsFuse,
            None => Implementation::OpenZfs,
        };
        let version = version.or_else(|| Some(format!("pool version {}", pool_version?)));
        Self {
            implementation,
            version: version.unwrap_or_else(|| "unknown".to_owned()),
            resume: has_flag(usage, "receive", 's') && has_flag(usage, "send", 't'),
            bookmarks: has_command(usage, "bookmark"),
            holds: has_command(usage, "hold") && has_command(usage, "release"),
            compressed: has_flag(usage, "send", 'c'),
            large_blocks: has_flag(usage, "send", 'L'),
            embedded: has_flag(usage, "send", 'e'),
            raw: has_flag(usage, "send", 'w'),
            dry_run: has_flag(usage, "send", 'n') && has_flag(usage, "send", 'P'),
            receive_unmounted: has_flag(usage, "receive", 'u'),
            receive_excluding: has_flag(usage, "receive", 'x'),
            mount_limits: has_command(properties, "devices") && has_command(properties, "setuid"),
            diff: has_command(usage, "diff"),
        }
    }
}

fn forms<'a>(usage: &'a str, command: &'a str) -> impl Iterator<Item = &'a str> {
    usage
        .lines()
        .filter_map(move |line| line.trim_start().strip_prefix(command))
        .filter(|rest| rest.starts_with([' ', '\t']))
}

fn has_command(usage: &str, command: &str) -> bool {
    forms(usage, command).next().is_some()
}

/// Whether any form of the command lists the flag, alone or in a group such as `[-DLPbcehnpsVvw]`.
fn has_flag(usage: &str, command: &str, flag: char) -> bool {
    let groups = |form: &str| {
        form.split(|c: char| c.is_whitespace() || "[]|".contains(c))
            .filter_map(|word| word.strip_prefix('-'))
            .any(|group| !group.starts_with('-') && group.contains(flag))
    };
    forms(usage, command).any(groups)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FUSE: &str = "\tsnapshot [-r] <filesystem@snapname>\n\tsend [-RDp] [-[iI] snapshot] <snapshot>\n\
        \treceive [-vnF] <filesystem|volume|snapshot>\n\treceive [-vnF] -d <filesystem>\n\
        \thold [-r] <tag> <snapshot> ...\n\tholds [-r] <snapshot> ...\n\trelease [-r] <tag> <snapshot> ...\n";
    const OPEN: &str = "\tsend [-DLPbcehnpsVvw] [-i|-I snapshot]\n\t     [-R [-X dataset[,dataset]...]]     <snapshot>\n\
        \tsend [-DnVvPLecw] [-i snapshot|bookmark] <filesystem|volume|snapshot>\n\tsend [-nVvPe] -t <receive_resume_token>\n\
        \treceive [-vMnsFhu] [-o <property>=<value>] ... [-x <property>] ... <filesystem>\n\treceive -A <filesystem|volume>\n\
        \tbookmark <snapshot|bookmark> <newbookmark>\n\tdiff [-FHth] <snapshot>\n\thold [-r] <tag> <snapshot> ...\n\
        \trelease [-r] <tag> <snapshot> ...\n";

    const PROPERTIES: &str = "\tcreation         NO       NO   <date>\n\tdevices         YES      YES   on | off\n\
        \tsetuid          YES      YES   on | off\n";

    #[test]
    fn zfs_fuse_is_recognised() {
        let pools = "This system is currently running ZFS pool version 23.\n";
        let features = Features::read(FUSE, PROPERTIES, pools, None);
        assert_eq!(features.implementation, Implementation::ZfsFuse);
        assert_eq!(features.version, "pool version 23");
        assert!(features.holds && features.mount_limits && !features.receive_excluding);
        assert!(
            !features.resume
                && !features.bookmarks
                && !features.compressed
                && !features.raw
                && !features.diff
        );
        assert!(
            !features.receive_unmounted && !features.dry_run && !features.embedded && !features.large_blocks
        );
    }

    #[test]
    fn versions_that_damage_encrypted_volumes_are_told_apart() {
        let safe = |version: &str| {
            Features::read(OPEN, "", "feature flags", Some(version.to_owned())).decrypts_safely()
        };
        for good in ["zfs-2.2.9-1", "zfs-2.3.10-1ubuntu2", "zfs-2.4.0-rc1", "zfs-kmod-3.0"] {
            assert!(safe(good), "{good}");
        }
        for bad in ["zfs-2.3.2-1", "zfs-2.2.8", "zfs-2.1.99", "zfs-0.8.6-1", "unknown", ""] {
            assert!(!safe(bad), "{bad}");
        }
    }

    #[test]
    fn openzfs_is_recognised() {
        let features = Features::read(
            OPEN,
            "",
            "This system supports ZFS pool feature flags.\n",
            Some("zfs-2.3.2-1".to_owned()),
        );
        assert_eq!(
            (features.implementation, features.version.as_str()),
            (Implementation::OpenZfs, "zfs-2.3.2-1")
        );
        assert!(
            features.resume
                && features.bookmarks
                && features.holds
                && features.compressed
                && features.large_blocks
        );
        assert!(
            features.embedded
                && features.raw
                && features.dry_run
                && features.receive_unmounted
                && features.receive_excluding
                && features.diff
                && !features.mount_limits
        );
    }
}
