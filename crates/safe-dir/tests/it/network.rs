//! One directory for the processes of several machines: heartbeats, and the answers of NFS.

use std::io::Write as _;
use std::time::{Duration, SystemTime};

use safe_dir::sim::{Disk, Reach};
use safe_dir::{Directory, HEARTBEAT_TIMEOUT, LOCK_FILE, Machine, SharedDir};

use crate::shared::{claim, empty, machine, others, write};

/// A disk that several machines use, and the time by its clock.
struct Network {
    disk: Disk,
    now: Duration,
}

impl Network {
    fn new(reach: Reach) -> Self {
        let disk = Disk::new();
        disk.set_reach(reach);
        Self { disk, now: Duration::ZERO }
    }

    fn claim(&self, host: u32, incarnation: u64) -> SharedDir<safe_dir::sim::MemoryDir> {
        SharedDir::claim(self.disk.root_on(host), machine(host), incarnation).expect("the disk works")
    }

    fn wait(&mut self, time: Duration) {
        self.now += time;
        self.disk.set_now(SystemTime::UNIX_EPOCH + self.now);
    }
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn on_a_network_file_system_an_owner_on_another_machine_is_alive_until_its_heartbeat_is_old() {
    let mut network = Network::new(Reach::NetworkWithLocalLocks);
    let (mut one, mut two) = (network.claim(1, 1), network.claim(2, 2));
    let name = one.name().to_owned();
    for _ in 0..10 {
        network.wait(HEARTBEAT_TIMEOUT);
        assert!(two.adopt(&name).expect("works").is_none() && two.look(&name).expect("works").unwrap().is_alive);
        one.beat(0).expect("room");
    }
    network.wait(HEARTBEAT_TIMEOUT + SECOND);
    assert!(!two.look(&name).expect("works").unwrap().is_alive);
    let adopted = two.adopt(&name).expect("works").expect("its heartbeat is old");
    assert!(one.is_gone(), "a process that was stopped for a minute notices");

    // The heartbeat of the adopter stands for the directory that it empties.
    let mut three = network.claim(3, 3);
    network.wait(HEARTBEAT_TIMEOUT * 2);
    two.beat(0).expect("room");
    assert!(three.adopt(&adopted.name).expect("works").is_none());
    assert!(three.look(&adopted.name).expect("works").unwrap().is_alive);
    network.wait(HEARTBEAT_TIMEOUT * 2);
    drop((two, adopted));
    for name in three.others().expect("readable") {
        let adopted = three.adopt(&name).expect("works").expect("the adopter has ended");
        empty(&three, adopted);
    }
    assert!(others(&three).is_empty());
}

#[test]
fn on_a_network_file_system_the_lock_decides_on_one_machine_whatever_the_heartbeat_says() {
    for reach in [Reach::Network, Reach::NetworkWithLocalLocks] {
        let mut network = Network::new(reach);
        let (one, mut two) = (network.claim(1, 1), network.claim(1, 2));
        network.wait(HEARTBEAT_TIMEOUT * 10);
        assert!(two.adopt(one.name()).expect("works").is_none(), "{reach:?}: its lock is held");
        assert!(two.look(one.name()).expect("works").unwrap().is_alive, "{reach:?}");
        let name = one.name().to_owned();
        drop(one);
        assert!(two.adopt(&name).expect("works").is_some(), "{reach:?}: at once");
    }
}

#[test]
fn on_a_network_file_system_another_boot_of_the_same_host_is_another_machine() {
    let network = Network::new(Reach::NetworkWithLocalLocks);
    let mut two = network.claim(1, 2);
    let rebooted = Machine { boot_id: "before".into(), ..machine(1) };
    let one = SharedDir::claim(network.disk.root_on(1), rebooted, 1).expect("works");
    let name = one.name().to_owned();
    drop(one);
    assert!(two.adopt(&name).expect("works").is_none(), "its heartbeat is recent");
}

#[test]
fn where_locks_bind_all_machines_an_old_heartbeat_alone_takes_nothing() {
    let mut network = Network::new(Reach::Network);
    let (one, mut two) = (network.claim(1, 1), network.claim(2, 2));
    network.wait(HEARTBEAT_TIMEOUT * 10);
    assert!(two.adopt(one.name()).expect("works").is_none());
    assert!(two.look(one.name()).expect("works").unwrap().is_alive);
}

#[test]
fn on_a_network_file_system_a_directory_without_a_readable_owner_waits_for_the_time_out() {
    for content in [None, Some(&b""[..]), Some(b"boot"), Some(b"\xff\nhost\n")] {
        let mut network = Network::new(Reach::NetworkWithLocalLocks);
        let mut shared = network.claim(2, 2);
        let half_made = network.disk.root_on(1).subdirectory("0000000000000001").expect("made");
        if let Some(content) = content {
            half_made.create(LOCK_FILE).expect("new").write_all(content).expect("room");
        }
        for (wait, adopts) in [(Duration::ZERO, false), (HEARTBEAT_TIMEOUT, false), (SECOND, true)] {
            network.wait(wait);
            let adopted = shared.adopt("0000000000000001").expect("works");
            assert_eq!(adopted.is_some(), adopts, "{content:?} after {:?}", network.now);
        }
    }
}

#[test]
fn a_rename_that_was_answered_with_not_found_counts_if_it_happened() {
    /// Each rename of a directory is carried out and then answered as NFS answers its repetition.
    struct Repeats<D>(D);
    impl<D: Directory> Directory for Repeats<D> {
        type File = D::File;
        type Lock = D::Lock;
        fn path(&self) -> &std::path::Path {
            self.0.path()
        }
        fn list(&self) -> Result<Vec<safe_dir::Entry>, safe_dir::FileError> {
            self.0.list()
        }
        fn metadata(&self, name: &str) -> Result<safe_dir::Metadata, safe_dir::FileError> {
            self.0.metadata(name)
        }
        fn open_read(&self, name: &str) -> Result<Self::File, safe_dir::FileError> {
            self.0.open_read(name)
        }
        fn open_append(&self, name: &str) -> Result<Self::File, safe_dir::FileError> {
            self.0.open_append(name)
        }
        fn create(&self, name: &str) -> Result<Self::File, safe_dir::FileError> {
            self.0.create(name)
        }
        fn rename(&self, from: &str, target: &Self, to: &str) -> Result<(), safe_dir::FileError> {
            self.0.rename(from, &target.0, to)
        }
        fn replace(&self, from: &str, to: &str) -> Result<(), safe_dir::FileError> {
            self.0.replace(from, to)
        }
        fn remove(&self, name: &str) -> Result<(), safe_dir::FileError> {
            self.0.remove(name)
        }
        fn sync(&self) -> Result<(), safe_dir::FileError> {
            self.0.sync()
        }
        fn space(&self) -> Result<safe_dir::Space, safe_dir::FileError> {
            self.0.space()
        }
        fn is_gone(&self) -> bool {
            self.0.is_gone()
        }
        fn is_on_network(&self) -> bool {
            self.0.is_on_network()
        }
        fn subdirectory(&self, name: &str) -> Result<Self, safe_dir::OpenError> {
            self.0.subdirectory(name).map(Self)
        }
        fn create_subdirectory(&self, name: &str) -> Result<Self, safe_dir::OpenError> {
            self.0.create_subdirectory(name).map(Self)
        }
        fn existing_subdirectory(&self, name: &str) -> Result<Option<Self>, safe_dir::OpenError> {
            Ok(self.0.existing_subdirectory(name)?.map(Self))
        }
        fn holds_subdirectory(&self, name: &str, dir: &Self) -> Result<bool, safe_dir::FileError> {
            self.0.holds_subdirectory(name, &dir.0)
        }
        fn rename_subdirectory(&self, from: &str, to: &str) -> Result<(), safe_dir::FileError> {
            self.0.rename_subdirectory(from, to)?;
            self.0.rename_subdirectory(from, to)
        }
        fn remove_subdirectory(&self, name: &str) -> Result<(), safe_dir::FileError> {
            self.0.remove_subdirectory(name)
        }
        fn lock(&self) -> Result<Self::Lock, safe_dir::LockError> {
            self.0.lock()
        }
    }

    let disk = Disk::new();
    let (one, mut two) = (claim(Repeats(disk.root()), 1), claim(Repeats(disk.root()), 2));
    write(one.own(), "a");
    drop(one);
    let adopted = two.adopt("0000000000000001").expect("works").expect("the first call renamed it");
    assert_eq!(empty(&two, adopted), ["a"]);
}
