//! Cutting, separating and merging requests of any legal form, against a plain reader of the wire format.

use std::time::UNIX_EPOCH;

use bytes::Bytes;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_sdk::Resource;
use otlp_payload::wire::Fields;
use otlp_payload::{BatchId, Payload, Separated, Signal, count_spans, merge, merge_within};
use proptest::collection::vec;
use proptest::option::weighted;
use proptest::prelude::*;
use proptest::sample::select;
use prost::Message;

use crate::encode::{ID, encode};
use crate::spans;

/// Names that count from 0.
fn names() -> impl FnMut() -> BatchId {
    let mut seq = 0..;
    move || BatchId { incarnation: 9, seq: seq.next().expect("endless") }
}

/// The fields of a message: number, content, and the whole field.
fn fields(message: &[u8]) -> Vec<(u32, &[u8], &[u8])> {
    let all: Vec<_> = Fields::new(message, 0).map(|field| field.expect("legal")).collect();
    let ends = all.iter().skip(1).map(|field| field.offset).chain([message.len()]);
    all.iter()
        .zip(ends)
        .map(|(field, end)| (field.number, field.bytes().map_or(&b""[..], |it| it.0), &message[field.offset..end]))
        .collect()
}

/// A span with the bytes around it: the other fields of the request, of its resource and of its scope.
type Placed = (Vec<u8>, Vec<u8>, Vec<u8>, Vec<u8>);

fn placed(request: &[u8]) -> Vec<Placed> {
    let others = |message, child| -> Vec<u8> {
        fields(message).into_iter().filter(|field| field.0 != child).flat_map(|field| field.2.to_vec()).collect()
    };
    let children = |message, child| fields(message).into_iter().filter(move |field| field.0 == child);
    let mut all = Vec::new();
    for (_, resource, _) in children(request, 1) {
        for (_, scope, _) in children(resource, 2) {
            for (.., span) in children(scope, 2) {
                all.push((others(request, 1), others(resource, 2), others(scope, 2), span.to_vec()));
            }
        }
    }
    all
}

fn varint(value: usize, is_padded: bool) -> Vec<u8> {
    let mut out = Vec::new();
    prost::encoding::encode_varint(value as u64, &mut out);
    if is_padded {
        *out.last_mut().expect("one byte at least") |= 0x80;
        out.push(0);
    }
    out
}

/// A field of wire type 2; a padded one has tag and length in more bytes than they need.
fn framed(number: usize, content: &[u8], is_padded: bool) -> Vec<u8> {
    [varint(number << 3 | 2, is_padded), varint(content.len(), is_padded), content.to_vec()].concat()
}

/// The request with the spans that are asked for, in the plainest way.
pub(crate) fn picked(request: &[u8], keep: &dyn Fn(usize) -> bool) -> Vec<u8> {
    fn level(message: &[u8], path: &[u32], seen: &mut usize, keep: &dyn Fn(usize) -> bool) -> (Vec<u8>, bool) {
        let (mut out, mut has_spans) = (Vec::new(), false);
        for (number, content, whole) in fields(message) {
            if number != path[0] {
                out.extend_from_slice(whole);
            } else if path.len() == 1 {
                if keep(*seen) {
                    out.extend_from_slice(whole);
                    has_spans = true;
                }
                *seen += 1;
            } else {
                let (content, is_kept) = level(content, &path[1..], seen, keep);
                if is_kept {
                    out.extend(framed(number as usize, &content, false));
                    has_spans = true;
                }
            }
        }
        (out, has_spans)
    }
    level(request, &[1, 2, 2], &mut 0, keep).0
}

/// A field that OTLP does not have: a number, bytes, a group with a group in it.
fn unknown() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        any::<u8>().prop_map(|value| [varint(50 << 3, false), varint(usize::from(value), false)].concat()),
        vec(any::<u8>(), 0..150).prop_map(|content| framed(99, &content, false)),
        Just(b"\x9b\x06\x08\x01\x12\x02\x9c\x06\x1b\x1c\x9c\x06".to_vec()),
    ]
}

fn text_field(number: usize) -> impl Strategy<Value = Vec<u8>> {
    "[a-z]{0,9}".prop_map(move |text| framed(number, text.as_bytes(), false))
}

/// Fields of these kinds in any order and number, within a field of this number.
fn message(number: usize, field: impl Strategy<Value = Vec<u8>>, max: usize) -> impl Strategy<Value = Vec<u8>> {
    (vec(field, 0..=max), weighted(0.2, Just(())))
        .prop_map(move |(content, padded)| framed(number, &content.concat(), padded.is_some()))
}

