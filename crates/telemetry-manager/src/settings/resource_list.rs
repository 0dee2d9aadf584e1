//! `OTEL_RESOURCE_ATTRIBUTES`, by the rules of the resource SDK specification.

use percent_encoding::percent_decode_str;

use super::reader::Reader;
use super::table::RESOURCE_ATTRIBUTES;

/// Reads the list. One bad entry discards the whole with a warning, as the specification asks.
pub(crate) fn read(r: &mut Reader<'_>) -> Vec<(String, String)> {
    let Some(list) = r.text(&RESOURCE_ATTRIBUTES) else { return Vec::new() };
    let mut attributes = Vec::new();
    for entry in list.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
        match attribute(entry) {
            Some(attribute) => attributes.push(attribute),
            None => {
                let message = format!(
                    "{} is discarded as a whole because of its entry {entry:?}; accepted is {}",
                    RESOURCE_ATTRIBUTES.name,
                    RESOURCE_ATTRIBUTES.accepted()
                );
                r.warn(RESOURCE_ATTRIBUTES.name, message);
                return Vec::new();
            }
        }
    }
    attributes
}

fn attribute(entry: &str) -> Option<(String, String)> {
    let (key, value) = entry.split_once('=')?;
    let (key, value) = (decode(key.trim())?, decode(value.trim())?);
    (!key.is_empty()).then_some((key, value))
}

/// Percent-decoding that refuses a `%` without two hexadecimal digits and bytes that are not UTF-8.
fn decode(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let is_hex = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_hexdigit);
    let whole = bytes.iter().enumerate().all(|(at, byte)| *byte != b'%' || is_hex(at + 1) && is_hex(at + 2));
    whole.then(|| percent_decode_str(text).decode_utf8().ok())?.map(|decoded| decoded.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_values_are_percent_decoded() {
        assert_eq!(attribute("a%2Cb = x%3D1 "), Some(("a,b".to_owned(), "x=1".to_owned())));
        assert_eq!(attribute("a=b=c"), Some(("a".to_owned(), "b=c".to_owned())));
        assert_eq!(attribute("a="), Some(("a".to_owned(), String::new())));
        assert_eq!(attribute("city=K%C3%B6ln"), Some(("city".to_owned(), "Köln".to_owned())));
    }

    #[test]
    fn what_cannot_be_decoded_is_refused() {
        for entry in ["a", "=b", "a=%", "a=%4", "a=%zz", "a=%FF", " =x"] {
            assert_eq!(attribute(entry), None, "{entry:?}");
        }
    }
}
