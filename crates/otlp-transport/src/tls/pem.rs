//! Reads PEM (RFC 7468), and says where a file is not PEM.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// One block of a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Block {
    /// The words behind `BEGIN`.
    pub(super) label: String,
    /// The line of `BEGIN`, from 1.
    pub(super) line: usize,
    pub(super) der: Vec<u8>,
}

/// The blocks of a file; text between them is skipped, as `openssl` writes some.
///
/// # Errors
/// A block that is not whole, named by its line; a file without a block.
pub(super) fn blocks(bytes: &[u8]) -> Result<Vec<Block>, String> {
    let mut blocks = Vec::new();
    // The label, the line of `BEGIN`, and the base64 up to now.
    let mut open: Option<(String, usize, String)> = None;
    for (index, line) in bytes.split(|&byte| byte == b'\n').enumerate() {
        let number = index + 1;
        let line = String::from_utf8_lossy(line.trim_ascii());
        let line = line.trim_start_matches('\u{feff}');
        let mark = |word: &str| line.strip_prefix(word)?.strip_suffix("-----").map(str::trim);
        if let Some(label) = mark("-----BEGIN ") {
            if let Some((label, begin, _)) = open {
                return Err(format!("the block {label} of line {begin} has no end before line {number}"));
            }
            open = Some((label.to_owned(), number, String::new()));
        } else if let Some(end) = mark("-----END ") {
            let (label, begin, text) =
                open.take().ok_or_else(|| format!("line {number} ends a block {end} that no line begins"))?;
            if label != end {
                return Err(format!("the block {label} of line {begin} is ended as {end} in line {number}"));
            }
            let der = STANDARD.decode(&text).map_err(|_| {
                format!("the block {label} of line {begin} is cut off or damaged: its base64 does not end well")
            })?;
            if der.is_empty() {
                return Err(format!("the block {label} of line {begin} is empty"));
            }
            blocks.push(Block { label, line: begin, der });
        } else if let Some((label, begin, text)) = &mut open {
            if line.starts_with("Proc-Type:") && line.contains("ENCRYPTED") {
                return Err(encrypted(label, *begin));
            }
            // Headers of old PEM (RFC 1421) stand in front of the base64.
            if line.contains(':') {
                continue;
            }
            if line.bytes().any(|byte| !byte.is_ascii_alphanumeric() && !b"+/= \t".contains(&byte)) {
                return Err(format!("line {number}, in the block {label} of line {begin}, is not base64"));
            }
            text.extend(line.split_ascii_whitespace());
        }
    }
    if let Some((label, begin, _)) = open {
        return Err(format!("the block {label} of line {begin} has no end: the file is cut off"));
    }
    if blocks.is_empty() {
        return Err(nothing_in(bytes));
    }
    Ok(blocks)
}

/// The fault of an encrypted key.
pub(super) fn encrypted(label: &str, line: usize) -> String {
    format!(
        "the block {label} of line {line} is encrypted, and no pass phrase can be given; write the key without one \
         (openssl pkey -in KEY -out NEW) into a file that this user alone may read"
    )
}

fn nothing_in(bytes: &[u8]) -> String {
    if bytes.trim_ascii().is_empty() {
        return "is empty; accepted is PEM, which begins with -----BEGIN".to_owned();
    }
    // The first byte of each DER structure of certificates and keys: SEQUENCE.
    if bytes.first() == Some(&0x30) {
        return "has no PEM block and may be DER or PKCS#12; convert it (openssl x509 -inform der -in FILE -out NEW, \
                openssl pkcs12 -in FILE -nodes -out NEW)"
            .to_owned();
    }
    "has no PEM block; accepted is PEM, which begins with -----BEGIN".to_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn problem(text: &str) -> String {
        blocks(text.as_bytes()).expect_err(text)
    }

    #[test]
    fn blocks_are_found_in_the_files_that_tools_write() {
        let crlf =
            "\u{feff}Bag Attributes\r\n  friendlyName: x\r\n-----BEGIN A B-----\r\nAQID\r\n-----END A B-----\r\n";
        let block = |label: &str, line, der: &[u8]| Block { label: label.to_owned(), line, der: der.to_vec() };
        assert_eq!(blocks(crlf.as_bytes()), Ok(vec![block("A B", 3, &[1, 2, 3])]));
        let two = "-----BEGIN A-----\nAQ\nID\n-----END A-----\nsubject=x\n -----BEGIN B-----\nX-Y: z\n\nBAU=\n-----END B-----";
        assert_eq!(blocks(two.as_bytes()), Ok(vec![block("A", 1, &[1, 2, 3]), block("B", 6, &[4, 5])]));
    }

    #[test]
    fn a_fault_is_named_by_block_and_line() {
        for (text, parts) in [
            ("", &["empty"][..]),
            (" \n", &["empty"]),
            ("hello", &["no PEM block", "-----BEGIN"]),
            ("0\u{3}", &["DER", "openssl x509"]),
            ("-----BEGIN A-----\nAQID\n", &["block A of line 1", "no end"]),
            ("x\n-----BEGIN A-----\nAQID\n-----BEGIN B-----\n", &["block A of line 2", "line 4"]),
            ("-----BEGIN A-----\nAQID\n-----END B-----\n", &["block A of line 1", "ended as B in line 3"]),
            ("-----END B-----\n", &["line 1", "no line begins"]),
            ("-----BEGIN A-----\nAQID\nA!==\n-----END A-----\n", &["line 3", "block A of line 1", "base64"]),
            ("-----BEGIN A-----\nAQI\n-----END A-----\n", &["block A of line 1", "cut off or damaged"]),
            ("-----BEGIN A-----\n-----END A-----\n", &["block A of line 1", "empty"]),
            (
                "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: x\n\nAQID\n-----END RSA PRIVATE KEY-----\n",
                &["RSA PRIVATE KEY of line 1", "encrypted", "openssl pkey"],
            ),
        ] {
            let problem = problem(text);
            assert!(parts.iter().all(|part| problem.contains(part)), "{text:?}: {problem}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic_and_no_error_shows_them(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let text = [b"-----BEGIN KEY-----\nc2VjcmV0LWNhbmFyeQ==".as_slice(), &bytes].concat();
            if let Err(problem) = blocks(&text) {
                prop_assert!(!problem.contains("c2VjcmV0"));
            }
        }
    }
}
