//! The compressed form of a batch that waits in memory.
//!
//! [`Content`] is the only way to the bytes of a batch: a compressed form is never taken for a request. A form is a
//! zstd frame with a checksum. The frames of small batches refer to a dictionary, the first bytes of some earlier
//! batches: it has the resource, the names and the keys, which most of a small batch consists of.

use std::io;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use otlp_payload::{BatchId, Payload, Signal};
use zstd::bulk::{Compressor, Decompressor};
use zstd::zstd_safe::{CParameter, compress_bound};

/// The bytes of one batch of usual spans differ by 3 % between the levels 1 and 3, the time by a half.
const LEVEL: i32 = 1;

/// The longest dictionary: one that is twice as long saves 1 % of the bytes of a batch of ten usual spans.
const DICTIONARY: usize = 8 * 1_024;

/// A form that saves less than this part of the bytes is not kept.
const WORTH: usize = 8;

/// The request of a batch: plain, or compressed while it waits.
#[derive(Clone, Debug)]
pub(crate) enum Content {
    Plain(Payload),
    Packed(Packed),
}

/// A compressed request. A clone is two reference counts.
#[derive(Clone)]
pub(crate) struct Packed {
    id: BatchId,
    created: SystemTime,
    signal: Signal,
    items: usize,
    /// The length of the request.
    len: usize,
    /// The end of the oldest item.
    oldest: Option<SystemTime>,
    frame: Bytes,
    dictionary: Arc<[u8]>,
}

/// A compressed form that does not give the request back.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Damaged {
    /// The frame or its checksum is wrong.
    #[error("the compressed form of a batch in memory is damaged")]
    Frame(#[source] io::Error),
    /// The frame is whole, and belongs to another request.
    #[error("the compressed form of a batch in memory has {found} bytes of {expected}")]
    Length {
        /// The bytes of the frame's content.
        found: usize,
        /// The bytes of the request.
        expected: usize,
    },
}

impl Content {
    /// The batch's name.
    pub(crate) fn id(&self) -> BatchId {
        match self {
            Self::Plain(payload) => payload.id(),
            Self::Packed(packed) => packed.id,
        }
    }

    pub(crate) fn item_count(&self) -> usize {
        match self {
            Self::Plain(payload) => payload.item_count(),
            Self::Packed(packed) => packed.items,
        }
    }

    /// The bytes of the request.
    pub(crate) fn request_len(&self) -> usize {
        match self {
            Self::Plain(payload) => payload.bytes().len(),
            Self::Packed(packed) => packed.len,
        }
    }

    /// The bytes that the request takes beside the batch while its compressed form is in memory too.
    pub(crate) fn unpacked_len(&self) -> usize {
        match self {
            Self::Plain(_) => 0,
            Self::Packed(packed) => packed.len,
        }
    }

    /// No item ended before `time`, as is known without a look at the request.
    pub(super) fn is_known_younger(&self, time: SystemTime) -> bool {
        matches!(self, Self::Packed(packed) if packed.oldest.is_none_or(|oldest| oldest >= time))
    }

    /// The request. Costs nothing if it is plain, else about 0.4 µs a usual span.
    ///
    /// # Errors
    /// The compressed form is damaged.
    pub(crate) fn plain(&self) -> Result<Payload, Damaged> {
        match self {
            Self::Plain(payload) => Ok(payload.clone()),
            Self::Packed(packed) => packed.unpack(),
        }
    }

    /// The request of a batch whose compressed form is whole.
    #[cfg(test)]
    pub(crate) fn request(&self) -> Payload {
        self.plain().expect("the compressed form is whole")
    }

    /// The request, where the batch is not compressed.
    pub(super) fn as_plain(&self) -> Option<&Payload> {
        match self {
            Self::Plain(payload) => Some(payload),
            Self::Packed(_) => None,
        }
    }
}

impl From<Payload> for Content {
    fn from(payload: Payload) -> Self {
        Self::Plain(payload)
    }
}

impl Packed {
    /// The bytes that it takes, beside the dictionary that it shares.
    pub(crate) fn len(&self) -> usize {
        self.frame.len()
    }

    fn unpack(&self) -> Result<Payload, Damaged> {
        let request = || Decompressor::with_dictionary(&self.dictionary)?.decompress(&self.frame, self.len);
        let request = request().map_err(Damaged::Frame)?;
        if request.len() != self.len {
            return Err(Damaged::Length { found: request.len(), expected: self.len });
        }
        Ok(Payload::of(self.signal, self.id, self.created, self.items, request.into()))
    }

    /// The same with another byte in its frame.
    #[cfg(test)]
    pub(crate) fn damaged(&self) -> Self {
        let mut frame = self.frame.to_vec();
        let middle = frame.len() / 2;
        frame[middle] ^= 1;
        Self { frame: frame.into(), ..self.clone() }
    }
}

