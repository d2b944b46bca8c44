//! `ds sync`: keeps a tree of datasets in step with one at another node.
//!
//! It runs on the machine of one end, beside the runner or store there and with its identity, and works on a local
//! tree as `zfs` does. The other end is a store, or a node that serves with `ds sync serve`. A person's login, an
//! admin's, is what permits it. Start reading at [`run`], then [`round`].

mod args;
mod ends;
mod identity;
mod meter;
mod place;
mod plan_view;
mod result_view;
mod round;
mod serve;

pub(crate) use args::SyncArgs;

use std::time::Duration;

use anyhow::Result;
use ds_link::Endpoint;
use ds_transfer::tree::Route;
use ds_zfs::LocalTree;
use tokio_util::sync::CancellationToken;

use self::{
    args::{RunArgs, SyncRole},
    ends::Ends,
    place::{Far, Place},
    round::{Outcome, Rounds},
};
use crate::{
    args::Globals,
    context::{Context, Usage},
    roles::{log_from, runtime, until_stopped, with_metrics},
};

/// Some of it is done, and some is not.
const PARTLY_DONE: u8 = 3;

/// Runs the command; gives its exit code.
pub(crate) fn run(args: SyncArgs, globals: Globals) -> Result<u8> {
    if let Some(SyncRole::Serve(args)) = args.role {
        return serve::run(args).map(|()| 0);
    }
    let args = args.run;
    log_from(if args.every.is_some() { "info" } else { "warn" })?;
    args.metrics.install();
    let stop = CancellationToken::new();
    let metrics = args.metrics.clone();
    let work = async {
        let outcome = sync(&args, globals, &stop).await?;
        Ok(outcome)
    };
    let outcome = runtime("sync")?.block_on(until_stopped(&stop, with_metrics(metrics, work)))?;
    Ok(match outcome {
        Outcome::Done => 0,
        Outcome::Partly => PARTLY_DONE,
        Outcome::Failed => 1,
    })
}

async fn sync(args: &RunArgs, globals: Globals, stop: &CancellationToken) -> Result<Outcome> {
    let context = Context::new(globals)?;
    let (here, far, pushes) = sides(args)?;
    let identity = identity::find(&args.state, args.identity.as_deref(), args.token.as_deref()).await?;
    let endpoint = Endpoint::client(&identity)?;
    let local = LocalTree::open(here).await?;
    let ends = Ends::open(&context, &endpoint, identity.peer().node, &far, pushes).await?;
    let route = match ends.trees() {
        trees if pushes == Pushes::Yes => Route::Push { from: local, to: trees },
        mut trees => Route::Pull { from: trees.remove(0).1, to: local, name: here.to_owned() },
    };
    let rounds = Rounds { args, context: &context, route, stop };
    tokio::select! {
        outcome = rounds.run() => outcome,
        never = ends.keep_fresh(&context) => match never {},
    }
}

/// Whether the local tree is the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pushes {
    Yes,
    No,
}

/// The local tree, the far ones, and which way it goes.
fn sides(args: &RunArgs) -> Result<(&str, Vec<Far>, Pushes)> {
    let usage = |text: &str| Err(Usage(text.to_owned()).into());
    let (Some(source), Some(target)) = (&args.source, &args.target) else {
        return usage("a source and a target are required");
    };
    match (source, target) {
        (Place::Here(source), Place::There(target)) => {
            let mut far = vec![target.clone()];
            for place in &args.to {
                let Place::There(place) = place else {
                    return usage(
                        "--to takes a further target at another node, such as alpha@10.0.0.7:photos",
                    );
                };
                far.push(place.clone());
            }
            Ok((source, far, Pushes::Yes))
        }
        (Place::There(_), Place::Here(_)) if !args.to.is_empty() => {
            usage("--to is for a push: what is fetched comes to one place")
        }
        (Place::There(_), Place::Here(_)) if args.keep_source.is_some() => {
            usage("--keep-source is for a push: nothing is destroyed at a source that is elsewhere")
        }
        (Place::There(source), Place::Here(target)) => Ok((target, vec![source.clone()], Pushes::No)),
        (Place::Here(_), Place::Here(_)) => {
            usage("one of the two has to be at another node: write it as store:NAME or RUNNER@HOST:NAME")
        }
        (Place::There(_), Place::There(_)) => {
            usage("one of the two has to be a dataset of this machine: run ds sync on the machine of one end")
        }
    }
}

/// Between two tries to get a fresh ticket.
const RETRY: Duration = Duration::from_secs(30);
