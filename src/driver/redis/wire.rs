//! What carries a connection: for the client library, and for a thread that waits for it.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use parking_lot::Mutex;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustls::{ClientConnection, StreamOwned};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::client::TlsStream;

/// What the client library needs.
pub(super) trait Carrier: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Carrier for T {}

/// An open connection, with TLS or without.
pub(super) trait Wire: Carrier {
    /// The same for a thread that waits, for `slice` at a time: then a call says `WouldBlock`. Between two exchanges
    /// only.
    fn into_blocking(self: Box<Self>, slice: Duration) -> io::Result<Box<dyn Blocking>>;
}

/// An open connection that blocks who reads or writes.
pub(super) trait Blocking: Read + Write + Send {
    fn socket(&self) -> BorrowedFd<'_>;
}

impl Wire for TcpStream {
    fn into_blocking(self: Box<Self>, slice: Duration) -> io::Result<Box<dyn Blocking>> {
        let stream = self.into_std()?;
        let blocking = blocking(&stream, slice);
        blocking.map(|()| Box::new(stream) as _)
    }
}

impl Wire for UnixStream {
    fn into_blocking(self: Box<Self>, slice: Duration) -> io::Result<Box<dyn Blocking>> {
        let stream = self.into_std()?;
        let blocking = blocking(&stream, slice);
        blocking.map(|()| Box::new(stream) as _)
    }
}

impl Wire for TlsStream<TcpStream> {
    fn into_blocking(self: Box<Self>, slice: Duration) -> io::Result<Box<dyn Blocking>> {
        let (stream, session) = self.into_inner();
        let stream = stream.into_std()?;
        blocking(&stream, slice)?;
        Ok(Box::new(StreamOwned::new(session, stream)))
    }
}

fn blocking(socket: impl AsFd, slice: Duration) -> io::Result<()> {
    rustix::io::ioctl_fionbio(&socket, false)?;
    set_socket_timeout(&socket, Timeout::Recv, Some(slice))?;
    set_socket_timeout(&socket, Timeout::Send, Some(slice))?;
    Ok(())
}

impl Blocking for std::net::TcpStream {
    fn socket(&self) -> BorrowedFd<'_> {
        self.as_fd()
    }
}

impl Blocking for std::os::unix::net::UnixStream {
    fn socket(&self) -> BorrowedFd<'_> {
        self.as_fd()
    }
}

impl Blocking for StreamOwned<ClientConnection, std::net::TcpStream> {
    fn socket(&self) -> BorrowedFd<'_> {
        self.sock.as_fd()
    }
}

/// A wire that the client library has for as long as it takes to log in. Written by who lends it, emptied by the
/// same; the library sees the end of the connection then.
#[derive(Clone, Default)]
pub(super) struct Loan(Arc<Mutex<Option<Box<dyn Wire>>>>);

impl Loan {
    /// What the library gets.
    pub(super) fn lend(&self, wire: Box<dyn Wire>) -> Self {
        *self.0.lock() = Some(wire);
        self.clone()
    }

    pub(super) fn take_back(&self) -> Option<Box<dyn Wire>> {
        self.0.lock().take()
    }

    fn with<T>(
        &self,
        none: T,
        poll: impl FnOnce(Pin<&mut Box<dyn Wire>>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        match &mut *self.0.lock() {
            Some(wire) => poll(Pin::new(wire)),
            None => Poll::Ready(Ok(none)),
        }
    }
}

impl AsyncRead for Loan {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.with((), |wire| wire.poll_read(cx, buffer))
    }
}

impl AsyncWrite for Loan {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.with(0, |wire| wire.poll_write(cx, bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with((), |wire| wire.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with((), |wire| wire.poll_shutdown(cx))
    }
}
