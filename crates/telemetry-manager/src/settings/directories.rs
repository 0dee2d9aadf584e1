//! The directories for everything that outlives the process, as the settings name them: the chosen one, and in it one
//! for each service. Touches no file.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use super::reader::{Vars, raw};

/// The identity of a service: two services never share a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Service {
    /// `service.namespace`.
    pub(crate) namespace: Option<String>,
    /// `service.name`.
    pub(crate) name: String,
}

impl Service {
    pub(crate) fn new(namespace: Option<&str>, name: &str) -> Self {
        let namespace = namespace.filter(|namespace| !namespace.is_empty()).map(str::to_owned);
        Self { namespace, name: name.to_owned() }
    }

    /// The name of its directory: one component of a path, which cannot climb, hide, be one of our own names or exceed
    /// a limit of the file system.
    ///
    /// Namespace and name, with a dot between them, in which each byte but `a-z`, `0-9`, `.`, `_` and `-` is
    /// percent-encoded in lower case: a file system that does not distinguish cases keeps services apart. The first
    /// byte is encoded too where the name would begin with a dot or is one that the stores use. Of more than 64 bytes
    /// the first 64 stay, and a dash and the FNV-1a hash of [`in_layout`](Self::in_layout) follow.
    pub(crate) fn directory(&self) -> String {
        let whole = match &self.namespace {
            Some(namespace) => format!("{namespace}.{}", self.name),
            None => self.name.clone(),
        };
        let mut encoded = encode(&whole, is_plain);
        match encoded.bytes().next() {
            // An escape has two digits: no other name has this component.
            None => encoded.push('%'),
            Some(first) if first == b'.' || is_reserved(&encoded) => {
                encoded.replace_range(..1, &format!("%{first:02x}"));
            }
            Some(_) => {}
        }
        if encoded.len() > LONGEST {
            let hash = fnv1a(self.in_layout().as_bytes());
            encoded.truncate(LONGEST);
            encoded = format!("{encoded}-{hash:016x}");
        }
        encoded
    }

    /// The whole identity in one line, for the file `layout`: namespace, a slash and name, or the name alone. Each byte
    /// but ASCII letters, digits, `.`, `_` and `-` is percent-encoded.
    pub(crate) fn in_layout(&self) -> String {
        let encode = |text: &str| encode(text, |byte| is_plain(byte) || byte.is_ascii_uppercase());
        match &self.namespace {
            Some(namespace) => format!("{}/{}", encode(namespace), encode(&self.name)),
            None => encode(&self.name),
        }
    }
}

fn is_plain(byte: u8) -> bool {
    matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-')
}

fn encode(text: &str, stays: impl Fn(u8) -> bool) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if stays(byte) { encoded.push(char::from(byte)) } else { encoded.push_str(&format!("%{byte:02x}")) }
    }
    encoded
}

/// Names that the stores and the directories of users have, here or in a version before.
pub(crate) fn is_reserved(name: &str) -> bool {
    let is_numbered = |prefix: &str| {
        let number = name.strip_prefix(prefix).unwrap_or_default();
        !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
    };
    let ours = ["clock", "dead-letters", "fallback", "journal", "layout", "progress.log", "quarantine"];
    let is_incarnation = name.len() == 16 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
    ours.contains(&name) || is_numbered("holdfast-") || is_numbered("process-") || is_incarnation
}

/// With the hash this stays far below the 255 bytes that file systems allow.
const LONGEST: usize = 64;

/// FNV-1a, 64 bits: the constants are those of the draft by Fowler, Noll, Vo and Eastlake.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// The name of the directory that the version before gave a service: a name of ASCII letters, digits, `.`, `_` and `-`
/// stayed as it was.
pub(crate) fn old_directory(name: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if !name.is_empty() && name.len() <= LONGEST && !name.starts_with('.') && name.chars().all(is_plain) {
        return name.to_owned();
    }
    let mut cleaned: String = name.chars().take(LONGEST).map(|c| if is_plain(c) { c } else { '_' }).collect();
    if cleaned.is_empty() || cleaned.starts_with('.') {
        cleaned.insert(0, '_');
    }
    format!("{cleaned}-{:016x}", fnv1a(name.as_bytes()))
}

