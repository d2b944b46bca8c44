//! Runs as people and programs handle them: recorded from outside, traced back.

use std::collections::HashMap;

use ds_domain::{
    ProjectId, RunId,
    api::{Event, NewRun, Project, Provenance, Run, RunFile, User},
    provenance::{Walk, unresolved},
    record::RunRecord,
};
use uuid::Uuid;

use crate::{
    clock::now_ms,
    core::Core,
    http::Problem,
    inputs::{ForeignResolver, Resolver},
};

/// Runs in one request.
const MAX_RUNS: usize = 1000;

/// Who says that a run happened, as in the format `dotscience.run.v1`.
pub(crate) struct Origin<'a> {
    pub(crate) id: RunId,
    pub(crate) project: ProjectId,
    pub(crate) authority: &'a str,
    pub(crate) author: &'a str,
}

/// What was recorded, not tied to a commit or a task yet.
pub(crate) fn run_of(
    record: RunRecord,
    origin: &Origin<'_>,
    inputs: Vec<RunFile>,
    outputs: Vec<RunFile>,
) -> Run {
    Run {
        id: origin.id,
        project: origin.project,
        commit: ds_domain::CommitId(Uuid::nil()),
        task: None,
        authority: origin.authority.to_owned(),
        author: origin.author.to_owned(),
        description: record.description,
        workload_file: record.workload_file,
        success: record.error.is_none(),
        error: record.error,
        start: record.start,
        end: record.end,
        parameters: record.parameters,
        metrics: record.metrics,
        labels: record.labels,
        inputs,
        outputs,
        conflicts: Vec::new(),
        branch: None,
        created_ms: now_ms(),
    }
}

impl Core {
    /// Records runs that no task made, on the workspace's head. All or none; what was recorded before stays as
    /// it is.
    pub(crate) async fn record_runs(
        &self,
        user: &User,
        project: &Project,
        new: Vec<NewRun>,
    ) -> Result<Vec<Run>, Problem> {
        if new.is_empty() || new.len() > MAX_RUNS {
            return Err(Problem::invalid(format!("give 1 to {MAX_RUNS} runs at once")));
        }
        let head = self.db.head(project.workspace).await?.commit;
        let mut resolver = Resolver::new(&self.db, project.workspace, head);
        let mut foreign = ForeignResolver::new(&self.db, Some(user));
        let mut runs = Vec::with_capacity(new.len());
        for new in new {
            let id = new.id.unwrap_or_else(|| RunId(Uuid::new_v4()));
            let record = RunRecord::check(new);
            if let Some(problem) = record.problems.first() {
                return Err(Problem::invalid(format!("run {id}: {problem}")));
            }
            let origin = Origin { id, project: project.id, authority: "remote", author: &user.username };
            let (mut inputs, mut outputs) = (Vec::new(), Vec::new());
            for path in &record.inputs {
                inputs.push(resolver.resolve(path).await?);
            }
            inputs.extend(foreign.resolve_all(&record.references).await?);
            for path in &record.outputs {
                outputs.push(RunFile { written_by: None, ..resolver.resolve(path).await? });
            }
            let conflicts = unresolved(&inputs);
            runs.push(Run { commit: head, conflicts, ..run_of(record, &origin, inputs, outputs) });
        }
        let recorded = self.db.record_runs(&runs).await?;
        if !recorded.is_empty() {
            metrics::counter!(crate::metrics::RUNS_RECORDED, "authority" => "remote")
                .increment(recorded.len() as u64);
            self.events.publish(Event::Runs { project: project.id });
        }
        let ids: Vec<RunId> = runs.iter().map(|run| run.id).collect();
        Ok(self.db.runs(&ids).await?)
    }

    /// Walks back from a run. Runs of projects that `user` may not see end the walk with their ids alone.
    pub(crate) async fn provenance(&self, user: &User, run: RunId) -> Result<Provenance, Problem> {
        let mut walk = Walk::new(run);
        let mut visible = HashMap::new();
        loop {
            let questions = walk.questions();
            if questions.is_empty() {
                return Ok(walk.finish());
            }
            let mut facts = self.db.run_facts(&questions).await?;
            for fact in &mut facts {
                if !self.may_see(user, fact.project_id, &mut visible).await? {
                    fact.hide();
                }
            }
            walk.answer(facts);
        }
    }

    async fn may_see(
        &self,
        user: &User,
        project: ProjectId,
        known: &mut HashMap<ProjectId, bool>,
    ) -> Result<bool, Problem> {
        if let Some(may) = known.get(&project) {
            return Ok(*may);
        }
        let may = self.db.access(user, project).await?.is_some();
        known.insert(project, may);
        Ok(may)
    }
}
