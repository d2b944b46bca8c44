//! People, their sessions and API keys.

use std::fmt;

use ds_domain::{
    UserId,
    api::{Access, ApiKey, User},
};
use sqlx::{Any, Transaction, any::AnyRow};
use uuid::Uuid;

use crate::{
    Db, Error, Result,
    projects::put_member,
    rows::{Columns, taken},
};

/// A key's last use is noted at most this often, so that reading with a key does not write each time.
const USE_NOTED_MS: i64 = 60_000;

/// SHA-256 of a secret that is shown once: session tokens, API keys, registration tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenHash(pub [u8; 32]);

impl fmt::Display for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A user with what proves it.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// Who.
    pub user: User,
    /// Argon2 in PHC form; made and verified by the caller.
    pub password_hash: String,
}

fn user(row: &AnyRow) -> Result<User> {
    Ok(User {
        id: row.parsed("id")?,
        username: row.text("username")?,
        admin: row.flag("admin")?,
        created_ms: row.int("created_ms")?,
    })
}

fn no_user(id: &(impl ToString + ?Sized)) -> Error {
    Error::NotFound { what: "user", id: id.to_string() }
}

impl Db {
    /// Adds a user. A taken name is a [`crate::Error::Conflict`]; that of a removed user is taken for good, since what they
    /// made bears it.
    pub async fn create_user(&self, user: &User, password_hash: &str) -> Result<()> {
        let sql =
            "INSERT INTO users (id, username, password_hash, admin, created_ms) VALUES ($1, $2, $3, $4, $5)";
        let query = sqlx::query(sql).bind(user.id.to_string()).bind(user.username.clone());
        let query = query.bind(password_hash.to_owned()).bind(i64::from(user.admin)).bind(user.created_ms);
        let words = || {
            let name = &user.username;
            format!(
                "there is, or was, a user {name:?}, whose name stays with what they made: choose another name"
            )
        };
        query.execute(self.writer()).await.map_err(taken(words))?;
        Ok(())
    }

    /// A user by id.
    pub async fn user(&self, id: UserId) -> Result<User> {
        let query =
            sqlx::query("SELECT * FROM users WHERE id = $1 AND removed_ms IS NULL").bind(id.to_string());
        let row = query.fetch_optional(self.reader()).await?;
        user(&row.ok_or_else(|| no_user(&id))?)
    }

    /// A user by name.
    pub async fn user_by_name(&self, username: &str) -> Result<User> {
        Ok(self.credentials(username).await?.ok_or_else(|| no_user(username))?.user)
    }

    /// What to verify a password against; `None` if nobody has that name.
    pub async fn credentials(&self, username: &str) -> Result<Option<Credentials>> {
        let sql = "SELECT * FROM users WHERE username = $1 AND removed_ms IS NULL";
        let query = sqlx::query(sql).bind(username.to_owned());
        let row = query.fetch_optional(self.reader()).await?;
        row.map(|row| Ok(Credentials { user: user(&row)?, password_hash: row.text("password_hash")? }))
            .transpose()
    }

    /// All users, by name.
    pub async fn users(&self) -> Result<Vec<User>> {
        let sql = "SELECT * FROM users WHERE removed_ms IS NULL ORDER BY username";
        let rows = sqlx::query(sql).fetch_all(self.reader()).await?;
        rows.iter().map(user).collect()
    }

    /// Replaces a password's hash and ends all sessions of the user.
    pub async fn set_password(&self, user: UserId, password_hash: &str) -> Result<()> {
        let mut tx = self.begin().await?;
        let sql = "UPDATE users SET password_hash = $1 WHERE id = $2 AND removed_ms IS NULL";
        let query = sqlx::query(sql).bind(password_hash.to_owned());
        if query.bind(user.to_string()).execute(&mut *tx).await?.rows_affected() == 0 {
            return Err(no_user(&user));
        }
        delete_of(&mut tx, "DELETE FROM sessions WHERE user_id = $1", user).await?;
        Ok(tx.commit().await?)
    }

    /// Ends a user's sessions, keys and memberships for good. The row stays, for what the user made. Projects that would be
    /// without an owner become `by`'s, an admin's; returns their names. Removing the last admin is a conflict.
    pub async fn remove_user(&self, user: UserId, by: UserId, now_ms: i64) -> Result<Vec<String>> {
        let mut tx = self.begin().await?;
        // Removals wait for each other: two admins who remove each other must not both succeed.
        sqlx::query("UPDATE users SET admin = admin WHERE admin = 1").execute(&mut *tx).await?;
        let sql = "UPDATE users SET removed_ms = $2 WHERE id = $1 AND removed_ms IS NULL";
        let query = sqlx::query(sql).bind(user.to_string()).bind(now_ms);
        if query.execute(&mut *tx).await?.rows_affected() == 0 {
            return Err(no_user(&user));
        }
        let admins = sqlx::query("SELECT id FROM users WHERE admin = 1 AND removed_ms IS NULL LIMIT 1");
        if admins.fetch_optional(&mut *tx).await?.is_none() {
            return Err(Error::Conflict(
                "this is the hub's last admin: make somebody else an admin first".into(),
            ));
        }
        let inherited = inherit(&mut tx, user, by).await?;
        for sql in [
            "DELETE FROM members WHERE user_id = $1",
            "DELETE FROM sessions WHERE user_id = $1",
            "DELETE FROM api_keys WHERE user_id = $1",
        ] {
            delete_of(&mut tx, sql, user).await?;
        }
        tx.commit().await?;
        Ok(inherited)
    }

