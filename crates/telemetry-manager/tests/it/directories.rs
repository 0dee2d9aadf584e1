use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use crate::support::{LONG, Setup, files_below, has_fallback_file, trace};
use std::path::Path;
use telemetry_manager::SetupError;
use telemetry_manager::opentelemetry::KeyValue;

/// A variable that chooses a directory, and a path that no directory can be made at.
fn unusable(setup: &Setup) -> [(&'static str, String); 4] {
    let in_the_way = setup.path("file");
    fs::write(&in_the_way, "precious").expect("a file");
    ["TELEMETRY_STATE_DIR", "TELEMETRY_FALLBACK_DIR", "STATE_DIRECTORY", "XDG_STATE_HOME"]
        .map(|variable| (variable, in_the_way.clone()))
}

#[test]
fn a_directory_that_cannot_be_used_means_memory_only_and_one_warning_with_the_remedy() {
    let setup = Setup::new();
    for (variable, path) in unusable(&setup) {
        for journal in ["false", "true"] {
            let setup = Setup::new();
            let vars = [("HOME", ""), (variable, path.as_str()), ("TELEMETRY_JOURNAL_ENABLED", journal)];
            let manager = setup.manager(&vars);
            let warnings = manager.warnings();
            let about: Vec<_> = warnings.iter().filter(|warning| warning.message.contains("memory only")).collect();
            assert_eq!(about.len(), 1, "{variable}: {warnings:?}");
            for part in [variable, &path, "set TELEMETRY_STATE_DIR to a directory that user"] {
                assert!(about[0].message.contains(part), "{about:?} lacks {part:?}");
            }
            assert_eq!(about[0].setting, variable, "{about:?}");
            assert!(!about[0].message.contains("required"), "no variable says so: {about:?}");
            let health = manager.health();
            assert_eq!(serde_json::to_value(health.status).expect("JSON"), "degraded");
            assert!(health.issues.contains(&about[0].message), "{:?}", health.issues);
            assert_eq!(health.issues.len(), warnings.len(), "{:?}", health.issues);
            assert!(manager.settings().summary().ends_with("memory only"), "{}", manager.settings().summary());
            trace(&manager, 5);
            manager.shutdown().expect("the collector takes them");
            assert_eq!(setup.collector.received().unique, 5);
        }
        assert_eq!(fs::read_to_string(&path).expect("still there"), "precious");
    }
    let manager = setup.builder(&[]).with_state_dir(setup.path("file")).build().expect("telemetry starts");
    assert_eq!(manager.warnings()[0].setting, "with_state_dir");
}

#[test]
fn where_storage_is_required_such_a_directory_is_an_error_with_cause_and_remedy() {
    let setup = Setup::new();
    let required = ("TELEMETRY_STATE_DIR_REQUIRED", "true");
    for (variable, path) in unusable(&setup) {
        let error = setup.builder(&[("HOME", ""), required, (variable, &path)]).build().unwrap_err();
        assert!(matches!(error, SetupError::Directory { .. }), "{error:?}");
        let text = error.to_string();
        for part in
            [variable, &path, "not a directory", "set TELEMETRY_STATE_DIR to", "TELEMETRY_STATE_DIR_REQUIRED=false"]
        {
            assert!(text.to_lowercase().contains(&part.to_lowercase()), "{text:?} lacks {part:?}");
        }
    }
    let text = setup.builder(&[required]).with_state_dir(setup.path("file")).build().unwrap_err().to_string();
    assert!(text.contains("with_state_dir"), "{text}");
    let error = setup.builder(&[("HOME", ""), required]).build().unwrap_err();
    assert!(matches!(error, SetupError::NoDirectory), "{error:?}");
    assert!(error.to_string().contains("set TELEMETRY_STATE_DIR"), "{error}");
    let off = ("TELEMETRY_FALLBACK_ENABLED", "false");
    drop(setup.manager(&[("HOME", ""), required, off]));
    let error = setup.builder(&[("HOME", ""), required, off, ("TELEMETRY_JOURNAL_ENABLED", "true")]).build();
    assert!(matches!(error, Err(SetupError::NoDirectory)), "{error:?}");
}

#[test]
fn files_go_to_the_state_directory_while_their_own_cannot_be_used() {
    let setup = Setup::new();
    setup.collector.stop();
    let [_, (variable, path), ..] = unusable(&setup);
    let manager = setup.manager(&[(variable, &path)]);
    let state = manager.settings().exporter.state_dir.clone().expect("by HOME");
    trace(&manager, 5);
    let issues = manager.health().issues;
    assert!(issues.iter().any(|issue| issue.contains(&path) && issue.contains("spans go to files in")), "{issues:?}");
    manager.shutdown().expect("the spans are in files");
    assert!(has_fallback_file(&state));
}

#[test]
fn durable_mode_without_a_state_directory_is_off_and_degraded() {
    let setup = Setup::new();
    let files = setup.path("files");
    let vars = [("HOME", ""), ("TELEMETRY_JOURNAL_ENABLED", "true"), ("TELEMETRY_FALLBACK_DIR", &files)];
    let manager = setup.manager(&vars);
    assert!(!manager.settings().exporter.journal.enabled);
    let issues = manager.health().issues;
    assert!(issues.len() == 1 && issues[0].contains("durable mode is off"), "{issues:?}");
    assert_eq!(manager.warnings().len(), 1);
    setup.collector.stop();
    trace(&manager, 5);
    manager.shutdown().expect("the spans are in files");
    assert!(has_fallback_file(Path::new(&files)));
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

#[test]
fn a_volume_that_all_users_write_in_keeps_files_for_the_next_start() {
    let setup = Setup::new();
    setup.collector.stop();
    for (variable, name) in [("TELEMETRY_STATE_DIR", "state"), ("TELEMETRY_FALLBACK_DIR", "files")] {
        let volume = setup.path(name);
        fs::create_dir(&volume).expect("a directory");
        fs::set_permissions(&volume, fs::Permissions::from_mode(0o777)).expect("permissions");
        let manager = setup.manager(&[(variable, &volume)]);
        assert!(manager.warnings().is_empty(), "{:?}", manager.warnings());
        trace(&manager, 5);
        manager.shutdown().expect("the spans are in files");
        let [own] =
            &fs::read_dir(&volume).expect("it").map(|entry| entry.expect("an entry").path()).collect::<Vec<_>>()[..]
        else {
            panic!("{variable}: not one directory");
        };
        assert!(own.file_name().expect("a name").as_encoded_bytes().starts_with(b"holdfast-"), "{}", own.display());
        assert!(has_fallback_file(&own.join("my-api")));
    }
    setup.collector.start_again().expect("the same port");
    for (variable, name) in [("TELEMETRY_STATE_DIR", "state"), ("TELEMETRY_FALLBACK_DIR", "files")] {
        let manager = setup.manager(&[(variable, &setup.path(name))]);
        manager.settled(LONG).expect("delivered");
    }
    assert_eq!((setup.collector.received().unique, setup.collector.received().duplicates), (10, 0));
}

#[test]
fn spans_of_a_renamed_service_are_named_until_a_start_with_its_name_sends_them() {
    let setup = Setup::new();
    setup.collector.stop();
    let state = setup.path("state");
    let old = setup.manager(&[("TELEMETRY_STATE_DIR", &state), ("OTEL_SERVICE_NAME", "Shop")]);
    trace(&old, 7);
    old.shutdown().expect("the spans are in files");
    drop(old);
    let renamed = setup.manager(&[("TELEMETRY_STATE_DIR", &state), ("OTEL_SERVICE_NAME", "store")]);
    let health = renamed.health();
    assert!(!health.healthy && health.issues.len() == 1, "{:?}", health.issues);
    for part in ["7 spans of \"Shop\"", &state, "start once with OTEL_SERVICE_NAME=Shop"] {
        assert!(health.issues[0].contains(part), "{:?} lacks {part:?}", health.issues);
    }
    drop(renamed);
    assert_eq!(setup.collector.received().unique, 0, "the other service has not sent them");
    setup.collector.start_again().expect("the same port");
    let once = setup.manager(&[("TELEMETRY_STATE_DIR", &state), ("OTEL_SERVICE_NAME", "Shop")]);
    once.settled(LONG).expect("delivered");
    drop(once);
    assert_eq!(setup.resource_attribute("service.name").as_deref(), Some("Shop"));
    let renamed = setup.manager(&[("TELEMETRY_STATE_DIR", &state), ("OTEL_SERVICE_NAME", "store")]);
    assert_eq!(renamed.health().issues, [""; 0]);
}
