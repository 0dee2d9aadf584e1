//! The name of one file: `traces-20260131T235959.123Z-00000042-n512.jsonl.zst`.

use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use crate::form::format::Format;

/// The parts of the name of a file of this crate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileName {
    /// When it was written, by the wall clock of that moment.
    pub(crate) time: SystemTime,
    /// Its place in the order.
    pub(crate) seq: u64,
    /// The units in its records, as the caller counted them.
    pub(crate) count: u64,
    pub(crate) extension: Extension,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extension {
    pub(crate) format: Format,
    pub(crate) packing: Packing,
}

/// How a file is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Packing {
    Plain,
    Zstd,
    Gzip,
}

impl FileName {
    pub(crate) fn format(&self, signal: &str) -> String {
        let Self { seq, count, .. } = self;
        let millis = self.time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis();
        let millis = i64::try_from(millis).unwrap_or(MAX_MILLIS).min(MAX_MILLIS);
        let time = Timestamp::from_millisecond(millis).unwrap_or_default().strftime("%Y%m%dT%H%M%S.%3fZ");
        format!("{signal}-{time}-{seq:08}-n{count}{}", self.extension.as_str())
    }

    /// `None` for every name that [`format`](Self::format) would not have written for this signal.
    pub(crate) fn parse(signal: &str, name: &str) -> Option<Self> {
        let rest = name.strip_prefix(signal)?.strip_prefix('-')?;
        let (stem, extension) = Extension::split(rest)?;
        let mut parts = stem.split('-');
        let time = parse_time(parts.next()?)?;
        let seq = digits(parts.next()?)?;
        let count = digits(parts.next()?.strip_prefix('n')?)?;
        let parsed = Self { time, seq, count, extension };
        let ours = parts.next().is_none() && seq <= MAX_SEQ && count <= MAX_COUNT && parsed.format(signal) == name;
        ours.then_some(parsed)
    }
}

impl Extension {
    fn as_str(self) -> &'static str {
        match (self.format, self.packing) {
            (Format::Lines, Packing::Plain) => ".jsonl",
            (Format::Lines, Packing::Zstd) => ".jsonl.zst",
            (Format::Lines, Packing::Gzip) => ".jsonl.gz",
            (Format::Framed, Packing::Plain) => ".binpb",
            (Format::Framed, Packing::Zstd) => ".binpb.zst",
            (Format::Framed, Packing::Gzip) => ".binpb.gz",
        }
    }

    fn all() -> impl Iterator<Item = Self> {
        let of = |format| [Packing::Plain, Packing::Zstd, Packing::Gzip].map(|packing| Self { format, packing });
        [Format::Lines, Format::Framed].into_iter().flat_map(of)
    }

    fn split(text: &str) -> Option<(&str, Self)> {
        Self::all().find_map(|extension| Some((text.strip_suffix(extension.as_str())?, extension)))
    }
}

fn parse_time(text: &str) -> Option<SystemTime> {
    let (date, rest) = text.split_once('T')?;
    let (time, millis) = rest.strip_suffix('Z')?.split_once('.')?;
    if (date.len(), time.len(), millis.len()) != (8, 6, 3) || !text.is_ascii() {
        return None;
    }
    let part = |text: &str| digits(text).and_then(|number| i8::try_from(number).ok());
    let year = i16::try_from(digits(&date[..4])?).ok()?;
    let nanos = i32::try_from(digits(millis)?).ok()? * 1_000_000;
    let date_time = DateTime::new(
        year,
        part(&date[4..6])?,
        part(&date[6..])?,
        part(&time[..2])?,
        part(&time[2..4])?,
        part(&time[4..])?,
        nanos,
    );
    let millis = date_time.ok()?.to_zoned(TimeZone::UTC).ok()?.timestamp().as_millisecond();
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(u64::try_from(millis).ok()?))
}

fn digits(text: &str) -> Option<u64> {
    (!text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse().ok())?
}

/// The time as a name has it: in whole milliseconds, and within the years that four digits can write.
pub(crate) fn as_named(time: SystemTime) -> SystemTime {
    let millis = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis();
    let millis = u64::try_from(millis).unwrap_or(u64::MAX).min(MAX_MILLIS.unsigned_abs());
    SystemTime::UNIX_EPOCH + Duration::from_millis(millis)
}

/// 9999-12-30T21:59:59.999Z: the last whole second but one that `jiff` knows, and the year still has four digits.
const MAX_MILLIS: i64 = 253_402_207_199_999;

