//! Opening: reads all segments first, and changes the directory only after that.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::io;

use safe_dir::{Directory, FileError, Locked};

use super::error::{OpenError, SyncError};
use super::frame::Account;
use super::index::{Index, Place, Segment};
use super::maintain::quarantine;
use super::scan::{Found, ScanError, Scanned, Subject, account, scan};
use super::segment::{SegmentId, failed_name};
use super::tail::Tail;
use super::{Config, Id, Journal, Kept, Notice, Report};

impl<D: Directory> Journal<D> {
    /// Locks the directory and finds the batches that wait: appended and not done.
    /// [`next_recovered`](Self::next_recovered) reads them one by one; they stay in the journal until they are done.
    ///
    /// `incarnation` is a random number for the ids of this run of the program. `file_exists` is asked once for the
    /// file of each spill that was announced and not marked as done. If it returns `true`, the file has the batches of
    /// the spill: it must be whole, and its name durable (sync its directory first). If it returns `false`, the journal
    /// has them. So open the journal before files of the fallback are replayed or removed.
    ///
    /// Takes the memory of the index, about 100 bytes a batch, and 64 KiB; reads the headers of batches, not their
    /// bodies. [`take_over`](Self::take_over) moves the batches of an ended process's journal to this one.
    ///
    /// # Errors
    ///
    /// If a setting is out of range, another process has the directory, a newer version has written there,
    /// `file_exists` failed, or the disk cannot read or sync the directory now. No segment is changed then. Damage is
    /// not an error, nor is a disk that takes no data: see [`Report::unsynced`].
    pub fn open(
        dir: D,
        config: Config,
        incarnation: u64,
        file_exists: impl FnMut(&str) -> io::Result<bool>,
    ) -> Result<(Self, Report), OpenError> {
        config.check()?;
        let locked = Locked::new(dir).map_err(OpenError::Lock)?;
        Self::open_locked(locked, config, incarnation, file_exists)
    }

    /// [`open`](Self::open) in a directory that the caller has locked.
    ///
    /// # Errors
    ///
    /// The same, except for the lock.
    pub fn open_locked(
        locked: Locked<D>,
        config: Config,
        incarnation: u64,
        file_exists: impl FnMut(&str) -> io::Result<bool>,
    ) -> Result<(Self, Report), OpenError> {
        config.check()?;
        let Locked { dir, lock } = locked;
        let mut found = Recovery::read(&dir, config.known_tags)?;
        let spilled = found.resolve_spills(file_exists)?;
        let mut journal = Self {
            dir,
            config,
            incarnation: found.free_incarnation(incarnation),
            index: found.index,
            tail: Tail::default(),
            head: None,
            next_number: found.next_number,
            reader: None,
            to_recover: VecDeque::new(),
            read_failures: HashMap::new(),
            unsynced_found: Vec::new(),
            uncopied: HashSet::new(),
            copy_rounds: 0,
            moved: Vec::new(),
            unreported: Vec::new(),
            gone: Vec::new(),
            vanished: false,
            trouble: false,
            notices: found.notices,
            quarantine: quarantine(),
            lock,
        };
        for name in found.refused {
            // Where the move fails, the file stays, and the next start refuses it again.
            drop(journal.set_aside(&name));
        }
        for key in found.useless {
            drop(journal.retire(key));
        }
        journal.sync_found(&found.done).map_err(OpenError::File)?;
        let mut report = found.report;
        report.unsynced = journal.settle_spills(&spilled, &mut report);
        report.batches = journal.index.batches.len();
        report.items = journal.index.items;
        journal.to_recover = journal.index.in_order().into();
        Ok((journal, report))
    }

