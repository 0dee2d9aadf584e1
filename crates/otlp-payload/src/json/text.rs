//! The texts inside JSON: strings, hex, base64 and numbers, written.

/// Writes a JSON string, its quotes included. Bytes that are not UTF-8 become U+FFFD.
#[inline]
pub(crate) fn put_string(out: &mut Vec<u8>, text: &[u8]) {
    out.push(b'"');
    put_text(out, text);
    out.push(b'"');
}

/// Writes the text between the quotes of a JSON string. Bytes that are not UTF-8 become U+FFFD.
#[inline]
pub(super) fn put_text(out: &mut Vec<u8>, text: &[u8]) {
    let length = text.len();
    // Most texts are short: asked for by how often they come.
    let done = if length >= 16 {
        if length <= 32 { put_plain::<16>(out, text) } else { put_long_plain(out, text) }
    } else if length >= 8 {
        put_plain::<8>(out, text)
    } else if length >= 4 {
        put_plain::<4>(out, text)
    } else if length >= 2 {
        put_plain::<2>(out, text)
    } else {
        length == 0 || put_plain::<1>(out, text)
    };
    if !done {
        put_other_text(out, text);
    }
}

/// Writes `N` to `2 * N` bytes if they stand in a JSON string as they are.
#[inline]
fn put_plain<const N: usize>(out: &mut Vec<u8>, text: &[u8]) -> bool {
    let (Some(first), Some(last)) = (text.first_chunk::<N>(), text.last_chunk::<N>()) else { return false };
    if has_special(first) | has_special(last) {
        return false;
    }
    put_overlapping(out, first, last, text.len());
    true
}

fn put_long_plain(out: &mut Vec<u8>, text: &[u8]) -> bool {
    // The last block overlaps the one before it unless the length is a multiple of 16.
    let (blocks, _) = text.as_chunks::<16>();
    let plain = !blocks.iter().chain(text.last_chunk()).any(has_special);
    if plain {
        out.extend_from_slice(text);
    }
    plain
}

#[cold]
fn put_other_text(out: &mut Vec<u8>, text: &[u8]) {
    match std::str::from_utf8(text) {
        Ok(_) => put_escaped(out, text),
        Err(_) => put_escaped(out, String::from_utf8_lossy(text).as_bytes()),
    }
}

/// Appends `length` bytes that begin with `first` and end with `last`, as two blocks that overlap: without a call,
/// which for a few bytes costs more than the bytes.
#[inline]
fn put_overlapping<const N: usize>(out: &mut Vec<u8>, first: &[u8; N], last: &[u8; N], length: usize) {
    let end = out.len() + length;
    out.extend_from_slice(first);
    out.truncate(end - N);
    out.extend_from_slice(last);
}

/// A fixed text of at most 32 bytes, appended as a whole block whose rest is cut off again: without a call, as above.
pub(super) struct Block {
    bytes: [u8; 32],
    length: usize,
}

impl Block {
    /// A longer text does not compile.
    pub(super) const fn new(text: &str) -> Self {
        let mut bytes = [0; 32];
        bytes.split_at_mut(text.len()).0.copy_from_slice(text.as_bytes());
        Self { bytes, length: text.len() }
    }

    #[inline]
    pub(super) fn put(&self, out: &mut Vec<u8>) {
        let end = out.len() + self.length;
        out.extend_from_slice(&self.bytes);
        out.truncate(end);
    }
}

/// Whether a byte has to be looked at: it is not ASCII, or must be escaped. Without a branch for each byte, so that the
/// compiler takes all of them at once.
#[inline]
fn has_special<const N: usize>(block: &[u8; N]) -> bool {
    // As a signed number, a byte that is not ASCII is below all others: see `must_escape`.
    block.iter().fold(false, |found, byte| found | ((byte ^ 2).cast_signed() < 0x21 || *byte == b'\\'))
}

