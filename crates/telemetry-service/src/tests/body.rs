//! Request bodies: strict JSON objects whose refusals name the field and the accepted values.

use std::fmt;
use std::ops::RangeInclusive;

use axum::http::{HeaderMap, StatusCode, header};
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::problem::Problem;

/// Characters of a refused value that a refusal shows.
const SHOWN: usize = 40;

/// A body that is not accepted.
#[derive(Debug)]
pub(crate) struct Refusal {
    status: StatusCode,
    detail: String,
    /// The field that is refused, and its range.
    field: Option<(String, String)>,
}

impl Refusal {
    fn new(detail: String) -> Self {
        Self { status: StatusCode::BAD_REQUEST, detail, field: None }
    }

    /// One about a field: `why` is the predicate of the sentence.
    pub(super) fn of(field: &str, why: &str, accepted: &str) -> Self {
        let field = Some((field.to_owned(), accepted.to_owned()));
        let detail =
            field.as_ref().map_or_else(String::new, |(name, _)| format!("{name} {why}; accepted is {accepted}"));
        Self { status: StatusCode::BAD_REQUEST, detail, field }
    }

    /// The answer to the request of this path.
    pub(crate) fn into_problem(self, path: &str) -> Problem {
        let problem = Problem::new(self.status, self.detail, path);
        match self.field {
            Some((field, accepted)) => problem.with_field(field, accepted),
            None => problem,
        }
    }
}

/// The fields of an object, each of which is taken once; [`end`](Self::end) refuses those that are left.
pub(crate) struct Fields<'a> {
    left: Vec<(String, &'a RawValue)>,
    /// The names asked for, in their order.
    known: Vec<&'static str>,
}

