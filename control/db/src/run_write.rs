//! Writing runs.

use std::{
    borrow::Borrow,
    collections::{BTreeMap, HashMap, HashSet},
};

use ds_domain::{
    ProjectId, RunId,
    api::{Run, RunFile},
};
use sqlx::{Any, Transaction};

use crate::{
    Db, Error, Result,
    rows::{Columns, IDS, NAME_KEY_BYTES, ROWS, Sql, TEXT_KEY_BYTES, json, key, taken},
    run_query::Kind,
};

/// Runs in one call.
const MAX_RUNS: usize = 1000;

impl Db {
    /// Records runs on commits that exist, all or none; returns the ids that are new. At most 1,000. A run id that is
    /// recorded already keeps its first record; one that is another project's is a conflict.
    pub async fn record_runs(&self, runs: &[Run]) -> Result<Vec<RunId>> {
        if runs.len() > MAX_RUNS {
            return Err(Error::Invalid(format!("{} runs at once: send at most {MAX_RUNS}", runs.len())));
        }
        let mut tx = self.begin().await?;
        let known = known_runs(&mut tx, runs).await?;
        if let Some(taken) = runs.iter().find(|run| known.get(&run.id).is_some_and(|of| *of != run.project)) {
            return Err(Error::Conflict(format!("another project has a run {}: choose a new id", taken.id)));
        }
        let mut seen = HashSet::new();
        let new: Vec<&Run> =
            runs.iter().filter(|run| !known.contains_key(&run.id) && seen.insert(run.id)).collect();
        insert_runs(&mut tx, &new).await?;
        tx.commit().await?;
        Ok(new.iter().map(|run| run.id).collect())
    }
}

/// Inserts runs whose ids are new and differ.
pub(crate) async fn insert_runs<R: Borrow<Run>>(
    tx: &mut Transaction<'static, Any>,
    runs: &[R],
) -> Result<()> {
    let runs: Vec<(i64, &Run)> = (0..).zip(runs.iter().map(Borrow::borrow)).collect();
    insert_rows(tx, &runs).await?;
    insert_values(tx, &runs).await?;
    insert_files(tx, &runs).await?;
    count(tx, &runs).await
}

/// Those of the runs that are recorded already, and in which project.
pub(crate) async fn known_runs(
    tx: &mut Transaction<'static, Any>,
    runs: &[Run],
) -> Result<HashMap<RunId, ProjectId>> {
    let mut known = HashMap::new();
    let ids: Vec<RunId> = runs.iter().map(|run| run.id).collect();
    for batch in ids.chunks(IDS) {
        let mut sql = Sql::new("SELECT id, project_id FROM runs WHERE id IN ");
        sql.bind_list(batch);
        for row in sql.query().fetch_all(&mut **tx).await? {
            known.insert(row.parsed("id")?, row.parsed("project_id")?);
        }
    }
    Ok(known)
}

const INSERT_RUNS: &str = "INSERT INTO runs (id, project_id, commit_id, task_id, position, authority, author, description, \
    workload_file, error, success, start_text, end_text, parameters, metrics, labels, conflicts, created_ms) VALUES";

async fn insert_rows(tx: &mut Transaction<'static, Any>, runs: &[(i64, &Run)]) -> Result<()> {
    for batch in runs.chunks(ROWS) {
        let mut sql = Sql::new(INSERT_RUNS);
        for (index, (position, run)) in batch.iter().enumerate() {
            sql.push(if index == 0 { " (" } else { ", (" }).bind(run.id.to_string()).push(", ");
            sql.bind(run.project.to_string()).push(", ").bind(run.commit.to_string()).push(", ");
            sql.bind(run.task.map(|task| task.to_string())).push(", ").bind(*position).push(", ");
            sql.bind(run.authority.clone()).push(", ").bind(run.author.clone()).push(", ");
            sql.bind(run.description.clone()).push(", ").bind(run.workload_file.clone()).push(", ");
            sql.bind(run.error.clone()).push(", ").bind(i64::from(run.success)).push(", ");
            sql.bind(run.start.clone()).push(", ").bind(run.end.clone()).push(", ");
            sql.bind(json(&run.parameters)).push(", ").bind(json(&run.metrics)).push(", ");
            sql.bind(json(&run.labels)).push(", ").bind(json(&run.conflicts)).push(", ");
            sql.bind(run.created_ms).push(")");
        }
        let words = || "one of these runs is being recorded by somebody else: try again".to_owned();
        sql.query().execute(&mut **tx).await.map_err(taken(words))?;
    }
    Ok(())
}

