//! Where a receive broke off, in ZFS's own words. Pure.

use ds_domain::ids::SnapshotId;

use crate::{SendFlags, SendPlan, SnapshotGuid, StreamMode, names::parse_snapshot};

/// A token holds a few numbers and a name; those of ZFS are a few hundred bytes long.
const LONGEST_TOKEN: usize = 4096;

/// A half-received snapshot, and how to go on with it: the property `receive_resume_token`, with what it names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResumeToken {
    text: String,
    /// The snapshot that is being received.
    pub to: SnapshotGuid,
    /// What its stream starts from; `None` for a full one.
    pub from: Option<SnapshotGuid>,
    /// The snapshot's full name at the sender when it was first sent.
    pub to_name: String,
    /// The object that comes next, and the offset within it.
    pub object: u64,
    /// See `object`.
    pub offset: u64,
    /// Bytes of the stream that need not be sent again.
    pub bytes: u64,
    /// How blocks travel: no flag that its sender was not told, but some may be missing of which the snapshot has no use.
    pub mode: StreamMode,
}

impl ResumeToken {
    /// Whether a text may be a token at all, and no option of a program.
    pub(crate) fn is_well_formed(text: &str) -> bool {
        let hex = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_hexdigit());
        text.len() <= LONGEST_TOKEN && text.split('-').count() == 4 && text.split('-').all(hex)
    }

    /// Reads what `zfs send -nvt` says of a token; `None` if that does not name a snapshot.
    pub fn parse(text: &str, said: &str) -> Option<Self> {
        let value = |wanted: &str| {
            let pairs = said.lines().filter_map(|line| line.trim().split_once(" = "));
            pairs.into_iter().find(|(name, _)| *name == wanted).map(|(_, value)| value)
        };
        let number = |wanted: &str| {
            let value = value(wanted)?;
            value.strip_prefix("0x").map_or_else(|| value.parse(), |hex| u64::from_str_radix(hex, 16)).ok()
        };
        let mode = if value("rawok").is_some() {
            StreamMode::Raw
        } else {
            StreamMode::Decrypted(SendFlags {
                large_blocks: value("largeblockok").is_some(),
                compressed: value("compressok").is_some(),
                embedded: value("embedok").is_some(),
            })
        };
        Some(Self {
            text: text.to_owned(),
            to: SnapshotGuid(number("toguid")?),
            from: number("fromguid").filter(|guid| *guid != 0).map(SnapshotGuid),
            to_name: value("toname")?.to_owned(),
            object: number("object")?,
            offset: number("offset")?,
            bytes: number("bytes")?,
            mode,
        })
    }

    /// The token, for the sender.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The id of the snapshot, if its name has one.
    pub fn snapshot(&self) -> Option<SnapshotId> {
        parse_snapshot(&self.to_name).map(|(_, snapshot)| snapshot)
    }

    /// Whether it goes on with what the plan begins.
    pub(crate) fn fits(&self, plan: &SendPlan) -> bool {
        let base = plan.kind.base().map(|base| base.guid);
        let mode = match (self.mode, plan.mode) {
            (StreamMode::Decrypted(of), StreamMode::Decrypted(may)) => {
                (may.large_blocks || !of.large_blocks)
                    && (may.compressed || !of.compressed)
                    && (may.embedded || !of.embedded)
            }
            (of, planned) => of == planned,
        };
        mode && (self.to, self.from) == (plan.guid, base)
    }
}

#[cfg(test)]
mod tests {
    use ds_domain::ids::VolumeId;
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;
    use crate::{Base, StreamKind};

    const TOKEN: &str = "1-bfa57e96b-e0-789c636064";
    const SAID: &str = "resume token contents:\nnvlist version: 0\n\tfromguid = 0xfd1e519554e8a62b\n\tobject = 0x2\n\
        \toffset = 0x1c0000\n\tbytes = 0x1e1910\n\ttoguid = 0xde24733d1cf62e0d\n\
        \ttoname = tank/store/v/00000000000000000000000000000001@00000000000000000000000000000002\n\
        \tlargeblockok = 1\n\tcompressok = 1\nsend from a to b estimated size is 646K\n";

    fn token() -> ResumeToken {
        ResumeToken::parse(TOKEN, SAID).unwrap()
    }

    fn plan() -> SendPlan {
        let id = |n| SnapshotId(Uuid::from_u128(n));
        let base = Base { snapshot: id(1), guid: SnapshotGuid(0xfd1e_5195_54e8_a62b) };
        let flags = SendFlags { large_blocks: true, compressed: true, embedded: true };
        SendPlan {
            volume: VolumeId(Uuid::from_u128(1)),
            snapshot: id(2),
            guid: SnapshotGuid(0xde24_733d_1cf6_2e0d),
            kind: StreamKind::Incremental(base),
            mode: StreamMode::Decrypted(flags),
        }
    }

    #[test]
    fn what_zfs_says_of_a_token_is_read() {
        let token = token();
        assert_eq!((token.object, token.offset, token.bytes), (2, 0x1c_0000, 0x1e_1910));
        assert_eq!(token.snapshot(), Some(SnapshotId(Uuid::from_u128(2))));
        assert_eq!((token.as_str(), token.mode.to_string().as_str()), (TOKEN, "Lc"));
        let full = SAID.replace("\tfromguid = 0xfd1e519554e8a62b\n", "").replace("compressok", "rawok");
        let full = ResumeToken::parse(TOKEN, &full).unwrap();
        assert_eq!((full.from, full.mode), (None, StreamMode::Raw));
        assert_eq!(ResumeToken::parse(TOKEN, "cannot resume send: resume token is corrupt\n"), None);
    }

    #[test]
    fn a_token_fits_its_plan_alone() {
        let (token, plan) = (token(), plan());
        assert!(token.fits(&plan), "the snapshot has no use for embedded blocks");
        assert!(!token.fits(&SendPlan { guid: SnapshotGuid(1), ..plan }));
        assert!(!token.fits(&SendPlan { kind: StreamKind::Full, ..plan }));
        assert!(!token.fits(&plan.with_mode(StreamMode::PLAIN)));
        assert!(!token.fits(&plan.with_mode(StreamMode::Raw)));
    }

    proptest! {
        #[test]
        fn no_words_make_it_panic(said in "(\t(toguid|fromguid|object|offset|bytes|toname|rawok) = (0x)?[0-9a-f]{0,17}\n|.{0,20}\n){0,9}") {
            let _ = ResumeToken::parse(TOKEN, &said);
        }

        #[test]
        fn only_tokens_are_handed_to_zfs(text in "-?[1t]-[0-9a-f]{1,9}-[0-9a-f]{1,3}-[0-9a-f]{1,90}|.{0,30}") {
            if ResumeToken::is_well_formed(&text) {
                prop_assert!(text.starts_with(|c: char| c.is_ascii_hexdigit()));
                prop_assert!(text.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-'));
            }
        }
    }
}
