use bytes::Bytes;
use futures_util::stream;
use tokio::sync::mpsc;
use uuid::Uuid;

use super::*;
use crate::docker::{Source, tests::TestTask};

fn frames(pieces: &[(Source, &[u8])]) -> impl Stream<Item = Result<Frame>> + use<> {
    let pieces: Vec<_> =
        pieces.iter().map(|(source, bytes)| (*source, Bytes::copy_from_slice(bytes))).collect();
    stream::iter(pieces.into_iter().map(|(source, bytes)| Ok(Frame { source, bytes })))
}

/// Takes what a pump sends as a hub would, and acknowledges it.
async fn store(messages: &mut mpsc::Receiver<v1::FromRunner>, log: &mut Vec<u8>, acked: &watch::Sender<u64>) {
    while let Some(v1::FromRunner { message: Some(Message::Log(chunk)) }) = messages.recv().await {
        assert!(chunk.data.len() <= CHUNK_BYTES);
        let offset = usize::try_from(chunk.offset).unwrap();
        assert!(offset <= log.len(), "bytes {} to {offset} were skipped", log.len());
        if log.len() < offset + chunk.data.len() {
            log.truncate(offset);
            log.extend_from_slice(&chunk.data);
        }
        acked.send_replace(log.len() as u64);
    }
}

/// Reads the frames to their end and returns when the stand-in for a hub has all of them.
async fn pump(mut pump: LogPump, pieces: &[(Source, &[u8])]) -> Log {
    loop {
        if pump.feed(frames(pieces)).await.unwrap() == Read::All
            && let Some(bytes) = pump.drain().await
        {
            return Log { found: pump.harvest.finish(), bytes, cut: pump.cut };
        }
    }
}

const RECORD: &[u8] = b"[[DOTSCIENCE-RUN:3f2c8a4e-0c7e-4f5b-9d1a-2b6f0f6f7a11]]{}[[/DOTSCIENCE-RUN:3f2c8a4e-0c7e-4f5b-9d1a-2b6f0f6f7a11]]\n";

#[tokio::test]
async fn both_outputs_are_sent_and_only_stdout_is_searched() {
    let hub = Hub::new("hub:1");
    let (opened, mut messages) = hub.open();
    opened.announce();
    let (acked, acks) = watch::channel(0);
    let (first, rest) = RECORD.split_at(30);
    let input: [(_, &[u8]); 4] = [
        (Source::Stdout, first),
        (Source::Stderr, b"a warning\n"),
        (Source::Stdout, rest),
        (Source::Stderr, RECORD),
    ];
    let pump = pump(LogPump::new(TaskId(Uuid::new_v4()), &hub, acks), &input);
    let mut log = Vec::new();
    let done = tokio::select! {
        done = pump => done,
        () = store(&mut messages, &mut log, &acked) => panic!("the pump is gone"),
    };
    assert_eq!(log, [first, b"a warning\n", rest, RECORD].concat());
    assert_eq!((done.bytes, done.found.records.len()), (log.len() as u64, 1));
    assert_eq!(done.found.records[0].json, b"{}");
}

#[tokio::test]
async fn a_restarted_runner_searches_all_and_sends_what_is_missing() {
    let hub = Hub::new("hub:1");
    let (opened, mut messages) = hub.open();
    opened.announce();
    let (acked, acks) = watch::channel(50);
    let pump = pump(LogPump::new(TaskId(Uuid::new_v4()), &hub, acks), &[(Source::Stdout, RECORD)]);
    let mut log = RECORD[..50].to_vec();
    let done = tokio::select! {
        done = pump => done,
        () = store(&mut messages, &mut log, &acked) => panic!("the pump is gone"),
    };
    assert_eq!((log.as_slice(), done.found.records.len()), (RECORD, 1));
}

#[tokio::test]
async fn a_hub_that_is_away_makes_the_reader_wait_and_loses_nothing() {
    let hub = Hub::new("hub:1");
    let (acked, acks) = watch::channel(0);
    let big: Vec<u8> = (0..3_000_000_u32).map(|i| u8::try_from(i % 251).unwrap()).collect();
    let pieces: Vec<_> = big.chunks(16_000).map(|piece| (Source::Stdout, piece)).collect();
    let pump = pump(LogPump::new(TaskId(Uuid::new_v4()), &hub, acks), &pieces);
    let mut log = Vec::new();
    let sessions = async {
        // A first session takes some chunks, of which it has stored a part when it breaks.
        let (opened, mut messages) = hub.open();
        opened.announce();
        for _ in 0..3 {
            let Some(v1::FromRunner { message: Some(Message::Log(chunk)) }) = messages.recv().await else {
                panic!()
            };
            log.extend_from_slice(&chunk.data);
        }
        log.truncate(100_000);
        drop((opened, messages));

        let (opened, mut messages) = hub.open();
        opened.announce();
        acked.send_replace(100_000);
        store(&mut messages, &mut log, &acked).await;
        drop(opened);
    };
    let done = tokio::select! {
        done = pump => done,
        () = sessions => panic!("the pump is gone"),
    };
    assert_eq!(done.bytes, 3_000_000);
    assert!(log == big);
}

