//! The text of durations, sizes, numbers and booleans: parsing and formatting.

use std::time::Duration;

use super::kind::Bare;

/// Parses `250ms`, `5s`, `5m`, `2h`, `7d`, sums such as `1h30m`, or a bare number in `bare` units.
pub(crate) fn parse_duration(text: &str, bare: Bare) -> Option<Duration> {
    if let Some(number) = parse_count(text) {
        return Some(match bare {
            Bare::Seconds => Duration::from_secs(number),
            Bare::Milliseconds => Duration::from_millis(number),
        });
    }
    let mut rest = text;
    let mut total_ms = 0_u64;
    while !rest.is_empty() {
        let (number, after) = split_number(rest)?;
        let after = after.trim_start();
        let unit_end = after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_end);
        let unit_ms = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return None,
        };
        total_ms = number.checked_mul(unit_ms)?.checked_add(total_ms)?;
        rest = after.trim_start();
    }
    (!text.is_empty()).then(|| Duration::from_millis(total_ms))
}

/// Parses `10MiB`, `512 KiB`, `1GB` (decimal), or a bare number of bytes; units in any case.
pub(crate) fn parse_bytes(text: &str) -> Option<u64> {
    let (number, unit) = split_number(text)?;
    let factor = match unit.trim_start().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        "tib" => 1 << 40,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        _ => return None,
    };
    number.checked_mul(factor)
}

/// Parses digits; a sign, a space or a separator is refused.
pub(crate) fn parse_count(text: &str) -> Option<u64> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())?
}

/// Parses a finite number in decimal notation.
pub(crate) fn parse_factor(text: &str) -> Option<f64> {
    text.parse().ok().filter(|number: &f64| number.is_finite())
}

/// Parses `true` or `false` in any case.
pub(crate) fn parse_bool(text: &str) -> Option<bool> {
    if text.eq_ignore_ascii_case("true") {
        Some(true)
    } else if text.eq_ignore_ascii_case("false") {
        Some(false)
    } else {
        None
    }
}

fn split_number(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, rest) = text.split_at(end);
    (!digits.is_empty()).then(|| digits.parse().ok())?.map(|number| (number, rest))
}

/// Writes whole units, the largest first (`1h30m`, `250ms`), as [`parse_duration`] reads them.
pub(crate) fn format_duration(duration: Duration) -> String {
    let mut ms = duration.as_millis();
    let mut text = String::new();
    for (unit, unit_ms) in [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)] {
        if ms / unit_ms > 0 {
            text.push_str(&format!("{}{unit}", ms / unit_ms));
            ms %= unit_ms;
        }
    }
    match (text.is_empty(), duration.is_zero()) {
        (false, _) => text,
        (true, true) => "0s".to_owned(),
        (true, false) => format!("{duration:?}"),
    }
}

/// Writes the largest binary unit that leaves a whole number, as [`parse_bytes`] reads it.
pub(crate) fn format_bytes(bytes: u64) -> String {
    for (unit, shift) in [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)] {
        if bytes > 0 && bytes.trailing_zeros() >= shift {
            return format!("{}{unit}", bytes >> shift);
        }
    }
    format!("{bytes}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_take_units_sums_and_bare_numbers() {
        for (text, ms) in [
            ("250ms", 250),
            ("5s", 5_000),
            ("5m", 300_000),
            ("1h30m", 5_400_000),
            ("1 h 30 m", 5_400_000),
            ("7d", 604_800_000),
            ("60", 60_000),
            ("0", 0),
        ] {
            assert_eq!(parse_duration(text, Bare::Seconds), Some(Duration::from_millis(ms)), "{text}");
        }
        assert_eq!(parse_duration("10000", Bare::Milliseconds), Some(Duration::from_secs(10)));
        assert_eq!(parse_duration("5s", Bare::Milliseconds), Some(Duration::from_secs(5)));
    }

    #[test]
    fn text_that_is_no_duration_is_refused_without_overflow() {
        for text in
            ["", "s", "-5", "+5", "5S", "1.5s", "5x", "5s5", "∞", "18446744073709551615d", "99999999999999999999"]
        {
            assert_eq!(parse_duration(text, Bare::Seconds), None, "{text:?}");
        }
    }

    #[test]
    fn sizes_take_binary_and_decimal_units() {
        for (text, bytes) in [
            ("10MiB", 10 << 20),
            ("10mib", 10 << 20),
            ("512 KiB", 512 << 10),
            ("1GB", 1_000_000_000),
            ("7", 7),
            ("7B", 7),
        ] {
            assert_eq!(parse_bytes(text), Some(bytes), "{text}");
        }
        for text in ["", "MiB", "-1", "1.5MiB", "10M", "18446744073709551615KiB", "1 0"] {
            assert_eq!(parse_bytes(text), None, "{text:?}");
        }
    }

    #[test]
    fn booleans_are_true_and_false_in_any_case() {
        assert_eq!(parse_bool("TRUE"), Some(true));
        assert_eq!(parse_bool("False"), Some(false));
        for text in ["1", "0", "yes", "on", ""] {
            assert_eq!(parse_bool(text), None, "{text:?}");
        }
    }

    #[test]
    fn numbers_are_finite_and_plain() {
        assert_eq!(parse_factor("0.25"), Some(0.25));
        assert_eq!(parse_factor("NaN"), None);
        assert_eq!(parse_factor("inf"), None);
        assert_eq!(parse_count("1_000"), None);
        assert_eq!(parse_count(""), None);
    }

    #[test]
    fn formatted_durations_and_sizes_are_parsed_again() {
        for ms in [0, 1, 250, 1_000, 60_000, 90_000, 5_400_000, 604_800_000, 86_399_999] {
            let duration = Duration::from_millis(ms);
            assert_eq!(parse_duration(&format_duration(duration), Bare::Seconds), Some(duration));
        }
        for bytes in [0, 1, 1023, 1024, 64 << 10, 4_128_768, 10 << 20, 1 << 30, 3 << 40, u64::MAX] {
            assert_eq!(parse_bytes(&format_bytes(bytes)), Some(bytes));
        }
        assert_eq!(format_duration(Duration::from_nanos(1)), "1ns");
    }
}
