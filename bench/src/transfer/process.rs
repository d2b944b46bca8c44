//! Processes that are measured: started, watched to their end, and what each of them cost.
//!
//! All figures come from `/proc`, for every process alike. CPU time is read when a process has ended and was not reaped
//! yet, so it is complete; with it comes the time of the children that it waited for. Peak resident memory is read while
//! it runs, since it goes with the address space.

use std::{
    fs,
    os::fd::OwnedFd,
    path::PathBuf,
    process::{Child, Command},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open, pidfd_send_signal},
    time::{ClockId, clock_gettime},
};

/// How often memory is read; a process that ends is noticed at once.
const SAMPLE_INTERVAL: Timespec = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
/// How often it is looked whether a foreign program listens yet, which it tells nobody.
const LISTEN_INTERVAL: Duration = Duration::from_millis(2);
/// Until a program must listen, or have ended after it was asked to.
const PATIENCE: Duration = Duration::from_secs(20);

/// A running process; killed with the value, and all that it started with it.
#[derive(Debug)]
pub(crate) struct Process {
    name: &'static str,
    child: Child,
    handle: OwnedFd,
    peak_bytes: u64,
    end: Option<End>,
}

/// What is known of a process that has ended.
#[derive(Debug, Clone, Copy)]
struct End {
    at: Duration,
    cpu: Duration,
}

impl Process {
    /// Starts it. Takes the command by value, for the pipes' ends in it must be closed here.
    pub(crate) fn start(name: &'static str, mut command: Command) -> Result<Self> {
        let child = command
            .spawn()
            .with_context(|| format!("{name} could not be started; is it installed? {command:?}"))?;
        let handle = pidfd_open(Pid::from_child(&child), PidfdFlags::empty())?;
        Ok(Self { name, child, handle, peak_bytes: 0, end: None })
    }

    /// Waits until it listens on TCP's `port` of any address, in whichever network namespace it is.
    pub(crate) fn listening(&mut self, port: u16) -> Result<()> {
        let start = Instant::now();
        while !listens(self.child.id(), port) {
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended before it listened: {status}", self.name);
            }
            ensure!(start.elapsed() < PATIENCE, "{} does not listen on port {port}", self.name);
            std::thread::sleep(LISTEN_INTERVAL);
        }
        Ok(())
    }

    /// Asks it to end (SIGTERM) and waits until it has, whatever its status.
    pub(crate) fn stop(&mut self) -> Result<()> {
        pidfd_send_signal(&self.handle, Signal::TERM)?;
        let mut waited = [PollFd::new(&self.handle, PollFlags::IN)];
        let patience = Timespec { tv_sec: PATIENCE.as_secs().cast_signed(), tv_nsec: 0 };
        ensure!(poll(&mut waited, Some(&patience))? == 1, "{} does not end on SIGTERM", self.name);
        self.reap().map(drop)
    }

    /// Waits until it has no children any more, so that their CPU time is part of its own.
    pub(crate) fn childless(&self) -> Result<()> {
        let start = Instant::now();
        while !children(self.child.id()).is_empty() {
            ensure!(start.elapsed() < PATIENCE, "the children of {} do not end", self.name);
            std::thread::sleep(LISTEN_INTERVAL);
        }
        Ok(())
    }

    /// When it ended, by [`now`].
    pub(crate) fn ended_at(&self) -> Duration {
        self.end.expect("asked after its end").at
    }

    /// CPU time, user and system, of all its life and of the children that it waited for.
    pub(crate) fn cpu(&self) -> Duration {
        self.end.expect("asked after its end").cpu
    }

    /// Peak resident memory of the largest process in its tree; other processes of this program do not count there.
    pub(crate) fn peak_bytes(&self) -> u64 {
        self.peak_bytes
    }

    /// Resident memory now, without its children.
    pub(crate) fn resident_bytes(&self) -> Result<u64> {
        status_bytes(self.child.id(), "VmRSS:").with_context(|| format!("{} has ended", self.name))
    }

    fn sample(&mut self) {
        let root = self.child.id();
        let carrying = descendants(root).into_iter().filter(|pid| !is_own_program(*pid));
        let peak = carrying.chain([root]).filter_map(|pid| status_bytes(pid, "VmHWM:")).max();
        self.peak_bytes = self.peak_bytes.max(peak.unwrap_or(0));
    }

    /// Notes what an ended process cost and lets go of it; whether it succeeded.
    fn reap(&mut self) -> Result<bool> {
        self.end = Some(End { at: now(), cpu: cpu_of(&self.child.id().to_string())? });
        Ok(self.child.wait()?.success())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.end.is_none() {
            // What is gone already needs no more.
            for pid in descendants(self.child.id()).into_iter().filter_map(pid_of) {
                let _ = kill_process(pid, Signal::KILL);
            }
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Waits until all `ending` have ended, and samples their memory and that of `daemons` meanwhile. The first that fails
/// is an error.
pub(crate) fn wait_all<'a>(
    ending: &mut [&'a mut Process],
    daemons: &mut [&'a mut Process],
    patience: Duration,
) -> Result<()> {
    let start = Instant::now();
    loop {
        for process in ending.iter_mut().chain(daemons.iter_mut()).filter(|p| p.end.is_none()) {
            process.sample();
        }
        let mut waited: Vec<PollFd<'_>> = ending
            .iter()
            .filter(|p| p.end.is_none())
            .map(|p| PollFd::new(&p.handle, PollFlags::IN))
            .collect();
        if waited.is_empty() {
            return Ok(());
        }
        poll(&mut waited, Some(&SAMPLE_INTERVAL))?;
        let ended: Vec<bool> = waited.iter().map(|p| !p.revents().is_empty()).collect();
        let running = ending.iter_mut().filter(|p| p.end.is_none());
        for (process, _) in running.zip(ended).filter(|(_, ended)| *ended) {
            ensure!(process.reap()?, "{} failed", process.name);
        }
        ensure!(start.elapsed() < patience, "a transfer takes longer than {} s", patience.as_secs());
    }
}

/// This program, to be started again.
pub(crate) fn own_program() -> PathBuf {
    std::env::current_exe().expect("/proc is mounted")
}

/// The machine's monotonic clock, the same in all processes.
pub(crate) fn now() -> Duration {
    let now = clock_gettime(ClockId::Monotonic);
    Duration::new(now.tv_sec.cast_unsigned(), u32::try_from(now.tv_nsec).expect("below a second"))
}

/// CPU time of a process (`self` is one) and of the children that it waited for.
pub(crate) fn cpu_of(process: &str) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
    parse_cpu_ticks(&stat)
        .map(|ticks| Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64))
        .with_context(|| format!("no times in {stat:?}"))
}

/// `utime`, `stime`, `cutime` and `cstime` of a `/proc/PID/stat`, see proc(5). The name before them may hold anything.
fn parse_cpu_ticks(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let times = fields.split_whitespace().skip(11).take(4).map(str::parse).collect::<Result<Vec<u64>, _>>();
    times.ok().filter(|times| times.len() == 4).map(|times| times.iter().sum())
}

fn status_bytes(pid: u32, field: &str) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    let kibibytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kibibytes << 10)
}

