//! What a task's container is: image, command, environment, limits, and the clone as its home.

use std::{collections::HashMap, path::Path};

use bollard::models::{
    ContainerCreateBody, DeviceRequest, HostConfig, HostConfigLogConfig, Mount, MountType, RestartPolicy,
    RestartPolicyNameEnum,
};
use ds_domain::task::{Gpus, MAX_TASK_LOG};

use crate::spec::Spec;

/// Where the workspace is in the container.
const HOME: &str = "/home/ds";

/// Bytes of a container's log at which Docker drops it and begins anew, so that no command can fill the machine's disk.
///
/// Before that the log is whole: it is the spool that the runner reads again after a restart. A log that passes
/// [`ds_domain::task::MAX_TASK_LOG`], or half of this file, gets its command ended; the other half is what a command may
/// write until that has happened. One that is faster loses output that nobody keeps: its task has failed by then.
pub(crate) const MAX_LOG_FILE: u64 = 4 * MAX_TASK_LOG;

/// Processes and threads that a task may have at once; enough for any pool of workers, and too few to take the machine's
/// last one.
const PIDS_LIMIT: i64 = 32_768;

/// What Docker gives a container's root by default and a task has no use for: making devices, raw packets (to pose as
/// another machine), writing to the machine's audit log, and giving files capabilities. What is left is what installing
/// packages as root needs: owners, modes, users, chroot, low ports.
const DROPPED_CAPABILITIES: [&str; 4] = ["MKNOD", "NET_RAW", "AUDIT_WRITE", "SETFCAP"];

/// What a container is made of.
#[derive(Debug)]
pub(crate) struct ContainerSpec<'a> {
    pub(crate) task: &'a Spec,
    /// The mounted clone of the workspace.
    pub(crate) clone: &'a Path,
    /// The commit that was checked out into it.
    pub(crate) git_commit: Option<&'a str>,
}

impl ContainerSpec<'_> {
    /// The request to Docker, labels left out.
    pub(crate) fn body(&self) -> ContainerCreateBody {
        ContainerCreateBody {
            image: Some(self.task.image.clone()),
            cmd: Some(self.task.command.clone()),
            env: Some(environment(self.task, self.git_commit)),
            working_dir: Some(HOME.to_owned()),
            // The workspace belongs to root on every runner, so that whatever image comes next can write it.
            user: Some("0:0".to_owned()),
            host_config: Some(self.host()),
            ..ContainerCreateBody::default()
        }
    }

    fn host(&self) -> HostConfig {
        HostConfig {
            mounts: Some(vec![Mount {
                typ: Some(MountType::BIND),
                source: Some(self.clone.to_string_lossy().into_owned()),
                target: Some(HOME.to_owned()),
                ..Mount::default()
            }]),
            // An init process hands signals on and reaps what the command leaves behind.
            init: Some(true),
            nano_cpus: self.task.cpus.map(nano_cpus),
            memory: self.task.memory_bytes.map(limit),
            // The same as `memory`: a limit that swap extends would be no limit.
            memory_swap: self.task.memory_bytes.map(limit),
            device_requests: self.task.gpus.map(|gpus| vec![device_request(gpus)]),
            // `json-file`, Docker's default, replaces every byte that is not UTF-8. `local` keeps them all.
            log_config: Some(HostConfigLogConfig {
                typ: Some("local".to_owned()),
                config: Some(log_options()),
            }),
            restart_policy: Some(RestartPolicy {
                name: Some(RestartPolicyNameEnum::NO),
                ..RestartPolicy::default()
            }),
            privileged: Some(false),
            cap_drop: Some(DROPPED_CAPABILITIES.map(str::to_owned).to_vec()),
            // No program of the image, set-uid or not, makes more of a process than it was.
            security_opt: Some(vec!["no-new-privileges".to_owned()]),
            pids_limit: Some(PIDS_LIMIT),
            ..HostConfig::default()
        }
    }
}

/// One file of that size; nothing is compressed, as that takes a second file.
fn log_options() -> HashMap<String, String> {
    let options =
        [("max-size", MAX_LOG_FILE.to_string()), ("max-file", "1".into()), ("compress", "false".into())];
    HashMap::from(options.map(|(name, value)| (name.to_owned(), value)))
}