/// A legal request of another writer: several resources and scopes, some empty; messages and URLs that are missing or
/// given twice, before and behind their children; unknown fields on each level; padded numbers.
fn foreign() -> impl Strategy<Value = Vec<u8>> {
    let long_name = (0..400_usize).prop_map(|length| framed(5, "n".repeat(length).as_bytes(), false));
    let span = message(2, prop_oneof![text_field(5), long_name, unknown()], 3);
    let scope_fields = prop_oneof![6 => span, 1 => message(1, text_field(1), 2), 1 => text_field(3), 1 => unknown()];
    let resource = message(1, Just(framed(1, b"\x0a\x01k", false)), 2);
    let resource_fields =
        prop_oneof![4 => message(2, scope_fields, 8), 1 => resource, 1 => text_field(3), 1 => unknown()];
    vec(prop_oneof![5 => message(1, resource_fields, 5), 1 => unknown()], 0..5).prop_map(|fields| fields.concat())
}

fn ours() -> impl Strategy<Value = Vec<u8>> {
    (spans::resource(), vec(spans::span(), 0..12))
        .prop_map(|(resource, batch)| encode(&resource, &batch).bytes().to_vec())
}

fn payload(request: Vec<u8>) -> Payload {
    Payload::from_bytes(ID, UNIX_EPOCH, request.into()).expect("legal")
}

/// Mostly no limit on the number of spans.
fn max_spans() -> impl Strategy<Value = usize> {
    prop_oneof![3 => Just(usize::MAX), 2 => 0..6_usize]
}

fn check_cut(request: Vec<u8>, max_bytes: usize, max_spans: usize) -> Result<(), TestCaseError> {
    let payload = payload(request);
    let count = payload.item_count();
    let is_within = payload.bytes().len() <= max_bytes && count <= max_spans;
    let Some(pieces) = payload.cut_within(max_bytes, max_spans, names()) else {
        prop_assert!(count < 2 || is_within);
        return Ok(());
    };
    prop_assert!(!is_within);
    let mut next = 0;
    for (seq, piece) in (0..).zip(&pieces) {
        let (start, end) = (next, next + piece.item_count());
        prop_assert_eq!((piece.id(), piece.created()), (BatchId { incarnation: 9, seq }, UNIX_EPOCH));
        prop_assert!(start < end);
        prop_assert_eq!(&piece.bytes()[..], picked(payload.bytes(), &|number| (start..end).contains(&number)));
        prop_assert!(piece.bytes().len() <= max_bytes || piece.item_count() == 1);
        prop_assert!(piece.item_count() <= max_spans.max(1));
        // One span more would not fit.
        let larger = picked(payload.bytes(), &|number| (start..=end).contains(&number));
        prop_assert!(end == count || larger.len() > max_bytes || piece.item_count() >= max_spans);
        next = end;
    }
    prop_assert_eq!(next, count);
    let all: Vec<_> = pieces.iter().flat_map(|piece| placed(piece.bytes())).collect();
    prop_assert_eq!(all, placed(payload.bytes()));
    Ok(())
}

fn check_separate(request: Vec<u8>, min_bytes: usize) -> Result<(), TestCaseError> {
    let payload = payload(request);
    let count = payload.item_count();
    let Some(Separated { large, small }) = payload.separate(min_bytes, names()) else {
        prop_assert_eq!(count, 0);
        return Ok(());
    };
    let alone = |one: usize| picked(payload.bytes(), &|number| number == one).len();
    let is_large: Vec<bool> = (0..count).map(|number| alone(number) >= min_bytes).collect();
    let both = [large.as_ref(), small.as_ref()];
    if let [Some(one), None] | [None, Some(one)] = both {
        prop_assert_eq!((one.id(), one.bytes()), (ID, payload.bytes()));
        prop_assert!(is_large.iter().all(|is_large| *is_large == large.is_some()));
        return Ok(());
    }
    for (seq, (want, part)) in (0..).zip([true, false].into_iter().zip(both.into_iter().flatten())) {
        prop_assert_eq!((part.id(), part.created()), (BatchId { incarnation: 9, seq }, UNIX_EPOCH));
        prop_assert_eq!(&part.bytes()[..], picked(payload.bytes(), &|number| is_large[number] == want));
        prop_assert_eq!(part.item_count(), is_large.iter().filter(|is_large| **is_large == want).count());
    }
    prop_assert!(large.is_some() && small.is_some());
    Ok(())
}

