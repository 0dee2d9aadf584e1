//! Writes `docs/settings.md` from the table.

use std::fmt::Write as _;

use super::kind::OnBad;
use super::table::{Group, NOT_SUPPORTED, SETTINGS};

/// The text of `docs/settings.md`. `cargo run -p telemetry-manager --example settings > docs/settings.md` writes the
/// file; a test fails when the file is stale.
#[must_use]
pub fn settings_markdown() -> String {
    let mut page = String::from(HEAD);
    for group in Group::ALL {
        let _ =
            writeln!(page, "\n## {}\n\n| Variable | Default | In code | |\n| --- | --- | --- | --- |", group.title());
        for setting in SETTINGS.iter().filter(|setting| setting.group == group) {
            let default = setting.default();
            let default = if default.is_empty() { "none".to_owned() } else { format!("`{default}`") };
            let strict = match setting.on_bad {
                OnBad::Default => "",
                OnBad::Error => " **Bad values are errors.**",
                OnBad::Storage => " **Bad values are errors if storage is required.**",
            };
            let _ = writeln!(
                page,
                "| `{}` | {default} | `{}` | {} Accepted: {}.{strict} |",
                setting.name,
                setting.builder,
                setting.meaning,
                setting.accepted()
            );
        }
    }
    page.push_str("\n## Recognised, without effect\n\nEach of these is warned about once if it is set.\n\n| Variable | |\n| --- | --- |\n");
    for (name, why) in NOT_SUPPORTED {
        let _ = writeln!(page, "| `{name}` | {why} |");
    }
    page
}

const HEAD: &str = "\
# Settings

Made from the table in `crates/telemetry-manager/src/settings/table.rs`; do not edit by hand:
`cargo run -p telemetry-manager --example settings > docs/settings.md`.

A value in code beats the environment, which beats the default. Empty is unset.

- **In code**, `buffer.max_spans` stands for `builder.buffer(|buffer| buffer.max_spans = 5_000)`, on the builder of
  `telemetry-manager` and, but for `batch`, on that of `resilient-exporter`; `with_endpoint` stands for that method. The
  `with_*` methods of single fields, such as `with_buffer_size`, are aliases.
- **Durations** are `250ms`, `5s`, `5m`, `2h`, `7d` or sums such as `1h30m`. A number alone means seconds, but
  milliseconds in `OTEL_*`, as the OpenTelemetry specification has it.
- **Sizes** are `512KiB`, `10MiB`, `1GiB`, `2TiB`, the decimal `kB`, `MB`, `GB`, `TB`, or a number of bytes.
- **Booleans** are `true` and `false`. Words are taken in any case.
- **A value that is not accepted** is warned about once and the default holds, or the general variable that the table
  names. Where the table says so it is an error instead: guessing would send telemetry elsewhere or expose it, or the
  program requires storage (`TELEMETRY_STATE_DIR_REQUIRED`). In code it is always an error.
  `OpenTelemetryManager::from_env_or_disabled` logs errors, and the program goes on without telemetry.
- **With telemetry off** (`OTEL_SDK_DISABLED=true`, `OTEL_TRACES_EXPORTER=none`) nothing is an error, and one warning
  names the settings that would need a look.
- Each `OTEL_EXPORTER_OTLP_*` variable below has a form for traces that beats it, such as
  `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`; that endpoint is used as it is, without `/v1/traces` behind it. A value for
  traces that is not accepted counts as unset, and the general variable holds, but for endpoint and headers.
- **Quotation marks** around a whole value, as some env files leave them, are not a part of it; blanks around it are not
  either. Marks, and blanks around a path, are warned about.
- **A warning without a bad value** names a usual slip, and changes nothing: a time-out below 100 ms, an endpoint
  without a port or with that of the other protocol, `/v1/traces` in the general endpoint (which is not appended twice),
  certificates beside `http://`, a `#` or a variable that was not expanded in a value, and names that are up to two
  letters away from a setting's.
";
