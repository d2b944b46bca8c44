//! Both ways of moving bytes, over real pipes.

#![expect(clippy::unwrap_used, reason = "tests; the lint's exception does not see helper functions")]

use std::{
    io::{self, ErrorKind, Read, Write},
    os::fd::OwnedFd,
    thread,
};

use bytes::Bytes;
use ds_blockio::{BlockIo, BlockReader};
use proptest::prelude::*;
use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};
use tokio::runtime::{Builder, Runtime};

/// `io_uring` only where this machine allows it.
fn ways() -> Vec<BlockIo> {
    match BlockIo::detect() {
        BlockIo::Uring => vec![BlockIo::Threads, BlockIo::Uring],
        BlockIo::Threads => vec![BlockIo::Threads],
    }
}

/// A pipe as `zfs` gets it: 1 MiB, blocking at both ends.
fn pipe() -> (OwnedFd, OwnedFd) {
    let (reading_end, writing_end) = pipe_with(PipeFlags::CLOEXEC).unwrap();
    fcntl_setpipe_size(&writing_end, 1 << 20).unwrap();
    (reading_end, writing_end)
}

fn runtime() -> Runtime {
    Builder::new_current_thread().build().unwrap()
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at.wrapping_mul(2_654_435_761) >> 13).to_le_bytes()[0]).collect()
}

async fn read_to_end(reader: &mut BlockReader) -> io::Result<Vec<Bytes>> {
    let mut blocks = Vec::new();
    while let Some(block) = reader.next().await {
        blocks.push(block?);
    }
    Ok(blocks)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn what_is_written_is_read(
        length in 0..6_000_000_usize,
        pieces in prop::collection::vec(0..2_000_000_usize, 1..20),
        buffer_bytes in 1_000..3_000_000_usize,
        depth in 1..5_usize,
    ) {
        for io in ways() {
            let (reading_end, writing_end) = pipe();
            let source = Bytes::from(pattern(length));
            let (written, blocks) = runtime().block_on(async {
                let mut writer = io.writer(writing_end, depth).unwrap();
                let mut reader = io.reader(reading_end, buffer_bytes, depth).unwrap();
                let write = async {
                    let mut left = source.clone();
                    for piece in pieces.iter().cycle() {
                        if left.is_empty() {
                            break;
                        }
                        // A cycle of nothing but empty pieces would never end.
                        writer.write(left.split_to((*piece).clamp(1_000, left.len().max(1_000)).min(left.len()))).await?;
                    }
                    writer.finish().await
                };
                let (written, blocks) = tokio::join!(write, read_to_end(&mut reader));
                (written.unwrap(), blocks.unwrap())
            });
            prop_assert_eq!(written, length as u64);
            let full = blocks.len().saturating_sub(1);
            prop_assert!(blocks[..full].iter().all(|block| block.len() == buffer_bytes), "full but the last");
            prop_assert!(blocks.concat() == source, "the same bytes");
        }
    }
}

#[test]
fn short_writes_fill_buffers() {
    for io in ways() {
        let (reading_end, writing_end) = pipe();
        let writing = thread::spawn(move || {
            let mut pipe = std::fs::File::from(writing_end);
            pattern(100_000).chunks(777).for_each(|piece| pipe.write_all(piece).unwrap());
        });
        let mut reader = io.reader(reading_end, 30_000, 2).unwrap();
        let blocks = runtime().block_on(read_to_end(&mut reader)).unwrap();
        let lengths: Vec<_> = blocks.iter().map(Bytes::len).collect();
        assert_eq!(lengths, [30_000, 30_000, 30_000, 10_000], "{io:?}");
        assert!(blocks.concat() == pattern(100_000));
        writing.join().unwrap();
    }
}

#[test]
fn regular_files_work_as_well() {
    for io in ways() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("block");
        runtime().block_on(async {
            let mut writer = io.writer(std::fs::File::create(&path).unwrap().into(), 2).unwrap();
            for piece in pattern(500_000).chunks(123_456) {
                writer.write(Bytes::copy_from_slice(piece)).await.unwrap();
            }
            assert_eq!(writer.finish().await.unwrap(), 500_000);
            let mut reader = io.reader(std::fs::File::open(&path).unwrap().into(), 1 << 16, 2).unwrap();
            assert!(read_to_end(&mut reader).await.unwrap().concat() == pattern(500_000), "{io:?}");
        });
    }
}

#[test]
fn the_end_is_said_once_and_stays() {
    for io in ways() {
        let (reading_end, writing_end) = pipe();
        drop(writing_end);
        let mut reader = io.reader(reading_end, 1000, 1).unwrap();
        runtime().block_on(async {
            assert!(reader.next().await.is_none(), "{io:?}");
            assert!(reader.next().await.is_none());
        });
    }
}

