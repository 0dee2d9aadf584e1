//! The collectors behind the first one.

use otlp_transport::Config;

use super::tests::{good, warnings};
use super::*;
use crate::settings::table::{FAILBACK_DELAY, FAILOVER_ENDPOINTS, FALLBACK_ENDPOINT};

const LIST: &str = "TELEMETRY_FAILOVER_ENDPOINTS";
const DELAY: &str = "TELEMETRY_FAILBACK_DELAY";
const FALLBACK: &str = "OTEL_EXPORTER_OTLP_FALLBACK_ENDPOINT";

fn endpoints(settings: &Settings) -> Vec<&str> {
    settings.failover.iter().map(Config::endpoint).collect()
}

#[test]
fn the_list_and_the_delay_are_read() {
    let settings = good(&[(LIST, "http://b:4317,https://c;protocol=http/protobuf"), (DELAY, "1m30s")]);
    assert_eq!(endpoints(&settings), ["http://b:4317", "https://c/v1/traces"]);
    assert_eq!(FAILOVER_ENDPOINTS.value(&settings), "http://b:4317,https://c/v1/traces");
    assert_eq!(FALLBACK_ENDPOINT.value(&settings), "");
    assert_eq!(FAILBACK_DELAY.value(&settings), "1m30s");
    assert_eq!((settings.warnings().len(), settings.remarks().len()), (0, 0));
    let line = settings.summary();
    let part = "; collector http://localhost:4317 (grpc, 10s a request), then http://b:4317 (grpc), https://c/v1/traces \
                (http/protobuf), back after 1m30s; buffer";
    assert!(line.contains(part), "{line}");

    let settings = good(&[(FALLBACK, "http://b:4317"), (LIST, ""), (DELAY, "")]);
    assert_eq!((endpoints(&settings), FAILBACK_DELAY.value(&settings)), (vec!["http://b:4317"], "30s".to_owned()));
    assert!(endpoints(&good(&[])).is_empty());
}

#[test]
fn limits_of_requests_and_answers_hold_for_each_endpoint() {
    let vars = [
        (LIST, "http://b:4317"),
        ("TELEMETRY_REQUEST_MAX_BYTES", "1MiB"),
        ("TELEMETRY_RESPONSE_MAX_BYTES", "2MiB"),
        ("TELEMETRY_CONNECTION_MAX_AGE", "1h"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "3s"),
    ];
    let config = &good(&vars).failover[0];
    assert_eq!((config.max_request_bytes(), config.max_response_bytes()), (1 << 20, 2 << 20));
    assert_eq!((config.connection_max_age(), config.timeout()), (Duration::from_secs(3_600), Duration::from_secs(3)));
}

#[test]
fn a_delay_without_an_effect_or_out_of_its_range_is_a_warning() {
    assert_eq!(
        warnings(&[(DELAY, "5s")]),
        ["TELEMETRY_FAILBACK_DELAY has no effect without TELEMETRY_FAILOVER_ENDPOINTS"]
    );
    assert!(warnings(&[(DELAY, "5s"), (FALLBACK, "http://b:4317")]).is_empty());
    for value in ["999ms", "86401s", "0", "soon"] {
        let told = warnings(&[(DELAY, value), (LIST, "http://b:4317")]);
        let expected = format!("{DELAY}={value:?} is not accepted, 30s is used; accepted is ");
        assert!(told.len() == 1 && told[0].starts_with(&expected) && told[0].ends_with("from 1s to 1d"), "{told:?}");
    }
    for (value, delay) in [("1", Duration::from_secs(1)), ("1d", Duration::from_secs(86_400))] {
        let settings = good(&[(DELAY, value), (LIST, "http://b:4317")]);
        assert_eq!(FAILBACK_DELAY.value(&settings), super::text::format_duration(delay));
    }
}

#[test]
fn a_bad_list_is_an_error_but_with_telemetry_off() {
    for (name, value, part) in [
        (LIST, "http://b:4317;header-file=/run/canary", "(member 1) has the option header-file, which there is not"),
        (LIST, "http://b:4317,tcp://user:canary@c", "(member 2)=\"tcp://***@c\""),
        (FALLBACK, "tcp://canary@c", "OTEL_EXPORTER_OTLP_FALLBACK_ENDPOINT=\"tcp://***@c\""),
    ] {
        let read = |off: &str| Settings::from_environment([(name, value), (off, "true"), ("HOME", "/users/u")]);
        let error = read("X").unwrap_err();
        assert!(error.to_string().contains(part) && !format!("{error} {error:?}").contains("canary"), "{error}");
        assert_eq!(error.setting(), name);
        let settings = read("OTEL_SDK_DISABLED").expect("off");
        let [warning] = settings.warnings() else { panic!("{:?}", settings.warnings()) };
        assert!(warning.setting == "OTEL_SDK_DISABLED" && warning.message.contains(part), "{warning}");
        assert!(!warning.message.contains("canary"), "{warning}");
    }
}

#[test]
fn credentials_that_are_kept_back_are_remarks() {
    let vars = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://a.test:4317"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "api-key=canary"),
        (LIST, "https://b.test:4317,https://a.test:4319,http://a.test:4318;protocol=grpc"),
    ];
    let settings = good(&vars);
    let [remark] = settings.remarks() else { panic!("{:?}", settings.remarks()) };
    for part in ["TELEMETRY_FAILOVER_ENDPOINTS (member 1)", "b.test", "headers"] {
        assert!(remark.contains(part), "{remark}");
    }
    let told = settings.warnings().iter().map(ToString::to_string).collect::<Vec<_>>();
    assert!(told.iter().any(|text| text.contains("(member 3)") && text.contains("in plain text")), "{told:?}");
    assert!(!format!("{settings:?} {remark} {told:?} {}", settings.summary()).contains("canary"));
}

#[test]
fn names_with_a_slip_are_told() {
    for (name, meant) in [
        ("TELEMETRY_FAILOVER_ENDPOINT", LIST),
        ("TELEMETRY_FAIL_OVER_ENDPOINTS", LIST),
        ("TELEMETRY_FALLBACK_DELAY", DELAY),
        ("OTEL_EXPORTER_OTLP_FALLBACK_ENDPOINTS", FALLBACK),
        ("OTEL_EXPORTER_OTLP_TRACE_FALLBACK_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_FALLBACK_ENDPOINT"),
    ] {
        let settings = Settings::from_environment([(name, "5s"), ("HOME", "/users/u")]).expect("no setting");
        let [warning] = settings.warnings() else { panic!("{name}: {:?}", settings.warnings()) };
        assert!(warning.message.ends_with(&format!("is {meant} meant?")), "{warning}");
    }
}
