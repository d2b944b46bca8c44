//! Connecting, and how transactions begin.

use std::time::Duration;

use sqlx::{
    Any, AnyPool, Executor, SqlSafeStr, Transaction,
    any::{AnyPoolOptions, install_default_drivers},
    migrate::{Migration, MigrationType, Migrator},
};

use crate::{Error, Result};

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
        Ok(Self { reader: pool.clone(), writer: pool, begin: "BEGIN" })
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
        Ok(Self { reader: pool(SQLITE_READERS).await?, writer, begin: "BEGIN IMMEDIATE" })
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
    let all = [(1, "postgres dialect", dialect), (2, "schema", schema), (3, "values by name", by_name)];
    let wanted = all.into_iter().filter(|(version, ..)| postgres || *version != 1);
    let migrations = wanted.map(|(version, name, sql)| {
        Migration::new(version, name.into(), MigrationType::Simple, sql.into_sql_str(), false)
    });
    Migrator::with_migrations(migrations.collect())
}
