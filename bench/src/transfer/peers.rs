//! Who moves the bytes: we, and the programs that people use for it.
//!
//! All read from a pipe and write into a pipe, as they do between `zfs send` and `zfs receive`.

use std::{net::IpAddr, num::NonZeroUsize, os::fd::OwnedFd, process::Command, time::Duration};

use anyhow::{Context, Result};
use ds_link::{Transport, Transports};

use super::{
    kit::Kit,
    network::{End, Network},
    ours,
    payload::{Amount, Drained, Sink, Source, wide_pipe},
    process::{Process, wait_all},
};

/// Until a run must be over: 3 GiB at 10 MB/s.
const PATIENCE: Duration = Duration::from_mins(5);
/// Until the first byte must have come, beside the time that is measured.
const PATIENCE_TO_START: Duration = Duration::from_mins(1);
/// What socat reads at once. With its own 8 KiB it is much slower.
const SOCAT_BUFFER_BYTES: &str = "262144";

/// A way to move bytes from one end to the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Peer {
    /// Ours, over what these allow.
    Ours(Transports),
    /// Ours over a single connection.
    OneLane(Transport),
    /// OpenSSH with the cipher that is fastest on machines with AES.
    Ssh,
    /// socat over TLS 1.3 with AES-128-GCM.
    SocatTls,
    /// socat over TCP, in clear text.
    SocatTcp,
    /// mbuffer over TCP, in clear text, with the sizes that people use it with.
    Mbuffer,
}

/// Ours as it comes.
pub(crate) const OURS: Peer = Peer::Ours(Transports::Auto);

/// What one run found.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Figures {
    /// 10⁶ bytes a second, from the first byte at the sink to the receiver's exit.
    pub(crate) megabytes_per_second: f64,
    /// CPU seconds of both ends for 10⁹ bytes, without source and sink.
    pub(crate) cpu_seconds_per_gigabyte: f64,
    /// Peak resident memory of the sender and of the receiver, bytes.
    pub(crate) peak_bytes: [u64; 2],
}

/// What every run needs.
#[derive(Debug)]
pub(crate) struct Ground {
    pub(crate) kit: Kit,
    pub(crate) source: Source,
}

impl Peer {
    /// Its name in results.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ours(Transports::Auto) => "ours auto",
            Self::Ours(Transports::Only(Transport::Quic)) => "ours QUIC",
            Self::Ours(Transports::Only(Transport::Tcp)) => "ours TCP",
            Self::OneLane(Transport::Quic) => "ours QUIC, one lane",
            Self::OneLane(Transport::Tcp) => "ours TCP, one lane",
            Self::Ssh => "ssh aes128-gcm",
            Self::SocatTls => "socat TLS 1.3",
            Self::SocatTcp => "socat TCP",
            Self::Mbuffer => "mbuffer TCP",
        }
    }

    /// Moves `bytes` once.
    pub(crate) fn run(self, ground: &Ground, network: &Network, bytes: u64) -> Result<Figures> {
        let run = match self {
            Self::Ssh => run_ssh(ground, network, bytes),
            _ => self.run_piped(ground, network, bytes),
        };
        run.with_context(|| format!("{} over {}", self.name(), network.name()))
    }

    /// What arrives in so many `seconds`, 10⁶ bytes a second. Both ends are killed then, in the middle of it.
    pub(crate) fn speed(self, ground: &Ground, network: &Network, seconds: u64) -> Result<f64> {
        let report = ground.kit.sink_report();
        let mut sink = Sink::command(Amount::Seconds(seconds), &report);
        let (leaving, feeder) = ground.source.feed(u64::MAX)?;
        let start = || -> Result<Vec<Process>> {
            if self == Self::Ssh {
                return Ok(start_ssh(ground, network, leaving, &sink)?.into());
            }
            let (arrived, arriving) = wide_pipe()?;
            sink.stdin(arrived);
            let sink = Process::start("the sink", sink)?;
            let ends = self.start(ground, network, leaving, arriving)?;
            Ok(ends.into_iter().chain([sink]).collect())
        };
        let context = || format!("{} over {}", self.name(), network.name());
        let running = start().with_context(context)?;
        let drained = Drained::wait(&report, Duration::from_secs(seconds) + PATIENCE_TO_START);
        drop(running);
        // It ends when its reader does.
        let _ = feeder.join().expect("the source does not panic");
        Ok(drained.with_context(context)?.bytes as f64 / 1e6 / seconds as f64)
    }

    fn run_piped(self, ground: &Ground, network: &Network, bytes: u64) -> Result<Figures> {
        let report = ground.kit.sink_report();
        let (arrived, arriving) = wide_pipe()?;
        let mut sink = Sink::command(Amount::Bytes(bytes), &report);
        sink.stdin(arrived);
        let mut sink = Process::start("the sink", sink)?;

        let (leaving, feeder) = ground.source.feed(bytes)?;
        let [mut sender, mut receiver] = self.start(ground, network, leaving, arriving)?;
        wait_all(&mut [&mut sender, &mut receiver, &mut sink], &mut [], PATIENCE)?;
        feeder.join().expect("the source does not panic")?;
        let drained = Drained::take(&report)?;
        Ok(Figures::new(
            bytes,
            receiver.ended_at().saturating_sub(drained.first_byte_at),
            sender.cpu() + receiver.cpu(),
            [&sender, &receiver].map(Process::peak_bytes),
        ))
    }

    /// Starts both ends, the one that listens first: the sender is the first of the two.
    pub(crate) fn start(
        self,
        ground: &Ground,
        network: &Network,
        from: OwnedFd,
        into: OwnedFd,
    ) -> Result<[Process; 2]> {
        let port = ground.kit.next_port();
        let mut command = self.receiver(&ground.kit, network, port);
        command.stdout(into);
        let mut receiver = Process::start(self.name(), command)?;
        receiver.listening(port)?;
        let mut command = self.sender(&ground.kit, network, port);
        command.stdin(from);
        Ok([Process::start(self.name(), command)?, receiver])
    }

    fn receiver(self, kit: &Kit, network: &Network, port: u16) -> Command {
        let program = |name| network.command(End::Receiver, name);
        match self {
            Self::Ours(_) | Self::OneLane(_) => ours::receiver(network, kit, port),
            Self::Ssh => unreachable!("its receiver is a daemon"),
            Self::SocatTls => {
                let certificate = kit.receiver_certificate().display().to_string();
                let mut socat = socat(program("socat"));
                socat
                    .env("OPENSSL_CONF", kit.openssl_settings())
                    .arg(format!("OPENSSL-LISTEN:{port},reuseaddr,verify=0,cert={certificate}"))
                    .arg("STDOUT");
                socat
            }
            Self::SocatTcp => {
                let mut socat = socat(program("socat"));
                socat.arg(format!("TCP-LISTEN:{port},reuseaddr")).arg("STDOUT");
                socat
            }
            Self::Mbuffer => mbuffer(program("mbuffer"), "-I", &port.to_string()),
        }
    }

    fn sender(self, kit: &Kit, network: &Network, port: u16) -> Command {
        let program = |name| network.command(End::Sender, name);
        let address = network.receiver_address();
        match self {
            Self::Ours(transports) => ours::sender(network, kit, port, transports, None),
            Self::OneLane(transport) => {
                let over = Transports::Only(transport);
                ours::sender(network, kit, port, over, Some(NonZeroUsize::MIN))
            }
            Self::Ssh => unreachable!("its sender has a command to run"),
            Self::SocatTls => {
                let (ca, name) = (kit.ca_certificate().display().to_string(), kit.receiver_name());
                let mut socat = socat(program("socat"));
                socat
                    .env("OPENSSL_CONF", kit.openssl_settings())
                    .arg("STDIN")
                    .arg(format!("OPENSSL:{address}:{port},cafile={ca},commonname={name}"));
                socat
            }
            Self::SocatTcp => {
                let mut socat = socat(program("socat"));
                socat.arg("STDIN").arg(format!("TCP:{address}:{port}"));
                socat
            }
            Self::Mbuffer => mbuffer(program("mbuffer"), "-O", &format!("{address}:{port}")),
        }
    }
}

