//! The program `ds`: the hub, store and runner roles, and the user's verbs.
//!
//! A verb parses its arguments, asks the hub over HTTP and prints what it said; it knows nothing else about hubs, stores
//! or runners. A role builds a component of another crate from its flags and runs it until a signal ends it. Data goes to
//! stdout, everything else to stderr. Start reading at [`args`], then [`commands`].

use std::process::ExitCode;

use clap::Parser;

mod archive;
mod args;
mod client;
mod commands;
mod config;
mod context;
mod log_stream;
mod output;
mod progress;
mod prompt;
mod roles;
mod sync;

fn main() -> ExitCode {
    let cli = args::Cli::parse();
    match commands::run(cli) {
        Ok(code) => leave(code),
        Err(error) if error.is::<output::StdoutClosed>() => leave(0),
        Err(error) => {
            output::report(&error);
            leave(if error.is::<context::Usage>() { 2 } else { 1 })
        }
    }
}

/// Ends the process without waiting for a thread that still reads the terminal.
fn leave(code: u8) -> ! {
    std::process::exit(code.into())
}
