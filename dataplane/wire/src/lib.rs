//! The transfer protocol as pure state machines: chunks, order, windows, resume, verification.