#[tokio::test]
async fn a_hub_that_lost_some_of_the_log_gets_it_again() {
    let hub = Hub::new("hub:1");
    let (acked, acks) = watch::channel(0);
    let big: Vec<u8> = (0..3_000_000_u32).map(|i| u8::try_from(i % 251).unwrap()).collect();
    let pieces: Vec<_> = big.chunks(16_000).map(|piece| (Source::Stdout, piece)).collect();
    let pump = pump(LogPump::new(TaskId(Uuid::new_v4()), &hub, acks), &pieces);
    let (opened, mut messages) = hub.open();
    opened.announce();
    let mut log = Vec::new();
    let sessions = async {
        // Everything is acknowledged but the end; then the hub comes back with an old copy of its database.
        while log.len() < 2_900_000 {
            let message = messages.recv().await.unwrap().message;
            let Some(Message::Log(chunk)) = message else { panic!("{message:?}") };
            log.extend_from_slice(&chunk.data);
            acked.send_replace(log.len() as u64);
        }
        drop((opened, messages));
        log.truncate(70_000);
        acked.send_replace(70_000);
        let (opened, mut messages) = hub.open();
        opened.announce();
        store(&mut messages, &mut log, &acked).await;
        drop(opened);
    };
    let done = tokio::select! {
        done = pump => done,
        () = sessions => panic!("the pump is gone"),
    };
    assert_eq!(done.bytes, 3_000_000);
    assert!(log == big);
}

#[tokio::test]
async fn a_log_ends_at_its_limit() {
    let hub = Hub::new("hub:1");
    let (opened, mut messages) = hub.open();
    opened.announce();
    let (acked, acks) = watch::channel(0);
    let mut limited = LogPump::new(TaskId(Uuid::new_v4()), &hub, acks);
    limited.limit = 10;
    let input: [(_, &[u8]); 3] =
        [(Source::Stdout, b"hello "), (Source::Stderr, b"world\n"), (Source::Stdout, RECORD)];
    let mut log = Vec::new();
    let done = tokio::select! {
        done = pump(limited, &input) => done,
        () = store(&mut messages, &mut log, &acked) => panic!("the pump is gone"),
    };
    assert_eq!((log.as_slice(), done.bytes, done.cut), (&b"hello worl"[..], 10, true));
    assert!(done.found.records.is_empty());
}

#[tokio::test]
async fn a_long_log_is_noticed_though_the_hub_is_away() {
    let test = TestTask::started(&["sh", "-c", "head -c 100000 /dev/zero; echo; sleep 1000"]).await;
    let (docker, task) = (&test.docker, test.spec.task);
    longer_than(docker, task, 99_999, u64::MAX).await;
    longer_than(docker, task, u64::MAX, 100_100).await;
    // It is as long as it is allowed to be; Docker leaves the newline after so long a line out or not.
    let fits = longer_than(docker, task, 100_001, u64::MAX);
    assert!(tokio::time::timeout(Duration::from_millis(300), fits).await.is_err());
}

#[tokio::test]
async fn a_containers_log_is_read_while_it_runs_and_to_its_end() {
    let test =
        TestTask::started(&["sh", "-c", "echo one; while [ ! -e go ]; do sleep 0.1; done; echo two >&2"])
            .await;
    let (docker, task) = (test.docker.clone(), test.spec.task);
    let hub = Hub::new("hub:1");
    let (opened, mut messages) = hub.open();
    opened.announce();
    let (acked, acks) = watch::channel(0);
    let over = CancellationToken::new();
    let pump = LogPump::new(task, &hub, acks).run(&docker, &over);
    let mut log = Vec::new();
    let ended = async {
        docker.wait(task).await.unwrap();
        over.cancel();
    };
    let hub = async {
        // What is printed arrives while the command goes on.
        let Some(v1::FromRunner { message: Some(Message::Log(chunk)) }) = messages.recv().await else {
            panic!()
        };
        assert_eq!(chunk.data, "one\n");
        log.extend_from_slice(&chunk.data);
        acked.send_replace(4);
        std::fs::write(test.home.path().join("go"), "").unwrap();
        store(&mut messages, &mut log, &acked).await;
    };
    let done = tokio::select! {
        (done, ()) = async { tokio::join!(pump, ended) } => done.unwrap(),
        () = hub => panic!("the pump is gone"),
    };
    assert_eq!((log.as_slice(), done.bytes), (&b"one\ntwo\n"[..], 8));
}

#[tokio::test]
async fn a_removed_container_is_noticed() {
    let test = TestTask::started(&["sleep", "1000"]).await;
    let hub = Hub::new("hub:1");
    let (_acked, acks) = watch::channel(0);
    let pump = LogPump::new(test.spec.task, &hub, acks);
    test.docker.remove(test.spec.task).await.unwrap();
    let error = pump.run(&test.docker, &CancellationToken::new()).await.unwrap_err();
    assert!(matches!(error, Error::ContainerGone), "{error}");
}
