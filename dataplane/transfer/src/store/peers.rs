//! Who may be linked, and how much of the store each node may take: none can crowd the others out.

use std::{
    collections::{HashMap, HashSet},
    fs,
    path::PathBuf,
    sync::{Mutex, MutexGuard, PoisonError},
};

use ds_domain::ids::NodeId;
use ds_link::{Link, Role};

use crate::{Error, Result};

/// Links of all nodes but hubs, which have places of their own.
const MAX_LINKS: usize = 1_024;
/// Links of one node: one for each of its tasks that moves data with their further lanes, and those that it has not noticed to be
/// lost.
const MAX_LINKS_OF_NODE: usize = 64;
/// Links of a hub: each file and archive on its way has one.
const MAX_LINKS_OF_HUB: usize = 64;
/// Transfers under way at once. Each holds up to a window (64 MiB) in memory, one or two ZFS processes and a thread.
const MAX_TRANSFERS: usize = 64;
/// Transfers of one node.
const MAX_TRANSFERS_OF_NODE: usize = 16;

/// The nodes that are linked.
pub(super) struct Peers {
    /// Where the known nodes are kept, so that a store that starts while its hub is away knows them.
    file: PathBuf,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    /// All nodes that the hub knows; `None` while it has never said, and then the CA's word is enough.
    known: Option<HashSet<NodeId>>,
    links: HashMap<u64, Link>,
    next: u64,
    transfers: HashMap<NodeId, usize>,
}

impl Peers {
    /// Reads the nodes that were kept.
    pub(super) fn load(file: PathBuf) -> Self {
        let known = fs::read_to_string(&file).ok().and_then(|text| parse(&text));
        let table = Table { known, ..Table::default() };
        Self { file, table: Mutex::new(table) }
    }

    /// Gives a link a place, until the answer is dropped; else closes it and says why.
    pub(super) fn admit(&self, link: &Link) -> std::result::Result<LinkPlace<'_>, &'static str> {
        let mut table = self.table();
        if let Err(reason) = table.judge(link) {
            link.close(reason);
            return Err(reason);
        }
        let id = table.next;
        table.next += 1;
        table.links.insert(id, link.clone());
        Ok(LinkPlace { peers: self, id })
    }

    /// Notes that the hub knows these nodes, and closes the links of all others.
    pub(super) fn only(&self, nodes: HashSet<NodeId>) -> Result<()> {
        let mut table = self.table();
        for link in table.links.values() {
            let peer = link.peer();
            if peer.role != Role::Hub && !nodes.contains(&peer.node) {
                tracing::info!(%peer, "closing a link: {NOT_KNOWN}");
                link.close(NOT_KNOWN);
            }
        }
        if table.known.as_ref() == Some(&nodes) {
            return Ok(());
        }
        let lines: Vec<_> = nodes.iter().map(NodeId::to_string).collect();
        table.known = Some(nodes);
        let unfinished = self.file.with_extension("new");
        fs::write(&unfinished, lines.join("\n"))
            .and_then(|()| fs::rename(&unfinished, &self.file))
            .map_err(|source| Error::File { action: "write", path: self.file.display().to_string(), source })
    }

    /// `Busy` where too much is under way, of this node or of all.
    pub(super) fn begin_transfer(&self, node: NodeId) -> Result<TransferPlace<'_>> {
        let mut table = self.table();
        if table.transfers.values().sum::<usize>() >= MAX_TRANSFERS {
            return Err(Error::Busy(format!("{MAX_TRANSFERS} transfers are under way")));
        }
        let of_node = table.transfers.entry(node).or_default();
        if *of_node >= MAX_TRANSFERS_OF_NODE {
            return Err(Error::Busy(format!("{MAX_TRANSFERS_OF_NODE} transfers of this node are under way")));
        }
        *of_node += 1;
        Ok(TransferPlace { peers: self, node })
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const NOT_KNOWN: &str = "the hub does not know this node";

impl Table {
    fn judge(&self, link: &Link) -> std::result::Result<(), &'static str> {
        let peer = link.peer();
        let is_hub = |link: &Link| link.peer().role == Role::Hub;
        let of_node = self.links.values().filter(|other| other.peer().node == peer.node).count();
        if is_hub(link) {
            let of_hubs = self.links.values().filter(|link| is_hub(link)).count();
            return if of_hubs < MAX_LINKS_OF_HUB { Ok(()) } else { Err("the hub has too many links") };
        }
        if self.known.as_ref().is_some_and(|known| !known.contains(&peer.node)) {
            return Err(NOT_KNOWN);
        }
        if of_node >= MAX_LINKS_OF_NODE {
            return Err("this node has too many links");
        }
        let of_nodes = self.links.values().filter(|link| !is_hub(link)).count();
        if of_nodes < MAX_LINKS { Ok(()) } else { Err("too many nodes are linked") }
    }
}

/// A line for each; `None` for anything else.
fn parse(text: &str) -> Option<HashSet<NodeId>> {
    text.lines().map(|line| line.parse().ok()).collect()
}

/// Room for one link.
pub(super) struct LinkPlace<'a> {
    peers: &'a Peers,
    id: u64,
}

impl Drop for LinkPlace<'_> {
    fn drop(&mut self) {
        // The link itself goes when the table is free again: its end may run code of others.
        let _link = self.peers.table().links.remove(&self.id);
    }
}

/// Room for one transfer.
pub(super) struct TransferPlace<'a> {
    peers: &'a Peers,
    node: NodeId,
}

impl Drop for TransferPlace<'_> {
    fn drop(&mut self) {
        let mut table = self.peers.table();
        if let Some(of_node) = table.transfers.get_mut(&self.node) {
            *of_node -= 1;
            if *of_node == 0 {
                table.transfers.remove(&self.node);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    fn node(id: u128) -> NodeId {
        NodeId(Uuid::from_u128(id))
    }

    #[test]
    fn one_node_cannot_take_all_transfers() {
        let folder = tempfile::tempdir().unwrap();
        let peers = Peers::load(folder.path().join("nodes"));
        let mut places: Vec<_> =
            (0..MAX_TRANSFERS_OF_NODE).map(|_| peers.begin_transfer(node(1)).unwrap()).collect();
        assert!(matches!(peers.begin_transfer(node(1)), Err(Error::Busy(_))));
        while places.len() < MAX_TRANSFERS {
            places.push(peers.begin_transfer(node(places.len() as u128 + 10)).unwrap());
        }
        assert!(matches!(peers.begin_transfer(node(2)), Err(Error::Busy(_))));
        places.clear();
        assert!(peers.begin_transfer(node(1)).is_ok());
        assert!(peers.table().transfers.is_empty());
    }

    #[test]
    fn known_nodes_are_kept_over_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("nodes");
        assert_eq!(Peers::load(file.clone()).table().known, None);
        let nodes = HashSet::from([node(1), node(2)]);
        Peers::load(file.clone()).only(nodes.clone()).unwrap();
        assert_eq!(Peers::load(file).table().known, Some(nodes));
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,80}") {
            let _ = parse(&text);
        }
    }
}
