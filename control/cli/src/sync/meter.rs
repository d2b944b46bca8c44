//! How far a round is: a bar where a person sees it, else a line now and then.

use std::{
    collections::HashMap,
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use ds_domain::api::Progress;
use ds_transfer::tree::{Event, Watch};
use indicatif::ProgressBar;

use crate::{
    output::{Output, text},
    progress,
};

/// Between two lines, where there is no terminal.
const LINES: Duration = Duration::from_secs(10);
/// Between two looks of the bar.
const LOOK: Duration = Duration::from_millis(250);

/// Counts what moves.
pub(super) struct Meter {
    counted: Arc<Mutex<Counted>>,
    bar: ProgressBar,
    started: Instant,
}

#[derive(Default)]
struct Counted {
    total: Option<u64>,
    arrived: u64,
    /// Bytes of each stream under way, by target and path.
    moving: HashMap<(usize, String), u64>,
}

impl Meter {
    /// Of so many bytes, if that is known.
    pub(super) fn start(total: Option<u64>) -> Self {
        let counted = Counted { total: total.filter(|total| *total > 0), ..Counted::default() };
        let bar = progress::transfer("syncing".to_owned(), counted.progress());
        Self { counted: Arc::new(Mutex::new(counted)), bar, started: Instant::now() }
    }

    /// What is to be told of events.
    pub(super) fn watch(&self) -> Watch {
        let counted = Arc::clone(&self.counted);
        Arc::new(move |event| lock(&counted).take(event))
    }

    /// Shows it until it is dropped.
    pub(super) async fn tell(&self, out: &Output) -> Infallible {
        let seen = progress::is_seen();
        let mut looks = tokio::time::interval(if seen { LOOK } else { LINES });
        looks.tick().await;
        loop {
            looks.tick().await;
            let now = lock(&self.counted).progress();
            if seen {
                progress::advance(&self.bar, now);
            } else if now.done_bytes > 0 {
                out.note(line(now, self.started.elapsed()));
            }
        }
    }

    /// Takes the bar away.
    pub(super) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

impl Counted {
    fn take(&mut self, event: Event) {
        match event {
            Event::Began { path, target, .. } => drop(self.moving.insert((target, path), 0)),
            Event::Moved { path, target, progress } => {
                self.moving.insert((target, path), progress.bytes);
            }
            Event::Arrived { path, target, bytes } => {
                self.moving.remove(&(target, path));
                self.arrived += bytes;
            }
            Event::Failed { path, target, .. } => drop(self.moving.remove(&(target, path))),
        }
    }

    fn progress(&self) -> Progress {
        let done_bytes = self.arrived + self.moving.values().sum::<u64>();
        // An estimate is a few per cent off.
        Progress { done_bytes, total_bytes: self.total.map(|total| total.max(done_bytes)) }
    }
}

fn lock(counted: &Mutex<Counted>) -> MutexGuard<'_, Counted> {
    counted.lock().unwrap_or_else(PoisonError::into_inner)
}

/// `1.2 GiB of 3.0 GiB, 80.0 MiB/s, 23 s left`
fn line(now: Progress, elapsed: Duration) -> String {
    let elapsed_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX).max(1);
    let rate = now.done_bytes.saturating_mul(1000) / elapsed_ms;
    let shown = format!("{}, {}/s", text::progress(now), text::size(rate));
    match now.total_bytes {
        Some(total) if rate > 0 => {
            let left = total.saturating_sub(now.done_bytes).saturating_mul(1000) / rate;
            format!("{shown}, {} left", text::span(i64::try_from(left).unwrap_or(i64::MAX)))
        }
        _ => shown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_arrived_and_what_moves_add_up() {
        let mut counted = Counted { total: Some(100), ..Counted::default() };
        let (path, target) = ("a".to_owned(), 0);
        counted.take(Event::Began { path: path.clone(), target, snapshot: "s".into() });
        let progress = ds_transfer::Progress { bytes: 40, estimate: None };
        counted.take(Event::Moved { path: path.clone(), target, progress });
        assert_eq!(counted.progress(), Progress { done_bytes: 40, total_bytes: Some(100) });
        counted.take(Event::Arrived { path: path.clone(), target, bytes: 60 });
        counted.take(Event::Began { path: path.clone(), target: 1, snapshot: "s".into() });
        counted.take(Event::Failed { path, target: 1, why: "gone".into() });
        assert_eq!(counted.progress().done_bytes, 60);
    }

    #[test]
    fn a_line_says_rate_and_time_left() {
        let now = Progress { done_bytes: 100 << 20, total_bytes: Some(300 << 20) };
        assert_eq!(line(now, Duration::from_secs(10)), "100.0 MiB of 300.0 MiB, 10.0 MiB/s, 20 s left");
        let now = Progress { total_bytes: None, ..now };
        assert_eq!(line(now, Duration::from_secs(10)), "100.0 MiB, 10.0 MiB/s");
    }
}
