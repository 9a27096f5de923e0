//! Maps by numbers that we count ourselves: requests, claims.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};

/// What belongs to numbers.
pub(crate) type NumberMap<T> = HashMap<u64, T, BuildHasherDefault<NumberHasher>>;
/// Numbers.
#[cfg(feature = "redis")]
pub(crate) type NumberSet = HashSet<u64, BuildHasherDefault<NumberHasher>>;

/// Spreads numbers that we count ourselves: nobody can choose them so that they collide.
#[derive(Debug, Default)]
pub(crate) struct NumberHasher(u64);

impl Hasher for NumberHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, number: u64) {
        // The golden ratio: tables look at the highest and at the lowest bits.
        let mixed = (self.0 ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = mixed ^ (mixed >> 32);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_a_row_do_not_collide() {
        let hash = |number: u64| {
            let mut hasher = NumberHasher::default();
            hasher.write_u64(number);
            hasher.finish()
        };

        let low: HashSet<u64> = (0..512).map(|number| hash(number) & 1023).collect();

        assert!(low.len() > 300, "{} different places of 1,024", low.len());
    }
}
