//! `ds completions`.

use anyhow::Result;
use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::{args::Cli, output};

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  ds completions bash > /etc/bash_completion.d/ds
  ds completions zsh > ~/.zfunc/_ds
  ds completions fish > ~/.config/fish/completions/ds.fish")]
pub(crate) struct CompletionsArgs {
    /// Which shell.
    shell: Shell,
}

pub(crate) fn print(args: &CompletionsArgs) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "ds", &mut script);
    std::io::Write::write_all(&mut std::io::stdout(), &script).map_err(output::closed)
}
