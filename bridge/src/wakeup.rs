//! A descriptor that becomes readable: how Rust threads wake a Python event loop without touching Python.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::net::UnixStream;

/// A non-blocking pair of sockets. One byte is written when there is something, and read before looking.
pub(crate) struct Wakeup {
    reader: UnixStream,
    writer: UnixStream,
}

impl Wakeup {
    pub(crate) fn new() -> std::io::Result<Self> {
        let (reader, writer) = UnixStream::pair()?;
        reader.set_nonblocking(true)?;
        writer.set_nonblocking(true)?;
        Ok(Self { reader, writer })
    }

    /// Makes the descriptor readable. A full buffer means that it already is.
    pub(crate) fn set(&self) {
        while let Err(error) = (&self.writer).write(&[1]) {
            if error.kind() != ErrorKind::Interrupted {
                break;
            }
        }
    }

    /// Makes it not readable. Call it before taking what is there, so that nothing goes unnoticed.
    pub(crate) fn clear(&self) {
        let mut bytes = [0; 64];
        loop {
            match (&self.reader).read(&mut bytes) {
                Ok(64) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                _ => break,
            }
        }
    }

    pub(crate) fn descriptor(&self) -> RawFd {
        self.reader.as_raw_fd()
    }

    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.reader.as_fd()
    }
}
