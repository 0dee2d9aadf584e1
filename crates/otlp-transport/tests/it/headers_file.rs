//! A file of headers that changes, vanishes, is half written or is replaced by something else.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use otlp_transport::{
    Config, ConfigBuilder, ConfigError, Credentials, HeadersFile, HeadersFileProblem, Protocol, Transport, connect,
};
use tempfile::TempDir;

use crate::support::*;

/// In each secret, and in nothing else.
const CANARY: &str = "canary";

/// A file in a directory of its own, and a peer that says which headers came.
struct World {
    dir: TempDir,
    config: ConfigBuilder,
    log: Log,
}

impl World {
    async fn new() -> Self {
        let (listener, address) = listen().await;
        let log = serve_raw(listener, |_| Raw::Answer(http_answer(200, &[], b"")));
        let dir = tempfile::tempdir().expect("a directory");
        Self { dir, config: config(Protocol::HttpProtobuf, address), log }
    }

    /// With the first file, `x-key=canary-1`.
    async fn with_file() -> (Self, Box<dyn Transport>) {
        let world = Self::new().await;
        world.write("x-key=canary-1\n");
        let transport = world.connect();
        assert_eq!(world.send(&*transport).await, ["canary-1"]);
        assert!(transport.take_notes().is_empty());
        (world, transport)
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("headers")
    }

    fn write(&self, text: impl AsRef<[u8]>) {
        fs::write(self.path(), text).expect("written");
    }

    fn connect(&self) -> Box<dyn Transport> {
        let config = self.config.clone().with_header("x-static", "canary-0").with_header("x-key", "canary-0");
        connect(config.with_headers_file(self.path()).build().expect("valid")).expect("valid")
    }

    /// Sends a payload that is delivered, and returns the values of `x-key`.
    async fn send(&self, transport: &dyn Transport) -> Vec<String> {
        assert_eq!(summary(&transport.send(&payload()).await), "delivered, 0 rejected");
        let seen = self.log.lock().expect("not poisoned").last().cloned().expect("a request");
        assert_eq!(seen.header("x-static"), Some("canary-0"), "headers of the settings stay");
        seen.headers.get_all("x-key").iter().map(|value| value.to_str().expect("ASCII").to_owned()).collect()
    }

    /// The only note, free of secrets, about this file.
    fn note(&self, transport: &dyn Transport) -> String {
        let notes = transport.take_notes();
        assert_eq!(notes.len(), 1, "{notes:?}");
        let text = notes[0].message.clone();
        assert!(text.contains(&*self.path().to_string_lossy()) && !text.contains(CANARY), "{text}");
        text
    }
}

#[tokio::test]
async fn a_changed_file_is_used_by_the_next_call_however_it_was_written() {
    let (world, transport) = World::with_file().await;
    // In place, and of the same length.
    world.write("x-key=canary-2\n");
    assert_eq!(world.send(&*transport).await, ["canary-2"]);
    // By a rename.
    let other = world.dir.path().join("other");
    fs::write(&other, "x-key=canary-3\n").expect("written");
    fs::rename(&other, world.path()).expect("renamed");
    assert_eq!(world.send(&*transport).await, ["canary-3"]);
    // In place with the time of before, as some tools copy.
    let modified = fs::metadata(world.path()).and_then(|metadata| metadata.modified()).expect("a time");
    world.write("x-key=canary-4\n");
    fs::File::options().write(true).open(world.path()).and_then(|file| file.set_modified(modified)).expect("set");
    assert_eq!(world.send(&*transport).await, ["canary-4"]);
    // An old file: the look at it is one `stat`.
    let hour_ago = modified - Duration::from_secs(3_600);
    fs::File::options().write(true).open(world.path()).and_then(|file| file.set_modified(hour_ago)).expect("set");
    for _ in 0..3 {
        assert_eq!(world.send(&*transport).await, ["canary-4"]);
    }
    world.write("x-other=1\n");
    assert_eq!(world.send(&*transport).await, ["canary-0"], "a header that is gone leaves that of the settings");
    assert!(transport.take_notes().is_empty());
}

