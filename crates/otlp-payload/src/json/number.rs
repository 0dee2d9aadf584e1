//! Numbers in JSON, read: exact integers in any notation, exact doubles.

/// Where the JSON number that begins at `start` ends (RFC 8259 section 6); `None` if there is none.
pub(super) fn number_end(text: &[u8], start: usize) -> Option<usize> {
    let digits =
        |from: usize| from + text.get(from..).unwrap_or_default().iter().take_while(|b| b.is_ascii_digit()).count();
    let mut at = start + usize::from(text.get(start) == Some(&b'-'));
    let end = digits(at);
    if end == at || (text.get(at) == Some(&b'0') && end > at + 1) {
        return None;
    }
    at = end;
    if text.get(at) == Some(&b'.') {
        let end = digits(at + 1);
        if end == at + 1 {
            return None;
        }
        at = end;
    }
    if let Some(b'e' | b'E') = text.get(at) {
        let from = at + 1 + usize::from(matches!(text.get(at + 1), Some(b'+' | b'-')));
        let end = digits(from);
        if end == from {
            return None;
        }
        at = end;
    }
    Some(at)
}

/// An integer in plain digits: its value and where it ends. `None` for any other form, and above 19 digits.
#[inline]
pub(super) fn plain_digits(text: &[u8], start: usize) -> Option<(u64, usize)> {
    let all = text.get(start..)?;
    let (mut rest, mut value) = (all, 0);
    // Twice eight digits and three more are below 10^19, which fits into 64 bits.
    for _ in 0..2 {
        let Some((word, behind)) = rest.split_first_chunk::<8>() else { break };
        let Some(digits) = eight_digits(u64::from_le_bytes(*word)) else { break };
        value = value * 100_000_000 + digits;
        rest = behind;
    }
    let most = 19 - (all.len() - rest.len());
    for _ in 0..most {
        let Some((digit @ b'0'..=b'9', behind)) = rest.split_first() else { break };
        value = value * 10 + u64::from(digit - b'0');
        rest = behind;
    }
    let length = all.len() - rest.len();
    let another_form = match rest.first() {
        Some(b'.' | b'e' | b'E' | b'0'..=b'9') => true,
        _ => length > 1 && all.first() == Some(&b'0'),
    };
    (length > 0 && !another_form).then_some((value, start + length))
}

/// The value of eight ASCII digits, the first in the lowest byte; `None` if one is no digit.
#[inline]
fn eight_digits(word: u64) -> Option<u64> {
    const ONES: u64 = u64::MAX / 0xff;
    // 0x30 to 0x39 have the high half 3, and still have it with 6 added.
    let high_halves = (word & (ONES * 0xf0)) | ((word.wrapping_add(ONES * 6) & (ONES * 0xf0)) >> 4);
    if high_halves != ONES * 0x33 {
        return None;
    }
    // Neighbours are joined to pairs, the pairs to fours, these to the whole; each multiplication adds the lower
    // neighbour times 10, 100, 10,000 to the higher one.
    let pairs = (word & (ONES * 0x0f)).wrapping_mul(10 << 8 | 1) >> 8;
    let fours = (pairs & 0x00ff_00ff_00ff_00ff).wrapping_mul(100 << 16 | 1) >> 16;
    Some((fours & 0x0000_ffff_0000_ffff).wrapping_mul(10_000 << 32 | 1) >> 32)
}

/// The integer that a JSON number is exactly: sign and magnitude. `1.50e1` is 15; `1.5` and an integer of more than 64
/// bits is `None`. `number` must be a JSON number.
pub(super) fn exact_integer(number: &str) -> Option<(bool, u64)> {
    let (negative, number) = match number.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, number),
    };
    let (mantissa, exponent) = number.split_once(['e', 'E']).unwrap_or((number, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = || whole.bytes().chain(fraction.bytes());
    if digits().all(|digit| digit == b'0') {
        return Some((negative, 0));
    }
    // An exponent beyond 64 bits leaves no integer of 64 bits, with any digits.
    let exponent: i64 = exponent.parse().ok()?;
    let point = i64::try_from(whole.len()).ok()?.checked_add(exponent)?;
    let mut value = 0_u64;
    for (place, digit) in digits().enumerate() {
        let digit = u64::from(digit - b'0');
        if i64::try_from(place).ok()? < point {
            value = value.checked_mul(10)?.checked_add(digit)?;
        } else if digit != 0 {
            return None;
        }
    }
    let given = i64::try_from(whole.len() + fraction.len()).ok()?;
    for _ in given..point {
        value = value.checked_mul(10)?;
    }
    Some((negative, value))
}

/// `None` when the integer is not one of 64 bits with a sign.
pub(super) fn signed(negative: bool, magnitude: u64) -> Option<i64> {
    if negative { 0_i64.checked_sub_unsigned(magnitude) } else { i64::try_from(magnitude).ok() }
}

/// `None` when the double would be infinite. `number` must be a JSON number.
pub(super) fn double(number: &str) -> Option<f64> {
    number.parse().ok().filter(|value: &f64| value.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_json_numbers_are_numbers() {
        for good in ["0", "-0", "10", "1.5", "-1.50e+3", "1E-7", "0e0"] {
            assert_eq!(number_end(good.as_bytes(), 0), Some(good.len()), "{good}");
        }
        for bad in ["", "-", "+1", "01", "1.", ".5", "1e", "1e+", "NaN", "inf", "0x1"] {
            assert_ne!(number_end(bad.as_bytes(), 0), Some(bad.len()), "{bad}");
        }
    }

    #[test]
    fn integers_are_exact_in_every_notation() {
        let cases = [
            ("15", Some((false, 15))),
            ("-15", Some((true, 15))),
            ("1.50e1", Some((false, 15))),
            ("150e-1", Some((false, 15))),
            ("0.0015e4", Some((false, 15))),
            ("0e999999999999999999999999", Some((false, 0))),
            ("18446744073709551615", Some((false, u64::MAX))),
            ("1844674407370955161.5e1", Some((false, u64::MAX))),
            ("18446744073709551616", None),
            ("1.5", None),
            ("1e-1", None),
            ("1e20", None),
            ("1e9223372036854775807", None),
            ("1e999999999999999999999999", None),
        ];
        for (text, expected) in cases {
            assert_eq!(exact_integer(text), expected, "{text}");
        }
        assert_eq!(signed(true, 1 << 63), Some(i64::MIN));
        assert_eq!(signed(false, 1 << 63), None);
    }

    #[test]
    fn the_quick_way_takes_plain_integers_only() {
        assert_eq!(plain_digits(b"x1700000000000000000,", 1), Some((1_700_000_000_000_000_000, 20)));
        assert_eq!(plain_digits(b"0", 0), Some((0, 1)));
        for number in [12_345_678, 123_456_789, 1_234_567_890_123_456, 9_999_999_999_999_999_999] {
            let text = format!("{number}}}");
            assert_eq!(plain_digits(text.as_bytes(), 0), Some((number, text.len() - 1)));
        }
        for broken in 0..8 {
            for byte in [b'/', b':', b'a', 0xff, 0] {
                let mut word = *b"87654321";
                word[broken] = byte;
                assert_eq!(eight_digits(u64::from_le_bytes(word)), None);
            }
        }
        for other in ["", "-1", "01", "1.5", "1e5", "18446744073709551615"] {
            assert_eq!(plain_digits(other.as_bytes(), 0), None, "{other}");
        }
    }

    #[test]
    fn a_double_out_of_range_is_none() {
        assert_eq!(double("1e400"), None);
        assert_eq!(double("-5e-324"), Some(-5e-324));
    }
}