async fn insert_values(tx: &mut Transaction<'static, Any>, runs: &[(i64, &Run)]) -> Result<()> {
    // Two long names may have the same key; the first one is found by it.
    let mut values: BTreeMap<(RunId, &str, String), (&Run, &str)> = BTreeMap::new();
    for (_, run) in runs {
        for (kind, map) in
            [(Kind::Parameter, &run.parameters), (Kind::Metric, &run.metrics), (Kind::Label, &run.labels)]
        {
            for (name, text) in map {
                values.entry((run.id, kind.column(), key(name, NAME_KEY_BYTES))).or_insert((run, text));
            }
        }
    }
    let rows: Vec<_> = values.into_iter().collect();
    for batch in rows.chunks(ROWS) {
        let mut sql =
            Sql::new("INSERT INTO run_values (run_id, project_id, kind, name, text_key, number) VALUES");
        for (index, ((id, kind, name), (run, text))) in batch.iter().enumerate() {
            sql.push(if index == 0 { " (" } else { ", (" }).bind(id.to_string()).push(", ");
            sql.bind(run.project.to_string())
                .push(", ")
                .bind((*kind).to_owned())
                .push(", ")
                .bind(name.clone())
                .push(", ");
            sql.bind(key(text, TEXT_KEY_BYTES)).push(", ").bind(number(text)).push(")");
        }
        sql.query().execute(&mut **tx).await?;
    }
    Ok(())
}

/// What a text means as a number. `nan` compares with nothing, so it stays a text.
pub(crate) fn number(text: &str) -> Option<f64> {
    text.trim().parse::<f64>().ok().filter(|number| !number.is_nan())
}

async fn insert_files(tx: &mut Transaction<'static, Any>, runs: &[(i64, &Run)]) -> Result<()> {
    let of = |run: &'_ Run,
              direction: &'static str,
              files: &[RunFile]|
     -> Vec<(RunId, &'static str, i64, RunFile)> {
        (0..).zip(files).map(|(position, file)| (run.id, direction, position, file.clone())).collect()
    };
    let rows: Vec<_> = runs
        .iter()
        .flat_map(|(_, run)| of(run, "i", &run.inputs).into_iter().chain(of(run, "o", &run.outputs)))
        .collect();
    for batch in rows.chunks(ROWS) {
        let mut sql = Sql::new(
            "INSERT INTO run_files (run_id, direction, position, path, commit_id, written_by) VALUES",
        );
        for (index, (id, direction, position, file)) in batch.iter().enumerate() {
            sql.push(if index == 0 { " (" } else { ", (" }).bind(id.to_string()).push(", ");
            sql.bind((*direction).to_owned())
                .push(", ")
                .bind(*position)
                .push(", ")
                .bind(file.path.clone())
                .push(", ");
            sql.bind(file.commit.map(|id| id.to_string())).push(", ");
            sql.bind(file.written_by.map(|id| id.to_string())).push(")");
        }
        sql.query().execute(&mut **tx).await?;
    }
    Ok(())
}

/// Keeps each project's number of runs.
async fn count(tx: &mut Transaction<'static, Any>, runs: &[(i64, &Run)]) -> Result<()> {
    let mut counts: HashMap<ProjectId, i64> = HashMap::new();
    for (_, run) in runs {
        *counts.entry(run.project).or_default() += 1;
    }
    for (project, count) in counts {
        let query = sqlx::query("UPDATE projects SET runs = runs + $1 WHERE id = $2");
        query.bind(count).bind(project.to_string()).execute(&mut **tx).await?;
    }
    Ok(())
}
