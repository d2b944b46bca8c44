//! Connecting, and how transactions begin.

use std::time::Duration;

use sqlx::{
    Any, AnyPool, AssertSqlSafe, Executor, SqlSafeStr, Transaction,
    any::{AnyPoolOptions, install_default_drivers},
    migrate::{Migration, MigrationType, Migrator},
};

use crate::{Error, Result, recording::Recording};

/// Reading connections to SQLite: reads do not wait for the writer, and seldom for each other.
const SQLITE_READERS: u32 = 4;
/// Connections to PostgreSQL.
const POSTGRES_CONNECTIONS: u32 = 10;
/// How long a call waits for a connection before it fails with a retryable error.
const PATIENCE: Duration = Duration::from_secs(30);

/// What is acknowledged is on disk (`synchronous = FULL`), and 8 MiB of pages a connection keep the idle hub small.
const SQLITE_SETTINGS: &str = "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON; \
    PRAGMA busy_timeout = 10000; PRAGMA cache_size = -8192; PRAGMA temp_store = MEMORY;";

/// The metadata database. Cheap to clone.
///
/// SQLite has one writer at a time: writes queue for one connection, reads go to others and never wait for it. On
/// PostgreSQL both come from one pool.
#[derive(Debug, Clone)]
pub struct Db {
    reader: AnyPool,
    writer: AnyPool,
    begin: &'static str,
    recording: Recording,
}

impl Db {
    /// Opens `sqlite:<path>` (made if missing) or `postgres://...`, and brings its schema up to date.
    pub async fn connect(url: &str) -> Result<Self> {
        install_default_drivers();
        let postgres = url.starts_with("postgres:") || url.starts_with("postgresql:");
        let db = if postgres { Self::postgres(url).await? } else { Self::sqlite(url).await? };
        migrator(postgres).run(&db.writer).await?;
        Ok(db)
    }

    async fn postgres(url: &str) -> Result<Self> {
        let pool = AnyPoolOptions::new()
            .max_connections(POSTGRES_CONNECTIONS)
            .acquire_timeout(PATIENCE)
            .connect(url)
            .await?;
        Ok(Self { reader: pool.clone(), writer: pool, begin: "BEGIN", recording: Recording::default() })
    }

    async fn sqlite(url: &str) -> Result<Self> {
        let path = url
            .strip_prefix("sqlite:")
            .filter(|path| !path.is_empty() && !path.contains([':', '?']))
            .ok_or_else(|| {
                Error::Invalid(format!(
                    "{url:?} names no database: give sqlite:/path/to/file or postgres://user@host/name"
                ))
            })?;
        let url = format!("sqlite:{path}?mode=rwc");
        let pool = |connections| {
            let options = AnyPoolOptions::new().max_connections(connections).acquire_timeout(PATIENCE);
            let options = options.after_connect(|connection, _| {
                Box::pin(async move { connection.execute(SQLITE_SETTINGS).await.map(|_| ()) })
            });
            options.connect(&url)
        };
        // The writer first: it makes the file.
        let writer = pool(1).await?;
        let reader = pool(SQLITE_READERS).await?;
        Ok(Self { reader, writer, begin: "BEGIN IMMEDIATE", recording: Recording::default() })
    }

    /// Answers if the database does.
    pub async fn ping(&self) -> Result<()> {
        sqlx::query("SELECT 1").execute(&self.reader).await?;
        Ok(())
    }

    /// Waits for what is under way and closes.
    pub async fn close(&self) {
        self.reader.close().await;
        self.writer.close().await;
    }

    /// For reading, outside a transaction.
    pub(crate) fn reader(&self) -> &AnyPool {
        &self.reader
    }

    /// For one writing statement, which is a transaction by itself.
    pub(crate) fn writer(&self) -> &AnyPool {
        &self.writer
    }

    pub(crate) fn recording(&self) -> &Recording {
        &self.recording
    }

    /// Begins a writing transaction; on SQLite it is the only one from the start, so that it cannot fail half way because
    /// of another. Rolled back if dropped.
    pub(crate) async fn begin(&self) -> Result<Transaction<'static, Any>> {
        Ok(self.writer.begin_with(self.begin).await?)
    }
}

