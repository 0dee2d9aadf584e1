//! The memory that one line of 60 MiB takes on its way from a file to a request. One test: the peak is of the whole
//! process.

use file_fallback::{Config, FileFallback, Next};
use otlp_payload::json;

#[test]
fn a_line_of_60_mib_takes_two_copies_of_memory_at_most() {
    let scratch = tempfile::tempdir().expect("a temporary directory");
    let (head, tail) = (r#"{"resourceSpans":[{"scopeSpans":[{"spans":[{"name":""#, "\"}]}]}]}\n");
    let line = [head.as_bytes(), &vec![b'a'; LINE], tail.as_bytes()].concat();
    std::fs::write(scratch.path().join("traces-20260201T000000.000Z-00000001-n1.jsonl"), &line).expect("written");
    drop(line);
    let config = Config::builder(scratch.path()).with_max_record_bytes(64 << 20).build().expect("valid");
    let mut store = FileFallback::open(config).expect("free");

    peak();
    let before = peak();
    let mut group = loop {
        match store.next_group(1 << 20).expect("readable") {
            Next::Group(group) => break group,
            Next::Pause => {}
            Next::Empty => panic!("the line was not read"),
        }
    };
    let requests = store.decode(&mut group, |_, line| json::from_line_within(&line, 64 << 20).expect("as written"));
    let grown = peak() - before;
    assert_eq!(requests[0].as_ref().map(|(_, spans)| *spans), Some(1));
    assert!(grown <= 2 * LINE + (4 << 20), "{} MiB", grown >> 20);
}

/// The most memory that the process has taken since the last call, in bytes.
fn peak() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    // Begins a new peak.
    std::fs::write("/proc/self/clear_refs", "5").expect("our own");
    peak.trim().trim_end_matches(" kB").parse::<usize>().expect("a number") << 10
}

const LINE: usize = 60 << 20;
