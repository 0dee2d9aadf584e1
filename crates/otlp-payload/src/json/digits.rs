//! Bytes in JSON strings, read: hex and base64.

const NO_DIGIT: u8 = 0x80;

static HEX_DIGITS: [u8; 256] = {
    let mut table = [NO_DIGIT; 256];
    let mut digit = 0;
    while digit < 16 {
        table[b"0123456789abcdef"[digit] as usize] = digit as u8;
        table[b"0123456789ABCDEF"[digit] as usize] = digit as u8;
        digit += 1;
    }
    table
};

/// Hex digits of either case; `None` if there is another character.
pub(super) fn put_from_hex(out: &mut Vec<u8>, pairs: &[[u8; 2]]) -> Option<()> {
    let start = out.len();
    out.resize(start + pairs.len(), 0);
    let mut all = 0;
    for (to, [high, low]) in out.get_mut(start..)?.iter_mut().zip(pairs) {
        let (high, low) = (HEX_DIGITS[usize::from(*high)], HEX_DIGITS[usize::from(*low)]);
        all |= high | low;
        *to = high << 4 | (low & 15);
    }
    (all & NO_DIGIT == 0).then_some(())
}

/// Either alphabet, with or without padding; `None` if it is neither.
pub(super) fn put_from_base64(out: &mut Vec<u8>, digits: &[u8]) -> Option<()> {
    let padding = digits.iter().rev().take_while(|digit| **digit == b'=').count();
    let digits = digits.get(..digits.len() - padding)?;
    if padding > 0 && (padding > 2 || (digits.len() + padding) % 4 != 0) {
        return None;
    }
    for group in digits.chunks(4) {
        let mut bits = 0;
        for digit in group {
            bits = bits << 6 | base64_digit(*digit)?;
        }
        // One digit alone is less than a byte; the bits that are left over must be 0.
        let (length, left_over) = match group.len() {
            4 => (3, 0),
            3 => (2, 2),
            2 => (1, 4),
            _ => return None,
        };
        if bits & ((1 << left_over) - 1) != 0 {
            return None;
        }
        let bytes = (bits >> left_over).to_be_bytes();
        out.extend_from_slice(bytes.get(4 - length..)?);
    }
    Some(())
}

fn base64_digit(digit: u8) -> Option<u32> {
    Some(u32::from(match digit {
        b'A'..=b'Z' => digit - b'A',
        b'a'..=b'z' => digit - b'a' + 26,
        b'0'..=b'9' => digit - b'0' + 52,
        b'+' | b'-' => 62,
        b'/' | b'_' => 63,
        _ => return None,
    }))
}
