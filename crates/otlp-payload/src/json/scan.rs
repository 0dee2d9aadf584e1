//! JSON tokens (RFC 8259), without their meaning.

use super::error::JsonError;
use super::number::number_end;
use super::text::find_escaped;

/// A place in a line.
pub(super) struct Scanner<'a> {
    /// UTF-8.
    line: &'a [u8],
    at: usize,
}

/// The inside of a JSON string: UTF-8.
#[derive(Clone, Copy)]
pub(super) struct Text<'a> {
    pub(super) raw: &'a [u8],
    /// There are backslashes in it.
    pub(super) escaped: bool,
    pub(super) offset: usize,
}

/// How deep arrays and objects in unknown fields may nest.
const MAX_SKIPPED_DEPTH: usize = 100;

impl<'a> Scanner<'a> {
    /// `line` must be UTF-8.
    pub(super) fn new(line: &'a [u8]) -> Self {
        Self { line, at: 0 }
    }

    pub(super) fn offset(&self) -> usize {
        self.at
    }

    pub(super) fn bytes(&self) -> &'a [u8] {
        self.line
    }

    pub(super) fn advance_to(&mut self, offset: usize) {
        self.at = offset;
    }

    #[inline]
    pub(super) fn peek(&self) -> Option<u8> {
        self.bytes().get(self.at).copied()
    }

    /// Skips white space, and returns the next byte without taking it.
    #[inline]
    pub(super) fn next_token(&mut self) -> Option<u8> {
        loop {
            match self.peek() {
                Some(b' ' | b'\t' | b'\n' | b'\r') => self.at += 1,
                other => return other,
            }
        }
    }

    /// Skips white space and then `byte`, if that is the next byte.
    #[inline]
    pub(super) fn take(&mut self, byte: u8) -> bool {
        let found = self.next_token() == Some(byte);
        self.at += usize::from(found);
        found
    }

    #[inline]
    pub(super) fn expect(&mut self, byte: u8, name: &'static str) -> Result<(), JsonError> {
        if self.take(byte) { Ok(()) } else { Err(self.unexpected(name)) }
    }

    /// Takes `literal` if it stands right here.
    #[inline]
    pub(super) fn take_literal(&mut self, literal: &str) -> bool {
        let found = self.bytes().get(self.at..).is_some_and(|rest| rest.starts_with(literal.as_bytes()));
        if found {
            self.at += literal.len();
        }
        found
    }

    /// Takes these bytes if they stand right here.
    #[inline]
    pub(super) fn take_bytes<const N: usize>(&mut self, literal: &[u8; N]) -> Option<()> {
        if self.bytes().get(self.at..)?.first_chunk() != Some(literal) {
            return None;
        }
        self.at += N;
        Some(())
    }

    #[cold]
    pub(super) fn unexpected(&self, expected: &'static str) -> JsonError {
        if self.is_torn() {
            JsonError::Truncated { offset: self.line.len() }
        } else {
            JsonError::Syntax { offset: self.at, expected }
        }
    }

    /// The line ends here, or inside the number or the name that begins here.
    pub(super) fn is_torn(&self) -> bool {
        let rest = self.bytes().get(self.at..).unwrap_or_default();
        rest.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E'))
            || [&b"null"[..], b"true", b"false"].iter().any(|name| name.len() > rest.len() && name.starts_with(rest))
    }

    /// The string whose opening quote stands right here.
    #[inline]
    pub(super) fn string(&mut self) -> Result<Text<'a>, JsonError> {
        if self.peek() != Some(b'"') {
            return Err(self.unexpected("a string"));
        }
        let bytes = self.bytes();
        let offset = self.at + 1;
        let (mut at, mut escaped) = (offset, false);
        loop {
            at = find_escaped(bytes, at);
            match bytes.get(at) {
                Some(b'"') => break,
                Some(b'\\') => {
                    escaped = true;
                    at += 2;
                }
                Some(_) => return Err(JsonError::Syntax { offset: at, expected: "an escaped control character" }),
                None => return Err(JsonError::Truncated { offset: bytes.len() }),
            }
        }
        self.at = at + 1;
        Ok(Text { raw: bytes.get(offset..at).unwrap_or_default(), escaped, offset })
    }

    /// The number that stands right here.
    pub(super) fn number(&mut self) -> Result<&'a str, JsonError> {
        let end = number_end(self.bytes(), self.at).ok_or_else(|| self.unexpected("a number"))?;
        let number = self.line.get(self.at..end).unwrap_or_default();
        self.at = end;
        Ok(std::str::from_utf8(number).expect("a number is ASCII"))
    }

    /// Skips one value of any kind.
    pub(super) fn skip_value(&mut self) -> Result<(), JsonError> {
        self.skip_nested(MAX_SKIPPED_DEPTH)
    }

    fn skip_nested(&mut self, depth: usize) -> Result<(), JsonError> {
        let token = self.next_token();
        match token {
            Some(b'"') => self.string().map(|_| ()),
            Some(b'-' | b'0'..=b'9') => self.number().map(|_| ()),
            Some(open @ (b'{' | b'[')) => {
                let depth = depth.checked_sub(1).ok_or(JsonError::TooDeep { offset: self.at })?;
                self.at += 1;
                let end = if open == b'{' { b'}' } else { b']' };
                if self.take(end) {
                    return Ok(());
                }
                loop {
                    if open == b'{' {
                        self.next_token();
                        self.string()?;
                        self.expect(b':', "a colon")?;
                    }
                    self.skip_nested(depth)?;
                    if !self.take(b',') {
                        return self.expect(end, "a comma or the end of the object or array");
                    }
                }
            }
            _ if self.take_literal("null") || self.take_literal("true") || self.take_literal("false") => Ok(()),
            _ => Err(self.unexpected("a value")),
        }
    }
}

