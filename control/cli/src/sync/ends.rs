//! The far ends: where they are, and the tickets for them.

use std::{convert::Infallible, net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result};
use ds_domain::{
    NodeId,
    api::{CreateTreeTicket, TreeDirection, TreeTicketGrant},
};
use ds_link::Endpoint;
use ds_proto::v1::SignedTicket;
use ds_transfer::{ticket, tree::FarTree};
use tokio::{net::lookup_host, sync::watch};

use super::{
    Pushes, RETRY,
    place::{At, Far},
};
use crate::context::Context;

/// A ticket works for 50 minutes: so long before it ends the next one is asked for.
const FRESH: Duration = Duration::from_mins(20);

/// All far ends of a sync.
pub(super) struct Ends {
    all: Vec<End>,
    peer: NodeId,
    direction: TreeDirection,
}

struct End {
    far: Far,
    tree: FarTree,
    tickets: watch::Sender<SignedTicket>,
}

impl Ends {
    /// Asks the hub for tickets, and where the ends are.
    pub(super) async fn open(
        context: &Context,
        endpoint: &Endpoint,
        peer: NodeId,
        far: &[Far],
        pushes: Pushes,
    ) -> Result<Self> {
        let direction = if pushes == Pushes::Yes { TreeDirection::Push } else { TreeDirection::Pull };
        let mut all = Vec::new();
        for far in far {
            let (grant, signed) = grant(context, peer, direction, far).await?;
            let address = address(context, far, &grant).await?;
            let (tickets, newest) = watch::channel(signed);
            let tree = FarTree::new(endpoint.clone(), address, grant.host, far.tree.clone(), newest);
            all.push(End { far: far.clone(), tree, tickets });
        }
        Ok(Self { all, peer, direction })
    }

    /// The trees, with the names by which they are reported.
    pub(super) fn trees(&self) -> Vec<(String, FarTree)> {
        self.all.iter().map(|end| (end.far.to_string(), end.tree.clone())).collect()
    }

    /// Renews the tickets for as long as it is polled. While the hub is away the old ones stay, and those who use
    /// them will say so.
    pub(super) async fn keep_fresh(&self, context: &Context) -> Infallible {
        let mut pause = FRESH;
        loop {
            tokio::time::sleep(pause).await;
            pause = FRESH;
            for end in &self.all {
                match grant(context, self.peer, self.direction, &end.far).await {
                    Ok((_, signed)) => drop(end.tickets.send_replace(signed)),
                    Err(error) => {
                        tracing::warn!(tree = %end.far, "no fresh ticket yet: {error:#}");
                        pause = RETRY;
                    }
                }
            }
        }
    }
}

async fn grant(
    context: &Context,
    peer: NodeId,
    direction: TreeDirection,
    far: &Far,
) -> Result<(TreeTicketGrant, SignedTicket)> {
    let host = match &far.at {
        At::Store => None,
        At::Runner { runner, .. } => Some(runner.clone()),
    };
    let request = CreateTreeTicket { peer, direction, host };
    let call = context.client.post(&["trees", far.tree.as_str(), "tickets"]).body(&request);
    let grant: TreeTicketGrant = call
        .json()
        .await
        .with_context(|| format!("the hub gives this machine (node {peer}) no ticket for {far}"))?;
    let signed = ticket::from_text(&grant.ticket).context("the hub's ticket cannot be read")?;
    Ok((grant, signed))
}

async fn address(context: &Context, far: &Far, grant: &TreeTicketGrant) -> Result<SocketAddr> {
    let text = match (&far.at, &grant.address) {
        (At::Runner { address, .. }, _) => address.clone(),
        (At::Store, Some(told)) if told.starts_with(':') => {
            let hub = context.client.url().host_str().unwrap_or("127.0.0.1");
            format!("{hub}{told}")
        }
        (At::Store, told) => told.clone().context("the hub does not say where its store is")?,
    };
    let mut found = lookup_host(&text).await.with_context(|| format!("{text} cannot be found"))?;
    found.next().with_context(|| format!("{text} has no address"))
}
