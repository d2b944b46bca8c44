//! A PostgreSQL server for one test: the one named by `DS_TEST_POSTGRES`, else a throw-away one in a temporary folder.

use std::{
    os::unix::{fs::chown, process::CommandExt},
    path::{Path, PathBuf},
    process::Command,
};

use sqlx::{Connection, PgConnection};
use tempfile::TempDir;
use uuid::Uuid;

pub(crate) struct Server {
    /// Without the database's name.
    url: String,
    query: String,
    #[expect(dead_code, reason = "kept for its drop")]
    own: Option<Own>,
}

/// Stopped when dropped.
struct Own {
    folder: TempDir,
    programs: PathBuf,
    /// Who owns the files: the server refuses to be root.
    owner: Option<(u32, u32)>,
}

impl Server {
    pub(crate) fn start() -> Self {
        if let Ok(url) = std::env::var("DS_TEST_POSTGRES") {
            let (base, query) = url.split_once('?').unwrap_or((&url, ""));
            let host = base.splitn(4, '/').take(3).collect::<Vec<_>>().join("/");
            return Self { url: host, query: query.to_owned(), own: None };
        }
        let own = Own::start();
        let query = format!("host={}", own.folder.path().display());
        Self { url: "postgres://postgres@localhost".into(), query, own: Some(own) }
    }

    /// A fresh database and its URL.
    pub(crate) async fn new_database(&self, name: &str) -> String {
        let name = format!("{}_{}", &name[..name.len().min(30)], Uuid::new_v4().simple());
        let mut connection = PgConnection::connect(&self.address("postgres")).await.unwrap();
        let sql = format!("CREATE DATABASE {name}");
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut connection).await.unwrap();
        self.address(&name)
    }

    fn address(&self, database: &str) -> String {
        format!("{}/{database}?{}", self.url, self.query)
    }
}

impl Own {
    fn start() -> Self {
        let programs = programs()
            .expect("PostgreSQL is not installed: apt-get install postgresql, or set DS_TEST_POSTGRES");
        let folder = tempfile::tempdir().unwrap();
        let owner = is_root()
            .then(|| postgres_user().expect("there is no user postgres: apt-get install postgresql"));
        if let Some((user, group)) = owner {
            chown(folder.path(), Some(user), Some(group)).unwrap();
        }
        let own = Self { folder, programs, owner };
        let data = own.data();
        own.run(
            "initdb",
            &["-D", &data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync", "--no-instructions"],
        );
        let settings = format!("-k {} -c listen_addresses= -c fsync=off", own.folder.path().display());
        let log = own.folder.path().join("log").display().to_string();
        own.run("pg_ctl", &["-D", &data, "-w", "-s", "-l", &log, "-o", &settings, "start"]);
        own
    }

    fn data(&self) -> String {
        self.folder.path().join("data").display().to_string()
    }

    fn run(&self, program: &str, arguments: &[&str]) {
        let mut command = Command::new(self.programs.join(program));
        command.args(arguments).current_dir(self.folder.path());
        if let Some((user, group)) = self.owner {
            command.uid(user).gid(group);
        }
        // The server keeps what it inherits open: a pipe would never end.
        command.stdout(std::process::Stdio::null());
        assert!(command.status().unwrap().success(), "{program} failed");
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        self.run("pg_ctl", &["-D", &self.data(), "-w", "-s", "-m", "immediate", "stop"]);
    }
}

/// The newest installed server's programs.
fn programs() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?;
    let mut found: Vec<(u32, PathBuf)> = versions
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let version = path.file_name()?.to_str()?.parse().ok()?;
            Some((version, path.join("bin"))).filter(|(_, bin)| bin.join("initdb").exists())
        })
        .collect();
    found.sort();
    found.pop().map(|(_, bin)| bin)
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    Path::new("/proc/self").metadata().is_ok_and(|own| own.uid() == 0)
}

/// User and group id of `postgres`.
fn postgres_user() -> Option<(u32, u32)> {
    let users = std::fs::read_to_string("/etc/passwd").ok()?;
    let line = users.lines().find(|line| line.starts_with("postgres:"))?;
    let fields: Vec<&str> = line.split(':').collect();
    Some((fields.get(2)?.parse().ok()?, fields.get(3)?.parse().ok()?))
}