impl Figures {
    fn new(bytes: u64, time: Duration, cpu: Duration, peak_bytes: [u64; 2]) -> Self {
        Self {
            megabytes_per_second: bytes as f64 / 1e6 / time.as_secs_f64(),
            cpu_seconds_per_gigabyte: cpu.as_secs_f64() / (bytes as f64 / 1e9),
            peak_bytes,
        }
    }
}

/// The receiver is a daemon, started for this run, which starts the sink.
fn run_ssh(ground: &Ground, network: &Network, bytes: u64) -> Result<Figures> {
    let report = ground.kit.sink_report();
    let (leaving, feeder) = ground.source.feed(bytes)?;
    let sink = Sink::command(Amount::Bytes(bytes), &report);
    let [mut client, mut daemon] = start_ssh(ground, network, leaving, &sink)?;
    wait_all(&mut [&mut client], &mut [&mut daemon], PATIENCE)?;
    feeder.join().expect("the source does not panic")?;
    daemon.childless()?;
    daemon.stop()?;
    let drained = Drained::take(&report)?;
    Ok(Figures::new(
        bytes,
        client.ended_at().saturating_sub(drained.first_byte_at),
        client.cpu() + daemon.cpu().saturating_sub(drained.cpu),
        [&client, &daemon].map(Process::peak_bytes),
    ))
}

/// Starts the daemon, and then the client that has it start the sink: the client is the first of the two.
fn start_ssh(ground: &Ground, network: &Network, from: OwnedFd, sink: &Command) -> Result<[Process; 2]> {
    let kit = &ground.kit;
    let port = kit.next_port();
    // It starts itself again for each connection, for which it needs its full path.
    let mut command = network.command(End::Receiver, "/usr/sbin/sshd");
    command.args(["-D", "-e", "-f"]).arg(kit.sshd_settings(port)?);
    let mut daemon = Process::start("sshd", command)?;
    daemon.listening(port)?;
    let mut command = ssh(kit, network.command(End::Sender, "ssh"), network.receiver_address(), port);
    command.arg(sink.get_program()).args(sink.get_args()).stdin(from);
    Ok([Process::start("ssh", command)?, daemon])
}

fn ssh(kit: &Kit, mut command: Command, address: IpAddr, port: u16) -> Command {
    command.args(["-F", "none", "-c", "aes128-gcm@openssh.com", "-p", &port.to_string(), "-i"]);
    command.arg(kit.ssh_user_key());
    for option in [
        "StrictHostKeyChecking=no",
        "UserKnownHostsFile=/dev/null",
        "BatchMode=yes",
        "IdentitiesOnly=yes",
        "LogLevel=ERROR",
    ] {
        command.args(["-o", option]);
    }
    command.arg(format!("root@{address}"));
    command
}

fn socat(mut command: Command) -> Command {
    command.args(["-u", "-b", SOCAT_BUFFER_BYTES]);
    command
}

fn mbuffer(mut command: Command, direction: &str, address: &str) -> Command {
    command.args(["-q", "-s", "256k", "-m", "128M", direction, address]);
    command
}
