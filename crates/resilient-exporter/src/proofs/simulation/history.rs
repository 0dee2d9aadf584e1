//! The steps of a random history.

use proptest::prelude::*;

use super::packing::{Packed, packed};

/// One step of a history.
#[derive(Clone, Debug)]
pub(super) enum Action {
    Offer(usize),
    Advance(u64),
    Answer(usize, Answer),
    /// The disk thread acts on the oldest effect.
    RunEffect(Disturbance),
    /// The fallback's limits remove its oldest batch.
    Evict,
    /// An operator redrives the oldest dead letter.
    Redrive {
        fails: bool,
    },
    /// The transport has found changed credentials.
    ChangeCredentials {
        endpoint: usize,
    },
    /// The thread that compresses ends its job.
    Pack(Packed),
    /// A flush wants all batches on the disk, after an attempt of its own.
    Save {
        attempts: bool,
    },
}

/// The state of the disk thread and its fallback during one effect.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Disturbance {
    None,
    /// The fallback fails.
    Failure,
    /// The fallback works and refuses batches: several together, and some alone.
    Refusal,
    /// The disk thread panics before it has a result, or has ended.
    Panic,
}

pub(super) fn disturbance() -> impl Strategy<Value = Disturbance> {
    prop_oneof![
        14 => Just(Disturbance::None),
        4 => Just(Disturbance::Failure),
        2 => Just(Disturbance::Refusal),
        1 => Just(Disturbance::Panic),
    ]
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Answer {
    Accept,
    /// A partial success: the collector rejects this many spans and accepts the rest.
    PartlyReject(usize),
    Unavailable,
    Throttle(u64),
    /// The collector stores the batch, and its answer is lost.
    Unacknowledged,
    TooLarge,
    /// The collector refuses the batch for good.
    Refuse,
    /// The collector refuses the credentials, and those of this generation are there.
    Renew(u64),
}

pub(super) fn answer() -> impl Strategy<Value = Answer> {
    prop_oneof![
        6 => Just(Answer::Accept),
        1 => (0..5_usize).prop_map(Answer::PartlyReject),
        4 => Just(Answer::Unavailable),
        1 => (0..60_000_u64).prop_map(Answer::Throttle),
        1 => Just(Answer::Unacknowledged),
        1 => Just(Answer::TooLarge),
        1 => Just(Answer::Refuse),
        1 => (0..4_u64).prop_map(Answer::Renew),
    ]
}

pub(super) fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        4 => (1..40_usize).prop_map(Action::Offer),
        3 => (0..3_000_u64).prop_map(Action::Advance),
        1 => (0..400_000_u64).prop_map(Action::Advance),
        6 => (any::<usize>(), answer()).prop_map(|(call, answer)| Action::Answer(call, answer)),
        4 => disturbance().prop_map(Action::RunEffect),
        1 => Just(Action::Evict),
        1 => prop::bool::weighted(0.2).prop_map(|fails| Action::Redrive { fails }),
        1 => (0..4_usize).prop_map(|endpoint| Action::ChangeCredentials { endpoint }),
        1 => any::<bool>().prop_map(|attempts| Action::Save { attempts }),
    ]
}

pub(super) fn history() -> impl Strategy<Value = Vec<Action>> {
    prop::collection::vec(action(), 0..250)
}

pub(super) fn history_with_packing() -> impl Strategy<Value = Vec<Action>> {
    let action = prop_oneof![5 => action(), 1 => packed().prop_map(Action::Pack)];
    prop::collection::vec(action, 0..300)
}
