//! The extra headers that a user sets for every request. Each value is treated as a secret.

use std::fmt;

use http::{HeaderMap, HeaderName, HeaderValue, header};

use crate::error::{ConfigError, HeaderProblem};
use crate::note::Note;
use crate::slips;

/// How many headers one source may give: the usual servers take about as many in all.
const MAX_HEADERS: usize = 100;

/// Extra headers. `Debug` shows their names only; every value is marked sensitive, so that HTTP/2 does not index it.
#[derive(Clone, Default, PartialEq)]
pub(crate) struct Headers(HeaderMap);

impl Headers {
    /// Adds one header; a second one of the same name takes the first one's place.
    pub(crate) fn insert(&mut self, name: &str, value: &[u8]) -> Result<(), HeaderProblem> {
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| HeaderProblem::BadName)?;
        if is_reserved(&name) {
            return Err(HeaderProblem::Reserved);
        }
        let value = secret(value)?;
        if self.0.len() >= MAX_HEADERS && !self.0.contains_key(&name) {
            return Err(HeaderProblem::TooMany);
        }
        self.0.insert(name, value);
        Ok(())
    }

    /// Adds the headers of `other` whose names are not set yet.
    pub(crate) fn fill_from(&mut self, other: &Self) {
        for (name, value) in &other.0 {
            if !self.0.contains_key(name) {
                self.0.insert(name.clone(), value.clone());
            }
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn remove(&mut self, name: &HeaderName) {
        self.0.remove(name);
    }

    /// Adds the user's part of the user agent, whose words are secret like those of the other values.
    pub(crate) fn add_user_agent(&mut self, value: Option<&HeaderValue>) {
        self.0.extend(value.map(|value| (header::USER_AGENT, value.clone())));
    }

    /// Adds the credentials for the proxy, whose words are secret too.
    pub(crate) fn add_proxy_authorization(&mut self, value: Option<&HeaderValue>) {
        self.0.extend(value.map(|value| (header::PROXY_AUTHORIZATION, value.clone())));
    }

    pub(crate) fn append_to(&self, map: &mut HeaderMap) {
        map.extend(self.0.iter().map(|(name, value)| (name.clone(), value.clone())));
    }

    /// Puts the headers into a request, in the place of those of the same names.
    pub(crate) fn put_into(&self, map: &mut HeaderMap) {
        for (name, value) in &self.0 {
            map.insert(name.clone(), value.clone());
        }
    }

    /// The values, which are printable ASCII.
    pub(crate) fn values(&self) -> impl Iterator<Item = &str> {
        self.0.values().filter_map(|value| value.to_str().ok())
    }

    /// Reads `key=value,key=value`: the W3C Baggage list, values percent-decoded, without properties (OTLP exporter
    /// specification, "Specifying headers via environment variables"). Empty members are skipped, and headers that the
    /// transport sets itself are left out, with a note. The value of a `user-agent` is returned apart.
    pub(crate) fn parse(
        setting: &'static str,
        list: &str,
        notes: &mut Vec<Note>,
    ) -> Result<(Self, Option<HeaderValue>), ConfigError> {
        let (mut headers, mut user_agent) = (Self::default(), None);
        for (index, member) in list.split(',').enumerate() {
            let member = member.trim();
            if member.is_empty() {
                continue;
            }
            let fail = |name: Option<&str>, problem| {
                // A name is only told if it is one: the text in front of a misplaced '=' may be part of a secret.
                let name = name.filter(|name| HeaderName::from_bytes(name.as_bytes()).is_ok()).map(str::to_owned);
                ConfigError::Headers { setting, position: index + 1, name, problem }
            };
            let (name, value) = member.split_once('=').ok_or_else(|| fail(None, without_equals(member)))?;
            let name = name.trim();
            if name.contains(':') {
                return Err(fail(None, HeaderProblem::Colon));
            }
            let mut note = |what: &str| {
                notes.push(Note::new(setting, format!("{setting}: member {} ({name}) {what}", index + 1)));
            };
            if let Some(slip) = slip_in(value.trim()) {
                note(slip);
            }
            let value = percent_decode(value.trim()).ok_or_else(|| fail(Some(name), HeaderProblem::BadEscape))?;
            if name.eq_ignore_ascii_case(header::USER_AGENT.as_str()) {
                user_agent = Some(secret(&value).map_err(|problem| fail(Some(name), problem))?);
                note("is put in front of the transport's own value, which stays");
                continue;
            }
            match headers.insert(name, &value) {
                Err(HeaderProblem::Reserved) => note("is set by the transport itself: it is left out; remove it"),
                inserted => inserted.map_err(|problem| fail(Some(name), problem))?,
            }
        }
        Ok((headers, user_agent))
    }
}

/// A value that no text shows. gRPC metadata is printable ASCII. HTTP/1 would carry more bytes, but two rules for one
/// setting are not worth that.
pub(crate) fn secret(value: &[u8]) -> Result<HeaderValue, HeaderProblem> {
    if !value.iter().all(|byte| matches!(byte, b' '..=b'~')) {
        return Err(HeaderProblem::BadValue);
    }
    let mut value = HeaderValue::from_bytes(value).map_err(|_| HeaderProblem::BadValue)?;
    value.set_sensitive(true);
    Ok(value)
}

/// The fault of a member without `=`: `name: value` is a line of HTTP.
pub(crate) fn without_equals(member: &str) -> HeaderProblem {
    let name = member.split(':').next().unwrap_or_default().trim();
    let is_line = member.contains(':') && HeaderName::from_bytes(name.as_bytes()).is_ok();
    if is_line { HeaderProblem::Colon } else { HeaderProblem::NoEquals }
}

/// The usual slip in a value that is accepted, told by its form.
pub(crate) fn slip_in(value: &str) -> Option<&'static str> {
    if slips::unquoted(value).is_some() {
        return Some("has quotation marks around its value, which are sent too; remove them");
    }
    if slips::is_unexpanded(value) {
        return Some("has a variable in it that was not expanded; write its value");
    }
    let next = value.split_once(';').and_then(|(_, next)| next.split_once('='));
    let is_member = next.is_some_and(|(name, _)| HeaderName::from_bytes(name.trim().as_bytes()).is_ok());
    is_member.then_some("has a ';' in its value, and more behind it that reads as a header: commas separate headers")
}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// Headers that carry the protocol itself: another value would break the request, not add to it.
fn is_reserved(name: &HeaderName) -> bool {
    const RESERVED: [&str; 17] = [
        "accept-encoding",
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "expect",
        "host",
        "keep-alive",
        "max-forwards",
        "proxy-connection",
        "range",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "user-agent",
        "http2-settings",
    ];
    RESERVED.contains(&name.as_str()) || name.as_str().starts_with("grpc-")
}

