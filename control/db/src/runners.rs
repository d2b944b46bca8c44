//! Runners: made with a token, registered once, seen often.

use std::collections::BTreeMap;

use ds_domain::{
    RunnerId,
    api::{Machine, Runner},
};

use sqlx::any::AnyRow;

use crate::{
    Db, Error, Result, TokenHash,
    rows::{Columns, Sql, json, taken},
};

/// Any runner; [`PRESENT`] leaves out those that were removed.
const RUNNER: &str = "SELECT r.*, (SELECT COUNT(*) FROM tasks t WHERE t.runner_id = r.id \
    AND t.state IN ('scheduled', 'running')) AS busy FROM runners r WHERE ";
const PRESENT: &str = "r.removed_ms IS NULL";

/// A runner that may register.
#[derive(Debug, Clone)]
pub struct NewRunner {
    /// Id; also its node id.
    pub id: RunnerId,
    /// Unique name.
    pub name: String,
    /// Hash of the secret in its registration token.
    pub token: TokenHash,
    /// When the token stops working.
    pub token_expires_ms: i64,
    /// When.
    pub created_ms: i64,
}

/// A runner with what only the hub needs to know.
#[derive(Debug, Clone)]
pub struct RunnerRow {
    /// As the API shows it; `online` is for the hub to fill in.
    pub runner: Runner,
    /// SHA-256 of its certificate's DER, once it is registered.
    pub certificate: Option<[u8; 32]>,
    /// Whether it was removed: it is known only so that it can be told to drop what it still holds.
    pub removed: bool,
}

/// What a runner says when it connects.
#[derive(Debug, Clone)]
pub struct RunnerHello {
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Tasks that it executes at once.
    pub slots: u32,
    /// Its program's version.
    pub version: String,
    /// What the machine is.
    pub machine: Machine,
}

/// A row of [`RUNNER`].
fn runner(row: &AnyRow) -> Result<RunnerRow> {
    let certificate = row.optional_text("certificate")?;
    let machine = row.optional_text("machine")?.map(|_| row.json("machine")).transpose()?;
    let runner = Runner {
        id: row.parsed("id")?,
        name: row.text("name")?,
        registered: certificate.is_some(),
        online: false,
        labels: row.json("labels")?,
        slots: u32::try_from(row.int("slots")?).unwrap_or(0),
        busy: u32::try_from(row.int("busy")?).unwrap_or(u32::MAX),
        version: row.text("version")?,
        machine,
        created_ms: row.int("created_ms")?,
        seen_ms: row.optional_int("seen_ms")?,
    };
    let certificate = match certificate {
        Some(_) => Some(row.word("certificate", digest)?),
        None => None,
    };
    let removed = row.optional_int("removed_ms")?.is_some();
    Ok(RunnerRow { runner, certificate, removed })
}

/// 32 bytes in hex.
fn digest(text: &str) -> Option<[u8; 32]> {
    let byte = |index: usize| u8::from_str_radix(text.get(2 * index..2 * index + 2)?, 16).ok();
    let bytes: Vec<u8> = (0..32).map_while(byte).collect();
    bytes.try_into().ok()
}

fn no_runner(id: &(impl ToString + ?Sized)) -> Error {
    Error::NotFound { what: "runner", id: id.to_string() }
}

fn used() -> Error {
    Error::Conflict(
        "this registration token was used already: make a new one with `ds runner create NAME`".into(),
    )
}

impl Db {
    /// Adds a runner that has yet to register. A taken name is a conflict.
    pub async fn create_runner(&self, new: &NewRunner) -> Result<()> {
        let sql = "INSERT INTO runners (id, name, token, token_expires_ms, labels, slots, version, created_ms) \
            VALUES ($1, $2, $3, $4, '{}', 0, '', $5)";
        let query =
            sqlx::query(sql).bind(new.id.to_string()).bind(new.name.clone()).bind(new.token.to_string());
        let words =
            || format!("there is a runner {:?} already: choose another name, or remove it first", new.name);
        let query = query.bind(new.token_expires_ms).bind(new.created_ms);
        query.execute(self.writer()).await.map_err(taken(words))?;
        Ok(())
    }

    /// Which runner a registration token is for. Unknown is `NotFound`; used or expired is a conflict.
    pub async fn runner_of_token(&self, token: TokenHash, now_ms: i64) -> Result<RunnerRow> {
        let mut sql = Sql::new(RUNNER);
        sql.push(PRESENT).push(" AND r.token = ").bind(token.to_string());
        let row = sql.query().fetch_optional(self.reader()).await?;
        let row = row.ok_or_else(|| {
            let id = token.to_string()[..12].to_owned();
            Error::NotFound { what: "runner that has yet to register with a token of SHA-256", id }
        })?;
        if row.optional_text("certificate")?.is_some() {
            return Err(used());
        }
        if row.int("token_expires_ms")? <= now_ms {
            let words = "this registration token has expired: remove the runner and make it again with `ds runner create NAME`";
            return Err(Error::Conflict(words.into()));
        }
        runner(&row)
    }

