//! Opening: directories that are accepted, narrowed or refused.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use safe_dir::{Directory as _, OpenError, Place, SafeDir, others_below};

use crate::{chmod, in_own_process, mode, scratch};

#[test]
fn missing_directories_are_made_for_this_user_alone() {
    let scratch = scratch();
    let path = scratch.path().join("a/b/c");
    let dir = SafeDir::open(&path).expect("nothing is in the way");
    for made in ["a", "a/b", "a/b/c"] {
        assert_eq!(mode(&scratch.path().join(made)), 0o700, "{made}");
    }
    assert_eq!(dir.path(), path.canonicalize().expect("it exists"));
    SafeDir::open(&path).expect("a second time");
}

#[test]
fn modes_do_not_depend_on_the_umask() {
    for umask in ["000", "022", "077", "0777"] {
        let scratch = scratch();
        in_own_process("opening::modes_under_some_umask", umask, scratch.path());
    }
}

#[test]
fn modes_under_some_umask() {
    use std::io::Write as _;
    let Some(scratch) = std::env::var_os("SAFE_DIR_TEST").map(PathBuf::from) else { return };
    let path = scratch.join("above/state");
    let dir = SafeDir::open(&path).expect("made");
    let inner = dir.subdirectory("inner").expect("made");
    dir.create("created").expect("made");
    dir.open_append("appended").expect("made");
    safe_dir::publish(&inner, "published", |file| file.write_all(b"x")).expect("made");
    let _lock = dir.lock().expect("free");
    for directory in ["above", "above/state", "above/state/inner"] {
        assert_eq!(mode(&scratch.join(directory)), 0o700, "{directory}");
    }
    for file in ["created", "appended", "inner/published", ".lock"] {
        assert_eq!(mode(&path.join(file)), 0o600, "{file}");
    }
}

#[test]
fn a_directory_that_came_back_wider_is_narrowed_and_tells_its_former_mode() {
    let scratch = scratch();
    let path = scratch.path().join("state");
    SafeDir::open(&path).expect("made").subdirectory("inner").expect("made");
    for bits in [0o755, 0o2770, 0o777, 0o1777, 0o702, 0o710] {
        chmod(&path, bits);
        chmod(&path.join("inner"), bits);
        let dir = SafeDir::open(&path).expect("ours");
        assert_eq!((dir.narrowed(), mode(&path)), (Some(bits), 0o700));
        let inner = dir.subdirectory("inner").expect("ours");
        assert_eq!((inner.narrowed(), mode(&path.join("inner"))), (Some(bits), 0o700));
        assert_eq!(SafeDir::open(&path).expect("ours").narrowed(), None, "once");
    }
    // No other user has any right: neither a bit that the owner lacks nor that of a group's files is worth a warning.
    for (bits, left) in [(0o500, 0o700), (0o2700, 0o2700)] {
        chmod(&path, bits);
        assert_eq!((SafeDir::open(&path).expect("ours").narrowed(), mode(&path)), (None, left));
    }
}

#[test]
fn a_file_that_came_back_wider_is_narrowed_when_it_is_opened() {
    let scratch = scratch();
    let dir = SafeDir::open(scratch.path().join("state")).expect("made");
    for name in ["read", "appended"] {
        dir.create(name).expect("made");
        chmod(&dir.path().join(name), 0o660);
    }
    dir.open_read("read").expect("ours");
    dir.open_append("appended").expect("ours");
    for name in ["read", "appended"] {
        assert_eq!(mode(&dir.path().join(name)), 0o600, "{name}");
    }
}

#[test]
fn directories_above_may_be_writable_by_others() {
    let scratch = scratch();
    let above = scratch.path().join("above");
    fs::create_dir_all(above.join("between")).expect("made");
    for bits in [0o777, 0o1777, 0o2775] {
        chmod(&above, bits);
        SafeDir::open(above.join("between/state")).expect("others can take it away, and that is all");
        let made = SafeDir::open(above.join(format!("made-{bits:o}/state"))).expect("missing ones are made");
        // A directory in one with the set-group-id bit inherits that bit, which gives no right.
        assert_eq!((made.narrowed(), mode(made.path().parent().expect("above")) & 0o777), (None, 0o700));
        assert_eq!(mode(&above), bits, "a directory above is left as it is");
    }
}

