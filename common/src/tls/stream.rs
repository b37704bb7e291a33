//! A connection, with TLS or without.
//!
//! Written data may still be inside after a write: with TLS call `flush` when nothing follows.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsStream;

use super::gulp::Gulp;

/// What somebody gets who speaks HTTP to a port with TLS.
const NEEDS_TLS: &str = "this port speaks TLS; use https, or `[tls]` there\n";

/// A connection, with TLS or without.
#[derive(Debug)]
pub struct Stream(Inner);

#[derive(Debug)]
enum Inner {
    Plain(TcpStream),
    /// Boxed: it is many times as large.
    Tls(Box<TlsStream<Gulp>>),
    #[cfg(feature = "sim")]
    Simulated(crate::sim::Stream),
}

impl Stream {
    /// Without TLS.
    #[must_use]
    pub fn plain(stream: TcpStream) -> Self {
        Self(Inner::Plain(stream))
    }

    /// One that no socket has.
    #[cfg(feature = "sim")]
    #[must_use]
    pub fn simulated(stream: crate::sim::Stream) -> Self {
        Self(Inner::Simulated(stream))
    }

    pub(super) fn tls(stream: TlsStream<Gulp>) -> Self {
        Self(Inner::Tls(Box::new(stream)))
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.get_mut().0 {
            Inner::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Inner::Tls(stream) => {
                stream.get_mut().0.want(buffer.remaining());
                Pin::new(stream.as_mut()).poll_read(context, buffer)
            }
            #[cfg(feature = "sim")]
            Inner::Simulated(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().0 {
            Inner::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Inner::Tls(stream) => Pin::new(stream.as_mut()).poll_write(context, bytes),
            #[cfg(feature = "sim")]
            Inner::Simulated(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().0 {
            Inner::Plain(stream) => Pin::new(stream).poll_write_vectored(context, slices),
            Inner::Tls(stream) => Pin::new(stream.as_mut()).poll_write_vectored(context, slices),
            #[cfg(feature = "sim")]
            Inner::Simulated(stream) => Pin::new(stream).poll_write_vectored(context, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.0 {
            Inner::Plain(stream) => stream.is_write_vectored(),
            Inner::Tls(stream) => stream.is_write_vectored(),
            #[cfg(feature = "sim")]
            Inner::Simulated(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().0 {
            Inner::Plain(stream) => Pin::new(stream).poll_flush(context),
            Inner::Tls(stream) => Pin::new(stream.as_mut()).poll_flush(context),
            #[cfg(feature = "sim")]
            Inner::Simulated(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().0 {
            Inner::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Inner::Tls(stream) => Pin::new(stream.as_mut()).poll_shutdown(context),
            #[cfg(feature = "sim")]
            Inner::Simulated(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}

/// Tells somebody who speaks HTTP that TLS is needed, and lets the words arrive: a socket that is closed
/// with bytes unread resets.
pub(super) async fn say_tls_is_needed(mut stream: TcpStream) {
    let told = async {
        let answer = format!(
            "HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\nconnection: close\r\n\
             content-length: {}\r\n\r\n{NEEDS_TLS}",
            NEEDS_TLS.len()
        );
        stream.write_all(answer.as_bytes()).await?;
        stream.shutdown().await?;
        let mut thrown_away = [0; 4096];
        while stream.read(&mut thrown_away).await? > 0 {}
        io::Result::Ok(())
    };
    // Whoever it is may be gone by now.
    drop(timeout(Duration::from_secs(1), told).await);
}
