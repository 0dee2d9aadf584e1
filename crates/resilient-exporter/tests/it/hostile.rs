//! Foreign and damaged files that stand in the state directory before the exporter starts: each is set aside and named
//! in the log once, the files beside it are delivered, and neither the start nor a live span waits for it.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use futures_util::FutureExt as _;
use mock_collector::MockCollector;
use opentelemetry::trace::{SpanContext, SpanId, TraceFlags, TraceId, TraceState};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SpanData, SpanExporter as _};
use otlp_payload::{BatchId, Encoder, json};
use resilient_exporter::{Handle, ResilientSpanExporter};

use crate::log;
use crate::support::work::Work;
use crate::support::{PATIENCE, ended_process, eventually, http, in_processes, now, quick, some_spans};

/// Spans in each good file, and spans that the name of each bad file promises.
const SPANS: u64 = 3;

/// A state directory with good files, and bad files between them.
struct StateDir {
    scratch: tempfile::TempDir,
    /// A number that no other test uses: it stands in the names of the files, which the tests look for in the shared
    /// log.
    number: u64,
    next: u64,
    good: Vec<SpanData>,
    bad: Vec<String>,
}

impl StateDir {
    fn new(number: u64) -> Self {
        log::capture();
        let scratch = tempfile::tempdir().expect("a temporary directory");
        fs::create_dir_all(ended_process(&scratch.path().join("state")).join("fallback")).expect("made");
        Self { scratch, number, next: 1, good: Vec::new(), bad: Vec::new() }
    }

    fn path(&self) -> PathBuf {
        self.scratch.path().join("state")
    }

    /// A path among the files of a process that has ended.
    fn in_fallback(&self, name: &str) -> PathBuf {
        ended_process(&self.path()).join("fallback").join(name)
    }

    /// The paths of this name among the files of all processes.
    fn found(&self, name: &str) -> Vec<PathBuf> {
        in_processes(&self.path(), Path::new("fallback").join(name))
    }

    /// The next file name, in the form of the exporter's own names.
    fn name(&mut self, extension: &str) -> String {
        let number = self.next;
        self.next += 1;
        format!("traces-2026020{}T000000.000Z-{number:08}-n{SPANS}.{extension}", self.number)
    }

    /// The path of the next file.
    fn next(&mut self, extension: &str) -> PathBuf {
        let name = self.name(extension);
        self.in_fallback(&name)
    }

    /// Adds a file as the exporter writes it.
    fn add_good(&mut self) {
        let text = self.good_line();
        fs::write(self.next("jsonl"), text).expect("written");
    }

    /// A line of spans that are to be delivered.
    fn good_line(&mut self) -> Vec<u8> {
        let first = 1 + self.good.len() as u64;
        let spans = (first..first + SPANS).map(|number| span(self.number, number)).collect::<Vec<_>>();
        let line = line(&spans);
        self.good.extend(spans);
        line
    }

    /// Spans that are to be delivered, as a protobuf message.
    fn good_message(&mut self) -> Vec<u8> {
        let text = self.good_line();
        json::from_line(text.trim_ascii_end()).expect("our own line").0.to_vec()
    }

    /// The path of the next bad file; a good file follows it.
    fn bad(&mut self, extension: &str) -> PathBuf {
        let name = self.name(extension);
        let path = self.in_fallback(&name);
        self.bad.push(name);
        self.add_good();
        path
    }

    fn write_bad(&mut self, extension: &str, content: impl AsRef<[u8]>) {
        fs::write(self.bad(extension), content).expect("written");
    }

    fn start(&self, collector: &MockCollector) -> ResilientSpanExporter {
        let builder = ResilientSpanExporter::builder().with_primary(http(collector));
        // The file names carry dates in the past: no file is too old.
        let builder = quick(builder).with_fallback_max_age(Duration::from_secs(100 * 365 * 24 * 3_600));
        builder.with_state_dir(self.path()).build().expect("the exporter starts in spite of bad files")
    }

