//! Small values both ways.

use std::os::fd::{FromRawFd as _, OwnedFd, RawFd};
use std::time::Duration;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use rustix::event::Timespec;

/// Seconds to a duration: none for infinity, zero for what is negative.
pub(crate) fn seconds(value: f64) -> PyResult<Option<Duration>> {
    if value.is_nan() {
        return Err(PyValueError::new_err("a time in seconds cannot be NaN"));
    }
    // A duration too long to be counted is no limit.
    Ok(Duration::try_from_secs_f64(value.max(0.0)).ok())
}

/// As [`seconds`], where none is no limit.
pub(crate) fn maybe_seconds(value: Option<f64>) -> PyResult<Option<Duration>> {
    value.map_or(Ok(None), seconds)
}

/// For system calls, which count seconds in a signed number.
pub(crate) fn timespec(duration: Duration) -> Timespec {
    Timespec::try_from(duration).unwrap_or(Timespec { tv_sec: i64::MAX, tv_nsec: 0 })
}

/// Takes over a descriptor that the caller gives away.
#[expect(unsafe_code, reason = "Python names descriptors by number")]
pub(crate) fn adopt(fd: RawFd) -> PyResult<OwnedFd> {
    if fd < 0 {
        return Err(PyValueError::new_err("a descriptor cannot be negative"));
    }
    // SAFETY: the caller gives the descriptor away. Closing one that is not its own is an error of the
    // kind that Python's `os.close` allows too; memory is not at risk.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
