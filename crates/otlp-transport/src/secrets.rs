//! Secrets: the part of a URL that texts may show, and the secrets that a peer repeats.

use std::borrow::Cow;
use std::fmt;

use http::uri::PathAndQuery;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use crate::body;
use crate::headers::Headers;

/// Stands in place of a secret.
const HIDDEN: &str = "***";
/// Stands behind a text that was longer.
pub(crate) const CUT: &str = "...";

/// The segments of a path that are shown: the words of documented OTLP paths. OTLP itself has `/v1/traces`; in front of
/// it Grafana Cloud has `/otlp`, Dynatrace `/api/v2/otlp`, Observe `/v2/otel`, Langfuse `/api/public/otel`, Seq
/// `/ingest/otlp`, VictoriaTraces `/insert/opentelemetry`, Sentry `/api/PROJECT/integration/otlp`. Any other segment
/// may be a secret: Sumo Logic has `/receiver/v1/otlp/TOKEN`, Keboola `/otlp/PROJECT/SOURCE/SECRET`.
const SHOWN: [&str; 16] = [
    "",
    "api",
    "collector",
    "ingest",
    "insert",
    "integration",
    "logs",
    "metrics",
    "opentelemetry",
    "otel",
    "otlp",
    "public",
    "receiver",
    "traces",
    "v1",
    "v2",
];

/// A path with each segment hidden that is not in [`SHOWN`].
pub(crate) fn shown_path(path: &str) -> String {
    let shown = |segment| if SHOWN.contains(&segment) { segment } else { HIDDEN };
    // Some clients and servers read a backslash as a slash.
    path.split(['/', '\\']).map(shown).collect::<Vec<_>>().join("/")
}

/// The text of an endpoint setting without its possible secrets: user-info, query, and segments of the path.
pub(crate) fn shown_endpoint(text: &str) -> String {
    let text = text.trim();
    // A query may hold another URL: the text before that one is no scheme. An env file may leave quotes around a value.
    let is_scheme = |name: &str| {
        let name = name.trim_start_matches(['"', '\'']);
        name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'))
    };
    let (scheme, rest) = match text.find("://") {
        Some(end) if is_scheme(&text[..end]) => text.split_at(end + 3),
        _ => ("", text),
    };
    let shown = rest.split(['?', '#']).next().unwrap_or_default();
    let tail = if shown.len() < rest.len() { "?***" } else { "" };
    match (rest.rfind('@'), shown.rsplit_once('@')) {
        // A password may hold a '?', a '#' or a '/' that should have been escaped, and a path or a query an '@': the
        // host stands in front of the sign or behind it.
        (Some(at), _) if at >= shown.len() => format!("{scheme}{HIDDEN}"),
        (_, Some((before, _))) if before.contains(['/', '\\']) => format!("{scheme}{HIDDEN}"),
        (_, Some((_, after))) => format!("{scheme}{HIDDEN}@{}{tail}", shown_place(after)),
        // The path of a socket has no token in it, and tells the user which setting to mend.
        (_, None) if scheme.eq_ignore_ascii_case("unix://") => format!("{scheme}{shown}{tail}"),
        (_, None) => format!("{scheme}{}{tail}", shown_place(shown)),
    }
}

/// Host and port as they are, and the path as [`shown_path`].
fn shown_place(place: &str) -> String {
    let (authority, path) = place.split_at(place.find(['/', '\\']).unwrap_or(place.len()));
    format!("{}{}", before_next(authority), shown_path(path))
}

/// The text of a variable that is no list, up to the word with a `=`: a unit file with one pair of quotation marks
/// around two variables has the second one there, such as a list of headers.
pub(crate) fn before_next(text: &str) -> Cow<'_, str> {
    let Some((before, _)) = text.split_once('=') else { return Cow::from(text) };
    let is_end = |c: char| c.is_whitespace() || matches!(c, ',' | ';' | '&');
    let word = before.rsplit(is_end).next().unwrap_or_default();
    Cow::from(format!("{}{HIDDEN}", before.strip_suffix(word).unwrap_or_default()))
}

