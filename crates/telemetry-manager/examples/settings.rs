//! Prints `docs/settings.md`.

fn main() {
    print!("{}", telemetry_manager::settings_markdown());
}
