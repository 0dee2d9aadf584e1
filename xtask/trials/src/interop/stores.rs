//! What our exporter leaves in files when nobody takes its spans, in each form, and what was made.

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
use resilient_exporter::{Compression, ResilientSpanExporter};

use crate::Failure;
use crate::contender::{self, Protocol, Settings};
use crate::kinds::Program;

/// What the files are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Plain,
    Gzip,
    Zstd,
}

impl Form {
    pub(super) const ALL: [Self; 3] = [Self::Plain, Self::Gzip, Self::Zstd];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        }
    }

    pub(super) fn compression(self) -> Compression {
        match self {
            Self::Plain => Compression::Never,
            Self::Gzip => Compression::Gzip,
            Self::Zstd => Compression::Zstd,
        }
    }

    pub(super) fn extension(self) -> &'static str {
        match self {
            Self::Plain => ".jsonl",
            Self::Gzip => ".jsonl.gz",
            Self::Zstd => ".jsonl.zst",
        }
    }

    /// The program that unpacks such a file to its standard output.
    fn tool(self) -> &'static str {
        match self {
            Self::Plain => "cat",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        }
    }
}

/// One directory of fallback files.
pub(super) struct Store {
    pub(super) form: Form,
    /// Oldest first.
    pub(super) files: Vec<PathBuf>,
    /// The same as text, unpacked by the tool of the form.
    pub(super) text: Vec<PathBuf>,
    pub(super) state: PathBuf,
}

/// The same programs' files in each form.
pub(super) struct Stores {
    pub(super) stores: Vec<Store>,
    pub(super) made: Vec<SpanIds>,
    /// What was made, as the stock exporter would have sent it: messages behind their lengths.
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
        let store = |form| Store::write(form, programs, &folder.join(Form::name(form)));
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
        for entry in fs::read_dir(state.join("fallback"))? {
            let path = entry?.path();
            if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("traces-")) {
                files.push(path);
            }
        }
        files.sort();
        if let Some(other) = files.iter().find(|path| !path.to_string_lossy().ends_with(form.extension())) {
            return Err(format!("{} is not {}", other.display(), form.name()).into());
        }
        if files.len() < programs.len() {
            return Err(format!("{} programs left {} files", programs.len(), files.len()).into());
        }
        let unpacked = folder.join("text");
        fs::create_dir(&unpacked)?;
        let text = files.iter().map(|file| unpack(form, file, &unpacked)).collect::<Result<_, _>>()?;
        Ok(Self { form, files, text, state })
    }

    pub(super) fn bytes(&self) -> Result<u64, Failure> {
        self.files.iter().map(|file| Ok(fs::metadata(file)?.len())).sum()
    }
}

/// One program, from start to end, whose collector refuses: all that it made, and what it found, is in files.
fn run(form: Form, program: &Program, state: &Path, in_files: u64) -> Result<(), Failure> {
    let nobody = MockCollector::start()?;
    nobody.stop();
    let mut exporter = contender::builder(Settings::Quick, Protocol::Http, &nobody.http_endpoint(), state)?
        .with_fallback_compression(form.compression())
        .with_fallback_compress_above(0)
        .build()?;
    exporter.set_resource(&program.resource);
    for batch in &program.batches {
        futures_executor::block_on(exporter.export(batch.clone()))?;
    }
    exporter.shutdown()?;
    let ledger = exporter.handle().ledger();
    if ledger.in_fallback != in_files || ledger.imbalance() != 0 {
        return Err(format!("{in_files} spans were made by now; the books say {ledger:?}").into());
    }
    Ok(())
}

/// Has the tool test the file, and unpack it.
fn unpack(form: Form, file: &Path, to: &Path) -> Result<PathBuf, Failure> {
    let name = file.file_name().unwrap_or_default().to_string_lossy().replace(form.extension(), ".jsonl");
    let text = to.join(name);
    if form == Form::Plain {
        fs::copy(file, &text)?;
        return Ok(text);
    }
    succeed(Command::new(form.tool()).args(["-q", "-t"]).arg(file))?;
    succeed(Command::new(form.tool()).args(["-q", "-d", "-c"]).arg(file).stdout(File::create(&text)?))?;
    Ok(text)
}

/// Runs a tool to its end; what it complains of is the error.
pub(super) fn succeed(command: &mut Command) -> Result<(), Failure> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn()?.wait_with_output()?;
    if output.status.success() {
        return Ok(());
    }
    let program = command.get_program().to_string_lossy().into_owned();
    Err(format!("{program}: {}, {}", output.status, String::from_utf8_lossy(&output.stderr).trim()).into())
}

/// Reads all of them back into an exporter whose collector works, and gives what was sent: messages behind their lengths.
pub(super) fn replay(store: &Store, spans: usize, to: &Path) -> Result<(), Failure> {
    const PATIENCE: Duration = Duration::from_secs(60);
    // Groups of lines are joined into requests; there are never more of these than lines.
    let collector = MockCollector::builder().with_kept_requests(100_000).start()?;
    let exporter: ResilientSpanExporter =
        contender::builder(Settings::Quick, Protocol::Http, &collector.http_endpoint(), &store.state)?.build()?;
    let handle = exporter.handle();
    handle.flush(PATIENCE)?;
    let ledger = handle.ledger();
    exporter.shutdown()?;
    if ledger.delivered != spans as u64 || ledger.imbalance() != 0 {
        return Err(format!("{spans} spans were in files; the books say {ledger:?}").into());
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
