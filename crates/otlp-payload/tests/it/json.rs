//! OTLP JSON, out and in.

use otlp_payload::json::{from_line, to_lines};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::encode::encode;
use crate::spans;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn comes_back_byte_for_byte(resource in spans::resource(), batch in vec(spans::span(), 1..8)) {
        let payload = encode(&resource, &batch);
        let lines = to_lines(payload.bytes(), usize::MAX).unwrap();
        prop_assert_eq!(lines.len(), 1);
        let (bytes, count) = from_line(&lines[0].text).unwrap();
        prop_assert_eq!(count, batch.len());
        prop_assert_eq!(&bytes[..], &payload.bytes()[..]);
    }
}
