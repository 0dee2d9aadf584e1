//! Our files, and other programs' JSON, read by programs that share no code with us.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use otlp_payload::json;
use resilient_exporter::Signal;

use super::stores::{Form, Store, Stores, replay, write_framed};
use super::{Setup, files, signals};
use crate::{Failure, kinds};

/// The limit on a line; spans near it are made.
const LINE_BYTES: usize = 1_000_000;
const NEAR: usize = 985_000;

/// gunzip and `zstd -d` give the bytes of the files that are written without compression.
pub(super) fn same_bytes(stores: &Stores) -> Result<String, Failure> {
    let mut parts = Vec::new();
    for store in &stores.stores {
        let form = store.form;
        let plain = stores.store(form.unpacked());
        if sorted_records(store)? != sorted_records(plain)? {
            return Err(format!("unpacked, the files of {} are not the plain ones", form.name()).into());
        }
        parts.push(format!("{} {} bytes", form.name(), store.bytes()?));
    }
    let lines = sorted_records(stores.store(Form::PLAIN))?;
    let longest = longest(&lines);
    if !(NEAR..=LINE_BYTES).contains(&longest) {
        return Err(format!("the longest line has {longest} bytes: not near the limit of {LINE_BYTES}").into());
    }
    let files = stores.store(Form::PLAIN).files.len();
    Ok(format!("{files} files: {}; {} lines, the longest of {longest}", parts.join(", "), lines.len()))
}

/// Lines with their ends, or messages; in an order that does not depend on which batch was written first.
fn sorted_records(store: &Store) -> Result<Vec<Vec<u8>>, Failure> {
    let mut records = Vec::new();
    for file in &store.unpacked {
        let bytes = fs::read(file)?;
        if store.form.is_json() {
            records.extend(bytes.split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec));
        } else {
            records.extend(framed(&bytes)?.into_iter().map(<[u8]>::to_vec));
        }
    }
    records.sort();
    Ok(records)
}

fn longest(records: &[Vec<u8>]) -> usize {
    records.iter().map(Vec::len).max().unwrap_or(0)
}

/// jq parses each line, and finds in each file as many spans as its name states, and in all files the ids that were
/// made.
pub(super) fn jq(stores: &Stores, folder: &Path) -> Result<String, Failure> {
    const IDS: &str = "fromjson | .resourceSpans[].scopeSpans[].spans[] | .traceId + .spanId";
    const COUNT: &str = "fromjson | [.resourceSpans[].scopeSpans[].spans | length] | add";
    let made = stores.made.iter().map(|&(trace, span)| hex(&trace) + &hex(&span)).collect::<BTreeSet<_>>();
    let (mut files, mut lines) = (0, 0);
    for store in stores.stores.iter().filter(|store| store.form.is_json()) {
        let mut found = Vec::new();
        for file in &store.unpacked {
            // One value for each line: a line that is no JSON ends jq with an error.
            let counts = ask(COUNT, file, folder)?;
            let spans = counts.iter().map(|count| Ok(count.parse::<u64>()?)).sum::<Result<u64, Failure>>()?;
            let text = fs::read(file)?.iter().filter(|byte| **byte == b'\n').count();
            if counts.len() != text || spans != promised(file)? {
                return Err(format!(
                    "{}: {text} lines, of which jq saw {}, with {spans} spans",
                    file.display(),
                    counts.len()
                )
                .into());
            }
            found.extend(ask(IDS, file, folder)?);
            files += 1;
            lines += counts.len();
        }
        if found.len() != made.len() || found.into_iter().collect::<BTreeSet<_>>() != made {
            return Err(format!("the ids in the {} files are not those that were made", store.form.name()).into());
        }
    }
    Ok(format!("{} spans in each form; {files} files, {lines} lines", made.len()))
}

fn ask(question: &str, file: &Path, folder: &Path) -> Result<Vec<String>, Failure> {
    let answer = folder.join("jq.out");
    let status = Command::new("jq")
        .args(["-R", "-r", question])
        .stdin(File::open(file)?)
        .stdout(File::create(&answer)?)
        .status()?;
    if !status.success() {
        return Err(format!("jq refuses {}", file.display()).into());
    }
    Ok(fs::read_to_string(answer)?.lines().map(str::to_owned).collect())
}