/// `KEY=value` for the container. What the task's author sets wins, except over what tells a workload where it is.
fn environment(task: &Spec, git_commit: Option<&str>) -> Vec<String> {
    let mut variables = std::collections::BTreeMap::from([
        ("HOME", HOME),
        // Without it, Python holds back output that is not written to a terminal.
        ("PYTHONUNBUFFERED", "1"),
    ]);
    variables.extend(task.environment.iter().map(|(name, value)| (name.as_str(), value.as_str())));
    let id = task.task.to_string();
    variables.extend([
        ("DOTSCIENCE_WORKLOAD_TYPE", "command"),
        ("DOTSCIENCE_PROJECT_DOT_ROOT", HOME),
        ("DS_TASK_ID", id.as_str()),
        ("DS_PROJECT", task.project.as_str()),
    ]);
    match git_commit {
        Some(commit) => variables.insert("DS_GIT_COMMIT", commit),
        None => variables.remove("DS_GIT_COMMIT"),
    };
    variables.into_iter().map(|(name, value)| format!("{name}={value}")).collect()
}

fn nano_cpus(cpus: f64) -> i64 {
    // A number of CPUs is checked to be finite and above 0 before it gets here; the cast saturates.
    #[expect(clippy::cast_possible_truncation, reason = "saturates, and no machine has that many")]
    let nanos = (cpus * 1e9) as i64;
    nanos
}

fn limit(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

fn device_request(gpus: Gpus) -> DeviceRequest {
    let count = match gpus {
        Gpus::All => -1,
        Gpus::Count(count) => i64::from(count),
    };
    DeviceRequest {
        count: Some(count),
        capabilities: Some(vec![vec!["gpu".to_owned()]]),
        ..DeviceRequest::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::tests::start;

    fn spec(environment: &[(&str, &str)]) -> Spec {
        let mut spec = Spec::from_start(start("python:3.11", &["python", "train.py"])).unwrap();
        spec.environment = environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        spec
    }

    #[test]
    fn the_author_wins_except_over_what_identifies_the_task() {
        let spec = spec(&[
            ("HOME", "/root"),
            ("PYTHONUNBUFFERED", "0"),
            ("DS_TASK_ID", "forged"),
            ("DOTSCIENCE_WORKLOAD_TYPE", "jupyter"),
            ("DS_GIT_COMMIT", "forged"),
            ("DOTSCIENCE_URL", "https://hub"),
            ("EQUALS", "a=b"),
        ]);
        let merged = environment(&spec, None);
        let has = |line: &str| merged.iter().any(|other| other == line);
        assert!(has("HOME=/root") && has("PYTHONUNBUFFERED=0") && has("DOTSCIENCE_URL=https://hub"));
        assert!(has(&format!("DS_TASK_ID={}", spec.task)) && has("DOTSCIENCE_WORKLOAD_TYPE=command"));
        assert!(has("DOTSCIENCE_PROJECT_DOT_ROOT=/home/ds") && has("DS_PROJECT=digits") && has("EQUALS=a=b"));
        assert!(!merged.iter().any(|line| line.contains("forged")));
        assert!(environment(&spec, Some("abc")).contains(&"DS_GIT_COMMIT=abc".to_owned()));
    }

    #[test]
    fn output_of_python_is_live_unless_asked_otherwise() {
        let merged = environment(&spec(&[]), None);
        assert!(
            merged.contains(&"PYTHONUNBUFFERED=1".to_owned()) && merged.contains(&"HOME=/home/ds".to_owned())
        );
    }

    #[test]
    fn limits_become_dockers() {
        let mut spec = spec(&[]);
        (spec.cpus, spec.memory_bytes, spec.gpus) = (Some(1.5), Some(1 << 30), Some(Gpus::All));
        let clone = Path::new("/ds/t/clone");
        let body = ContainerSpec { task: &spec, clone, git_commit: None }.body();
        let host = body.host_config.unwrap();
        assert_eq!((host.nano_cpus, host.memory), (Some(1_500_000_000), Some(1 << 30)));
        assert_eq!(host.device_requests.unwrap()[0].count, Some(-1));
        assert_eq!((host.privileged, host.pids_limit), (Some(false), Some(32_768)));
        assert!(host.cap_drop.unwrap().contains(&"MKNOD".to_owned()));
        assert_eq!(host.mounts.unwrap()[0].source.as_deref(), Some("/ds/t/clone"));
    }
}