fn descendants(pid: u32) -> Vec<u32> {
    let mut found = children(pid);
    let mut next = 0;
    while let Some(child) = found.get(next) {
        found.extend(children(*child));
        next += 1;
    }
    found
}

fn children(pid: u32) -> Vec<u32> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().filter_map(|child| child.parse().ok()).collect()
}

fn pid_of(pid: u32) -> Option<Pid> {
    Pid::from_raw(pid.cast_signed())
}

fn is_own_program(pid: u32) -> bool {
    fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|program| program == own_program())
}

fn listens(pid: u32, port: u16) -> bool {
    ["tcp", "tcp6"].iter().any(|table| {
        let sockets = fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap_or_default();
        sockets.lines().any(|line| is_listener(line, port))
    })
}

/// Whether a line of `/proc/net/tcp` is a socket that waits for others on `port`.
fn is_listener(line: &str, port: u16) -> bool {
    let mut fields = line.split_whitespace().skip(1);
    let local = fields.next().and_then(|address| address.rsplit(':').next());
    local == Some(&format!("{port:04X}")) && fields.nth(1) == Some("0A")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_found_behind_any_name() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194304 1 2 3 4 10 20 30 40 20 0 1 0 5 6";
        assert_eq!(parse_cpu_ticks(stat), Some(100));
        assert_eq!(parse_cpu_ticks("7 (a) S 1 7"), None);
        assert_eq!(parse_cpu_ticks(""), None);
    }

    #[test]
    fn only_listening_sockets_on_the_port_count() {
        let line = "  0: 0100007F:1DB2 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 1 1";
        assert!(is_listener(line, 7602));
        assert!(!is_listener(line, 7603));
        assert!(!is_listener(&line.replace(" 0A ", " 01 "), 7602));
        assert!(!is_listener("  sl  local_address rem_address   st", 7602));
    }

    #[test]
    fn a_process_is_measured_to_its_end() {
        let mut busy = Command::new("sh");
        busy.args(["-c", "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done"]);
        let mut process = Process::start("sh", busy).unwrap();
        wait_all(&mut [&mut process], &mut [], PATIENCE).unwrap();
        assert!(process.cpu() > Duration::ZERO);
        assert!(process.peak_bytes() > 100_000);
        assert!(process.ended_at() <= now());
    }

    #[test]
    fn a_process_that_fails_is_an_error() {
        let mut process = Process::start("false", Command::new("false")).unwrap();
        let error = wait_all(&mut [&mut process], &mut [], PATIENCE).unwrap_err();
        assert_eq!(error.to_string(), "false failed");
    }
}
