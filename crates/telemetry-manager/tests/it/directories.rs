use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;

use crate::support::{Setup, files_below, has_fallback_file, trace};
use std::path::Path;
use telemetry_manager::SetupError;
use telemetry_manager::opentelemetry::KeyValue;

#[test]
fn a_chosen_directory_that_others_can_write_is_an_error_that_names_it() {
    let setup = Setup::new();
    for (variable, name) in [("TELEMETRY_STATE_DIR", "state"), ("TELEMETRY_FALLBACK_DIR", "files")] {
        let path = setup.path(name);
        fs::create_dir(&path).expect("a directory");
        fs::set_permissions(&path, Permissions::from_mode(0o777)).expect("permissions");
        let error = setup.builder(&[(variable, &path)]).build().unwrap_err();
        assert!(matches!(error, SetupError::Directory { .. }), "{error:?}");
        let text = error.to_string();
        for part in [variable, &path, "accepted is a path of a directory that no other user can write to"] {
            assert!(text.contains(part), "{text:?} lacks {part:?}");
        }
        let text = setup.builder(&[]).with_state_dir(&path).build().unwrap_err().to_string();
        assert!(text.contains("with_state_dir"), "{text}");
    }
}

#[test]
fn a_chosen_directory_that_is_a_file_is_an_error() {
    let setup = Setup::new();
    let path = setup.path("file");
    fs::write(&path, "precious").expect("a file");
    let error = setup.builder(&[("TELEMETRY_STATE_DIR", &path)]).build().unwrap_err().to_string();
    assert!(error.contains("TELEMETRY_STATE_DIR") && error.contains(&path), "{error}");
    assert_eq!(fs::read_to_string(&path).expect("still there"), "precious");
}

#[test]
fn a_default_directory_that_cannot_be_used_means_memory_only_and_a_warning() {
    let setup = Setup::new();
    let in_the_way = setup.path("file");
    fs::write(&in_the_way, "").expect("a file");
    let manager = setup.manager(&[("XDG_STATE_HOME", &in_the_way)]);
    assert_eq!(manager.warnings().len(), 1, "{:?}", manager.warnings());
    assert!(manager.warnings()[0].message.contains("TELEMETRY_STATE_DIR"));
    let health = manager.health();
    assert!(!health.healthy && health.initialized && !health.issues.is_empty(), "{health:?}");
    assert!(manager.settings().summary().ends_with("memory only"));
    trace(&manager, 5);
    manager.shutdown().expect("the collector takes them");
    assert_eq!(setup.collector.received().unique, 5);
}

#[test]
fn without_any_directory_telemetry_is_degraded_and_warns_once() {
    let setup = Setup::new();
    let manager = setup.manager(&[("HOME", "")]);
    assert_eq!(manager.warnings().len(), 1);
    let health = manager.health();
    assert_eq!(serde_json::to_value(health.status).expect("JSON"), "degraded");
    assert_eq!(health.issues.len(), 1, "{:?}", health.issues);
}

#[test]
fn files_are_below_the_state_directory_and_private() {
    let setup = Setup::new();
    setup.collector.stop();
    let manager = setup.manager(&[]);
    trace(&manager, 5);
    manager.shutdown().expect("the spans are in files");
    let state = setup.dir.path().join(".local/state/holdfast/my-api");
    let mode = fs::metadata(&state).expect("the directory").permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    assert!(has_fallback_file(&state), "no file below {}", state.display());
}

#[test]
fn the_variable_decides_what_new_files_hold() {
    let setup = Setup::new();
    setup.collector.stop();
    for (word, end) in [("json", ".jsonl"), ("Protobuf", ".binpb")] {
        let dir = setup.path(word);
        let manager = setup.manager(&[("TELEMETRY_FALLBACK_FORMAT", word), ("TELEMETRY_FALLBACK_DIR", &dir)]);
        trace(&manager, 5);
        manager.shutdown().expect("the spans are in files");
        let names: Vec<_> = files_below(Path::new(&dir).join("my-api").as_path())
            .iter()
            .filter_map(|file| file.file_name()?.to_str().map(str::to_owned))
            .collect();
        let written = names.iter().find(|name| name.starts_with("traces-"));
        assert!(written.is_some_and(|name| name.ends_with(end)), "{word}: {names:?}");
    }
    let required = ("TELEMETRY_STATE_DIR_REQUIRED", "true");
    let text = setup.builder(&[required, ("TELEMETRY_FALLBACK_FORMAT", "text")]).build().unwrap_err().to_string();
    assert!(text.contains("TELEMETRY_FALLBACK_FORMAT") && text.contains("json or protobuf"), "{text}");
}

#[test]
fn the_directory_is_that_of_the_service_in_the_resource_that_is_sent() {
    let listed = ("OTEL_RESOURCE_ATTRIBUTES", "service.name=Listed,service.namespace=one");
    let unnamed = ("OTEL_SERVICE_NAME", "");
    let attributes = |name: &'static str| [KeyValue::new("service.name", name), KeyValue::new("service.namespace", 7)];
    let home = Setup::new();
    for (builder, name, namespace, directory) in [
        (home.builder(&[unnamed, listed]), "Listed", "one", "one.%4cisted"),
        (home.builder(&[listed]), "my-api", "one", "one.my-api"),
        (home.builder(&[listed]).with_resource_attributes(attributes("in code")), "in code", "7", "7.in%20code"),
        (home.builder(&[listed]).with_resource_attributes(attributes("a")).with_service_name("b"), "b", "7", "7.b"),
    ] {
        let setup = Setup::new();
        let manager = builder.with_endpoint(setup.collector.grpc_endpoint()).build().expect("telemetry starts");
        trace(&manager, 1);
        let dir = manager.settings().exporter.state_dir.clone().expect("by HOME");
        assert!(dir.ends_with(Path::new("holdfast").join(directory)), "{}", dir.display());
        assert!(dir.is_dir());
        manager.shutdown().expect("delivered");
        assert_eq!(setup.resource_attribute("service.name").as_deref(), Some(name));
        if namespace == "one" {
            assert_eq!(setup.resource_attribute("service.namespace").as_deref(), Some(namespace));
        }
    }
}