    /// Makes the segments durable that the previous process wrote, as it may have been killed before its last sync. The
    /// next sync copies the waiting batches and the marks of a segment whose sync fails now, or failed before, to a new
    /// one.
    fn sync_found(&mut self, done: &HashSet<Id>) -> Result<(), FileError> {
        for (key, segment) in &mut self.index.segments {
            // Cheap for segments that were synced before. After failures their order does not show which ones those
            // are.
            let synced = match segment.torn_bytes {
                0 => self.dir.open_read(&segment.name).is_ok_and(|mut file| safe_dir::File::sync(&mut file).is_ok()),
                // This process begins the next segment, behind which a torn end would be damage.
                torn if !segment.kept => {
                    let len = segment.bytes - torn;
                    let cut = self.dir.open_append(&segment.name).is_ok_and(|mut file| {
                        safe_dir::File::truncate(&mut file, len).is_ok() && safe_dir::File::sync(&mut file).is_ok()
                    });
                    if cut {
                        (segment.bytes, segment.torn_bytes) = (len, 0);
                        self.index.bytes -= torn;
                    }
                    cut
                }
                _ => false,
            };
            if segment.sync_failed || !synced {
                self.unsynced_found.push(*key);
            }
        }
        for key in self.unsynced_found.clone() {
            // A segment that the disk does not read remains as it is.
            if self.index.segments.get(&key).is_some_and(|segment| !segment.kept) {
                self.set_sync_failed(key);
            }
        }
        // Also without segments: the previous process may have removed one and been killed before it synced the
        // directory. A power cut would bring that segment back, with batches that are not in the journal now.
        self.dir.sync()?;
        // A damaged segment goes to the quarantine before older ones, so that no later process counts its loss again.
        // The marks in it are needed until then.
        let damaged = self.index.segments.values_mut().filter(|segment| segment.damaged && !segment.kept);
        let is_damaged = damaged.map(|segment| segment.marks_copied = true).count() > 0;
        if is_damaged || !self.unsynced_found.is_empty() {
            self.mark_done(&done.iter().copied().collect::<Vec<_>>());
        }
        Ok(())
    }

    /// Writes the marks of the interrupted spills, and syncs.
    fn settle_spills(&mut self, spilled: &Spilled, report: &mut Report) -> Option<SyncError> {
        report.taken_over = spilled.taken_over.len();
        report.taken_back = spilled.taken_back.len();
        // Both marks stay in memory where they cannot be written; the sync fails then too.
        drop(self.done(&spilled.taken_over));
        drop(self.mark_taken_back(&spilled.taken_back));
        self.sync().err()
    }
}

/// Batches of interrupted spills.
struct Spilled {
    taken_over: Vec<Id>,
    taken_back: Vec<Id>,
}

struct Recovery {
    index: Index,
    next_number: u64,
    report: Report,
    notices: Vec<Notice>,
    /// Names of segments that are not files which may be opened.
    refused: Vec<String>,
    /// Segments without a whole record.
    useless: Vec<u64>,
    /// The number of records.
    records: u64,
    incarnations: HashSet<u64>,
    done: HashSet<Id>,
    /// The spill that was announced last for a batch.
    spills: BTreeMap<Id, String>,
}

impl Recovery {
    fn read<D: Directory>(dir: &D, known_tags: &'static [u8]) -> Result<Self, OpenError> {
        let mut recovery = Self {
            index: Index::default(),
            next_number: 1,
            report: Report::default(),
            notices: Vec::new(),
            refused: Vec::new(),
            useless: Vec::new(),
            records: 0,
            incarnations: HashSet::new(),
            done: HashSet::new(),
            spills: BTreeMap::new(),
        };
        let names = dir.list().map_err(OpenError::File)?.into_iter().filter_map(|entry| entry.name.into_string().ok());
        let mut segments: Vec<(SegmentId, String)> =
            names.filter_map(|name| Some((SegmentId::parse(&name)?, name))).collect();
        segments.sort();
        let followers = Followers::of(dir, &segments);
        let mut search = SEARCH;
        for ((id, name), is_followed) in segments.iter().zip(followers.is_followed) {
            recovery.next_number = recovery.next_number.max(id.number + 1);
            recovery.incarnations.insert(id.incarnation);
            let subject = Subject { id: *id, is_finished: is_followed && failed_name(name).is_some(), known_tags };
            let account = followers.accounts.get(&id.number).filter(|_| subject.is_finished);
            recovery.read_segment(dir, subject, name, account.copied(), &mut search)?;
        }
        recovery.index.synced();
        recovery.index.restore_order();
        match recovery.report.kept.pop() {
            // The disk reads none of the segments.
            Some(Kept { name, source }) if recovery.is_unreadable() => {
                Err(OpenError::File(FileError::Io { path: dir.path().join(name), action: "read", source }))
            }
            kept => {
                recovery.report.kept.extend(kept);
                Ok(recovery)
            }
        }
    }

