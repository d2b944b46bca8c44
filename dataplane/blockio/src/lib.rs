//! Pipes into pooled buffers and back, on the thread that asks.
//!
//! Whoever reads or writes a pipe does so between two other steps of a transfer, and finds the bytes in its core's cache, where
//! the next step wants them. Threads of their own, with `io_uring` or without, cost more than they bring (docs/decisions/0007).
//!
//! What this crate does not know: what the bytes mean, who is at the other end.

mod buffers;
mod pipe;

pub use buffers::{Buffer, Buffers};
pub use pipe::{BlockReader, BlockWriter};
