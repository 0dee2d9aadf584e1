//! The recovery of the journal: any segments, on a disk in memory.

use std::collections::{BTreeMap, BTreeSet};

use ::journal::{Config, Id, Journal, Notice, OpenError, ReadError};
use safe_dir::Directory as _;
use safe_dir::sim::{Crash, Disk, MemoryDir};

use crate::feed::{Feed, Recipe, harm};
use crate::files::{content, put};
use crate::forge::{self, Forged, SEGMENT_HEADER, Segment};
use crate::{Seed, memory};

/// Opening ends, in bounded memory; no batch is invented; undamaged batches are there, and are there again after a
/// power cut; a done batch stays done; files that are set aside stay unchanged; a newer version is left untouched.
///
/// The input: a bit that decides whether the segments are forged or written by a journal; see [`forged`] and
/// [`written`].
pub(crate) fn check(input: &[u8]) {
    let mut feed = Feed(input);
    let scene = if feed.byte() & 1 == 0 { written(&mut feed) } else { forged(&mut feed) };
    let before = snapshot(&scene.disk);
    let limit = PEAK_PER_BYTE * before.values().map(Vec::len).sum::<usize>() + PEAK_AT_LEAST;
    match memory::within(limit, "recovery", || recover(&scene.disk, scene.files)) {
        Ok((journal, found)) => {
            assert!(!scene.newer, "a newer version was not seen");
            scene.agrees(&found);
            goes_on(&scene, &before, journal, found);
        }
        Err(OpenError::Newer { .. }) => {
            assert!(scene.newer, "nothing is newer");
            assert_eq!(snapshot(&scene.disk), before, "nothing is touched");
        }
        Err(error) => panic!("a well disk: {error}"),
    }
}

/// The content of a disk, and the batches that a journal must find in it.
struct Scene {
    disk: Disk,
    /// Whether the file of a spill exists.
    files: fn(&str) -> bool,
    /// All that may be found.
    given: BTreeMap<Id, BTreeSet<(u32, Vec<u8>)>>,
    /// Counts of forged headers over a body that is none: of two records with one name, one may lend the other its
    /// count.
    lent: BTreeSet<(Id, u32)>,
    must: BTreeSet<Id>,
    must_not: BTreeSet<Id>,
    newer: bool,
}

type Batches = BTreeMap<Id, (u32, Vec<u8>)>;

impl Scene {
    fn is_given(&self, id: Id, (count, body): &(u32, Vec<u8>)) {
        let given = self.given.get(&id).into_iter().flatten();
        let bodies: Vec<_> = given.filter(|(_, other)| other == body).collect();
        let counts = self.given.get(&id).into_iter().flatten().map(|(count, _)| (id, *count));
        let is_count = counts.chain(self.lent.iter().copied()).any(|other| other == (id, *count));
        assert!(!bodies.is_empty() && is_count, "{id:?} is invented");
    }

    fn agrees(&self, found: &Batches) {
        for (id, batch) in found {
            self.is_given(*id, batch);
            assert!(!self.must_not.contains(id), "{id:?} was done");
        }
        for id in &self.must {
            assert!(found.contains_key(id), "{id:?} is untouched, and lost");
        }
    }
}

/// Opens and takes all out.
fn recover(disk: &Disk, files: fn(&str) -> bool) -> Result<(Journal<MemoryDir>, Batches), OpenError> {
    let (mut journal, report) = Journal::open(disk.root(), CONFIG, 1, |name| Ok(files(name)))?;
    let mut found = Batches::new();
    #[expect(clippy::disallowed_methods, reason = "any time will do")]
    let now = std::time::Instant::now();
    while let Some(batch) = journal.next_recovered(now) {
        match batch {
            Ok(batch) => assert!(found.insert(batch.id, (batch.count, batch.body)).is_none(), "given out once"),
            Err(ReadError::Damaged { .. }) => {}
            Err(error) => panic!("a well disk: {error}"),
        }
    }
    assert!(report.unsynced.is_none());
    assert_eq!(journal.status().batches, found.len());
    Ok((journal, found))
}