/// A request of one of two resources, of another writer, or bytes that are none.
fn request() -> impl Strategy<Value = Vec<u8>> {
    let one_of_two = (select(vec!["a", "b"]), vec(spans::span(), 0..4)).prop_map(|(name, batch)| {
        encode(&Resource::builder_empty().with_service_name(name).build(), &batch).bytes().to_vec()
    });
    prop_oneof![12 => one_of_two, 2 => foreign(), 1 => vec(any::<u8>(), 0..20)]
}

fn check_merge(requests: &[Bytes], max_bytes: usize, max_spans: usize) -> Result<(), TestCaseError> {
    let merged = merge_within(Signal::Traces, requests, max_bytes, max_spans);
    let mut next = 0;
    for one in &merged {
        prop_assert_eq!(one.requests.start, next);
        prop_assert!(!one.requests.is_empty());
        next = one.requests.end;
        let parts = &requests[one.requests.clone()];
        if let [alone] = parts {
            prop_assert_eq!((one.bytes.as_ptr(), one.bytes.len()), (alone.as_ptr(), alone.len()));
            continue;
        }
        prop_assert!(one.bytes.len() <= max_bytes);
        prop_assert!(count_spans(&one.bytes).is_ok_and(|spans| spans <= max_spans));
        prop_assert_eq!(placed(&one.bytes), parts.iter().flat_map(|part| placed(part)).collect::<Vec<_>>());
        let counts: Result<Vec<usize>, _> = parts.iter().map(|part| count_spans(part)).collect();
        prop_assert_eq!(counts.map(|counts| counts.iter().sum()), count_spans(&one.bytes));
        // Decoded by others too, if the parts are: scopes are as many as before, of one resource.
        let scopes = |bytes: &[u8]| {
            let request = ExportTraceServiceRequest::decode(bytes).ok()?;
            (request.resource_spans.len() == 1).then(|| request.resource_spans[0].scope_spans.clone())
        };
        let expected: Option<Vec<_>> = parts.iter().map(|part| scopes(part)).collect();
        if let Some(expected) = expected {
            let found = scopes(&one.bytes).expect("as legal as its parts");
            // By text: a NaN is not equal to itself.
            prop_assert_eq!(format!("{:?}", expected.concat()), format!("{found:?}"));
        }
    }
    prop_assert_eq!(next, requests.len());
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn pieces_are_few_and_hold_all_spans(
        request in prop_oneof![foreign(), ours()],
        max_bytes in prop_oneof![4 => 0..3_000_usize, 1 => Just(usize::MAX)],
        max_spans in max_spans(),
    ) {
        check_cut(request, max_bytes, max_spans)?;
    }

    #[test]
    fn large_spans_are_separated(request in prop_oneof![foreign(), ours()], min_bytes in 0..1_500_usize) {
        check_separate(request, min_bytes)?;
    }

    #[test]
    fn merged_requests_hold_all_spans_in_their_order(
        requests in vec(request(), 0..12),
        max_bytes in 0..6_000_usize,
        max_spans in max_spans(),
    ) {
        let requests: Vec<Bytes> = requests.into_iter().map(Bytes::from).collect();
        check_merge(&requests, max_bytes, max_spans)?;
    }

    #[test]
    fn requests_of_one_resource_are_merged_into_as_few_as_fit(
        batches in vec(vec(spans::span(), 0..4), 1..12),
        max_bytes in 0..20_000_usize,
        max_spans in max_spans(),
    ) {
        let resource = Resource::builder_empty().with_service_name("merged").build();
        let requests: Vec<Bytes> = batches.iter().map(|batch| encode(&resource, batch).bytes().clone()).collect();
        let merged = merge_within(Signal::Traces, &requests, max_bytes, max_spans);
        for one in &merged {
            // With the next request it would be too large: the stock encoder's size of both, or their spans.
            if let Some(next) = requests.get(one.requests.end) {
                let both = [&one.bytes[..], next].map(|bytes| ExportTraceServiceRequest::decode(bytes).expect("ours"));
                let [mut both, next] = both;
                both.resource_spans[0].scope_spans.extend(next.resource_spans[0].scope_spans.clone());
                let spans = [&one.bytes, &requests[one.requests.end]].map(|bytes| count_spans(bytes).expect("ours"));
                prop_assert!(both.encoded_len() > max_bytes || spans.iter().sum::<usize>() > max_spans);
            }
        }
        check_merge(&requests, max_bytes, max_spans)?;
    }
}