/// The next quote, backslash or control character from `at` on, or the end.
#[inline]
pub(super) fn find_escaped(bytes: &[u8], mut at: usize) -> usize {
    while let Some(block) = bytes.get(at..).and_then(|rest| rest.first_chunk::<16>()) {
        if block.iter().fold(false, |found, byte| found | must_escape(*byte)) {
            return at + first_to_escape(u128::from_le_bytes(*block));
        }
        at += 16;
    }
    let rest = bytes.get(at..).unwrap_or_default();
    at + rest.iter().position(|byte| must_escape(*byte)).unwrap_or(rest.len())
}

/// Whether this byte cannot stand in a JSON string as it is: a quote, a backslash or a control character.
#[inline]
fn must_escape(byte: u8) -> bool {
    // Flipping bit 1 brings the quote, 0x22, down to 0x20, and leaves nothing else but the controls below 0x21.
    byte ^ 2 < 0x21 || byte == b'\\'
}

/// The place of the first of sixteen bytes that cannot; 16 if there is none.
#[inline]
fn first_to_escape(block: u128) -> usize {
    const ONES: u128 = u128::MAX / 0xff;
    // A borrow sets the high bit of a byte, and may do so for later ones too.
    let quote_or_control = (block ^ (ONES * 2)).wrapping_sub(ONES * 0x21);
    let backslash = (block ^ (ONES * 0x5c)).wrapping_sub(ONES);
    ((quote_or_control | backslash) & !block & (ONES << 7)).trailing_zeros() as usize / 8
}

/// `text` is UTF-8.
fn put_escaped(out: &mut Vec<u8>, text: &[u8]) {
    let mut rest = text;
    while let Some((plain, [byte, tail @ ..])) = rest.split_at_checked(find_escaped(rest, 0)) {
        out.extend_from_slice(plain);
        match ESCAPES[usize::from(*byte)] {
            UNICODE => {
                let [high, low] = HEX[usize::from(*byte)];
                out.extend_from_slice(&[b'\\', b'u', b'0', b'0', high, low]);
            }
            short => out.extend_from_slice(&[b'\\', short]),
        }
        rest = tail;
    }
    out.extend_from_slice(rest);
}

const PLAIN: u8 = 0;
const UNICODE: u8 = b'u';

/// The byte behind the backslash; `PLAIN` for a byte that needs none.
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

/// An integer in digits, without quotes.
#[inline]
pub(super) fn put_integer(out: &mut Vec<u8>, value: impl itoa::Integer) {
    let mut buffer = itoa::Buffer::new();
    let digits = buffer.format(value).as_bytes();
    match (digits.first_chunk::<16>(), digits.last_chunk::<16>()) {
        // Times.
        (Some(first), Some(last)) if digits.len() <= 32 => put_overlapping(out, first, last, digits.len()),
        _ => out.extend_from_slice(digits),
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
        for byte in 0..0x80 {
            let escape = match ESCAPES[usize::from(byte)] {
                PLAIN => char::from(byte).to_string(),
                UNICODE => format!("\\u{byte:04x}"),
                short => format!("\\{}", char::from(short)),
            };
            assert_eq!(ESCAPES[usize::from(byte)] != PLAIN, must_escape(byte), "{byte:#x}");
            assert_eq!(has_special(&[byte]), must_escape(byte), "{byte:#x}");
            for length in 0..=40 {
                for place in 0..length {
                    let text = [vec![b'a'; place], vec![byte], vec![b'b'; length - place - 1]].concat();
                    let expected = format!("{}{escape}{}", "a".repeat(place), "b".repeat(length - place - 1));
                    assert_eq!(written(|out| put_text(out, &text)), expected);
                }
            }
        }
    }

    #[test]
    fn text_of_every_length_stays_whole_behind_what_stands_there() {
        for length in 0..=80 {
            let text: String = ('!'..='z').filter(|c| !matches!(c, '"' | '\\')).cycle().take(length).collect();
            let broken = [text.as_bytes(), b"\xff"].concat();
            let all =
                |out: &mut Vec<u8>| [&b"before"[..], text.as_bytes(), &broken].iter().for_each(|t| put_text(out, t));
            assert_eq!(written(all), format!("before{text}{text}\u{fffd}"));
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
