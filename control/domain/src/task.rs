//! A task's life.
//!
//! ```text
//! queued ──▶ scheduled ──▶ running ──▶ ended(outcome)
//!   └───────────┴─────────────┴──────────▲  cancel, or the runner is gone for good
//! ```
//!
//! `running` covers all that the runner does for it; the [`Phase`] says what.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Bytes of log that are kept of one task: 1 GiB. The runner ends a task that writes more, and the hub stores no more.
pub const MAX_TASK_LOG: u64 = 1 << 30;

/// What stands for the value of an environment variable where it is not shown.
pub const HIDDEN: &str = "***";

/// Where a task is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Waits for a runner; the task's `waiting` says why.
    Queued,
    /// Has a runner, which has not said yet that it took it.
    Scheduled,
    /// The runner works on it.
    Running,
    /// Over; has an [`Outcome`].
    Ended,
}

impl State {
    /// Whether a task may go from this state to `next`.
    #[expect(clippy::match_same_arms, reason = "the second arm has a reason of its own")]
    pub fn allows(self, next: Self) -> bool {
        use State::{Ended, Queued, Running, Scheduled};
        match (self, next) {
            (Queued, Scheduled | Ended) | (Running, Running | Ended) => true,
            // A runner that was told and is gone before it answered gives the task back.
            (Scheduled, Queued | Running | Ended) => true,
            _ => false,
        }
    }

    /// The name in the database and the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Scheduled => "scheduled",
            Self::Running => "running",
            Self::Ended => "ended",
        }
    }

    /// Reads [`State::as_str`].
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Queued, Self::Scheduled, Self::Running, Self::Ended].into_iter().find(|s| s.as_str() == text)
    }
}

/// What the runner does for a running task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Receives the workspace.
    Syncing,
    /// Pulls the image.
    Pulling,
    /// The container runs.
    Running,
    /// Takes the snapshot and sends it to the store.
    Committing,
}

impl Phase {
    /// The name in the database and the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Syncing => "syncing",
            Self::Pulling => "pulling",
            Self::Running => "running",
            Self::Committing => "committing",
        }
    }

    /// Reads [`Phase::as_str`].
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Syncing, Self::Pulling, Self::Running, Self::Committing]
            .into_iter()
            .find(|p| p.as_str() == text)
    }
}

/// How a task ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The command returned 0.
    Succeeded,
    /// The command returned something else.
    Failed,
    /// A person ended it.
    Cancelled,
    /// Its time limit ended it.
    TimedOut,
    /// The command could not be run or its result not be kept; the task's error says what to do.
    Error,
}

impl Outcome {
    /// The name in the database and the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::TimedOut => "timed_out",
            Self::Error => "error",
        }
    }

    /// Reads [`Outcome::as_str`].
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Succeeded, Self::Failed, Self::Cancelled, Self::TimedOut, Self::Error]
            .into_iter()
            .find(|o| o.as_str() == text)
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What to execute, and on what kind of machine.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct TaskSpec {
    /// Program and arguments, not passed through a shell. At least one.
    pub command: Vec<String>,
    /// The container image. Empty: the hub's default image.
    pub image: String,
    /// Environment variables of the command.
    pub environment: BTreeMap<String, String>,
    /// CPUs that it may use, such as 1.5. Absent: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpus: Option<f64>,
    /// Memory that it may use, in bytes. Absent: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// GPUs that it gets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpus: Option<Gpus>,
    /// Seconds after which the command is ended. Absent: never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_seconds: Option<u64>,
    /// Labels that the runner must have, with these values.
    pub labels: BTreeMap<String, String>,
    /// Git repository to check out into the workspace first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repository: Option<Repository>,
}

/// A share of a machine's GPUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Gpus {
    /// All of them; at least one.
    All,
    /// This many.
    Count(u32),
}

/// A git repository at a point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Repository {
    /// What `git fetch` takes.
    pub url: String,
    /// Branch, tag or commit. Empty: the repository's own default.
    #[serde(default)]
    pub reference: String,
}

impl Repository {
    /// Refuses credentials in the address: everybody who may see the task would see them too.
    fn validate(&self) -> Result<(), String> {
        let Some((scheme, rest)) = self.url.split_once("://") else { return Ok(()) };
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let Some((user, host)) = authority.rsplit_once('@') else { return Ok(()) };
        // With SSH a bare user name is part of the place and proves nothing.
        if matches!(scheme, "ssh" | "git+ssh") && !user.contains(':') {
            return Ok(());
        }
        Err(format!(
            "the address of the repository at {host} contains a user name or a password, which whoever sees the task would \
             see: leave them out, and use a deploy key, or an environment variable that the command reads"
        ))
    }
}

impl TaskSpec {
    /// Keeps the names of the environment's variables and hides their values: for whoever may not start tasks.
    pub fn hide_environment(&mut self) {
        for value in self.environment.values_mut() {
            HIDDEN.clone_into(value);
        }
    }

    /// Checks what can be checked before a machine is involved; the text is for the person who asked.
    pub fn validate(&self) -> Result<(), String> {
        if self.command.first().is_none_or(String::is_empty) {
            return Err("the command is empty: give a program to run, such as `python train.py`".into());
        }
        if let Some(cpus) = self.cpus
            && !(cpus.is_finite() && cpus > 0.0)
        {
            return Err(format!("cpus is {cpus}: give a number above 0, such as 1.5"));
        }
        if let Some(name) = self.environment.keys().find(|k| k.is_empty() || k.contains(['=', '\0'])) {
            return Err(format!("{name:?} cannot be the name of an environment variable"));
        }
        if self.command.iter().chain(self.environment.values()).any(|s| s.contains('\0')) {
            return Err("the command or an environment variable contains a NUL character".into());
        }
        if self.memory_bytes.is_some_and(|m| m < 6 << 20) {
            return Err("memory is below 6 MiB, the least that Docker accepts".into());
        }
        if let Some(repository) = &self.repository {
            repository.validate()?;
        }
        if self.timeout_seconds == Some(0) {
            return Err("a timeout of 0 seconds would end the task at once: leave it out for none".into());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_follows_the_end() {
        for next in [State::Queued, State::Scheduled, State::Running, State::Ended] {
            assert!(!State::Ended.allows(next));
        }
        assert!(State::Queued.allows(State::Scheduled));
        assert!(!State::Queued.allows(State::Running));
    }

    #[test]
    fn a_spec_without_a_command_is_refused() {
        assert!(TaskSpec::default().validate().unwrap_err().contains("command is empty"));
        let spec = TaskSpec { command: vec!["true".into()], cpus: Some(f64::NAN), ..TaskSpec::default() };
        assert!(spec.validate().is_err());
    }

    #[test]
    fn an_address_with_credentials_is_refused() {
        let check = |url: &str| Repository { url: url.into(), reference: String::new() }.validate();
        for url in [
            "https://github.com/a/b",
            "https://host:8443/a@b",
            "git@github.com:a/b.git",
            "ssh://git@host/a/b",
            "/srv/git/a@b",
        ] {
            assert_eq!(check(url), Ok(()), "{url}");
        }
        for url in
            ["https://token@host/a", "https://ann:pw@host/a", "ssh://ann:pw@host/a", "http://a:b@c@host?x"]
        {
            let refused = check(url).unwrap_err();
            assert!(refused.contains("deploy key") && !refused.contains("pw"), "{refused}");
        }
    }
}