#[test]
fn a_link_in_its_place_is_refused_and_one_above_is_resolved() {
    let scratch = scratch();
    let target = scratch.path().join("target");
    fs::create_dir(&target).expect("made");
    let link = scratch.path().join("link");
    symlink(&target, &link).expect("linked");
    assert!(matches!(SafeDir::open(&link), Err(OpenError::Symlink { .. })));
    let dir = SafeDir::open(link.join("state")).expect("links above are the system's business");
    assert_eq!(dir.path(), target.canonicalize().expect("it exists").join("state"));
    symlink(scratch.path().join("nowhere"), scratch.path().join("dangling")).expect("linked");
    assert!(matches!(SafeDir::open(scratch.path().join("dangling")), Err(OpenError::Symlink { .. })));
    assert!(SafeDir::open(scratch.path().join("dangling/state")).is_err_and(|error| error.is_not_found()));
    assert!(!scratch.path().join("nowhere").exists());
}

#[test]
fn links_above_may_be_relative_lead_upwards_and_follow_each_other_to_a_limit() {
    let scratch = scratch();
    let at = |name: &str| scratch.path().join(name);
    fs::create_dir_all(at("a/b/c")).expect("made");
    for (target, link) in [
        ("a/b", "relative"),
        ("../../a/./b/../b", "a/b/up"),
        ("up/c/..", "a/b/twice"),
        ("a/b/twice/up/c/../../..", "long"),
        ("../../../../../../../../../../../../../../../../../..", "a/above-the-root"),
        ("loop", "loop"),
        ("chain-1", "chain-0"),
    ] {
        symlink(target, at(link)).expect("linked");
    }
    let b = at("a/b").canonicalize().expect("there");
    for (through, expected) in [
        ("relative", b.clone()),
        ("a/b/up", b.clone()),
        ("a/b/twice", b.clone()),
        ("a/b/c/..", b.clone()),
        ("relative/c/../up/..", b.parent().expect("a").to_owned()),
        ("long", scratch.path().canonicalize().expect("there")),
    ] {
        let dir = SafeDir::open(at(through).join("state")).expect(through);
        assert_eq!(dir.path(), expected.join("state"), "{through}");
        assert!(expected.join("state").exists());
    }
    let inside = scratch.path().canonicalize().expect("there");
    let from_the_root = at("a/above-the-root").join(inside.strip_prefix("/").expect("absolute")).join("state");
    assert_eq!(SafeDir::open(from_the_root).expect("above the root is the root").path(), inside.join("state"));

    assert!(SafeDir::open(at("loop/state")).is_err(), "it ends");
    for number in 1..39 {
        symlink(format!("chain-{}", number + 1), at(&format!("chain-{number}"))).expect("linked");
    }
    symlink("a", at("chain-39")).expect("linked");
    SafeDir::open(at("chain-0/state")).expect("forty links");
    symlink("chain-0", at("chain")).expect("linked");
    SafeDir::open(at("chain/state")).expect_err("one more");
}

