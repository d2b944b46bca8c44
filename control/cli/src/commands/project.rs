//! `ds project`.

use anyhow::Result;
use clap::{Args, Subcommand};
use ds_domain::api::{CreateProject, Page, Project};

use super::members::{self, AccessName};
use crate::{
    args::ProjectChoice,
    context::Context,
    output::{Table, text},
    prompt,
};

#[derive(Debug, Subcommand)]
pub(crate) enum ProjectCommand {
    /// Make a project with an empty workspace.
    Create(CreateArgs),
    /// List the projects that you can see.
    #[command(after_help = "Example:\n  ds project ls")]
    Ls,
    /// Show a project.
    #[command(after_help = "Example:\n  ds project show digits")]
    Show(ProjectChoice),
    /// Delete a project with its runs, commits and files, for good.
    Rm(RemoveArgs),
    /// Who may do what in a project.
    #[command(subcommand)]
    Member(MemberCommand),
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  ds project create digits --description 'Which digit is it?'")]
pub(crate) struct CreateArgs {
    /// Letters, digits, `-`, `_` and `.`; unique on the hub.
    name: String,
    /// One line for people.
    #[arg(long, default_value = "", hide_default_value = true)]
    description: String,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  ds project rm digits             asks for the name again
  ds project rm digits --yes

Refused while tasks of the project are not over. The store drops the files within half an hour.")]
pub(crate) struct RemoveArgs {
    /// Project, by name or id.
    project: String,
    /// Do not ask.
    #[arg(short, long)]
    yes: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum MemberCommand {
    /// Add somebody, or change what they may do.
    #[command(after_help = "Example:\n  ds project member set digits bob editor")]
    Set {
        /// Project, by name or id.
        project: String,
        /// Who.
        username: String,
        /// What they may do: viewers read, editors run and upload, owners manage.
        access: AccessName,
    },
    /// Take somebody out.
    #[command(after_help = "Example:\n  ds project member rm digits bob")]
    Rm {
        /// Project, by name or id.
        project: String,
        /// Who.
        username: String,
    },
    /// List the members.
    #[command(after_help = "Example:\n  ds project member ls digits")]
    Ls(ProjectChoice),
}

pub(crate) async fn run(context: &Context, command: ProjectCommand) -> Result<()> {
    match command {
        ProjectCommand::Create(args) => create(context, args).await,
        ProjectCommand::Ls => list(context).await,
        ProjectCommand::Show(choice) => show(context, &choice).await,
        ProjectCommand::Rm(args) => remove(context, &args).await,
        ProjectCommand::Member(command) => member(context, command).await,
    }
}

async fn create(context: &Context, args: CreateArgs) -> Result<()> {
    let request = CreateProject { name: args.name, description: args.description };
    let project: Project = context.client.post(&["projects"]).body(&request).json().await?;
    if context.out.json {
        return context.out.print_json(&project);
    }
    context.out.note(format_args!("created the project {}; try `ds run -p {0} -- COMMAND`", project.name));
    Ok(())
}

async fn list(context: &Context) -> Result<()> {
    let projects: Page<Project> = context.client.get(&["projects"]).pages(None).await?;
    if context.out.json {
        return context.out.print_json(&projects);
    }
    if projects.items.is_empty() {
        context.out.note("no projects yet: create one with `ds project create NAME`");
        return Ok(());
    }
    let mut table = Table::new(["=ID", "NAME", ">RUNS", "=ACCESS", "=CREATED", "DESCRIPTION"]);
    for project in projects.items {
        table.row([
            text::short(project.id),
            project.name,
            project.runs.to_string(),
            project.access.as_str().into(),
            text::ago(project.created_ms),
            project.description,
        ]);
    }
    context.out.print_table(&table)
}

async fn show(context: &Context, choice: &ProjectChoice) -> Result<()> {
    let name = context.project(choice.name()).await?;
    let project: Project = context.client.get(&["projects", &name]).json().await?;
    if context.out.json {
        return context.out.print_json(&project);
    }
    context.out.print_fields(&[
        ("project", project.name),
        ("id", project.id.to_string()),
        ("description", project.description),
        ("head", project.head.to_string()),
        ("workspace", project.workspace.to_string()),
        ("runs", project.runs.to_string()),
        ("your access", project.access.as_str().into()),
        ("created", text::moment(project.created_ms)),
    ])
}

async fn remove(context: &Context, args: &RemoveArgs) -> Result<()> {
    let project: Project = context.client.get(&["projects", &args.project]).json().await?;
    if !args.yes {
        let runs = text::count(project.runs, "run");
        let what = format!("This deletes {} with {runs}, all commits and all files.", project.name);
        prompt::confirm(&what, &project.name).await?;
    }
    context.client.delete(&["projects", &project.id.to_string()]).done().await?;
    context.out.note(format_args!("the project {} is deleted", project.name));
    Ok(())
}

async fn member(context: &Context, command: MemberCommand) -> Result<()> {
    match command {
        MemberCommand::Set { project, username, access } => {
            members::set(context, ["projects", &project], &username, access).await
        }
        MemberCommand::Rm { project, username } => {
            members::remove(context, ["projects", &project], &username).await
        }
        MemberCommand::Ls(choice) => {
            let project = context.project(choice.name()).await?;
            members::list(context, ["projects", &project]).await
        }
    }
}
