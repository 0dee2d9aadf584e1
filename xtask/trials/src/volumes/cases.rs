//! The cases: how a directory is mounted, and what must become of the spans.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::app::Told;
use super::world::{Stage, User, World};
use crate::Failure;

/// The application's user; the group is that of a volume with `fsGroup`.
const APP: User = User { id: 1_000, group: None };
const APP_IN_GROUP: User = User { id: 1_000, group: Some(GROUP) };
/// The user of the next start, and the owner of traps.
const OTHER: User = User { id: 3_000, group: None };
const OTHER_IN_GROUP: User = User { id: 3_000, group: Some(GROUP) };
const GROUP: u32 = 2_000;

/// Spans of a life.
const SPANS: u64 = 1_200;

/// The variable that chooses the directory.
const STATE_DIR: &str = "TELEMETRY_STATE_DIR";

/// The end of the life in which the collector is away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// SIGKILL, in durable mode.
    Kill,
    /// A shutdown, in which spans go to files.
    Shutdown,
    /// The collector takes the spans: there is no storage.
    Delivery,
}

impl End {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Shutdown => "shutdown",
            Self::Delivery => "deliver",
        }
    }
}

/// Plays a case to its end.
type Play = Box<dyn Fn(&mut World<'_>, End) -> Result<(), Failure>>;

pub(super) struct Case {
    pub(super) name: &'static str,
    ends: &'static [End],
    play: Play,
}

impl Case {
    fn new(name: &'static str, play: impl Fn(&mut World<'_>, End) -> Result<(), Failure> + 'static) -> Self {
        Self { name, ends: &[End::Kill, End::Shutdown], play: Box::new(play) }
    }

    /// A case in which nothing can be stored.
    fn in_memory(name: &'static str, play: impl Fn(&mut World<'_>, End) -> Result<(), Failure> + 'static) -> Self {
        Self { ends: &[End::Delivery], ..Self::new(name, play) }
    }

    pub(super) fn ends(&self) -> &'static [End] {
        self.ends
    }

    /// Plays it; returns the spans that were made and those that were delivered.
    pub(super) fn play(&self, stage: &Stage, end: End) -> Result<(usize, usize), Failure> {
        let mut world = World::new(stage, end == End::Kill)?;
        (self.play)(&mut world, end)?;
        let (made, delivered) = world.counts();
        let received = world.collector.received();
        if delivered < made {
            return Err(format!("{} of {made} spans are lost", made - delivered).into());
        }
        if end == End::Shutdown && received.duplicates > 0 {
            return Err(format!("{} duplicates after a shutdown", received.duplicates).into());
        }
        world.check_modes(&[APP, OTHER])?;
        Ok((made, delivered))
    }
}

/// Who owns a volume, and its mode.
#[derive(Clone, Copy)]
enum Volume {
    /// `emptyDir`: root:root 0777.
    EmptyDir,
    /// A volume with `fsGroup`: root:group 2775.
    FsGroup,
}

impl Volume {
    fn make(self, world: &mut World<'_>) -> Result<PathBuf, Failure> {
        match self {
            Self::EmptyDir => world.make("volume", 0, 0, 0o777),
            Self::FsGroup => world.make("volume", 0, GROUP, 0o2775),
        }
    }

    const fn users(self) -> (User, User) {
        match self {
            Self::EmptyDir => (APP, OTHER),
            Self::FsGroup => (APP_IN_GROUP, OTHER_IN_GROUP),
        }
    }
}

/// The chosen directory: the volume, or one below it that does not exist.
fn chosen(volume: &Path, is_parent: bool) -> PathBuf {
    if is_parent { volume.join("telemetry") } else { volume.to_owned() }
}

/// The mounts of container platforms, and what else the directory of an application may be.
pub(super) fn all() -> Vec<Case> {
    let mut cases = Vec::new();
    for (volume, is_parent, names) in [
        (Volume::EmptyDir, false, ["emptyDir", "emptyDir, another user next", "emptyDir, given to the group"]),
        (Volume::EmptyDir, true, ["in emptyDir", "in emptyDir, another user next", "in emptyDir, given to the group"]),
        (Volume::FsGroup, false, ["fsGroup", "fsGroup, another user next", "fsGroup, given to the group"]),
        (Volume::FsGroup, true, ["in fsGroup", "in fsGroup, another user next", "in fsGroup, given to the group"]),
    ] {
        let [plain, other, group] = names;
        cases.push(Case::new(plain, move |world, end| two_starts(world, end, volume, is_parent, false)));
        cases.push(Case::new(other, move |world, end| another_user(world, end, volume, is_parent)));
        cases.push(Case::new(group, move |world, end| two_starts(world, end, volume, is_parent, true)));
    }
    cases.extend([
        Case::new("a link of root above", link_of_root),
        Case::new("a tmpfs of 16 MiB", small_volume),
        Case::new("two services in one directory", two_services),
        Case::in_memory("no directory at all", |world, _| no_directory(world)),
        Case::in_memory("a read-only mount", |world, _| read_only(world)),
        Case::in_memory("a read-only mount, storage required", |world, _| required(world)),
        Case::in_memory("a link of another user above", |world, _| link_of_another(world)),
        Case::in_memory("a link of another user, swapped all the time", |world, _| swapped_link(world)),
    ]);
    cases
}