#[test]
fn a_shared_directory_is_used_through_a_subdirectory_of_this_user_and_one_in_use_stays_in_use() {
    let user = rustix::process::geteuid().as_raw();
    let scratch = scratch();
    let path = scratch.path().canonicalize().expect("there").join("volume");
    let open = || SafeDir::open_or_below(&path, "queue", &["jobs"]).expect("ours");
    let below = path.join(format!("queue-{user}"));

    // Made, and used itself; also when it came back wider, because it is in use.
    assert_eq!(open().place, Place::Itself);
    assert!(!below.exists() && mode(&path) == 0o700);
    open().dir.subdirectory("jobs").expect("made");
    chmod(&path, 0o2777);
    let placed = open();
    assert_eq!((placed.place, placed.dir.narrowed(), mode(&path)), (Place::Itself, Some(0o2777), 0o700));

    // Shared with others from the start: they keep their access, this user has a directory below.
    fs::remove_dir_all(&path).expect("ours");
    fs::create_dir(&path).expect("made");
    for bits in [0o777, 0o1777, 0o772] {
        chmod(&path, bits);
        let placed = open();
        assert_eq!((placed.place, placed.dir.path()), (Place::BelowShared { mode: bits }, &*below));
        assert_eq!((mode(&path), mode(&below)), (bits, 0o700));
    }
    chmod(&below, 0o770);
    assert_eq!(open().dir.narrowed(), Some(0o770));

    // Below as before, although it is shared no more.
    chmod(&path, 0o755);
    let placed = open();
    assert_eq!((placed.place, placed.dir.path()), (Place::BelowAsBefore, &*below));
    fs::remove_dir(&below).expect("empty");
    assert_eq!((open().place, mode(&path)), (Place::Itself, 0o700));

    // A link of this user in its place is a way as good as one above.
    symlink(&path, scratch.path().join("link")).expect("linked");
    let placed = SafeDir::open_or_below(scratch.path().join("link"), "queue", &[]).expect("ours");
    assert_eq!((placed.place, placed.dir.path()), (Place::Itself, &*path));
    fs::write(scratch.path().join("file"), "x").expect("written");
    SafeDir::open_or_below(scratch.path().join("file"), "queue", &[]).expect_err("a file");
    SafeDir::open_or_below("/", "queue", &[]).expect_err("no name");
}

#[test]
fn the_subdirectories_of_other_users_are_found_with_their_bytes() {
    let scratch = scratch();
    let path = scratch.path().canonicalize().expect("there");
    let own = format!("queue-{}", rustix::process::geteuid().as_raw());
    for name in [&*own, "queue-12345", "queue-12345/jobs", "queue-x", "queue-", "other-12345", "queue-99999999999"] {
        fs::create_dir(path.join(name)).expect("made");
    }
    fs::write(path.join("queue-12345/a"), [0; 100]).expect("written");
    fs::write(path.join("queue-12345/jobs/b"), [0; 23]).expect("written");
    symlink("/etc", path.join("queue-12345/jobs/link")).expect("linked");
    symlink("/etc", path.join("queue-12346")).expect("linked");
    fs::write(path.join("queue-12347"), "a file").expect("written");
    let is_root = rustix::process::geteuid().is_root();
    if is_root {
        std::os::unix::fs::chown(path.join("queue-12345"), Some(12_345), None).expect("we are root");
    }
    let others = others_below(&path, "queue").expect("readable");
    assert_eq!(others.len(), 1, "{others:?}");
    assert_eq!((&others[0].path, others[0].bytes), (&path.join("queue-12345"), Some(123)));
    assert_eq!(others[0].owner, if is_root { 12_345 } else { rustix::process::geteuid().as_raw() });
    assert!(others_below(path.join("none"), "queue").is_err_and(|error| error.is_not_found()));
}

#[test]
fn a_path_to_a_file_is_refused() {
    let scratch = scratch();
    let file = scratch.path().join("file");
    fs::write(&file, "x").expect("written");
    assert!(matches!(SafeDir::open(&file), Err(OpenError::NotADirectory { .. })));
    assert!(matches!(SafeDir::open(file.join("below")), Err(OpenError::NotADirectory { .. } | OpenError::Io { .. })));
    for path in ["", "/", "..", "/tmp/.."] {
        assert!(matches!(SafeDir::open(path), Err(OpenError::InvalidPath { .. })), "{path:?}");
    }
    assert_eq!(fs::read(&file).expect("still there"), b"x");
}

