//! Chance for jitter: small, fast, seedable. Not for secrets.

use std::cell::Cell;
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

    /// Each one differs from the last: seeds are drawn from a generator of the thread.
    #[inline]
    pub(crate) fn new() -> Random {
        let next = |seeds: &Cell<u64>| {
            let mut random = Random::seeded(seeds.get());
            let seed = random.next();
            seeds.set(random.state);
            seed
        };
        // A thread that is ending may have lost its generator.
        Random::seeded(SEEDS.try_with(next).unwrap_or_else(|_| chance()))
    }

    /// A sample from `[0, 1)`.
    #[inline]
    pub(crate) fn unit(&mut self) -> f64 {
        // The upper 53 bits: a signed conversion is one instruction, an unsigned one is not.
        (self.next() >> 11) as i64 as f64 * (1.0 / (1_u64 << 53) as f64)
    }

    #[inline]
    const fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

thread_local! {
    static SEEDS: Cell<u64> = Cell::new(chance());
}

/// `RandomState` is the standard library's only source of chance.
fn chance() -> u64 {
    RandomState::new().hash_one(0_u8)
}