    fn read_segment<D: Directory>(
        &mut self,
        dir: &D,
        subject: Subject,
        name: &str,
        account: Option<Account>,
        search: &mut u64,
    ) -> Result<(), OpenError> {
        let mut failures = 0;
        let (mut read, bytes) = loop {
            let mut file = match dir.open_read(name) {
                Ok(file) => file,
                Err(error) if error.is_refused() => {
                    self.report.damaged += 1;
                    self.report.damaged_places += 1;
                    self.notices.push(Notice::Damaged { name: name.to_owned(), places: 1, bytes: 0 });
                    self.refused.push(name.to_owned());
                    return Ok(());
                }
                Err(error) => return Err(OpenError::File(error)),
            };
            let len = safe_dir::File::len(&file).map_err(ScanError::Io);
            let budget = *search;
            match len.and_then(|len| Ok((scan(&mut file, subject, search)?, len))) {
                Ok((read, _)) if read.unread.is_some() && failures + 1 < MAX_READS => *search = budget,
                Ok(read) => break read,
                Err(ScanError::Newer(version)) => {
                    return Err(OpenError::Newer { path: dir.path().join(name), version });
                }
                Err(ScanError::Io(_)) if failures + 1 < MAX_READS => {}
                Err(ScanError::Io(source)) => {
                    return Err(OpenError::File(FileError::Io { path: dir.path().join(name), action: "read", source }));
                }
            }
            failures += 1;
        };
        self.incarnations.insert(read.id.incarnation);
        let mut segment = Segment::new(name.to_owned(), read.id, bytes);
        segment.kept = read.unread.is_some();
        if !segment.kept {
            read.scanned.settle(account);
        }
        let scanned = read.scanned;
        segment.damaged = scanned.damaged_places > 0 || scanned.newer > 0;
        segment.sync_failed = failed_name(name).is_none();
        (segment.batches, segment.items) = (scanned.batches, scanned.items);
        segment.torn_bytes = scanned.torn_bytes;
        let (is_damaged, is_kept) = (segment.damaged, segment.kept);
        let key = self.index.add_segment(segment);
        self.report.segments += 1;
        self.report.bytes += bytes;
        self.report.torn += usize::from(scanned.torn_bytes > 0);
        self.report.torn_bytes += scanned.torn_bytes;
        self.report_damage(name, &scanned);
        // Without a record, it is damage as a whole, or the begin that a crash has left: removed, so that the segment
        // before is the last one.
        if (is_damaged || !subject.is_finished) && !is_kept && read.found.is_empty() {
            self.useless.push(key);
        }
        if let Some(source) = read.unread {
            self.report.kept.push(Kept { name: name.to_owned(), source });
        }
        for record in read.found {
            self.apply(key, record);
        }
        Ok(())
    }

    fn report_damage(&mut self, name: &str, scanned: &Scanned) {
        if scanned.damaged_places > 0 {
            self.report.damaged += 1;
            self.report.damaged_places += scanned.damaged_places;
            let (places, bytes) = (scanned.damaged_places, scanned.damaged_bytes);
            self.notices.push(Notice::Damaged { name: name.to_owned(), places, bytes });
        }
        if scanned.lost_batches > 0 {
            self.report.lost_batches += scanned.lost_batches;
            self.report.lost_items += scanned.lost_items;
            let (batches, items) = (scanned.lost_batches, scanned.lost_items);
            self.notices.push(Notice::Missing { name: name.to_owned(), batches, items });
        }
        if scanned.newer > 0 {
            self.report.newer += scanned.newer;
            let (records, version) = (scanned.newer, scanned.newer_version);
            self.notices.push(Notice::Newer { name: name.to_owned(), records, version });
        }
    }

