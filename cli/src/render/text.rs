//! Small pieces of text.

use std::fmt::Write as _;

/// Characters of an id that are shown.
const SHORT: usize = 10;

/// The beginning of an id.
pub(crate) fn short(id: &str) -> &str {
    id.get(..SHORT).unwrap_or(id)
}

/// Bytes, in the unit that fits.
pub(crate) fn bytes(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["bytes", "kB", "MB", "GB"] {
        if value < 1000.0 {
            return if unit == "bytes" { format!("{bytes} bytes") } else { format!("{value:.1} {unit}") };
        }
        value /= 1000.0;
    }
    format!("{value:.1} TB")
}

/// A number of things.
pub(crate) fn count(number: u64, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

/// A number in few digits.
pub(crate) fn number(value: f64) -> String {
    if value == 0.0 || (1e-3..1e5).contains(&value.abs()) {
        let text = format!("{value:.4}");
        return if text.contains('.') {
            text.trim_end_matches('0').trim_end_matches('.').into()
        } else {
            text
        };
    }
    format!("{value:.2e}")
}

/// Milliseconds since 1970 as `2026-11-24 10:15`, in UTC. The calendar is Gregorian throughout
/// (Howard Hinnant, “chrono-compatible low-level date algorithms”, `civil_from_days`).
pub(crate) fn time(millis: u64) -> String {
    let minutes = millis / 60_000;
    let (days, minute) = (minutes / 1440, minutes % 1440);
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let date = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{date:02} {:02}:{:02}", minute / 60, minute % 60)
}

/// Adds warnings, a line each.
pub(crate) fn warn(out: &mut String, warnings: &[String]) {
    for warning in warnings {
        let _ = writeln!(out, "warning: {warning}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_utc_and_right_in_leap_years() {
        assert_eq!(time(0), "1970-01-01 00:00");
        assert_eq!(time(951_782_399_999), "2000-02-28 23:59");
        assert_eq!(time(951_782_400_000), "2000-02-29 00:00");
        assert_eq!(time(1_795_515_300_000), "2026-11-24 10:15");
        assert_eq!(time(4_107_542_400_000), "2100-03-01 00:00");
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!(bytes(999), "999 bytes");
        assert_eq!(bytes(1_234_567), "1.2 MB");
        assert_eq!(number(0.41), "0.41");
        assert_eq!(number(12.0), "12");
        assert_eq!(number(0.000_012_3), "1.23e-5");
        assert_eq!(count(1, "peer", "peers"), "1 peer");
    }
}
