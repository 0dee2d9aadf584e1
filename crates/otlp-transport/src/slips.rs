//! Usual slips in the texts of settings, told by their form.

use crate::error::EndpointProblem;

/// The text between a pair of quotation marks: a reader of env files that knows none leaves them around the value.
pub(crate) fn unquoted(text: &str) -> Option<&str> {
    let text = text.trim();
    ['"', '\''].into_iter().find_map(|mark| {
        let inner = text.strip_prefix(mark)?.strip_suffix(mark)?;
        (!inner.contains(mark)).then_some(inner)
    })
}

/// Whether a variable in the text was left as it is: `$(NAME)` of Kubernetes, where `NAME` is defined later or not at
/// all, and `${NAME}` of a shell in a file that no shell reads.
pub(crate) fn is_unexpanded(text: &str) -> bool {
    text.contains("$(") || text.contains("${")
}

/// The word to write in the place of a text that other programs take as a boolean.
pub(crate) fn boolean_meant(text: &str) -> Option<&'static str> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "yes" | "y" | "on" | "t" | "enabled" => Some("true"),
        "0" | "no" | "n" | "off" | "f" | "disabled" => Some("false"),
        _ => None,
    }
}

/// The slip in the text of an endpoint that cannot be used.
pub(crate) fn in_endpoint(text: &str) -> Option<EndpointProblem> {
    const MARKS: [char; 6] = ['"', '\'', '\u{2018}', '\u{2019}', '\u{201c}', '\u{201d}'];
    if text.starts_with(MARKS) || text.ends_with(MARKS) {
        return Some(EndpointProblem::QuotationMark);
    }
    if is_unexpanded(text) {
        return Some(EndpointProblem::NotExpanded);
    }
    if text.contains(" #") {
        return Some(EndpointProblem::Comment);
    }
    if text.starts_with('/') {
        return Some(EndpointProblem::UnixSocket);
    }
    let end = text.find(|c: char| !c.is_ascii_alphanumeric() && c != '-').unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    let name = name.to_ascii_lowercase();
    match rest.strip_prefix(':') {
        // `dns:4317` is a host and its port.
        Some(rest) if !rest.starts_with(|c: char| c.is_ascii_digit()) || name.starts_with("ip") => {
            match name.as_str() {
                "unix-abstract" => return Some(EndpointProblem::UnixSocket),
                "dns" | "ipv4" | "ipv6" | "passthrough" | "xds" => return Some(EndpointProblem::GrpcName),
                _ => {}
            }
        }
        _ => {}
    }
    let is_mistyped = match rest.strip_prefix("://") {
        Some(rest) if is_http(&name) => starts_as_scheme(rest),
        Some(_) => is_near(&name, "http") || is_near(&name, "https"),
        None => is_http(&name) && ["//", ":/", ";/", ":\\", "\\\\"].iter().any(|start| rest.starts_with(start)),
    };
    is_mistyped.then_some(EndpointProblem::MistypedScheme)
}

fn is_http(name: &str) -> bool {
    matches!(name, "http" | "https")
}

/// Whether a host begins with a second scheme.
fn starts_as_scheme(rest: &str) -> bool {
    let rest = rest.to_ascii_lowercase();
    ["http:/", "https:/", "http//", "https//"].iter().any(|start| rest.starts_with(start))
}

/// Whether one letter more, less or other makes one name of the other; or two neighbours that changed places.
pub(crate) fn is_near(name: &str, other: &str) -> bool {
    let (name, other) = (name.as_bytes(), other.as_bytes());
    let same = name.iter().zip(other).take_while(|(a, b)| a == b).count();
    let (name, other) = (&name[same..], &other[same..]);
    match (name, other) {
        ([], []) => true,
        ([a, b, name @ ..], [c, d, other @ ..]) if (a, b) == (d, c) && name == other => true,
        _ => {
            name.get(1..) == Some(other)
                || other.get(1..) == Some(name)
                || name.get(1..).is_some_and(|name| Some(name) == other.get(1..))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_of_marks_is_taken_off_and_nothing_else() {
        for (text, inner) in [
            ("\"a\"", Some("a")),
            (" 'a b' ", Some("a b")),
            ("\"\"", Some("")),
            ("\"it's\"", Some("it's")),
            ("\"", None),
            ("a", None),
            ("\"a'", None),
            ("\"a\",\"b\"", None),
            ("a=\"b\"", None),
        ] {
            assert_eq!(unquoted(text), inner, "{text}");
        }
    }

    #[test]
    fn names_of_one_slip_are_near() {
        for near in ["http", "htttp", "htp", "ttp", "htpt", "hxtp", "httpx", "xhttp"] {
            assert!(is_near(near, "http"), "{near}");
        }
        for far in ["tcp", "grpc", "ws", "h2c", "ftp", "https+x", "", "pthh"] {
            assert!(!is_near(far, "http"), "{far}");
        }
    }
}
