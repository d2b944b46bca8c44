//! How blocks travel in a stream, and which ways two machines have in common. Pure.
//!
//! A filesystem that was received with some flags is only ever continued with the same: a change of `-L` within a chain has made
//! files of zeros, and one from raw to decrypted, or back, cannot be received. So a received filesystem carries its mode in the
//! property [`MODE_PROPERTY`], clones of it inherit that, and both ends refuse a plan that says otherwise.

use std::{fmt, str::FromStr};

use crate::{Features, Implementation, StreamFeatures, StreamSupport};

/// The user property in which a filesystem's [`StreamMode`] is remembered.
pub const MODE_PROPERTY: &str = "dotstream:stream";

/// The flags of `zfs send` that change how decrypted blocks travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SendFlags {
    /// `-L`: blocks of more than 128 KiB in one piece.
    pub large_blocks: bool,
    /// `-c`: compressed as they lie on disk.
    pub compressed: bool,
    /// `-e`: tiny ones within their block pointers.
    pub embedded: bool,
}

/// How blocks travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamMode {
    /// As their content, decrypted where they are encrypted.
    Decrypted(SendFlags),
    /// As they lie on disk, encrypted (`-w`): the receiver needs no key, and cannot read them.
    Raw,
}

/// Whether a filesystem is encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encryption {
    /// It is not.
    Off,
    /// It is.
    On,
}

/// Why two machines have no mode in common.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoMode {
    /// What the chain goes on with, one of the two cannot do.
    #[error(
        "its chain goes on with {mode}, which {version} cannot do: update that machine, or send it in full to a new volume"
    )]
    Chain {
        /// The chain's.
        mode: StreamMode,
        /// Of the ZFS that cannot.
        version: String,
    },
    /// What it goes on from came to the two ends in two modes.
    #[error(
        "it came to the sender as {sender} and to the receiver as {receiver}: send it in full to a new volume"
    )]
    Diverged {
        /// How it came to the sender.
        sender: StreamMode,
        /// How its base came to the receiver.
        receiver: StreamMode,
    },
    /// It can only be decrypted, and must not be here.
    #[error(
        "{version} damages encrypted volumes when it sends them decrypted: update it to OpenZFS 2.2.9, 2.3.9, 2.4 or newer, \
        or receive on a machine that knows raw streams"
    )]
    UnsafeDecryption {
        /// The sender's.
        version: String,
    },
}

/// A text that names no mode.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no mode of a stream: expected plain, raw, or letters of L, c and e in this order")]
pub struct InvalidMode(String);

impl StreamMode {
    /// No flags: what every ZFS understands.
    pub const PLAIN: Self =
        Self::Decrypted(SendFlags { large_blocks: false, compressed: false, embedded: false });

    /// The mode for a new chain, or the `chain`'s: raw where the source is encrypted and both ends can, else with each flag
    /// that both ends know.
    pub fn negotiate(
        encryption: Encryption,
        chain: Option<Self>,
        sender: &Features,
        receiver: &StreamSupport,
    ) -> Result<Self, NoMode> {
        let mode = match chain {
            Some(mode) => {
                let ends = [&sender.streams(), receiver];
                if let Some(unable) = ends.into_iter().find(|end| !mode.is_known_to(end)) {
                    return Err(NoMode::Chain { mode, version: unable.version.clone() });
                }
                mode
            }
            None if encryption == Encryption::On && sender.raw && receiver.raw => Self::Raw,
            None => Self::Decrypted(SendFlags {
                large_blocks: sender.large_blocks && receiver.large_blocks,
                compressed: sender.compressed && receiver.compressed,
                embedded: sender.embedded && receiver.embedded,
            }),
        };
        mode.check_decryption(encryption, sender)?;
        Ok(mode)
    }

    /// Whether this machine's ZFS can send and receive so.
    pub fn is_known_to(self, support: &StreamSupport) -> bool {
        match self {
            Self::Raw => support.raw,
            Self::Decrypted(flags) => {
                (support.large_blocks || !flags.large_blocks)
                    && (support.compressed || !flags.compressed)
                    && (support.embedded || !flags.embedded)
            }
        }
    }

    /// Refuses to decrypt where that damages the volume (see [`Features::decrypts_safely`]).
    pub(crate) fn check_decryption(self, encryption: Encryption, sender: &Features) -> Result<(), NoMode> {
        if encryption == Encryption::On && self != Self::Raw && !sender.decrypts_safely() {
            return Err(NoMode::UnsafeDecryption { version: sender.version.clone() });
        }
        Ok(())
    }