    /// Starts an exporter on the directory and checks all that this module promises. `lost`: spans that the names of
    /// bad files promise and that nothing holds.
    #[track_caller]
    fn assert_delivered_beside_bad_files(&self, lost: u64) {
        let collector = MockCollector::start().expect("loopback");
        let before = Work::of_this_thread();
        let exporter = self.start(&collector);
        let handle = exporter.handle();
        export(&exporter, self.number, 0);
        let work = Work::of_this_thread().since(before);
        assert!(work.reads < 50 && work.bytes < 64 << 10, "the start has read the files: {work:?}");
        assert!(work.processor < Duration::from_secs(2), "the start has decoded the files: {work:?}");
        eventually("the live spans", || has(&collector, &live(self.number, 0)));
        eventually("the good files", || self.good.iter().all(|span| has(&collector, span)));
        eventually("an empty store", || handle.ledger().in_fallback == 0);
        let ledger = handle.ledger();
        assert_eq!(ledger.imbalance(), 0, "{ledger:?}");
        assert_eq!(ledger.delivered, self.good.len() as u64 + 1, "{ledger:?}");
        assert_eq!(ledger.dropped.get("corrupt").copied().unwrap_or(0), lost, "{ledger:?}");
        assert_eq!(ledger.lost(), lost, "{ledger:?}");
        // The exporter accepts and delivers as before.
        export(&exporter, self.number, 1);
        eventually("the next live span", || has(&collector, &live(self.number, 1)));
        let is_named = |issue: &String| issue.contains("set aside in quarantine");
        eventually("health names them", || handle.health().issues.iter().any(is_named) || self.bad.is_empty());
        exporter.shutdown().expect("nothing waits");
        self.assert_set_aside();
        // The next exporter finds none of the files.
        let exporter = self.start(&collector);
        assert_eq!(exporter.handle().ledger().recovered, 0);
        exporter.shutdown().expect("nothing waits");
        self.assert_set_aside();
    }

    /// The bad files are in the quarantine, and the log names each once.
    #[track_caller]
    fn assert_set_aside(&self) {
        for name in &self.bad {
            let set_aside = self.found(&format!("quarantine/{name}"));
            assert_eq!(set_aside.len(), 1, "{name} is in the quarantine once: {set_aside:?}");
            assert_eq!(self.found(name), Vec::<PathBuf>::new(), "{name} is still there");
            let lines = log::warnings_about(name);
            assert_eq!(lines.len(), 1, "{name} in the log:\n{}", lines.join("\n"));
        }
    }
}

#[track_caller]
fn export(exporter: &ResilientSpanExporter, test: u64, number: u64) {
    let begun = now();
    exporter.export(vec![live(test, number)]).now_or_never().expect("export never waits").expect("accepted");
    // A busy machine may keep this thread waiting for a while.
    let took = begun.elapsed();
    assert!(took < PATIENCE / 3, "export took {took:?}");
}

/// A span that a test exports while the exporter runs.
fn live(test: u64, number: u64) -> SpanData {
    span(test, 1_000_000 + number)
}

fn span(test: u64, number: u64) -> SpanData {
    let mut span = some_spans(1).remove(0);
    let (trace, id) = (TraceId::from(u128::from(test)), SpanId::from(number));
    span.span_context = SpanContext::new(trace, id, TraceFlags::SAMPLED, false, TraceState::default());
    span
}

/// The spans as a line of a fallback file.
fn line(spans: &[SpanData]) -> Vec<u8> {
    let id = BatchId { incarnation: 0, seq: 0 };
    let encoder = Encoder::new(&Resource::builder_empty().build());
    let payload = encoder.encode(id, SystemTime::UNIX_EPOCH, spans);
    let mut lines = json::to_lines(payload.bytes(), 1_000_000).expect("our own bytes");
    assert_eq!(lines.len(), 1);
    let mut text = lines.remove(0).text;
    text.push(b'\n');
    text
}

fn has(collector: &MockCollector, span: &SpanData) -> bool {
    collector.contains(span.span_context.trace_id().to_bytes(), span.span_context.span_id().to_bytes())
}

#[test]
fn links_pipes_sockets_devices_and_directories_are_not_opened() {
    let mut state_dir = StateDir::new(1);
    let secret = state_dir.scratch.path().join("secret");
    let content = line(&[span(1, 77)]);
    fs::write(&secret, &content).expect("written");
    state_dir.add_good();
    symlink(&secret, state_dir.bad("jsonl")).expect("linked");
    symlink("/dev/zero", state_dir.bad("jsonl")).expect("linked");
    symlink("/nowhere/at/all", state_dir.bad("jsonl.zst")).expect("linked");
    let itself = state_dir.bad("jsonl");
    symlink(&itself, &itself).expect("linked");
    fs::hard_link(&secret, state_dir.bad("jsonl")).expect("linked");
    assert!(Command::new("mkfifo").arg(state_dir.bad("jsonl.gz")).status().expect("coreutils").success());
    // The path of a socket must be short: the socket is bound elsewhere, then moved.
    let short = tempfile::tempdir().expect("a temporary directory");
    let _listening = UnixListener::bind(short.path().join("s")).expect("bound");
    fs::rename(short.path().join("s"), state_dir.bad("jsonl")).expect("the same file system");
    let directory = state_dir.bad("jsonl");
    fs::create_dir(&directory).expect("made");
    fs::write(directory.join("inside"), "text").expect("written");
    // The store counts no spans of these names, since it opens none of them: none is lost.
    state_dir.assert_delivered_beside_bad_files(0);
    assert_eq!(fs::read(&secret).expect("there"), content);
}