    fn apply(&mut self, segment: u64, record: Found) {
        self.records += 1;
        match record {
            Found::Batch { id, tag, count, offset, body_len } => {
                self.incarnations.insert(id.0);
                if self.done.contains(&id) {
                    self.report.duplicates += 1;
                    return;
                }
                if self.index.batches.contains_key(&id) {
                    self.report.duplicates += 1;
                } else {
                    self.index.insert(id, tag, count);
                }
                self.index.add_place(id, Place { segment, offset, body_len });
            }
            Found::Done(ids) => {
                self.index.note_marks(segment);
                for id in ids {
                    self.incarnations.insert(id.0);
                    self.spills.remove(&id);
                    self.index.remove(id);
                    self.done.insert(id);
                }
            }
            Found::Spill(name, ids) => {
                for id in ids {
                    self.incarnations.insert(id.0);
                    if name.is_empty() {
                        self.spills.remove(&id);
                    } else {
                        self.spills.insert(id, name.clone());
                    }
                }
            }
        }
    }

    /// Asks the caller once for each file.
    fn resolve_spills(&mut self, mut file_exists: impl FnMut(&str) -> io::Result<bool>) -> Result<Spilled, OpenError> {
        let mut answers: HashMap<String, bool> = HashMap::new();
        let mut spilled = Spilled { taken_over: Vec::new(), taken_back: Vec::new() };
        for (id, name) in std::mem::take(&mut self.spills) {
            if !self.index.batches.contains_key(&id) {
                continue;
            }
            let exists = match answers.get(&name) {
                Some(answer) => *answer,
                None => {
                    let answer =
                        file_exists(&name).map_err(|source| OpenError::Spill { name: name.clone(), source })?;
                    answers.insert(name, answer);
                    answer
                }
            };
            if exists {
                spilled.taken_over.push(id);
            } else {
                spilled.taken_back.push(id);
            }
        }
        Ok(spilled)
    }

    /// Whether no segment has a record that the disk reads.
    fn is_unreadable(&self) -> bool {
        self.records == 0 && self.report.newer == 0
    }

    /// An incarnation that is in no record, so that no old mark can be about a new batch.
    fn free_incarnation(&self, wanted: u64) -> u64 {
        let mut free = wanted;
        while self.incarnations.contains(&free) {
            free = free.wrapping_add(1);
        }
        free
    }
}

/// The evidence that segments give of those before them.
struct Followers {
    /// For each segment, whether its end was synced or cut. The writer of a segment syncs it before it begins the next
    /// one, and a later process cuts off torn ends before it begins one, which then has an account. Versions that wrote
    /// no account did not cut.
    is_followed: Vec<bool>,
    /// The account of a segment, by its number, as the first segment with records behind it states it.
    accounts: HashMap<u64, Account>,
}

impl Followers {
    fn of<D: Directory>(dir: &D, segments: &[(SegmentId, String)]) -> Self {
        let (mut is_followed, mut accounts) = (Vec::with_capacity(segments.len()), HashMap::new());
        // Between a segment and the next one with records, a crash may leave names of segments that were never written:
        // so an account counts for all segments before it.
        let (mut is_cut, mut next) = (false, None);
        for (id, name) in segments.iter().rev() {
            is_followed.push(is_cut || next == Some(id.incarnation));
            let account = account_in(dir, *id, name);
            is_cut |= account.is_some();
            accounts
                .extend(account.filter(|account| account.number < id.number).map(|account| (account.number, account)));
            next = Some(id.incarnation);
        }
        is_followed.reverse();
        Self { is_followed, accounts }
    }
}

/// The account that the segment of this name states; `None` if it states none, or cannot be read.
fn account_in<D: Directory>(dir: &D, id: SegmentId, name: &str) -> Option<Account> {
    account(&mut dir.open_read(name).ok()?, id).ok()?
}

/// Bytes to be searched for records behind damage, in all segments together: more than the longest record, and searched
/// in a fraction of a second.
const SEARCH: u64 = 128 << 20;

/// Failed reads of a segment after which the journal is opened without the rest of it.
const MAX_READS: u32 = 3;