/// The journal works as any other, and gives out a batch again at each start until the batch is done.
fn goes_on(scene: &Scene, before: &BTreeMap<String, Vec<u8>>, mut journal: Journal<MemoryDir>, mut found: Batches) {
    let id = (journal.incarnation(), 1);
    journal.append(id, 3, b"new").expect("there is space");
    journal.sync().expect("a well disk");
    assert!(found.insert(id, (3, b"new".to_vec())).is_none());
    clear_up(&mut journal);
    for notice in journal.take_notices() {
        if let Notice::SetAside { name, moved_to } = notice {
            let set_aside = content(&scene.disk, Some("quarantine"), &moved_to);
            assert_eq!(set_aside.as_ref(), before.get(&name), "{name} is set aside unchanged");
        }
    }
    drop(journal);
    scene.disk.crash(Crash::Worst);
    let left = snapshot(&scene.disk);
    let (mut journal, again) = recover(&scene.disk, scene.files).expect("we wrote it");
    // Segments go oldest first: a damaged one is met again only where an older one is still needed.
    for notice in journal.take_notices() {
        if let Notice::Damaged { name, .. } = notice {
            let oldest = left.keys().find(|name| name.ends_with(".seg"));
            assert!(oldest < Some(&name), "damage in {name} is met again");
        }
    }
    assert!(again.keys().eq(found.keys()), "{:?} was found, and then {:?}", found.keys(), again.keys());
    assert_eq!(again[&id], found[&id]);
    // Of forged batches with one name and two bodies either may come.
    again.into_iter().filter(|(other, _)| *other != id).for_each(|(id, batch)| scene.is_given(id, &batch));
    let ids: Vec<Id> = found.keys().copied().collect();
    assert_eq!(journal.done(&ids).expect("a well disk"), ids.len());
    journal.sync().expect("a well disk");
    clear_up(&mut journal);
    drop(journal);
    scene.disk.crash(Crash::Worst);
    let (_, none) = recover(&scene.disk, scene.files).expect("we wrote it");
    assert_eq!(none, Batches::new(), "what is done stays done");
}

/// As if a few seconds passed: each second may see to another damaged segment.
fn clear_up(journal: &mut Journal<MemoryDir>) {
    let mut steps = 0;
    for _second in 0..8 {
        while journal.maintain().expect("a well disk") {
            steps += 1;
            assert!(steps < 1_000, "clearing up does not end");
        }
    }
}

/// The segments in the directory.
fn snapshot(disk: &Disk) -> BTreeMap<String, Vec<u8>> {
    let names = disk.root().list().expect("a well disk").into_iter().filter_map(|entry| entry.name.into_string().ok());
    // The lock file is there once the directory was locked.
    let names = names.filter(|name| name != safe_dir::LOCK_FILE);
    names.filter_map(|name| content(disk, None, &name).map(|bytes| (name, bytes))).collect()
}

/// Up to four segments by [`Segment::read`]. The file of a spill exists if its name has an odd length.
fn forged(feed: &mut Feed<'_>) -> Scene {
    let disk = Disk::new();
    let mut scene = Scene {
        disk,
        files: |name| name.len() % 2 == 1,
        given: BTreeMap::new(),
        lent: BTreeSet::new(),
        must: BTreeSet::new(),
        must_not: BTreeSet::new(),
        newer: false,
    };
    let mut spills: BTreeMap<Id, String> = BTreeMap::new();
    let mut lies = false;
    for number in 1..=4 {
        if number > 1 && feed.is_empty() {
            break;
        }
        let segment = Segment::read(feed, number);
        assert!(put(&scene.disk, &segment.name(), &segment.bytes));
        scene.newer |= segment.newer;
        lies |= segment.lies_from.is_some();
        for record in segment.records {
            match record {
                Forged::Batch { id, count, body } => {
                    scene.given.entry(id).or_default().insert((count, body));
                    if segment.lies_from.is_none() {
                        scene.must.insert(id);
                    }
                }
                Forged::Header(id, count) => drop(scene.lent.insert((id, count))),
                Forged::Done(ids) => {
                    for id in ids {
                        spills.remove(&id);
                        scene.must_not.insert(id);
                    }
                }
                Forged::Spill(name, ids) => {
                    for id in ids {
                        if name.is_empty() {
                            spills.remove(&id);
                        } else {
                            spills.insert(id, name.clone());
                        }
                    }
                }
            }
        }
    }
    let in_files: BTreeSet<Id> = spills.into_iter().filter(|(_, name)| (scene.files)(name)).map(|(id, _)| id).collect();
    scene.must.retain(|id| !scene.must_not.contains(id) && !in_files.contains(id));
    if lies {
        // A mark may be hidden: whether a spill was announced or taken back is then open.
        scene.must.clear();
    } else {
        scene.must_not.extend(in_files);
    }
    scene
}