    /// Adds a session.
    pub async fn create_session(
        &self,
        token: TokenHash,
        user: UserId,
        created_ms: i64,
        expires_ms: i64,
    ) -> Result<()> {
        let sql = "INSERT INTO sessions (token, user_id, created_ms, expires_ms) VALUES ($1, $2, $3, $4)";
        let query =
            sqlx::query(sql).bind(token.to_string()).bind(user.to_string()).bind(created_ms).bind(expires_ms);
        query.execute(self.writer()).await?;
        Ok(())
    }

    /// Whose session it is, if it has not expired.
    pub async fn session_user(&self, token: TokenHash, now_ms: i64) -> Result<Option<User>> {
        let sql = "SELECT u.* FROM sessions s JOIN users u ON u.id = s.user_id WHERE s.token = $1 AND s.expires_ms > $2 \
            AND u.removed_ms IS NULL";
        let row = sqlx::query(sql).bind(token.to_string()).bind(now_ms).fetch_optional(self.reader()).await?;
        row.as_ref().map(user).transpose()
    }

    /// Ends a session; fine if there is none.
    pub async fn delete_session(&self, token: TokenHash) -> Result<()> {
        sqlx::query("DELETE FROM sessions WHERE token = $1")
            .bind(token.to_string())
            .execute(self.writer())
            .await?;
        Ok(())
    }

    /// Forgets sessions that are over; returns how many.
    pub async fn delete_expired_sessions(&self, now_ms: i64) -> Result<u64> {
        let query = sqlx::query("DELETE FROM sessions WHERE expires_ms <= $1").bind(now_ms);
        Ok(query.execute(self.writer()).await?.rows_affected())
    }

    /// Adds an API key.
    pub async fn create_key(&self, user: UserId, key: &ApiKey, token: TokenHash) -> Result<()> {
        let sql = "INSERT INTO api_keys (id, user_id, name, token, created_ms) VALUES ($1, $2, $3, $4, $5)";
        let query = sqlx::query(sql).bind(key.id.to_string()).bind(user.to_string()).bind(key.name.clone());
        query.bind(token.to_string()).bind(key.created_ms).execute(self.writer()).await?;
        Ok(())
    }

    /// A user's API keys, oldest first.
    pub async fn keys(&self, user: UserId) -> Result<Vec<ApiKey>> {
        let sql =
            "SELECT id, name, created_ms, used_ms FROM api_keys WHERE user_id = $1 ORDER BY created_ms, id";
        let rows = sqlx::query(sql).bind(user.to_string()).fetch_all(self.reader()).await?;
        let key = |row: &AnyRow| {
            let (created_ms, used_ms) = (row.int("created_ms")?, row.optional_int("used_ms")?);
            Ok(ApiKey { id: row.parsed("id")?, name: row.text("name")?, created_ms, used_ms })
        };
        rows.iter().map(key).collect()
    }

    /// Removes one of a user's API keys.
    pub async fn delete_key(&self, user: UserId, key: Uuid) -> Result<()> {
        let query = sqlx::query("DELETE FROM api_keys WHERE user_id = $1 AND id = $2");
        let removed = query.bind(user.to_string()).bind(key.to_string()).execute(self.writer()).await?;
        match removed.rows_affected() {
            0 => Err(Error::NotFound { what: "API key", id: key.to_string() }),
            _ => Ok(()),
        }
    }

    /// Whose API key it is. Notes the use, at most once a minute.
    pub async fn key_user(&self, token: TokenHash, now_ms: i64) -> Result<Option<User>> {
        let sql = "SELECT u.*, k.used_ms FROM api_keys k JOIN users u ON u.id = k.user_id WHERE k.token = $1 \
            AND u.removed_ms IS NULL";
        let row = sqlx::query(sql).bind(token.to_string()).fetch_optional(self.reader()).await?;
        let Some(row) = row else { return Ok(None) };
        if row.optional_int("used_ms")?.is_none_or(|used| now_ms - used >= USE_NOTED_MS) {
            let query = sqlx::query("UPDATE api_keys SET used_ms = $1 WHERE token = $2");
            query.bind(now_ms).bind(token.to_string()).execute(self.writer()).await?;
        }
        user(&row).map(Some)
    }
}

/// Makes `to` an owner of the projects that only `from` owns; returns their names.
async fn inherit(tx: &mut Transaction<'static, Any>, from: UserId, to: UserId) -> Result<Vec<String>> {
    let sql = "SELECT p.id, p.name FROM members m JOIN projects p ON p.id = m.project_id \
        WHERE m.user_id = $1 AND m.access = 'owner' AND NOT EXISTS (SELECT 1 FROM members o \
        WHERE o.project_id = m.project_id AND o.access = 'owner' AND o.user_id <> m.user_id) ORDER BY p.name";
    let rows = sqlx::query(sql).bind(from.to_string()).fetch_all(&mut **tx).await?;
    let mut names = Vec::with_capacity(rows.len());
    for row in rows {
        put_member(tx, row.parsed("id")?, to, Access::Owner).await?;
        names.push(row.text("name")?);
    }
    Ok(names)
}

async fn delete_of(tx: &mut Transaction<'static, Any>, sql: &'static str, user: UserId) -> Result<()> {
    sqlx::query(sql).bind(user.to_string()).execute(&mut **tx).await?;
    Ok(())
}
