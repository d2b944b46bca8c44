//! Where a transfer runs: one or two network namespaces of this bench alone.
//!
//! A namespace is held by a process that waits for the end of its input, so it goes with the bench, however that ends, and
//! takes its interfaces with it. Nothing has a name that another could have.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::{self, BufRead, BufReader},
    net::{IpAddr, Ipv4Addr},
    os::fd::AsFd,
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
};

use anyhow::{Context, Result, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// The interface between two namespaces, by the same name in each.
pub(crate) const INTERFACE: &str = "line";

/// Packets that wait for the reader of a [`Network::widen`]ed interface: more than any burst has.
const QUEUE_PACKETS: &str = "10000";
/// The least, the first and the largest buffer of a TCP socket there, bytes: several times what is under way on the line.
const TCP_BUFFERS: &str = "4096 131072 134217728";

/// How TCP finds its rate, whatever this machine's default is. Set by route, where nobody has to allow it first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Congestion {
    /// Linux's own default.
    Cubic,
    /// Does not take loss for a full line.
    Bbr,
}

/// Which end of a transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Sender,
    Receiver,
}

/// Two ends that can reach each other.
#[derive(Debug)]
pub(crate) struct Network {
    name: String,
    sender: Namespace,
    /// `None` if both ends are in one.
    receiver: Option<Namespace>,
}

impl Network {
    /// Both ends on the loopback device of one namespace, whose MTU is 65,536.
    pub(crate) fn loopback() -> Result<Self> {
        let network = Self { name: "loopback".into(), sender: Namespace::create()?, receiver: None };
        let address = Ipv4Addr::LOCALHOST.to_string();
        let route = ["route", "replace", "table", "local", "local", &address, "dev", "lo", "src", &address];
        run(network.at(End::Sender).command("ip").args(route).args(Congestion::Cubic.route()))?;
        Ok(network)
    }

    /// Two namespaces with a virtual cable of this MTU between them.
    pub(crate) fn cable(mtu: u16) -> Result<Self> {
        let network = Self::apart(format!("MTU {mtu}"))?;
        let [sender, receiver] = [End::Sender, End::Receiver].map(|end| network.at(end).id().to_string());
        let mtu = mtu.to_string();
        let pair = ["type", "veth", "peer", "name", INTERFACE, "mtu", &mtu, "netns", &receiver];
        run(Command::new("ip").args(["link", "add", INTERFACE, "mtu", &mtu, "netns", &sender]).args(pair))?;
        network.address_interfaces(Congestion::Cubic)?;
        Ok(network)
    }

    /// Two namespaces with nothing between them yet.
    pub(crate) fn apart(name: String) -> Result<Self> {
        Ok(Self { name, sender: Namespace::create()?, receiver: Some(Namespace::create()?) })
    }

    /// Gives the two ends of the interface their addresses, once they are there.
    pub(crate) fn address_interfaces(&self, congestion: Congestion) -> Result<()> {
        for end in [End::Sender, End::Receiver] {
            let ip = |arguments: &[&str]| run(self.at(end).command("ip").args(arguments));
            let address = address(end).to_string();
            ip(&["address", "add", &format!("{address}/30"), "dev", INTERFACE])?;
            ip(&["link", "set", INTERFACE, "up"])?;
            let route = ["route", "replace", LINE, "proto", "kernel", "dev", INTERFACE, "src", &address];
            ip(&[&route[..], &congestion.route()].concat())?;
        }
        Ok(())
    }

    /// Has nothing but the line limit what is under way on it.
    pub(crate) fn widen(&self) -> Result<()> {
        for end in [End::Sender, End::Receiver] {
            run(self.at(end).command("ip").args(["link", "set", INTERFACE, "txqueuelen", QUEUE_PACKETS]))?;
            self.within(end, || {
                ["tcp_rmem", "tcp_wmem"]
                    .into_iter()
                    .try_for_each(|name| fs::write(format!("/proc/sys/net/ipv4/{name}"), TCP_BUFFERS))
            })?;
        }
        Ok(())
    }

    /// What `open` makes at one of the ends, and which stays there: a socket, a device.
    pub(crate) fn within<T: Send>(&self, end: End, open: impl FnOnce() -> io::Result<T> + Send) -> Result<T> {
        let namespace = File::open(self.at(end).file())?;
        let opened = thread::scope(|scope| {
            let thread = scope.spawn(|| {
                move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
                open()
            });
            thread.join().expect("nothing that is opened panics")
        });
        Ok(opened?)
    }

    /// Its name in results.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Where the receiver is, for the sender.
    pub(crate) fn receiver_address(&self) -> IpAddr {
        self.receiver.as_ref().map_or(Ipv4Addr::LOCALHOST, |_| address(End::Receiver)).into()
    }

    /// What starts `program` (a path, or found by PATH) at one of the ends.
    pub(crate) fn command(&self, end: End, program: impl AsRef<OsStr>) -> Command {
        self.at(end).command(program)
    }

    fn at(&self, end: End) -> &Namespace {
        match end {
            End::Sender => &self.sender,
            End::Receiver => self.receiver.as_ref().unwrap_or(&self.sender),
        }
    }
}

impl Congestion {
    /// As the kernel calls it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Cubic => "cubic",
            Self::Bbr => "bbr",
        }
    }

    /// The end of an `ip route` command.
    fn route(self) -> [&'static str; 2] {
        ["congctl", self.name()]
    }
}

/// Addresses from a block that is kept for benchmarks (RFC 2544).
const LINE: &str = "198.18.0.0/30";

fn address(end: End) -> Ipv4Addr {
    match end {
        End::Sender => Ipv4Addr::new(198, 18, 0, 1),
        End::Receiver => Ipv4Addr::new(198, 18, 0, 2),
    }
}

#[derive(Debug)]
struct Namespace {
    holder: Child,
}

impl Namespace {
    fn create() -> Result<Self> {
        let mut holder = Command::new("unshare")
            .args(["--net", "sh", "-c", "ip link set lo up && echo ready && exec cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("unshare (of util-linux) could not be started")?;
        let mut said = String::new();
        BufReader::new(holder.stdout.take().expect("piped")).read_line(&mut said)?;
        ensure!(said == "ready\n", "a network namespace could not be made; run this as root");
        Ok(Self { holder })
    }

    fn id(&self) -> u32 {
        self.holder.id()
    }

    fn file(&self) -> PathBuf {
        format!("/proc/{}/ns/net", self.id()).into()
    }

    /// Both programs before it give way to it, so its process id and its figures are its own. It is killed if the bench
    /// ends before it.
    fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "nsenter"])
            .arg(format!("--net={}", self.file().display()))
            .arg("--")
            .arg(program);
        command
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        drop(self.holder.stdin.take());
        let _ = self.holder.wait();
    }
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("{command:?} could not be started"))?;
    ensure!(
        output.status.success(),
        "{command:?} failed: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}
