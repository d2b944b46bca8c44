//! Writing runs.

use std::{
    borrow::Borrow,
    collections::{BTreeMap, BTreeSet, HashMap},
};

use ds_domain::{
    ProjectId, RunId,
    api::{Run, RunFile},
};
use sqlx::{Any, Transaction};

use crate::{
    Error, Result,
    rows::{Columns, IDS, NAME_KEY_BYTES, ROWS, Sql, TEXT_KEY_BYTES, json, key, taken},
    run_query::Kind,
};

/// Inserts runs whose ids are new and differ.
pub(crate) async fn insert_runs<R: Borrow<Run>>(
    tx: &mut Transaction<'static, Any>,
    runs: &[R],
) -> Result<()> {
    let runs = numbered(tx, runs).await?;
    insert_rows(tx, &runs).await?;
    insert_values(tx, &runs).await?;
    insert_files(tx, &runs).await
}

/// Each run with its number in its project. Recording into one project takes turns here.
async fn numbered<'r, R: Borrow<Run>>(
    tx: &mut Transaction<'static, Any>,
    runs: &'r [R],
) -> Result<Vec<(i64, &'r Run)>> {
    // In the order of their ids, so that two calls with the same projects do not wait for each other.
    let mut counts: BTreeMap<ProjectId, i64> = BTreeMap::new();
    for run in runs {
        *counts.entry(run.borrow().project).or_default() += 1;
    }
    let mut next = HashMap::with_capacity(counts.len());
    for (project, count) in counts {
        let query = sqlx::query("UPDATE projects SET runs = runs + $1 WHERE id = $2 RETURNING runs");
        let row = query.bind(count).bind(project.to_string()).fetch_optional(&mut **tx).await?;
        let row = row.ok_or_else(|| Error::NotFound { what: "project", id: project.to_string() })?;
        next.insert(project, row.int("runs")? - count);
    }
    let number = |run: &'r R| {
        let last = next.get_mut(&run.borrow().project).expect("each run's project was counted");
        *last += 1;
        (*last, run.borrow())
    };
    Ok(runs.iter().map(number).collect())
}

/// Those of these runs that are recorded already, and in which project.
pub(crate) async fn known_runs(
    tx: &mut Transaction<'static, Any>,
    ids: &[RunId],
) -> Result<HashMap<RunId, ProjectId>> {
    let mut known = HashMap::new();
    for batch in ids.chunks(IDS) {
        let mut sql = Sql::new("SELECT id, project_id FROM runs WHERE id IN ");
        sql.bind_list(batch);
        for row in sql.query().fetch_all(&mut **tx).await? {
            known.insert(row.parsed("id")?, row.parsed("project_id")?);
        }
    }
    Ok(known)
}

const INSERT_RUNS: &str = "INSERT INTO runs (id, project_id, commit_id, task_id, no, authority, author, description, \
    workload_file, error, success, start_text, end_text, parameters, metrics, labels, conflicts, created_ms) VALUES";

async fn insert_rows(tx: &mut Transaction<'static, Any>, runs: &[(i64, &Run)]) -> Result<()> {
    for batch in runs.chunks(ROWS) {
        let mut sql = Sql::new(INSERT_RUNS);
        for (index, (no, run)) in batch.iter().enumerate() {
            sql.push(if index == 0 { " (" } else { ", (" }).bind(run.id.to_string()).push(", ");
            sql.bind(run.project.to_string()).push(", ").bind(run.commit.to_string()).push(", ");
            sql.bind(run.task.map(|task| task.to_string())).push(", ").bind(*no).push(", ");
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
    let mut values: BTreeMap<(Name, i64), &str> = BTreeMap::new();
    for (no, run) in runs {
        for (kind, map) in
            [(Kind::Parameter, &run.parameters), (Kind::Metric, &run.metrics), (Kind::Label, &run.labels)]
        {
            for (name, text) in map {
                let name = Name { project: run.project, kind: kind.column(), key: key(name, NAME_KEY_BYTES) };
                values.entry((name, *no)).or_insert(text);
            }
        }
    }
    let ids = name_ids(tx, values.keys().map(|(name, _)| name)).await?;
    let rows: Vec<_> = values.iter().map(|((name, no), text)| (ids[name], *no, *text)).collect();
    for batch in rows.chunks(ROWS) {
        let mut sql = Sql::new("INSERT INTO run_values (name_id, run_no, number, text_key) VALUES");
        for (index, (name, no, text)) in batch.iter().enumerate() {
            sql.push(if index == 0 { " (" } else { ", (" }).bind(*name).push(", ").bind(*no).push(", ");
            sql.bind(number(text)).push(", ").bind(key(text, TEXT_KEY_BYTES)).push(")");
        }
        sql.query().execute(&mut **tx).await?;
    }
    Ok(())
}

/// A column of values.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Name {
    project: ProjectId,
    kind: &'static str,
    key: String,
}

/// The numbers of these names; those that no run had yet get one.
async fn name_ids<'n>(
    tx: &mut Transaction<'static, Any>,
    names: impl Iterator<Item = &'n Name>,
) -> Result<HashMap<Name, i64>> {
    let names: BTreeSet<&Name> = names.collect();
    let names: Vec<&Name> = names.into_iter().collect();
    let mut ids = known_names(tx, &names).await?;
    let new: Vec<&Name> = names.into_iter().filter(|name| !ids.contains_key(*name)).collect();
    for batch in new.chunks(ROWS) {
        let mut sql = Sql::new("INSERT INTO value_names (project_id, kind, name) VALUES");
        for (index, name) in batch.iter().enumerate() {
            sql.push(if index == 0 { " (" } else { ", (" }).bind(name.project.to_string()).push(", ");
            sql.bind(name.kind.to_owned()).push(", ").bind(name.key.clone()).push(")");
        }
        sql.query().execute(&mut **tx).await?;
    }
    ids.extend(known_names(tx, &new).await?);
    Ok(ids)
}

/// `names` come in order, those of a project together.
async fn known_names(tx: &mut Transaction<'static, Any>, names: &[&Name]) -> Result<HashMap<Name, i64>> {
    let mut ids = HashMap::with_capacity(names.len());
    let groups = names.chunk_by(|a, b| (a.project, a.kind) == (b.project, b.kind));
    for batch in groups.flat_map(|group| group.chunks(IDS)) {
        let (project, kind) = (batch[0].project, batch[0].kind);
        let keys: Vec<&str> = batch.iter().map(|name| name.key.as_str()).collect();
        let mut sql = Sql::new("SELECT id, name FROM value_names WHERE project_id = ");
        sql.bind(project.to_string()).push(" AND kind = ").bind(kind.to_owned());
        sql.push(" AND name IN ").bind_list(&keys);
        for row in sql.query().fetch_all(&mut **tx).await? {
            ids.insert(Name { project, kind, key: row.text("name")? }, row.int("id")?);
        }
    }
    Ok(ids)
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
