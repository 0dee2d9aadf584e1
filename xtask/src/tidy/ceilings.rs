//! Counts that shall only go down: each has a committed ceiling, in `ceilings.toml` beside this file. Tidy compares
//! with the file as it is; a ceiling that a change raises is refused by its review.

use std::collections::BTreeMap;

use serde::Deserialize;

/// Where the ceilings stand, for messages.
pub(super) const FILE: &str = "xtask/src/tidy/ceilings.toml";

/// The ceiling of a crate without an entry.
pub(super) const GOAL: Words = Words { what: 1.0, somebody: 0.3 };

/// The committed ceilings. Without an entry the ceiling is the goal.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Ceilings {
    words: BTreeMap<String, Words>,
    circles: BTreeMap<String, usize>,
    long_lines: BTreeMap<String, usize>,
}

/// How often vague words may stand in 1,000 words of a crate's comments.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Words {
    pub(super) what: f64,
    pub(super) somebody: f64,
}

impl Ceilings {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        toml::from_str(text).map_err(|error| error.to_string())
    }

    pub(super) fn words(&self, package: &str) -> Words {
        self.words.get(package).copied().unwrap_or(GOAL)
    }

    /// How many modules of a crate may import each other in a circle.
    pub(super) fn circle(&self, package: &str) -> usize {
        self.circles.get(package).copied().unwrap_or(0)
    }

    /// How many lines of a crate, or of a file or folder at the top level, may be too long.
    pub(super) fn long_lines(&self, group: &str) -> usize {
        self.long_lines.get(group).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_an_entry_the_goal_is_the_ceiling() {
        let ceilings = Ceilings::parse("[words]\nleaf = { what = 6.3, somebody = 1.0 }\n").expect("a table");
        assert_eq!(ceilings.words("leaf"), Words { what: 6.3, somebody: 1.0 });
        assert_eq!(ceilings.words("other"), GOAL);
        assert_eq!((ceilings.circle("leaf"), ceilings.long_lines("docs")), (0, 0));
    }

    #[test]
    fn an_unknown_table_is_refused() {
        assert!(Ceilings::parse("[wrods]\n").is_err());
    }
}
