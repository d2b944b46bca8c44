//! How values read: short ids, times, sizes.

use std::{
    collections::BTreeMap,
    fmt::Display,
    time::{SystemTime, UNIX_EPOCH},
};

use ds_domain::api::{ChangeKind, Progress};
use time::{OffsetDateTime, macros::format_description};

/// The first 8 characters of an id: enough to name it to a person, and to the hub.
pub(crate) fn short(id: impl Display) -> String {
    id.to_string().chars().take(8).collect()
}

/// Now, in Unix milliseconds by this machine's clock.
pub(crate) fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// How long ago `then_ms` was: `12 min ago`. The hub's clock may be ahead; the future is `just now`.
pub(crate) fn ago(then_ms: i64) -> String {
    ago_at(then_ms, now_ms())
}

fn ago_at(then_ms: i64, now_ms: i64) -> String {
    match now_ms.saturating_sub(then_ms) / 1000 {
        ..5 => "just now".into(),
        seconds @ ..60 => format!("{seconds} s ago"),
        seconds @ ..3600 => format!("{} min ago", seconds / 60),
        seconds @ ..86_400 => format!("{} h ago", seconds / 3600),
        seconds if seconds < 60 * 86_400 => format!("{} d ago", seconds / 86_400),
        _ => date(then_ms),
    }
}

/// A moment with how long ago it was.
pub(crate) fn moment(at_ms: i64) -> String {
    let format = format_description!("[year]-[month]-[day] [hour]:[minute]:[second] UTC");
    let text = instant(at_ms).and_then(|at| at.format(&format).ok());
    text.map_or_else(|| at_ms.to_string(), |text| format!("{text} ({})", ago(at_ms)))
}

fn date(at_ms: i64) -> String {
    let text = instant(at_ms).and_then(|at| at.format(&format_description!("[year]-[month]-[day]")).ok());
    text.unwrap_or_else(|| at_ms.to_string())
}

fn instant(at_ms: i64) -> Option<OffsetDateTime> {
    OffsetDateTime::from_unix_timestamp(at_ms.div_euclid(1000)).ok()
}

/// A span of time: `850 ms`, `12 s`, `3 min 4 s`, `2 h 5 min`.
pub(crate) fn span(ms: i64) -> String {
    let seconds = ms / 1000;
    match seconds {
        ..1 => format!("{} ms", ms.max(0)),
        1..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
    }
}

/// A size in powers of 1024: `512 B`, `1.4 MiB`.
pub(crate) fn size(bytes: u64) -> String {
    let mut value = bytes as f64;
    let mut unit = "B";
    for next in ["KiB", "MiB", "GiB", "TiB", "PiB"] {
        if value < 1024.0 {
            break;
        }
        (value, unit) = (value / 1024.0, next);
    }
    if unit == "B" { format!("{bytes} B") } else { format!("{value:.1} {unit}") }
}

/// How far a transfer is: `40.0 MiB of 120.0 MiB`, or as much of it as is known.
pub(crate) fn progress(progress: Progress) -> String {
    let done = size(progress.done_bytes);
    match progress.total_bytes {
        Some(total) => format!("{done} of {}", size(total)),
        None => done,
    }
}

/// `1 run`, `2 runs`.
pub(crate) fn count(number: u64, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

/// `a=1 b=2`.
pub(crate) fn pairs(map: &BTreeMap<String, String>) -> String {
    map.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
}

/// `+`, `~` or `-`.
pub(crate) fn change_sign(change: ChangeKind) -> char {
    match change {
        ChangeKind::Added => '+',
        ChangeKind::Modified => '~',
        ChangeKind::Removed => '-',
    }
}

/// The beginning of a text that may be long, for a line of a list.
pub(crate) fn excerpt(text: &str) -> String {
    const LONGEST: usize = 60;
    if text.chars().count() <= LONGEST {
        return text.to_owned();
    }
    text.chars().take(LONGEST - 1).chain(['…']).collect()
}

/// A command as one would type it into a shell.
pub(crate) fn command(words: &[String]) -> String {
    words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ")
}

fn quoted(word: &str) -> String {
    let safe = |c: char| c.is_alphanumeric() || "-_./=:,@%+".contains(c);
    if !word.is_empty() && word.chars().all(safe) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// One line without control characters: what others wrote must not steer this terminal.
pub(crate) fn plain(text: &str) -> String {
    text.trim_end().chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Like [`plain`], keeping line feeds.
pub(crate) fn plain_lines(text: &str) -> String {
    text.trim_end().chars().map(|c| if c.is_control() && c != '\n' { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_relative_and_clocks_may_differ() {
        let now = 1_700_000_000_000;
        for (before_s, expected) in [
            (-3600, "just now"),
            (0, "just now"),
            (59, "59 s ago"),
            (60, "1 min ago"),
            (7200, "2 h ago"),
            (86_400 * 3, "3 d ago"),
            (86_400 * 90, "2023-08-16"),
        ] {
            assert_eq!(ago_at(now - before_s * 1000, now), expected);
        }
    }

    #[test]
    fn spans_and_sizes_read_well() {
        assert_eq!(
            [span(-5), span(850), span(12_300), span(184_000), span(7_500_000)],
            ["0 ms", "850 ms", "12 s", "3 min 4 s", "2 h 5 min"]
        );
        assert_eq!([size(0), size(1023), size(1024), size(3 << 29)], ["0 B", "1023 B", "1.0 KiB", "1.5 GiB"]);
        assert_eq!(short("3f2c8a4e-0c7e"), "3f2c8a4e");
    }

    #[test]
    fn commands_are_quoted_where_a_shell_needs_it() {
        let words = ["sh", "-c", "echo 'a b' > x", ""].map(String::from);
        assert_eq!(command(&words), r"sh -c 'echo '\''a b'\'' > x' ''");
    }

    #[test]
    fn an_excerpt_says_that_there_is_more() {
        assert_eq!(excerpt("python train.py"), "python train.py");
        let long = excerpt(&"ä".repeat(100));
        assert_eq!((long.chars().count(), long.chars().last()), (60, Some('…')));
    }

    #[test]
    fn other_peoples_text_has_no_control_characters() {
        assert_eq!(plain("a\x1b[2Jb\nc\n"), "a [2Jb c");
        assert_eq!(plain_lines("a\x1bb\nc\n"), "a b\nc");
    }
}