impl Text<'_> {
    /// Writes the text without its escapes. A surrogate without its other half becomes U+FFFD.
    pub(super) fn unescape(&self, out: &mut Vec<u8>) -> Result<(), JsonError> {
        let mut rest = self.raw;
        // Nothing else that must be escaped stands in a string but a quote behind its backslash.
        while let Some((plain, tail @ [_, ..])) = rest.split_at_checked(find_escaped(rest, 0)) {
            out.extend_from_slice(plain);
            let offset = self.offset + self.raw.len() - tail.len();
            let (code, after) = escape(tail).ok_or(JsonError::Syntax { offset, expected: "an escape" })?;
            let (character, after) = match code {
                0xd800..0xdc00 => match escape(after) {
                    Some((low @ 0xdc00..0xe000, after)) => {
                        (char::from_u32(0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00)), after)
                    }
                    _ => (None, after),
                },
                _ => (char::from_u32(code), after),
            };
            let character = character.unwrap_or(char::REPLACEMENT_CHARACTER);
            out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
            rest = after;
        }
        out.extend_from_slice(rest);
        Ok(())
    }
}

/// The UTF-16 code unit of the escape that begins here, and the text behind it.
fn escape(text: &[u8]) -> Option<(u32, &[u8])> {
    let (&[b'\\', kind], rest) = text.split_first_chunk()? else { return None };
    let code = match kind {
        b'"' => 0x22,
        b'\\' => 0x5c,
        b'/' => 0x2f,
        b'b' => 0x08,
        b'f' => 0x0c,
        b'n' => 0x0a,
        b'r' => 0x0d,
        b't' => 0x09,
        b'u' => {
            let (digits, rest) = rest.split_first_chunk::<4>()?;
            let code = digits.iter().try_fold(0, |code, digit| Some(code << 4 | char::from(*digit).to_digit(16)?))?;
            return Some((code, rest));
        }
        _ => return None,
    };
    Some((code, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unescaped(json: &str) -> Result<String, JsonError> {
        let mut out = Vec::new();
        Scanner::new(json.as_bytes()).string()?.unescape(&mut out)?;
        Ok(String::from_utf8(out).expect("only characters are written"))
    }

    #[test]
    fn escapes_are_those_of_json() {
        assert_eq!(
            unescaped(r#""a\"\\\/\b\f\n\r\tz\u0041\u00e9\ud83d\ude00""#).unwrap(),
            "a\"\\/\u{8}\u{c}\n\r\tzA\u{e9}\u{1f600}"
        );
        for bad in [r#""\x""#, r#""\u12""#, r#""\u12g4""#, r#""\u+123""#] {
            assert!(matches!(unescaped(bad), Err(JsonError::Syntax { offset: 1, .. })), "{bad}");
        }
    }

    #[test]
    fn half_a_surrogate_pair_becomes_the_replacement_character() {
        assert_eq!(unescaped(r#""a\ud800b""#).unwrap(), "a\u{fffd}b");
        assert_eq!(unescaped(r#""\udc00\ud800""#).unwrap(), "\u{fffd}\u{fffd}");
        assert_eq!(unescaped(r#""\ud800\u0041""#).unwrap(), "\u{fffd}A");
        assert_eq!(unescaped(r#""\ud800\ud83d\ude00""#).unwrap(), "\u{fffd}\u{1f600}");
    }

    #[test]
    fn a_string_ends_at_its_quote_wherever_that_stands() {
        for length in 0..40 {
            let inside = "a".repeat(length);
            let line = format!("\"{inside}\"bbbbbbbbbb");
            assert_eq!(Scanner::new(line.as_bytes()).string().unwrap().raw, inside.as_bytes());
            let torn = format!("\"{inside}");
            assert_eq!(
                Scanner::new(torn.as_bytes()).string().map(|_| ()),
                Err(JsonError::Truncated { offset: length + 1 })
            );
            let broken = format!("\"{inside}\nbbbbbbbbbbbb\"");
            assert!(
                matches!(Scanner::new(broken.as_bytes()).string(), Err(JsonError::Syntax { offset, .. }) if offset == length + 1)
            );
        }
        assert_eq!(Scanner::new(b"\"\\").string().map(|_| ()), Err(JsonError::Truncated { offset: 2 }));
    }

    #[test]
    fn skipping_stops_at_its_depth() {
        let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        assert_eq!(Scanner::new(nested(100).as_bytes()).skip_value(), Ok(()));
        assert_eq!(Scanner::new(nested(101).as_bytes()).skip_value(), Err(JsonError::TooDeep { offset: 100 }));
    }
}
