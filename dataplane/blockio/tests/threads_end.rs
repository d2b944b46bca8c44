//! No thread outlives its reader or writer. One test, so that no other starts threads in this process.

#![expect(clippy::unwrap_used, reason = "tests; the lint's exception does not see helper functions")]

use std::{fs, thread};

use bytes::Bytes;
use ds_blockio::BlockIo;
use rustix::pipe::{PipeFlags, pipe_with};
use tokio::runtime::Builder;

fn threads() -> usize {
    fs::read_dir("/proc/self/task").unwrap().count()
}

/// The kernel has no event for the end of a detached thread.
fn wait_for(before: usize, what: &str, io: BlockIo) {
    for _ in 0..1_000_000 {
        if threads() == before {
            return;
        }
        thread::yield_now();
    }
    panic!("{io:?}, {what}: a thread is left");
}

#[test]
fn threads_end_with_their_owners() {
    let before = threads();
    let detected = BlockIo::detect();
    wait_for(before, "probe", detected);
    let runtime = Builder::new_current_thread().build().unwrap();
    for io in [BlockIo::Threads, detected] {
        let (idle, idle_writer) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        let reader = io.reader(idle, 1 << 20, 2).unwrap();
        assert!(threads() > before);
        drop(reader);
        wait_for(before, "reader of an idle pipe", io);
        drop(idle_writer);

        let (busy, busy_writer) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        let mut writer = io.writer(busy_writer, 8).unwrap();
        let mut reader = io.reader(busy, 1000, 1).unwrap();
        runtime.block_on(async {
            writer.write(Bytes::from(vec![1; 1 << 20])).await.unwrap();
            reader.next().await.unwrap().unwrap();
        });
        // Its queue is full, since nobody takes the second block.
        drop(reader);
        drop(writer);
        wait_for(before, "reader with a full queue", io);

        let (full, full_writer) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        let mut writer = io.writer(full_writer, 8).unwrap();
        runtime.block_on(async { writer.write(Bytes::from(vec![1; 1 << 20])).await.unwrap() });
        drop(writer);
        wait_for(before, "writer to a full pipe", io);
        drop(full);

        let (_reading_end, quiet) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        drop(io.writer(quiet, 8).unwrap());
        wait_for(before, "writer with nothing to write", io);

        let (_reading_end, finished) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        runtime.block_on(io.writer(finished, 1).unwrap().finish()).unwrap();
        wait_for(before, "writer that finished", io);
    }
}