/// A name with a higher number or count was not written by this crate: sums over all files cannot overflow.
const MAX_SEQ: u64 = 1_000_000_000_000_000_000;
const MAX_COUNT: u64 = 1_000_000_000_000;

/// A file may have a higher number, but new files do not continue from it. A million files a second reach this number
/// in 30 years.
pub(crate) const MAX_TRUSTED_SEQ: u64 = 1_000_000_000_000_000;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_name_reads_well() {
        let time = SystemTime::UNIX_EPOCH + Duration::from_millis(1_769_903_999_123);
        let extension = Extension { format: Format::Lines, packing: Packing::Zstd };
        let name = FileName { time, seq: 42, count: 512, extension };
        assert_eq!(name.format("traces"), "traces-20260131T235959.123Z-00000042-n512.jsonl.zst");
        let extension = Extension { format: Format::Framed, packing: Packing::Plain };
        let name = FileName { extension, ..name };
        assert_eq!(name.format("traces"), "traces-20260131T235959.123Z-00000042-n512.binpb");
    }

    #[test]
    fn times_outside_the_calendar_are_clamped() {
        for (time, text) in [
            (SystemTime::UNIX_EPOCH - Duration::from_secs(5), "19700101T000000.000Z"),
            (SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 40), "99991230T215959.999Z"),
        ] {
            let extension = Extension { format: Format::Lines, packing: Packing::Plain };
            let name = FileName { time, seq: 1, count: 1, extension }.format("x");
            assert_eq!(name, format!("x-{text}-00000001-n1.jsonl"));
            assert!(FileName::parse("x", &name).is_some());
        }
    }

    #[test]
    fn a_name_that_this_crate_does_not_write_is_not_parsed() {
        for name in [
            "",
            "traces",
            "traces-",
            "traces-20260131T235959.123Z-00000042-n512.json",
            "traces-20260131T235959.123Z-00000042-n512.jsonl.bz2",
            "traces-20260131T235959.123Z-00000042-n512.pb",
            "traces-20260131T235959.123Z-00000042-n512.binpb.jsonl",
            "traces-20260131T235959.123Z-42-n512.jsonl",
            "traces-20260131T235959.123Z-00000042-n0512.jsonl",
            "traces-20260131T235959.123Z-00000042-n+512.jsonl",
            "traces-20260131T235959.123Z-00000042-n99999999999999999999.jsonl",
            "traces-20260131T235959.123Z-9999999999999999999-n1.jsonl",
            "traces-20261331T235959.123Z-00000042-n512.jsonl",
            "traces-2026013\u{e9}T23595.123Z-00000042-n512.jsonl",
            "logs-20260131T235959.123Z-00000042-n512.jsonl",
            "traces-20260131T235959.123Z-00000042-n512-x.jsonl",
            ".tmp-traces-20260131T235959.123Z-00000042-n512.jsonl",
        ] {
            assert_eq!(FileName::parse("traces", name), None, "{name}");
        }
    }

    proptest! {
        #[test]
        fn a_name_that_is_written_is_parsed_to_the_same_parts(
            millis in 0..MAX_MILLIS,
            seq in 0..=MAX_SEQ,
            count in 0..=MAX_COUNT,
            which in 0..6_usize,
        ) {
            let extension = Extension::all().nth(which).expect("six of them");
            let time = SystemTime::UNIX_EPOCH + Duration::from_millis(millis as u64);
            let name = FileName { time, seq, count, extension };
            prop_assert_eq!(FileName::parse("traces", &name.format("traces")), Some(name));
        }

        #[test]
        fn the_time_as_named_is_that_of_the_parsed_name(nanos in any::<u64>(), before in any::<bool>()) {
            let epoch = SystemTime::UNIX_EPOCH;
            let span = Duration::from_nanos(nanos).saturating_mul(if before { 1 } else { 40 });
            let time = if before { epoch.checked_sub(span) } else { epoch.checked_add(span) }.expect("a time");
            let extension = Extension { format: Format::Lines, packing: Packing::Plain };
            let text = FileName { time, seq: 1, count: 1, extension }.format("x");
            prop_assert_eq!(FileName::parse("x", &text).map(|name| name.time), Some(as_named(time)));
        }

        #[test]
        fn any_text_is_parsed_without_panic(text in ".*") {
            let _ = FileName::parse("traces", &text);
            let _ = FileName::parse("traces", &format!("traces-{text}"));
        }
    }
}