    /// Uses up a registration token: from now on the runner is who has this certificate. A conflict if it was used
    /// meanwhile.
    pub async fn register_runner(
        &self,
        token: TokenHash,
        certificate: [u8; 32],
        now_ms: i64,
    ) -> Result<RunnerRow> {
        let known = self.runner_of_token(token, now_ms).await?;
        let sql = "UPDATE runners SET certificate = $1, registered_ms = $2 WHERE token = $3 AND certificate IS NULL";
        let query =
            sqlx::query(sql).bind(TokenHash(certificate).to_string()).bind(now_ms).bind(token.to_string());
        match query.execute(self.writer()).await?.rows_affected() {
            0 => Err(used()),
            _ => self.runner(known.runner.id).await,
        }
    }

    /// A runner by id; one that was removed is not found.
    pub async fn runner(&self, id: RunnerId) -> Result<RunnerRow> {
        self.find_runner(&id.to_string()).await
    }

    /// A runner by id, also one that was removed.
    pub async fn runner_ever(&self, id: RunnerId) -> Result<RunnerRow> {
        let mut sql = Sql::new(RUNNER);
        sql.push("r.id = ").bind(id.to_string());
        let row = sql.query().fetch_optional(self.reader()).await?;
        runner(&row.ok_or_else(|| no_runner(&id))?)
    }

    /// A runner by its name or id.
    pub async fn find_runner(&self, name_or_id: &str) -> Result<RunnerRow> {
        let id = name_or_id.parse::<RunnerId>().map_or_else(|_| name_or_id.to_owned(), |id| id.to_string());
        let mut sql = Sql::new(RUNNER);
        sql.push(PRESENT)
            .push(" AND (r.id = ")
            .bind(id.clone())
            .push(" OR r.name = ")
            .bind(name_or_id.to_owned());
        // A name may look like another runner's id: the id wins.
        sql.push(") ORDER BY CASE WHEN r.id = ").bind(id).push(" THEN 0 ELSE 1 END LIMIT 1");
        let row = sql.query().fetch_optional(self.reader()).await?;
        runner(&row.ok_or_else(|| no_runner(name_or_id))?)
    }

    /// All runners, by name.
    pub async fn runners(&self) -> Result<Vec<RunnerRow>> {
        let mut sql = Sql::new(RUNNER);
        sql.push(PRESENT).push(" ORDER BY r.name");
        let rows = sql.query().fetch_all(self.reader()).await?;
        rows.iter().map(runner).collect()
    }

    /// Notes what a runner said of itself.
    pub async fn runner_connected(&self, id: RunnerId, hello: &RunnerHello, seen_ms: i64) -> Result<()> {
        let sql = "UPDATE runners SET labels = $2, slots = $3, version = $4, machine = $5, seen_ms = $6 \
            WHERE id = $1 AND removed_ms IS NULL";
        let query =
            sqlx::query(sql).bind(id.to_string()).bind(json(&hello.labels)).bind(i64::from(hello.slots));
        let query = query.bind(hello.version.clone()).bind(json(&hello.machine)).bind(seen_ms);
        match query.execute(self.writer()).await?.rows_affected() {
            0 => Err(no_runner(&id)),
            _ => Ok(()),
        }
    }

    /// Notes that a runner was heard.
    pub async fn runner_seen(&self, id: RunnerId, seen_ms: i64) -> Result<()> {
        let query =
            sqlx::query("UPDATE runners SET seen_ms = $1 WHERE id = $2").bind(seen_ms).bind(id.to_string());
        query.execute(self.writer()).await?;
        Ok(())
    }

    /// Removes a runner. A conflict while it has tasks. Its name can be used again.
    pub async fn remove_runner(&self, id: RunnerId, now_ms: i64) -> Result<()> {
        let busy = self.runner(id).await?.runner.busy;
        let sql = "UPDATE runners SET removed_ms = $1 WHERE id = $2 AND removed_ms IS NULL AND NOT EXISTS \
            (SELECT 1 FROM tasks t WHERE t.runner_id = runners.id AND t.state IN ('scheduled', 'running'))";
        let query = sqlx::query(sql).bind(now_ms).bind(id.to_string());
        match query.execute(self.writer()).await?.rows_affected() {
            0 => Err(Error::Conflict(format!(
                "the runner has {} tasks: wait for them, or cancel them first",
                busy.max(1)
            ))),
            _ => Ok(()),
        }
    }
}