/// The number of spans in a file's name.
fn promised(file: &Path) -> Result<u64, Failure> {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let count = name.strip_suffix(".jsonl").and_then(|stem| stem.rsplit_once("-n")).map(|(_, count)| count);
    Ok(count.ok_or_else(|| format!("{name} does not say how many spans it has"))?.parse()?)
}

/// google.protobuf finds in the files, span by span, the request that the stock exporter would have sent.
pub(super) fn protobuf(setup: &Setup, stores: &Stores) -> Result<String, Failure> {
    let mut answer = String::new();
    for store in &stores.stores {
        answer = python(setup, "spans", &with(&stores.witness, &store.unpacked))?;
    }
    Ok(format!("{answer} in each of {} forms, each field alike", stores.stores.len()))
}

/// The comparison is worth something: a value that changed, a line that is missing and one that is there twice are
/// found.
pub(super) fn planted(setup: &Setup, stores: &Stores, folder: &Path) -> Result<String, Failure> {
    let files = &stores.store(Form::PLAIN).unpacked;
    let is_rich = |file: &&PathBuf| fs::read_to_string(file).is_ok_and(|text| text.contains(VALUE));
    let at = files.iter().position(|file| is_rich(&file)).ok_or("a file with every kind of value")?;
    let text = fs::read_to_string(&files[at])?;
    let last = text.trim_end().rfind('\n').map_or(0, |at| at + 1);
    for (bad, found) in [
        (text.replacen(VALUE, OTHER_VALUE, 1), "are not the same"),
        (text[..last].to_owned(), "are missing"),
        (format!("{text}{}", &text[last..]), "stands twice"),
        (text.replacen("\"spanId\":\"", "\"spanId\":\"0", 1), "lower-case hex"),
        (text.replacen("\"kind\":", "\"kinds\":", 1), "kinds"),
    ] {
        let mut files = files.clone();
        files[at] = folder.join("planted.jsonl");
        fs::write(&files[at], bad)?;
        match python(setup, "spans", &with(&stores.witness, &files)) {
            Err(failure) if failure.to_string().contains(found) => {}
            other => return Err(format!("{found:?} was not found: {other:?}").into()),
        }
    }
    Ok("5 kinds of harm, all found".to_owned())
}

/// One of the values of `kinds`, and its neighbour.
const VALUE: &str = "\"doubleValue\":0.1}";
const OTHER_VALUE: &str = "\"doubleValue\":0.10000000000000002}";

/// A later run that reads the files back sends, span by span, the request that the stock exporter would have sent.
pub(super) fn sent_again(setup: &Setup, stores: &Stores, folder: &Path) -> Result<String, Failure> {
    let mut answer = String::new();
    for store in &stores.stores {
        let sent = folder.join(format!("sent{}.pb", store.form.extension()));
        replay(&store.state, stores.made.len(), &sent)?;
        answer = python(setup, "spans", &with(&stores.witness, &[sent]))?;
    }
    Ok(format!("{answer} from each of {} forms, each field alike", stores.stores.len()))
}

/// A span longer than the limit of a line is stored, sent, and readable for all but the Collector.
pub(super) fn oversized(setup: &Setup, folder: &Path) -> Result<String, Failure> {
    let stores = Stores::write(&[kinds::oversized()], folder)?;
    let longest = longest(&sorted_records(stores.store(Form::PLAIN))?);
    if longest <= 1 << 20 {
        return Err(format!("the longest line has {longest} bytes").into());
    }
    jq(&stores, folder)?;
    protobuf(setup, &stores)?;
    let others = files::beside_oversized(setup, &stores)?;
    let sent = sent_again(setup, &stores, folder)?;
    Ok(format!("{sent}; the longest line has {longest} bytes; {others}"))
}

