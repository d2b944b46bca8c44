//! Pipes into owned buffers and back: io_uring, or threads where that is refused.