impl std::fmt::Debug for Packed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { id, items, len, frame, .. } = self;
        write!(f, "Packed({id}, {items} items, {len} bytes in {})", frame.len())
    }
}

/// Compresses requests, and keeps the dictionaries that their frames refer to.
#[derive(Debug)]
pub(crate) struct Packer {
    /// The dictionary of the next frames, and earlier ones that frames in memory still refer to.
    dictionaries: Vec<Arc<[u8]>>,
    /// The bytes of all of them, at most.
    room: usize,
}

impl Packer {
    /// A packer whose dictionaries take at most `room` bytes together.
    pub(crate) fn new(room: usize) -> Self {
        Self { dictionaries: Vec::new(), room }
    }

    /// Compresses these requests. None in the place of one that is not worth it, or that zstd does not take.
    pub(crate) fn pack(&mut self, requests: &[Payload]) -> Vec<Option<Packed>> {
        let dictionary = self.dictionary_for(requests);
        // Ends with the job: a compressor takes more memory than many a batch.
        let Ok(mut compressor) = compressor(&dictionary) else { return vec![None; requests.len()] };
        let mut scratch = Vec::new();
        requests.iter().map(|request| pack(request, &dictionary, &mut compressor, &mut scratch)).collect()
    }

    /// The dictionary of these requests: that of earlier ones, or a new one while that is short, or unused.
    fn dictionary_for(&mut self, requests: &[Payload]) -> Arc<[u8]> {
        let current = self.dictionaries.pop();
        self.dictionaries.retain(|earlier| Arc::strong_count(earlier) > 1);
        let offered = requests.iter().map(|request| request.bytes().len()).sum::<usize>().min(DICTIONARY);
        let taken = self.dictionaries.iter().map(|earlier| earlier.len()).sum::<usize>();
        let (unused, beside) = match &current {
            Some(current) if Arc::strong_count(current) > 1 => (false, current.len()),
            _ => (true, 0),
        };
        let is_longer = |current: &Arc<[u8]>| offered >= current.len().saturating_mul(2);
        let is_new = unused || current.as_ref().is_some_and(is_longer);
        if is_new && taken + beside + offered <= self.room {
            self.dictionaries.extend(current.filter(|_| !unused));
            let bytes = requests.iter().flat_map(|request| &request.bytes()[..]).copied();
            self.dictionaries.push(bytes.take(offered).collect());
        } else {
            self.dictionaries.push(current.unwrap_or_default());
        }
        self.dictionaries.last().map(Arc::clone).unwrap_or_default()
    }
}

fn compressor(dictionary: &[u8]) -> io::Result<Compressor<'static>> {
    let mut compressor = Compressor::with_dictionary(LEVEL, dictionary)?;
    compressor.set_parameter(CParameter::ChecksumFlag(true))?;
    Ok(compressor)
}

