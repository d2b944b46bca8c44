//! Task logs: bytes at offsets.

use ds_domain::TaskId;
use sqlx::Row;

use crate::{
    Db, Error, Result,
    rows::{Columns, signed},
};

impl Db {
    /// Stores a piece of a task's log and returns how many bytes are stored now. What is stored already is ignored; a
    /// piece beyond the end is a [`crate::Error::LogGap`]. Durable when it returns.
    pub async fn append_log(&self, task: TaskId, offset: u64, data: &[u8]) -> Result<u64> {
        let mut tx = self.begin().await?;
        let query = sqlx::query("SELECT log_bytes FROM tasks WHERE id = $1").bind(task.to_string());
        let row = query.fetch_optional(&mut *tx).await?;
        let stored =
            row.ok_or_else(|| Error::NotFound { what: "task", id: task.to_string() })?.size("log_bytes")?;
        if offset > stored {
            return Err(Error::LogGap { task, stored, offset });
        }
        let known = usize::try_from(stored - offset).unwrap_or(usize::MAX);
        let Some(new) = data.get(known..).filter(|new| !new.is_empty()) else { return Ok(stored) };
        let end = stored + new.len() as u64;
        let sql = "UPDATE tasks SET log_bytes = $1 WHERE id = $2 AND log_bytes = $3";
        let moved = sqlx::query(sql)
            .bind(signed(end))
            .bind(task.to_string())
            .bind(signed(stored))
            .execute(&mut *tx)
            .await?;
        if moved.rows_affected() == 0 {
            return Err(Error::Conflict(format!(
                "another writer appends to the log of task {task}: try again"
            )));
        }
        let sql = "INSERT INTO task_logs (task_id, start_byte, data) VALUES ($1, $2, $3)";
        sqlx::query(sql)
            .bind(task.to_string())
            .bind(signed(stored))
            .bind(new.to_vec())
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(end)
    }

    /// Up to `limit` bytes of a task's log from `offset`; empty at the end.
    pub async fn read_log(&self, task: TaskId, offset: u64, limit: u32) -> Result<Vec<u8>> {
        let sql = "SELECT start_byte, data FROM task_logs WHERE task_id = $1 AND start_byte < $3 AND start_byte >= \
            COALESCE((SELECT MAX(start_byte) FROM task_logs WHERE task_id = $1 AND start_byte <= $2), 0) ORDER BY start_byte";
        let end = offset.saturating_add(u64::from(limit));
        let query = sqlx::query(sql).bind(task.to_string()).bind(signed(offset)).bind(signed(end));
        let mut bytes = Vec::new();
        for row in query.fetch_all(self.reader()).await? {
            let start = row.size("start_byte")?;
            let data: &[u8] = row.try_get("data")?;
            let from = usize::try_from(offset.saturating_sub(start)).unwrap_or(usize::MAX).min(data.len());
            let to = usize::try_from(end - start).unwrap_or(usize::MAX).min(data.len());
            bytes.extend_from_slice(&data[from..to.max(from)]);
        }
        Ok(bytes)
    }
}