/// A life while the collector is away; what it leaves is checked.
fn first_life(world: &mut World<'_>, user: User, end: End, vars: &[(&str, &Path)]) -> Result<Told, Failure> {
    world.collector.stop();
    let told = world.start(user, SPANS, end.name(), vars)?;
    world.check_modes(&[APP, OTHER])?;
    world.collector.start_again()?;
    Ok(told)
}

fn two_starts(world: &mut World<'_>, end: End, volume: Volume, is_parent: bool, regroup: bool) -> Result<(), Failure> {
    let path = volume.make(world)?;
    let dir = chosen(&path, is_parent);
    let (user, _) = volume.users();
    let told = first_life(world, user, end, &[(STATE_DIR, &dir)])?;
    expect_none(&told)?;
    only_below(world, &path)?;
    if regroup {
        World::give_to_group(&path, GROUP)?;
    }
    let user = if regroup { APP_IN_GROUP } else { user };
    let told = world.start(user, 10, "deliver", &[(STATE_DIR, &dir)])?;
    if regroup {
        // A life in which the collector is away follows: names that were not opened before are opened by now.
        expect(&told.warnings, "its mode is 0700 again")?;
        let told = first_life(world, user, end, &[(STATE_DIR, &dir)])?;
        expect_none(&told)?;
        world.start(user, 0, "deliver", &[(STATE_DIR, &dir)])?;
    }
    only_below(world, &path)
}

fn another_user(world: &mut World<'_>, end: End, volume: Volume, is_parent: bool) -> Result<(), Failure> {
    let path = volume.make(world)?;
    let dir = chosen(&path, is_parent);
    let (user, other) = volume.users();
    first_life(world, user, end, &[(STATE_DIR, &dir)])?;
    let told = first_life(world, other, end, &[(STATE_DIR, &dir)])?;
    expect(&told.issues, &format!("user {}", user.id))?;
    world.start(other, 10, "deliver", &[(STATE_DIR, &dir)])?;
    if world.counts().1 > usize::try_from(SPANS)? + 10 {
        return Err("a process of another user has delivered the spans of the first".into());
    }
    world.start(user, 10, "deliver", &[(STATE_DIR, &dir)])?;
    only_below(world, &path)
}

fn link_of_root(world: &mut World<'_>, end: End) -> Result<(), Failure> {
    let volume = world.make("volume", APP.id, APP.id, 0o700)?;
    let link = world.link(&volume, "link", 0)?;
    let dir = link.join("state");
    expect_none(&first_life(world, APP, end, &[(STATE_DIR, &dir)])?)?;
    world.start(APP, 10, "deliver", &[(STATE_DIR, &dir)])?;
    only_below(world, &volume)
}

fn small_volume(world: &mut World<'_>, end: End) -> Result<(), Failure> {
    let volume = world.make("volume", 0, 0, 0o755)?;
    world.mount(&["-t", "tmpfs", "-o", "size=16m,mode=0777", "tmpfs"], &volume)?;
    expect_none(&first_life(world, APP, end, &[(STATE_DIR, &volume)])?)?;
    world.start(APP, 10, "deliver", &[(STATE_DIR, &volume)])?;
    Ok(())
}

fn two_services(world: &mut World<'_>, end: End) -> Result<(), Failure> {
    let volume = Volume::EmptyDir.make(world)?;
    let shop = [(STATE_DIR, volume.as_path()), ("OTEL_SERVICE_NAME", Path::new("shop"))];
    first_life(world, APP, end, &shop)?;
    let told = world.start(APP, 10, "deliver", &[(STATE_DIR, &volume)])?;
    if world.counts().1 > 10 {
        return Err("one service has delivered the spans of the other".into());
    }
    expect(&told.issues, "OTEL_SERVICE_NAME=shop")?;
    world.start(APP, 10, "deliver", &shop)?;
    only_below(world, &volume)
}

