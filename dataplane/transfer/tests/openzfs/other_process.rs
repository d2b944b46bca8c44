//! A process of its own, so that it can be killed: this very program, told what to do in its environment.

use std::{
    env, fs,
    io::{BufRead, BufReader},
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    process::{Child, ChildStdout, Command, Stdio},
    thread,
};

use ds_domain::ids::{NodeId, SnapshotId, VolumeId};
use ds_link::{Endpoint, Identity};
use ds_proto::v1::{Direction, SignedTicket, Ticket};
use ds_transfer::{Progress, Store, StoreConfig};
use ds_zfs::Volumes;
use prost::Message;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    fixture::PART,
    support::{Runner, What, World},
};

/// Where the process finds its task.
const FOLDER: &str = "DS_TEST_OTHER_PROCESS";

/// What it is to do, as a folder.
pub(crate) struct Task(PathBuf);

impl Task {
    /// To move `what` between the world's store and the runner's pool.
    pub(crate) fn transfer(world: &World, runner: &Runner, direction: Direction, what: What) -> Self {
        let task = Self::new(runner.pool.folder().join("other"), &runner.identity);
        let mut ticket = world.ticket(runner, direction, what);
        // On a slow machine the process takes a while to begin.
        ticket.expires_ms += 30 * 60 * 1000;
        let ticket = world.signer.sign(&ticket);
        task.say("root", runner.pool.root("runner"));
        task.say("mounts", runner.pool.folder().join("runner").display().to_string());
        task.say("address", world.address.to_string());
        task.say("store", world.store.peer().node.to_string());
        fs::write(task.0.join("ticket"), ticket.encode_to_vec()).unwrap();
        task
    }

    /// To be the world's store.
    pub(crate) fn store(world: &World) -> Self {
        let task = Self::new(world.pool.folder().join("other"), &world.store);
        task.say("root", world.pool.root("store"));
        task.say("state", world.pool.folder().join("state").display().to_string());
        fs::write(task.0.join("key"), world.signer.public_key()).unwrap();
        task
    }

    fn new(folder: PathBuf, identity: &Identity) -> Self {
        fs::create_dir_all(&folder).unwrap();
        identity.save(&folder).unwrap();
        Self(folder)
    }

    fn say(&self, name: &str, value: String) {
        fs::write(self.0.join(name), value).unwrap();
    }

    fn told(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.0.join(name)).ok()
    }
}

/// The process, killed at the latest when this is dropped.
pub(crate) struct Other {
    child: Child,
    said: std::io::Lines<BufReader<ChildStdout>>,
}

impl Other {
    pub(crate) fn start(task: &Task) -> Self {
        let mut child = Command::new(env::current_exe().unwrap())
            .args(["other_process::acts", "--exact", "--ignored", "--nocapture"])
            .env(FOLDER, &task.0)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let said = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, said }
    }

    /// Waits for its word of an address.
    pub(crate) fn address(&mut self) -> SocketAddr {
        self.hear("address ").parse().unwrap()
    }

    /// Kills it once it has moved [`PART`], where it waits for that; gives how many bytes it had moved.
    pub(crate) fn kill_when_it_waits(&mut self) -> u64 {
        loop {
            let moved = self.hear("moved ").parse().unwrap();
            if moved >= PART {
                self.kill();
                return moved;
            }
        }
    }

    pub(crate) fn kill(&mut self) {
        // SIGKILL.
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// The rest of the next line that begins so.
    fn hear(&mut self, beginning: &str) -> String {
        loop {
            let line = self.said.next().expect("it is still at work").unwrap();
            if let Some((_, rest)) = line.split_once(beginning) {
                return rest.to_owned();
            }
        }
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "the other process, which the cases start"]
async fn acts() {
    let task = Task(env::var_os(FOLDER).expect("started by a case").into());
    let identity = Identity::load(&task.0).unwrap().unwrap();
    let root = task.told("root").unwrap();
    match task.told("state") {
        Some(state) => serve(&task, identity, root, state.into()).await,
        None => transfer(&task, &identity, &root).await,
    }
}

async fn serve(task: &Task, identity: Identity, root: String, state_dir: PathBuf) {
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let ticket_public_key = fs::read(task.0.join("key")).unwrap().try_into().unwrap();
    let store =
        Store::build(StoreConfig { listen, root, state_dir, identity, ticket_public_key }).await.unwrap();
    println!("\naddress {}", store.local_addr().unwrap());
    store.run(CancellationToken::new()).await;
}

async fn transfer(task: &Task, identity: &Identity, root: &str) {
    let volumes = Volumes::open(root, task.told("mounts").unwrap().as_ref()).await.unwrap();
    let store = NodeId(task.told("store").unwrap().parse::<Uuid>().unwrap());
    let endpoint = Endpoint::client(identity).unwrap();
    let link = endpoint.connect(task.told("address").unwrap().parse().unwrap(), store).await.unwrap();
    let signed = SignedTicket::decode(fs::read(task.0.join("ticket")).unwrap().as_slice()).unwrap();
    let ticket = Ticket::decode(signed.payload.as_slice()).unwrap();
    let volume = VolumeId::from_bytes(&ticket.volume).unwrap();
    let snapshot = SnapshotId::from_bytes(&ticket.snapshot).unwrap();
    let never = CancellationToken::new();
    let note = |progress: Progress| {
        println!("\nmoved {}", progress.bytes);
        if progress.bytes >= PART {
            // Whoever started this kills it now.
            loop {
                thread::park();
            }
        }
    };
    match ticket.direction() {
        Direction::Pull => {
            ds_transfer::pull(&link, &volumes, signed, volume, snapshot, note, &never).await.unwrap();
        }
        _ => {
            ds_transfer::push(&link, &volumes, signed, volume, snapshot, note, &never).await.unwrap();
        }
    }
}
