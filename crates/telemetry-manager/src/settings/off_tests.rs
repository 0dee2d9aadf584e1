//! Telemetry that is off: no setting ends the program.

use super::*;

const OFF: [(&str, &str); 2] = [("OTEL_SDK_DISABLED", "true"), ("OTEL_TRACES_EXPORTER", "none")];

fn read(vars: &[(&str, &str)]) -> Result<Settings, SetupError> {
    Settings::from_environment(vars.iter().copied())
}

#[test]
fn off_is_off_whatever_else_is_set_and_says_so_in_one_warning() {
    for off in OFF {
        for bad in [
            &[("OTEL_EXPORTER_OTLP_ENDPOINT", "ftp://c:4317")][..],
            &[("OTEL_EXPORTER_OTLP_ENDPOINT", "nonsense")],
            &[("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "unix:run/c.sock")],
            &[("OTEL_EXPORTER_OTLP_HEADERS", "a=%zz")],
            &[("OTEL_EXPORTER_OTLP_HEADERS", "a b=1")],
            &[("OTEL_EXPORTER_OTLP_CERTIFICATE", "/ca.pem")],
            &[("OTEL_EXPORTER_OTLP_ENDPOINT", "ftp://c"), ("OTEL_EXPORTER_OTLP_CLIENT_KEY", "/key.pem")],
            &[("TELEMETRY_FAILOVER_ENDPOINTS", "http://b:4317;header=/h")],
            &[("OTEL_EXPORTER_OTLP_FALLBACK_ENDPOINT", "ftp://b")],
            &[("TELEMETRY_REQUEST_MAX_BYTES", "lots")],
            &[("TELEMETRY_JOURNAL_MAX_BYTES", "1")],
            &[("TELEMETRY_STATE_DIR_REQUIRED", "true"), ("TELEMETRY_FALLBACK_MAX_BYTES", "lots")],
            &[("TELEMETRY_BUFER_MAX_SPANS", "1")],
            &[("OTEL_EXPORTER_OTLP_TIMEOUT", "1"), ("OTEL_BSP_MAX_QUEUE_SIZE", "-1"), ("OTEL_CONFIG_FILE", "x")],
        ] {
            let vars = [&[off], bad].concat();
            let settings = read(&vars).unwrap_or_else(|error| panic!("{vars:?}: {error}"));
            let [warning] = settings.warnings() else { panic!("{vars:?}: {:?}", settings.warnings()) };
            assert_eq!(warning.setting, off.0, "{warning}");
            for name in bad.iter().map(|(name, _)| name).filter(|name| !name.ends_with("_REQUIRED")) {
                // Where the endpoint cannot be used, certificates are not looked at.
                assert!(warning.message.contains(name) || name.ends_with("_KEY"), "{name}: {warning}");
            }
            // The same settings with telemetry on are an error or have warnings.
            assert!(read(bad).is_err() || !read(bad).expect("checked").warnings().is_empty(), "{bad:?}");
        }
        assert!(read(&[off, ("HOME", "/users/u")]).expect("off").warnings().is_empty());
        // A required directory that there is none of.
        assert!(read(&[off, ("TELEMETRY_STATE_DIR_REQUIRED", "true")]).expect("off").warnings().is_empty());
    }
}

#[test]
fn settings_that_have_an_effect_keep_their_own_warnings() {
    let about = |vars: &[(&str, &str)]| {
        read(vars).expect("off").warnings().iter().map(|warning| warning.setting.clone()).collect::<Vec<_>>()
    };
    let bad = [("OTEL_PROPAGATORS", "b3"), ("OTEL_TRACES_SAMPLER", "odd"), ("TELEMETRY_REPLAY_RATE", "odd")];
    assert_eq!(about(&[&OFF[..1], &bad].concat()), ["OTEL_PROPAGATORS", "OTEL_SDK_DISABLED"]);
    let names = ["OTEL_TRACES_SAMPLER", "OTEL_PROPAGATORS", "OTEL_TRACES_EXPORTER"];
    assert_eq!(about(&[&OFF[1..], &bad].concat()), names);
}

#[test]
fn no_secret_is_in_the_warning() {
    for (name, value) in [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://user:canary@c"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "key=canary%zz"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "\"key=canary\""),
    ] {
        let settings = read(&[OFF[0], (name, value)]).expect("off");
        assert_eq!(settings.warnings().len(), 1);
        assert!(!format!("{settings:?} {}", settings.warnings()[0]).contains("canary"), "{settings:?}");
    }
}
