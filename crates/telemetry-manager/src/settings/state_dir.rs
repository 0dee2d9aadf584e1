//! The default state directory: the directory for everything that outlives the process.

use std::ffi::OsString;
use std::path::PathBuf;

/// `holdfast/<service name>` below the user's directory for state; none if neither variable names a directory.
pub(crate) fn default(xdg_state_home: Option<OsString>, home: Option<OsString>, service_name: &str) -> Option<PathBuf> {
    Some(base(xdg_state_home, home)?.join("holdfast").join(path_component(service_name)))
}

/// `$XDG_STATE_HOME`, else `$HOME/.local/state`. The XDG base directory specification ignores relative paths.
fn base(xdg_state_home: Option<OsString>, home: Option<OsString>) -> Option<PathBuf> {
    let absolute = |dir: Option<OsString>| dir.map(PathBuf::from).filter(|dir| dir.is_absolute());
    absolute(xdg_state_home).or_else(|| Some(absolute(home)?.join(".local").join("state")))
}

/// Turns `name` into one component of a path, which cannot climb, hide or exceed a limit of the file system. Two names
/// never share a component.
///
/// A name of ASCII letters, digits, `.`, `_` and `-` that does not begin with a dot stays as it is, up to 64 bytes. Any
/// other is cleaned, cut and given its FNV-1a hash.
pub(crate) fn path_component(name: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if !name.is_empty() && name.len() <= MAX_PLAIN && !name.starts_with('.') && name.chars().all(is_plain) {
        return name.to_owned();
    }
    let mut cleaned: String = name.chars().take(MAX_PLAIN).map(|c| if is_plain(c) { c } else { '_' }).collect();
    if cleaned.is_empty() || cleaned.starts_with('.') {
        cleaned.insert(0, '_');
    }
    format!("{cleaned}-{:016x}", fnv1a(name.as_bytes()))
}

/// With the hash and the suffixes of lock files this stays far below the 255 bytes that file systems allow.
const MAX_PLAIN: usize = 64;

/// FNV-1a, 64 bits: the constants are those of the draft by Fowler, Noll, Vo and Eastlake.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn usual_names_stay_as_they_are() {
        for name in ["my-api", "checkout_2", "a.b", "X"] {
            assert_eq!(path_component(name), name);
        }
    }

    #[test]
    fn no_name_climbs_hides_or_nests() {
        let long = "x".repeat(5_000);
        for name in
            ["", ".", "..", "../../etc/passwd", "/etc", "a/b", "a\\b", "a\0b", "C:", "ü", "a b", ".hidden", "\n", &long]
        {
            let component = path_component(name);
            let path = Path::new(&component);
            assert_eq!(path.components().count(), 1, "{name:?} became {component:?}");
            assert!(matches!(path.components().next(), Some(std::path::Component::Normal(_))), "{component:?}");
            assert!(component.len() < 100 && !component.starts_with('.') && component.is_ascii(), "{component:?}");
        }
    }

    #[test]
    fn different_names_do_not_share_a_directory() {
        let names = ["a/b", "a_b", "a b", "a\\b", "ü", "ö", "_", "", ".", ".."];
        let components: std::collections::BTreeSet<_> = names.iter().map(|name| path_component(name)).collect();
        assert_eq!(components.len(), names.len());
    }

    #[test]
    fn the_hash_is_fnv_1a() {
        // Test vectors of the draft.
        assert_eq!(fnv1a(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a(b"a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(fnv1a(b"foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn relative_bases_are_ignored() {
        let dir = |text: &str| Some(OsString::from(text));
        assert_eq!(base(dir("/x"), dir("/users/u")), Some("/x".into()));
        assert_eq!(base(dir("x"), dir("/users/u")), Some("/users/u/.local/state".into()));
        assert_eq!(base(None, dir("home")), None);
        assert_eq!(base(None, None), None);
    }
}
