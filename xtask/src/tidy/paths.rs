//! Which modules of its own crate a source refers to, in imports and in code. Code under `#[cfg(test)]` does not count:
//! a test may look at everything.

use std::collections::{BTreeMap, BTreeSet};

use super::Source;
use super::tokens::{Token, tokens};

/// The sources of one crate and their paths.
pub(super) struct Crate<'a> {
    files: Vec<File<'a>>,
    /// The module behind each name that the crate's root re-exports.
    reexports: BTreeMap<String, String>,
}

/// One source of a crate that is not a test.
pub(super) struct File<'a> {
    pub(super) path: &'a str,
    /// The module that the file is, from the root: empty for `lib.rs`.
    pub(super) module: Vec<String>,
    pub(super) references: Vec<Reference>,
}

/// A path that begins at the crate's root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reference {
    pub(super) line: usize,
    /// The first segment behind the root: a module, or a name that the root re-exports. `*` stands for an import of
    /// every name of the root, `self` for an import of the root itself.
    pub(super) name: String,
}

impl Reference {
    /// Whether the import lets a source use every module of the crate without naming the root again.
    pub(super) fn is_whole_root(&self) -> bool {
        matches!(self.name.as_str(), "*" | "self")
    }
}

impl<'a> Crate<'a> {
    /// Reads the sources below `crates/NAME/src`.
    pub(super) fn read(name: &str, sources: &'a [Source]) -> Self {
        let folder = format!("crates/{name}/src/");
        let of_crate = sources.iter().filter_map(|source| {
            let path = source.path.strip_prefix(&folder)?.strip_suffix(".rs")?;
            Some((source, module_of(path)))
        });
        let scanned: Vec<_> = of_crate.map(|(source, module)| (source, scan(&source.text, &module), module)).collect();
        let tests: BTreeSet<Vec<String>> = scanned.iter().flat_map(|(_, scan, _)| scan.test_modules.clone()).collect();
        let reexports = scanned.iter().filter(|(.., module)| module.is_empty()).flat_map(|(_, scan, _)| {
            scan.imports
                .iter()
                .filter(|path| path.len() > 1)
                .map(|path| (path[path.len() - 1].clone(), path[0].clone()))
        });
        let reexports = reexports.collect();
        let is_test = |module: &[String]| (1..=module.len()).any(|end| tests.contains(&module[..end]));
        let files = scanned.into_iter().filter(|(.., module)| !is_test(module));
        let files =
            files.map(|(source, scan, module)| File { path: &source.path, module, references: scan.references });
        Self { files: files.collect(), reexports }
    }

    pub(super) fn files(&self) -> &[File<'a>] {
        &self.files
    }

    /// The modules directly below the root.
    pub(super) fn modules(&self) -> BTreeSet<&str> {
        self.files.iter().filter_map(|file| file.module.first()).map(String::as_str).collect()
    }

    /// The module that a reference leads to: itself, or the one from which the root re-exports the name.
    pub(super) fn target<'b>(&'b self, reference: &'b Reference) -> Option<&'b str> {
        let modules = self.modules();
        let behind = self.reexports.get(&reference.name).map(String::as_str);
        modules.get(reference.name.as_str()).copied().or(behind.filter(|module| modules.contains(module)))
    }
}

/// The module of the file at this path below `src`, without its ending.
fn module_of(path: &str) -> Vec<String> {
    let mut module: Vec<String> = path.split('/').map(str::to_owned).collect();
    if matches!(module.last().map(String::as_str), Some("lib" | "main" | "mod")) {
        module.pop();
    }
    module
}

#[derive(Default)]
struct Scan {
    references: Vec<Reference>,
    /// Modules that `#[cfg(test)] mod name;` declares, from the root.
    test_modules: Vec<Vec<String>>,
    /// The leaves of imports, relative to the root where they begin with `crate` or `self`, else as they are written.
    imports: Vec<Vec<String>>,
}

