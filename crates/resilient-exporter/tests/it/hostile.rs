//! What others may have put into the directory before the program starts: it is set aside, named in the log once, and its
//! neighbours are delivered; nobody waits for it.

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
use crate::support::{eventually, http, now, quick, some_spans};

/// Spans in each good file, and what the name of each bad one promises.
const SPANS: u64 = 3;

/// A state directory with good files in it, and a place for others between them.
struct Scene {
    scratch: tempfile::TempDir,
    /// Tells the names of this scene from those of all others, which share the log.
    number: u64,
    next: u64,
    good: Vec<SpanData>,
    bad: Vec<String>,
}

impl Scene {
    fn new(number: u64) -> Self {
        log::capture();
        let scratch = tempfile::tempdir().expect("a temporary directory");
        fs::create_dir_all(scratch.path().join("state/fallback")).expect("made");
        Self { scratch, number, next: 1, good: Vec::new(), bad: Vec::new() }
    }

    fn state(&self) -> PathBuf {
        self.scratch.path().join("state")
    }

    fn in_fallback(&self, name: &str) -> PathBuf {
        self.state().join("fallback").join(name)
    }

    /// The next name, as we would have written it.
    fn name(&mut self, extension: &str) -> String {
        let number = self.next;
        self.next += 1;
        format!("traces-2026020{}T000000.000Z-{number:08}-n{SPANS}.{extension}", self.number)
    }

    /// The place of the next file.
    fn next(&mut self, extension: &str) -> PathBuf {
        let name = self.name(extension);
        self.in_fallback(&name)
    }

    /// A file of ours.
    fn good(&mut self) {
        let text = self.good_line();
        fs::write(self.next("jsonl"), text).expect("written");
    }

    /// A line that is to be delivered.
    fn good_line(&mut self) -> Vec<u8> {
        let first = 1 + self.good.len() as u64;
        let spans = (first..first + SPANS).map(|number| span(self.number, number)).collect::<Vec<_>>();
        let line = line(&spans);
        self.good.extend(spans);
        line
    }

    /// The same as protobuf.
    fn good_message(&mut self) -> Vec<u8> {
        let text = self.good_line();
        json::from_line(text.trim_ascii_end()).expect("our own line").0.to_vec()
    }

    /// A place for a file that is not ours, with a good one behind it.
    fn bad(&mut self, extension: &str) -> PathBuf {
        let name = self.name(extension);
        let path = self.in_fallback(&name);
        self.bad.push(name);
        self.good();
        path
    }

    fn write_bad(&mut self, extension: &str, content: impl AsRef<[u8]>) {
        fs::write(self.bad(extension), content).expect("written");
    }

    fn start(&self, collector: &MockCollector) -> ResilientSpanExporter {
        let builder = ResilientSpanExporter::builder().with_primary(http(collector));
        // The names above are of some past year.
        let builder = quick(builder).with_fallback_max_age(Duration::from_secs(100 * 365 * 24 * 3_600));
        builder.with_state_dir(self.state()).build().expect("a bad file keeps nobody from starting")
    }

    /// Starts with all that lies there, and makes sure of everything that this module promises. `lost` are the spans
    /// that were counted as stored by their names and are not to be had.
    #[track_caller]
    fn play(&self, lost: u64) {
        let collector = MockCollector::start().expect("loopback");
        let begun = now();
        let exporter = self.start(&collector);
        let handle = exporter.handle();
        export(&exporter, self.number, 0);
        let ready = begun.elapsed();
        assert!(ready < Duration::from_secs(2), "accepted its first batch after {ready:?}");
        eventually("the live spans", || has(&collector, &live(self.number, 0)));
        eventually("the good files", || self.good.iter().all(|span| has(&collector, span)));
        eventually("an empty store", || handle.ledger().in_fallback == 0);
        let ledger = handle.ledger();
        assert_eq!(ledger.imbalance(), 0, "{ledger:?}");
        assert_eq!(ledger.delivered, self.good.len() as u64 + 1, "{ledger:?}");
        assert_eq!(ledger.dropped.get("corrupt").copied().unwrap_or(0), lost, "{ledger:?}");
        assert_eq!(ledger.lost(), lost, "{ledger:?}");
        // Accepts and delivers as before.
        export(&exporter, self.number, 1);
        eventually("the next live span", || has(&collector, &live(self.number, 1)));
        exporter.shutdown().expect("nothing waits");
        self.assert_set_aside();
        // Nothing is found twice.
        let exporter = self.start(&collector);
        assert_eq!(exporter.handle().ledger().recovered, 0);
        exporter.shutdown().expect("nothing waits");
        self.assert_set_aside();
    }

