//! Usual slips in an environment: each has a warning about its variable, with a hint.

use std::path::Path;

use super::kind::{Kind, OnBad};
use super::*;

fn read(vars: &[(&str, &str)]) -> Settings {
    let home = [("HOME", "/users/u")];
    let settings = Settings::from_environment(home.iter().chain(vars).copied());
    settings.unwrap_or_else(|error| panic!("{vars:?}: {error}"))
}

/// The only warning, which is about the variable of the first pair.
fn warning(vars: &[(&str, &str)], parts: &[&str]) -> Settings {
    let settings = read(vars);
    let [warning] = settings.warnings() else { panic!("{vars:?}: {:?}", settings.warnings()) };
    assert_eq!(warning.setting, vars[0].0, "{warning}");
    for part in parts.iter().chain([&vars[0].0]) {
        assert!(warning.message.contains(part), "{warning:?} does not say {part:?}");
    }
    settings
}

#[test]
fn quotation_marks_of_an_env_file_are_not_a_part_of_any_value() {
    // A proxy has no effect for the collector on this host: its marks are looked at where it has one.
    for row in SETTINGS.iter().filter(|row| !row.name.ends_with("_PROXY")) {
        let value = match row.name {
            "OTEL_EXPORTER_OTLP_HEADERS" => "a=1".to_owned(),
            "OTEL_RESOURCE_ATTRIBUTES" => "team=a".to_owned(),
            "TELEMETRY_STATE_DIR" | "TELEMETRY_FALLBACK_DIR" => "/somewhere".to_owned(),
            "OTEL_SERVICE_VERSION" => "1.2".to_owned(),
            "TELEMETRY_FAILOVER_ENDPOINTS" => "http://b:4317;protocol=grpc".to_owned(),
            "OTEL_EXPORTER_OTLP_FALLBACK_ENDPOINT" => "http://b:4317".to_owned(),
            _ => row.default(),
        };
        let value = if value.is_empty() { "my api".to_owned() } else { value };
        let shown = |settings: &Settings| format!("{:?}", Settings { warnings: Vec::new(), ..settings.clone() });
        let plain = read(&[(row.name, &value)]);
        for quote in ['"', '\''] {
            let settings = read(&[(row.name, &format!("{quote}{value}{quote}"))]);
            let marks = settings.warnings().iter().filter(|warning| warning.message.contains("quotation marks"));
            assert_eq!(marks.map(|warning| warning.setting.as_str()).collect::<Vec<_>>(), [row.name]);
            assert_eq!(settings.summary(), plain.summary(), "{}", row.name);
            if row.read.is_some() {
                assert_eq!(shown(&settings), shown(&plain), "{}", row.name);
            }
        }
        assert!(read(&[(row.name, "\"\"")]).warnings().len() == 1, "{}: no value", row.name);
    }
}

#[test]
fn blanks_and_line_ends_are_not_a_part_of_a_value_and_for_a_path_that_is_told() {
    assert_eq!(read(&[("OTEL_SERVICE_NAME", " my-api \r\n")]).service_name, "my-api");
    assert!(read(&[("TELEMETRY_BUFFER_MAX_SPANS", "7\n")]).warnings().is_empty());
    let settings = warning(&[("TELEMETRY_STATE_DIR", "/s \r")], &["blanks or the end of a line"]);
    assert_eq!(settings.chosen.state_dir.as_deref(), Some(Path::new("/s")));
}

#[test]
fn a_path_for_a_shell_is_not_taken_for_a_directory() {
    for path in ["~/state", "$HOME/state", "${HOME}/state", "/s/$(NAME)"] {
        let settings = warning(&[("TELEMETRY_STATE_DIR", path)], &[path, "not accepted"]);
        assert_eq!(settings.chosen.state_dir_from, "HOME", "{path}");
        let required = [("TELEMETRY_STATE_DIR", path), ("TELEMETRY_STATE_DIR_REQUIRED", "true")];
        let error = Settings::from_environment(required).expect_err(path).to_string();
        assert!(
            error.contains("TELEMETRY_STATE_DIR is ") && error.contains("whole path") || error.contains("not expanded"),
            "{error}"
        );
    }
}

