//! Spans that are separated by the times at which they ended.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use opentelemetry_sdk::Resource;
use otlp_payload::{Aged, BatchId, BatchWriter, Encoder, Payload, ValueLimits};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::divide::picked;
use crate::encode::{ID, encode};
use crate::spans;

/// Nanoseconds since 1970, as the encoder writes them.
fn nanos(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn each_span_is_in_the_part_of_its_age(
        batch in vec((spans::span(), 0..8_u64, 0..8_u64), 0..10),
        time in 0..10_u64,
    ) {
        let at = |nanos| UNIX_EPOCH + Duration::from_nanos(nanos);
        let batch: Vec<_> = batch.into_iter().map(|(mut span, start, end)| {
            (span.start_time, span.end_time) = (at(start), at(end));
            span
        }).collect();
        let payload = encode(&Resource::builder_empty().build(), &batch);
        // By the order in which they stand in the request.
        let decoded = otlp_payload::decode(payload.bytes()).expect("ours").spans;
        let is_old: Vec<bool> = decoded.iter().map(|span| {
            let age = [nanos(span.end_time), nanos(span.start_time)].into_iter().find(|nanos| *nanos > 0);
            age.is_some_and(|age| age < time)
        }).collect();
        let mut seq = 0..;
        let next_id = || BatchId { incarnation: 9, seq: seq.next().expect("endless") };
        let Some(Aged { old, young }) = payload.separate_ended_before(at(time), next_id) else {
            prop_assert!(batch.is_empty());
            return Ok(());
        };
        for (seq, want, part) in [(0, true, &old), (1, false, &young)] {
            let count = is_old.iter().filter(|old| **old == want).count();
            prop_assert_eq!(part.as_ref().map_or(0, Payload::item_count), count);
            let Some(part) = part else { continue };
            let id = if count == is_old.len() { ID } else { BatchId { incarnation: 9, seq } };
            prop_assert_eq!((part.id(), part.created()), (id, payload.created()));
            prop_assert_eq!(&part.bytes()[..], picked(payload.bytes(), &|number| is_old[number] == want));
        }
    }

    #[test]
    fn the_newest_and_the_oldest_time_are_those_of_ends_or_of_starts_without_an_end(
        batch in vec((spans::span(), 0..8_u64, 0..8_u64), 0..10),
    ) {
        let at = |nanos| UNIX_EPOCH + Duration::from_nanos(nanos);
        let times = batch.iter().map(|(_, start, end)| if *end > 0 { *end } else { *start });
        let times = times.filter(|time| *time > 0);
        let (newest, oldest) = (times.clone().max().map(at), times.min().map(at));
        let batch: Vec<_> = batch.into_iter().map(|(mut span, start, end)| {
            (span.start_time, span.end_time) = (at(start), at(end));
            span
        }).collect();
        let encoder = Encoder::new(&Resource::builder_empty().build());
        let encoded = encoder.encode(ID, UNIX_EPOCH, &batch);
        // From its bytes alone, as after a file.
        let read = Payload::new(ID, UNIX_EPOCH, batch.len(), encoded.bytes().clone());
        let [mut one, mut other] = [(); 2].map(|()| BatchWriter::new(ValueLimits::default()));
        let (first, second) = batch.split_at(batch.len() / 2);
        first.iter().for_each(|span| one.push(span));
        second.iter().for_each(|span| other.push(span));
        one.append(&mut other);
        let written = one.finish(&encoder, ID, UNIX_EPOCH);
        let all = [encoded, read, written];
        prop_assert_eq!(all.each_ref().map(Payload::newest), [newest; 3]);
        prop_assert_eq!(all.each_ref().map(Payload::oldest), [oldest; 3]);
        if let Some(oldest) = oldest {
            let old_until = |time| all[0].separate_ended_before(time, || ID).and_then(|aged| aged.old);
            prop_assert!(old_until(oldest).is_none() && old_until(oldest + Duration::from_nanos(1)).is_some());
        }
        // The next batch of a writer has its own time.
        prop_assert_eq!(one.finish(&encoder, ID, UNIX_EPOCH).newest(), None);
    }

    #[test]
    fn any_bytes_are_separated_without_harm(bytes in vec(any::<u8>(), 0..80), claimed in 0..4_usize) {
        let payload = Payload::new(ID, UNIX_EPOCH, claimed, bytes.into());
        let _ = (payload.newest(), payload.oldest());
        let _ = payload.separate_ended_before(SystemTime::UNIX_EPOCH + Duration::from_secs(1), || ID);
    }
}
