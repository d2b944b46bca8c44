//! The names of what the store counts. Who installs a recorder sees them; without one they cost nothing.

use metrics::{Unit, counter, describe_counter, describe_gauge, gauge};

const BYTES: &str = "ds_store_transfer_bytes_total";
const TRANSFERS: &str = "ds_store_transfers_total";
const ACTIVE: &str = "ds_store_active_transfers";
const REQUESTS: &str = "ds_store_requests_total";

/// Which way bytes went.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Way {
    In,
    Out,
}

impl Way {
    fn label(self) -> &'static str {
        match self {
            Self::In => "in",
            Self::Out => "out",
        }
    }
}

/// Tells the recorder what the names mean.
pub(crate) fn describe() {
    describe_counter!(
        BYTES,
        Unit::Bytes,
        "Bytes of snapshot streams that arrived whole, by direction: in, out"
    );
    describe_counter!(
        TRANSFERS,
        "Transfers that ended, by direction and result: done, already, or what failed"
    );
    describe_gauge!(ACTIVE, "Transfers under way");
    describe_counter!(REQUESTS, "Requests of the hub, by result: done, failed");
}

pub(crate) fn transfer_ended(way: Way, result: &'static str, bytes: u64) {
    counter!(TRANSFERS, "direction" => way.label(), "result" => result).increment(1);
    counter!(BYTES, "direction" => way.label()).increment(bytes);
}

pub(crate) fn request_ended(result: &'static str) {
    counter!(REQUESTS, "result" => result).increment(1);
}

/// Counts a transfer as active until it is dropped.
pub(crate) struct Active;

impl Active {
    pub(crate) fn new() -> Self {
        gauge!(ACTIVE).increment(1);
        Self
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        gauge!(ACTIVE).decrement(1);
    }
}