impl<'a> Fields<'a> {
    /// The fields of a body. A body of no byte has none.
    pub(crate) fn of(headers: &HeaderMap, body: &'a [u8]) -> Result<Self, Refusal> {
        if body.is_empty() {
            return Ok(Self { left: Vec::new(), known: Vec::new() });
        }
        let content_type = headers.get(header::CONTENT_TYPE).map(|value| value.to_str().unwrap_or("unreadable"));
        let essence = content_type.unwrap_or("missing").split(';').next().unwrap_or_default().trim();
        if !essence.eq_ignore_ascii_case("application/json") {
            let refusal = Refusal::of("content-type", &format!("is {}", shown(essence)), "application/json");
            return Err(Refusal { status: StatusCode::UNSUPPORTED_MEDIA_TYPE, ..refusal });
        }
        match serde_json::from_slice::<Object<'a>>(body) {
            Ok(Object(left)) => Ok(Self { left, known: Vec::new() }),
            Err(error) => Err(Refusal::new(format!("the body is not accepted; accepted is one JSON object: {error}"))),
        }
    }

    fn take(&mut self, name: &'static str) -> Result<Option<&'a str>, Refusal> {
        self.known.push(name);
        let Some(at) = self.left.iter().position(|(field, _)| field == name) else { return Ok(None) };
        let (_, value) = self.left.swap_remove(at);
        if self.left.iter().any(|(field, _)| field == name) {
            return Err(Refusal::of(name, "is given more than once", "once"));
        }
        Ok(Some(value.get()))
    }

    /// A whole number; `default` where there is none.
    pub(crate) fn integer(
        &mut self,
        name: &'static str,
        range: RangeInclusive<u32>,
        default: Option<u32>,
    ) -> Result<u32, Refusal> {
        let (min, max) = (*range.start(), *range.end());
        let accepted = format!("a whole number from {min} to {max}");
        let Some(text) = self.take(name)? else {
            return default.ok_or_else(|| Refusal::of(name, "is missing", &accepted));
        };
        let is_whole = text.bytes().all(|byte| byte.is_ascii_digit());
        let number = text.parse().ok().filter(|number| is_whole && range.contains(number));
        number.ok_or_else(|| Refusal::of(name, &format!("is {}", shown(text)), &accepted))
    }

    /// One of several words; `default` where there is none.
    pub(super) fn word<T: Copy>(
        &mut self,
        name: &'static str,
        words: &[(&'static str, T)],
        default: Option<T>,
    ) -> Result<T, Refusal> {
        let list: Vec<_> = words.iter().map(|(word, _)| format!("{word:?}")).collect();
        let accepted = format!("one of {}", list.join(", "));
        let Some(text) = self.take(name)? else {
            return default.ok_or_else(|| Refusal::of(name, "is missing", &accepted));
        };
        let word = serde_json::from_str::<String>(text).ok();
        let found = words.iter().find(|(known, _)| word.as_deref() == Some(known)).map(|(_, value)| *value);
        found.ok_or_else(|| Refusal::of(name, &format!("is {}", shown(text)), &accepted))
    }

    /// True or false; `default` where there is none.
    pub(super) fn boolean(&mut self, name: &'static str, default: bool) -> Result<bool, Refusal> {
        match self.take(name)? {
            None => Ok(default),
            Some("true") => Ok(true),
            Some("false") => Ok(false),
            Some(text) => Err(Refusal::of(name, &format!("is {}", shown(text)), "true or false")),
        }
    }

    /// Refuses fields that were not asked for.
    pub(crate) fn end(self) -> Result<(), Refusal> {
        let Some((name, _)) = self.left.first() else { return Ok(()) };
        let known = self.known.join(", ");
        Err(Refusal::of(&shown(name), "is an unknown field", &known))
    }
}

/// The start of a client's text, on one line.
fn shown(text: &str) -> String {
    let mut shown: String = text.chars().take(SHOWN).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.chars().nth(SHOWN).is_some() {
        shown.push_str("..");
    }
    shown
}

/// The members of an object in their order, those with one name too: a map would keep the last one of these.
struct Object<'a>(Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Object<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Object<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Object(members))
            }
        }
        deserializer.deserialize_map(Members)
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn read(body: &str) -> Result<(u32, bool, bool), Refusal> {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json; charset=utf-8"));
        let mut fields = Fields::of(&headers, body.as_bytes())?;
        let number = fields.integer("rate", 1..=1_000, None)?;
        let word = fields.word("mode", &[("fast", true), ("slow", false)], Some(false))?;
        let boolean = fields.boolean("errors", false)?;
        fields.end()?;
        Ok((number, word, boolean))
    }

    #[test]
    fn fields_are_read_in_any_order_and_have_defaults() {
        assert_eq!(read(r#"{"errors": true, "mode": "fast", "rate": 7}"#).expect("accepted"), (7, true, true));
        assert_eq!(read(r#"{"rate":1000}"#).expect("accepted"), (1_000, false, false));
    }

    #[test]
    fn a_refusal_names_the_field_its_value_and_the_accepted_ones() {
        let range = "accepted is a whole number from 1 to 1000";
        for value in ["0", "1001", "-1", "1.0", "1e2", "1e999", "\"7\"", "null", "[]", "{\"a\":1}", "true"] {
            let refusal = read(&format!("{{\"rate\": {value}}}")).expect_err(value);
            assert_eq!(refusal.detail, format!("rate is {value}; {range}"));
            assert_eq!(refusal.field, Some(("rate".to_owned(), "a whole number from 1 to 1000".to_owned())));
            assert_eq!(refusal.status, StatusCode::BAD_REQUEST);
        }
        let huge = "9".repeat(400);
        let refusal = read(&format!("{{\"rate\": {huge}}}")).expect_err("huge");
        assert_eq!(refusal.detail, format!("rate is {}..; {range}", &huge[..40]));
        for (body, detail) in [
            ("{}", "rate is missing; accepted is a whole number from 1 to 1000"),
            (r#"{"rate":1,"mode":"quick"}"#, r#"mode is "quick"; accepted is one of "fast", "slow""#),
            (r#"{"rate":1,"mode":3}"#, r#"mode is 3; accepted is one of "fast", "slow""#),
            (r#"{"rate":1,"errors":"true"}"#, r#"errors is "true"; accepted is true or false"#),
            (r#"{"rate":1,"rat":1}"#, "rat is an unknown field; accepted is rate, mode, errors"),
            (r#"{"rate":1,"rate":2}"#, "rate is given more than once; accepted is once"),
        ] {
            assert_eq!(read(body).expect_err(body).detail, detail);
        }
        for body in ["[]", "7", "{", "{\"rate\": 1} 2", "\u{1}", "nul"] {
            let detail = read(body).expect_err(body).detail;
            assert!(detail.starts_with("the body is not accepted; accepted is one JSON object"), "{detail}");
        }
    }

    #[test]
    fn deep_json_is_passed_over_without_a_deep_stack() {
        let deep = format!("{{\"rate\": {}{}}}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(read(&deep).expect_err("no number").detail.starts_with("rate is [[["));
    }

    #[test]
    fn another_content_type_is_refused_and_an_empty_body_needs_none() {
        let fields = Fields::of(&HeaderMap::new(), b"{}").err().expect("no content type");
        assert_eq!(fields.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
        assert_eq!(fields.detail, "content-type is missing; accepted is application/json");
        assert!(Fields::of(&HeaderMap::new(), b"").and_then(Fields::end).is_ok());
    }
}
