//! Histories of several processes of one service that are alive at once on one disk: adoption in every direction,
//! rolling restarts, machines that stand still, disks that stall, vanish or lie, wrong clocks, files without a reader.

use ::journal::SyncPolicy;
use proptest::prelude::*;
use safe_dir::sim::{Crash, Fault, Reach};

use super::fleet::{Event, Member, Planted, play};
use super::{Answer, Step, answer, sync_policy};

const DAY: i64 = 86_400;

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (1..40_usize).prop_map(Step::Export),
        8 => Just(Step::DiskTurn),
        5 => Just(Step::JournalTurn),
        7 => (any::<usize>(), answer()).prop_map(|(call, answer)| Step::Answer(call, answer)),
        1 => Just(Step::Redrive),
    ]
}

fn time() -> impl Strategy<Value = Event> {
    let ms = prop_oneof![6 => 0..1_500_u64, 2 => 5_000..6_000_u64, 1 => 30_000..100_000_u64];
    ms.prop_map(|ms| Event::At(0, Step::Advance(ms)))
}

fn member() -> impl Strategy<Value = Member> {
    (prop::bool::weighted(0.75), 0..2_u32).prop_map(|(is_durable, host)| Member {
        is_durable,
        host,
        ..Member::default()
    })
}

fn member_in_trouble() -> impl Strategy<Value = Member> {
    let skew = prop_oneof![6 => Just(0), 1 => Just(10 * DAY), 1 => Just(74 * 365 * DAY), 1 => Just(-10 * DAY)];
    let max_bytes = prop_oneof![4 => Just(1_u64 << 30), 1 => 2_000..60_000_u64];
    let fault = prop_oneof![Just(Fault::Errno(5)), Just(Fault::Errno(28)), Just(Fault::TornWrite(28))];
    let fault = prop::option::weighted(0.2, (1..150_u64, fault, prop::bool::weighted(0.3)));
    (member(), skew, max_bytes, fault).prop_map(|(member, skew, max_bytes, fault)| Member {
        skew,
        max_bytes,
        fault,
        ..member
    })
}

fn crash() -> impl Strategy<Value = Crash> {
    prop_oneof![Just(Crash::Worst), any::<u64>().prop_map(Crash::Random)]
}

fn common(member: impl Strategy<Value = Member> + Clone) -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => member.clone().prop_map(Event::Start),
        50 => (0..4_usize, step()).prop_map(|(at, step)| Event::At(at, step)),
        12 => time(),
        2 => any::<usize>().prop_map(Event::Kill),
        2 => (any::<usize>(), 1..80_u64).prop_map(|(at, nth)| Event::KillDuring(at, nth)),
        2 => any::<usize>().prop_map(Event::Shutdown),
        2 => (any::<usize>(), member).prop_map(|(at, member)| Event::RollOver(at, member)),
        1 => crash().prop_map(Event::PowerCut),
        1 => (6..12_u64).prop_map(Event::CrashLoop),
        1 => (1..60_u64, 500..15_000_u64).prop_map(|(step, ms)| Event::Stall(step, ms)),
    ]
}

fn trouble() -> impl Strategy<Value = Event> {
    let planted = prop::sample::select(vec![Planted::NoJson, Planted::NoZstd, Planted::NoProtobuf, Planted::Empty]);
    prop_oneof![
        3 => any::<usize>().prop_map(Event::Remove),
        1 => (any::<usize>(), planted).prop_map(|(at, planted)| Event::Plant(at, planted)),
        1 => any::<usize>().prop_map(Event::PanicOn),
        2 => (1..4_u32).prop_map(Event::FailSyncs),
        1 => (0..40_000_u64).prop_map(Event::LimitDisk),
        2 => Just(Event::Repair),
    ]
}

fn histories() -> impl Strategy<Value = Vec<Event>> {
    let events = prop::collection::vec(common(member().boxed()), 1..120);
    events.prop_map(with_two)
}