/// Messages that google.protobuf made, of every kind that OTLP has (bytes, maps and lists in each other, values of no
/// kind, empty resources and scopes): its JSON is read by us, and our JSON by it.
pub(super) fn both_ways(setup: &Setup, folder: &Path) -> Result<String, Failure> {
    const MESSAGES: &str = "300";
    let mut answer = String::new();
    // Seeds that stay the same, so that a fault that was found once is found again; and two new ones.
    let random = RandomState::new().build_hasher().finish();
    for seed in [1, random, random.wrapping_add(1)] {
        let folder = folder.join(format!("seed-{seed}"));
        fs::create_dir(&folder)?;
        answer = python(setup, "make", &[folder.clone(), MESSAGES.into(), seed.to_string().into()])?;
        for dialect in DIALECTS {
            let read = folder.join(format!("read-{dialect}.pb"));
            let mut file = File::create(&read)?;
            for line in fs::read_to_string(folder.join(format!("loose-{dialect}.jsonl")))?.lines() {
                write_framed(&mut file, &json::from_line(line.as_bytes())?.0)?;
            }
            python(setup, "messages", &[folder.join("loose.pb"), read])
                .map_err(|failure| format!("seed {seed}, {dialect}: {failure}"))?;
        }
        let written = folder.join("written.jsonl");
        let mut text = Vec::new();
        for message in framed(&fs::read(folder.join("whole.pb"))?)? {
            for line in json::to_lines(message, usize::MAX)? {
                text.extend_from_slice(&line.text);
                text.push(b'\n');
            }
        }
        fs::write(&written, text)?;
        python(setup, "messages", &[folder.join("whole.pb"), written])
            .map_err(|failure| format!("seed {seed}, ours: {failure}"))?;
        for signal in signals::OFFERED {
            both_ways_of(setup, signal, &folder).map_err(|failure| format!("seed {seed}, {signal}, {failure}"))?;
        }
    }
    Ok(format!("3 times {answer}, and as many of logs and of metrics"))
}

/// The same of logs or metrics, log record by log record, or data point by data point.
fn both_ways_of(setup: &Setup, signal: Signal, folder: &Path) -> Result<(), Failure> {
    /// Short enough that many a message is several lines.
    const LINE_BYTES: usize = 3_000;
    let made = folder.join(format!("{signal}.pb"));
    for dialect in DIALECTS {
        let read = folder.join(format!("read-{signal}-{dialect}.pb"));
        let mut file = File::create(&read)?;
        for line in fs::read_to_string(folder.join(format!("{signal}-{dialect}.jsonl")))?.lines() {
            write_framed(&mut file, &json::from_line_of(signal, line.as_bytes(), json::MAX_LINE_BYTES)?.0)?;
        }
        python(setup, signal.as_str(), &[made.clone(), read]).map_err(|failure| format!("{dialect}: {failure}"))?;
    }
    let mut text = Vec::new();
    for message in framed(&fs::read(&made)?)? {
        for line in json::to_lines_of(signal, message, LINE_BYTES)? {
            text.extend_from_slice(&line.text);
            text.push(b'\n');
        }
    }
    let written = folder.join(format!("written-{signal}.jsonl"));
    fs::write(&written, text)?;
    python(setup, signal.as_str(), &[made, written]).map_err(|failure| format!("ours: {failure}"))?;
    Ok(())
}

/// In which google.protobuf writes JSON.
const DIALECTS: [&str; 3] = ["camel", "as-in-proto", "with-defaults"];

/// Messages behind their lengths.
pub(super) fn framed(mut bytes: &[u8]) -> Result<Vec<&[u8]>, Failure> {
    let mut messages = Vec::new();
    while let Some((length, rest)) = bytes.split_first_chunk() {
        let length = usize::try_from(u32::from_be_bytes(*length))?;
        let (message, rest) = rest.split_at_checked(length).ok_or("a message is cut short")?;
        messages.push(message);
        bytes = rest;
    }
    if bytes.is_empty() { Ok(messages) } else { Err("a length is cut short".into()) }
}

/// Asks the Python program; its output is the answer, its standard error the error.
pub(super) fn python(setup: &Setup, command: &str, files: &[PathBuf]) -> Result<String, Failure> {
    let output = Command::new(&setup.python)
        .arg(&setup.otlp_py)
        .arg(command)
        .args(files)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .stdin(Stdio::null())
        .output()?;
    if !output.status.success() {
        return Err(format!("google.protobuf: {}", String::from_utf8_lossy(&output.stderr).trim()).into());
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn with(first: &Path, others: &[PathBuf]) -> Vec<PathBuf> {
    [&[first.to_owned()], others].concat()
}

/// As it is written in OTLP JSON.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
