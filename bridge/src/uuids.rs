//! Random UUIDs as text.

use pyo3::prelude::*;

/// A version 4 UUID of each 16 bytes, which are random; what is left over is not used.
#[pyfunction]
pub(crate) fn uuids(random: &[u8]) -> Vec<String> {
    let (whole, _) = random.as_chunks::<16>();
    whole.iter().map(|bytes| text(*bytes)).collect()
}

fn text(mut bytes: [u8; 16]) -> String {
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let mut text = String::with_capacity(36);
    for (at, byte) in bytes.into_iter().enumerate() {
        if matches!(at, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        for digit in [byte >> 4, byte & 0x0f] {
            text.push(char::from(b"0123456789abcdef"[usize::from(digit)]));
        }
    }
    text
}
