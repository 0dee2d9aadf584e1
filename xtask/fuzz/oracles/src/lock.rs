//! Lock files of other processes: any content.

use std::io::{Read as _, Write as _};
use std::time::SystemTime;

use safe_dir::sim::{Disk, Reach};
use safe_dir::{Directory as _, HEARTBEAT_TIMEOUT, LOCK_FILE, Machine, Owner, SharedDir};

use crate::feed::{Feed, Recipe};
use crate::{Seed, memory};

/// An owner that is read can be written again and then reads the same. Whatever the file says, its directory is neither
/// lost nor taken too early: it is adopted at once where the lock decides, and else after the time-out; the file stays
/// as it was.
///
/// The input: a byte that chooses the file system, then the content.
pub(crate) fn check(input: &[u8]) {
    let mut feed = Feed(input);
    let reach = [Reach::Local, Reach::Network, Reach::NetworkWithLocalLocks][usize::from(feed.byte()) % 3];
    let content = feed.bytes(usize::MAX);
    let owner = memory::within(4 * content.len() + 1_024, "an owner", || Owner::parse(content));
    if let Some(owner) = &owner {
        let text = owner.to_text();
        assert_eq!(text.lines().count(), 4, "{text:?}");
        assert_eq!(Owner::parse(text.as_bytes()).as_ref(), Some(owner));
        let bytes = format!("bytes {}\n", owner.bytes);
        assert!(text.ends_with(&bytes), "{text:?}");
    }

    let disk = Disk::new();
    disk.set_reach(reach);
    let ended = disk.root().subdirectory(ENDED).expect("new");
    ended.create("a").expect("new");
    ended.create(LOCK_FILE).expect("new").write_all(content).expect("there is space");
    let mut shared = SharedDir::claim(disk.root(), machine(), 1).expect("the disk works");
    let decides = reach == Reach::Local || owner.as_ref().is_some_and(|owner| owner.machine == machine());

    let other = shared.look(ENDED).expect("the disk works").expect("there");
    assert_eq!((&other.owner, other.is_alive), (&owner, !decides));
    if !decides {
        assert!(shared.adopt(ENDED).expect("the disk works").is_none(), "its last heartbeat is recent");
        disk.set_now(SystemTime::UNIX_EPOCH + HEARTBEAT_TIMEOUT + HEARTBEAT_TIMEOUT / 60);
    }
    let adopted = shared.adopt(ENDED).expect("the disk works").expect("its owner has ended");
    assert_eq!(adopted.owner, owner);
    let mut left = Vec::new();
    adopted.locked.dir.open_read(LOCK_FILE).expect("there").read_to_end(&mut left).expect("readable");
    assert_eq!(left, content);
    adopted.locked.dir.rename("a", shared.own(), "a").expect("free");
    adopted.remove(shared.root()).expect("emptied");
    assert!(shared.others().expect("readable").is_empty() && !shared.is_gone());
}

pub(crate) fn seeds() -> Vec<Seed> {
    let owner = |machine, bytes| Owner { machine, incarnation: ENDED.to_owned(), bytes }.to_text();
    let elsewhere = Machine { boot_id: "other".to_owned(), host: "other".to_owned() };
    let whole = owner(machine(), 812);
    let contents: [(&str, Vec<u8>); 8] = [
        ("nothing", Vec::new()),
        ("whole", whole.clone().into_bytes()),
        ("elsewhere", owner(elsewhere, u64::MAX).into_bytes()),
        ("torn", whole.as_bytes()[..whole.len() - 2].to_vec()),
        ("head", whole.as_bytes()[..20].to_vec()),
        ("newer", format!("zone eu\n{whole}leader yes\n").into_bytes()),
        ("twice", format!("{whole}{}", owner(machine(), 1)).into_bytes()),
        ("no-text", [b"boot \xff\xfe\nhost \0\x1b[1m\nincarnation\n", whole.as_bytes()].concat()),
    ];
    let mut seeds = Vec::new();
    for (reach, place) in [(0, "local"), (1, "network"), (2, "local-locks")] {
        for (name, content) in &contents {
            let mut recipe = Recipe::default().byte(reach);
            recipe.0.extend_from_slice(content);
            seeds.push((format!("{place}-{name}"), recipe.0));
        }
    }
    seeds
}

fn machine() -> Machine {
    Machine { boot_id: "3f0c".to_owned(), host: "web-3".to_owned() }
}

const ENDED: &str = "00000000000000ab";