#[test]
fn a_refused_value_has_a_hint() {
    warning(&[("TELEMETRY_FALLBACK_ENABLED", "no")], &["write false", "true is used"]);
    warning(&[("OTEL_SDK_DISABLED", "1")], &["write true", "false is used"]);
    warning(&[("OTEL_SDK_DISABLED", "true # in tests")], &["# begins no comment"]);
    warning(&[("OTEL_BSP_MAX_QUEUE_SIZE", "4,096")], &["write 4096"]);
    warning(&[("TELEMETRY_BUFFER_MAX_SPANS", "${SPANS}")], &["not expanded"]);
    let required = [("TELEMETRY_JOURNAL_ENABLED", "yes"), ("TELEMETRY_STATE_DIR_REQUIRED", "true")];
    let error = Settings::from_environment(required).expect_err("required").to_string();
    assert!(error.ends_with("accepted is true or false; write true"), "{error}");
}

#[test]
fn a_text_that_is_accepted_and_looks_like_a_slip_is_told() {
    let settings = warning(&[("OTEL_SERVICE_NAME", "my-api # the shop")], &["# behind a blank"]);
    assert_eq!(settings.service_name, "my-api # the shop");
    warning(&[("OTEL_SERVICE_NAME", "$(POD_NAME)")], &["not expanded"]);
    warning(&[("OTEL_RESOURCE_ATTRIBUTES", "team=${TEAM}")], &["not expanded"]);
}

#[test]
fn a_name_near_that_of_a_setting_is_told_and_a_foreign_one_is_not() {
    let settings =
        warning(&[("TELEMETRY_BUFER_MAX_SPANS", "7")], &["no setting", "no effect", "TELEMETRY_BUFFER_MAX_SPANS"]);
    assert_eq!(settings.exporter.buffer.max_spans, 10_000);
    warning(&[("CIRCUIT_BREAKER_FAILURE_TRESHOLD", "7")], &["CIRCUIT_BREAKER_FAILURE_THRESHOLD"]);
    warning(&[("OTEL_EXPORTER_OTLP_ENDPOIN", "x")], &["OTEL_EXPORTER_OTLP_ENDPOINT"]);
    warning(&[("otel_service_name", "x")], &["OTEL_SERVICE_NAME"]);
    assert!(read(&[("TELEMETRY_URL", "x"), ("CIRCUIT_BREAKER_TIMEOUT", "1"), ("PATH", "/bin")]).warnings().is_empty());
    // A line feed in a name begins no line of the log.
    let settings = read(&[("TELEMETRY_BUFFER_MAX_SPAN\n", "7")]);
    assert!(!settings.warnings()[0].message.contains('\n'), "{:?}", settings.warnings());
}

#[test]
fn a_value_of_the_resource_may_hold_an_equals_sign_and_that_is_told() {
    let vars = [("OTEL_RESOURCE_ATTRIBUTES", "team=a,query=x=y=z")];
    let settings = warning(&vars, &["\"query=x=y=z\"", "\"x=y=z\"", "%3D"]);
    let expected = [("team", "a"), ("query", "x=y=z")].map(|(key, value)| (key.to_owned(), value.to_owned()));
    assert_eq!(settings.resource_attributes, expected);
    warning(&[("OTEL_RESOURCE_ATTRIBUTES", "a=1;b=2")], &["\"1;b=2\"", "a comma ends an entry"]);
    assert!(read(&[("OTEL_RESOURCE_ATTRIBUTES", "query=x%3Dy")]).warnings().is_empty());
}

#[test]
fn a_setting_of_a_part_that_is_off_is_told() {
    for (name, value) in [
        ("TELEMETRY_JOURNAL_SYNC", "never"),
        ("TELEMETRY_JOURNAL_SYNC_TIMEOUT", "20ms"),
        ("TELEMETRY_JOURNAL_MAX_BYTES", "16MiB"),
    ] {
        warning(&[(name, value)], &["no effect", "TELEMETRY_JOURNAL_ENABLED"]);
        assert!(read(&[(name, value), ("TELEMETRY_JOURNAL_ENABLED", "true")]).warnings().is_empty());
    }
    let compression = ("TELEMETRY_BUFFER_COMPRESSION", "zstd");
    warning(&[compression, ("TELEMETRY_JOURNAL_ENABLED", "true")], &["no effect", "TELEMETRY_JOURNAL_ENABLED"]);
    assert!(read(&[compression]).warnings().is_empty());
    warning(&[("OTEL_TRACES_SAMPLER_ARG", "0.1")], &["no effect", "OTEL_TRACES_SAMPLER=parentbased_traceidratio"]);
    // A program whose environment names another sampler changes between them.
    let sampler = [("OTEL_TRACES_SAMPLER", "always_on"), ("OTEL_TRACES_SAMPLER_ARG", "0.1")];
    assert!(read(&sampler).warnings().is_empty());
}

