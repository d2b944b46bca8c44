//! What a container used. Its control group tells, and is gone with its last process: so it is looked at from before the
//! start, often at first, and what was seen last is what is known.
//!
//! Docker's own figures come once a second. They are for a control group that is not where it usually is, or is on another
//! machine.

use std::{fs, path::Path, time::Duration};

use bollard::query_parameters::StatsOptionsBuilder;
use ds_domain::TaskId;
use futures_util::{Stream, StreamExt, stream};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Docker, name};

/// Where control groups are mounted (`man 7 cgroups`).
const MOUNT: &str = "/sys/fs/cgroup";
/// Between two looks: a fiftieth of the time so far, within these bounds. So little of a command is missed, short or long.
const LOOKS: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(250));

/// What a container used, as far as it was seen: absent rather than 0 where it was over before the first look.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Usage {
    /// CPU time of all its processes, and of what started them.
    pub(crate) cpu_seconds: Option<f64>,
    /// The most memory that it had at once, cached file content included.
    pub(crate) peak_memory_bytes: Option<u64>,
}

impl Usage {
    /// Both only grow: the highest figure is the newest.
    fn see(&mut self, seen: Self) {
        // `None` is less than everything.
        self.peak_memory_bytes =
            self.peak_memory_bytes.max(seen.peak_memory_bytes.filter(|bytes| *bytes > 0));
        let seconds = seen.cpu_seconds.filter(|seconds| self.cpu_seconds.unwrap_or(0.0) < *seconds);
        self.cpu_seconds = seconds.or(self.cpu_seconds);
    }
}

impl Docker {
    /// Follows what the task's container uses until `over`. To be called before it is started.
    pub(crate) async fn usage(&self, task: TaskId, over: &CancellationToken) -> Usage {
        let mut usage = Usage::default();
        let follow = async {
            let Some(id) = self.container_id(task).await else { return };
            let mut samples = std::pin::pin!(stream::select(looks(id), self.stats(task)));
            while let Some(sample) = samples.next().await {
                usage.see(sample);
            }
        };
        over.run_until_cancelled(follow).await;
        usage
    }

    async fn container_id(&self, task: TaskId) -> Option<String> {
        self.client.inspect_container(&name(task), None).await.ok()?.id
    }

    fn stats(&self, task: TaskId) -> impl Stream<Item = Usage> + use<> {
        let options = StatsOptionsBuilder::default().stream(true).build();
        self.client.stats(&name(task), Some(options)).filter_map(async |sample| {
            let sample = sample.ok()?;
            let nanos = sample.cpu_stats.and_then(|cpu| cpu.cpu_usage?.total_usage);
            let memory = sample.memory_stats;
            Some(Usage {
                cpu_seconds: nanos.map(|nanos| nanos as f64 / 1e9),
                peak_memory_bytes: memory.and_then(|memory| memory.max_usage.or(memory.usage)),
            })
        })
    }
}

/// Looks at a container's control group again and again. Never ends.
fn looks(id: String) -> impl Stream<Item = Usage> {
    let begun = Instant::now();
    stream::unfold(id, move |id| async move {
        tokio::time::sleep((begun.elapsed() / 50).clamp(LOOKS.0, LOOKS.1)).await;
        // A few files that the kernel makes up on the spot.
        Some((look(Path::new(MOUNT), &id), id))
    })
}

/// One look, wherever Docker and its driver have put the group: version 1 or 2, `cgroupfs` or `systemd`.
fn look(mount: &Path, id: &str) -> Usage {
    let groups = [format!("docker/{id}"), format!("system.slice/docker-{id}.scope")];
    let mut usage = Usage::default();
    for group in groups {
        let read = |file: &str| fs::read_to_string(mount.join(file.replace("GROUP", &group))).ok();
        let number = |file: &str| read(file)?.trim().parse::<u64>().ok();
        let nanos = number("cpuacct/GROUP/cpuacct.usage")
            .or_else(|| read("GROUP/cpu.stat").and_then(|stat| usage_usec(&stat)?.checked_mul(1000)));
        usage.see(Usage {
            cpu_seconds: nanos.map(|nanos| nanos as f64 / 1e9),
            // Kernels before 5.19 keep no peak in version 2: there it is the most that was seen.
            peak_memory_bytes: number("memory/GROUP/memory.max_usage_in_bytes")
                .or_else(|| number("GROUP/memory.peak"))
                .or_else(|| number("GROUP/memory.current")),
        });
    }
    usage
}

/// The CPU time in version 2's `cpu.stat`, in microseconds.
fn usage_usec(stat: &str) -> Option<u64> {
    stat.lines().find_map(|line| line.strip_prefix("usage_usec ")?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(mount: &Path, file: &str, content: &str) {
        let path = mount.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    #[test]
    fn both_versions_and_both_drivers_are_read() {
        let seen = Usage { cpu_seconds: Some(1.5), peak_memory_bytes: Some(4096) };
        for group in ["docker/c0", "system.slice/docker-c0.scope"] {
            let one = tempfile::tempdir().unwrap();
            write(one.path(), &format!("cpuacct/{group}/cpuacct.usage"), "1500000000\n");
            write(one.path(), &format!("memory/{group}/memory.max_usage_in_bytes"), "4096\n");
            assert_eq!(look(one.path(), "c0"), seen);
            let two = tempfile::tempdir().unwrap();
            write(two.path(), &format!("{group}/cpu.stat"), "usage_usec 1500000\nuser_usec 1\n");
            write(two.path(), &format!("{group}/memory.peak"), "4096\n");
            assert_eq!(look(two.path(), "c0"), seen);
            assert_eq!(look(two.path(), "other"), Usage::default());
        }
    }

    #[test]
    fn what_was_never_seen_stays_unknown() {
        let mut usage = Usage::default();
        usage.see(Usage { cpu_seconds: Some(0.0), peak_memory_bytes: Some(0) });
        assert_eq!(usage, Usage::default());
        usage.see(Usage { cpu_seconds: Some(2.0), peak_memory_bytes: Some(7) });
        // What Docker says of a container that has just ended.
        usage.see(Usage { cpu_seconds: Some(0.0), peak_memory_bytes: None });
        assert_eq!(usage, Usage { cpu_seconds: Some(2.0), peak_memory_bytes: Some(7) });
    }
}
