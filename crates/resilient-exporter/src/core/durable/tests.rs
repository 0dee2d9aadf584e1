//! The records of pieces.

use std::time::SystemTime;

use super::*;
use crate::seams::journal::Vanished;

fn payload(seq: u64, spans: usize) -> Payload {
    let id = BatchId { incarnation: 1, seq };
    Payload::new(id, SystemTime::UNIX_EPOCH, spans, bytes::Bytes::from_static(b"spans"))
}

#[test]
fn the_pieces_of_a_synced_batch_that_have_not_ended_are_in_the_journal() {
    let mut durable = Durable::off();
    durable.state = State::On;
    let (whole, other) = (payload(0, 9), payload(1, 5));
    assert!(durable.on_submitted(&whole) && durable.on_submitted(&other));
    assert_eq!(durable.also_in_journal(), 0, "not yet synced");
    durable.on_written(&[whole.id()], Written::Synced);
    assert_eq!(durable.also_in_journal(), 0, "not yet offered");
    durable.on_offered(whole.id());
    durable.on_offered(other.id());
    durable.on_written(&[other.id()], Written::Unsynced);
    assert_eq!(durable.also_in_journal(), 9);
    let (left, right) = (payload(2, 5), payload(3, 4));
    durable.on_cut(whole.id(), [&left, &right]);
    assert_eq!(durable.also_in_journal(), 9);
    durable.on_ended(left.id());
    assert_eq!(durable.also_in_journal(), 4);
    let pieces = [payload(4, 1), payload(5, 3)];
    durable.on_cut(right.id(), &pieces);
    durable.on_ended(pieces[1].id());
    assert_eq!(durable.also_in_journal(), 1);
    durable.on_ended(pieces[0].id());
    assert_eq!((durable.also_in_journal(), durable.pieces.len(), durable.done.len()), (0, 0, 1));
}

#[test]
#[expect(clippy::disallowed_methods, reason = "any instant serves: this part of the core reads no clock")]
fn a_batch_that_is_found_again_before_its_mark_is_written_is_known() {
    let (mut durable, now) = (Durable::off(), Instant::now());
    durable.state = State::On;
    let (batch, other) = (payload(0, 9), payload(1, 5));
    assert!(durable.on_submitted(&batch));
    durable.on_written(&[batch.id()], Written::Synced);
    durable.on_vanished(&Vanished::default(), &[], now);
    durable.on_ended(batch.id());
    assert!(durable.on_found_again(batch.id()), "the mark waits");
    durable.on_committed();
    durable.on_look();
    assert!(durable.done.is_empty() && durable.on_found_again(batch.id()), "the journal thread has the mark");
    durable.on_committed();
    assert!(!durable.on_found_again(batch.id()) && !durable.on_found_again(other.id()));
}
