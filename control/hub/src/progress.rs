//! How far the bytes are that move for tasks, as their runners tell it several times a second. Only in memory: what a
//! restart loses is told again with the next tick.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard},
};

use ds_domain::{TaskId, api::Progress};

/// The newest ticks: at most one for each task of the runners that are connected to this process.
#[derive(Default)]
pub(crate) struct Ticks(Mutex<HashMap<TaskId, Progress>>);

impl Ticks {
    /// Notes how far a task is; none where no bytes move for it.
    pub(crate) fn note(&self, task: TaskId, progress: Option<Progress>) {
        match progress {
            Some(progress) => self.lock().insert(task, progress),
            None => self.lock().remove(&task),
        };
    }

    pub(crate) fn of(&self, task: TaskId) -> Option<Progress> {
        self.lock().get(&task).copied()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<TaskId, Progress>> {
        self.0.lock().expect("no holder of this lock panics")
    }
}
