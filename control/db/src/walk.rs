//! Questions along the line of a commit's ancestors.

use std::collections::{BTreeMap, HashMap, HashSet};

use ds_domain::{
    CommitId, ProjectId, RunId, VolumeId,
    api::{ChangeKind, FileChange, Run, RunFile},
    provenance::{ReadFile, RunFacts},
    record::FileReference,
    task::TaskSpec,
};
use sqlx::any::AnyRow;

use crate::{
    Db, Error, Result,
    commits::change,
    rows::{Columns, IDS, NAME_KEY_BYTES, Sql, id_prefix, key},
};

/// Where a path last changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PathChange {
    /// The commit.
    pub commit: CommitId,
    /// What happened there; `Removed` means that the path does not exist since.
    pub change: ChangeKind,
}

/// Commits that a comparison looks back over.
const MAX_LINE: i64 = 10_000;

/// Which entries of `commit_files` tell of a path.
#[derive(Clone, Copy)]
enum Told {
    /// The path itself.
    File,
    /// What is below it.
    Folder,
}

impl Db {
    /// The newest commit at or before `from`, along its parents, in which `path`, or something below it, changed. `None` if
    /// none did.
    pub async fn newest_change(
        &self,
        volume: VolumeId,
        path: &str,
        from: CommitId,
    ) -> Result<Option<PathChange>> {
        if let Some(found) = self.newest(volume, path, from, Told::File).await? {
            return Ok(Some(found));
        }
        // A folder is there as long as something in it is: what happened in it was a change of it.
        let found = self.newest(volume, path, from, Told::Folder).await?;
        Ok(found.map(|found| PathChange { change: ChangeKind::Modified, ..found }))
    }

    async fn newest(
        &self,
        volume: VolumeId,
        path: &str,
        from: CommitId,
        told: Told,
    ) -> Result<Option<PathChange>> {
        // Most names that were never committed end here, without a walk.
        let mut sql = Sql::new("SELECT f.commit_id FROM commit_files f WHERE ");
        tells(&mut sql, volume, path, told);
        sql.push(" LIMIT 1");
        if sql.query().fetch_optional(self.reader()).await?.is_none() {
            return Ok(None);
        }
        // The walk stops at the first commit that changed the path.
        let mut sql =
            Sql::new("WITH RECURSIVE line (id, parent) AS (SELECT id, parent FROM commits WHERE id = ");
        sql.bind(from.to_string());
        sql.push(" UNION ALL SELECT c.id, c.parent FROM line JOIN commits c ON c.id = line.parent WHERE NOT EXISTS ");
        sql.push("(SELECT 1 FROM commit_files f WHERE f.commit_id = line.id AND ");
        tells(&mut sql, volume, path, told);
        sql.push(
            ")) SELECT f.commit_id, f.kind FROM line JOIN commit_files f ON f.commit_id = line.id WHERE ",
        );
        tells(&mut sql, volume, path, told);
        sql.push(" LIMIT 1");
        let row = sql.query().fetch_optional(self.reader()).await?;
        let read = |row: sqlx::any::AnyRow| {
            Ok(PathChange { commit: row.parsed("commit_id")?, change: row.word("kind", ChangeKind::parse)? })
        };
        row.map(read).transpose()
    }

    /// The run that wrote the version of `path` made in `commit`: the last one of the commit's task that declared it, or a
    /// folder that it is in, as an output; else the task's only run. Of a commit without a task, whichever run declared it.
    pub async fn run_that_wrote(&self, commit: CommitId, path: &str) -> Result<Option<RunId>> {
        let folders = path.match_indices('/').map(|(end, _)| path[..end].to_owned());
        let names: Vec<String> = folders.chain([path.to_owned()]).collect();
        let mut sql = Sql::new(
            "SELECT r.id FROM commits c JOIN runs r ON r.commit_id = c.id \
            JOIN run_files f ON f.run_id = r.id WHERE c.id = ",
        );
        sql.bind(commit.to_string());
        sql.push(" AND (c.task_id IS NULL OR r.task_id = c.task_id) AND f.direction = 'o' AND f.path IN ");
        sql.bind_list(&names).push(" ORDER BY r.no DESC LIMIT 1");
        if let Some(row) = sql.query().fetch_optional(self.reader()).await? {
            return row.parsed("id").map(Some);
        }
        let sql = "SELECT r.id FROM commits c JOIN runs r ON r.task_id = c.task_id WHERE c.id = $1 LIMIT 2";
        let rows = sqlx::query(sql).bind(commit.to_string()).fetch_all(self.reader()).await?;
        match &rows[..] {
            [only] => only.parsed("id").map(Some),
            _ => Ok(None),
        }
    }

