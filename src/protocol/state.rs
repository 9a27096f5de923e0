//! Task states. They are texts, since tasks may report states of their own.

/// Not known: nothing is stored.
pub const PENDING: &str = "PENDING";
/// A worker has it.
pub const RECEIVED: &str = "RECEIVED";
/// A process runs it.
pub const STARTED: &str = "STARTED";
/// It returned.
pub const SUCCESS: &str = "SUCCESS";
/// It raised.
pub const FAILURE: &str = "FAILURE";
/// It was revoked.
pub const REVOKED: &str = "REVOKED";
/// It rejected itself.
pub const REJECTED: &str = "REJECTED";
/// It will be tried again.
pub const RETRY: &str = "RETRY";
/// It asked for no result.
pub const IGNORED: &str = "IGNORED";

/// The task has ended: nothing is to be waited for.
pub fn is_ready(state: &str) -> bool {
    matches!(state, SUCCESS | FAILURE | REVOKED)
}

/// Whoever asks for the result gets an exception.
pub fn propagates(state: &str) -> bool {
    matches!(state, FAILURE | REVOKED)
}

/// Which of two states of one task tells more: the one with the lower number. States of the user's own
/// come after `SUCCESS` and `FAILURE`, before all others.
pub fn precedence(state: &str) -> u8 {
    match state {
        SUCCESS => 0,
        FAILURE => 1,
        REVOKED => 3,
        STARTED => 4,
        RECEIVED => 5,
        REJECTED => 6,
        RETRY => 7,
        PENDING => 8,
        _ => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_of_the_user_ranks_between_the_ends_and_the_rest() {
        assert!(precedence(FAILURE) < precedence("PROGRESS"));
        assert!(precedence("PROGRESS") < precedence(REVOKED));
        assert!(precedence(RETRY) < precedence(PENDING));
    }

    #[test]
    fn only_ends_are_ready() {
        assert!([SUCCESS, FAILURE, REVOKED].into_iter().all(is_ready));
        assert!(![PENDING, STARTED, RETRY, IGNORED, "PROGRESS"].into_iter().any(is_ready));
        assert!(!propagates(SUCCESS) && propagates(REVOKED) && propagates(FAILURE));
    }
}
