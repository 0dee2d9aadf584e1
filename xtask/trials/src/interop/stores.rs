//! The files that our exporter leaves when no collector accepts its spans, in each form, and the spans that were made.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use mock_collector::{MockCollector, SpanIds};
use opentelemetry_proto::tonic::trace::v1::TracesData;
use opentelemetry_proto::transform::common::tonic::ResourceAttributesWithSchema;
use opentelemetry_proto::transform::trace::tonic::group_spans_by_resource_and_scope;
use opentelemetry_sdk::trace::SpanExporter as _;
use prost::Message as _;
use resilient_exporter::{Compression, FallbackFormat, ResilientSpanExporter};

use crate::Failure;
use crate::contender::{self, Protocol, Settings};
use crate::kinds::Program;
use crate::stored::fallback_dirs;

/// The form of the files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Form {
    format: FallbackFormat,
    pub(super) compression: Compression,
}

impl Form {
    pub(super) const PLAIN: Self = Self { format: FallbackFormat::Json, compression: Compression::Never };
    pub(super) const GZIP: Self = Self { compression: Compression::Gzip, ..Self::PLAIN };
    pub(super) const ZSTD: Self = Self { compression: Compression::Zstd, ..Self::PLAIN };
    pub(super) const PROTO: Self = Self { format: FallbackFormat::Protobuf, ..Self::PLAIN };
    const PROTO_GZIP: Self = Self { compression: Compression::Gzip, ..Self::PROTO };
    const PROTO_ZSTD: Self = Self { compression: Compression::Zstd, ..Self::PROTO };

    pub(super) const JSON: [Self; 3] = [Self::PLAIN, Self::GZIP, Self::ZSTD];
    const ALL: [Self; 6] = [Self::PLAIN, Self::GZIP, Self::ZSTD, Self::PROTO, Self::PROTO_GZIP, Self::PROTO_ZSTD];

    pub(super) fn name(self) -> String {
        let packing = match self.compression {
            Compression::Gzip => "gzip",
            Compression::Zstd => "zstd",
            _ => "plain",
        };
        if self.is_json() { packing.to_owned() } else { format!("protobuf, {packing}") }
    }

    pub(super) fn is_json(self) -> bool {
        self.format == FallbackFormat::Json
    }

    /// The same, not compressed.
    pub(super) fn unpacked(self) -> Self {
        Self { compression: Compression::Never, ..self }
    }

    pub(super) fn extension(self) -> String {
        let packing = match self.compression {
            Compression::Gzip => ".gz",
            Compression::Zstd => ".zst",
            _ => "",
        };
        format!("{}{packing}", if self.is_json() { ".jsonl" } else { ".binpb" })
    }

    /// The program that unpacks such a file, if it is packed.
    fn tool(self) -> Option<&'static str> {
        match self.compression {
            Compression::Gzip => Some("gzip"),
            Compression::Zstd => Some("zstd"),
            _ => None,
        }
    }
}

/// One directory of fallback files.
pub(super) struct Store {
    pub(super) form: Form,
    /// Oldest first.
    pub(super) files: Vec<PathBuf>,
    /// The same, unpacked by the tool of the form.
    pub(super) unpacked: Vec<PathBuf>,
    pub(super) state: PathBuf,
}

/// The same programs' files in each form.
pub(super) struct Stores {
    pub(super) stores: Vec<Store>,
    pub(super) made: Vec<SpanIds>,
    /// The made spans, as the stock exporter would have sent them: messages behind their lengths.
    pub(super) witness: PathBuf,
}

impl Stores {
    /// Runs the programs, one after another, once for each form; `folder` is to be empty.
    pub(super) fn write(programs: &[Program], folder: &Path) -> Result<Self, Failure> {
        fs::create_dir_all(folder)?;
        let witness = folder.join("witness.pb");
        let mut made = Vec::new();
        let mut file = File::create(&witness)?;
        for program in programs {
            let resource = ResourceAttributesWithSchema::from(&program.resource);
            for batch in &program.batches {
                let of_batch = |span: &opentelemetry_sdk::trace::SpanData| {
                    (span.span_context.trace_id().to_bytes(), span.span_context.span_id().to_bytes())
                };
                made.extend(batch.iter().map(of_batch));
                let resource_spans = group_spans_by_resource_and_scope(batch.clone(), &resource);
                write_framed(&mut file, &TracesData { resource_spans }.encode_to_vec())?;
            }
        }
        let store = |form: Form| Store::write(form, programs, &folder.join(form.extension()));
        Ok(Self { stores: Form::ALL.into_iter().map(store).collect::<Result<_, _>>()?, made, witness })
    }

    pub(super) fn store(&self, form: Form) -> &Store {
        self.stores.iter().find(|store| store.form == form).expect("one of each form was written")
    }
}

