//! Chance for jitter: small, fast, seedable. Not for secrets.

use std::hash::{BuildHasher, RandomState};

/// SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014).
#[derive(Clone, Debug)]
pub(crate) struct Random {
    state: u64,
}

impl Random {
    pub(crate) const fn seeded(seed: u64) -> Random {
        Random { state: seed }
    }

    /// `RandomState` is the standard library's only source of chance; each one differs from the last.
    pub(crate) fn new() -> Random {
        Random::seeded(RandomState::new().hash_one(0_u8))
    }

    /// A sample from `[0, 1)`.
    #[inline]
    pub(crate) fn unit(&mut self) -> f64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        // The upper 53 bits: a signed conversion is one instruction, an unsigned one is not.
        ((z ^ (z >> 31)) >> 11) as i64 as f64 * (1.0 / (1_u64 << 53) as f64)
    }
}