fn scan(source: &str, file: &[String]) -> Scan {
    let tokens = tokens(source);
    let mut scan = Scan::default();
    // Modules that begin in this file, each with the depth of braces outside of it.
    let mut inline: Vec<(String, usize)> = Vec::new();
    let (mut depth, mut at) = (0_usize, 0);
    while at < tokens.len() {
        let token = tokens[at];
        if token.is("#") {
            let (end, is_test) = attribute(&tokens, at);
            if is_test {
                let item = skip_attributes(&tokens, end);
                if let Some(name) = declared_module(&tokens[item..]) {
                    let nested = inline.iter().map(|(name, _)| name.clone());
                    scan.test_modules.push(file.iter().cloned().chain(nested).chain([name.to_owned()]).collect());
                }
                at = skip_item(&tokens, item);
            } else {
                at = end;
            }
            continue;
        }
        match token.text {
            "{" => depth += 1,
            "}" => {
                depth = depth.saturating_sub(1);
                if inline.last().is_some_and(|(_, outside)| *outside == depth) {
                    inline.pop();
                }
            }
            "mod" if tokens.get(at + 2).is_some_and(|next| next.is("{")) => {
                inline.push((tokens[at + 1].text.to_owned(), depth));
            }
            "use" => imports(&tokens[at + 1..], &mut scan.imports),
            "crate" | "super" if starts_path(&tokens, at) => {
                behind_root(&tokens, at, file.len() + inline.len(), &mut scan.references);
            }
            "extern" if is_alias_of_the_crate(&tokens[at..]) => {
                scan.references.push(Reference { line: token.line, name: "self".into() });
            }
            _ => {}
        }
        at += 1;
    }
    scan
}

