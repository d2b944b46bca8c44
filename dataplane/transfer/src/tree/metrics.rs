//! What a sync counts. Who installs a recorder sees it; without one it costs nothing.

use std::time::{SystemTime, UNIX_EPOCH};

use metrics::{Unit, counter, describe_counter, describe_gauge, gauge};

use super::{Report, sync::Event};

const BYTES: &str = "ds_sync_bytes_total";
const STREAMS: &str = "ds_sync_streams_total";
const ACTIVE: &str = "ds_sync_active_streams";
const ROUNDS: &str = "ds_sync_rounds_total";
const LAST: &str = "ds_sync_last_success_timestamp_seconds";
const BEHIND: &str = "ds_sync_datasets_behind";
const DESTROYED: &str = "ds_sync_snapshots_destroyed_total";

/// Tells the recorder what the names mean.
pub(super) fn describe() {
    describe_counter!(BYTES, Unit::Bytes, "Bytes of snapshot streams that arrived whole");
    describe_counter!(STREAMS, "Streams that ended, by result: done, failed");
    describe_gauge!(ACTIVE, "Streams under way");
    describe_counter!(ROUNDS, "Rounds that ended, by result: done, failed (also if only a part did)");
    describe_gauge!(LAST, Unit::Seconds, "When a round last brought all that was missing");
    describe_gauge!(BEHIND, "Datasets that are not up to date after the last round, over all targets");
    describe_counter!(DESTROYED, "Snapshots that the retention grids let go");
}

/// Counts an event.
pub(super) fn note(event: &Event) {
    match event {
        Event::Began { .. } => gauge!(ACTIVE).increment(1),
        Event::Moved { .. } => {}
        Event::Arrived { bytes, .. } => {
            gauge!(ACTIVE).decrement(1);
            counter!(STREAMS, "result" => "done").increment(1);
            counter!(BYTES).increment(*bytes);
        }
        Event::Failed { .. } => {
            gauge!(ACTIVE).decrement(1);
            counter!(STREAMS, "result" => "failed").increment(1);
        }
    }
}

/// Counts a round.
pub(super) fn note_round(report: &Report) {
    let datasets = report.targets.iter().flat_map(|target| &target.datasets);
    let behind =
        u32::try_from(datasets.filter(|dataset| dataset.error.is_some()).count()).unwrap_or(u32::MAX);
    let whole = behind == 0 && report.targets.iter().all(|target| target.error.is_none());
    gauge!(BEHIND).set(behind);
    counter!(DESTROYED).increment(report.destroyed);
    counter!(ROUNDS, "result" => if whole { "done" } else { "failed" }).increment(1);
    if whole {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        gauge!(LAST).set(now.as_secs_f64());
    }
}
