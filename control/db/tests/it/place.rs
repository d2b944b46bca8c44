//! What every scenario starts with.

use std::collections::BTreeMap;

use ds_db::{Committed, Db, FinishTask, NewCommit, NewProject, NewRunner, NewTask, TaskEnd, TokenHash};
use ds_domain::{
    CommitId, ProjectId, RunId, RunnerId, SnapshotId, TaskId, UserId, VolumeId,
    api::{ChangeKind, FileChange, Run, RunFile, User},
    task::{Outcome, TaskSpec},
};
use uuid::Uuid;

/// Where a scenario's own, empty database is.
pub(crate) struct Place {
    url: String,
}

impl Place {
    pub(crate) fn new(url: String) -> Self {
        Self { url }
    }

    pub(crate) async fn open(&self) -> Db {
        Db::connect(&self.url).await.unwrap()
    }

    pub(crate) async fn world(&self) -> World {
        World::new(self.open().await).await
    }
}

/// A user, a project of theirs, and a runner.
pub(crate) struct World {
    pub(crate) db: Db,
    pub(crate) user: User,
    pub(crate) project: ProjectId,
    pub(crate) volume: VolumeId,
    pub(crate) first: CommitId,
    pub(crate) runner: RunnerId,
}

pub(crate) fn user(name: &str) -> User {
    User { id: UserId(Uuid::new_v4()), username: name.into(), admin: false, created_ms: 1 }
}

pub(crate) fn project(owner: &User, name: &str) -> NewProject {
    NewProject {
        id: ProjectId(Uuid::new_v4()),
        name: name.into(),
        description: "digits".into(),
        owner: owner.id,
        workspace: VolumeId(Uuid::new_v4()),
        commit: CommitId(Uuid::new_v4()),
        snapshot: SnapshotId(Uuid::new_v4()),
        guid: u64::MAX,
        created_ms: 1,
    }
}

pub(crate) fn runner(name: &str, token: u8) -> NewRunner {
    let token = TokenHash([token; 32]);
    NewRunner {
        id: RunnerId(Uuid::new_v4()),
        name: name.into(),
        token,
        token_expires_ms: 1000,
        created_ms: 1,
    }
}

pub(crate) fn change(path: &str, change: ChangeKind) -> FileChange {
    FileChange { path: path.into(), change, size_bytes: 7 }
}

impl World {
    async fn new(db: Db) -> Self {
        let user = user("ada");
        db.create_user(&user, "hash").await.unwrap();
        let project = project(&user, "digits");
        db.create_project(&project).await.unwrap();
        let runner = runner("box", 1);
        db.create_runner(&runner).await.unwrap();
        let (volume, first) = (project.workspace, project.commit);
        Self { db, user, project: project.id, volume, first, runner: runner.id }
    }

    /// A commit that nobody has recorded yet.
    pub(crate) fn commit(&self, parent: CommitId, changes: Vec<FileChange>) -> NewCommit {
        NewCommit {
            id: CommitId(Uuid::new_v4()),
            volume: self.volume,
            snapshot: SnapshotId(Uuid::new_v4()),
            guid: 42,
            parent,
            message: "upload".into(),
            author: "ada".into(),
            task: None,
            changes,
            created_ms: 5,
        }
    }

    pub(crate) fn task(&self) -> NewTask {
        NewTask {
            id: TaskId(Uuid::new_v4()),
            project: self.project,
            author: self.user.id,
            spec: TaskSpec { command: vec!["python".into(), "train.py".into()], ..TaskSpec::default() },
            result: SnapshotId(Uuid::new_v4()),
            created_ms: 10,
        }
    }

    /// A task that the runner has.
    pub(crate) async fn started(&self) -> NewTask {
        let task = self.task();
        assert!(self.db.create_task(&task).await.unwrap());
        assert!(self.db.assign_task(task.id, self.runner).await.unwrap().is_some());
        task
    }

    pub(crate) fn run(&self, commit: CommitId, task: Option<TaskId>) -> Run {
        Run {
            id: RunId(Uuid::new_v4()),
            project: self.project,
            commit,
            task,
            authority: "workload".into(),
            author: "ada".into(),
            description: "a run".into(),
            workload_file: Some("train.py".into()),
            error: None,
            success: true,
            start: Some("20260102T030405.000006".into()),
            end: None,
            parameters: BTreeMap::new(),
            metrics: BTreeMap::new(),
            labels: BTreeMap::new(),
            inputs: Vec::new(),
            outputs: Vec::new(),
            conflicts: vec!["x: changed, but no run declared it".into()],
            branch: None,
            created_ms: 20,
        }
    }

    /// The end of a task with one run that wrote `m.pkl`.
    pub(crate) async fn finish(&self, task: &NewTask) -> FinishTask {
        let base = self.db.task(task.id).await.unwrap().base.unwrap();
        let commit = NewCommit {
            snapshot: task.result,
            task: Some(task.id),
            ..self.commit(base, vec![change("m.pkl", ChangeKind::Added)])
        };
        let output = RunFile { path: "m.pkl".into(), commit: Some(commit.id), written_by: None };
        let input = RunFile { path: "data.csv".into(), commit: Some(base), written_by: None };
        let mut run = self.run(commit.id, Some(task.id));
        run.outputs = vec![output];
        run.inputs = vec![input];
        run.metrics = BTreeMap::from([("accuracy".into(), "0.97".into())]);
        let end = TaskEnd {
            outcome: Outcome::Succeeded,
            exit_code: Some(0),
            error: String::new(),
            warnings: vec!["a warning".into()],
            started_ms: Some(12),
            ended_ms: 15,
        };
        let otherwise = self.run(commit.id, Some(task.id));
        FinishTask { task: task.id, end, committed: Some(Committed { commit, runs: vec![run], otherwise }) }
    }
}

/// A commit's metadata that says which runs it has.
pub(crate) fn metadata(runs: &[Run]) -> BTreeMap<String, String> {
    let ids: Vec<String> = runs.iter().map(|run| run.id.to_string()).collect();
    BTreeMap::from([("runs".into(), ids.join(","))])
}
