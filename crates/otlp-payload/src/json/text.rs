//! The texts inside JSON: strings, hex, base64 and numbers, written.

/// Writes a JSON string, its quotes included. Bytes that are not UTF-8 become U+FFFD.
#[inline]
pub(crate) fn put_string(out: &mut Vec<u8>, text: &[u8]) {
    out.push(b'"');
    if is_plain(text) {
        out.extend_from_slice(text);
    } else {
        match std::str::from_utf8(text) {
            Ok(_) => put_escaped(out, text),
            Err(_) => put_escaped(out, String::from_utf8_lossy(text).as_bytes()),
        }
    }
    out.push(b'"');
}

const ONES: u64 = u64::MAX / 0xff;
const HIGH: u64 = ONES << 7;

/// Sets the high bit of the first of eight bytes that cannot stand in a JSON string as it is (a quote, a backslash or a
/// control character), and perhaps of later ones; 0 if there is none.
#[inline]
pub(super) fn breaks_string(word: u64) -> u64 {
    // Flipping bit 1 brings the quote, 0x22, down to 0x20, and leaves nothing else but the controls below 0x21.
    let quote_or_control = (word ^ (ONES * 2)).wrapping_sub(ONES * 0x21);
    let backslash = (word ^ (ONES * u64::from(b'\\'))).wrapping_sub(ONES);
    (quote_or_control | backslash) & !word & HIGH
}

/// Not 0 if one of eight bytes has to be looked at: as above, or not ASCII.
#[inline]
fn special(word: u64) -> u64 {
    breaks_string(word) | word & HIGH
}

/// True when the text is ASCII and stands in a JSON string as it is.
#[inline]
fn is_plain(text: &[u8]) -> bool {
    if let Some(last) = text.last_chunk::<8>() {
        // The last word overlaps the one before it unless the length is a multiple of 8.
        let last = special(u64::from_le_bytes(*last));
        let (words, _) = text.as_chunks::<8>();
        words.iter().fold(last, |found, word| found | special(u64::from_le_bytes(*word))) == 0
    } else if let (Some(first), Some(last)) = (text.first_chunk::<4>(), text.last_chunk::<4>()) {
        let word = u64::from(u32::from_le_bytes(*first)) | u64::from(u32::from_le_bytes(*last)) << 32;
        special(word) == 0
    } else {
        text.iter().all(|byte| ESCAPES[usize::from(*byte)] == PLAIN && *byte < 0x80)
    }
}

/// `text` is UTF-8.
fn put_escaped(out: &mut Vec<u8>, text: &[u8]) {
    let mut rest = text;
    while let Some(run) = rest.iter().position(|byte| ESCAPES[usize::from(*byte)] != PLAIN) {
        let (plain, tail) = rest.split_at(run);
        out.extend_from_slice(plain);
        let byte = tail.first().copied().unwrap_or_default();
        match ESCAPES[usize::from(byte)] {
            UNICODE => {
                let [high, low] = HEX[usize::from(byte)];
                out.extend_from_slice(&[b'\\', b'u', b'0', b'0', high, low]);
            }
            short => out.extend_from_slice(&[b'\\', short]),
        }
        rest = tail.get(1..).unwrap_or_default();
    }
    out.extend_from_slice(rest);
}

const PLAIN: u8 = 0;
const UNICODE: u8 = b'u';

/// What stands behind the backslash; `PLAIN` for a byte that needs none.
static ESCAPES: [u8; 256] = {
    let mut table = [PLAIN; 256];
    let mut byte = 0;
    while byte < 0x20 {
        table[byte] = UNICODE;
        byte += 1;
    }
    table[0x08] = b'b';
    table[0x09] = b't';
    table[0x0a] = b'n';
    table[0x0c] = b'f';
    table[0x0d] = b'r';
    table[b'"' as usize] = b'"';
    table[b'\\' as usize] = b'\\';
    table
};

static HEX: [[u8; 2]; 256] = {
    let digits = b"0123456789abcdef";
    let mut table = [[0; 2]; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = [digits[byte >> 4], digits[byte & 15]];
        byte += 1;
    }
    table
};