#[test]
fn a_directory_of_another_user_is_refused() {
    let scratch = scratch();
    let path = scratch.path().join("theirs");
    fs::create_dir(&path).expect("made");
    let given = std::os::unix::fs::chown(&path, Some(12_345), None);
    if !rustix::process::geteuid().is_root() {
        // Only root can give a directory to another user; otherwise a directory of the system is that of another user.
        assert!(given.is_err());
        assert!(SafeDir::open("/usr/lib").is_err());
        return;
    }
    given.expect("we are root");
    let error = SafeDir::open(&path).expect_err("theirs");
    assert!(matches!(error, OpenError::ForeignOwner { owner: 12_345, user: 0, .. }), "{error:?}");
    SafeDir::open(path.join("ours")).expect("the one above may be theirs");
    let placed = SafeDir::open_or_below(&path, "queue", &[]).expect("below");
    assert_eq!((placed.place, placed.dir.path()), (Place::BelowForeign { owner: 12_345 }, &*path.join("queue-0")));
    std::os::unix::fs::chown(path.join("queue-0"), Some(12_345), None).expect("we are root");
    let error = SafeDir::open_or_below(&path, "queue", &[]).expect_err("taken by them");
    assert!(matches!(error, OpenError::ForeignOwner { owner: 12_345, .. }), "{error:?}");
}

/// Another user's link is refused wherever it stands in the path, also as a target of our own.
#[test]
fn a_link_above_that_another_user_owns_is_refused_with_the_remedy() {
    if !rustix::process::geteuid().is_root() {
        // Only root can give a link away.
        return;
    }
    let scratch = scratch();
    fs::create_dir(scratch.path().join("target")).expect("made");
    symlink("target", scratch.path().join("theirs")).expect("linked");
    std::os::unix::fs::lchown(scratch.path().join("theirs"), Some(12_345), None).expect("we are root");
    symlink("theirs", scratch.path().join("ours")).expect("linked");
    for link in ["theirs", "ours"] {
        for opened in [
            SafeDir::open(scratch.path().join(link).join("state")).map(|_| ()),
            SafeDir::open_or_below(scratch.path().join(link), "queue", &[]).map(|_| ()),
            others_below(scratch.path().join(link), "queue").map(|_| ()),
        ] {
            let error = opened.expect_err("theirs");
            assert!(matches!(&error, OpenError::ForeignLink { owner: 12_345, .. }), "{error:?}");
            let text = error.to_string();
            assert!(text.contains("theirs") && text.contains("12345") && text.contains("give the path"), "{text}");
        }
    }
    assert_eq!(fs::read_dir(scratch.path().join("target")).expect("there").count(), 0, "nothing was made");
}

/// A directory above and a link of another user take each other's place, again and again: each open ends in the
/// directory or fails, and nothing is made where the link leads.
#[cfg(target_os = "linux")]
#[test]
fn a_link_that_is_swapped_in_leads_nowhere() {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    use std::sync::atomic::{AtomicBool, Ordering};
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let scratch = scratch();
    let at = |name: &str| scratch.path().join(name);
    fs::create_dir_all(at("above/between")).expect("made");
    fs::create_dir_all(at("elsewhere/between")).expect("made");
    symlink("elsewhere", at("link")).expect("linked");
    std::os::unix::fs::lchown(at("link"), Some(12_345), None).expect("we are root");
    let stop = AtomicBool::new(false);
    let (opened, refused) = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                renameat_with(CWD, at("above"), CWD, at("link"), RenameFlags::EXCHANGE).expect("both exist");
            }
        });
        let (mut opened, mut refused) = (0, 0);
        for _ in 0..3_000 {
            match SafeDir::open(at("above/between/state")) {
                Ok(_) => opened += 1,
                Err(OpenError::ForeignLink { owner: 12_345, .. }) => refused += 1,
                // The name changed between two looks at it, too often in a row.
                Err(OpenError::Io { .. }) => {}
                Err(error) => panic!("{error:?}"),
            }
        }
        stop.store(true, Ordering::Relaxed);
        (opened, refused)
    });
    assert!(opened > 0 && refused > 0, "both were met: {opened} opened, {refused} refused");
    assert_eq!(fs::read_dir(at("elsewhere/between")).expect("there").count(), 0);
}
