//! A few settings of the hub itself.

use crate::{Db, Result, rows::Columns};

impl Db {
    /// A setting's value.
    pub async fn setting(&self, name: &str) -> Result<Option<String>> {
        let query = sqlx::query("SELECT value FROM settings WHERE name = $1").bind(name.to_owned());
        query.fetch_optional(self.reader()).await?.map(|row| row.text("value")).transpose()
    }

    /// Sets or replaces a setting.
    pub async fn set_setting(&self, name: &str, value: &str) -> Result<()> {
        let sql = "INSERT INTO settings (name, value) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET value = excluded.value";
        sqlx::query(sql).bind(name.to_owned()).bind(value.to_owned()).execute(self.writer()).await?;
        Ok(())
    }
}
