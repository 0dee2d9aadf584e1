//! The place of a collector in the list of endpoints.

use std::fmt;

use serde::{Serialize, Serializer};

/// The endpoints of one exporter at most: the primary and 15 others.
pub(crate) const MAX_ENDPOINTS: usize = 16;

/// The name of each place, which labels a metric.
const NAMES: [&str; MAX_ENDPOINTS] =
    ["primary", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "13", "14", "15", "16"];

/// The place of a collector in the list of endpoints, which is the order of their priority. Logs, health, events and
/// metrics name a collector by its place, since its URL may hold a secret. As text: `primary`, then `2` to `16`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Position(u8);

impl Position {
    /// The first endpoint, to which all calls go while it takes spans.
    pub const PRIMARY: Self = Self(0);

    /// Every place, by priority.
    #[cfg(test)]
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        (0..MAX_ENDPOINTS).map(Self::new)
    }

    /// The place with this index, which is below [`MAX_ENDPOINTS`].
    pub(crate) fn new(index: usize) -> Self {
        Self(u8::try_from(index.min(MAX_ENDPOINTS - 1)).unwrap_or(0))
    }

    /// The index in the list, from 0: that of [`Health::collectors`](crate::Health::collectors).
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    /// The name in JSON, metrics and logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        NAMES[self.index()]
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Position {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

#[cfg(feature = "schema")]
impl schemars::JsonSchema for Position {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Position".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "enum": NAMES })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_place_has_a_name_of_its_own_and_the_first_is_the_primary() {
        let names = Position::all().map(Position::as_str).collect::<Vec<_>>();
        assert_eq!((names[0], names[1], names[15]), ("primary", "2", "16"));
        assert_eq!(Position::all().map(Position::index).collect::<Vec<_>>(), (0..16).collect::<Vec<_>>());
        assert_eq!(serde_json::to_value(Position::PRIMARY).expect("JSON"), "primary");
    }
}