#[tokio::test]
async fn the_mount_of_a_kubernetes_secret_is_followed_through_its_links() {
    let world = World::new().await;
    let root = world.dir.path();
    let version = |name: &str, value: &str| {
        fs::create_dir(root.join(name)).expect("made");
        fs::write(root.join(name).join("headers"), format!("x-key={value}")).expect("written");
    };
    version("..2026_01", "canary-1");
    symlink("..2026_01", root.join("..data")).expect("linked");
    symlink("..data/headers", world.path()).expect("linked");
    let transport = world.connect();
    assert_eq!(world.send(&*transport).await, ["canary-1"]);
    version("..2026_02", "canary-2");
    symlink("..2026_02", root.join("..data_tmp")).expect("linked");
    fs::rename(root.join("..data_tmp"), root.join("..data")).expect("renamed");
    fs::remove_dir_all(root.join("..2026_01")).expect("removed");
    assert!(transport.has_changed().await, "no call has gone out with it");
    assert_eq!(world.send(&*transport).await, ["canary-2"]);
    assert!(!transport.has_changed().await && transport.take_notes().is_empty());
}

/// Takes the file away or spoils it; what the note says; whether the same at the start is an error.
type Spoil = (&'static str, fn(&Path), &'static [&'static str], bool);

const SPOILS: [Spoil; 12] = [
    ("vanished", |path| fs::remove_file(path).expect("removed"), &["does not exist", "lines key=value"], false),
    ("empty", |path| fs::write(path, "").expect("written"), &["holds no header", "lines key=value"], false),
    (
        "half written",
        |path| fs::write(path, "x-key=canary-9\nx-oth").expect("written"),
        &["line 2 has no '='", "accepted is key=value", "correct the line"],
        true,
    ),
    (
        "a line of HTTP",
        |path| fs::write(path, "# token\nauthorization: Bearer canary").expect("written"),
        &["line 2 has a ':'", "key=value"],
        true,
    ),
    (
        "a bad escape",
        |path| fs::write(path, "authorization=Bearer%2canary%zz").expect("written"),
        &["line 1 (authorization) has a bad escape", "%25"],
        true,
    ),
    (
        "not UTF-8",
        |path| fs::write(path, b"a=1\nx-key=canary\xff").expect("written"),
        &["line 2 is not UTF-8", "percent-encoded"],
        true,
    ),
    (
        "a directory",
        |path| {
            let _ = fs::remove_file(path);
            fs::create_dir(path).expect("made");
        },
        &["is a directory", "regular file"],
        true,
    ),
    (
        "a FIFO",
        |path| {
            let _ = fs::remove_file(path);
            let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
            rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, mode, 0).expect("made");
        },
        &["is a FIFO", "regular file"],
        true,
    ),
    (
        "a device",
        |path| {
            let _ = fs::remove_file(path);
            symlink("/dev/zero", path).expect("linked");
        },
        &["is a device", "regular file"],
        true,
    ),
    (
        "huge",
        |path| fs::File::create(path).and_then(|file| file.set_len(1 << 40)).expect("a hole"),
        &["more than 64 KiB", "lines key=value"],
        true,
    ),
    (
        "too many headers",
        |path| {
            let lines = (0..101).map(|at| format!("x-{at}=canary\n")).collect::<String>();
            fs::write(path, lines).expect("written");
        },
        &["line 101 (x-100) is one too many", "100"],
        true,
    ),
    (
        "a loop of links",
        |path| {
            let _ = fs::remove_file(path);
            symlink(path, path).expect("linked");
        },
        &["cannot be read", "let the user of this process read"],
        false,
    ),
];

#[tokio::test]
async fn a_spoiled_file_leaves_the_last_good_headers_and_one_warning() {
    for (name, spoil, parts, _) in SPOILS {
        let (world, transport) = World::with_file().await;
        spoil(&world.path());
        for _ in 0..3 {
            assert_eq!(world.send(&*transport).await, ["canary-1"], "{name}");
        }
        let text = world.note(&*transport);
        for part in [parts, &["the last good headers stay"]].concat() {
            assert!(text.contains(part), "{name}: {text:?} lacks {part:?}");
        }
        assert!(!transport.has_changed().await && transport.take_notes().is_empty(), "{name}: noted once");
        // A good file ends the trouble, and a second one is noted again.
        let _ = fs::remove_file(world.path());
        let _ = fs::remove_dir(world.path());
        world.write("x-key=canary-5");
        assert_eq!(world.send(&*transport).await, ["canary-5"], "{name}");
        let again = world.dir.path().join("..moved");
        fs::rename(world.path(), again).expect("renamed");
        assert_eq!(world.send(&*transport).await, ["canary-5"], "{name}");
        assert!(world.note(&*transport).contains("does not exist"), "{name}");
    }
}

#[tokio::test]
async fn at_the_start_a_file_that_may_come_is_waited_for_and_any_other_is_an_error() {
    for (name, spoil, parts, is_error) in SPOILS {
        let world = World::new().await;
        world.write("");
        spoil(&world.path());
        let vars = |name: &str| (name == "TELEMETRY_HEADERS_FILE").then(|| OsString::from(world.path()));
        match world.config.clone().build_over(vars) {
            Err(error) => {
                assert!(is_error && matches!(error, ConfigError::HeadersFile { .. }), "{name}: {error}");
                assert_eq!(error.setting(), "TELEMETRY_HEADERS_FILE");
                let text = error.to_string();
                for part in [parts, &["TELEMETRY_HEADERS_FILE=", &*world.path().to_string_lossy()]].concat() {
                    assert!(text.contains(part), "{name}: {text:?} lacks {part:?}");
                }
                assert!(!text.contains(CANARY) && !format!("{error:?}").contains(CANARY), "{error:?}");
            }
            Ok(config) => {
                assert!(!is_error, "{name}");
                let [note] = config.notes() else { panic!("{name}: {:?}", config.notes()) };
                assert!(note.message.contains("no request goes out") && note.message.contains(parts[0]), "{note}");
                let transport = connect(config).expect("valid");
                let outcome = transport.send(&payload()).await;
                assert_eq!(summary(&outcome), "retryable: credentials", "{name}");
                let text = outcome.cause().expect("a cause").to_string();
                assert!(text.contains(parts[0]) && text.contains("no credentials"), "{name}: {text}");
                assert!(world.log.lock().expect("not poisoned").is_empty(), "{name}: nothing is sent");
                assert!(!transport.has_changed().await);
                let _ = fs::remove_file(world.path());
                world.write("x-key=canary-1");
                assert!(transport.has_changed().await, "{name}");
                assert_eq!(summary(&transport.send(&payload()).await), "delivered, 0 rejected");
            }
        }
    }
}

#[tokio::test]
async fn a_file_that_the_process_may_not_read_leaves_the_last_good_headers() {
    let (world, transport) = World::with_file().await;
    world.write("x-key=canary-2");
    fs::set_permissions(world.path(), fs::Permissions::from_mode(0o0)).expect("set");
    if rustix::process::geteuid().is_root() {
        // Root reads every file.
        assert_eq!(world.send(&*transport).await, ["canary-2"]);
    } else {
        assert_eq!(world.send(&*transport).await, ["canary-1"]);
        assert!(world.note(&*transport).contains("cannot be read (permission denied)"));
    }
    let denied = HeadersFileProblem::Unreadable(std::io::ErrorKind::PermissionDenied).to_string();
    assert!(denied.contains("permission denied") && denied.contains("let the user of this process read"), "{denied}");
}

#[tokio::test]
async fn a_refusal_has_the_file_read_again() {
    let (listener, address) = listen().await;
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("headers");
    fs::write(&path, "authorization=Bearer%20canary-1").expect("written");
    let gate = std::sync::Arc::new(tokio::sync::Notify::new());
    let refused = http_answer(401, &[], b"expired: Bearer canary-1, canary-1");
    let (answers, log_gate) = (refused.clone(), std::sync::Arc::clone(&gate));
    let log = serve_raw(listener, move |connection| match connection {
        0 => Raw::Gate(std::sync::Arc::clone(&log_gate), answers.clone()),
        _ => Raw::Answer(answers.clone()),
    });
    let config = config(Protocol::HttpProtobuf, address).with_headers_file(&path).build().expect("valid");
    let transport = connect(config).expect("valid");
    let request = payload();
    let call = transport.send(&request);
    let change = async {
        while log.lock().expect("not poisoned").is_empty() {
            tokio::task::yield_now().await;
        }
        // The file changes while the call is out.
        fs::write(&path, "authorization=Bearer%20canary-2").expect("written");
        gate.notify_one();
    };
    let (outcome, ()) = futures_util::future::join(call, change).await;
    assert_eq!(summary(&outcome), "renewed to 2: http 401");
    let text = format!("{outcome:?}");
    assert!(text.contains("expired: ***, ***") && !text.contains(CANARY), "{text}");
}

#[test]
fn code_beats_the_variable_and_quotation_marks_are_taken_off() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("headers");
    fs::write(&path, "a=1").expect("written");
    let at = |text: String| move |name: &str| (name == "TELEMETRY_HEADERS_FILE").then(|| OsString::from(text.clone()));
    let quoted = Config::builder().build_over(at(format!("\"{}\"", path.display()))).expect("valid");
    assert!(quoted.notes().len() == 1 && quoted.notes()[0].message.contains("quotation marks"), "{quoted:?}");
    let ended = Config::builder().build_over(at(format!("{}\n", path.display()))).expect("valid");
    assert!(ended.notes().is_empty(), "{ended:?}");
    assert_eq!(ended.headers_file(), path.to_str());
    let two = Config::builder().build_over(at("/run/headers HEADERS=key=canary".to_owned())).expect("valid");
    let shown = format!("{two:?} {:?} {:?}", two.notes(), two.headers_file());
    assert!(shown.contains("/run/headers ***") && !shown.contains(CANARY), "{shown}");
    let coded = Config::builder().with_headers_file(&path).build_over(at("/no/such/file".to_owned())).expect("valid");
    assert!(coded.notes().is_empty(), "{coded:?}");
    fs::write(&path, "host=canary\na=\"canary\"").expect("written");
    let slips = Config::builder().with_headers_file(&path).build().expect("valid");
    let notes = slips.notes().iter().map(ToString::to_string).collect::<Vec<_>>();
    assert!(notes.len() == 2 && notes[0].contains("line 1 (host)") && notes[1].contains("line 2 (a)"), "{notes:?}");
    assert!(!notes.concat().contains(CANARY));
}

