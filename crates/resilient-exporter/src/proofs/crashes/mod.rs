//! Buffer, journal and files together, over a simulated disk: random histories of exports, answers, refusals, spills,
//! replays, clock steps, a full disk, failing calls, shutdowns, kills and power cuts that lose or tear unsynced bytes.
//!
//! The proofs count by themselves: at the end of a history each span that `export` accepted as durable is at the
//! collector, in a dead letter, or counted as lost.
//!
//! | File | Purpose |
//! | --- | --- |
//! | `clocks` | the clocks of the simulated computer |
//! | `computer` | the simulated computer: its disk outlives its processes; the checks at the end of a history |
//! | `fleet` | several processes at once on one disk, and the trouble that other programs and bad disks make |
//! | `fleets` | histories of such processes |
//! | `process` | one process on the computer: its steps, and the recount of its ledger |
//! | `tree` | the files of the disk as another program sees, searches and removes them |

pub(super) mod clocks;
mod computer;
mod fleet;
mod fleets;
mod process;
mod tree;

use std::collections::VecDeque;

use ::journal::SyncPolicy;
use proptest::prelude::*;
use safe_dir::sim::{Crash, Fault};

use self::computer::Computer;

#[derive(Clone, Debug)]
enum Step {
    /// `export` is called with a batch of this many spans.
    Export(usize),
    /// The disk thread acts on its queue of effects, and the journal thread on its own.
    DiskTurn,
    /// The journal thread acts on its queue alone: the disk thread is busy.
    JournalTurn,
    /// Both clocks advance by this many milliseconds.
    Advance(u64),
    /// The wall clock is set forward or back by this many seconds.
    SetWallClock(i64),
    /// One of the calls in flight is answered.
    Answer(usize, Answer),
    /// An operator asks for the oldest dead letter to be redriven; the disk thread's next turn does so.
    Redrive,
    /// The process is killed.
    Kill,
    /// The power fails: unsynced writes are lost or torn.
    PowerCut(Crash),
    /// The disk thread takes a turn, and the power fails at its n-th call to the disk; with [`Crash::Best`] the process
    /// alone ends there.
    PowerCutDuring(u64, Crash),
    /// The process shuts down in order.
    Shutdown,
    /// The n-th call to the disk from now fails: that call alone, or all calls from there on.
    Fault(u64, Fault, bool),
    /// The disk takes no more than this many bytes.
    LimitDisk(u64),
    /// No call to the disk fails any more, and its size is unlimited.
    RepairDisk,
    /// Another program removes a segment of the journals, and the process learns of it.
    RemoveSegment(usize),
}

#[derive(Clone, Copy, Debug)]
enum Answer {
    Accepted,
    /// A partial success: the collector rejects this many spans and accepts the rest.
    PartlyRejected(usize),
    Unavailable,
    /// The collector stores the batch, and its answer is lost.
    Unacknowledged,
    TooLarge,
    /// Refused for good.
    Refused,
}

fn answer() -> impl Strategy<Value = Answer> {
    prop_oneof![
        8 => Just(Answer::Accepted),
        1 => (0..4_usize).prop_map(Answer::PartlyRejected),
        5 => Just(Answer::Unavailable),
        1 => Just(Answer::Unacknowledged),
        1 => Just(Answer::TooLarge),
        1 => Just(Answer::Refused),
    ]
}

fn common_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (1..40_usize).prop_map(Step::Export),
        7 => Just(Step::DiskTurn),
        3 => Just(Step::JournalTurn),
        5 => (0..400_u64).prop_map(Step::Advance),
        1 => (0..100_000_u64).prop_map(Step::Advance),
        1 => (-5_000..5_000_i64).prop_map(Step::SetWallClock),
        7 => (any::<usize>(), answer()).prop_map(|(call, answer)| Step::Answer(call, answer)),
        1 => Just(Step::Redrive),
    ]
}

