//! Reading runs.

use std::collections::HashMap;

use ds_domain::{
    RunId,
    api::{Run, RunFile, User},
};

use sqlx::any::AnyRow;

use crate::{
    Db, Error, Result,
    rows::{Columns, IDS, Sql},
};

/// A row of `runs` with its commit's branch, without its files.
fn run(row: &AnyRow) -> Result<Run> {
    Ok(Run {
        id: row.parsed("id")?,
        project: row.parsed("project_id")?,
        commit: row.parsed("commit_id")?,
        task: row.optional_parsed("task_id")?,
        authority: row.text("authority")?,
        author: row.text("author")?,
        description: row.text("description")?,
        workload_file: row.optional_text("workload_file")?,
        error: row.optional_text("error")?,
        success: row.flag("success")?,
        start: row.optional_text("start_text")?,
        end: row.optional_text("end_text")?,
        parameters: row.json("parameters")?,
        metrics: row.json("metrics")?,
        labels: row.json("labels")?,
        inputs: Vec::new(),
        outputs: Vec::new(),
        conflicts: row.json("conflicts")?,
        branch: row.optional_text("branch")?,
        created_ms: row.int("created_ms")?,
    })
}

impl Db {
    /// A run by id.
    pub async fn run(&self, id: RunId) -> Result<Run> {
        let found = self.runs(&[id]).await?.pop();
        found.ok_or_else(|| Error::NotFound { what: "run", id: id.to_string() })
    }

    /// Runs by id, in the order asked for; those that do not exist are left out.
    pub async fn runs(&self, ids: &[RunId]) -> Result<Vec<Run>> {
        let mut found = HashMap::with_capacity(ids.len());
        for batch in ids.chunks(IDS) {
            let mut sql = Sql::new(
                "SELECT r.*, c.branch FROM runs r JOIN commits c ON c.id = r.commit_id WHERE r.id IN ",
            );
            sql.bind_list(batch);
            for row in sql.query().fetch_all(self.reader()).await? {
                let run = run(&row)?;
                found.insert(run.id, run);
            }
            self.add_files(batch, &mut found).await?;
        }
        Ok(ids.iter().filter_map(|id| found.remove(id)).collect())
    }

    async fn add_files(&self, ids: &[RunId], runs: &mut HashMap<RunId, Run>) -> Result<()> {
        let mut sql = Sql::new("SELECT * FROM run_files WHERE run_id IN ");
        sql.bind_list(ids).push(" ORDER BY run_id, direction, position");
        for row in sql.query().fetch_all(self.reader()).await? {
            let (commit, written_by) =
                (row.optional_parsed("commit_id")?, row.optional_parsed("written_by")?);
            let file = RunFile { path: row.text("path")?, commit, written_by };
            let Some(run) = runs.get_mut(&row.parsed("run_id")?) else { continue };
            let files = if row.text("direction")? == "i" { &mut run.inputs } else { &mut run.outputs };
            files.push(file);
        }
        Ok(())
    }

    /// The full id of the run whose id starts so, among those that `viewer` may see.
    pub async fn find_run(&self, viewer: &User, prefix: &str) -> Result<RunId> {
        self.find(viewer, "run", "SELECT o.id FROM runs o WHERE o.id", prefix).await?.parsed("id")
    }
}