/// Whether a path begins here: `a::super` does not occur, but `self::super` does.
fn starts_path(tokens: &[Token<'_>], at: usize) -> bool {
    let before = |back: usize| at.checked_sub(back).and_then(|at| tokens.get(at));
    let goes_on = tokens.get(at + 1).is_some_and(|next| next.is("::") || next.is("as"));
    let is_segment = before(1).is_some_and(|token| token.is("::"));
    goes_on && (!is_segment || before(2).is_some_and(|token| token.is("self")))
}

/// `extern crate self as name;`
fn is_alias_of_the_crate(tokens: &[Token<'_>]) -> bool {
    let expected = ["extern", "crate", "self", "as"];
    tokens.len() > expected.len() && tokens.iter().zip(expected).all(|(token, text)| token.is(text))
}

/// The first segments behind the root in the path, or the tree of an import, that goes on here, `levels` modules below
/// the root.
fn behind_root(tokens: &[Token<'_>], at: usize, levels: usize, found: &mut Vec<Reference>) {
    let Some(token) = tokens.get(at) else { return };
    let goes_on = tokens.get(at + 1).is_some_and(|next| next.is("::"));
    let levels = match token.text {
        "{" => {
            let end = skip_group(tokens, at);
            let mut branch = at + 1;
            while branch < end {
                behind_root(tokens, branch, levels, found);
                branch = skip_branch(tokens, branch);
            }
            return;
        }
        "crate" => 0,
        "super" => levels.saturating_sub(1),
        "self" => levels,
        text => {
            if levels == 0 && (token.is_identifier() || text == "*") {
                found.push(Reference { line: token.line, name: text.to_owned() });
            }
            return;
        }
    };
    if goes_on {
        behind_root(tokens, at + 2, levels, found);
    } else if levels == 0 {
        found.push(Reference { line: token.line, name: "self".into() });
    }
}

/// The place behind the comma or brace that ends the branch of an import that begins here.
fn skip_branch(tokens: &[Token<'_>], mut at: usize) -> usize {
    while let Some(token) = tokens.get(at) {
        match token.text {
            "{" => at = skip_group(tokens, at),
            "," | "}" => return at + 1,
            _ => at += 1,
        }
    }
    at
}

/// The leaves of the import whose tree begins here. An alias takes the place of the last segment.
fn imports(tokens: &[Token<'_>], found: &mut Vec<Vec<String>>) {
    let mut stack: Vec<Vec<String>> = Vec::new();
    let mut path: Vec<String> = Vec::new();
    let mut renamed = false;
    for token in tokens {
        match token.text {
            "::" => {}
            "as" => renamed = true,
            "{" => stack.push(path.clone()),
            "," | "}" | ";" => {
                if !path.is_empty() && stack.last() != Some(&path) {
                    found.push(path.clone());
                }
                if token.is("}") {
                    stack.pop();
                }
                path = stack.last().cloned().unwrap_or_default();
                if token.is(";") {
                    return;
                }
            }
            "crate" | "self" if path.is_empty() => {}
            _ if token.is_identifier() => {
                if renamed {
                    path.pop();
                    renamed = false;
                }
                path.push(token.text.to_owned());
            }
            _ => {}
        }
    }
}

/// The end of the attribute that begins here, and whether it compiles its item for tests only.
fn attribute(tokens: &[Token<'_>], at: usize) -> (usize, bool) {
    let open = at + 1 + usize::from(tokens.get(at + 1).is_some_and(|token| token.is("!")));
    if !tokens.get(open).is_some_and(|token| token.is("[")) {
        return (at + 1, false);
    }
    let end = skip_group(tokens, open);
    let inside = &tokens[open..end];
    let has = |text: &str| inside.iter().any(|token| token.is(text));
    (end, has("cfg") && has("test") && !has("not"))
}

fn skip_attributes(tokens: &[Token<'_>], mut at: usize) -> usize {
    while tokens.get(at).is_some_and(|token| token.is("#")) {
        at = attribute(tokens, at).0;
    }
    at
}

/// The name in `mod name;`, with or without a visibility.
fn declared_module<'a>(tokens: &[Token<'a>]) -> Option<&'a str> {
    let mut at = 0;
    if tokens.first()?.is("pub") {
        at = if tokens.get(1)?.is("(") { skip_group(tokens, 1) } else { 1 };
    }
    let is_declaration = tokens.get(at)?.is("mod") && tokens.get(at + 2)?.is(";");
    is_declaration.then(|| tokens[at + 1].text)
}

/// The end of the item, field or statement that begins here.
fn skip_item(tokens: &[Token<'_>], mut at: usize) -> usize {
    const ITEMS: [&str; 15] = [
        "pub", "fn", "mod", "use", "struct", "enum", "union", "impl", "trait", "const", "static", "type", "let",
        "async", "extern",
    ];
    let is_item = tokens.get(at).is_some_and(|token| ITEMS.contains(&token.text));
    while let Some(token) = tokens.get(at) {
        match token.text {
            ";" => return at + 1,
            "," if !is_item => return at + 1,
            "}" | ")" | "]" => return at,
            "{" if is_item => {
                let end = skip_group(tokens, at);
                // The braces of `use a::{b};` and `let x = A {..};` are followed by the end.
                return end + usize::from(tokens.get(end).is_some_and(|token| token.is(";")));
            }
            "{" | "(" | "[" => at = skip_group(tokens, at),
            _ => at += 1,
        }
    }
    at
}

/// The place behind the bracket that closes the one here.
fn skip_group(tokens: &[Token<'_>], mut at: usize) -> usize {
    let mut depth = 0_usize;
    while let Some(token) = tokens.get(at) {
        at += 1;
        match token.text {
            "{" | "(" | "[" => depth += 1,
            "}" | ")" | "]" => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return at;
                }
            }
            _ => {}
        }
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    fn references(module: &[&str], source: &str) -> Vec<(usize, String)> {
        let module: Vec<String> = module.iter().map(ToString::to_string).collect();
        scan(source, &module).references.into_iter().map(|found| (found.line, found.name)).collect()
    }

    fn names(module: &[&str], source: &str) -> Vec<String> {
        references(module, source).into_iter().map(|(_, name)| name).collect()
    }

    #[test]
    fn imports_and_paths_in_code_are_found_with_their_line() {
        let source = "use crate::a::A;\npub(crate) use crate::b;\nfn f() -> crate::c::C {\n    crate::d::run()\n}\n";
        let found = references(&["x"], source);
        assert_eq!(found, [(1, "a".into()), (2, "b".into()), (3, "c".into()), (4, "d".into())]);
    }

    #[test]
    fn each_branch_of_a_group_is_found() {
        let source = "use crate::{\n    a::{B, c::{D, E}},\n    f, g::*,\n    H as I,\n};\nuse {crate::j, std::io};";
        assert_eq!(references(&["x"], source).len(), 5);
        assert_eq!(names(&["x"], source), ["a", "f", "g", "H", "j"]);
        assert_eq!(references(&["x"], source)[1].0, 3);
    }

    #[test]
    fn super_counts_where_it_reaches_the_root() {
        assert_eq!(names(&["room", "file"], "use super::super::other::X; use super::near;"), ["other"]);
        assert_eq!(names(&["file"], "use super::other::X; use self::inner::Y;"), ["other"]);
        let inline = "mod inner { use super::super::other::X; fn f() {} use super::near; } use super::last;";
        assert_eq!(names(&["file"], inline), ["other", "last"]);
    }

    #[test]
    fn supers_of_a_group_count_together() {
        assert_eq!(names(&["room", "file"], "use super::{super::other::X, near::Y};"), ["other"]);
        assert_eq!(names(&["room", "file"], "use crate::{{a::B}, self::c::D};"), ["a", "c"]);
    }

    #[test]
    fn imports_of_every_name_of_the_root_are_found() {
        for source in ["use crate::*;", "use super::super::*;", "use crate::{*};", "use super::{super::*};"] {
            assert_eq!(names(&["room", "file"], source), ["*"], "{source}");
        }
        assert_eq!(names(&["room", "file"], "use super::*; use crate::a::*;"), ["a"]);
    }

    #[test]
    fn imports_of_the_root_itself_are_found() {
        for source in [
            "use crate as root;",
            "use super::super as root;",
            "use self::super::super as root;",
            "use crate::{self as root};",
            "use {crate as root};",
            "use super::{super as root};",
            "extern crate self as root;",
        ] {
            assert_eq!(names(&["room", "file"], source), ["self"], "{source}");
        }
        assert_eq!(
            names(&["room", "file"], "use super as room; use super::{self as room}; extern crate std as s;"),
            [""; 0]
        );
    }

    #[test]
    fn code_for_tests_does_not_count() {
        let source = "#[cfg(test)]\nuse crate::{a, b};\n#[cfg(all(test, feature = \"x\"))]\nmod tests { use crate::c; }\n\
            struct S { #[cfg(test)] d: crate::d::D, e: crate::e::E }\n#[cfg(not(test))]\nuse crate::f;\n\
            #[cfg(test)]\n#[expect(x)]\nfn g<A, B>() { crate::g() }\nfn h() { crate::h() }";
        assert_eq!(names(&["x"], source), ["e", "f", "h"]);
    }

    fn read(files: &[(&str, &str)]) -> Vec<Source> {
        let source =
            |(path, text): &(&str, &str)| Source { path: format!("crates/leaf/src/{path}"), text: (*text).into() };
        files.iter().map(source).collect()
    }

    #[test]
    fn files_that_are_declared_for_tests_are_left_out() {
        let sources = read(&[
            ("lib.rs", "mod a;\n#[cfg(test)]\nmod proofs;\n"),
            ("a.rs", "#[cfg(test)]\npub(crate) mod tests;"),
            ("a/tests.rs", "use crate::proofs;"),
            ("proofs/mod.rs", "use crate::a;"),
            ("proofs/deep.rs", "use crate::a;"),
        ]);
        let leaf = Crate::read("leaf", &sources);
        let paths: Vec<&str> = leaf.files().iter().map(|file| file.path).collect();
        assert_eq!(paths, ["crates/leaf/src/lib.rs", "crates/leaf/src/a.rs"]);
    }

    #[test]
    fn a_name_of_the_root_leads_to_the_module_behind_it() {
        let sources = read(&[
            ("lib.rs", "mod a; mod b;\npub use a::{deep::Kind, Other as Renamed};\npub use crate::b::B;\n"),
            ("a.rs", "use crate::B;"),
            ("b.rs", "use crate::{Kind, Renamed, Unknown};"),
        ]);
        let leaf = Crate::read("leaf", &sources);
        let targets = |file: usize| -> Vec<Option<&str>> {
            leaf.files()[file].references.iter().map(|reference| leaf.target(reference)).collect()
        };
        assert_eq!(targets(1), [Some("b")]);
        assert_eq!(targets(2), [Some("a"), Some("a"), None]);
    }
}
