//! The workspace as cargo sees it: its place and its packages.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::fail::Failure;
use crate::process;

/// The workspace: its folders and its packages.
pub(crate) struct Workspace {
    pub(crate) root: PathBuf,
    pub(crate) target: PathBuf,
    pub(crate) packages: Vec<Package>,
}

/// One member.
#[derive(Clone, Debug)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) dir: PathBuf,
    pub(crate) description: Option<String>,
    pub(crate) dependencies: Vec<Dependency>,
    /// Names of its example targets.
    pub(crate) examples: Vec<String>,
    /// Its integration-test targets.
    pub(crate) tests: Vec<TestTarget>,
    /// Whether it has a library target.
    pub(crate) has_library: bool,
    /// Names of its features, `default` included.
    pub(crate) features: Vec<String>,
}

/// One program of integration tests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TestTarget {
    pub(crate) name: String,
    pub(crate) source: PathBuf,
}

/// One line under a `dependencies` heading.
#[derive(Clone, Debug)]
pub(crate) struct Dependency {
    pub(crate) name: String,
    /// Neither a dev- nor a build-dependency.
    pub(crate) normal: bool,
    pub(crate) optional: bool,
}

impl Workspace {
    /// Asks `cargo metadata`; needs no network.
    pub(crate) fn find() -> Result<Self, Failure> {
        let text = process::capture(process::cargo().args(["metadata", "--no-deps", "--format-version", "1"]))?;
        Self::parse(&text).ok_or_else(|| Failure::Unreadable {
            what: "cargo metadata".into(),
            why: "a field that format version 1 promises is missing".into(),
        })
    }

    /// The members below `crates/`: the project ships these.
    pub(crate) fn crates(&self) -> impl Iterator<Item = &Package> {
        let home = self.root.join("crates");
        self.packages.iter().filter(move |package| package.dir.parent() == Some(home.as_path()))
    }

    fn parse(text: &str) -> Option<Self> {
        let json: Value = serde_json::from_str(text).ok()?;
        let packages = json["packages"].as_array()?.iter().map(Package::parse).collect::<Option<Vec<_>>>()?;
        let path = |key: &str| json[key].as_str().map(PathBuf::from);
        Some(Self { root: path("workspace_root")?, target: path("target_directory")?, packages })
    }
}

impl Package {
    fn parse(json: &Value) -> Option<Self> {
        let targets = json["targets"].as_array()?;
        let of_kind = |kind: &'static str| targets.iter().filter(move |target| target["kind"][0] == kind);
        let dependencies = json["dependencies"].as_array()?.iter().map(|dependency| {
            Some(Dependency {
                name: dependency["name"].as_str()?.to_owned(),
                normal: dependency["kind"].is_null(),
                optional: dependency["optional"].as_bool()?,
            })
        });
        Some(Self {
            name: json["name"].as_str()?.to_owned(),
            dir: Path::new(json["manifest_path"].as_str()?).parent()?.to_owned(),
            description: json["description"].as_str().map(str::to_owned),
            dependencies: dependencies.collect::<Option<_>>()?,
            examples: of_kind("example")
                .map(|target| target["name"].as_str().map(str::to_owned))
                .collect::<Option<_>>()?,
            tests: of_kind("test")
                .map(|target| {
                    let source = PathBuf::from(target["src_path"].as_str()?);
                    Some(TestTarget { name: target["name"].as_str()?.to_owned(), source })
                })
                .collect::<Option<_>>()?,
            has_library: of_kind("lib").next().is_some(),
            features: json["features"].as_object()?.keys().cloned().collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_and_their_targets_are_read_from_metadata() {
        let text = r#"{"workspace_root": "/w", "target_directory": "/w/target", "packages": [{
            "name": "leaf", "manifest_path": "/w/crates/leaf/Cargo.toml", "description": null,
            "features": {"default": ["std"], "std": []}, "dependencies": [{"name": "rand", "kind": null, "optional": true}, {"name": "proptest", "kind": "dev", "optional": false}],
            "targets": [{"kind": ["lib"], "name": "leaf"}, {"kind": ["example"], "name": "show"}, {"kind": ["test"], "name": "it", "src_path": "/w/crates/leaf/tests/it.rs"}]}]}"#;
        let workspace = Workspace::parse(text).expect("complete");
        let leaf = workspace.crates().next().expect("one crate");
        assert_eq!((leaf.name.as_str(), leaf.examples.as_slice()), ("leaf", &["show".to_owned()][..]));
        assert_eq!(leaf.tests, [TestTarget { name: "it".into(), source: "/w/crates/leaf/tests/it.rs".into() }]);
        assert!(leaf.has_library);
        assert_eq!(leaf.features, ["default", "std"]);
        assert_eq!(leaf.dependencies.iter().filter(|dependency| dependency.normal).count(), 1);
        assert!(leaf.dependencies[0].optional && leaf.description.is_none());
    }

    #[test]
    fn metadata_without_a_promised_field_is_not_half_read() {
        assert!(Workspace::parse(r#"{"workspace_root": "/w", "packages": [{"name": "x"}]}"#).is_none());
    }
}