/// The shortest request with one span of this name.
fn named(name: &str) -> Vec<u8> {
    framed(1, &framed(2, &framed(2, &framed(5, name.as_bytes(), false), false), false), false)
}

#[test]
fn unknown_fields_beside_the_scopes_or_the_resource_keep_a_request_alone() {
    let plain = Bytes::from(named("n"));
    let scope = framed(2, &framed(2, b"", false), false);
    let spans_of_old = framed(1000, b"spans of an old writer", false);
    for other in [
        [plain.to_vec(), framed(9, b"news", false)].concat(),
        framed(1, &[scope.clone(), spans_of_old].concat(), false),
        [named("a"), named("b")].concat(),
        Vec::new(),
        named("n")[..8].to_vec(),
        // The resource is a number.
        framed(1, &[b"\x08\x01".to_vec(), scope].concat(), false),
    ] {
        let other = Bytes::from(other);
        let requests = [other.clone(), other.clone(), plain.clone(), plain.clone(), other];
        let ranges: Vec<_> = merge(&requests, 1_000).into_iter().map(|one| one.requests).collect();
        assert_eq!(ranges, [0..1, 1..2, 2..4, 4..5], "{:x?}", &requests[0][..]);
    }
}

#[test]
fn a_schema_url_tells_requests_apart_and_stays_where_it_was() {
    let scope = |name: &str| framed(2, &framed(2, &framed(5, name.as_bytes(), false), false), false);
    let request =
        |name, url: &[u8]| framed(1, &[b"\x0a\x00".to_vec(), scope(name), framed(3, url, false)].concat(), false);
    let requests = [request("a", b"1"), request("b", b"1"), request("c", b"2")].map(Bytes::from);
    let merged = merge(&requests, 1_000);
    assert_eq!(merged.iter().map(|one| one.requests.clone()).collect::<Vec<_>>(), [0..2, 2..3]);
    let both = [b"\x0a\x00".to_vec(), scope("a"), scope("b"), framed(3, b"1", false)].concat();
    assert_eq!(merged[0].bytes, framed(1, &both, false));
}

#[test]
fn a_span_over_the_limit_is_alone_and_its_neighbours_fill_their_pieces() {
    let span = |length| framed(2, &framed(5, "n".repeat(length).as_bytes(), false), false);
    let spans = [span(10), span(10), span(500), span(10), span(10), span(10)].concat();
    let payload = payload(framed(1, &framed(2, &spans, false), false));
    let counts =
        |max| -> Vec<usize> { payload.cut(max, names()).expect("too large").iter().map(Payload::item_count).collect() };
    assert_eq!(counts(60), [2, 1, 3]);
    assert_eq!(counts(0), [1; 6]);
    let Some(Separated { large: Some(large), small: Some(small) }) = payload.separate(100, names()) else {
        panic!("one of six is large");
    };
    assert_eq!((large.item_count(), small.item_count()), (1, 5));
}

#[test]
fn a_batch_that_promises_more_spans_than_it_has_is_cut_by_those_that_it_has() {
    let span = framed(2, &framed(5, b"n", false), false);
    let request = framed(1, &framed(2, &span.repeat(4), false), false);
    let counts = |promised, max| {
        let batch = Payload::new(ID, UNIX_EPOCH, promised, request.clone().into());
        let pieces = batch.cut_within(usize::MAX, max, names())?;
        Some(pieces.iter().map(Payload::item_count).collect::<Vec<_>>())
    };
    assert_eq!(counts(9, 3), Some(vec![3, 1]));
    assert_eq!((counts(9, 4), counts(4, 4)), (None, None));
    assert_eq!(counts(4, 0), Some(vec![1; 4]), "no request is without a span");
}

#[test]
fn padding_alone_may_make_a_request_fit() {
    let scope = framed(2, &[framed(2, b"", false), framed(2, b"", false)].concat(), true);
    let payload = payload(framed(1, &[scope, framed(2, b"", true)].concat(), true));
    let pieces = payload.cut(8, names()).expect("17 bytes are more than 8");
    assert_eq!((pieces.len(), pieces[0].item_count(), pieces[0].bytes().len()), (1, 2, 8));
    assert!(pieces[0].cut(8, names()).is_none());
}
