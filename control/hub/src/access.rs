//! Who may do what, in one place.
//!
//! What a person may not see does not exist for them (404); what they see but may not change is refused with
//! words (403). The database looks things up on behalf of a person, so that a short id never collides with one
//! they cannot see.

use ds_db::TaskRow;
use ds_domain::{
    ProjectId,
    api::{Access, Commit, Project, Run, User},
    task::TaskSpec,
};

use crate::{core::Core, http::Problem};

/// Characters of an id that stand for all of it.
const MIN_PREFIX: usize = 4;

/// Refuses everybody but admins.
pub(crate) fn require_admin(user: &User) -> Result<(), Problem> {
    if user.admin {
        return Ok(());
    }
    Err(Problem::forbidden("only an admin of this hub may do this: ask one"))
}

impl Core {
    /// A project by name or id, in which `user` has at least `need`.
    pub(crate) async fn project_for(
        &self,
        user: &User,
        id_or_name: &str,
        need: Access,
    ) -> Result<Project, Problem> {
        let project = self.db.project(user, id_or_name).await?;
        check("project", project.access, need)?;
        Ok(project)
    }

    /// A task by id or the start of one, in whose project `user` has at least `need`.
    pub(crate) async fn task_for(&self, user: &User, id: &str, need: Access) -> Result<TaskRow, Problem> {
        let mut row = self.db.task(self.db.find_task(user, long_enough(id)?).await?).await?;
        let access = self.require(user, row.task.project, need).await?;
        hide_from(access, &mut row.task.spec);
        Ok(row)
    }

    /// A run by id or the start of one.
    pub(crate) async fn run_for(&self, user: &User, id: &str) -> Result<Run, Problem> {
        let run = self.db.run(self.db.find_run(user, long_enough(id)?).await?).await?;
        self.require(user, run.project, Access::Viewer).await?;
        Ok(run)
    }

    /// A commit by id or the start of one.
    pub(crate) async fn commit_for(&self, user: &User, id: &str) -> Result<Commit, Problem> {
        let id = self.db.find_commit(user, long_enough(id)?).await?;
        self.require(user, self.db.project_of_commit(id).await?, Access::Viewer).await?;
        Ok(self.db.commit(id).await?)
    }

    async fn require(&self, user: &User, project: ProjectId, need: Access) -> Result<Access, Problem> {
        match self.db.access(user, project).await? {
            Some(access) => check("project", access, need).map(|()| access),
            None => Err(Problem::not_found("this object")),
        }
    }
}

/// Secrets are handed to tasks in their environment: its values are for those who may start tasks themselves.
pub(crate) fn hide_from(access: Access, spec: &mut TaskSpec) {
    if access < Access::Editor {
        spec.hide_environment();
    }
}

/// A short id that says too little finds whatever is the only one today, and another thing tomorrow.
fn long_enough(id: &str) -> Result<&str, Problem> {
    if id.len() < MIN_PREFIX {
        return Err(Problem::invalid(format!(
            "{id:?} is too short: give at least the first {MIN_PREFIX} characters"
        )));
    }
    Ok(id)
}

/// Refuses who has less than `need` in a project or dataset.
pub(crate) fn check(what: &str, has: Access, need: Access) -> Result<(), Problem> {
    if has >= need {
        return Ok(());
    }
    Err(Problem::forbidden(format!(
        "this needs the right of {article} {} in the {what}, and you are its {}: ask an owner of the {what}",
        need.as_str(),
        has.as_str(),
        article = if need == Access::Viewer { "a" } else { "an" },
    )))
}
