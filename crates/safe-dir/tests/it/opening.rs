//! Opening: directories that are accepted, narrowed or refused.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use safe_dir::{Directory as _, OpenError, Options, Parents, SafeDir};

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
fn a_directory_that_others_can_write_is_refused_with_the_remedy() {
    let scratch = scratch();
    let path = scratch.path().join("open");
    for bits in [0o777, 0o1777, 0o702] {
        fs::create_dir_all(&path).expect("made");
        chmod(&path, bits);
        let error = SafeDir::open(&path).expect_err("others can write");
        assert!(matches!(&error, OpenError::WritableByOthers { mode, .. } if *mode == bits), "{error:?}");
        let text = error.to_string();
        assert!(text.contains(&*path.to_string_lossy()) && text.contains(&format!("{bits:04o}")), "{text}");
        assert!(text.contains("chmod"), "{text}");
        assert_eq!(mode(&path), bits, "a refused directory is not changed");
    }
}

#[test]
fn a_directory_that_others_can_only_read_is_narrowed() {
    let scratch = scratch();
    let path = scratch.path().join("readable");
    fs::create_dir(&path).expect("made");
    chmod(&path, 0o755);
    SafeDir::open(&path).expect("ours");
    assert_eq!(mode(&path), 0o700);
}

#[test]
fn a_directory_above_that_others_can_write_is_refused_unless_sticky_or_trusted() {
    let scratch = scratch();
    let above = scratch.path().join("above");
    fs::create_dir_all(above.join("between")).expect("made");
    let path = above.join("between/state");
    chmod(&above, 0o777);
    let error = SafeDir::open(&path).expect_err("somebody could swap it");
    assert!(
        matches!(&error, OpenError::UnsafeParent { parent, mode: 0o777, .. } if parent.ends_with("above")),
        "{error:?}"
    );
    SafeDir::open(above.join("made/state")).expect_err("the same");
    let made = path.exists() || above.join("made").exists();
    assert!(!made, "nothing is made where others could swap it");
    SafeDir::open_with(&path, Options { parents: Parents::Trusted }).expect("the caller answers for it");
    chmod(&above, 0o1777);
    SafeDir::open(&path).expect("sticky, like /tmp");
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
    assert!(SafeDir::open(scratch.path().join("dangling/state")).is_err());
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
    assert!(matches!(SafeDir::open(path.join("ours")), Err(OpenError::UnsafeParent { owner: 12_345, .. })));
}
