//! Rust sources as tokens: enough of the grammar to find paths, without comments and the contents of literals.

/// A token with its line, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Token<'a> {
    pub(super) text: &'a str,
    pub(super) line: usize,
}

impl Token<'_> {
    pub(super) fn is(&self, text: &str) -> bool {
        self.text == text
    }

    pub(super) fn is_identifier(&self) -> bool {
        self.text.starts_with(|c: char| c.is_alphabetic() || c == '_')
    }
}

/// Splits a source into identifiers, `::` and single other characters; numbers count as identifiers do, literals of
/// text become `"`.
pub(super) fn tokens(source: &str) -> Vec<Token<'_>> {
    let mut scanner = Scanner { source, at: 0, line: 1 };
    let mut found = Vec::new();
    while let Some(token) = scanner.next_token() {
        found.push(token);
    }
    found
}

struct Scanner<'a> {
    source: &'a str,
    at: usize,
    line: usize,
}

impl<'a> Scanner<'a> {
    fn rest(&self) -> &'a str {
        &self.source[self.at..]
    }

    /// Moves on by so many bytes and gives them back.
    fn take(&mut self, bytes: usize) -> &'a str {
        let taken = &self.source[self.at..self.at + bytes];
        self.line += taken.matches('\n').count();
        self.at += bytes;
        taken
    }

    fn next_token(&mut self) -> Option<Token<'a>> {
        self.skip_blanks_and_comments();
        let rest = self.rest();
        let first = rest.chars().next()?;
        let line = self.line;
        let text = if let Some(length) = text_literal(rest) {
            self.take(length);
            "\""
        } else if first.is_alphanumeric() || first == '_' {
            let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
            self.take(end)
        } else if rest.starts_with("::") {
            self.take(2)
        } else {
            self.take(first.len_utf8())
        };
        Some(Token { text, line })
    }

    fn skip_blanks_and_comments(&mut self) {
        loop {
            let rest = self.rest();
            let blanks = rest.len() - rest.trim_start().len();
            if blanks > 0 {
                self.take(blanks);
            } else if rest.starts_with("//") {
                self.take(rest.find('\n').unwrap_or(rest.len()));
            } else if rest.starts_with("/*") {
                self.take(block_comment(rest));
            } else {
                return;
            }
        }
    }
}

/// The length of the comment that the text begins with; block comments nest.
fn block_comment(text: &str) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while at < text.len() {
        let rest = &text[at..];
        if rest.starts_with("/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if rest.starts_with("*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                return at;
            }
        } else {
            at += rest.chars().next().map_or(1, char::len_utf8);
        }
    }
    text.len()
}

/// The length of the string or character literal that the text begins with. A lifetime is none.
fn text_literal(text: &str) -> Option<usize> {
    let unprefixed = ["br", "cr", "b", "c", "r"].iter().find_map(|prefix| {
        let rest = text.strip_prefix(prefix)?;
        rest.starts_with(['"', '#', '\'']).then_some(rest)
    });
    let body = unprefixed.unwrap_or(text);
    let prefix = text.len() - body.len();
    let raw = text[..prefix].ends_with('r');
    let hashes = body.len() - body.trim_start_matches('#').len();
    if raw && body[hashes..].starts_with('"') {
        let end = format!("\"{}", &body[..hashes]);
        let start = hashes + 1;
        return Some(prefix + body[start..].find(&end).map_or(body.len(), |at| start + at + end.len()));
    }
    if body.starts_with('"') {
        return Some(prefix + quoted(body, '"'));
    }
    // `'a'` and `'\n'` are characters; `'a` is a lifetime.
    let mut characters = body.strip_prefix('\'')?.chars();
    let (first, second) = (characters.next()?, characters.next()?);
    (first == '\\' || second == '\'').then(|| prefix + quoted(body, '\''))
}

/// The length of a literal between these quotes, escapes heeded.
fn quoted(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if c == quote => return at + c.len_utf8(),
            _ => {}
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(source: &str) -> Vec<&str> {
        tokens(source).into_iter().map(|token| token.text).collect()
    }

    #[test]
    fn paths_are_tokens_and_comments_are_not() {
        assert_eq!(texts("use crate::a; // crate::b\n/* crate::c /* d */ */ e"), ["use", "crate", "::", "a", ";", "e"]);
    }

    #[test]
    fn literals_hide_their_content() {
        let source = r####"f("crate::a \" b", r#"crate::"c"#, b'x', '\'', 'd', br"e\")"####;
        assert_eq!(texts(source), ["f", "(", "\"", ",", "\"", ",", "\"", ",", "\"", ",", "\"", ",", "\"", ")"]);
    }

    #[test]
    fn lifetimes_and_raw_identifiers_are_no_literals() {
        assert_eq!(texts("&'a str; r#type"), ["&", "'", "a", "str", ";", "r", "#", "type"]);
    }

    #[test]
    fn a_token_knows_its_line() {
        let lines: Vec<usize> = tokens("a\n\"b\nc\" d\n/*\n*/ e").iter().map(|token| token.line).collect();
        assert_eq!(lines, [1, 2, 3, 5]);
    }
}
