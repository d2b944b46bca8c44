//! What the hub asked for, parsed once where it comes in.

use std::collections::BTreeMap;

use ds_domain::{
    NodeId, SnapshotId, TaskId, VolumeId,
    task::{Gpus, Repository},
};
use ds_proto::v1;
use serde::{Deserialize, Serialize};

/// All that a runner has to know of a task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Spec {
    pub(crate) task: TaskId,
    /// The workspace.
    pub(crate) volume: VolumeId,
    /// The snapshot that the clone is made of.
    pub(crate) base: SnapshotId,
    /// The id of the snapshot that the task will make.
    pub(crate) result: SnapshotId,
    pub(crate) image: String,
    pub(crate) command: Vec<String>,
    pub(crate) environment: BTreeMap<String, String>,
    pub(crate) cpus: Option<f64>,
    pub(crate) memory_bytes: Option<u64>,
    pub(crate) gpus: Option<Gpus>,
    pub(crate) timeout_seconds: Option<u64>,
    pub(crate) repository: Option<Repository>,
    pub(crate) project: String,
    pub(crate) store: StoreTarget,
}

/// The store that has the base and is to have the result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct StoreTarget {
    pub(crate) node: NodeId,
    /// `host:port`; an empty or unspecified host means the hub's own.
    pub(crate) address: String,
}

/// The number that stands for "all GPUs" on the wire.
const ALL_GPUS: u32 = u32::MAX;

impl Spec {
    /// Reads a `StartTask`; the error is for the task's author.
    pub(crate) fn from_start(start: v1::StartTask) -> Result<Self, String> {
        let bad = |what: &str| {
            format!("the hub sent a task with an invalid {what}: are hub and runner of one version?")
        };
        let store = start.store.ok_or_else(|| bad("store"))?;
        if start.command.is_empty() {
            return Err(bad("command"));
        }
        Ok(Self {
            task: TaskId::from_bytes(&start.task_id).map_err(|_| bad("id"))?,
            volume: VolumeId::from_bytes(&start.volume).map_err(|_| bad("volume"))?,
            base: SnapshotId::from_bytes(&start.base).map_err(|_| bad("base"))?,
            result: SnapshotId::from_bytes(&start.result).map_err(|_| bad("result"))?,
            image: start.image,
            command: start.command,
            environment: start.environment.into_iter().collect(),
            cpus: (start.cpus > 0.0).then_some(start.cpus),
            memory_bytes: (start.memory_bytes > 0).then_some(start.memory_bytes),
            gpus: match start.gpus {
                0 => None,
                ALL_GPUS => Some(Gpus::All),
                count => Some(Gpus::Count(count)),
            },
            timeout_seconds: (start.timeout_seconds > 0).then_some(start.timeout_seconds),
            repository: (!start.repository.is_empty())
                .then_some(Repository { url: start.repository, reference: start.reference }),
            project: start.project_name,
            store: StoreTarget::read(store).map_err(|_| bad("store"))?,
        })
    }
}

impl StoreTarget {
    pub(crate) fn read(store: v1::StoreAddress) -> Result<Self, ds_domain::ids::InvalidId> {
        Ok(Self { node: NodeId::from_bytes(&store.node_id)?, address: store.address })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use uuid::Uuid;

    use super::*;

    /// A task that runs `command` in `image`.
    pub(crate) fn start(image: &str, command: &[&str]) -> v1::StartTask {
        let id = || Uuid::new_v4().as_bytes().to_vec();
        v1::StartTask {
            task_id: id(),
            volume: id(),
            base: id(),
            result: id(),
            image: image.into(),
            command: command.iter().map(|word| (*word).to_owned()).collect(),
            project_name: "digits".into(),
            store: Some(v1::StoreAddress { node_id: id(), address: "0.0.0.0:7602".into() }),
            ..v1::StartTask::default()
        }
    }

    #[test]
    fn zero_means_no_limit() {
        let spec = Spec::from_start(start("python", &["true"])).unwrap();
        assert_eq!((spec.cpus, spec.memory_bytes, spec.gpus), (None, None, None));
        assert_eq!((spec.timeout_seconds, spec.repository), (None, None));
        let all = v1::StartTask { gpus: ALL_GPUS, ..start("python", &["true"]) };
        assert_eq!(Spec::from_start(all).unwrap().gpus, Some(Gpus::All));
    }

    #[test]
    fn a_broken_message_is_refused_in_words() {
        let short = v1::StartTask { base: vec![1, 2], ..start("python", &["true"]) };
        assert!(Spec::from_start(short).unwrap_err().contains("invalid base"));
        assert!(Spec::from_start(start("python", &[])).unwrap_err().contains("command"));
    }
}