#[test]
fn bytes_without_spans_are_set_aside_and_the_files_beside_them_delivered() {
    let mut state_dir = StateDir::new(2);
    state_dir.add_good();
    let noise = noise(100_000);
    for extension in ["jsonl", "jsonl.zst", "jsonl.gz", "binpb", "binpb.zst", "binpb.gz"] {
        state_dir.write_bad(extension, &noise);
    }
    // Noise behind its length, noise cut off before that length, and a line instead of a message.
    state_dir.write_bad("binpb", framed(&noise));
    state_dir.write_bad("binpb", &framed(&noise)[..noise.len()]);
    state_dir.write_bad("binpb", line(&[span(2, 556)]));
    state_dir.write_bad("jsonl.zst", [ZSTD_MAGIC, &noise].concat());
    state_dir.write_bad("jsonl.gz", [GZIP_MAGIC, &noise].concat());
    // Lengths that exceed the memory: of a zstd frame (8 bytes, all ones), of a window (the largest exponent), of a
    // message behind its length, of a field in a message.
    state_dir.write_bad("jsonl.zst", [ZSTD_MAGIC, &[0xe0], &[0xff; 8], &noise[..50]].concat());
    state_dir.write_bad("jsonl.zst", [ZSTD_MAGIC, &[0x00, 0xff], &noise[..50]].concat());
    state_dir.write_bad("jsonl", [&[0xff, 0xff, 0xff, 0xff], &noise[..50]].concat());
    state_dir.write_bad("jsonl", [0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f, 1]);
    // One byte of the text is not UTF-8.
    let mut text = line(&[span(2, 555)]);
    let at = text.windows(4).position(|four| four == b"work").expect("its name");
    text[at] = 0xff;
    state_dir.write_bad("jsonl", &text);
    // Numbers outside their types.
    state_dir.write_bad("jsonl", spans_json(r#"{"name":"n","startTimeUnixNano":"99999999999999999999999"}"#));
    state_dir.write_bad("jsonl", spans_json(&format!(r#"{{"name":"n","kind":1{}}}"#, "0".repeat(10_000))));
    // An empty file, and one of line feeds alone: they hold fewer spans than their names promise.
    let bad = state_dir.bad.len() as u64;
    fs::write(state_dir.next("jsonl"), "").expect("written");
    fs::write(state_dir.next("jsonl"), "\n".repeat(50_000)).expect("written");
    state_dir.assert_delivered_beside_bad_files(SPANS * (bad + 2));
}

#[test]
fn foreign_json_is_set_aside_and_good_lines_of_the_same_file_are_delivered() {
    let mut state_dir = StateDir::new(3);
    state_dir.add_good();
    for other in
        ["{\"level\":\"info\",\"message\":\"not ours\"}\n", "[1,2,3]\n", "null\n", "\"text\"\n", "4\n", "{}{}\n"]
    {
        state_dir.write_bad("jsonl", other);
    }
    state_dir.write_bad("jsonl", "{\"resourceMetrics\":[]}\n{\"resourceLogs\":[]}\n".repeat(500));
    // Lines of a later version: one that names its format, and one with an unknown key for spans.
    state_dir.write_bad("jsonl", "{\"holdfast\":{\"format\":2}}\n");
    state_dir.write_bad("jsonl", "{\"spans\":[{\"name\":\"n\"}]}\n");
    // Values nested deeper than any exporter writes, closed and not closed.
    state_dir.write_bad("jsonl", format!("{}\n", "[".repeat(200_000)));
    state_dir.write_bad("jsonl", format!("{}0{}\n", "{\"a\":".repeat(50_000), "}".repeat(50_000)));
    let (open, close) = ("{\"arrayValue\":{\"values\":[", "]}}");
    let deep = format!("{}{}", open.repeat(5_000), close.repeat(5_000));
    state_dir.write_bad("jsonl", spans_json(&format!(r#"{{"attributes":[{{"key":"k","value":{deep}}}]}}"#)));
    let lost = SPANS * state_dir.bad.len() as u64;
    // Two signals in one file: its spans are delivered, and are as many as its name promises.
    let mixed = [state_dir.good_line(), b"{\"resourceLogs\":[{\"scopeLogs\":[]}]}\n".to_vec()].concat();
    state_dir.write_bad("jsonl", mixed);
    // The same as messages behind their lengths: the length of the foreign message gives the start of the next one.
    let messages =
        [framed(&state_dir.good_message()), framed(b"\x0a\x05\x12\x03\x12\x50"), framed(&state_dir.good_message())]
            .concat();
    state_dir.write_bad("binpb", messages);
    // An unknown field is no damage.
    let text = String::from_utf8(state_dir.good_line()).expect("JSON");
    let newer = text.replacen("{\"traceId\"", "{\"inventedIn2030\":{\"deep\":[1,{}]},\"traceId\"", 1);
    assert_ne!(newer, text);
    fs::write(state_dir.next("jsonl"), newer).expect("written");
    state_dir.assert_delivered_beside_bad_files(lost);
}

#[test]
fn files_with_foreign_names_stay_untouched() {
    let mut state_dir = StateDir::new(4);
    state_dir.add_good();
    let foreign = [
        "notes.txt",
        "logs-20260204T000000.000Z-00000001-n3.jsonl",
        "traces-20260204T000000.000Z-00000001-n3.jsonl.br",
        "traces-v2-20260204T000000.000Z-00000001-n3.jsonl",
        "traces-20260204T000000.000Z-00000001-n3.jsonl.zst.part",
        "traces-20260204T000000.000Z-00000001-n-3.jsonl",
        "traces-20261304T000000.000Z-00000001-n3.jsonl",
    ];
    for name in foreign {
        fs::write(state_dir.in_fallback(name), name).expect("written");
    }
    state_dir.assert_delivered_beside_bad_files(0);
    for name in foreign {
        let [found] = &state_dir.found(name)[..] else { panic!("{name} is there once: {:?}", state_dir.found(name)) };
        assert_eq!(fs::read(found).expect("readable"), name.as_bytes());
        assert_eq!(log::warnings_about(name), Vec::<String>::new());
    }
}

/// Runs in a process of its own, since the peak of the memory is one number for a whole process.
#[test]
fn giants_and_bombs_take_neither_memory_nor_the_start() {
    const CHILD: &str = "HOSTILE_GIANTS";
    const TEST: &str = "hostile::giants_and_bombs_take_neither_memory_nor_the_start";
    if std::env::var_os(CHILD).is_none() {
        let program = std::env::current_exe().expect("this program");
        let mut child = Command::new(program);
        let output = child.args(["--exact", TEST, "--nocapture"]).env(CHILD, "1").output().expect("started");
        let printed = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success() && printed.contains("1 passed"), "{printed}");
        return;
    }
    let mut state_dir = StateDir::new(5);
    state_dir.add_good();
    // A hole of a terabyte: larger than the limit of the store.
    let giant = File::create(state_dir.bad("jsonl")).expect("made");
    giant.set_len(1 << 40).expect("a file system with holes");
    // A gibibyte: within the limit of the store, and larger than any file that the store writes. And 200 MiB of zero
    // bytes, one line that is read to its end.
    for length in [1 << 30, 200 << 20] {
        let long = File::create(state_dir.bad("jsonl")).expect("made");
        long.set_len(length).expect("a file system with holes");
    }
    // One line of a gibibyte, and a gibibyte of empty lines, in parts of 16 MiB.
    let parts = 64;
    let text = spans_json(&format!(r#"{{"name":"{}"}}"#, "a".repeat(16 << 20)));
    let (long, blank) = (&text.as_bytes()[..16 << 20], vec![b'\n'; 16 << 20]);
    let messages = framed(&vec![0; (1 << 20) - 4]).repeat(16);
    for (compression, pack) in [("zst", zstd_of as fn(&[u8]) -> Vec<u8>), ("gz", gzip_of)] {
        // As messages behind their lengths, the blank lines begin with one of 168 MB, more than a message may have.
        for (format, content) in [("jsonl", long), ("jsonl", &blank), ("binpb", &blank), ("binpb", &messages)] {
            let part = pack(content);
            let mut file = File::create(state_dir.bad(&format!("{format}.{compression}"))).expect("made");
            (0..parts).for_each(|_| file.write_all(&part).expect("written"));
        }
    }
    let before = peak_memory_kib();
    state_dir.assert_delivered_beside_bad_files(SPANS * (state_dir.bad.len() as u64 - 2));
    let took = peak_memory_kib() - before;
    println!("peak memory {before} KiB before, {took} KiB more");
    // A record may have up to 64 MiB, since it may be one span, and its memory may move once as it grows. The reader
    // allocates nothing for a length that a file merely promises.
    assert!(took < 128 << 10, "{took} KiB");
}

/// Hundreds of files that are read without a span, and thousands of links that are moved to the quarantine. The start
/// takes over the first of the files.
#[test]
fn many_bad_files_do_not_delay_the_start() {
    let mut state_dir = StateDir::new(6);
    let lost = 500;
    for _ in 0..lost {
        fs::write(state_dir.next("jsonl"), "not ours\n").expect("written");
    }
    for _ in 0..3_000 {
        symlink("/dev/zero", state_dir.next("jsonl")).expect("linked");
    }
    state_dir.add_good();
    state_dir.assert_delivered_beside_bad_files(SPANS * lost);
    let entries = state_dir.found("").into_iter().flat_map(|files| fs::read_dir(files).expect("readable"));
    let left = entries.filter(|entry| entry.as_ref().is_ok_and(|entry| has_own_name(&entry.path()))).count();
    assert!(left <= 2_900, "{left} bad files are left after two starts");
}

/// While the disk thread reads bad files, new spans are accepted, written to files and delivered as usual.
#[test]
fn an_outage_over_bad_files_loses_nothing() {
    let mut state_dir = StateDir::new(7);
    // One line each, of which the disk thread reads 256 MiB.
    let part = zstd_of(&vec![b'a'; 16 << 20]);
    for _ in 0..6 {
        let name = state_dir.name("jsonl.zst");
        fs::write(state_dir.in_fallback(&name), part.repeat(17)).expect("written");
        state_dir.bad.push(name);
    }
    state_dir.add_good();
    let collector = MockCollector::start().expect("loopback");
    // The exporter has not called the stopped collector yet: it begins to replay the first file at once.
    collector.stop();
    let builder = ResilientSpanExporter::builder().with_primary(http(&collector)).with_buffer_size(4_000);
    let builder = quick(builder).with_fallback_max_age(Duration::from_secs(100 * 365 * 24 * 3_600));
    let exporter = builder.with_state_dir(state_dir.path()).build().expect("valid");
    let handle = exporter.handle();
    eventually("the first reading", || state_dir.found(&state_dir.bad[0]).iter().any(|path| is_open(path)));
    let made = 12_000;
    let mut longest = Duration::ZERO;
    for batch in 0..made / 100 {
        let spans = (0..100).map(|number| live(state_dir.number, batch * 100 + number)).collect();
        exporter.export(spans).now_or_never().expect("export never waits").expect("accepted");
        // Batches follow as fast as the disk thread spills them, which interrupts its reading each time.
        let begun = now();
        eventually("room in memory", || waiting(&handle) < 3_900);
        longest = longest.max(begun.elapsed());
    }
    assert!(longest < Duration::from_secs(2), "a spill waited for {longest:?}");
    collector.start_again().expect("the same ports");
    eventually("every span leaves memory and files", || handle.ledger().in_fallback + waiting(&handle) == 0);
    let ledger = handle.ledger();
    assert_eq!(ledger.lost(), SPANS * state_dir.bad.len() as u64, "{ledger:?}");
    assert_eq!((ledger.delivered, ledger.imbalance()), (made + state_dir.good.len() as u64, 0), "{ledger:?}");
    assert!((0..made).all(|number| has(&collector, &live(state_dir.number, number))));
    exporter.shutdown().expect("nothing waits");
    state_dir.assert_set_aside();
}

fn waiting(handle: &Handle) -> u64 {
    let ledger = handle.ledger();
    ledger.buffered + ledger.in_flight
}

/// This process has the file open.
fn is_open(path: &Path) -> bool {
    let open = fs::read_dir("/proc/self/fd").expect("Linux");
    open.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok()).any(|target| target == path)
}

fn has_own_name(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("traces-"))
}

/// A line of a file with one span, which is given as JSON.
fn spans_json(span: &str) -> String {
    format!("{{\"resourceSpans\":[{{\"scopeSpans\":[{{\"spans\":[{span}]}}]}}]}}\n")
}

/// A message behind its length.
fn framed(message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).expect("short");
    [&length.to_be_bytes(), message].concat()
}

/// Bytes without any pattern, always the same.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    std::iter::repeat_with(next).take(len).collect()
}

fn zstd_of(text: &[u8]) -> Vec<u8> {
    zstd::encode_all(text, 1).expect("memory")
}

fn gzip_of(text: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(text).expect("memory");
    encoder.finish().expect("memory")
}

fn peak_memory_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

const ZSTD_MAGIC: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
const GZIP_MAGIC: &[u8] = &[0x1f, 0x8b, 8, 0];
