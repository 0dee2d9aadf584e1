//! The directories of the settings.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::*;

fn read(vars: &[(&str, &str)]) -> Settings {
    let vars: BTreeMap<&str, &str> = vars.iter().copied().collect();
    Settings::from_vars(|name| vars.get(name).map(OsString::from)).expect("valid")
}

const NAMED: (&str, &str) = ("OTEL_SERVICE_NAME", "My-Api");
const HOME: (&str, &str) = ("HOME", "/users/u");

#[test]
fn each_service_has_a_directory_in_each_chosen_one() {
    let namespace = ("OTEL_RESOURCE_ATTRIBUTES", "service.namespace=Shop,service.name=listed");
    for (vars, directory, layout) in [
        (vec![NAMED], "%4dy-%41pi", "My-Api"),
        (vec![NAMED, namespace], "%53hop.%4dy-%41pi", "Shop/My-Api"),
        (vec![namespace], "%53hop.listed", "Shop/listed"),
        (vec![], "unknown_service", "unknown_service"),
    ] {
        let dirs = [("TELEMETRY_STATE_DIR", "/s"), ("TELEMETRY_FALLBACK_DIR", "/f")];
        let exporter = read(&[&vars[..], &dirs].concat()).exporter;
        assert_eq!(exporter.state_dir, Some(Path::new("/s").join(directory)));
        assert_eq!(exporter.fallback.dir, Some(Path::new("/f").join(directory)));
        assert_eq!(exporter.state_service.as_deref(), Some(layout));
    }
}

#[test]
fn the_directories_of_the_version_before_are_named() {
    let old = |vars: &[(&str, &str)]| {
        let exporter = read(vars).exporter;
        let text = |dirs: Vec<PathBuf>| dirs.iter().map(|dir| dir.display().to_string()).collect::<Vec<_>>().join(" ");
        (text(exporter.old_state_dirs), text(exporter.old_fallback_dirs))
    };
    let by_home = "/users/u/.local/state/holdfast/My-Api".to_owned();
    let none = String::new;
    assert_eq!(old(&[NAMED, HOME]), (by_home.clone(), none()));
    assert_eq!(old(&[NAMED, HOME, ("STATE_DIRECTORY", "/v")]), (by_home, none()), "systemd's directory is new to it");
    assert_eq!(old(&[("OTEL_SERVICE_NAME", "my-api"), HOME]), (none(), none()), "the same directory");
    let chosen = [NAMED, HOME, ("TELEMETRY_STATE_DIR", "/s"), ("TELEMETRY_FALLBACK_DIR", "/f")];
    assert_eq!(old(&chosen), ("/s".to_owned(), "/f".to_owned()));
}

#[test]
fn paths_of_the_environment_that_are_not_absolute_are_ignored_with_a_warning() {
    let settings = read(&[NAMED, HOME, ("STATE_DIRECTORY", "lib:"), ("XDG_STATE_HOME", "state")]);
    assert!(settings.exporter.state_dir.expect("by HOME").starts_with("/users/u/.local/state/holdfast"));
    let about = settings.warnings.iter().map(|warning| warning.setting.as_str()).collect::<Vec<_>>();
    assert_eq!(about, ["STATE_DIRECTORY", "STATE_DIRECTORY", "XDG_STATE_HOME"]);
    assert!(settings.warnings[0].message.contains("\"lib\""), "{}", settings.warnings[0]);
    let chosen = read(&[NAMED, HOME, ("STATE_DIRECTORY", "lib:"), ("TELEMETRY_STATE_DIR", "/s")]);
    assert!(chosen.warnings.is_empty(), "the environment is not asked: {:?}", chosen.warnings);
}