/// A journal of up to 64 operations, then up to four harms, each with its segment and its kind of damage.
fn written(feed: &mut Feed<'_>) -> Scene {
    let disk = Disk::new();
    let none = |_: &str| false;
    let mut given: BTreeMap<Id, BTreeSet<(u32, Vec<u8>)>> = BTreeMap::new();
    let harms = feed.byte() % 5;
    let operations = feed.byte() % 65;
    let mut journal = recover(&disk, none).expect("an empty disk").0;
    let mut waiting: Vec<Id> = Vec::new();
    for seq in 1..=u64::from(operations) {
        let operation = feed.byte();
        match operation & 7 {
            2 if !waiting.is_empty() => {
                let id = waiting.remove(usize::from(feed.byte()) % waiting.len());
                assert_eq!(journal.done(&[id]).expect("a well disk"), 1);
            }
            3 => journal.sync().map(drop).expect("a well disk"),
            4 => journal.spill(&format!("spill-{seq}"), &waiting).map(drop).expect("there is space"),
            5 => journal.take_back(&waiting).map(drop).expect("there is space"),
            6 => drop(journal.maintain().expect("a well disk")),
            7 => {
                drop(journal);
                journal = recover(&disk, none).expect("a well disk").0;
            }
            _ => {
                let id = (journal.incarnation(), seq);
                let body = body(id, feed.short() % 1_500);
                journal.append(id, u32::from(operation), &body).expect("there is space");
                given.entry(id).or_default().insert((u32::from(operation), body));
                waiting.push(id);
            }
        }
    }
    drop(journal);
    let original = snapshot(&disk);
    let names: Vec<&String> = original.keys().filter(|name| name.ends_with(".seg")).collect();
    for _ in 0..harms {
        let which = usize::from(feed.byte());
        if !names.is_empty() {
            disk.tamper(names[which % names.len()], |bytes| harm(feed, bytes));
        }
    }
    let harmed = snapshot(&disk);
    let mut untouched = BTreeSet::new();
    for name in names {
        let (original, harmed) = (&original[name], &harmed[name]);
        let same = |range: std::ops::Range<usize>| harmed.get(range.clone()) == original.get(range);
        let whole =
            forge::batches(original).into_iter().filter(|(_, range)| same(0..SEGMENT_HEADER) && same(range.clone()));
        untouched.extend(whole.map(|(id, _)| id));
    }
    let must: BTreeSet<Id> = waiting.iter().copied().filter(|id| untouched.contains(id)).collect();
    let mut must_not = BTreeSet::new();
    if original == harmed {
        assert_eq!(must.len(), waiting.len(), "all that waits is on the disk");
        must_not = given.keys().copied().filter(|id| !waiting.contains(id)).collect();
    }
    Scene { disk, files: none, given, lent: BTreeSet::new(), must, must_not, newer: false }
}

/// The bytes of a batch, which begin with its id.
fn body(id: Id, length: usize) -> Vec<u8> {
    format!("{}-{} ", id.0, id.1).into_bytes().into_iter().cycle().take(length).collect()
}

const CONFIG: Config = Config {
    segment_bytes: 4 << 10,
    max_bytes: 1 << 20,
    max_body_bytes: 64 << 10,
    free_space_reserve: 0,
    known_tags: &[0],
};

/// About 100 bytes a batch of at least 40, and the copies that are compared here.
const PEAK_PER_BYTE: usize = 32;
const PEAK_AT_LEAST: usize = 512 << 10;

/// Journals that were written and harmed, and forged ones with something of everything.
pub(crate) fn seeds() -> Vec<Seed> {
    let operations = |harms: u8| {
        let mut recipe = Recipe::default().byte(0).byte(harms).byte(24);
        for round in 0..4 {
            recipe =
                recipe.byte(0).short(1_400).byte(0).short(300).byte(3).byte(2).byte(round).byte(6).byte(0).short(9);
        }
        recipe
    };
    let harm =
        |recipe: Recipe, which: u8, what: u8, at: u16, value: u8| recipe.byte(which).byte(what).short(at).byte(value);
    let forged = |head: &[u8], more: &[u8], many: u8| forge::recipe(Recipe::default().byte(1), head, more, many);
    let seeds = [
        ("written", operations(0)),
        ("flipped", harm(operations(1), 0, 0, 900, 1)),
        ("zeroed", harm(operations(1), 0, 1, 2_000, 255)),
        ("cut", harm(operations(1), 1, 2, 700, 0)),
        ("drained", harm(operations(1), 0, 3, 100, 8)),
        ("copied", harm(operations(1), 0, 4, 32, 200)),
        ("spilled", Recipe::default().byte(0).byte(0).byte(5).byte(0).short(40).byte(4).byte(7).byte(5).byte(3)),
        ("forged", forged(&[0], b"", 0)),
        ("newer-segment", forged(&[1], b"", 0)),
        ("head-of-junk", forged(b"\x02\x05\0hello", b"", 0)),
        ("torn-head", forged(&[3, 20, 0], b"", 0)),
        ("junk-between", forged(&[0], b"\x00\x05\0hello\x01\x01\x09\x01\x02\0hi", 2)),
        ("false-count", forged(&[0], b"\x0a\x01\x01\x01\x01\x01\x09\x01\x02\0hi", 2)),
        ("damaged-body", forged(&[0], b"\x04\x01\x09\x01\x02\0hi\x01\x01\x0a\x01\x02\0hi", 2)),
        ("length-of-64-mib", forged(&[0], b"\xa5\x01\x09\xff\xff\x01\x01\x0a\x01\x02\0hi", 2)),
        ("newer-record", forged(&[0], b"\x06\x01\x09", 1)),
        ("wrong-place", forged(&[0], b"\x07\x01\x09\x01\x02\0hi\x01\x01\x0a\x01\x02\0hi", 2)),
        ("two-segments", forge::recipe(forged(&[0], b"", 0), &[0x10], b"\x03\x00\x01\x01\x03", 1)),
    ];
    seeds.into_iter().map(|(name, recipe)| (name.to_owned(), recipe.0)).collect()
}