fn end_of_process() -> impl Strategy<Value = Step> {
    let crash = prop_oneof![Just(Crash::Worst), any::<u64>().prop_map(Crash::Random)];
    let during = (1..60_u64, prop_oneof![2 => crash.clone(), 1 => Just(Crash::Best)]);
    prop_oneof![
        2 => Just(Step::Kill),
        2 => crash.prop_map(Step::PowerCut),
        4 => during.prop_map(|(nth, crash)| Step::PowerCutDuring(nth, crash)),
        2 => Just(Step::Shutdown),
    ]
}

fn disk_trouble() -> impl Strategy<Value = Step> {
    let fault = prop_oneof![
        3 => Just(Fault::Errno(5)),
        1 => Just(Fault::Errno(24)),
        1 => Just(Fault::Errno(28)),
        1 => Just(Fault::TornWrite(28)),
        1 => Just(Fault::ShortWrite),
    ];
    prop_oneof![
        3 => (1..40_u64, fault, prop::bool::weighted(0.2))
            .prop_map(|(nth, fault, lasts)| Step::Fault(nth, fault, lasts)),
        1 => (0..30_000_u64).prop_map(Step::LimitDisk),
        3 => Just(Step::RepairDisk),
    ]
}

fn steps_on_a_healthy_disk() -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec(prop_oneof![12 => common_step(), 1 => end_of_process()], 1..120)
}

fn steps_with_removed_segments() -> impl Strategy<Value = Vec<Step>> {
    let removal = any::<usize>().prop_map(Step::RemoveSegment);
    prop::collection::vec(prop_oneof![24 => common_step(), 2 => end_of_process(), 1 => removal], 1..120)
}

fn steps_on_a_failing_disk() -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec(prop_oneof![12 => common_step(), 1 => end_of_process(), 2 => disk_trouble()], 1..120)
}

fn sync_policy() -> impl Strategy<Value = SyncPolicy> {
    prop_oneof![
        4 => Just(SyncPolicy::Batch),
        1 => Just(SyncPolicy::Interval(std::time::Duration::from_millis(200))),
        1 => Just(SyncPolicy::Never),
    ]
}

fn run_history(policy: SyncPolicy, fallback: bool, steps: Vec<Step>) -> Result<(), TestCaseError> {
    let mut computer = Computer::new(policy, fallback);
    let mut steps = VecDeque::from(steps);
    while computer.run_process(&mut steps)? {}
    computer.assert_nothing_is_missing()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, max_shrink_iters: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn on_a_healthy_disk_no_durable_span_is_lost_and_duplicates_are_bounded(
        policy in sync_policy(),
        fallback in prop::bool::weighted(0.8),
        steps in steps_on_a_healthy_disk(),
    ) {
        run_history(policy, fallback, steps)?;
    }

    #[test]
    fn a_removed_segment_takes_no_durable_span_along_but_those_that_are_counted(
        policy in sync_policy(),
        fallback in prop::bool::weighted(0.5),
        steps in steps_with_removed_segments(),
    ) {
        run_history(policy, fallback, steps)?;
    }

    #[test]
    fn on_a_failing_disk_no_durable_span_is_lost(
        policy in sync_policy(),
        fallback in prop::bool::weighted(0.8),
        steps in steps_on_a_failing_disk(),
    ) {
        run_history(policy, fallback, steps)?;
    }
}

/// A first process appends, spills, hands over, stores a dead letter, cleans up, and is killed. A second one recovers,
/// replays and shuts down in order, and a third one ends with a power cut.
fn every_operation() -> Vec<Step> {
    let mut steps = Vec::new();
    // The batches exceed the buffer, so that the disk thread writes files.
    steps.extend((0..6).flat_map(|_| [Step::Export(35), Step::Answer(0, Answer::Unavailable)]));
    steps.extend([
        Step::DiskTurn,
        Step::Advance(70_000),
        Step::Answer(0, Answer::Refused),
        Step::DiskTurn,
        Step::Advance(1_100),
    ]);
    steps.extend([Step::DiskTurn, Step::Export(5), Step::Kill, Step::DiskTurn, Step::Export(7)]);
    for _ in 0..5 {
        steps.extend([Step::Answer(0, Answer::Accepted), Step::DiskTurn, Step::Advance(600)]);
    }
    steps.extend([
        Step::Export(30),
        Step::Shutdown,
        Step::DiskTurn,
        Step::Export(9),
        Step::Advance(1_100),
        Step::DiskTurn,
    ]);
    steps.extend([Step::PowerCut(Crash::Worst), Step::Export(3), Step::Answer(0, Answer::TooLarge), Step::DiskTurn]);
    steps
}