/// A text of foreign code with each URL in it as [`shown_endpoint`]: an HTTP client's error names the whole URL.
pub(crate) fn without_urls(text: &str) -> String {
    let is_scheme = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.');
    let is_end = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '"' | '\'' | '`' | '<' | '>' | '(' | ')');
    let (mut shown, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(mark) = rest.find("://") {
        let begin = rest[..mark]
            .rfind(|c| !is_scheme(c))
            .map_or(0, |at| at + rest[at..].chars().next().map_or(1, char::len_utf8));
        let end = rest[mark..].find(is_end).map_or(rest.len(), |end| mark + end);
        shown.push_str(&rest[..begin]);
        shown.push_str(&shown_endpoint(&rest[begin..end]));
        rest = &rest[end..];
    }
    shown + rest
}

/// A URL that a peer names: without its query, its fragment and its user-info.
pub(crate) fn without_query(url: &str) -> String {
    let url = url.split(['?', '#']).next().unwrap_or_default();
    match url.split_once("//") {
        Some((scheme, rest)) => {
            let authority = rest.split('/').next().unwrap_or_default();
            let user = authority.rfind('@').map_or(0, |at| at + 1);
            format!("{scheme}//{}", &rest[user..])
        }
        None => url.to_owned(),
    }
}

/// Texts that are secret, in lower case, longest first: header values, their words and credentials, the segments of the
/// endpoint's path that are not shown, its query. `Debug` shows their number.
#[derive(Clone, Default)]
pub(crate) struct Secrets(Vec<String>);

impl Secrets {
    /// Shorter words than this are no secrets, and taking them out would garble every text.
    const SHORTEST: usize = 6;
    /// The least characters of a secret that was cut off which are hidden: fewer tell nothing.
    const SHORTEST_START: usize = 3;

    pub(crate) fn new(headers: &Headers, target: &PathAndQuery) -> Self {
        let mut secrets = Vec::new();
        for value in headers.values() {
            secrets.push(Cow::from(value));
            // A peer may repeat the token of "Bearer token" alone, or the value of one cookie.
            for word in value.split(|c: char| c.is_whitespace() || matches!(c, ',' | ';')) {
                // Quotation marks that an env file left around a value are sent, and not repeated.
                let bare = |text: &'_ str| Cow::from(text.trim_matches(['"', '\'']).to_owned());
                secrets.push(bare(word));
                secrets.extend(word.split_once('=').map(|(_, value)| bare(value)));
                if let Some((user, password)) = basic_credentials(value, word) {
                    secrets.extend([format!("{user}:{password}").into(), user.into(), password.into()]);
                }
            }
        }
        secrets.extend(target.path().split('/').map(Cow::from));
        if let Some(query) = target.query() {
            secrets.push(query.into());
            secrets.extend(query.split('&').map(|pair| pair.split_once('=').map_or(pair, |(_, value)| value).into()));
        }
        Self::of(&secrets)
    }

    fn of(secrets: &[Cow<'_, str>]) -> Self {
        let mut all: Vec<String> = secrets.iter().flat_map(|secret| spellings(secret)).collect();
        all.retain(|secret| {
            let is_word = SHOWN.contains(&secret.as_str()) || matches!(secret.as_str(), "bearer" | "digest");
            secret.len() >= Self::SHORTEST && !is_word
        });
        all.sort_unstable_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        all.dedup();
        Self(all)
    }

    /// Hides each secret in a peer's text, in any case of its letters, and the start of one in front of a cut.
    pub(crate) fn remove_from(&self, text: &mut String) {
        // Of the same length as `text`, byte by byte.
        let lower = text.to_ascii_lowercase();
        let mut hidden: Vec<(usize, usize)> = Vec::new();
        for secret in &self.0 {
            hidden.extend(lower.match_indices(secret.as_str()).map(|(at, found)| (at, at + found.len())));
        }
        for (cut, _) in lower.match_indices(CUT) {
            let is_start = |secret: &String, length: &usize| {
                secret.get(..*length).is_some_and(|start| lower[..cut].ends_with(start))
            };
            let longest = |secret: &String| (Self::SHORTEST_START..secret.len()).rev().find(|n| is_start(secret, n));
            hidden.extend(self.0.iter().filter_map(longest).max().map(|length| (cut - length, cut)));
        }
        hidden.sort_unstable();
        let (mut shown, mut done) = (String::with_capacity(text.len()), 0);
        for (begin, end) in hidden {
            if begin >= done {
                shown.push_str(&text[done..begin]);
                shown.push_str(HIDDEN);
            }
            done = done.max(end);
        }
        shown.push_str(&text[done..]);
        *text = shown;
    }
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} not shown", self.0.len())
    }
}

