//! Bytes through real pipes.

#![expect(clippy::unwrap_used, reason = "tests; the lint's exception does not see helper functions")]

use std::{
    io::{self, ErrorKind, Read, Write},
    os::fd::OwnedFd,
    pin::pin,
    thread,
};

use bytes::Bytes;
use ds_blockio::{BlockReader, BlockWriter};
use proptest::prelude::*;
use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};
use tokio::runtime::{Builder, Runtime};

/// A pipe as `zfs` gets it: 1 MiB, blocking at both ends.
fn pipe() -> (OwnedFd, OwnedFd) {
    let (reading_end, writing_end) = pipe_with(PipeFlags::CLOEXEC).unwrap();
    fcntl_setpipe_size(&writing_end, 1 << 20).unwrap();
    (reading_end, writing_end)
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_io().build().unwrap()
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
        block_bytes in 1_000..3_000_000_usize,
    ) {
        let (reading_end, writing_end) = pipe();
        let source = Bytes::from(pattern(length));
        let (written, blocks) = runtime().block_on(async {
            let mut writer = BlockWriter::new(writing_end).unwrap();
            let mut reader = BlockReader::new(reading_end, block_bytes).unwrap();
            let write = async move {
                let mut left = source.clone();
                for piece in pieces.iter().cycle() {
                    if left.is_empty() {
                        break;
                    }
                    // A cycle of nothing but empty pieces would never end.
                    let mut piece = left.split_to((*piece).clamp(1_000, left.len().max(1_000)).min(left.len()));
                    writer.write(&mut piece).await?;
                    assert!(piece.is_empty());
                }
                Ok::<_, io::Error>(writer.written_bytes())
            };
            let (written, blocks) = tokio::join!(write, read_to_end(&mut reader));
            (written.unwrap(), blocks.unwrap())
        });
        prop_assert_eq!(written, length as u64);
        let full = blocks.len().saturating_sub(1);
        prop_assert!(blocks[..full].iter().all(|block| block.len() == block_bytes), "full but the last");
        prop_assert!(blocks.concat() == pattern(length), "the same bytes");
    }
}

#[test]
fn short_writes_fill_blocks() {
    let (reading_end, writing_end) = pipe();
    let writing = thread::spawn(move || {
        let mut pipe = std::fs::File::from(writing_end);
        pattern(100_000).chunks(777).for_each(|piece| pipe.write_all(piece).unwrap());
    });
    let blocks = runtime().block_on(async {
        let mut reader = BlockReader::new(reading_end, 30_000).unwrap();
        read_to_end(&mut reader).await.unwrap()
    });
    let lengths: Vec<_> = blocks.iter().map(Bytes::len).collect();
    assert_eq!(lengths, [30_000, 30_000, 30_000, 10_000]);
    assert!(blocks.concat() == pattern(100_000));
    writing.join().unwrap();
}

#[test]
fn the_end_is_said_once_and_stays() {
    let (reading_end, writing_end) = pipe();
    drop(writing_end);
    runtime().block_on(async {
        let mut reader = BlockReader::new(reading_end, 1000).unwrap();
        assert!(reader.next().await.is_none());
        assert!(reader.next().await.is_none());
    });
}

#[test]
fn a_reader_that_is_cancelled_goes_on_where_it_was() {
    let (reading_end, writing_end) = pipe();
    let mut writing_end = std::fs::File::from(writing_end);
    runtime().block_on(async {
        let mut reader = BlockReader::new(reading_end, 10).unwrap();
        writing_end.write_all(b"01234").unwrap();
        assert!(futures_poll(pin!(reader.next())).is_none(), "there is half a block");
        writing_end.write_all(b"56789").unwrap();
        assert_eq!(reader.next().await.unwrap().unwrap(), "0123456789");
    });
}

#[test]
fn a_writer_that_is_cancelled_goes_on_where_it_was() {
    let (reading_end, writing_end) = pipe();
    runtime().block_on(async {
        let mut writer = BlockWriter::new(writing_end).unwrap();
        let mut bytes = Bytes::from(pattern(3 << 20));
        assert!(futures_poll(pin!(writer.write(&mut bytes))).is_none(), "the pipe is full");
        assert_eq!(writer.written_bytes() + bytes.len() as u64, 3 << 20);
        let reading = thread::spawn(move || {
            let mut read = Vec::new();
            std::fs::File::from(reading_end).read_to_end(&mut read).unwrap();
            read
        });
        writer.write(&mut bytes).await.unwrap();
        drop(writer);
        assert!(reading.join().unwrap() == pattern(3 << 20));
    });
}

/// Polls until it waits for the pipe.
fn futures_poll<F: Future>(mut future: std::pin::Pin<&mut F>) -> Option<F::Output> {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match future.as_mut().poll(&mut context) {
        std::task::Poll::Ready(output) => Some(output),
        std::task::Poll::Pending => None,
    }
}

#[test]
fn a_reader_that_goes_away_breaks_the_pipe_of_its_writer() {
    let (reading_end, writing_end) = pipe();
    runtime().block_on(async {
        let mut writer = BlockWriter::new(writing_end).unwrap();
        let mut reader = BlockReader::new(reading_end, 1 << 16).unwrap();
        writer.write(&mut pattern(1 << 20).into()).await.unwrap();
        reader.next().await.unwrap().unwrap();
        drop(reader);
        for _ in 0..2 {
            let error = writer.write(&mut Bytes::from_static(b"x")).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::BrokenPipe);
        }
    });
}

#[test]
fn what_could_never_move_is_refused() {
    let (reading_end, _writing_end) = pipe();
    let runtime = runtime();
    let _inside = runtime.enter();
    assert_eq!(BlockReader::new(reading_end, 0).unwrap_err().kind(), ErrorKind::InvalidInput);
}
