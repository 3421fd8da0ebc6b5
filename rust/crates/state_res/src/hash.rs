//! A hash of strings for tables in memory.
//!
//! Nearly all that a resolution has to do is to look ids up: with the hash of the standard library it takes twice as
//! long. The seed is random for each table, so that nobody can choose ids that fall together.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher, RandomState};

/// A table by strings, or by tuples of them.
pub type Table<K, V> = HashMap<K, V, Seed>;

/// An empty table.
pub fn table<K, V>(capacity: usize) -> Table<K, V> {
    HashMap::with_capacity_and_hasher(capacity, Seed::default())
}

const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

#[derive(Clone, Copy)]
pub struct Seed(u64);

impl Default for Seed {
    fn default() -> Self {
        Self(RandomState::new().hash_one(FACTOR))
    }
}

impl BuildHasher for Seed {
    type Hasher = Folding;

    fn build_hasher(&self) -> Folding {
        Folding { seed: self.0 | 1, state: self.0 }
    }
}

/// Multiplies eight bytes at a time into 128 bits, and folds them to 64.
pub struct Folding {
    seed: u64,
    state: u64,
}

impl Folding {
    fn mix(&mut self, word: u64) {
        let product = u128::from(self.state ^ word) * u128::from(self.seed ^ FACTOR);
        #[allow(clippy::cast_possible_truncation, reason = "the two halves")]
        let (high, low) = ((product >> 64) as u64, product as u64);
        self.state = high ^ low;
    }
}

impl Hasher for Folding {
    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.mix(u64::from_le_bytes(*word));
        }
        let mut last = [0; 8];
        for (to, from) in last.iter_mut().zip(rest) {
            *to = *from;
        }
        // The length keeps apart what differs in zeros at the end only, and where one string of a tuple ends.
        self.mix(u64::from_le_bytes(last) ^ (bytes.len() as u64).rotate_left(56));
    }

    fn write_u8(&mut self, _: u8) {
        // The end of a string, which its length has said already.
    }

    fn finish(&self) -> u64 {
        self.state ^ self.state.rotate_left(29)
    }
}