/// Percent-decodes, and unlike the usual decoders refuses a `%` that begins no escape.
pub(crate) fn percent_decode(text: &str) -> Option<Vec<u8>> {
    let is_escape = |rest: &str| rest.as_bytes().get(..2).is_some_and(|two| two.iter().all(u8::is_ascii_hexdigit));
    text.match_indices('%')
        .all(|(at, _)| is_escape(&text[at + 1..]))
        .then(|| percent_encoding::percent_decode_str(text).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Pairs = Vec<(String, String)>;

    fn parse(list: &str) -> Result<Pairs, (usize, Option<String>, HeaderProblem)> {
        match Headers::parse("X", list, &mut Vec::new()) {
            Ok((headers, _)) => Ok(headers
                .0
                .iter()
                .map(|(name, value)| (name.to_string(), value.to_str().expect("ASCII").to_owned()))
                .collect()),
            Err(ConfigError::Headers { position, name, problem, .. }) => Err((position, name, problem)),
            Err(other) => panic!("{other}"),
        }
    }

    #[test]
    fn a_list_is_read_by_the_rules() {
        let pairs = |list| parse(list).expect(list);
        let own = |pairs: &[(&str, &str)]| -> Pairs {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        };
        assert_eq!(pairs("a=1,B=2"), own(&[("a", "1"), ("b", "2")]));
        assert_eq!(pairs(" a = 1 , , b=2, "), own(&[("a", "1"), ("b", "2")]));
        assert_eq!(pairs("auth=Basic%20eDp5%3D%3D"), own(&[("auth", "Basic eDp5==")]));
        assert_eq!(pairs("auth=Basic eDp5=="), own(&[("auth", "Basic eDp5==")]));
        assert_eq!(pairs("a=%2C%3b"), own(&[("a", ",;")]));
        assert_eq!(pairs("a=1,a=2"), own(&[("a", "2")]));
        assert_eq!(pairs("a="), own(&[("a", "")]));
    }

    #[test]
    fn a_bad_list_says_which_member_and_never_its_value() {
        let name = |name: &str| Some(name.to_owned());
        assert_eq!(parse("a=1,canary"), Err((2, None, HeaderProblem::NoEquals)));
        assert_eq!(parse("key=canary%zz"), Err((1, name("key"), HeaderProblem::BadEscape)));
        assert_eq!(parse("key=canary%4"), Err((1, name("key"), HeaderProblem::BadEscape)));
        assert_eq!(parse("key=canary%"), Err((1, name("key"), HeaderProblem::BadEscape)));
        assert_eq!(parse("key=canary%e4%zz"), Err((1, name("key"), HeaderProblem::BadEscape)));
        assert_eq!(parse("key=canary%0d%0aevil: 1"), Err((1, name("key"), HeaderProblem::BadValue)));
        assert_eq!(parse("key=%C3%A4"), Err((1, name("key"), HeaderProblem::BadValue)));
        assert_eq!(parse("Bearer canary=x"), Err((1, None, HeaderProblem::BadName)));
        assert_eq!(parse("=canary"), Err((1, None, HeaderProblem::BadName)));
        assert_eq!(parse("authorization: Bearer canary"), Err((1, None, HeaderProblem::Colon)));
        assert_eq!(parse("authorization:Basic canary=="), Err((1, None, HeaderProblem::Colon)));
        assert_eq!(parse("a=1,http://canary"), Err((2, None, HeaderProblem::Colon)));
        assert_eq!(parse("a=1,Bearer canary:x"), Err((2, None, HeaderProblem::NoEquals)));
    }

    proptest! {
        #[test]
        fn any_printable_value_comes_through_its_escapes(value in "[ -~]{0,30}") {
            let encoded: String = value.bytes().map(|byte| format!("%{byte:02x}")).collect();
            let expected = [("a", "1"), ("key", &value)].map(|(name, value)| (name.to_owned(), value.to_owned()));
            prop_assert_eq!(parse(&format!("a=1,key={encoded}")), Ok(expected.to_vec()));
        }
    }

    #[test]
    fn values_are_marked_sensitive() {
        let (headers, _) = Headers::parse("X", "authorization=canary", &mut Vec::new()).expect("valid");
        assert!(headers.0["authorization"].is_sensitive());
        assert_eq!(format!("{headers:?}"), "{\"authorization\"}");
    }
}