#[tokio::test]
async fn many_calls_share_the_looks_at_a_file_that_changes_all_the_time() {
    let (world, transport) = World::with_file().await;
    let begin = SystemTime::UNIX_EPOCH;
    for round in 0..20 {
        world.write(format!("x-key=canary-{round}"));
        fs::File::options()
            .write(true)
            .open(world.path())
            .and_then(|file| file.set_modified(begin + Duration::from_secs(round)))
            .expect("set");
        let request = payload();
        let outcomes = futures_util::future::join_all((0..8).map(|_| transport.send(&request))).await;
        assert!(outcomes.iter().all(otlp_transport::Outcome::is_delivered), "{outcomes:?}");
    }
    assert_eq!(world.send(&*transport).await, ["canary-19"]);
}

#[tokio::test]
async fn settings_that_are_built_twice_leave_the_notes_of_a_provider_to_the_transport() {
    let directory = tempfile::tempdir().expect("a directory");
    let file: Arc<dyn Credentials> = Arc::new(HeadersFile::open(directory.path().join("missing")).expect("waited for"));
    let builder = Config::builder().with_credentials(file);
    drop(builder.clone().build().expect("valid"));
    let transport = connect(builder.build().expect("valid")).expect("valid");
    let notes = transport.take_notes();
    assert!(notes.len() == 1 && notes[0].message.contains("missing"), "{notes:?}");
    assert!(transport.take_notes().is_empty());
}