#[test]
fn each_warning_about_the_transport_names_its_own_variable() {
    for (name, value) in [
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "carrier pigeon"),
        ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "soon"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "10"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "brotli"),
        ("OTEL_EXPORTER_OTLP_INSECURE", "yes"),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/ca.pem"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "content-type=x"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost"),
        ("OTEL_LOG_LEVEL", "debug"),
    ] {
        warning(&[(name, value)], &[]);
    }
    let settings = read(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:4318")]);
    assert_eq!(settings.warnings()[0].setting, "OTEL_EXPORTER_OTLP_PROTOCOL", "the one that would decide");
}

#[test]
fn no_accepted_default_of_the_transport_has_a_note() {
    for (name, value) in [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:4317"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "0"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "10s"),
        ("OTEL_EXPORTER_OTLP_INSECURE", "True"),
    ] {
        assert!(read(&[(name, value)]).warnings().is_empty(), "{name}={value}");
    }
    let timeout = |text| read(&[("OTEL_EXPORTER_OTLP_TIMEOUT", text)]);
    assert_eq!(timeout("0").transport.timeout(), Duration::from_secs(3_600));
    assert_eq!(timeout("0").exporter.request.attempt_timeout, Duration::from_secs(7_200));
}

/// A unit file with one pair of quotation marks around two variables.
#[test]
fn another_variable_behind_a_value_is_not_shown() {
    for row in SETTINGS.iter().filter(|row| !matches!(row.kind, Kind::Path | Kind::Text(_)) || row.read.is_none()) {
        let is_proxy = row.name.ends_with("_PROXY");
        if is_proxy || matches!(row.name, "OTEL_EXPORTER_OTLP_ENDPOINT" | "OTEL_EXPORTER_OTLP_HEADERS") {
            continue; // an error, or a list of secrets
        }
        let value = format!("one {}=x-key=canary", "OTEL_EXPORTER_OTLP_HEADERS");
        if matches!(row.name, "TELEMETRY_FAILOVER_ENDPOINTS" | "OTEL_EXPORTER_OTLP_FALLBACK_ENDPOINT") {
            let error = Settings::from_environment([(row.name, &value)]).expect_err(row.name).to_string();
            assert!(error.contains("one ***") && !error.contains("canary"), "{error}");
            let options = ["headers-file", "protocol", "certificate"];
            for option in options.iter().filter(|_| row.name == "TELEMETRY_FAILOVER_ENDPOINTS") {
                let settings = read(&[(row.name, &format!("http://b:4317;{option}={value}"))]);
                assert!(!format!("{settings:?} {:?}", settings.warnings()).contains("canary"), "{settings:?}");
            }
            continue;
        }
        if row.accepted().contains("PEM") {
            let vars = [("OTEL_EXPORTER_OTLP_ENDPOINT", "https://c"), (row.name, &*value)];
            let error = Settings::from_environment(vars).expect_err(row.name).to_string();
            assert!(error.contains("one ***") && !error.contains("canary"), "{error}");
            continue;
        }
        let vars = [("OTEL_TRACES_SAMPLER", "traceidratio"), (row.name, &*value)];
        let settings = read(&vars);
        let about = settings.warnings().iter().find(|warning| warning.setting == row.name);
        let message = &about.unwrap_or_else(|| panic!("{}: {:?}", row.name, settings.warnings())).message;
        assert!(message.contains("one ***") && !message.contains("canary"), "{message}");
        if row.on_bad == OnBad::Storage {
            let vars = [("TELEMETRY_STATE_DIR_REQUIRED", "true"), ("HOME", "/users/u"), (row.name, &*value)];
            let error = Settings::from_environment(vars).expect_err(row.name).to_string();
            assert!(error.contains("one ***") && !error.contains("canary"), "{error}");
        }
    }
    for list in ["team=a HEADERS=x-key=canary", "team=%zz HEADERS=x-key=canary"] {
        let settings = read(&[("OTEL_RESOURCE_ATTRIBUTES", list)]);
        let message = &settings.warnings()[0].message;
        assert!(message.contains(" ***\"") && !message.contains("canary"), "{message}");
    }
    for name in ["OTEL_TRACES_EXPORTER", "OTEL_PROPAGATORS"] {
        let message = warning(&[(name, "b3 KEY=canary")], &["\"b3 ***\""]).warnings()[0].message.clone();
        assert!(!message.contains("canary"), "{message}");
    }
    for name in ["HTTP_PROXY", "http_proxy", "ALL_PROXY"] {
        let vars = [("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4317"), (name, "http://proxy:3128 KEY=canary")];
        let error = Settings::from_environment(vars).expect_err(name).to_string();
        assert!(error.contains(name) && !error.contains("canary"), "{error}");
    }
}
