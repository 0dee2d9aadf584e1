//! Prints `docs/vendors.md`.

fn main() {
    print!("{}", telemetry_manager::vendors_markdown());
}
