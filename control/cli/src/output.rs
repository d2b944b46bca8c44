//! What is printed: data on stdout, everything else on stderr, colour only where a person sees it.

use std::{
    fmt::Display,
    io::{self, IsTerminal, Write},
    os::fd::AsFd,
};

use anyhow::{Context as _, Result};
use serde::Serialize;

pub(crate) mod table;
pub(crate) mod text;

pub(crate) use table::Table;

/// Whoever read stdout has gone, as `head` does. Ends the program without a word.
#[derive(Debug, thiserror::Error)]
#[error("stdout is closed")]
pub(crate) struct StdoutClosed;

/// Where output goes and how it may look.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    /// Print the API's objects instead of text for people.
    pub(crate) json: bool,
    stdout: Look,
    stderr: Look,
}

#[derive(Debug, Clone, Copy)]
struct Look {
    color: bool,
    /// Columns; `None` where it is no terminal and lines may be as long as they are.
    width: Option<u16>,
}

impl Output {
    /// Looks at stdout, stderr and `NO_COLOR`.
    pub(crate) fn detect(json: bool) -> Self {
        Self { json, stdout: Look::of(&io::stdout()), stderr: Look::of(&io::stderr()) }
    }

    /// A line, or several, on stdout.
    #[expect(clippy::unused_self, reason = "whoever prints has to hold the output")]
    pub(crate) fn print(&self, text: impl Display) -> Result<()> {
        let mut stdout = io::stdout().lock();
        writeln!(stdout, "{text}").and_then(|()| stdout.flush()).map_err(closed)
    }

    /// An object of the API on stdout.
    pub(crate) fn print_json(&self, value: &impl Serialize) -> Result<()> {
        self.print(serde_json::to_string_pretty(value)?)
    }

    /// A table on stdout, as wide as the terminal allows.
    pub(crate) fn print_table(&self, table: &Table) -> Result<()> {
        self.print(table.render(self.stdout.width, self.stdout.color))
    }

    /// Named values on stdout, one a line; the empty ones are left out.
    pub(crate) fn print_fields(&self, fields: &[(&str, String)]) -> Result<()> {
        let width = fields.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        for (name, value) in fields.iter().filter(|(_, value)| !value.is_empty()) {
            let padding = " ".repeat(width - name.len());
            self.print(format_args!("{}{padding}  {}", self.bold(name), text::plain(value)))?;
        }
        Ok(())
    }

    /// A heading on stdout, after an empty line.
    pub(crate) fn print_heading(&self, heading: &str) -> Result<()> {
        self.print(format_args!("\n{}", self.bold(heading)))
    }

    /// A line on stderr.
    #[expect(clippy::unused_self, reason = "whoever prints has to hold the output")]
    pub(crate) fn note(&self, text: impl Display) {
        // There is nowhere left to say that stderr is closed.
        let _ = writeln!(io::stderr(), "{text}");
    }

    /// A line on stderr that should be seen.
    pub(crate) fn warn(&self, text: impl Display) {
        self.note(format_args!("{} {text}", paint("warning:", "33", self.stderr.color)));
    }

    /// A table on stderr.
    pub(crate) fn note_table(&self, table: &Table) {
        self.note(table.render(self.stderr.width, self.stderr.color));
    }

    fn bold(&self, text: &str) -> String {
        paint(text, "1", self.stdout.color)
    }
}

impl Look {
    fn of(stream: &(impl IsTerminal + AsFd)) -> Self {
        let terminal = stream.is_terminal();
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let size = if terminal { rustix::termios::tcgetwinsize(stream).ok() } else { None };
        Self {
            color: terminal && !no_color && std::env::var_os("TERM").is_some_and(|term| term != "dumb"),
            width: size.map(|size| size.ws_col).filter(|width| *width > 0),
        }
    }
}

/// Stdout for bytes that are passed on as they are, written off the async threads.
pub(crate) fn raw_stdout() -> Result<tokio::fs::File> {
    raw(&io::stdout())
}

/// Likewise stderr.
pub(crate) fn raw_stderr() -> Result<tokio::fs::File> {
    raw(&io::stderr())
}

fn raw(stream: &impl AsFd) -> Result<tokio::fs::File> {
    let fd = stream.as_fd().try_clone_to_owned().context("cannot duplicate a standard stream")?;
    Ok(tokio::fs::File::from_std(fd.into()))
}

/// Says on stderr why the program failed.
pub(crate) fn report(error: &anyhow::Error) {
    let color = Look::of(&io::stderr()).color;
    let message = text::plain_lines(&format!("{error:#}"));
    let _ = writeln!(io::stderr(), "{} {message}", paint("error:", "1;31", color));
}

/// The error of a write to stdout; [`StdoutClosed`] where nobody reads it any more.
pub(crate) fn closed(error: io::Error) -> anyhow::Error {
    if error.kind() == io::ErrorKind::BrokenPipe {
        StdoutClosed.into()
    } else {
        anyhow::Error::new(error).context("cannot write to stdout")
    }
}

fn paint(text: &str, code: &str, color: bool) -> String {
    if color { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
}
