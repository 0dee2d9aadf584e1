//! Buffer, journal and files together, over a simulated disk: random histories of exports, answers, refusals, spills, replays,
//! clock steps, a full disk, failing calls, shutdowns, kills and power cuts that lose or tear what was not synced. Nothing here
//! asks the code under test what is true: a batch whose export returned durable must have reached the collector in the
//! end, or a dead letter, or be counted as dropped.

mod clocks;
mod computer;
mod process;

use std::collections::VecDeque;

use ::journal::SyncPolicy;
use proptest::prelude::*;
use safe_dir::sim::{Crash, Fault};

use self::computer::World;

#[derive(Clone, Debug)]
enum Step {
    /// A batch of so many spans.
    Export(usize),
    /// The disk thread does what there is to do.
    Disk,
    /// So many milliseconds pass.
    Pass(u64),
    /// The wall clock is set, by so many seconds.
    Set(i64),
    /// One of the calls that are out is answered.
    Answer(usize, Answer),
    /// The oldest dead letter is to be put back on its way, by the disk thread's next turn.
    Redrive,
    /// The process is killed.
    Kill,
    /// The power goes, and what was not synced with it.
    PowerCut(Crash),
    /// The power goes, or with [`Crash::Best`] the process, at the n-th call to the disk of the disk thread's next turn.
    PowerCutDuring(u64, Crash),
    /// The program ends in good order.
    Shutdown,
    /// A call to the disk fails, once or from then on.
    Fault(u64, Fault, bool),
    /// The disk has room for so many bytes.
    Room(u64),
    /// The disk is well again.
    Well,
}

#[derive(Clone, Copy, Debug)]
enum Answer {
    Taken,
    /// Some of it is refused, the rest taken.
    Partly(usize),
    Unavailable,
    /// The collector has it, and its answer is lost.
    Lost,
    TooLarge,
    /// Refused for good.
    Refused,
}

fn answer() -> impl Strategy<Value = Answer> {
    prop_oneof![
        8 => Just(Answer::Taken),
        1 => (0..4_usize).prop_map(Answer::Partly),
        5 => Just(Answer::Unavailable),
        1 => Just(Answer::Lost),
        1 => Just(Answer::TooLarge),
        1 => Just(Answer::Refused),
    ]
}

fn common() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (1..40_usize).prop_map(Step::Export),
        8 => Just(Step::Disk),
        5 => (0..400_u64).prop_map(Step::Pass),
        1 => (0..100_000_u64).prop_map(Step::Pass),
        1 => (-5_000..5_000_i64).prop_map(Step::Set),
        7 => (any::<usize>(), answer()).prop_map(|(call, answer)| Step::Answer(call, answer)),
        1 => Just(Step::Redrive),
    ]
}

fn ending() -> impl Strategy<Value = Step> {
    let crash = prop_oneof![Just(Crash::Worst), any::<u64>().prop_map(Crash::Random)];
    let during = (1..60_u64, prop_oneof![2 => crash.clone(), 1 => Just(Crash::Best)]);
    prop_oneof![
        2 => Just(Step::Kill),
        2 => crash.prop_map(Step::PowerCut),
        4 => during.prop_map(|(nth, crash)| Step::PowerCutDuring(nth, crash)),
        2 => Just(Step::Shutdown),
    ]
}

fn trouble() -> impl Strategy<Value = Step> {
    let fault = prop_oneof![
        3 => Just(Fault::Errno(5)),
        1 => Just(Fault::Errno(24)),
        1 => Just(Fault::Errno(28)),
        1 => Just(Fault::TornWrite(28)),
        1 => Just(Fault::ShortWrite),
    ];
    prop_oneof![
        3 => (1..40_u64, fault, prop::bool::weighted(0.2)).prop_map(|(nth, fault, lasts)| Step::Fault(nth, fault, lasts)),
        1 => (0..30_000_u64).prop_map(Step::Room),
        3 => Just(Step::Well),
    ]
}

fn on_a_well_disk() -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec(prop_oneof![12 => common(), 1 => ending()], 1..120)
}

fn on_any_disk() -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec(prop_oneof![12 => common(), 1 => ending(), 2 => trouble()], 1..120)
}