/// Lower-case hex, without quotes.
pub(crate) fn put_hex(out: &mut Vec<u8>, bytes: &[u8]) {
    let (words, rest) = bytes.as_chunks::<8>();
    for word in words {
        let mut digits = [0; 16];
        for (to, byte) in digits.as_chunks_mut::<2>().0.iter_mut().zip(word) {
            *to = HEX[usize::from(*byte)];
        }
        out.extend_from_slice(&digits);
    }
    for byte in rest {
        out.extend_from_slice(&HEX[usize::from(*byte)]);
    }
}

/// A double as proto3 JSON has it: the shortest number that reads back exactly, or one of three strings.
pub(crate) fn put_double(out: &mut Vec<u8>, value: f64) {
    if value.is_finite() {
        out.extend_from_slice(zmij::Buffer::new().format_finite(value).as_bytes());
    } else if value.is_nan() {
        out.extend_from_slice(b"\"NaN\"");
    } else if value > 0.0 {
        out.extend_from_slice(b"\"Infinity\"");
    } else {
        out.extend_from_slice(b"\"-Infinity\"");
    }
}

const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Base64 with the standard alphabet and padding (RFC 4648 section 4), without quotes.
pub(crate) fn put_base64(out: &mut Vec<u8>, bytes: &[u8]) {
    let digit = |bits: u32| BASE64[(bits & 63) as usize];
    let (groups, rest) = bytes.as_chunks::<3>();
    for [a, b, c] in groups {
        let bits = u32::from(*a) << 16 | u32::from(*b) << 8 | u32::from(*c);
        out.extend_from_slice(&[digit(bits >> 18), digit(bits >> 12), digit(bits >> 6), digit(bits)]);
    }
    match rest {
        [a] => {
            let bits = u32::from(*a) << 16;
            out.extend_from_slice(&[digit(bits >> 18), digit(bits >> 12), b'=', b'=']);
        }
        [a, b] => {
            let bits = u32::from(*a) << 16 | u32::from(*b) << 8;
            out.extend_from_slice(&[digit(bits >> 18), digit(bits >> 12), digit(bits >> 6), b'=']);
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(put: impl Fn(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        put(&mut out);
        String::from_utf8(out).expect("only UTF-8 is written")
    }

    #[test]
    fn base64_has_the_vectors_of_its_rfc() {
        let vectors =
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg=="), ("fooba", "Zm9vYmE=")];
        for (plain, encoded) in vectors {
            assert_eq!(written(|out| put_base64(out, plain.as_bytes())), encoded);
        }
    }

    #[test]
    fn every_byte_that_needs_an_escape_is_found_at_every_place_of_every_length() {
        for byte in 0..=u8::MAX {
            let needs = byte < 0x20 || byte == b'"' || byte == b'\\' || byte >= 0x80;
            for length in 1..=26 {
                for place in 0..length {
                    let mut text = vec![b'a'; length];
                    text[place] = byte;
                    assert_eq!(is_plain(&text), !needs, "{byte:#x} at {place} of {length}");
                }
            }
        }
    }

    #[test]
    fn broken_text_is_mended_and_controls_are_escaped() {
        assert_eq!(written(|out| put_string(out, b"a\xffb\"\\\n\x01\x7f")), "\"a\u{fffd}b\\\"\\\\\\n\\u0001\x7f\"");
        assert_eq!(written(|out| put_string(out, "grün".as_bytes())), "\"grün\"");
    }

    #[test]
    fn doubles_that_are_no_numbers_are_strings() {
        let all = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -0.0, 5e-324, f64::MAX];
        let texts = all.map(|value| written(|out| put_double(out, value)));
        assert_eq!(texts[..4], ["\"NaN\"", "\"Infinity\"", "\"-Infinity\"", "-0.0"]);
        assert_eq!(texts[4].parse(), Ok(5e-324));
        assert_eq!(texts[5].parse(), Ok(f64::MAX));
    }
}
