//! The text of a headers file: a header a line, `key=value`.

use http::header;

use super::CredentialHeaders;
use crate::error::{HeaderProblem, HeadersFileProblem as Problem};
use crate::headers::{Headers, percent_decode, slip_in, without_equals};
use crate::slips;

/// The headers of a file, and remarks about lines that rarely mean their text.
#[derive(Debug)]
pub(super) struct Lines {
    pub(super) headers: CredentialHeaders,
    /// The number of a line and the end of a sentence about it; no value.
    pub(super) remarks: Vec<(usize, String)>,
}

/// A line that cannot be used.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct BadLine {
    /// From 1.
    pub(super) line: usize,
    /// The header's name, if the line has one.
    pub(super) name: Option<String>,
    pub(super) problem: Problem,
}

/// Reads lines `key=value`, values percent-decoded as those of `OTEL_EXPORTER_OTLP_HEADERS`. Blank lines and lines that
/// begin with `#` are skipped; blanks around keys and values and a byte order mark do not count. A second line of one
/// name takes the first one's place.
pub(super) fn read(bytes: &[u8]) -> Result<Lines, BadLine> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let mut lines = Lines { headers: CredentialHeaders::new(0), remarks: Vec::new() };
    let mut checked = Headers::default();
    for (index, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        let number = index + 1;
        let fail = |name: Option<&str>, problem| {
            // The text in front of a misplaced '=' may be a part of a secret.
            let name = name.filter(|name| http::HeaderName::from_bytes(name.as_bytes()).is_ok()).map(str::to_owned);
            BadLine { line: number, name, problem }
        };
        let line = std::str::from_utf8(line).map_err(|_| fail(None, Problem::NotUtf8))?.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (name, value) = line.split_once('=').ok_or_else(|| {
            let is_colon = without_equals(line) == HeaderProblem::Colon;
            fail(None, if is_colon { Problem::Colon } else { Problem::NoEquals })
        })?;
        let (name, value) = (name.trim(), value.trim());
        if name.contains(':') {
            return Err(fail(None, Problem::Colon));
        }
        let mut remark = |what: &str| lines.remarks.push((number, format!("({name}) {what}")));
        if name.eq_ignore_ascii_case(header::USER_AGENT.as_str()) {
            remark("is set by the transport itself: the line is left out; remove it");
            continue;
        }
        let decoded = percent_decode(value).ok_or_else(|| fail(Some(name), Problem::BadEscape))?;
        match checked.insert(name, &decoded) {
            Err(HeaderProblem::Reserved) => {
                remark("is set by the transport itself: the line is left out; remove it");
                continue;
            }
            Err(HeaderProblem::BadName) => return Err(fail(None, Problem::BadName)),
            Err(HeaderProblem::TooMany) => return Err(fail(Some(name), Problem::TooMany)),
            Err(_) => return Err(fail(Some(name), Problem::BadValue)),
            Ok(()) => {}
        }
        if let Some(slip) = slip_in(value) {
            remark(slip);
        } else if is_list(value) {
            remark("has a ',' in its value, and more behind it that reads as a header: each header has its own line");
        }
        let decoded = String::from_utf8(decoded).map_err(|_| fail(Some(name), Problem::BadValue))?;
        lines.headers.pairs.push((name.to_owned(), decoded));
    }
    if lines.headers.pairs.is_empty() {
        return Err(BadLine { line: 0, name: None, problem: Problem::Empty });
    }
    Ok(lines)
}

/// The list of the variable was written into one line.
fn is_list(value: &str) -> bool {
    let next = value.split_once(',').and_then(|(_, next)| next.split_once('='));
    next.is_some_and(|(name, value)| {
        !value.trim_start_matches('=').is_empty() && http::HeaderName::from_bytes(name.trim().as_bytes()).is_ok()
    }) && !slips::is_unexpanded(value)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pairs(text: &str) -> Vec<(String, String)> {
        read(text.as_bytes()).unwrap_or_else(|bad| panic!("{text:?}: {bad:?}")).headers.pairs
    }

    #[test]
    fn lines_are_read_by_the_rules() {
        let own = |list: &[(&str, &str)]| -> Vec<(String, String)> {
            list.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        };
        assert_eq!(pairs("a=1"), own(&[("a", "1")]));
        assert_eq!(pairs("a=1\nb=2\n"), own(&[("a", "1"), ("b", "2")]));
        assert_eq!(pairs("\u{feff}# comment\r\n\r\n a = 1 \r\n"), own(&[("a", "1")]));
        assert_eq!(pairs("auth=Basic%20eDp5%3D%3D"), own(&[("auth", "Basic eDp5==")]));
        assert_eq!(pairs("auth=Basic eDp5=="), own(&[("auth", "Basic eDp5==")]));
        assert_eq!(pairs("a=1,2"), own(&[("a", "1,2")]), "a comma separates nothing");
        assert_eq!(pairs("content-type=x\nuser-agent=y\na="), own(&[("a", "")]));
    }

    #[test]
    fn a_bad_line_says_which_one_and_never_its_value() {
        let bad = |text: &[u8]| {
            let BadLine { line, name, problem } = read(text).expect_err("bad");
            (line, name, problem)
        };
        let name = |name: &str| Some(name.to_owned());
        assert_eq!(bad(b"a=1\n\ncanary"), (3, None, Problem::NoEquals));
        assert_eq!(bad(b"authorization: Bearer canary"), (1, None, Problem::Colon));
        assert_eq!(bad(b"authorization:Basic canary=="), (1, None, Problem::Colon));
        assert_eq!(bad(b"key=canary%zz"), (1, name("key"), Problem::BadEscape));
        assert_eq!(bad(b"key=canary%0d%0aevil"), (1, name("key"), Problem::BadValue));
        assert_eq!(bad("key=canary\u{e4}".as_bytes()), (1, name("key"), Problem::BadValue));
        assert_eq!(bad(b"a=1\nkey=canary\xff"), (2, None, Problem::NotUtf8));
        assert_eq!(bad(b"Bearer canary=x"), (1, None, Problem::BadName));
        assert_eq!(bad(b"\n# only a comment\n"), (0, None, Problem::Empty));
        assert_eq!(bad(b""), (0, None, Problem::Empty));
        let many = (0..101).map(|at| format!("k{at}=v\n")).collect::<String>();
        assert_eq!(bad(many.as_bytes()), (101, name("k100"), Problem::TooMany));
    }

    #[test]
    fn usual_slips_are_remarked_without_a_value() {
        for (line, part) in [
            ("a=\"canary\"", "quotation marks"),
            ("a=$(canary)", "not expanded"),
            ("a=canary,b=canary", "its own line"),
            ("a=canary;b=canary", "';'"),
            ("a=1\nhost=canary", "left out"),
        ] {
            let remarks = read(line.as_bytes()).expect("read").remarks;
            assert!(remarks.len() == 1 && remarks[0].1.contains(part), "{line}: {remarks:?}");
            assert!(!remarks[0].1.contains("canary"), "{remarks:?}");
        }
        assert!(read(b"a=Basic eDp5,c==").expect("read").remarks.is_empty(), "base64 is no list");
    }

    proptest! {
        #[test]
        fn any_bytes_are_headers_or_a_bad_line(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            match read(&bytes) {
                Ok(lines) => prop_assert!(!lines.headers.pairs.is_empty()),
                Err(bad) => prop_assert!(bad.line <= 201),
            }
        }
    }
}