fn policy() -> impl Strategy<Value = SyncPolicy> {
    prop_oneof![
        4 => Just(SyncPolicy::Batch),
        1 => Just(SyncPolicy::Interval(std::time::Duration::from_millis(200))),
        1 => Just(SyncPolicy::Never),
    ]
}

fn play(policy: SyncPolicy, fallback: bool, steps: Vec<Step>) -> Result<(), TestCaseError> {
    let mut world = World::new(policy, fallback);
    let mut steps = VecDeque::from(steps);
    while world.live(&mut steps)? {}
    world.recover()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_200, max_shrink_iters: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn on_a_well_disk_nothing_durable_is_lost_and_duplicates_are_bounded(
        policy in policy(),
        fallback in prop::bool::weighted(0.8),
        steps in on_a_well_disk(),
    ) {
        play(policy, fallback, steps)?;
    }

    #[test]
    fn on_any_disk_nothing_durable_is_lost(
        policy in policy(),
        fallback in prop::bool::weighted(0.8),
        steps in on_any_disk(),
    ) {
        play(policy, fallback, steps)?;
    }
}

/// A life that accepts, spills, hands over, buries and clears up; a kill; one that recovers, replays and ends in good order;
/// and one after a power cut.
fn every_operation() -> Vec<Step> {
    let mut steps = Vec::new();
    // More than the buffer holds: files are written.
    steps.extend((0..6).flat_map(|_| [Step::Export(35), Step::Answer(0, Answer::Unavailable)]));
    steps.extend([Step::Disk, Step::Pass(70_000), Step::Answer(0, Answer::Refused), Step::Disk, Step::Pass(1_100)]);
    steps.extend([Step::Disk, Step::Export(5), Step::Kill, Step::Disk, Step::Export(7)]);
    for _ in 0..5 {
        steps.extend([Step::Answer(0, Answer::Taken), Step::Disk, Step::Pass(600)]);
    }
    steps.extend([Step::Export(30), Step::Shutdown, Step::Disk, Step::Export(9), Step::Pass(1_100), Step::Disk]);
    steps.extend([Step::PowerCut(Crash::Worst), Step::Export(3), Step::Answer(0, Answer::TooLarge), Step::Disk]);
    steps
}

#[test]
fn any_call_to_the_disk_may_fail_once_or_for_good() {
    let faults =
        [Fault::Errno(5), Fault::Errno(24), Fault::Errno(4), Fault::Errno(28), Fault::TornWrite(28), Fault::ShortWrite];
    let for_good = [(Fault::Errno(5), true), (Fault::Errno(28), true)];
    for (fault, lasts) in faults.map(|fault| (fault, false)).into_iter().chain(for_good) {
        for nth in 1.. {
            let mut steps = VecDeque::from(every_operation());
            steps.push_front(Step::Fault(nth, fault, lasts));
            let mut world = World::new(SyncPolicy::Batch, true);
            let failed = |error| panic!("{fault:?} at call {nth}, for good: {lasts}: {error}");
            while world.live(&mut steps).unwrap_or_else(failed) {}
            let fired = world.faults_fired();
            world.recover().unwrap_or_else(|error| panic!("{fault:?} at call {nth}, for good: {lasts}: {error}"));
            if fired == 0 {
                assert!(nth > 100, "the run makes {nth} calls, which is not all that it should do");
                break;
            }
        }
    }
}

#[test]
fn a_crash_at_any_call_of_a_hand_over_leaves_each_batch_in_one_place() {
    for crash in [Crash::Best, Crash::Worst] {
        for nth in 1.. {
            // The sixth batch is more than the buffer holds: the disk thread's next turn writes a file.
            let mut steps = VecDeque::from([const { Step::Export(35) }; 6]);
            steps.push_back(Step::PowerCutDuring(nth, crash));
            let mut world = World::new(SyncPolicy::Batch, true);
            let failed = |error| panic!("{crash:?} at call {nth}: {error}");
            while world.live(&mut steps).unwrap_or_else(failed) && world.faults_fired() == 0 && !steps.is_empty() {}
            let fired = world.faults_fired();
            world.recover().unwrap_or_else(|error| panic!("{crash:?} at call {nth}: {error}"));
            if fired == 0 {
                assert!(nth > 5, "the turn makes {nth} calls, which is no hand-over");
                break;
            }
        }
    }
}