    /// Files that differ between two commits, as far as the last 10,000 commits of each record: by path, as seen from
    /// `from` to `to`. The size of a file that differs only because `from` changed it is not known, and 0.
    pub async fn changes_between(&self, from: CommitId, to: CommitId) -> Result<Vec<FileChange>> {
        let (left, right) = (self.line(from).await?, self.line(to).await?);
        let undone = self.net(left.difference(&right)).await?;
        let mut done = self.net(right.difference(&left)).await?;
        for (path, change) in undone {
            let undone = match change.change {
                ChangeKind::Added => ChangeKind::Removed,
                ChangeKind::Modified => ChangeKind::Modified,
                ChangeKind::Removed => ChangeKind::Added,
            };
            let entry = done.entry(path.clone());
            entry.and_modify(|both| both.change = ChangeKind::Modified).or_insert(FileChange {
                path,
                change: undone,
                size_bytes: 0,
            });
        }
        Ok(done.into_values().collect())
    }

    /// A commit and those before it.
    async fn line(&self, from: CommitId) -> Result<HashSet<CommitId>> {
        let sql = "WITH RECURSIVE line (id, parent, step) AS (SELECT id, parent, 1 FROM commits WHERE id = $1 \
            UNION ALL SELECT c.id, c.parent, line.step + 1 FROM line JOIN commits c ON c.id = line.parent \
            WHERE line.step < $2) SELECT id FROM line";
        let rows = sqlx::query(sql).bind(from.to_string()).bind(MAX_LINE).fetch_all(self.reader()).await?;
        if rows.is_empty() {
            return Err(Error::NotFound { what: "commit", id: from.to_string() });
        }
        rows.iter().map(|row| row.parsed("id")).collect()
    }

    /// What a row of commits changed together.
    async fn net(&self, commits: impl Iterator<Item = &CommitId>) -> Result<BTreeMap<String, FileChange>> {
        let commits: Vec<CommitId> = commits.copied().collect();
        let mut steps: Vec<(i64, FileChange)> = Vec::new();
        for batch in commits.chunks(IDS) {
            let mut sql = Sql::new(
                "SELECT c.depth, f.path, f.kind, f.size_bytes FROM commit_files f \
                JOIN commits c ON c.id = f.commit_id WHERE f.commit_id IN ",
            );
            sql.bind_list(batch);
            for row in sql.query().fetch_all(self.reader()).await? {
                steps.push((row.int("depth")?, change(&row)?));
            }
        }
        steps.sort_by_key(|(depth, _)| *depth);
        let mut net: BTreeMap<String, FileChange> = BTreeMap::new();
        for (_, step) in steps {
            let before = net.get(&step.path).map(|before| before.change);
            let change = match (before, step.change) {
                (Some(ChangeKind::Added), ChangeKind::Removed) => {
                    net.remove(&step.path);
                    continue;
                }
                (Some(ChangeKind::Added), _) => ChangeKind::Added,
                (None, change) | (_, change @ ChangeKind::Removed) => change,
                _ => ChangeKind::Modified,
            };
            net.insert(step.path.clone(), FileChange { change, ..step });
        }
        Ok(net)
    }

    /// The commit of a volume, on its main line or a branch, whose id starts so; `None` if none or several do.
    pub async fn commit_of(&self, volume: VolumeId, prefix: &str) -> Result<Option<CommitId>> {
        let Some(start) = id_prefix(prefix) else { return Ok(None) };
        let mut sql = Sql::new("SELECT id FROM commits WHERE volume_id = ");
        // Every id that starts so lies before the start followed by `g`, which is no hex digit.
        sql.bind(volume.to_string()).push(" AND id BETWEEN ").bind(start.clone());
        sql.push(" AND ").bind(format!("{start}g")).push(" LIMIT 2");
        match &sql.query().fetch_all(self.reader()).await?[..] {
            [only] => only.parsed("id").map(Some),
            _ => Ok(None),
        }
    }

