//! A claim that is held, and the tag that names it in the store.

use std::sync::Arc;

/// One claim that is held.
#[derive(Debug)]
pub(super) struct Claim {
    pub(super) queue: Arc<str>,
    pub(super) step: u8,
    /// The store was told that it has begun.
    pub(super) marked: bool,
}

/// Appends the tag of a claim, which names it among the unacknowledged: `<token>:<number>:<step>:<queue>`.
pub(super) fn write_tag(out: &mut Vec<u8>, token: &str, number: u64, claim: &Claim) {
    out.extend_from_slice(token.as_bytes());
    out.push(b':');
    write_number(out, number);
    out.push(b':');
    write_number(out, claim.step.into());
    out.push(b':');
    out.extend_from_slice(claim.queue.as_bytes());
}

fn write_number(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_says_whose_claim_it_is_and_where_it_came_from() {
        let tag = |number, step| {
            let claim = Claim { queue: "a:b".into(), step, marked: false };
            let mut out = b"x".to_vec();
            write_tag(&mut out, "f00", number, &claim);
            String::from_utf8(out).unwrap()
        };

        assert_eq!(tag(0, 0), "xf00:0:0:a:b");
        assert_eq!(tag(1_020, 9), "xf00:1020:9:a:b");
        assert_eq!(tag(u64::MAX, 255), format!("xf00:{}:255:a:b", u64::MAX));
    }
}