impl Store {
    fn write(form: Form, programs: &[Program], folder: &Path) -> Result<Self, Failure> {
        let state = folder.join("state");
        let mut made = 0;
        for program in programs {
            made += program.spans() as u64;
            run(form, program, &state, made)?;
        }
        let mut files = Vec::new();
        // Each program has taken over the files of the one before.
        let [fallback] = &fallback_dirs(&state)?[..] else {
            return Err(format!("the programs left not one directory of files in {}", state.display()).into());
        };
        for entry in fs::read_dir(fallback)? {
            let path = entry?.path();
            if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("traces-")) {
                files.push(path);
            }
        }
        files.sort();
        if let Some(other) = files.iter().find(|path| !path.to_string_lossy().ends_with(&form.extension())) {
            return Err(format!("{} is not {}", other.display(), form.name()).into());
        }
        if files.len() < programs.len() {
            return Err(format!("{} programs left {} files", programs.len(), files.len()).into());
        }
        let folder = folder.join("unpacked");
        fs::create_dir(&folder)?;
        let unpacked = files.iter().map(|file| unpack(form, file, &folder)).collect::<Result<_, _>>()?;
        Ok(Self { form, files, unpacked, state })
    }

    pub(super) fn bytes(&self) -> Result<u64, Failure> {
        self.files.iter().map(|file| Ok(fs::metadata(file)?.len())).sum()
    }
}

/// One program, from start to end, whose collector refuses: all spans that it made, and all that it found, are in
/// files.
fn run(form: Form, program: &Program, state: &Path, in_files: u64) -> Result<(), Failure> {
    let stopped = MockCollector::start()?;
    stopped.stop();
    let mut exporter = contender::builder(Settings::Quick, Protocol::Http, &stopped.http_endpoint(), state)?
        .with_fallback_format(form.format)
        .with_fallback_compression(form.compression)
        .with_fallback_compress_above(0)
        .build()?;
    exporter.set_resource(&program.resource);
    for batch in &program.batches {
        futures_executor::block_on(exporter.export(batch.clone()))?;
    }
    exporter.shutdown()?;
    let ledger = exporter.handle().ledger();
    if ledger.in_fallback != in_files || ledger.imbalance() != 0 {
        return Err(format!("{in_files} spans were made by now; the ledger says {ledger:?}").into());
    }
    Ok(())
}

/// Has the tool test the file, and unpack it.
pub(super) fn unpack(form: Form, file: &Path, to: &Path) -> Result<PathBuf, Failure> {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let unpacked = to.join(name.replace(&form.extension(), &form.unpacked().extension()));
    match form.tool() {
        None => drop(fs::copy(file, &unpacked)?),
        Some(tool) => {
            succeed(Command::new(tool).args(["-q", "-t"]).arg(file))?;
            succeed(Command::new(tool).args(["-q", "-d", "-c"]).arg(file).stdout(File::create(&unpacked)?))?;
        }
    }
    Ok(unpacked)
}

/// Runs a tool to its end; its standard error is the error.
fn succeed(command: &mut Command) -> Result<(), Failure> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn()?.wait_with_output()?;
    if output.status.success() {
        return Ok(());
    }
    let program = command.get_program().to_string_lossy().into_owned();
    Err(format!("{program}: {}, {}", output.status, String::from_utf8_lossy(&output.stderr).trim()).into())
}

/// Starts a program that finds these files below `state` and whose collector works, and writes the requests that it
/// sent: messages behind their lengths.
pub(super) fn replay(state: &Path, spans: usize, to: &Path) -> Result<(), Failure> {
    const PATIENCE: Duration = Duration::from_secs(60);
    // Groups of lines are joined into requests; there are never more of these than lines.
    let collector = MockCollector::builder().with_kept_requests(100_000).start()?;
    // With the default time-out: a call that times out on a busy machine is made again, and its spans come twice.
    let exporter: ResilientSpanExporter =
        contender::builder(Settings::Default, Protocol::Http, &collector.http_endpoint(), state)?
            // The names of some files are of a past year.
            .with_fallback_max_age(Duration::from_secs(100 * 365 * 24 * 3_600))
            .build()?;
    let handle = exporter.handle();
    handle.settled(PATIENCE)?;
    let ledger = handle.ledger();
    exporter.shutdown()?;
    if ledger.delivered != spans as u64 || ledger.imbalance() != 0 {
        return Err(format!("{spans} spans were in files; the ledger says {ledger:?}").into());
    }
    let mut file = File::create(to)?;
    for request in collector.requests() {
        write_framed(&mut file, &request.body)?;
    }
    Ok(())
}

/// A message behind its length, as the Collector's file exporter writes it.
pub(super) fn write_framed(file: &mut File, message: &[u8]) -> Result<(), Failure> {
    file.write_all(&u32::try_from(message.len())?.to_be_bytes())?;
    Ok(file.write_all(message)?)
}