#[test]
fn a_reader_that_goes_away_breaks_the_pipe_of_its_writer() {
    for io in ways() {
        let (reading_end, writing_end) = pipe();
        runtime().block_on(async {
            let mut writer = io.writer(writing_end, 2).unwrap();
            let mut reader = io.reader(reading_end, 1 << 16, 1).unwrap();
            writer.write(pattern(1 << 20).into()).await.unwrap();
            reader.next().await.unwrap().unwrap();
            drop(reader);
            let error = loop {
                if let Err(error) = writer.write(pattern(1 << 20).into()).await {
                    break error;
                }
            };
            assert_eq!(error.kind(), ErrorKind::BrokenPipe, "{io:?}");
            let again = writer.write(Bytes::from_static(b"x")).await.unwrap_err();
            assert_eq!(again.kind(), ErrorKind::BrokenPipe);
            assert_eq!(writer.finish().await.unwrap_err().kind(), ErrorKind::BrokenPipe);
        });
    }
}

#[test]
fn a_broken_pipe_is_seen_at_the_end_as_well() {
    for io in ways() {
        let (reading_end, writing_end) = pipe();
        drop(reading_end);
        runtime().block_on(async {
            let mut writer = io.writer(writing_end, 2).unwrap();
            writer.write(Bytes::from_static(b"lost")).await.unwrap();
            assert_eq!(writer.finish().await.unwrap_err().kind(), ErrorKind::BrokenPipe, "{io:?}");
        });
    }
}

#[test]
fn a_full_queue_makes_the_writer_wait() {
    for io in ways() {
        let (reading_end, writing_end) = pipe();
        runtime().block_on(async {
            let mut writer = io.writer(writing_end, 1).unwrap();
            let mut written = writer.written();
            let block = Bytes::from(pattern(1 << 20));
            writer.write(block.clone()).await.unwrap();
            written.wait_for(|total| *total == 1 << 20).await.unwrap();
            // The pipe is full. One block is with the thread, one in the queue; a third has no place.
            writer.write(block.clone()).await.unwrap();
            writer.write(block.clone()).await.unwrap();
            let mut third = Box::pin(writer.write(block.clone()));
            assert!(poll_once(third.as_mut()).is_none(), "{io:?}: it waits");
            let reading = thread::spawn(move || {
                let mut bytes = Vec::new();
                std::fs::File::from(reading_end).read_to_end(&mut bytes).unwrap();
                bytes.len()
            });
            third.as_mut().await.unwrap();
            drop(third);
            assert_eq!(writer.finish().await.unwrap(), 4 << 20);
            assert_eq!(reading.join().unwrap(), 4 << 20);
        });
    }
}

/// Polls once.
fn poll_once<F: Future>(future: std::pin::Pin<&mut F>) -> Option<F::Output> {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match future.poll(&mut context) {
        std::task::Poll::Ready(output) => Some(output),
        std::task::Poll::Pending => None,
    }
}

#[test]
fn a_writer_that_is_dropped_writes_no_more() {
    for io in ways() {
        let (reading_end, writing_end) = pipe();
        runtime().block_on(async {
            let mut writer = io.writer(writing_end, 4).unwrap();
            let mut written = writer.written();
            let block = Bytes::from(pattern(1 << 20));
            for _ in 0..4 {
                writer.write(block.clone()).await.unwrap();
            }
            written.wait_for(|total| *total >= 1 << 20).await.unwrap();
            drop(writer);
            // The thread's end closes it.
            while written.changed().await.is_ok() {}
            assert_eq!(*written.borrow(), 1 << 20, "{io:?}");
        });
        let mut bytes = Vec::new();
        std::fs::File::from(reading_end).read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes.len(), 1 << 20);
    }
}

#[test]
fn a_descriptor_that_cannot_be_read_is_an_error() {
    for io in ways() {
        let folder = std::fs::File::open("/").unwrap();
        let mut reader = io.reader(folder.into(), 1000, 1).unwrap();
        runtime().block_on(async {
            assert!(reader.next().await.unwrap().is_err(), "{io:?}");
            assert!(reader.next().await.is_none());
        });
    }
}

#[test]
fn nothing_that_could_never_move_is_started() {
    let (reading_end, writing_end) = pipe();
    let refused = BlockIo::threads().reader(reading_end, 0, 1).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::InvalidInput);
    assert_eq!(BlockIo::threads().writer(writing_end, 0).unwrap_err().kind(), ErrorKind::InvalidInput);
}