    /// What `zfs send` is told.
    pub(crate) fn arguments(self) -> impl Iterator<Item = &'static str> {
        let flags = match self {
            Self::Raw => [Some("-w"), None, None],
            Self::Decrypted(SendFlags { large_blocks, compressed, embedded }) => {
                [large_blocks.then_some("-L"), compressed.then_some("-c"), embedded.then_some("-e")]
            }
        };
        flags.into_iter().flatten()
    }

    /// What a stream in this mode may need, and `here` knows.
    pub(crate) fn stream_features(self, here: Implementation) -> StreamFeatures {
        type Needs = StreamFeatures;
        let always = match here {
            Implementation::ZfsFuse => return Needs::SPILL,
            Implementation::OpenZfs => Needs::SPILL | Needs::LARGE_DNODES | Needs::LONG_NAMES,
        };
        let (large, algorithms) = (Needs::LARGE_BLOCKS | Needs::LARGE_MICROZAP, Needs::LZ4 | Needs::ZSTD);
        let (compressed, embedded) = (Needs::COMPRESSED | algorithms, Needs::EMBEDDED | algorithms);
        match self {
            Self::Raw => always | large | compressed | embedded | Needs::RAW,
            Self::Decrypted(flags) => {
                let each =
                    [(flags.large_blocks, large), (flags.compressed, compressed), (flags.embedded, embedded)];
                each.into_iter().filter(|(set, _)| *set).fold(always, |all, (_, needs)| all | needs)
            }
        }
    }
}

/// `plain`, `raw`, or letters such as `Lce`; [`StreamMode::from_str`] reads it.
impl fmt::Display for StreamMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Raw => f.write_str("raw"),
            Self::PLAIN => f.write_str("plain"),
            Self::Decrypted(_) => {
                self.arguments().try_for_each(|flag| f.write_str(flag.trim_start_matches('-')))
            }
        }
    }
}

impl FromStr for StreamMode {
    type Err = InvalidMode;

    fn from_str(text: &str) -> Result<Self, InvalidMode> {
        let letters = text.strip_prefix("plain").unwrap_or(text);
        let flags = SendFlags {
            large_blocks: letters.contains('L'),
            compressed: letters.contains('c'),
            embedded: letters.contains('e'),
        };
        let modes = [Self::Raw, Self::Decrypted(flags)];
        modes.into_iter().find(|mode| mode.to_string() == text).ok_or_else(|| InvalidMode(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn features(version: &str) -> Features {
        let implementation =
            if version == "pool version 23" { Implementation::ZfsFuse } else { Implementation::OpenZfs };
        let open = implementation == Implementation::OpenZfs;
        Features {
            implementation,
            version: version.to_owned(),
            resume: open,
            bookmarks: open,
            holds: true,
            compressed: open,
            large_blocks: open,
            embedded: open,
            raw: open,
            dry_run: open,
            receive_unmounted: open,
            receive_excluding: open,
            mount_limits: true,
            diff: open,
        }
    }

    const ALL: StreamMode =
        StreamMode::Decrypted(SendFlags { large_blocks: true, compressed: true, embedded: true });

    #[test]
    fn a_new_chain_uses_what_both_ends_know() {
        let [open, fuse] = ["zfs-2.3.2-1", "pool version 23"].map(features);
        let agree =
            |encryption, one, two: &Features| StreamMode::negotiate(encryption, None, one, &two.streams());
        assert_eq!(agree(Encryption::Off, &open, &open), Ok(ALL));
        assert_eq!(agree(Encryption::Off, &open, &fuse), Ok(StreamMode::PLAIN));
        assert_eq!(agree(Encryption::Off, &fuse, &open), Ok(StreamMode::PLAIN));
        assert_eq!(agree(Encryption::On, &open, &open), Ok(StreamMode::Raw));
        let unsafe_send = NoMode::UnsafeDecryption { version: "zfs-2.3.2-1".to_owned() };
        assert_eq!(agree(Encryption::On, &open, &fuse), Err(unsafe_send));
        assert_eq!(agree(Encryption::On, &features("zfs-2.3.9-1"), &fuse), Ok(StreamMode::PLAIN));
    }

    #[test]
    fn a_chain_keeps_its_mode_or_ends() {
        let [open, fuse] = ["zfs-2.3.2-1", "pool version 23"].map(features);
        let follow =
            |chain, to: &Features| StreamMode::negotiate(Encryption::Off, Some(chain), &open, &to.streams());
        assert_eq!(follow(StreamMode::PLAIN, &open), Ok(StreamMode::PLAIN), "no flag is added");
        let error = follow(ALL, &fuse).unwrap_err();
        assert!(matches!(&error, NoMode::Chain { version, .. } if version == "pool version 23"), "{error}");
        let decrypted = StreamMode::negotiate(Encryption::On, Some(ALL), &open, &open.streams());
        assert!(matches!(decrypted, Err(NoMode::UnsafeDecryption { .. })));
    }

    proptest! {
        #[test]
        fn modes_are_read_back(large_blocks: bool, compressed: bool, embedded: bool) {
            for mode in [StreamMode::Raw, StreamMode::Decrypted(SendFlags { large_blocks, compressed, embedded })] {
                prop_assert_eq!(mode.to_string().parse(), Ok(mode));
            }
        }

        #[test]
        fn a_text_is_a_mode_only_if_a_mode_is_written_so(text in "plain|raw|[Lcew]{0,4}|.{0,9}") {
            if let Ok(mode) = text.parse::<StreamMode>() {
                prop_assert_eq!(mode.to_string(), text);
            }
        }
    }
}