fn pack(
    request: &Payload,
    dictionary: &Arc<[u8]>,
    compressor: &mut Compressor<'_>,
    scratch: &mut Vec<u8>,
) -> Option<Packed> {
    let len = request.bytes().len();
    scratch.clear();
    scratch.reserve(compress_bound(len));
    compressor.compress_to_buffer(request.bytes(), scratch).ok()?;
    if scratch.len() > len - len / WORTH {
        return None;
    }
    Some(Packed {
        id: request.id(),
        created: request.created(),
        signal: request.signal(),
        items: request.item_count(),
        len,
        oldest: request.oldest(),
        frame: Bytes::copy_from_slice(scratch),
        dictionary: Arc::clone(dictionary),
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use otlp_payload::Encoder;
    use rand::rngs::SmallRng;
    use rand::{Rng as _, SeedableRng as _};

    use super::*;
    use crate::proofs::spans::spans;

    const ROOM: usize = 2 * DICTIONARY;

    fn request(seq: u64, count: usize) -> Payload {
        let encoder = Encoder::new(&opentelemetry_sdk::Resource::builder_empty().build());
        encoder.encode(BatchId { incarnation: 1, seq }, SystemTime::UNIX_EPOCH, &spans(seq * 1_000, count))
    }

    fn dictionary_bytes(packer: &Packer) -> usize {
        packer.dictionaries.iter().map(|dictionary| dictionary.len()).sum()
    }

    #[test]
    fn a_packed_request_is_the_same_request_again() {
        let mut packer = Packer::new(ROOM);
        for count in [1, 2, 30, 500] {
            let request = request(count as u64, count);
            let [Some(packed)] = &packer.pack(std::slice::from_ref(&request))[..] else { panic!("{count}") };
            assert!(packed.len() < request.bytes().len() / 2, "{count}: {packed:?}");
            let content = Content::Packed(packed.clone());
            let plain = content.plain().expect("whole");
            assert_eq!(plain.bytes(), request.bytes());
            let of = |payload: &Payload| (payload.id(), payload.created(), payload.signal(), payload.item_count());
            assert_eq!(of(&plain), of(&request));
            assert_eq!((content.id(), content.item_count()), (request.id(), count));
            assert_eq!((content.request_len(), content.unpacked_len()), (plain.bytes().len(), plain.bytes().len()));
        }
    }

    #[test]
    fn no_byte_of_a_frame_can_change_unseen() {
        let request = request(1, 3);
        let packed = Packer::new(ROOM).pack(&[request])[0].clone().expect("worth it");
        for index in 0..packed.frame.len() {
            for bit in 0..8 {
                let mut frame = packed.frame.to_vec();
                frame[index] ^= 1 << bit;
                let changed = Packed { frame: frame.into(), ..packed.clone() };
                // Some bits of a frame's header have no meaning.
                match changed.unpack() {
                    Ok(plain) => assert_eq!(plain.bytes(), packed.unpack().expect("whole").bytes(), "{index}:{bit}"),
                    Err(error) => assert!(!error.to_string().is_empty()),
                }
            }
        }
        let shorter = Packed { len: packed.len - 1, ..packed.clone() };
        assert!(shorter.unpack().is_err());
        let longer = Packed { len: packed.len + 1, ..packed.clone() };
        assert!(matches!(longer.unpack(), Err(Damaged::Length { .. })));
        let elsewhere = Packed { dictionary: Arc::from(&b"another dictionary"[..]), ..packed };
        assert!(elsewhere.unpack().is_err());
    }

    #[test]
    fn bytes_in_no_order_stay_plain() {
        let mut bytes = vec![0; 100_000];
        SmallRng::seed_from_u64(1).fill_bytes(&mut bytes);
        let noise = Payload::new(BatchId { incarnation: 1, seq: 1 }, SystemTime::UNIX_EPOCH, 1, bytes.into());
        let results = Packer::new(ROOM).pack(&[noise, request(2, 100)]);
        assert!(results[0].is_none() && results[1].is_some());
    }

    #[test]
    fn a_dictionary_grows_with_the_requests_and_its_room_is_never_exceeded() {
        let mut packer = Packer::new(ROOM);
        let mut held = Vec::new();
        for round in 0..200_u64 {
            let count = 1 + (round % 150) as usize;
            held.extend(packer.pack(&[request(round, count)]).into_iter().flatten());
            assert!(dictionary_bytes(&packer) <= ROOM);
            if round % 7 == 0 {
                held.drain(..held.len() / 2);
            }
        }
        assert!(packer.dictionaries.last().is_some_and(|dictionary| dictionary.len() > DICTIONARY / 2));
        assert!(held.iter().all(|packed| packed.unpack().is_ok()));
    }

    #[test]
    fn a_dictionary_without_frames_gives_way_to_one_of_newer_requests() {
        let mut packer = Packer::new(ROOM);
        let first = packer.pack(&[request(1, 200)]);
        let before = Arc::clone(&packer.dictionaries[0]);
        assert_eq!(packer.pack(&[request(2, 200)]).len(), 1);
        assert!(Arc::ptr_eq(&before, &packer.dictionaries[0]), "a frame refers to it");
        drop((before, first));
        assert_eq!(packer.pack(&[request(3, 200)]).len(), 1);
        assert_eq!(dictionary_bytes(&packer), DICTIONARY);
        assert!(request(3, 200).bytes().starts_with(&packer.dictionaries[0]));
    }

    #[test]
    fn a_small_request_takes_less_than_half_of_its_bytes_beside_an_earlier_one() {
        let mut packer = Packer::new(ROOM);
        let held = packer.pack(&[request(1, 100)]);
        let small = request(2, 1);
        let [Some(packed)] = &packer.pack(std::slice::from_ref(&small))[..] else { panic!("worth it") };
        assert!(packed.len() * 2 < small.bytes().len(), "{packed:?}");
        let alone = &Packer::new(0).pack(std::slice::from_ref(&small))[0];
        assert!(alone.as_ref().is_none_or(|alone| packed.len() * 2 < alone.len()), "{alone:?}");
        drop(held);
    }

    #[test]
    fn the_oldest_end_is_known_without_a_look_at_the_request() {
        let request = request(1, 5);
        let oldest = request.oldest().expect("has times");
        let packed = Packer::new(ROOM).pack(std::slice::from_ref(&request))[0].clone().expect("worth it");
        let content = Content::Packed(packed);
        assert!(content.is_known_younger(oldest) && !content.is_known_younger(oldest + Duration::from_nanos(1)));
        assert!(!Content::from(request).is_known_younger(oldest), "the request itself tells");
    }
}
