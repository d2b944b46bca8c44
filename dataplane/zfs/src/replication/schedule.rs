//! When to do something again.

use std::str::FromStr;

use time::{Date, Month, OffsetDateTime, PrimitiveDateTime, Time};

use super::{Invalid, span};

/// Days in which a day of the year comes back, 29 February included.
const LONGEST_WAIT_DAYS: u32 = 9 * 366;

/// A span, such as `15m`, or the five fields of cron, such as `30 2 * * 1-5`: minute, hour, day of the month, month, day of the
/// week (0 or 7 is Sunday), each `*`, numbers, ranges and steps. As in cron, of a day of the month and a day of the week
/// one is enough where both are given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Schedule {
    /// At every multiple of a span, counted from 1970: equal everywhere, and after every restart.
    Every {
        /// Its length.
        seconds: i64,
    },
    /// At the minutes that these fields name.
    Times(Times),
}

/// Sets of numbers, one bit each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Times {
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// Whether both kinds of day are given.
    either_day: bool,
}

impl Schedule {
    /// The first moment after `now`, by the clock whose offset `now` has. `None` only at the end of the calendar.
    pub fn next_after(&self, now: OffsetDateTime) -> Option<OffsetDateTime> {
        match self {
            Self::Every { seconds } => {
                let next = now.unix_timestamp().div_euclid(*seconds).checked_add(1)?.checked_mul(*seconds)?;
                Some(OffsetDateTime::from_unix_timestamp(next).ok()?.to_offset(now.offset()))
            }
            Self::Times(times) => times.next_after(now),
        }
    }
}

impl Times {
    fn next_after(&self, now: OffsetDateTime) -> Option<OffsetDateTime> {
        let mut date = now.date();
        let mut from = u32::from(now.hour()) * 60 + u32::from(now.minute()) + 1;
        for _ in 0..LONGEST_WAIT_DAYS {
            if self.has_day(date)
                && let Some(minute) = (from..24 * 60).find(|minute| self.has_minute(*minute))
            {
                let [hour, minute] = [minute / 60, minute % 60].map(|part| u8::try_from(part).unwrap_or(0));
                let time = Time::from_hms(hour, minute, 0).ok()?;
                return Some(PrimitiveDateTime::new(date, time).assume_offset(now.offset()));
            }
            date = date.next_day()?;
            from = 0;
        }
        None
    }

    fn has_day(&self, date: Date) -> bool {
        let day = has(self.days, date.day().into());
        let weekday = has(self.weekdays, date.weekday().number_days_from_sunday().into());
        let fits = if self.either_day { day || weekday } else { day && weekday };
        fits && has(self.months, u8::from(date.month()).into())
    }

    fn has_minute(&self, minute_of_day: u32) -> bool {
        has(self.hours, minute_of_day / 60) && has(self.minutes, minute_of_day % 60)
    }

    /// Whether any month has such a day.
    fn ever(&self) -> bool {
        let longest = |month: u8| Month::try_from(month).map_or(0, |month| month.length(2024));
        self.either_day
            || (1..=12).any(|month| {
                has(self.months, month.into()) && (1..=longest(month)).any(|day| has(self.days, day.into()))
            })
    }
}

fn has(set: u64, number: u32) -> bool {
    set >> number & 1 == 1
}

impl FromStr for Schedule {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let invalid = |why: String| Invalid {
            what: "schedule",
            text: text.to_owned(),
            why: format!("{why}; write 15m, 1h or 1d, or the five fields of cron, such as 30 2 * * 1-5"),
        };
        if let Some(seconds) = span::seconds(text.trim()) {
            return Ok(Self::Every { seconds });
        }
        let fields: Vec<&str> = text.split_whitespace().collect();
        let [minutes, hours, days, months, weekdays] = fields[..] else {
            return Err(invalid("it is neither a span nor five fields".into()));
        };
        let read = |field, first, last| numbers(field, first, last).map_err(invalid);
        let sundays = read(weekdays, 0, 7)?;
        let times = Times {
            minutes: read(minutes, 0, 59)?,
            hours: read(hours, 0, 23)?,
            days: read(days, 1, 31)?,
            months: read(months, 1, 12)?,
            weekdays: sundays | sundays >> 7 & 1,
            either_day: !days.starts_with('*') && !weekdays.starts_with('*'),
        };
        if !times.ever() {
            return Err(invalid("no year has such a day".into()));
        }
        Ok(Self::Times(times))
    }
}

