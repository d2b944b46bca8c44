use ds_domain::ids::NodeId;
use ds_link::Role;
use ds_zfs::{Implementation, SendFlags};
use proptest::prelude::*;
use uuid::Uuid;

use super::*;

const ALL: StreamMode =
    StreamMode::Decrypted(SendFlags { large_blocks: true, compressed: true, embedded: true });

fn id(n: u128) -> SnapshotId {
    SnapshotId(Uuid::from_u128(n))
}

fn peer() -> Peer {
    Peer { role: Role::Store, node: NodeId(Uuid::from_u128(9)) }
}

fn base() -> Base {
    Base { snapshot: id(1), guid: SnapshotGuid(1) }
}

fn plan(kind: StreamKind) -> SendPlan {
    let volume = VolumeId(Uuid::from_u128(7));
    SendPlan { volume, snapshot: id(2), guid: SnapshotGuid(2), kind, mode: StreamMode::PLAIN }
}

fn features(implementation: Implementation) -> Features {
    let open = implementation == Implementation::OpenZfs;
    Features {
        implementation,
        version: if open { "zfs-2.3.2-1" } else { "pool version 23" }.to_owned(),
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

fn open() -> Features {
    features(Implementation::OpenZfs)
}

fn fuse() -> Features {
    features(Implementation::ZfsFuse)
}

/// A receiver whose base came in this mode.
fn reception(of: &Features, mode: Option<StreamMode>) -> Reception {
    let have = Have { snapshot: id(1), guid: SnapshotGuid(1), tip: true, mode };
    Reception { have: vec![have], streams: of.streams(), token: None }
}

fn mode(
    kind: StreamKind,
    ours: Option<StreamMode>,
    from: &Features,
    to: &Reception,
) -> std::result::Result<StreamMode, NoMode> {
    agree(plan(kind), (Encryption::Off, ours), from, to).map(|plan| plan.mode)
}

#[test]
fn a_chain_goes_on_in_the_mode_of_either_end() {
    for kind in [StreamKind::Incremental(base()), StreamKind::Clone(base())] {
        let follow = |ours, theirs| mode(kind, ours, &open(), &reception(&open(), theirs));
        assert_eq!(follow(None, None), Ok(ALL));
        assert_eq!(follow(Some(StreamMode::PLAIN), None), Ok(StreamMode::PLAIN));
        assert_eq!(follow(None, Some(StreamMode::PLAIN)), Ok(StreamMode::PLAIN));
        assert_eq!(follow(Some(StreamMode::Raw), Some(StreamMode::Raw)), Ok(StreamMode::Raw));
        let diverged = NoMode::Diverged { sender: ALL, receiver: StreamMode::PLAIN };
        assert_eq!(follow(Some(ALL), Some(StreamMode::PLAIN)), Err(diverged));
    }
}

#[test]
fn a_machine_that_cannot_go_on_is_named() {
    let to = reception(&fuse(), None);
    let follow = |ours| mode(StreamKind::Incremental(base()), ours, &open(), &to);
    assert_eq!(follow(None), Ok(StreamMode::PLAIN));
    let unable = NoMode::Chain { mode: ALL, version: "pool version 23".to_owned() };
    assert_eq!(follow(Some(ALL)), Err(unable));
}

#[test]
fn a_full_stream_keeps_its_senders_mode_where_it_can() {
    let full = |ours, to: &Features| mode(StreamKind::Full, ours, &open(), &reception(to, Some(ALL)));
    assert_eq!(full(None, &open()), Ok(ALL));
    assert_eq!(full(Some(StreamMode::PLAIN), &open()), Ok(StreamMode::PLAIN));
    assert_eq!(full(Some(ALL), &fuse()), Ok(StreamMode::PLAIN));
}

#[test]
fn what_is_encrypted_goes_raw() {
    let agreed =
        |to: &Features| agree(plan(StreamKind::Full), (Encryption::On, None), &open(), &reception(to, None));
    assert_eq!(agreed(&open()).map(|plan| plan.mode), Ok(StreamMode::Raw));
    assert!(matches!(agreed(&fuse()), Err(NoMode::UnsafeDecryption { .. })));
}

#[test]
fn an_end_that_says_nothing_knows_plain_streams() {
    let nothing = Reception::from_proto(peer(), None).unwrap();
    assert_eq!(mode(StreamKind::Full, None, &open(), &nothing), Ok(StreamMode::PLAIN));
    let wrong = v1::Have { mode: "cL".to_owned(), snapshot: id(1).to_bytes(), ..v1::Have::default() };
    let wrong = v1::Reception { have: vec![wrong], ..v1::Reception::default() };
    assert!(matches!(Reception::from_proto(peer(), Some(&wrong)), Err(Error::Protocol { .. })));
}

fn any_mode() -> impl Strategy<Value = StreamMode> {
    prop_oneof![
        Just(StreamMode::Raw),
        any::<[bool; 3]>().prop_map(|[large_blocks, compressed, embedded]| {
            StreamMode::Decrypted(SendFlags { large_blocks, compressed, embedded })
        })
    ]
}

proptest! {
    #[test]
    fn plans_are_read_back(mode in any_mode(), kind in 0..3_u8, resumed: bool, estimate: Option<u32>) {
        let kind = [StreamKind::Full, StreamKind::Incremental(base()), StreamKind::Clone(base())][usize::from(kind)];
        let plan = plan(kind).with_mode(mode);
        let start = if resumed { Start::Resumed } else { Start::Anew };
        let said = to_proto(&plan, start, estimate.map(u64::from));
        let read = from_proto(peer(), (plan.volume, plan.snapshot), &said).unwrap();
        prop_assert_eq!(read, (plan, start));
    }

    #[test]
    fn receptions_are_read_back(
        modes in prop::collection::vec(prop::option::of(any_mode()), 0..5),
        token in prop::option::of("[0-9a-f-]{1,20}"),
    ) {
        let have = modes.iter().zip(1..).map(|(mode, n)| Have {
            snapshot: id(n.into()),
            guid: SnapshotGuid(n),
            tip: n == 1,
            mode: *mode,
        });
        let reception = Reception { have: have.collect(), streams: open().streams(), token };
        prop_assert_eq!(Reception::from_proto(peer(), Some(&reception.to_proto())).unwrap(), reception);
    }
}
