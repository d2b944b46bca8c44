//! Values that are typed: sizes, durations, `KEY=VALUE`, numbers of GPUs. The errors are shown by clap after the flag.

use ds_domain::task::Gpus;

/// Bytes: `2G`, `512M`, `1.5GiB`, `6291456`. Units are powers of 1024, as Docker reads them.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    let (number, unit) = split_number(text);
    let shift = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return Err(format!("{unit:?} is no unit: use K, M, G or T, as in 2G")),
    };
    let number: f64 = number.parse().map_err(|_| "expected a size such as 512M or 2G".to_owned())?;
    let bytes = number * f64::from(1u32 << 10).powi(shift / 10);
    if !(1.0..9e18).contains(&bytes) {
        return Err("the size is out of range".into());
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the range was checked above"
    )]
    Ok(bytes as u64)
}

/// Seconds: `10m`, `90s`, `1h30m`, `2d`, `600`.
pub(crate) fn duration(text: &str) -> Result<u64, String> {
    const EXPECTED: &str = "expected a duration such as 90s, 10m or 1h30m";
    let mut seconds: u64 = 0;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let number: u64 = rest[..digits].parse().map_err(|_| EXPECTED.to_owned())?;
        let letters = rest[digits..].find(|c: char| c.is_ascii_digit()).map_or(rest.len(), |at| digits + at);
        let unit = match &rest[digits..letters] {
            "s" => 1,
            "" if digits == text.len() => 1,
            "m" | "min" => 60,
            "h" => 60 * 60,
            "d" => 24 * 60 * 60,
            _ => return Err(EXPECTED.into()),
        };
        seconds = number
            .checked_mul(unit)
            .and_then(|part| seconds.checked_add(part))
            .ok_or("the duration is out of range")?;
        rest = &rest[letters..];
    }
    if seconds == 0 { Err(EXPECTED.into()) } else { Ok(seconds) }
}

/// `KEY=VALUE`; the value may be empty and may contain `=`.
pub(crate) fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("expected KEY=VALUE".into()),
    }
}

/// An environment variable: `KEY=VALUE`, or `KEY` alone for the value that it has here.
pub(crate) fn environment(text: &str) -> Result<(String, String), String> {
    if text.is_empty() || text.contains('=') {
        return key_value(text);
    }
    let value = std::env::var(text).map_err(|_| format!("{text} is not set here: give {text}=VALUE"))?;
    Ok((text.to_owned(), value))
}

/// `all`, or a number above 0.
pub(crate) fn gpus(text: &str) -> Result<Gpus, String> {
    match text {
        "all" => Ok(Gpus::All),
        _ => match text.parse() {
            Ok(count) if count > 0 => Ok(Gpus::Count(count)),
            _ => Err("expected `all`, or a number above 0".into()),
        },
    }
}

fn split_number(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    (&text[..end], text[end..].trim_start())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_powers_of_1024() {
        assert_eq!(size("2G"), Ok(2 << 30));
        assert_eq!(size("512m"), Ok(512 << 20));
        assert_eq!(size("1.5GiB"), Ok(3 << 29));
        assert_eq!(size("64 KB"), Ok(64 << 10));
        assert_eq!(size("6291456"), Ok(6 << 20));
        for wrong in ["", "G", "2X", "-2G", "0", "1e9", "2G2", "9999999T", "1.2.3M"] {
            assert!(size(wrong).is_err(), "{wrong:?} was taken for a size");
        }
    }

    #[test]
    fn durations_add_up() {
        assert_eq!(duration("600"), Ok(600));
        assert_eq!(duration("10m"), Ok(600));
        assert_eq!(duration("1h30m"), Ok(5400));
        assert_eq!(duration("2d"), Ok(172_800));
        assert_eq!(duration("90s"), Ok(90));
        for wrong in
            ["", "0", "m", "10x", "1h30", "-5s", "1.5h", "99999999999999999999s", "9999999999999999d"]
        {
            assert!(duration(wrong).is_err(), "{wrong:?} was taken for a duration");
        }
    }

    #[test]
    fn pairs_split_at_the_first_equals_sign() {
        assert_eq!(key_value("A=b=c"), Ok(("A".into(), "b=c".into())));
        assert_eq!(key_value("A="), Ok(("A".into(), String::new())));
        assert!(key_value("A").is_err() && key_value("=b").is_err());
        assert!(environment("DS_SURELY_NOT_SET").unwrap_err().contains("not set here"));
        assert_eq!(environment("PATH").unwrap().1, std::env::var("PATH").unwrap());
    }

    #[test]
    fn gpus_are_all_or_some() {
        assert_eq!(gpus("all"), Ok(Gpus::All));
        assert_eq!(gpus("2"), Ok(Gpus::Count(2)));
        assert!(gpus("0").is_err() && gpus("some").is_err());
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_a_parser_panic(text in ".*") {
            let _ = (size(&text), duration(&text), key_value(&text), gpus(&text));
        }
    }
}