/// Reads `*`, `5`, `1-5`, `*/10`, `0-30/10`, and several of them with commas.
fn numbers(field: &str, first: u32, last: u32) -> Result<u64, String> {
    let wrong = || format!("{field:?} is none of *, numbers from {first} to {last}, ranges and steps");
    let number =
        |text: &str| text.parse::<u32>().ok().filter(|n| (first..=last).contains(n)).ok_or_else(wrong);
    let mut set = 0;
    for part in field.split(',') {
        let (range, step) = match part.split_once('/') {
            Some((range, step)) => (range, step.parse().ok().filter(|step| *step > 0).ok_or_else(wrong)?),
            None => (part, 1),
        };
        let (from, to) = match range.split_once('-') {
            _ if range == "*" => (first, last),
            Some((from, to)) => (number(from)?, number(to)?),
            // `5/10` is from 5 on.
            None if step > 1 => (number(range)?, last),
            None => (number(range)?, number(range)?),
        };
        if from > to {
            return Err(wrong());
        }
        set |= (from..=to).step_by(step).fold(0, |set, number| set | 1 << number);
    }
    Ok(set)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use time::macros::datetime;

    use super::*;

    fn next(schedule: &str, now: OffsetDateTime) -> OffsetDateTime {
        schedule.parse::<Schedule>().unwrap().next_after(now).unwrap()
    }

    #[test]
    fn the_next_time_is_after_now() {
        let now = datetime!(2026-03-04 10:07:30 +2);
        for (schedule, expected) in [
            ("15m", datetime!(2026-03-04 10:15 +2)),
            ("1d", datetime!(2026-03-05 02:00 +2)),
            ("* * * * *", datetime!(2026-03-04 10:08 +2)),
            ("7 10 * * *", datetime!(2026-03-05 10:07 +2)),
            ("*/20 8-18 * * 1-5", datetime!(2026-03-04 10:20 +2)),
            ("30 2 * * 7", datetime!(2026-03-08 02:30 +2)),
            ("0 0 1,15 * *", datetime!(2026-03-15 00:00 +2)),
            ("0 0 15 * 5", datetime!(2026-03-06 00:00 +2)),
            ("0 12 29 2 *", datetime!(2028-02-29 12:00 +2)),
            ("5/25 23 31 12 *", datetime!(2026-12-31 23:05 +2)),
        ] {
            assert_eq!(next(schedule, now), expected, "{schedule}");
        }
        assert_eq!(next("15m", datetime!(2026-03-04 10:15 +2)), datetime!(2026-03-04 10:30 +2));
    }

    #[test]
    fn a_wrong_schedule_says_how_to_write_it() {
        for wrong in [
            "",
            "0m",
            "* * * *",
            "60 * * * *",
            "* 24 * * *",
            "* * 0 * *",
            "5-1 * * * *",
            "*/0 * * * *",
            "0 0 31 2,4 *",
            "a * * * *",
        ] {
            let error = wrong.parse::<Schedule>().unwrap_err().to_string();
            assert!(error.contains("30 2 * * 1-5"), "{error}");
        }
        assert_eq!("1m".parse::<Schedule>().unwrap().next_after(datetime!(9999-12-31 23:59:59 UTC)), None);
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[0-9*/,mh -]{0,20}", now in 0_i64..253_402_300_799) {
            if let Ok(schedule) = text.parse::<Schedule>() {
                let now = OffsetDateTime::from_unix_timestamp(now).unwrap();
                prop_assert!(schedule.next_after(now).is_none_or(|next| next > now));
            }
        }
    }
}