/// User and password of `word`, if it is the word behind `Basic` (RFC 7617).
fn basic_credentials(value: &str, word: &str) -> Option<(String, String)> {
    let (scheme, rest) = value.trim_start().split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") || rest.trim() != word {
        return None;
    }
    let credentials = String::from_utf8(body::decode_base64(word.as_bytes())?).ok()?;
    credentials.split_once(':').map(|(user, password)| (user.to_owned(), password.to_owned()))
}

/// The forms in which a peer repeats a part of a URL, in lower case: as it came, decoded, and encoded as a whole.
fn spellings(secret: &str) -> [String; 3] {
    /// RFC 3986, section 2.3: the characters that no encoder escapes.
    const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
    let decoded = percent_decode_str(secret).decode_utf8_lossy();
    let encoded = utf8_percent_encode(&decoded, ESCAPED).to_string();
    [secret, &decoded, &encoded].map(str::to_ascii_lowercase)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn secrets(headers: &[(&str, &str)], target: &str) -> Secrets {
        let mut all = Headers::default();
        for (name, value) in headers {
            all.insert(name, value.as_bytes()).expect("a header");
        }
        Secrets::new(&all, &target.parse().expect("a path"))
    }

    fn cleaned(secrets: &Secrets, text: &str) -> String {
        let mut text = text.to_owned();
        secrets.remove_from(&mut text);
        text
    }

    #[test]
    fn a_path_shows_the_words_of_documented_paths_only() {
        for (path, shown) in [
            ("", ""),
            ("/", "/"),
            ("/v1/traces", "/v1/traces"),
            ("/v1/traces/", "/v1/traces/"),
            ("/api/v2/otlp/v1/traces", "/api/v2/otlp/v1/traces"),
            ("/insert/opentelemetry/v1/traces", "/insert/opentelemetry/v1/traces"),
            ("/receiver/v1/otlp/ZaVnC4==/v1/traces", "/receiver/v1/otlp/***/v1/traces"),
            ("/otlp/123/my-source/canary", "/otlp/***/***/***"),
            ("/V1/traces", "/***/traces"),
            ("/otlp;canary/v1/traces", "/***/v1/traces"),
            ("/otlp\\canary", "/otlp/***"),
        ] {
            assert_eq!(shown_path(path), shown);
        }
    }

    #[test]
    fn an_endpoint_shows_scheme_host_port_and_the_usual_path() {
        for (text, shown) in [
            ("http://c:4318/canary/v1/traces?canary#canary", "http://c:4318/***/v1/traces?***"),
            ("c:4317/canary", "c:4317/***"),
            ("http://user:canary@c:1/canary", "http://***@c:1/***"),
            ("http://user:can/ary@c:1", "http://***"),
            ("https://c:1/me@canary", "https://***"),
            ("\"http://c:1/canary\"", "\"http://c:1/***"),
            ("http://c\\canary", "http://c/***"),
            ("http:/c/canary", "http:/***/***"),
            ("unix:///run/c.sock?canary", "unix:///run/c.sock?***"),
            ("http://c:1 HEADERS=x-key=canary/a", "http://c:1 ***/***"),
            ("http://c:1\nHEADERS=x-key=canary", "http://c:1\n***"),
            ("c 4317", "c 4317"),
            ("http://c:1;key=canary", "http://c:1;***"),
            ("c;4317", "c;4317"),
        ] {
            assert_eq!(shown_endpoint(text), shown);
        }
    }

    #[test]
    fn a_text_is_shown_up_to_another_variable() {
        for (text, shown) in [
            ("10 MegaByte", "10 MegaByte"),
            ("10 KEY=canary", "10 ***"),
            ("10\u{2003}KEY=canary=", "10\u{2003}***"),
            ("canary=1", "***"),
            ("=canary", "***"),
            ("", ""),
        ] {
            assert_eq!(before_next(text), shown);
        }
    }

    #[test]
    fn urls_in_a_foreign_text_are_shown_as_endpoints() {
        for (text, shown) in [
            ("no URL: a/b", "no URL: a/b"),
            (
                "error sending request for url (http://me:canary@c:1/canary/v1/traces?k=canary): refused",
                "error sending request for url (http://***@c:1/***/v1/traces?***): refused",
            ),
            ("\u{e4}http://a/x, https://b/y \"c://d/z\"", "\u{e4}http://a/*** https://b/*** \"c://d/***\""),
            ("://canary", "://canary"),
        ] {
            assert_eq!(without_urls(text), shown);
        }
    }

    #[test]
    fn the_target_of_a_redirect_is_shown_without_its_secrets() {
        for (location, shown) in [
            ("https://sso.example/login?token=secret#secret", "https://sso.example/login"),
            ("https://me:secret@sso.example/a@b", "https://sso.example/a@b"),
            ("/v1/traces/?key=secret", "/v1/traces/"),
            ("//other.example/?secret", "//other.example/"),
            ("", ""),
        ] {
            assert_eq!(without_query(location), shown);
        }
    }

    #[test]
    fn a_secret_is_found_in_each_of_its_spellings() {
        let path = secrets(&[], "/receiver/v1/otlp/Zk+9_canary==/v1/traces?key=b%2Fcanary&canary-2");
        for text in [
            "Zk+9_canary==",
            "Zk%2B9_canary%3D%3D",
            "zk%2b9_CANARY%3d%3d",
            "b%2Fcanary",
            "b/canary",
            "canary-2",
            "key=b%2fcanary&canary-2",
        ] {
            assert_eq!(cleaned(&path, &format!("no {text} here")), "no *** here");
        }
        assert_eq!(cleaned(&path, "POST /receiver/v1/otlp is unknown"), "POST /receiver/v1/otlp is unknown");

        // base64 of "tenant:canary-3".
        let basic =
            secrets(&[("authorization", "Basic dGVuYW50OmNhbmFyeS0z"), ("cookie", "s=canary-4; t=canary-5")], "/");
        for text in ["dGVuYW50OmNhbmFyeS0z", "canary-3", "tenant:canary-3", "canary-4", "canary-5"] {
            assert_eq!(cleaned(&basic, &format!("no {text}!")), "no ***!");
        }
        let quoted = secrets(&[("x-key", "\"canary-7\"")], "/");
        assert_eq!(cleaned(&quoted, "no canary-7, no \"canary-7\""), "no ***, no ***");
        let bearer = secrets(&[("authorization", "Bearer canary-6")], "/");
        assert_eq!(cleaned(&bearer, "a Bearer token, not canary-6"), "a Bearer token, not ***");
    }

    #[test]
    fn the_start_of_a_secret_is_hidden_in_front_of_any_cut() {
        let path = secrets(&[], "/0123456789");
        for (text, shown) in [
            ("no 01234...", "no ***..."),
            ("text/plain \"no 0123456789... \"; more", "text/plain \"no ***... \"; more"),
            ("text/plain \"no 012...\"; no end", "text/plain \"no ***...\"; no end"),
            ("no 01...", "no 01..."),
            ("well... 0123", "well... 0123"),
        ] {
            assert_eq!(cleaned(&path, text), shown);
        }
    }

    proptest! {
        #[test]
        fn no_secret_survives(secret in "[a-zA-Z0-9+=_-]{6,20}", before in ".{0,20}", after in ".{0,20}") {
            let target = format!("/{secret}");
            let secrets = secrets(&[], &target);
            let text = cleaned(&secrets, &format!("{before}{secret}{after}{secret}"));
            let is_shown = SHOWN.contains(&secret.to_ascii_lowercase().as_str());
            prop_assert!(is_shown || !text.contains(&secret), "{}", text);
        }

        #[test]
        fn any_text_is_searched_for_urls(text in "[a-z:/@?#\u{e4} ]{0,40}") {
            let shown = without_urls(&format!("{text} http://host/canary {text}"));
            prop_assert!(!shown.contains("canary"), "{}", shown);
        }
    }
}