/// All migrations, oldest first. They are compiled in; one that was released is never changed.
fn migrator(postgres: bool) -> Migrator {
    let dialect = include_str!("../migrations/0001_postgres_dialect.sql");
    let schema = include_str!("../migrations/0002_schema.sql");
    let by_name = include_str!("../migrations/0003_values_by_name.sql");
    let value_columns = include_str!("../migrations/0004_value_columns.sql");
    let removal = include_str!("../migrations/0005_removal.sql");
    let datasets = include_str!("../migrations/0006_datasets.sql");
    let all = [
        (1, "postgres dialect", dialect),
        (2, "schema", schema),
        (3, "values by name", by_name),
        (4, "value columns", value_columns),
        (5, "removal", removal),
        (6, "datasets", datasets),
    ];
    let wanted = all.into_iter().filter(|(version, ..)| postgres || *version != 1);
    let migrations = wanted.map(|(version, name, sql)| {
        let sql = if postgres { AssertSqlSafe(in_postgres(sql)).into_sql_str() } else { sql.into_sql_str() };
        Migration::new(version, name.into(), MigrationType::Simple, sql, false)
    });
    Migrator::with_migrations(migrations.collect())
}

/// What the migrations say in SQLite's words: a key that counts by itself, and a table that is its primary key's index.
fn in_postgres(sql: &str) -> String {
    sql.replace("INTEGER PRIMARY KEY", "BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY")
        .replace(") WITHOUT ROWID;", ");")
}

#[cfg(test)]
mod tests {
    use ds_domain::ProjectId;

    use super::*;
    use crate::{Filter, Kind, Op, RunQuery, Sort};

    /// What a hub of before `value columns` had recorded.
    const RECORDED: &str = "
        INSERT INTO projects VALUES ('00000000-0000-0000-0000-000000000001', 'digits', '', 1, 2);
        INSERT INTO volumes VALUES ('v', '00000000-0000-0000-0000-000000000001', 'c');
        INSERT INTO commits VALUES ('00000000-0000-0000-0000-00000000000c', 'v', 's', '1', NULL, 0, '', '', NULL, NULL, '{}', 0, 1);
        INSERT INTO runs VALUES ('00000000-0000-0000-0000-00000000000b', '00000000-0000-0000-0000-000000000001',
            '00000000-0000-0000-0000-00000000000c', NULL, 0, '', '', '', NULL, NULL, 1, NULL, NULL, '{}', '{\"loss\":\"0.5\"}', '{}', '[]', 1);
        INSERT INTO runs VALUES ('00000000-0000-0000-0000-00000000000a', '00000000-0000-0000-0000-000000000001',
            '00000000-0000-0000-0000-00000000000c', NULL, 1, '', '', '', NULL, NULL, 1, NULL, NULL, '{}', '{\"loss\":\"0.25\"}', '{}', '[]', 1);
        INSERT INTO run_values VALUES ('00000000-0000-0000-0000-00000000000b',
            '00000000-0000-0000-0000-000000000001', 'm', 'loss', '0.5', 0.5);
        INSERT INTO run_values VALUES ('00000000-0000-0000-0000-00000000000a',
            '00000000-0000-0000-0000-000000000001', 'm', 'loss', '0.25', 0.25);";

    #[tokio::test]
    async fn an_older_database_keeps_its_runs_and_their_values() {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}", folder.path().join("hub.db").display());
        let older = Migrator::with_migrations(
            migrator(false).iter().filter(|migration| migration.version < 4).cloned().collect(),
        );
        install_default_drivers();
        let before = Db::sqlite(&url).await.unwrap();
        older.run(&before.writer).await.unwrap();
        before.writer.execute("PRAGMA foreign_keys = OFF").await.unwrap();
        before.writer.execute(RECORDED).await.unwrap();
        before.close().await;

        let db = Db::connect(&url).await.unwrap();
        let project: ProjectId = "00000000-0000-0000-0000-000000000001".parse().unwrap();
        let losses = async |query: RunQuery| {
            let page = db.list_runs(project, &query).await.unwrap();
            page.items.into_iter().map(|run| run.metrics["loss"].clone()).collect::<Vec<_>>()
        };
        let all = RunQuery { limit: 9, ..RunQuery::default() };
        assert_eq!(losses(all.clone()).await, ["0.5", "0.25"]);
        let by_loss = RunQuery { sort: Sort::Value(Kind::Metric, "loss".into()), ..all.clone() };
        assert_eq!(losses(by_loss).await, ["0.25", "0.5"]);
        let low = Filter { kind: Kind::Metric, name: "loss".into(), op: Op::Less, value: "0.3".into() };
        assert_eq!(losses(RunQuery { filters: vec![low], ..all }).await, ["0.25"]);
    }
}
