//! The Collector with its extension `bearertokenauth` in front of the receivers.

use std::fs;
use std::path::Path;

use otlp_transport::{Cause, Outcome, RefusalKind};

use super::Setup;
use super::calls::Vars;
use super::otelcol::Otelcol;
use super::wire::{PATIENCE, Traced};
use crate::contender::{self, Protocol};
use crate::{Failure, now, wait_until};

const TOKEN: &str = "token-of-this-hour";
const WRONG: &str = "token-of-last-hour";

/// A call without a token and one with a wrong token are refused. Spans that wait because the token of the headers file
/// is wrong arrive after the file has changed.
pub(super) fn token(setup: &Setup, protocol: Protocol) -> Result<String, Failure> {
    let folder = tempfile::tempdir()?;
    let folder = folder.path();
    let collector = Otelcol::auth(setup, folder, TOKEN)?;
    let vars = Vars::new(protocol, collector.endpoint(protocol));
    refused(&vars.send_stray()?, protocol)?;
    let header = format!("authorization=Bearer%20{WRONG}");
    refused(&vars.clone().with("OTEL_EXPORTER_OTLP_HEADERS", header).send_stray()?, protocol)?;

    let file = folder.join("headers");
    replace(&file, WRONG)?;
    let vars = vars.with("TELEMETRY_HEADERS_FILE", &file);
    let mut traced = Traced::new(vars.exporter(&folder.join("state"))?, contender::resource())?;
    traced.serve(300)?;
    let handle = traced.handle.clone();
    wait_until("a refusal", PATIENCE, || handle.health().metrics.failed_exports > 0)?;
    let refusals = handle.health().metrics.failed_exports;
    replace(&file, TOKEN)?;
    let changed = now();
    let count = traced.compare(&collector)?;
    let seconds = changed.elapsed().as_secs_f64();
    traced.serve(50)?;
    let all = traced.compare(&collector)?;
    traced.provider.shutdown()?;
    Ok(format!(
        "{all} spans, all alike; {count} of them waited, refused calls: {refusals}, and arrived {seconds:.1} s after \
         the file had changed"
    ))
}

/// Writes a new file beside the old one and renames it.
fn replace(file: &Path, token: &str) -> Result<(), Failure> {
    let new = file.with_extension("new");
    fs::write(&new, format!("authorization=Bearer {token}\n"))?;
    Ok(fs::rename(&new, file)?)
}

/// The sender was refused, nothing was taken, and no token is in the text.
fn refused(outcome: &Outcome, protocol: Protocol) -> Result<(), Failure> {
    let Outcome::Refused { kind: RefusalKind::Sender, cause, possible_duplicate: false, .. } = outcome else {
        return Err(format!("a refusal was expected, and the outcome is {outcome:?}").into());
    };
    let is_expected = match protocol {
        Protocol::Grpc => matches!(cause, Cause::Grpc { code: 16, .. }),
        Protocol::Http => matches!(cause, Cause::Http { status: 401, .. }),
    };
    if is_expected && !cause.to_string().contains(WRONG) {
        Ok(())
    } else {
        Err(format!("401 or gRPC 16, without the token, was expected, and the cause is {cause:?}").into())
    }
}
