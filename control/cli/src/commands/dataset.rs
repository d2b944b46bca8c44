//! `ds dataset`.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use ds_domain::api::{CloneDataset, Commit, CreateDataset, Dataset, Page};

use super::{
    commit, files,
    members::{self, AccessName},
    upload::upload,
};
use crate::{
    context::{Context, Usage},
    output::{Table, text},
    prompt,
};

#[derive(Debug, Subcommand)]
pub(crate) enum DatasetCommand {
    /// Make an empty dataset.
    Create(CreateArgs),
    /// List the datasets that you can see.
    #[command(after_help = "Example:\n  ds dataset ls")]
    Ls,
    /// List a dataset's commits, newest first.
    Log(LogArgs),
    /// Add the content of a folder, or one file, and commit.
    Push(PushArgs),
    /// Download the files of a commit.
    Pull(PullArgs),
    /// Make a dataset that begins with what another one has; no byte is copied.
    Clone(CloneArgs),
    /// Delete a dataset with its commits and files, for good.
    Rm(RemoveArgs),
    /// Who may do what in a dataset.
    #[command(subcommand)]
    Member(MemberCommand),
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  ds dataset create images --description 'Street scenes'")]
pub(crate) struct CreateArgs {
    /// Letters, digits, `-`, `_` and `.`; unique among the hub's datasets and projects.
    name: String,
    /// One line for people.
    #[arg(long, default_value = "", hide_default_value = true)]
    description: String,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  ds dataset log images --limit 5")]
pub(crate) struct LogArgs {
    /// Dataset, by name or id.
    dataset: String,
    /// At most so many.
    #[arg(long, value_name = "N", default_value_t = 20)]
    limit: usize,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  ds dataset push images ./pictures -m 'two more streets'
  ds dataset push images labels.csv --into meta

Files that are there already are replaced; those that are not here stay. If somebody else pushes meanwhile, this is \
refused and can be tried again.")]
pub(crate) struct PushArgs {
    /// Dataset, by name or id.
    dataset: String,
    /// A folder, whose content is sent, or a file.
    path: PathBuf,
    /// What the commit is to say. Without it: how many files came.
    #[arg(short, long, default_value = "", hide_default_value = true)]
    message: String,
    /// The folder of the dataset to put it into.
    #[arg(long, value_name = "DIR", default_value = "", hide_default_value = true)]
    into: String,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  ds dataset pull images                       into the folder images
  ds dataset pull images@5d6e7f80 /tmp/then --only train/street1

Files that are there already are replaced, each in one step. Links are not downloaded.")]
pub(crate) struct PullArgs {
    /// Dataset, by name or id; the newest commit, or the one after the `@`, by its id or the first characters of it.
    #[arg(value_name = "DATASET[@COMMIT]")]
    source: String,
    /// The folder to put them into. Without it: one of the dataset's name.
    path: Option<PathBuf>,
    /// A file or folder of the dataset, instead of all of it.
    #[arg(long, value_name = "PATH", default_value = "", hide_default_value = true)]
    only: String,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  ds dataset clone images images-cleaned
  ds dataset clone images@5d6e7f80 images-then

The two share their blocks, so that it takes no time and room only for what is changed. A dataset cannot be removed before \
its clones.")]
pub(crate) struct CloneArgs {
    /// Dataset, by name or id; its newest commit, or the one after the `@`.
    #[arg(value_name = "DATASET[@COMMIT]")]
    source: String,
    /// The new dataset's name.
    name: String,
    /// One line for people.
    #[arg(long, default_value = "", hide_default_value = true)]
    description: String,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  ds dataset rm images             asks for the name again
  ds dataset rm images --yes

Refused while datasets are there that were cloned from it. The store drops the files within half an hour.")]
pub(crate) struct RemoveArgs {
    /// Dataset, by name or id.
    dataset: String,
    /// Do not ask.
    #[arg(short, long)]
    yes: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum MemberCommand {
    /// Add somebody, or change what they may do.
    #[command(after_help = "Example:\n  ds dataset member set images bob editor")]
    Set {
        /// Dataset, by name or id.
        dataset: String,
        /// Who.
        username: String,
        /// What they may do: viewers read and clone, editors push, owners manage.
        access: AccessName,
    },
    /// Take somebody out.
    #[command(after_help = "Example:\n  ds dataset member rm images bob")]
    Rm {
        /// Dataset, by name or id.
        dataset: String,
        /// Who.
        username: String,
    },
    /// List the members.
    #[command(after_help = "Example:\n  ds dataset member ls images")]
    Ls {
        /// Dataset, by name or id.
        dataset: String,
    },
}

pub(crate) async fn run(context: &Context, command: DatasetCommand) -> Result<()> {
    match command {
        DatasetCommand::Create(args) => create(context, args).await,
        DatasetCommand::Ls => list(context).await,
        DatasetCommand::Log(args) => log(context, &args).await,
        DatasetCommand::Push(args) => push(context, &args).await,
        DatasetCommand::Pull(args) => pull(context, &args).await,
        DatasetCommand::Clone(args) => clone(context, args).await,
        DatasetCommand::Rm(args) => remove(context, &args).await,
        DatasetCommand::Member(command) => member(context, command).await,
    }
}

async fn create(context: &Context, args: CreateArgs) -> Result<()> {
    let request = CreateDataset { name: args.name, description: args.description };
    let dataset: Dataset = context.client.post(&["datasets"]).body(&request).json().await?;
    if context.out.json {
        return context.out.print_json(&dataset);
    }
    context.out.note(format_args!("created the dataset {}; try `ds dataset push {0} FOLDER`", dataset.name));
    Ok(())
}

async fn list(context: &Context) -> Result<()> {
    let datasets: Page<Dataset> = context.client.get(&["datasets"]).pages(None).await?;
    if context.out.json {
        return context.out.print_json(&datasets);
    }
    if datasets.items.is_empty() {
        context.out.note("no datasets yet: create one with `ds dataset create NAME`");
        return Ok(());
    }
    let mut table = Table::new(["NAME", "=HEAD", "=CLONED FROM", "=ACCESS", "=CREATED", "DESCRIPTION"]);
    for dataset in datasets.items {
        table.row([
            dataset.name,
            text::short(dataset.head),
            dataset.cloned_from.map(text::short).unwrap_or_default(),
            dataset.access.as_str().into(),
            text::ago(dataset.created_ms),
            dataset.description,
        ]);
    }
    context.out.print_table(&table)
}

async fn log(context: &Context, args: &LogArgs) -> Result<()> {
    let call = context.client.get(&["datasets", &args.dataset, "commits"]);
    commit::print_list(context, call.pages(Some(args.limit)).await?)
}

async fn push(context: &Context, args: &PushArgs) -> Result<()> {
    let place = ["datasets", args.dataset.as_str()];
    let commit = upload(context, place, &args.path, &args.into, &args.message).await?;
    if context.out.json { context.out.print_json(&commit) } else { Ok(()) }
}

async fn pull(context: &Context, args: &PullArgs) -> Result<()> {
    let (dataset, commit) = resolve(context, &args.source).await?;
    let into = args.path.as_deref().unwrap_or(Path::new(&dataset.name));
    files::get(context, &commit, &args.only, into).await
}

async fn clone(context: &Context, args: CloneArgs) -> Result<()> {
    let (source, commit) = split(&args.source)?;
    let commit = commit.map(str::to_owned);
    let request = CloneDataset { name: args.name, description: args.description, commit };
    let dataset: Dataset = context.client.post(&["datasets", source, "clone"]).body(&request).json().await?;
    if context.out.json {
        return context.out.print_json(&dataset);
    }
    context.out.note(format_args!("the dataset {} begins with what {} has", dataset.name, args.source));
    Ok(())
}

async fn remove(context: &Context, args: &RemoveArgs) -> Result<()> {
    let dataset: Dataset = context.client.get(&["datasets", &args.dataset]).json().await?;
    if !args.yes {
        let what = format!("This deletes {} with all commits and all files.", dataset.name);
        prompt::confirm(&what, &dataset.name).await?;
    }
    context.client.delete(&["datasets", &dataset.id.to_string()]).done().await?;
    context.out.note(format_args!("the dataset {} is deleted", dataset.name));
    Ok(())
}

async fn member(context: &Context, command: MemberCommand) -> Result<()> {
    match command {
        MemberCommand::Set { dataset, username, access } => {
            members::set(context, ["datasets", &dataset], &username, access).await
        }
        MemberCommand::Rm { dataset, username } => {
            members::remove(context, ["datasets", &dataset], &username).await
        }
        MemberCommand::Ls { dataset } => members::list(context, ["datasets", &dataset]).await,
    }
}

/// The dataset, and the id of the commit, that `NAME` or `NAME@COMMIT` stands for.
async fn resolve(context: &Context, wanted: &str) -> Result<(Dataset, String)> {
    let (name, commit) = split(wanted)?;
    let dataset: Dataset = context.client.get(&["datasets", name]).json().await?;
    let Some(commit) = commit else {
        let head = dataset.head.to_string();
        return Ok((dataset, head));
    };
    let commit: Commit = context.client.get(&["commits", commit]).json().await?;
    if commit.volume != dataset.id {
        let (commit, name) = (text::short(commit.id), &dataset.name);
        bail!("{commit} is not a commit of the dataset {name}: see `ds dataset log {name}`");
    }
    Ok((dataset, commit.id.to_string()))
}

/// Takes `NAME@COMMIT` apart.
fn split(wanted: &str) -> Result<(&str, Option<&str>)> {
    match wanted.split_once('@') {
        None => Ok((wanted, None)),
        Some((name, commit)) if !name.is_empty() && !commit.is_empty() => Ok((name, Some(commit))),
        Some(_) => {
            Err(Usage(format!("{wanted:?} is not DATASET or DATASET@COMMIT: see `ds dataset log`")).into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_follows_the_name() {
        assert_eq!(split("images").unwrap(), ("images", None));
        assert_eq!(split("images@5d6e").unwrap(), ("images", Some("5d6e")));
        for wrong in ["@5d6e", "images@", "@"] {
            assert!(split(wrong).unwrap_err().to_string().contains("DATASET@COMMIT"), "{wrong}");
        }
    }
}
