use std::time::{Duration, Instant};

use safe_dir::Machine;
use safe_dir::sim::{Disk, MemoryDir};

use super::*;
use crate::seams::clock::{Clock as _, SystemClock};

const MIB: u64 = 1 << 20;

fn home(disk: &Disk, incarnation: u64) -> Home<MemoryDir> {
    let disk = disk.clone();
    let machine = Machine { boot_id: "boot".to_owned(), host: "host".to_owned() };
    let old = OldLayout::new(Vec::new(), None);
    let open = Box::new(move || Ok(disk.root()));
    Home::open(open, "test".to_owned(), machine, incarnation, 100 * MIB, old).expect("a well disk").0
}

fn look(home: &Home<MemoryDir>, now: Instant) -> Vec<String> {
    home.round(now, &mut |_| true).expect("a well disk").adopted
}

#[test]
fn a_share_binds_only_while_all_processes_together_exceed_the_limit() {
    let (disk, now) = (Disk::new(), SystemClock.now());
    let (first, second) = (home(&disk, 1), home(&disk, 2));
    let later = |round: u32| now + round * ROUND_EVERY;
    assert_eq!(second.allowance(), 100 * MIB, "no other process is known");
    for (round, stored, allowance) in [(0, 30, 70), (1, 50, 50), (2, 90, 50), (3, 0, 100)] {
        first.state(Part::Files, stored * MIB);
        assert!(look(&first, later(round)).is_empty() && look(&second, later(round)).is_empty());
        assert_eq!(second.allowance(), allowance * MIB, "beside {stored} MiB");
    }
    first.state(Part::Journal, 95 * MIB);
    drop(first.own(Part::Journal).expect("a well disk").0.create("journal-1").expect("room"));
    look(&first, later(4));
    look(&second, later(4));
    assert_eq!(second.allowance(), 50 * MIB);
    drop(first);
    assert_eq!(look(&second, later(5)), ["0000000000000002+1"]);
    assert_eq!(second.allowance(), 100 * MIB, "its content counts where it moves to");
}

/// Another program has written to the lock files, or damage has.
#[test]
fn a_sum_of_bytes_that_no_disk_has_leaves_this_process_its_share() {
    let (disk, now) = (Disk::new(), SystemClock.now());
    let (first, second, third) = (home(&disk, 1), home(&disk, 2), home(&disk, 3));
    first.state(Part::Files, u64::MAX);
    second.state(Part::Files, u64::MAX);
    look(&first, now);
    look(&second, now);
    look(&third, now);
    assert_eq!(third.allowance(), 100 * MIB / 3);
    second.own(Part::Journal).expect("a well disk").0.create("journal-1").expect("room");
    drop(second);
    assert_eq!(look(&third, now + ROUND_EVERY).len(), 1);
    assert_eq!(third.allowance(), 50 * MIB);
}

#[test]
fn rounds_are_at_least_5_s_apart() {
    let (disk, now) = (Disk::new(), SystemClock.now());
    let (first, second) = (home(&disk, 1), home(&disk, 2));
    assert!(look(&second, now).is_empty());
    drop(first.own(Part::Journal).expect("a well disk").0.create("journal-1").expect("room"));
    drop(first);
    assert!(look(&second, now + ROUND_EVERY - Duration::from_millis(1)).is_empty());
    assert_eq!(look(&second, now + ROUND_EVERY).len(), 1);
}
