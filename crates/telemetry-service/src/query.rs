//! The parameters of a request's target, strictly: each one known, given once, and text.

use axum::http::Uri;
use percent_encoding::percent_decode_str;

use crate::problem::Problem;

/// Characters of a parameter, at most, after decoding: the unit in which the document of the routes has lengths.
pub(crate) const MAX_CHARS: usize = 1_024;

/// Parameters by name, each of them in `known`.
pub(crate) struct Query {
    values: Vec<(&'static str, String)>,
    path: String,
}

impl Query {
    /// # Errors
    /// A parameter that is unknown, given twice, too long or no UTF-8.
    pub(crate) fn parse(uri: &Uri, known: &[&'static str]) -> Result<Self, Problem> {
        let mut query = Self { values: Vec::new(), path: uri.path().to_owned() };
        for pair in uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (name, value) = (decoded(name), decoded(value));
            let shown: String = name.as_deref().unwrap_or("no UTF-8").chars().take(60).collect();
            let refused = |why: &str, accepted: &str| Problem::of_field(&shown, why, accepted, &query.path);
            let Some(known_name) = known.iter().find(|known| Some(**known) == name.as_deref()) else {
                let accepted = if known.is_empty() { "no parameters".to_owned() } else { known.join(", ") };
                return Err(refused("is no parameter of this path", &accepted));
            };
            let Some(value) = value.filter(|value| value.chars().count() <= MAX_CHARS) else {
                return Err(refused("is too long or no UTF-8", "UTF-8 of 1,024 characters at most"));
            };
            if query.get(known_name).is_some() {
                return Err(refused("is given twice", "one value"));
            }
            query.values.push((known_name, value));
        }
        Ok(query)
    }

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.values.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_str())
    }

    /// A whole number from 1 to `max`.
    pub(crate) fn count(&self, name: &str, default: usize, max: usize) -> Result<usize, Problem> {
        let Some(text) = self.get(name) else { return Ok(default) };
        let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        match text.parse() {
            Ok(count) if is_number && (1..=max).contains(&count) => Ok(count),
            _ => {
                let why = format!("is {:?}", text.chars().take(40).collect::<String>());
                Err(Problem::of_field(name, &why, &format!("a whole number from 1 to {max}"), &self.path))
            }
        }
    }
}

fn decoded(text: &str) -> Option<String> {
    let text = text.replace('+', " ");
    percent_decode_str(&text).decode_utf8().ok().map(|text| text.into_owned())
}
