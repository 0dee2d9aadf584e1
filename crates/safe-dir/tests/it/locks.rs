//! The lock: one holder at a time.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use safe_dir::{Directory as _, LockError, SafeDir};

use crate::scratch;

#[test]
fn a_second_holder_is_refused_until_the_first_lets_go() {
    let scratch = scratch();
    let (one, two) = (SafeDir::open(scratch.path()), SafeDir::open(scratch.path()));
    let (one, two) = (one.expect("ours"), two.expect("ours"));
    let lock = one.lock().expect("free");
    let error = two.lock().expect_err("held");
    assert!(matches!(&error, LockError::Held { path } if path == two.path()), "{error:?}");
    drop(lock);
    two.lock().expect("free again");
}

#[test]
fn the_lock_of_a_killed_process_is_free_at_once() {
    let scratch = scratch();
    let mut child = Command::new(std::env::current_exe().expect("this binary"))
        .args(["--exact", "locks::hold_until_killed", "--nocapture"])
        .env("SAFE_DIR_TEST", scratch.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("started");
    let output = BufReader::new(child.stdout.take().expect("piped"));
    let held = output.lines().map_while(Result::ok).any(|line| line.contains("held"));
    assert!(held, "the child says when it holds the lock");
    let dir = SafeDir::open(scratch.path()).expect("ours");
    assert!(matches!(dir.lock(), Err(LockError::Held { .. })));
    child.kill().expect("running");
    child.wait().expect("killed");
    dir.lock().expect("free");
}

#[test]
fn hold_until_killed() {
    let Some(path) = std::env::var_os("SAFE_DIR_TEST").map(PathBuf::from) else { return };
    let _lock = SafeDir::open(path).expect("ours").lock().expect("free");
    println!("held");
    // Returns only if the parent ends.
    drop(std::io::stdin().read_line(&mut String::new()));
}

#[test]
fn a_lock_file_that_was_removed_under_a_waiter_is_made_anew() {
    let scratch = scratch();
    let dir = SafeDir::open(scratch.path()).expect("ours");
    let first = dir.lock().expect("free");
    dir.remove(safe_dir::LOCK_FILE).expect("there");
    let second = dir.lock().expect("the old lock guards a file that has no name");
    assert!(matches!(dir.lock(), Err(LockError::Held { .. })));
    drop((first, second));
}

/// Two threads take the lock and remove the lock file, again and again. One may open the file just before the other
/// removes it: its lock is then on a file without a name, and must not count.
#[test]
fn a_lock_counts_only_on_the_file_that_has_the_name() {
    let scratch = scratch();
    let give_up = || {
        let dir = SafeDir::open(scratch.path()).expect("ours");
        for _ in 0..20_000 {
            // Held by the other thread, or removed while it was opened.
            let Ok(lock) = dir.lock() else { continue };
            dir.remove(safe_dir::LOCK_FILE).expect("only who has the lock removes it");
            drop(lock);
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(give_up);
        scope.spawn(give_up);
    });
}

#[test]
fn a_lock_file_that_is_no_file_is_an_error() {
    let scratch = scratch();
    let dir = SafeDir::open(scratch.path()).expect("ours");
    std::os::unix::fs::symlink("elsewhere", scratch.path().join(".lock")).expect("linked");
    assert!(matches!(dir.lock(), Err(LockError::File(_))));
    assert!(!scratch.path().join("elsewhere").exists());
}

/// Children between `fork` and `exec` have the lock file open for a moment: a dropped lock is free all the same.
#[test]
fn a_dropped_lock_is_free_while_children_are_being_started() {
    let scratch = scratch();
    let dir = SafeDir::open(scratch.path()).expect("ours");
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    assert!(Command::new("true").status().expect("coreutils").success());
                }
            });
        }
        let rounds: Vec<_> = (0..2_000).map(|_| dir.lock().is_ok()).collect();
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(rounds.into_iter().all(|free| free));
    });
}