fn no_directory(world: &mut World<'_>) -> Result<(), Failure> {
    let told = world.start(APP, SPANS, "deliver", &[])?;
    expect(&told.issues, "spans are in memory only")?;
    only_below(world, Path::new("/nowhere"))
}

fn read_only(world: &mut World<'_>) -> Result<(), Failure> {
    let volume = world.make("volume", APP.id, APP.id, 0o700)?;
    world.make_read_only(&volume)?;
    for dir in [volume.clone(), volume.join("telemetry")] {
        let told = world.start(APP, SPANS, "deliver", &[(STATE_DIR, &dir)])?;
        expect(&told.issues, "spans are in memory only")?;
        expect(&told.issues, "Read-only file system")?;
    }
    Ok(())
}

fn required(world: &mut World<'_>) -> Result<(), Failure> {
    let volume = world.make("volume", APP.id, APP.id, 0o700)?;
    world.make_read_only(&volume)?;
    let vars = [(STATE_DIR, volume.as_path()), ("TELEMETRY_STATE_DIR_REQUIRED", Path::new("true"))];
    let output = world.output(APP, 1, "deliver", &vars)?;
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() {
        return Err("set-up has no error".into());
    }
    let path = volume.to_string_lossy().into_owned();
    ["Read-only file system", &path, "TELEMETRY_STATE_DIR_REQUIRED"]
        .iter()
        .try_for_each(|part| expect(std::slice::from_ref(&errors), part))
}

fn link_of_another(world: &mut World<'_>) -> Result<(), Failure> {
    let trap = world.make("trap", OTHER.id, OTHER.id, 0o777)?;
    let base = world.make("base", OTHER.id, OTHER.id, 0o755)?;
    world.link(&trap, "base/link", OTHER.id)?;
    for dir in [base.join("link"), base.join("link/state")] {
        let told = world.start(APP, SPANS, "deliver", &[(STATE_DIR, &dir)])?;
        expect(&told.issues, "spans are in memory only")?;
        expect(&told.issues, "symbolic link")?;
    }
    only_below(world, Path::new("/nowhere"))
}

/// Starts while another user replaces a directory above by a link, and back.
fn swapped_link(world: &mut World<'_>) -> Result<(), Failure> {
    let trap = world.make("trap", OTHER.id, OTHER.id, 0o777)?;
    world.make("base", OTHER.id, OTHER.id, 0o777)?;
    let swapped = world.make("base/swapped", OTHER.id, OTHER.id, 0o777)?;
    let link = world.link(&trap, "base/link", OTHER.id)?;
    let dir = swapped.join("state");
    let stop = AtomicBool::new(false);
    let result = std::thread::scope(|scope| {
        let swapper = scope.spawn(|| {
            while !stop.load(Ordering::Acquire) {
                renameat_with(CWD, &swapped, CWD, &link, RenameFlags::EXCHANGE)?;
            }
            Ok::<(), rustix::io::Errno>(())
        });
        let starts = (0..20).try_for_each(|_| world.start(APP, 50, "deliver", &[(STATE_DIR, &dir)]).map(drop));
        stop.store(true, Ordering::Release);
        swapper.join().map_err(|_| Failure::from("the swapper panicked"))??;
        starts
    });
    result?;
    match trap.read_dir()?.next() {
        None => Ok(()),
        Some(entry) => Err(format!("{} was made through a link of another user", entry?.path().display()).into()),
    }
}

/// Fails if the application's users have anything outside of `dir`.
fn only_below(world: &World<'_>, dir: &Path) -> Result<(), Failure> {
    let names = world.names()?;
    match names.iter().find(|name| name.owner == APP.id && !name.path.starts_with(dir)) {
        None => Ok(()),
        Some(name) => Err(format!("{} is outside of the chosen directory", name.path.display()).into()),
    }
}

fn expect(texts: &[String], part: &str) -> Result<(), Failure> {
    if texts.iter().any(|text| text.contains(part)) {
        return Ok(());
    }
    Err(format!("no text has {part:?}: {texts:?}").into())
}

/// Fails if the application has found trouble with its storage.
fn expect_none(told: &Told) -> Result<(), Failure> {
    let about =
        told.issues.iter().chain(&told.warnings).find(|text| text.contains("memory only") || text.contains("user"));
    match about {
        None => Ok(()),
        Some(text) => Err(format!("not expected: {text}").into()),
    }
}