fn histories_with_removed_segments() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![30 => common(member().boxed()), 1 => any::<usize>().prop_map(Event::RemoveSegment)];
    prop::collection::vec(event, 1..120).prop_map(with_two)
}

fn histories_in_trouble() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![10 => common(member_in_trouble().boxed()), 1 => trouble()];
    prop::collection::vec(event, 1..120).prop_map(with_two)
}

/// Two processes, on two machines, are alive from the start.
fn with_two(mut events: Vec<Event>) -> Vec<Event> {
    let second = Member { host: 1, ..Member::default() };
    events.splice(0..0, [Event::Start(Member::default()), Event::Start(second)]);
    events
}

fn reach() -> impl Strategy<Value = Reach> {
    prop_oneof![2 => Just(Reach::Local), 1 => Just(Reach::Network), 2 => Just(Reach::NetworkWithLocalLocks)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, max_shrink_iters: 5_000, ..ProptestConfig::default() })]

    #[test]
    fn processes_on_a_healthy_disk_lose_no_durable_span_and_leave_nothing(
        policy in sync_policy(),
        events in histories(),
    ) {
        play(policy, Reach::Local, events)?;
    }

    #[test]
    fn a_removed_segment_takes_no_durable_span_of_any_process_along_but_those_that_are_counted(
        policy in sync_policy(),
        events in histories_with_removed_segments(),
    ) {
        play(policy, Reach::Local, events)?;
    }

    #[test]
    fn processes_in_trouble_lose_no_durable_span_and_leave_nothing(
        policy in sync_policy(),
        reach in reach(),
        events in histories_in_trouble(),
    ) {
        play(policy, reach, events)?;
    }
}

/// A process with files, a journal and a dead letter is killed. A second one, whose calls to the disk fail, adopts
/// all that, exports, sends, hands over to files, and shuts down. A third one is alive meanwhile.
fn adoption(second: Member) -> Vec<Event> {
    let at = |process: usize, step: Step| Event::At(process, step);
    let mut events = vec![Event::Start(Member::default())];
    events
        .extend((0..6).flat_map(|_| [Step::Export(35), Step::Answer(0, Answer::Unavailable)]).map(|step| at(0, step)));
    let steps = [Step::DiskTurn, Step::Advance(70_000), Step::Answer(0, Answer::Refused), Step::DiskTurn];
    events.extend(steps.map(|step| at(0, step)));
    events.extend([at(0, Step::Export(5)), Event::Kill(0), Event::Start(second), Event::Start(Member::default())]);
    for _ in 0..4 {
        events.extend([at(0, Step::DiskTurn), at(0, Step::Export(30)), at(0, Step::Advance(1_100))]);
        events.extend([at(1, Step::JournalTurn), at(0, Step::Answer(0, Answer::Accepted)), at(1, Step::Export(3))]);
    }
    events.extend([at(0, Step::Advance(5_100)), at(0, Step::DiskTurn), at(0, Step::DiskTurn), Event::Shutdown(0)]);
    events
}

#[test]
fn no_call_to_the_disk_that_fails_while_a_process_adopts_loses_a_durable_span() {
    let faults =
        [(Fault::Errno(5), false), (Fault::Errno(5), true), (Fault::Errno(28), true), (Fault::TornWrite(28), false)];
    for is_durable in [true, false] {
        for (fault, lasts) in faults {
            for nth in 1.. {
                let fault = Some((nth, fault, lasts));
                let events = adoption(Member { is_durable, fault, ..Member::default() });
                let fired = play(SyncPolicy::Batch, Reach::Local, events)
                    .unwrap_or_else(|error| panic!("{fault:?}, durable: {is_durable}: {error}"))
                    .fired;
                if fired == 0 {
                    assert!(nth > 80, "fewer than {nth} calls to the disk, too few for an adoption");
                    break;
                }
            }
        }
    }
}

fn member_with(change: impl FnOnce(&mut Member)) -> Member {
    let mut member = Member::default();
    change(&mut member);
    member
}

