//! How fast bytes may flow at which time of day.

use std::str::FromStr;

use time::OffsetDateTime;

use super::Invalid;

/// Rates by time of day: `08:00-18:00=200Mbit,*=2Gbit`. The first window that has the time counts; outside of all of them, and
/// where one says `unlimited`, there is no limit. A window may go over midnight.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Limits {
    windows: Vec<Window>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Window {
    /// Minutes of the day; equal for the whole day.
    from: u16,
    to: u16,
    bytes_per_second: Option<u64>,
}

impl Limits {
    /// Bytes a second at a moment, by the clock whose offset it has; `None` for no limit.
    pub fn at(&self, now: OffsetDateTime) -> Option<u64> {
        let minute = u16::from(now.hour()) * 60 + u16::from(now.minute());
        self.windows.iter().find(|window| window.has(minute))?.bytes_per_second
    }
}

impl Window {
    fn has(&self, minute: u16) -> bool {
        if self.from < self.to {
            (self.from..self.to).contains(&minute)
        } else {
            minute >= self.from || minute < self.to
        }
    }
}

impl FromStr for Limits {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let invalid = |why: String| {
            let why = format!("{why}; write 500Mbit, or 08:00-18:00=200Mbit,*=2Gbit");
            Invalid { what: "limit", text: text.to_owned(), why }
        };
        let windows =
            text.split(',').map(|part| window(part.trim()).map_err(invalid)).collect::<Result<_, _>>()?;
        Ok(Self { windows })
    }
}

fn window(text: &str) -> Result<Window, String> {
    let (hours, rate) = text.split_once('=').unwrap_or(("*", text));
    let (from, to) = match hours.trim() {
        "*" => (0, 0),
        hours => hours
            .split_once('-')
            .and_then(|(from, to)| Some((minute(from)?, minute(to)?)))
            .ok_or_else(|| format!("{hours:?} is no window such as 08:00-18:00"))?,
    };
    Ok(Window { from, to: to % (24 * 60), bytes_per_second: rate_of(rate.trim())? })
}

fn minute(text: &str) -> Option<u16> {
    let (hour, minute) = text.trim().split_once(':')?;
    let two_digits = |text: &str| (text.len() == 2).then(|| text.parse::<u16>().ok()).flatten();
    let minutes = two_digits(hour)? * 60 + two_digits(minute).filter(|minute| *minute < 60)?;
    (minutes <= 24 * 60).then_some(minutes)
}

/// Bytes a second. Bits are counted in thousands, as lines are sold; bytes in thousands (`MB`) or in 1024s (`MiB`).
fn rate_of(text: &str) -> Result<Option<u64>, String> {
    if text == "unlimited" {
        return Ok(None);
    }
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let unit = text[digits..].trim().trim_end_matches("/s").to_ascii_lowercase();
    let (times, per_byte) = match unit.as_str() {
        "kbit" => (1_000, 8),
        "mbit" => (1_000_000, 8),
        "gbit" => (1_000_000_000, 8),
        "kb" => (1_000, 1),
        "mb" => (1_000_000, 1),
        "gb" => (1_000_000_000, 1),
        "kib" => (1 << 10, 1),
        "mib" => (1 << 20, 1),
        "gib" => (1 << 30, 1),
        _ => return Err(format!("{text:?} has no unit such as Mbit, Gbit or MB")),
    };
    let rate = text[..digits].parse::<u64>().ok().and_then(|number| number.checked_mul(times));
    match rate.map(|rate| rate / per_byte) {
        Some(rate) if rate > 0 => Ok(Some(rate)),
        _ => Err(format!("{text:?} is no rate above 0 and within reach")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use time::macros::datetime;

    use super::*;

    fn at(limits: &str, now: OffsetDateTime) -> Option<u64> {
        limits.parse::<Limits>().unwrap().at(now)
    }

    #[test]
    fn the_first_window_that_has_the_time_counts() {
        let day = "08:00-18:00=200Mbit,*=2Gbit";
        assert_eq!(at(day, datetime!(2026-03-04 08:00 -7)), Some(25_000_000));
        assert_eq!(at(day, datetime!(2026-03-04 17:59:59 -7)), Some(25_000_000));
        assert_eq!(at(day, datetime!(2026-03-04 18:00 -7)), Some(250_000_000));
        let night = "22:00-06:00=unlimited, 06:00-24:00=1MiB/s";
        assert_eq!(at(night, datetime!(2026-03-04 23:00 UTC)), None);
        assert_eq!(at(night, datetime!(2026-03-04 05:59 UTC)), None);
        assert_eq!(at(night, datetime!(2026-03-04 06:00 UTC)), Some(1 << 20));
        assert_eq!(at("12:00-13:00=1kB", datetime!(2026-03-04 13:00 UTC)), None);
        assert_eq!(at("500Mbit", datetime!(2026-03-04 13:00 UTC)), Some(62_500_000));
        assert_eq!(Limits::default().at(datetime!(2026-03-04 13:00 UTC)), None);
    }

    #[test]
    fn a_wrong_limit_says_how_to_write_it() {
        for wrong in [
            "",
            "5",
            "0Mbit",
            "8-18=1Mbit",
            "08:00-25:00=1Mbit",
            "08:60-09:00=1Mbit",
            "*=",
            "1Mbit,",
            "99999999999Gbit",
        ] {
            let error = wrong.parse::<Limits>().unwrap_err().to_string();
            assert!(error.contains("*=2Gbit"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[0-9:=*,MbitGB -]{0,24}", minute in 0_i64..1440) {
            if let Ok(limits) = text.parse::<Limits>() {
                let _ = limits.at(OffsetDateTime::from_unix_timestamp(minute * 60).unwrap());
            }
        }
    }
}
