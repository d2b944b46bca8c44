//! One authenticated QUIC connection between two nodes: stream kinds, framing, identity.
