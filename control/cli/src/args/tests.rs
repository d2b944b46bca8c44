//! Each verb parses as its help says.

use clap::{CommandFactory, Parser};

use super::*;

fn leaves(command: &clap::Command, path: &str, found: &mut Vec<(String, clap::Command)>) {
    let path = format!("{path} {}", command.get_name());
    if !command.has_subcommands() {
        found.push((path.clone(), command.clone()));
    }
    for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
        leaves(sub, &path, found);
    }
}

fn verbs() -> Vec<(String, clap::Command)> {
    let mut found = Vec::new();
    leaves(&Cli::command(), "", &mut found);
    found
}

#[test]
fn the_tree_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn every_verb_has_an_example_and_every_flag_a_help() {
    for (path, mut command) in verbs() {
        let help = command.render_long_help().to_string();
        assert!(help.contains("Example"), "{path} has no example");
        assert!(!help.contains('\\'), "{path} shows an escape of its source: {help}");
        assert!(command.get_about().is_some(), "{path} does not say what it does");
        for argument in command.get_arguments().filter(|a| !a.is_hide_set()) {
            assert!(argument.get_help().is_some(), "{path}: {} has no help", argument.get_id());
        }
    }
}

#[test]
fn every_example_that_is_a_call_parses() {
    let mut count = 0;
    for (path, command) in verbs() {
        let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        for line in help.lines().map(str::trim).filter(|line| line.starts_with("ds ")) {
            // What follows two spaces or a shell's operator is not the call.
            let call = line.split("  ").next().unwrap().split([';', '<', '>', '&']).next().unwrap();
            let words = call.split_whitespace().map(|word| word.trim_matches('\''));
            // A quoted word with spaces in it is not taken apart here.
            if line.contains('\'') {
                continue;
            }
            if let Err(error) = Cli::try_parse_from(words) {
                panic!("{path}: {line:?} does not parse: {error}");
            }
            count += 1;
        }
    }
    assert!(count > 30, "only {count} examples were found");
}

#[test]
fn wrong_usage_is_refused() {
    for line in [
        "ds",
        "ds run",
        "ds run --gpus none true",
        "ds run --typo python",
        "ds runs compare one",
        "ds project member set digits bob god",
        "ds runs ls digits -p other",
        "ds set server-url hub",
        "ds files cat digits",
        "ds dataset push images",
        "ds dataset member set images bob god",
        "ds hub",
        "ds hub --no-store",
        "ds hub --dataset p/s --no-store --store 10.0.0.5:7602",
        "ds hub --dataset p/s --http nowhere",
        "ds runner run",
        "ds runner run --dataset p/r --slots 0",
    ] {
        let error = Cli::try_parse_from(line.split(' ')).map(drop).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{line}");
    }
}

#[test]
fn json_goes_anywhere_before_the_tasks_command() {
    for line in ["ds --json runs ls", "ds runs --json ls", "ds runs ls --json", "ds run --json -- true"] {
        assert!(Cli::try_parse_from(line.split(' ')).unwrap().globals.json, "{line}");
    }
    assert!(!Cli::try_parse_from("ds run python --json".split(' ')).unwrap().globals.json);
}
