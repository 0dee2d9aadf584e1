//! Request bodies: strict JSON objects whose refusals name the field and the accepted values.

use std::fmt;
use std::ops::RangeInclusive;

use axum::http::{HeaderMap, StatusCode, header};
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

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

    /// One about fields that are accepted each, and not together: 422. The document of the routes has no word for it.
    pub(super) fn of_product(field: &str, why: &str, accepted: &str) -> Self {
        Self { status: StatusCode::UNPROCESSABLE_ENTITY, ..Self::of(field, why, accepted) }
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
    /// The schema so far, where there is no body and a reader of bodies tells its fields.
    described: Option<Described>,
}

/// The schema of the bodies that one reader accepts.
#[derive(Default)]
struct Described {
    properties: Map<String, Value>,
    required: Vec<&'static str>,
}

impl Described {
    fn add(&mut self, name: &'static str, mut schema: Value, default: Option<Value>) {
        match default {
            Some(default) => schema["default"] = default,
            None => self.required.push(name),
        }
        self.properties.insert(name.to_owned(), schema);
    }
}

/// The JSON schema of the bodies that `read` accepts, told by `read` itself: each field that it asks for has its type,
/// its range and its default. Limits on products of fields are not part of it.
pub(crate) fn schema_of<T>(read: impl FnOnce(&mut Fields<'_>) -> Result<T, Refusal>) -> Value {
    let mut fields = Fields { left: Vec::new(), known: Vec::new(), described: Some(Described::default()) };
    // Without a body each field has its default or its first accepted value; a product beyond its limit ends `read`
    // behind its last field.
    let _ = read(&mut fields);
    let Described { properties, required } = fields.described.unwrap_or_default();
    let mut schema = json!({"type": "object", "properties": properties, "additionalProperties": false});
    if !required.is_empty() {
        schema["required"] = required.into();
    }
    schema
}

impl<'a> Fields<'a> {
    /// The fields of a body. A body of no byte has none.
    fn of(headers: &HeaderMap, body: &'a [u8]) -> Result<Self, Refusal> {
        if body.is_empty() {
            return Ok(Self { left: Vec::new(), known: Vec::new(), described: None });
        }
        let content_type = headers.get(header::CONTENT_TYPE).map(|value| value.to_str().unwrap_or("unreadable"));
        let essence = content_type.unwrap_or("missing").split(';').next().unwrap_or_default().trim();
        if !essence.eq_ignore_ascii_case("application/json") {
            let refusal = Refusal::of("content-type", &format!("is {}", shown(essence)), "application/json");
            return Err(Refusal { status: StatusCode::UNSUPPORTED_MEDIA_TYPE, ..refusal });
        }
        match serde_json::from_slice::<Object<'a>>(body) {
            Ok(Object(left)) => Ok(Self { left, known: Vec::new(), described: None }),
            Err(error) => Err(Refusal::new(format!("the body is not accepted; accepted is one JSON object: {error}"))),
        }
    }

    /// Reads an object of these fields and no others.
    pub(crate) fn read<T>(
        headers: &HeaderMap,
        body: &'a [u8],
        read: impl FnOnce(&mut Self) -> Result<T, Refusal>,
    ) -> Result<T, Refusal> {
        let mut fields = Fields::of(headers, body)?;
        let value = read(&mut fields)?;
        fields.end()?;
        Ok(value)
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

    /// A whole number, also written as `5.0` or `5e0`; `default` where there is none.
    pub(crate) fn integer(
        &mut self,
        name: &'static str,
        range: RangeInclusive<u32>,
        default: Option<u32>,
    ) -> Result<u32, Refusal> {
        let (min, max) = (*range.start(), *range.end());
        if let Some(described) = &mut self.described {
            let schema = json!({"type": "integer", "minimum": min, "maximum": max});
            described.add(name, schema, default.map(Value::from));
            return Ok(default.unwrap_or(min));
        }
        let accepted = format!("a whole number from {min} to {max}");
        let Some(text) = self.take(name)? else {
            return default.ok_or_else(|| Refusal::of(name, "is missing", &accepted));
        };
        let number = whole(text).filter(|number| range.contains(number));
        number.ok_or_else(|| Refusal::of(name, &format!("is {}", shown(text)), &accepted))
    }

    /// One of several words; `default`, which is one of them too, where there is none.
    pub(super) fn word<T: Copy>(
        &mut self,
        name: &'static str,
        words: &[(&'static str, T)],
        default: Option<&'static str>,
    ) -> Result<T, Refusal> {
        let value_of =
            |wanted: Option<&str>| words.iter().find(|(word, _)| wanted == Some(word)).map(|(_, value)| *value);
        if let Some(described) = &mut self.described {
            let all: Vec<_> = words.iter().map(|(word, _)| *word).collect();
            described.add(name, json!({"type": "string", "enum": all}), default.map(Value::from));
        }
        let list: Vec<_> = words.iter().map(|(word, _)| format!("{word:?}")).collect();
        let accepted = format!("one of {}", list.join(", "));
        let Some(text) = self.take(name)? else {
            let default = default.or_else(|| self.described.is_some().then(|| words.first().map(|(word, _)| *word))?);
            return value_of(default).ok_or_else(|| Refusal::of(name, "is missing", &accepted));
        };
        let word = serde_json::from_str::<String>(text).ok();
        value_of(word.as_deref()).ok_or_else(|| Refusal::of(name, &format!("is {}", shown(text)), &accepted))
    }

    /// True or false; `default` where there is none.
    pub(super) fn boolean(&mut self, name: &'static str, default: bool) -> Result<bool, Refusal> {
        if let Some(described) = &mut self.described {
            described.add(name, json!({"type": "boolean"}), Some(default.into()));
        }
        match self.take(name)? {
            None => Ok(default),
            Some("true") => Ok(true),
            Some("false") => Ok(false),
            Some(text) => Err(Refusal::of(name, &format!("is {}", shown(text)), "true or false")),
        }
    }

    /// Refuses fields that were not asked for.
    fn end(self) -> Result<(), Refusal> {
        let Some((name, _)) = self.left.first() else { return Ok(()) };
        let known = self.known.join(", ");
        Err(Refusal::of(&shown(name), "is an unknown field", &known))
    }
}

/// The number of a JSON text without a fraction, in each of its spellings: JSON and its schemas make no difference
/// between `5` and `5.0`, and clients that have one type of numbers send the latter.
fn whole(text: &str) -> Option<u32> {
    let number = text.parse::<f64>().ok().filter(|number| number.fract() == 0.0)?;
    // An `f64` holds each number of the range as it is.
    (0.0..=f64::from(u32::MAX)).contains(&number).then_some(number as u32)
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

    fn fields_of(fields: &mut Fields<'_>) -> Result<(u32, bool, bool), Refusal> {
        let number = fields.integer("rate", 1..=1_000, None)?;
        let word = fields.word("mode", &[("fast", true), ("slow", false)], Some("slow"))?;
        Ok((number, word, fields.boolean("errors", false)?))
    }

    fn read(body: &str) -> Result<(u32, bool, bool), Refusal> {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json; charset=utf-8"));
        Fields::read(&headers, body.as_bytes(), fields_of)
    }

    #[test]
    fn the_schema_of_a_body_is_told_by_its_reader() {
        let expected = json!({
            "type": "object",
            "additionalProperties": false,
            "required": ["rate"],
            "properties": {
                "rate": {"type": "integer", "minimum": 1, "maximum": 1000},
                "mode": {"type": "string", "enum": ["fast", "slow"], "default": "slow"},
                "errors": {"type": "boolean", "default": false},
            },
        });
        assert_eq!(schema_of(fields_of), expected);
        let required = schema_of(|fields| fields.word("mode", &[("fast", ()), ("slow", ())], None));
        assert_eq!(required["required"], json!(["mode"]));
    }

    #[test]
    fn fields_are_read_in_any_order_and_have_defaults() {
        assert_eq!(read(r#"{"errors": true, "mode": "fast", "rate": 7}"#).expect("accepted"), (7, true, true));
        assert_eq!(read(r#"{"rate":1000}"#).expect("accepted"), (1_000, false, false));
        for number in ["7.0", "7e0", "0.7e1", "70E-1"] {
            assert_eq!(read(&format!(r#"{{"rate": {number}}}"#)).expect(number), (7, false, false));
        }
    }

    #[test]
    fn a_refusal_names_the_field_its_value_and_the_accepted_ones() {
        let range = "accepted is a whole number from 1 to 1000";
        for value in
            ["0", "1001", "-1", "1.5", "1e4", "1e-1", "1e999", "4294967297", "\"7\"", "null", "[]", "{\"a\":1}", "true"]
        {
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