fn lost(reach: Reach, events: Vec<Event>) -> u64 {
    play(SyncPolicy::Batch, reach, events).unwrap_or_else(|error| panic!("{error}")).lost
}

#[test]
fn a_file_that_is_adopted_and_removed_by_a_limit_at_once_enters_and_leaves_the_ledger() {
    let small = member_with(|member| member.max_bytes = 2_000);
    let events = vec![
        Event::Start(small),
        Event::Start(member_with(|member| member.is_durable = false)),
        Event::At(1, Step::Export(39)),
        Event::Shutdown(1),
        Event::At(0, Step::Advance(5_100)),
        Event::At(0, Step::DiskTurn),
    ];
    assert_eq!(lost(Reach::Local, events), 39);
}

#[test]
fn a_process_that_ends_within_a_second_has_told_the_next_one_the_time() {
    for skew in [10 * DAY, 74 * 365 * DAY] {
        let events = vec![
            Event::Start(member_with(|member| member.is_durable = false)),
            Event::At(0, Step::Export(9)),
            Event::Shutdown(0),
            Event::Start(member_with(|member| member.skew = skew)),
            Event::At(0, Step::Advance(1_100)),
            Event::At(0, Step::DiskTurn),
        ];
        assert_eq!(lost(Reach::Local, events), 0, "{skew} seconds ahead");
    }
}

#[test]
fn a_machine_that_stood_still_appends_nothing_to_a_journal_that_another_one_has_adopted() {
    for reach in [Reach::Network, Reach::NetworkWithLocalLocks] {
        let events = vec![
            Event::Start(Member::default()),
            Event::At(0, Step::Export(5)),
            Event::Start(member_with(|member| member.host = 1)),
            Event::At(1, Step::JournalTurn),
            Event::At(0, Step::Advance(61_000)),
            Event::At(1, Step::JournalTurn),
            Event::At(0, Step::Export(7)),
            Event::Kill(0),
        ];
        assert_eq!(lost(reach, events), 0, "{reach:?}");
    }
}

/// The disk is full, and journals of ended processes wait to become files: no file goes for a batch that is safe in its
/// journal, since a process that dies before it has counted that takes the count along.
#[test]
fn a_batch_that_is_safe_in_a_journal_takes_the_place_of_no_file() {
    let durable = Member::default;
    let memory_only = || member_with(|member| member.is_durable = false);
    for (shutdown, bytes) in [(true, 6_027), (false, 0)] {
        let mut events = vec![Event::Start(memory_only()), Event::At(0, Step::Export(1)), Event::Shutdown(0)];
        events.extend([Event::CrashLoop(8), Event::Start(durable()), Event::At(0, Step::Export(1))]);
        events.push(if shutdown { Event::Shutdown(0) } else { Event::Kill(0) });
        events.extend([Event::LimitDisk(bytes), Event::Start(memory_only()), Event::PowerCut(Crash::Worst)]);
        assert_eq!(lost(Reach::Local, events), 0, "{bytes} bytes");
    }
}

/// Another program removes the directory of a process, while the disk takes few bytes or none. The process has read the
/// batches of an ended one, cannot append them to a new journal, and finds them again.
#[test]
fn batches_that_a_process_finds_again_while_it_has_them_in_memory_leave_once() {
    for bytes in [0, 900, 2_400, 3_600] {
        let at = |step: Step| Event::At(0, step);
        let mut events = vec![Event::Start(Member::default())];
        events.extend([5, 7, 9].map(|count| at(Step::Export(count))));
        events.extend([Event::Kill(0), Event::Start(Member::default())]);
        events.extend([const { Step::DiskTurn }; 3].map(at));
        // The state directory is the first path, and the directory of this process the next one.
        events.extend([Event::Remove(1), Event::LimitDisk(bytes)]);
        for _ in 0..6 {
            events.extend([Step::Advance(1_100), Step::JournalTurn, Step::Answer(0, Answer::Unavailable)].map(at));
        }
        events.push(Event::Shutdown(0));
        assert_eq!(lost(Reach::Local, events), 0, "{bytes} bytes");
    }
}
