//! Lengths of time, as they are typed.

/// Seconds of a text such as `90s`, `15m`, `1h30m`, `2d` or `4w`; `None` for anything else, nought included.
pub(super) fn seconds(text: &str) -> Option<i64> {
    let mut total: i64 = 0;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let unit = match rest[digits..].chars().next()? {
            's' => 1,
            'm' => 60,
            'h' => 60 * 60,
            'd' => 24 * 60 * 60,
            'w' => 7 * 24 * 60 * 60,
            _ => return None,
        };
        let part = rest[..digits].parse::<i64>().ok()?.checked_mul(unit)?;
        total = total.checked_add(part)?;
        // Units have one byte.
        rest = &rest[digits + 1..];
    }
    (total > 0).then_some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_add_up() {
        for (text, expected) in
            [("90s", 90), ("15m", 900), ("1h30m", 5400), ("2d", 172_800), ("4w", 2_419_200)]
        {
            assert_eq!(seconds(text), Some(expected));
        }
        for wrong in
            ["", "0s", "5", "m", "1y", "-1h", "1h 30m", "9999999999999999999s", "999999999999999999w", "1ä"]
        {
            assert_eq!(seconds(wrong), None, "{wrong}");
        }
    }
}
