//! Large reads of a socket, for who asks for small ones.
//!
//! rustls asks for 4 KiB at a time: a batch of 150 KB is forty calls, each with its part of TCP's
//! work. What is read too far is held until it is asked for; while nothing comes nothing is held. A
//! connection may have to wait before its batch is asked for, and nobody counts what is held here: so
//! no more is read at once than whoever reads the plain bytes has room for.

use std::{
    io::{self, IoSlice},
    pin::{Pin, pin},
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf},
    net::TcpStream,
};

/// The least that is read at a time, in bytes: what rustls asks for.
const LEAST_BYTES: usize = 4 << 10;
/// The most: four records of TLS.
const MOST_BYTES: usize = 64 << 10;

/// A socket with what was read too far.
#[derive(Debug)]
pub(super) struct Gulp {
    stream: TcpStream,
    ahead: Vec<u8>,
    /// So many bytes of it were asked for.
    taken: usize,
    /// So many are read at a time.
    most: usize,
}

impl Gulp {
    pub(super) fn new(stream: TcpStream) -> Self {
        Self {
            stream,
            ahead: Vec::new(),
            taken: 0,
            most: LEAST_BYTES,
        }
    }

    /// So many plain bytes are wanted now: no more sealed ones are read at a time.
    pub(super) fn want(&mut self, bytes: usize) {
        self.most = bytes.clamp(LEAST_BYTES, MOST_BYTES);
    }

    /// Gives of what is there, and lets go of it with its last byte.
    fn give(&mut self, buffer: &mut ReadBuf<'_>) {
        let rest = self.ahead.get(self.taken..).unwrap_or_default();
        let now = rest.get(..buffer.remaining()).unwrap_or(rest);
        buffer.put_slice(now);
        self.taken += now.len();
        if self.taken == self.ahead.len() {
            (self.ahead, self.taken) = (Vec::new(), 0);
        }
    }
}

impl AsyncRead for Gulp {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let gulp = self.get_mut();
        if gulp.ahead.is_empty() {
            // Thousands of connections wait here.
            ready!(gulp.stream.poll_read_ready(context))?;
            let mut ahead = Vec::with_capacity(gulp.most);
            // It has no state of its own.
            ready!(pin!(gulp.stream.read_buf(&mut ahead)).poll(context))?;
            gulp.ahead = ahead;
        }
        gulp.give(buffer);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Gulp {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::{io::AsyncWriteExt as _, net::TcpListener};

    use super::*;

    #[tokio::test]
    async fn every_byte_comes_once_in_small_reads_and_nothing_is_held_behind_the_last() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut peer = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        let mut gulp = Gulp::new(listener.accept().await.unwrap().0);
        let sent: Vec<u8> = (0..251).cycle().take(3 * MOST_BYTES + 77).collect();
        let send = async {
            for piece in sent.chunks(50_001) {
                peer.write_all(piece).await.unwrap();
                tokio::task::yield_now().await;
            }
        };
        let receive = async {
            let mut got = vec![0; sent.len()];
            let mut left = got.len();
            for piece in got.chunks_mut(4096) {
                gulp.want(left);
                gulp.read_exact(piece).await.unwrap();
                left -= piece.len();
            }
            (got, gulp)
        };
        let ((), (got, mut gulp)) = tokio::join!(send, receive);
        assert!(got == sent);
        assert_eq!((gulp.ahead.capacity(), gulp.taken), (0, 0));
        // Nobody has room for more than a beginning: so much is held, and the rest stays in the socket.
        let sent = vec![7; 3 * LEAST_BYTES];
        peer.write_all(&sent).await.unwrap();
        gulp.want(100);
        let mut begun = [0; 100];
        gulp.read_exact(&mut begun).await.unwrap();
        assert_eq!(gulp.ahead.capacity(), LEAST_BYTES);
        let mut rest = vec![0; sent.len() - begun.len()];
        gulp.read_exact(&mut rest).await.unwrap();
        assert_eq!([begun.as_slice(), &rest].concat(), sent);
        peer.write_all(b"end").await.unwrap();
        drop(peer);
        let mut rest = Vec::new();
        gulp.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, b"end");
    }
}