/// The directory that the environment chooses where no setting does.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Default {
    pub(crate) dir: Option<PathBuf>,
    /// The variable that chose it.
    pub(crate) from: &'static str,
    /// The directory that the version before chose; it has one for each service in it.
    pub(crate) old: Option<PathBuf>,
    /// Values that are ignored, since they are no absolute paths, and their variables.
    pub(crate) ignored: Vec<(&'static str, OsString)>,
}

/// The variables of [`default`], in their order.
pub(crate) const VARIABLES: [&str; 3] = ["STATE_DIRECTORY", "XDG_STATE_HOME", "HOME"];

/// The first entry of `$STATE_DIRECTORY`, which systemd sets, else `holdfast` in `$XDG_STATE_HOME`, else in
/// `$HOME/.local/state`. Paths that are not absolute are ignored, as the XDG base directory specification has it.
pub(crate) fn default(vars: Vars<'_>) -> Default {
    let [listed, state_home, home] = VARIABLES;
    let mut chosen = Default::default();
    let mut absolute = |name: &'static str, value: &OsStr| {
        let path = Path::new(value);
        if !path.is_absolute() {
            chosen.ignored.push((name, value.to_owned()));
            return None;
        }
        Some(path.to_owned())
    };
    let list = raw(vars, listed).unwrap_or_default();
    let entries = list.as_bytes().split(|byte| *byte == b':').filter(|_| !list.is_empty());
    let first = entries.into_iter().find_map(|entry| absolute(listed, OsStr::from_bytes(entry)));
    let by_user = raw(vars, state_home)
        .and_then(|dir| Some((absolute(state_home, &dir)?, state_home)))
        .or_else(|| Some((absolute(home, &raw(vars, home)?)?.join(".local/state"), home)))
        .map(|(base, from)| (base.join("holdfast"), from));
    match (first, by_user) {
        (Some(first), by_user) => {
            (chosen.dir, chosen.from) = (Some(first), listed);
            chosen.old = by_user.map(|(dir, _)| dir);
            // The others are only for files of the version before.
            chosen.ignored.retain(|(name, _)| *name == listed);
        }
        (None, Some((dir, from))) => {
            (chosen.dir, chosen.from) = (Some(dir.clone()), from);
            chosen.old = Some(dir);
        }
        (None, None) => {}
    }
    chosen
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Component;

    use super::*;

    fn directory(name: &str) -> String {
        Service::new(None, name).directory()
    }

    #[test]
    fn usual_names_stay_as_they_are_and_a_namespace_comes_first() {
        for name in ["my-api", "checkout_2", "a.b", "x"] {
            assert_eq!(directory(name), name);
            assert_eq!(Service::new(Some(""), name).directory(), name);
            assert_eq!(Service::new(Some("shop"), name).directory(), format!("shop.{name}"));
            assert_eq!(Service::new(Some("shop"), name).in_layout(), format!("shop/{name}"));
        }
        for (name, expected) in [
            ("My-Api", "%4dy-%41pi"),
            ("a b/c%", "a%20b%2fc%25"),
            ("ü", "%c3%bc"),
            ("../x", "%2e.%2fx"),
            (".", "%2e"),
            ("..", "%2e."),
            ("", "%"),
            ("unknown_service:app", "unknown_service%3aapp"),
        ] {
            assert_eq!(directory(name), expected);
        }
        assert_eq!(Service::new(Some("Shop/EU"), "My Api").in_layout(), "Shop%2fEU/My%20Api");
    }

    #[test]
    fn no_name_is_one_of_our_own() {
        for name in ["fallback", "journal", "layout", "holdfast-1000", "process-1", "0123456789abcdef", "clock"] {
            let component = directory(name);
            assert!(component.starts_with('%') && component.ends_with(&name[1..]), "{component}");
        }
        for name in ["fallback2", "holdfast-", "holdfast-x1", "process-", "0123456789abcdef0"] {
            assert_eq!(directory(name), name);
        }
        assert_eq!(Service::new(Some("progress"), "log").directory(), "%70rogress.log");
    }

    #[test]
    fn no_name_climbs_hides_nests_or_is_long() {
        let long = "x".repeat(5_000);
        for name in
            ["", ".", "..", "../../etc/passwd", "/etc", "a/b", "a\\b", "a\0b", "C:", "ü", "a b", ".hidden", "\n", &long]
        {
            let component = directory(name);
            let path = Path::new(&component);
            assert_eq!(path.components().count(), 1, "{name:?} became {component:?}");
            assert!(matches!(path.components().next(), Some(Component::Normal(_))), "{component:?}");
            assert!(component.bytes().all(|byte| is_plain(byte) || byte == b'%'), "{component:?}");
            assert!(component.len() <= LONGEST + 17 && !component.starts_with('.'), "{component:?}");
        }
    }

    #[test]
    fn different_services_do_not_share_a_directory() {
        let long = |end: &str| "x".repeat(300) + end;
        let names = ["a/b", "a_b", "a b", "a\\b", "ü", "Ü", "_", "", ".", "..", "%2e", "%", "A", "a", "shop", "Shop"];
        let names = names.map(str::to_owned).into_iter().chain([long("1"), long("2"), long("1")[..64].to_owned()]);
        let names: Vec<_> = names.collect();
        for namespace in [None, Some("n"), Some("N")] {
            let services = names.iter().map(|name| Service::new(namespace, name));
            let (directories, layouts): (BTreeSet<_>, BTreeSet<_>) =
                services.map(|service| (service.directory(), service.in_layout())).unzip();
            assert_eq!((directories.len(), layouts.len()), (names.len(), names.len()));
        }
        // These two share a directory, of which the file `layout` names one.
        let services = [Service::new(Some("a"), "b.c"), Service::new(Some("a.b"), "c")];
        assert_eq!(services[0].directory(), services[1].directory());
        assert_ne!(services[0].in_layout(), services[1].in_layout());
    }

    #[test]
    fn the_hash_is_fnv_1a() {
        // Test vectors of the draft.
        assert_eq!(fnv1a(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a(b"a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(fnv1a(b"foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn the_directory_of_the_version_before_is_found() {
        assert_eq!(old_directory("My-Api"), "My-Api");
        assert_eq!(old_directory("a b"), format!("a_b-{:016x}", fnv1a(b"a b")));
        assert_eq!(old_directory(".."), format!("_..-{:016x}", fnv1a(b"..")));
    }

    fn of(vars: &[(&'static str, &str)]) -> Default {
        let vars: Vec<(&str, OsString)> = vars.iter().map(|(name, value)| (*name, OsString::from(value))).collect();
        default(&move |asked| vars.iter().find(|(name, _)| *name == asked).map(|(_, value)| value.clone()))
    }

    #[test]
    fn the_first_absolute_path_is_chosen() {
        let home = ("HOME", "/users/u");
        let chosen = |vars: &[_]| {
            let Default { dir, from, old, ignored } = of(vars);
            let path = |dir: Option<PathBuf>| dir.map(|dir| dir.to_string_lossy().into_owned()).unwrap_or_default();
            let ignored = ignored.into_iter().map(|(name, _)| name).collect::<Vec<_>>();
            (path(dir), from, path(old), ignored)
        };
        let by_home = "/users/u/.local/state/holdfast".to_owned();
        let by_xdg = "/x/holdfast".to_owned();
        assert_eq!(chosen(&[home]), (by_home.clone(), "HOME", by_home.clone(), vec![]));
        assert_eq!(chosen(&[("XDG_STATE_HOME", "/x"), home]), (by_xdg.clone(), "XDG_STATE_HOME", by_xdg, vec![]));
        let relative = vec!["XDG_STATE_HOME"];
        assert_eq!(chosen(&[("XDG_STATE_HOME", "x"), home]), (by_home.clone(), "HOME", by_home.clone(), relative));
        for (list, expected, ignored) in [
            ("/var/lib/app", "/var/lib/app", 0),
            ("/var/lib/app:/var/lib/other", "/var/lib/app", 0),
            (":/var/lib/app", "/var/lib/app", 1),
            ("lib:./x:/var/lib/app:y", "/var/lib/app", 2),
        ] {
            let found = chosen(&[("STATE_DIRECTORY", list), ("XDG_STATE_HOME", "x"), home]);
            let ignored = vec!["STATE_DIRECTORY"; ignored];
            assert_eq!(found, (expected.to_owned(), "STATE_DIRECTORY", by_home.clone(), ignored), "{list}");
        }
        let none = (String::new(), "", String::new(), vec!["STATE_DIRECTORY", "HOME"]);
        assert_eq!(chosen(&[("STATE_DIRECTORY", "lib"), ("HOME", "home")]), none);
        assert_eq!(chosen(&[("STATE_DIRECTORY", " "), ("HOME", "")]), (String::new(), "", String::new(), vec![]));
    }
}
