//! The scripts of the broker, and those of chords: what has to happen in one step.

use std::sync::LazyLock;

use super::record::STORE_RESULTS;
use super::script::Script;

macro_rules! scripts {
    ($($(#[$doc:meta])* $name:ident = $($file:literal),+;)*) => {
        $($(#[$doc])* pub(super) static $name: LazyLock<Script> =
            LazyLock::new(|| Script::new([$(include_str!($file)),+].concat()));)*
    };
}

scripts! {
    CLAIM = "lua/shared.lua", "lua/claim.lua";
    DISOWN = "lua/shared.lua", "lua/disown.lua";
    RECOVER = "lua/shared.lua", "lua/recover.lua";
    REGISTER = "lua/shared.lua", "lua/register.lua";
    RENEW = "lua/shared.lua", "lua/renew.lua";
    BURY = "lua/shared.lua", "lua/bury.lua";
    RESOLVE = "lua/shared.lua", "lua/resolve.lua";
    TRIM = "lua/shared.lua", "lua/trim.lua";
    RESTORE = "lua/restore.lua";
    HEAR = "lua/hear.lua";
    UNPARK = "lua/unpark.lua";
    BIND_EXPIRING = "lua/bind_expiring.lua";
    SWEEP = "lua/sweep.lua";
    LEASE = "lua/lease.lua";
    RELEASE = "lua/release.lua";
    FIRE = "lua/fire.lua";
    KEY = "lua/keys.lua", "lua/key.lua";
    ADMIT = "lua/keys.lua", "lua/admit.lua";
    COUNT = "lua/count.lua";
    HOLD_CHORD = "lua/hold_chord.lua";
    FINISH_CHORD = "lua/finish_chord.lua";
    TURNS = "lua/turns.lua";
}

/// A commit, and the end of the chord whose body it calls.
pub(super) static COMMIT_BODY: LazyLock<Script> = LazyLock::new(|| {
    let (shared, commit) = (include_str!("lua/shared.lua"), include_str!("lua/commit.lua"));
    let end = include_str!("lua/commit_body.lua");
    Script::new([shared, STORE_RESULTS, "local function commit()\n", commit, "\nend\n", end].concat())
});

/// With the part of the result backend that stores results.
pub(super) static COMMIT: LazyLock<Script> = LazyLock::new(|| {
    Script::new([include_str!("lua/shared.lua"), STORE_RESULTS, include_str!("lua/commit.lua")].concat())
});