#[test]
fn no_durable_span_is_lost_whichever_call_to_the_disk_fails() {
    let faults =
        [Fault::Errno(5), Fault::Errno(24), Fault::Errno(4), Fault::Errno(28), Fault::TornWrite(28), Fault::ShortWrite];
    let for_good = [(Fault::Errno(5), true), (Fault::Errno(28), true)];
    for (fault, lasts) in faults.map(|fault| (fault, false)).into_iter().chain(for_good) {
        for nth in 1.. {
            let mut steps = VecDeque::from(every_operation());
            steps.push_front(Step::Fault(nth, fault, lasts));
            let mut computer = Computer::new(SyncPolicy::Batch, true);
            let failed = |error| panic!("{fault:?} at call {nth}, and at later calls: {lasts}: {error}");
            while computer.run_process(&mut steps).unwrap_or_else(failed) {}
            let fired = computer.faults_fired();
            computer
                .assert_nothing_is_missing()
                .unwrap_or_else(|error| panic!("{fault:?} at call {nth}, and at later calls: {lasts}: {error}"));
            if fired == 0 {
                assert!(nth > 100, "the history makes fewer than {nth} calls to the disk, too few for its operations");
                break;
            }
        }
    }
}

#[test]
fn a_crash_at_any_call_of_a_hand_over_leaves_each_batch_in_one_place() {
    for crash in [Crash::Best, Crash::Worst] {
        for nth in 1.. {
            // The sixth batch exceeds the buffer: the disk thread's next turn writes a file.
            let mut steps = VecDeque::from([const { Step::Export(35) }; 6]);
            steps.push_back(Step::PowerCutDuring(nth, crash));
            let mut computer = Computer::new(SyncPolicy::Batch, true);
            let failed = |error| panic!("{crash:?} at call {nth}: {error}");
            while computer.run_process(&mut steps).unwrap_or_else(failed)
                && computer.faults_fired() == 0
                && !steps.is_empty()
            {}
            let fired = computer.faults_fired();
            computer.assert_nothing_is_missing().unwrap_or_else(|error| panic!("{crash:?} at call {nth}: {error}"));
            if fired == 0 {
                assert!(nth > 5, "the turn makes fewer than {nth} calls to the disk, too few for a hand-over");
                break;
            }
        }
    }
}

/// The journal has reached its limit, no file has room, and memory is nearly full: the journal gives the oldest segment
/// up, and takes none of its batches anew before the disk thread is to write them to a file. In that state the process
/// is killed.
#[test]
fn a_batch_that_the_journal_has_given_up_is_not_durable_on_its_way_to_a_file() {
    // Directories of processes that have left nothing take their part of the disk.
    let mut steps = VecDeque::from([Step::Kill, Step::Kill, Step::Kill, Step::LimitDisk(13_214)]);
    let (first, others) = ([17, 13, 26, 20], [32, 36, 32, 1]);
    steps.extend(first.map(Step::Export));
    steps.extend([Step::Kill, Step::Kill, Step::DiskTurn]);
    steps.extend(others.map(Step::Export));
    // The file finds no room; a second later it is tried again.
    steps.extend([Step::DiskTurn, Step::Export(1), Step::Export(1), Step::Export(1), Step::Advance(1_500)]);
    let mut computer = Computer::new(SyncPolicy::Batch, true);
    while computer.run_process(&mut steps).expect("each ledger is right") {}
    let durable = |spans: std::ops::Range<u64>| {
        let is_durable = |span: &u64| computer.durable.contains(&(u128::from(*span).to_be_bytes(), span.to_be_bytes()));
        spans.filter(is_durable).count()
    };
    let given_up = 18..31;
    assert_eq!((durable(given_up), durable(31..77), durable(77..145)), (0, 46, 68));
    computer.assert_nothing_is_missing().expect("all durable spans are at the collector");
}