    /// The bad ones are out of the way, whole, and the log names each once.
    #[track_caller]
    fn assert_set_aside(&self) {
        let quarantine = self.in_fallback("quarantine");
        for name in &self.bad {
            assert!(fs::symlink_metadata(quarantine.join(name)).is_ok(), "{name} is not in the quarantine");
            assert!(fs::symlink_metadata(self.in_fallback(name)).is_err(), "{name} is still there");
            let lines = log::warnings_about(name);
            assert_eq!(lines.len(), 1, "{name} in the log:\n{}", lines.join("\n"));
        }
    }
}

#[track_caller]
fn export(exporter: &ResilientSpanExporter, scene: u64, number: u64) {
    let begun = now();
    exporter.export(vec![live(scene, number)]).now_or_never().expect("export never waits").expect("accepted");
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(1), "export took {took:?}");
}

/// A span that a scene makes while it runs.
fn live(scene: u64, number: u64) -> SpanData {
    span(scene, 1_000_000 + number)
}

fn span(scene: u64, number: u64) -> SpanData {
    let mut span = some_spans(1).remove(0);
    let (trace, id) = (TraceId::from(u128::from(scene)), SpanId::from(number));
    span.span_context = SpanContext::new(trace, id, TraceFlags::SAMPLED, false, TraceState::default());
    span
}

/// As we write it.
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
    let mut scene = Scene::new(1);
    let secret = scene.scratch.path().join("secret");
    let content = line(&[span(1, 77)]);
    fs::write(&secret, &content).expect("written");
    scene.good();
    symlink(&secret, scene.bad("jsonl")).expect("linked");
    symlink("/dev/zero", scene.bad("jsonl")).expect("linked");
    symlink("/nowhere/at/all", scene.bad("jsonl.zst")).expect("linked");
    let itself = scene.bad("jsonl");
    symlink(&itself, &itself).expect("linked");
    fs::hard_link(&secret, scene.bad("jsonl")).expect("linked");
    assert!(Command::new("mkfifo").arg(scene.bad("jsonl.gz")).status().expect("coreutils").success());
    // The name of a socket is to be short: made elsewhere, and moved.
    let short = tempfile::tempdir().expect("a temporary directory");
    let _listening = UnixListener::bind(short.path().join("s")).expect("bound");
    fs::rename(short.path().join("s"), scene.bad("jsonl")).expect("the same file system");
    let directory = scene.bad("jsonl");
    fs::create_dir(&directory).expect("made");
    fs::write(directory.join("inside"), "kept").expect("written");
    // Counted by their names they are not: nobody can say that there was a span in them.
    scene.play(0);
    assert_eq!(fs::read(&secret).expect("there"), content);
}

