//! Questions to the person at the terminal. They go over `/dev/tty`, so that stdin and stdout stay free for data.

use std::{
    fs::File,
    io::{BufRead, BufReader, Write},
};

use anyhow::{Context as _, Result, bail};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

use crate::context::Usage;

/// Asks for one line.
pub(crate) async fn line(question: &str) -> Result<String> {
    ask(question, "give it on the command line").await
}

/// Makes sure that somebody means it: they have to type `name`.
pub(crate) async fn confirm(what: &str, name: &str) -> Result<()> {
    let typed = ask(&format!("{what} Type {name} to go on: "), "use --yes").await?;
    if typed.trim() != name {
        bail!("that is not {name}: nothing was done");
    }
    Ok(())
}

/// Asks for one line that is not shown.
pub(crate) async fn secret(question: &str) -> Result<String> {
    let terminal = terminal("use --password-stdin")?;
    let hidden = Hidden::new(terminal)?;
    let answer = ask(question, "use --password-stdin").await;
    drop(hidden);
    // The line feed that was typed was not shown either.
    eprintln!();
    answer
}

/// Reads a password that another program wrote to stdin: its first line.
pub(crate) fn secret_from_stdin() -> Result<String> {
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line).context("cannot read the password from stdin")?;
    let secret = line.trim_end_matches(['\r', '\n']).to_owned();
    if secret.is_empty() {
        bail!(Usage("there was no password on stdin".into()));
    }
    Ok(secret)
}

async fn ask(question: &str, otherwise: &str) -> Result<String> {
    let mut terminal = terminal(otherwise)?;
    terminal.write_all(question.as_bytes())?;
    let read = tokio::task::spawn_blocking(move || {
        let mut line = String::new();
        BufReader::new(terminal).read_line(&mut line).map(|_| line)
    });
    let line = tokio::select! {
        line = read => line.context("the thread that reads the terminal panicked")??,
        // Caught here, so that a hidden prompt gives the terminal back before the program ends.
        _ = tokio::signal::ctrl_c() => bail!("interrupted"),
    };
    if line.is_empty() {
        bail!("the terminal was closed before an answer");
    }
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

fn terminal(otherwise: &str) -> Result<File> {
    let open = File::options().read(true).write(true).open("/dev/tty");
    open.map_err(|_| Usage(format!("there is no terminal to ask on: {otherwise}")).into())
}

/// A terminal that does not show what is typed, until dropped.
struct Hidden {
    terminal: File,
    before: Termios,
}

impl Hidden {
    fn new(terminal: File) -> Result<Self> {
        let before = tcgetattr(&terminal).context("cannot read the terminal's settings")?;
        let mut hidden = before.clone();
        hidden.local_modes.remove(LocalModes::ECHO);
        tcsetattr(&terminal, OptionalActions::Flush, &hidden).context("cannot hide what is typed")?;
        Ok(Self { terminal, before })
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        // Nothing better can be done if the terminal is gone.
        let _ = tcsetattr(&self.terminal, OptionalActions::Now, &self.before);
    }
}