    /// What the provenance walk needs to know of these runs; runs that do not exist are left out.
    pub async fn run_facts(&self, runs: &[RunId]) -> Result<Vec<RunFacts>> {
        let mut places = HashMap::with_capacity(runs.len());
        for batch in runs.chunks(IDS) {
            let mut sql = Sql::new(
                "SELECT r.id, r.project_id, p.name, c.volume_id, t.spec FROM runs r \
                JOIN projects p ON p.id = r.project_id JOIN commits c ON c.id = r.commit_id \
                LEFT JOIN tasks t ON t.id = r.task_id WHERE r.id IN ",
            );
            sql.bind_list(batch);
            for row in sql.query().fetch_all(self.reader()).await? {
                places.insert(row.parsed::<RunId>("id")?, place(&row)?);
            }
        }
        let runs = self.runs(runs).await?;
        let volumes = self.volumes_read(&runs).await?;
        Ok(runs.into_iter().filter_map(|run| Some(facts(places.remove(&run.id)?, run, &volumes))).collect())
    }

    /// The volumes of the commits in which other projects' files that these runs read were made.
    async fn volumes_read(&self, runs: &[Run]) -> Result<HashMap<CommitId, VolumeId>> {
        let elsewhere = runs.iter().flat_map(|run| &run.inputs);
        let elsewhere = elsewhere.filter(|file| FileReference::is_meant_by(&file.path));
        let commits: HashSet<CommitId> = elsewhere.filter_map(|file| file.commit).collect();
        let commits: Vec<CommitId> = commits.into_iter().collect();
        let mut volumes = HashMap::with_capacity(commits.len());
        for batch in commits.chunks(IDS) {
            let mut sql = Sql::new("SELECT id, volume_id FROM commits WHERE id IN ");
            sql.bind_list(batch);
            for row in sql.query().fetch_all(self.reader()).await? {
                volumes.insert(row.parsed("id")?, row.parsed("volume_id")?);
            }
        }
        Ok(volumes)
    }
}

/// Where a run belongs, and its task's command.
struct RunPlace {
    project_id: ProjectId,
    project: String,
    volume: VolumeId,
    command: String,
}

fn place(row: &AnyRow) -> Result<RunPlace> {
    let spec: Option<TaskSpec> = row.optional_text("spec")?.map(|_| row.json("spec")).transpose()?;
    Ok(RunPlace {
        project_id: row.parsed("project_id")?,
        project: row.text("name")?,
        volume: row.parsed("volume_id")?,
        command: spec.map(|spec| spec.command.join(" ")).unwrap_or_default(),
    })
}

fn facts(place: RunPlace, run: Run, volumes: &HashMap<CommitId, VolumeId>) -> RunFacts {
    let RunPlace { project_id, project, volume, command } = place;
    let read = |file: RunFile| {
        let RunFile { path, commit, written_by } = file;
        let own = ReadFile { project: project.clone(), volume, path, commit, written_by };
        let reference = FileReference::parse(&own.path).ok();
        // Where a project was removed, its commits were too: its files stay as they were declared.
        match (reference, commit.and_then(|commit| volumes.get(&commit))) {
            (Some(FileReference { project, path, .. }), Some(&volume)) => {
                ReadFile { project, volume, path, ..own }
            }
            _ => own,
        }
    };
    let inputs = run.inputs.into_iter().map(read).collect();
    RunFacts {
        id: run.id,
        project_id,
        project,
        commit: run.commit,
        volume,
        title: if run.description.is_empty() { command } else { run.description },
        inputs,
        outputs: run.outputs,
        conflicts: run.conflicts,
    }
}

/// Whether a row `f` of `commit_files` tells of the path.
fn tells(sql: &mut Sql, volume: VolumeId, path: &str, told: Told) {
    sql.push("f.volume_id = ").bind(volume.to_string());
    match told {
        Told::File => {
            sql.push(" AND f.path_key = ")
                .bind(key(path, NAME_KEY_BYTES))
                .push(" AND f.path = ")
                .bind(path.to_owned());
        }
        Told::Folder => {
            // `0` is the character after `/`.
            sql.push(" AND f.path_key >= ").bind(key(&format!("{path}/"), NAME_KEY_BYTES));
            sql.push(" AND f.path_key < ").bind(key(&format!("{path}0"), NAME_KEY_BYTES));
        }
    }
}