#[test]
fn bytes_that_are_no_spans_are_set_aside_and_the_neighbours_delivered() {
    let mut scene = Scene::new(2);
    scene.good();
    let noise = noise(100_000);
    for extension in ["jsonl", "jsonl.zst", "jsonl.gz", "binpb", "binpb.zst", "binpb.gz"] {
        scene.write_bad(extension, &noise);
    }
    // Behind its right length; behind one byte more than there is; lines where messages should be.
    scene.write_bad("binpb", framed(&noise));
    scene.write_bad("binpb", &framed(&noise)[..noise.len()]);
    scene.write_bad("binpb", line(&[span(2, 556)]));
    scene.write_bad("jsonl.zst", [ZSTD_MAGIC, &noise].concat());
    scene.write_bad("jsonl.gz", [GZIP_MAGIC, &noise].concat());
    // Lengths that nobody has memory for: of a zstd frame (8 bytes, all ones), of a window (the largest exponent), of a
    // message behind its length, of a field in a message.
    scene.write_bad("jsonl.zst", [ZSTD_MAGIC, &[0xe0], &[0xff; 8], &noise[..50]].concat());
    scene.write_bad("jsonl.zst", [ZSTD_MAGIC, &[0x00, 0xff], &noise[..50]].concat());
    scene.write_bad("jsonl", [&[0xff, 0xff, 0xff, 0xff], &noise[..50]].concat());
    scene.write_bad("jsonl", [0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f, 1]);
    // One byte of a text is no UTF-8.
    let mut text = line(&[span(2, 555)]);
    let at = text.windows(4).position(|four| four == b"work").expect("its name");
    text[at] = 0xff;
    scene.write_bad("jsonl", &text);
    // Numbers of no type.
    scene.write_bad("jsonl", spans_json(r#"{"name":"n","startTimeUnixNano":"99999999999999999999999"}"#));
    scene.write_bad("jsonl", spans_json(&format!(r#"{{"name":"n","kind":1{}}}"#, "0".repeat(10_000))));
    // A file of nothing, and one of nothing but line feeds: they hold fewer spans than their names say.
    let bad = scene.bad.len() as u64;
    fs::write(scene.next("jsonl"), "").expect("written");
    fs::write(scene.next("jsonl"), "\n".repeat(50_000)).expect("written");
    scene.play(SPANS * (bad + 2));
}

#[test]
fn json_of_others_is_set_aside_and_what_is_good_in_the_same_file_delivered() {
    let mut scene = Scene::new(3);
    scene.good();
    for other in
        ["{\"level\":\"info\",\"message\":\"not ours\"}\n", "[1,2,3]\n", "null\n", "\"text\"\n", "4\n", "{}{}\n"]
    {
        scene.write_bad("jsonl", other);
    }
    scene.write_bad("jsonl", "{\"resourceMetrics\":[]}\n{\"resourceLogs\":[]}\n".repeat(500));
    // What a later version of us may write: a line that says so, another word for what we know, a form that we do not know.
    scene.write_bad("jsonl", "{\"holdfast\":{\"format\":2}}\n");
    scene.write_bad("jsonl", "{\"spans\":[{\"name\":\"n\"}]}\n");
    // Deeper than any honest message, closed and not closed.
    scene.write_bad("jsonl", format!("{}\n", "[".repeat(200_000)));
    scene.write_bad("jsonl", format!("{}0{}\n", "{\"a\":".repeat(50_000), "}".repeat(50_000)));
    let (open, close) = ("{\"arrayValue\":{\"values\":[", "]}}");
    let deep = format!("{}{}", open.repeat(5_000), close.repeat(5_000));
    scene.write_bad("jsonl", spans_json(&format!(r#"{{"attributes":[{{"key":"k","value":{deep}}}]}}"#)));
    let lost = SPANS * scene.bad.len() as u64;
    // Two signals in one file, spans first and last: these are delivered, and are all that its name promises.
    let mixed = [scene.good_line(), b"{\"resourceLogs\":[{\"scopeLogs\":[]}]}\n".to_vec()].concat();
    scene.write_bad("jsonl", mixed);
    // The same as messages behind their lengths: what is in between ends where its length says.
    let messages =
        [framed(&scene.good_message()), framed(b"\x0a\x05\x12\x03\x12\x50"), framed(&scene.good_message())].concat();
    scene.write_bad("binpb", messages);
    // A field that we do not know is no damage.
    let text = String::from_utf8(scene.good_line()).expect("JSON");
    let newer = text.replacen("{\"traceId\"", "{\"inventedIn2030\":{\"deep\":[1,{}]},\"traceId\"", 1);
    assert_ne!(newer, text);
    fs::write(scene.next("jsonl"), newer).expect("written");
    scene.play(lost);
}

#[test]
fn names_that_we_would_not_write_stay_untouched() {
    let mut scene = Scene::new(4);
    scene.good();
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
        fs::write(scene.in_fallback(name), name).expect("written");
    }
    scene.play(0);
    for name in foreign {
        assert_eq!(fs::read(scene.in_fallback(name)).expect("there"), name.as_bytes());
        assert_eq!(log::warnings_about(name), Vec::<String>::new());
    }
}

/// In a process of its own, since the peak of the memory is one number for a whole process.
#[test]
fn giants_and_bombs_take_neither_memory_nor_the_start() {
    const CHILD: &str = "HOSTILE_GIANTS";
    const TEST: &str = "hostile::giants_and_bombs_take_neither_memory_nor_the_start";
    if std::env::var_os(CHILD).is_none() {
        let program = std::env::current_exe().expect("this program");
        let mut child = Command::new(program);
        let output = child.args(["--exact", TEST, "--nocapture"]).env(CHILD, "1").output().expect("started");
        let told = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success() && told.contains("1 passed"), "{told}");
        return;
    }
    let mut scene = Scene::new(5);
    scene.good();
    // A terabyte of nothing: larger than the store may be.
    let giant = File::create(scene.bad("jsonl")).expect("made");
    giant.set_len(1 << 40).expect("a file system with holes");
    // A gibibyte, which the store may be, and a file of ours not; and one line of zero bytes that is read to its end.
    for length in [1 << 30, 200 << 20] {
        let long = File::create(scene.bad("jsonl")).expect("made");
        long.set_len(length).expect("a file system with holes");
    }
    // One line of a gibibyte, and a gibibyte of empty lines, in parts of 16 MiB.
    let parts = 64;
    let text = spans_json(&format!(r#"{{"name":"{}"}}"#, "a".repeat(16 << 20)));
    let (long, blank) = (&text.as_bytes()[..16 << 20], vec![b'\n'; 16 << 20]);
    let messages = framed(&vec![0; (1 << 20) - 4]).repeat(16);
    for (compression, pack) in [("zst", zstd_of as fn(&[u8]) -> Vec<u8>), ("gz", gzip_of)] {
        // As messages behind their lengths, the blank lines are one of 168 MB, which may not be.
        for (format, content) in [("jsonl", long), ("jsonl", &blank), ("binpb", &blank), ("binpb", &messages)] {
            let part = pack(content);
            let mut file = File::create(scene.bad(&format!("{format}.{compression}"))).expect("made");
            (0..parts).for_each(|_| file.write_all(&part).expect("written"));
        }
    }
    let before = peak_memory_kib();
    scene.play(SPANS * (scene.bad.len() as u64 - 2));
    let took = peak_memory_kib() - before;
    println!("peak memory {before} KiB before, {took} KiB more");
    // A record of up to 64 MiB would be taken, as it may be one span, and the memory for it may move once as it grows. No length
    // that a file or a part of it promises is believed.
    assert!(took < 128 << 10, "{took} KiB");
}

/// Thousands of what is only to be moved away, and of what is to be read in vain.
#[test]
fn many_bad_files_do_not_delay_the_start() {
    let mut scene = Scene::new(6);
    for _ in 0..3_000 {
        symlink("/dev/zero", scene.next("jsonl")).expect("linked");
    }
    let lost = 500;
    for _ in 0..lost {
        fs::write(scene.next("jsonl"), "not ours\n").expect("written");
    }
    scene.good();
    scene.play(SPANS * lost);
    let left = fs::read_dir(scene.in_fallback("")).expect("readable");
    let left = left.filter(|entry| entry.as_ref().is_ok_and(|entry| is_ours(&entry.path()))).count();
    assert!(left <= 2_900, "{left} are left after two starts");
}

/// While the disk thread reads in vain, new spans are taken, delivered and written to files as ever.
#[test]
fn an_outage_over_bad_files_loses_nothing() {
    let mut scene = Scene::new(7);
    // One line each, of which 256 MiB are read.
    let part = zstd_of(&vec![b'a'; 16 << 20]);
    for _ in 0..6 {
        let name = scene.name("jsonl.zst");
        fs::write(scene.in_fallback(&name), part.repeat(17)).expect("written");
        scene.bad.push(name);
    }
    scene.good();
    let collector = MockCollector::start().expect("loopback");
    // Nobody knows it yet: the first reading begins at once.
    collector.stop();
    let builder = ResilientSpanExporter::builder().with_primary(http(&collector)).with_buffer_size(4_000);
    let builder = quick(builder).with_fallback_max_age(Duration::from_secs(100 * 365 * 24 * 3_600));
    let exporter = builder.with_state_dir(scene.state()).build().expect("valid");
    let handle = exporter.handle();
    let first = scene.in_fallback(&scene.bad[0]);
    eventually("the first reading", || is_open(&first));
    let made = 12_000;
    let mut longest = Duration::ZERO;
    for batch in 0..made / 100 {
        let spans = (0..100).map(|number| live(scene.number, batch * 100 + number)).collect();
        exporter.export(spans).now_or_never().expect("export never waits").expect("accepted");
        // As fast as they can be written: the disk thread comes back from its reading each time.
        let begun = now();
        eventually("room", || waiting(&handle) < 3_900);
        longest = longest.max(begun.elapsed());
    }
    assert!(longest < Duration::from_secs(2), "a spill waited for {longest:?}");
    collector.start_again().expect("the same ports");
    eventually("everything", || handle.ledger().in_fallback + waiting(&handle) == 0);
    let ledger = handle.ledger();
    assert_eq!(ledger.lost(), SPANS * scene.bad.len() as u64, "{ledger:?}");
    assert_eq!((ledger.delivered, ledger.imbalance()), (made + scene.good.len() as u64, 0), "{ledger:?}");
    assert!((0..made).all(|number| has(&collector, &live(scene.number, number))));
    exporter.shutdown().expect("nothing waits");
    scene.assert_set_aside();
}

fn waiting(handle: &Handle) -> u64 {
    let ledger = handle.ledger();
    ledger.buffered + ledger.in_flight
}

/// Whether this process has the file open.
fn is_open(path: &Path) -> bool {
    let open = fs::read_dir("/proc/self/fd").expect("Linux");
    open.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok()).any(|target| target == path)
}

fn is_ours(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("traces-"))
}

/// A whole line around one span's JSON.
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
