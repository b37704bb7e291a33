//! What comes in on a connection: as few reads as there can be, and no buffer while nothing comes.
//!
//! A frame's beginning is read into the stack, with what else is there already; behind a large
//! payload the next beginning is read in one go with it. What was read too far is carried over. Not for:
//! what a frame means (see [`super`]).

use std::{
    future::poll_fn,
    io::{Error, ErrorKind, Result},
    pin::Pin,
    task::{Poll, ready},
    time::Duration,
};

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, ReadBuf},
    time::timeout,
};
use tributary_common::wire::PRELUDE_BYTES;

use super::SessionError;

/// Bytes that are read where a frame begins: most headers, and small batches, are within.
const BEGIN_BYTES: usize = 1 << 10;
/// Bytes that are read with a payload and not of it: most beginnings of frames are within.
const AHEAD_BYTES: usize = 512;
/// Payloads from so many bytes on are read with what follows.
const AHEAD_FROM: usize = 8 << 10;
/// Payload bytes that are thrown away at a time.
const DISCARD_BYTES: usize = 16 << 10;

/// The reading half with what was read too far.
pub(super) struct Inlet<R> {
    reader: R,
    carry: Bytes,
}

impl<R: AsyncRead + Unpin> Inlet<R> {
    pub(super) fn new(reader: R) -> Self {
        Self {
            reader,
            carry: Bytes::new(),
        }
    }

    /// Whether a frame has begun.
    pub(super) fn has_begun(&self) -> bool {
        !self.carry.is_empty()
    }

    /// The first bytes of the next frame, once all of them are there.
    pub(super) fn prelude(&mut self) -> Option<[u8; PRELUDE_BYTES]> {
        let prelude = *self.carry.first_chunk()?;
        self.carry.advance(PRELUDE_BYTES);
        Some(prelude)
    }

    /// Waits for the next bytes of a frame's beginning; how many came. None when the peer has closed.
    ///
    /// # Errors
    /// When the connection is gone.
    pub(super) async fn begin(&mut self) -> Result<usize> {
        let Self { reader, carry } = self;
        poll_fn(|context| {
            // Not kept over the wait: thousands of connections wait here.
            let mut space = [0; BEGIN_BYTES];
            let mut space = ReadBuf::new(&mut space);
            ready!(Pin::new(&mut *reader).poll_read(context, &mut space))?;
            let came = space.filled();
            *carry = match carry.is_empty() {
                true => Bytes::copy_from_slice(came),
                false => [carry, came].concat().into(),
            };
            Poll::Ready(Ok(came.len()))
        })
        .await
    }

    /// The next `len` bytes of a frame.
    ///
    /// # Errors
    /// When the connection is gone, or ends before.
    pub(super) async fn take(&mut self, len: usize) -> Result<Bytes> {
        if self.carry.len() >= len {
            let taken = self.carry.split_to(len);
            self.let_go();
            return Ok(taken);
        }
        let ahead = if len >= AHEAD_FROM { AHEAD_BYTES } else { 0 };
        let mut bytes = BytesMut::with_capacity(len + ahead);
        bytes.extend_from_slice(&std::mem::take(&mut self.carry));
        let limit = (len + ahead - bytes.len()) as u64;
        let mut rest = (&mut self.reader).take(limit);
        while bytes.len() < len {
            if rest.read_buf(&mut bytes).await? == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
        }
        self.carry = Bytes::copy_from_slice(bytes.get(len..).unwrap_or_default());
        bytes.truncate(len);
        Ok(bytes.freeze())
    }

    /// Reads bytes of a frame and throws them away, all of them within `within`: nobody holds a connection
    /// open by a byte now and then.
    ///
    /// # Errors
    /// When the connection is gone, ends before, or is slow.
    pub(super) async fn discard(
        &mut self,
        mut left: usize,
        within: Duration,
    ) -> std::result::Result<(), SessionError> {
        let carried = left.min(self.carry.len());
        self.carry.advance(carried);
        self.let_go();
        left -= carried;
        let rest = async {
            let mut buffer = vec![0; DISCARD_BYTES.min(left)];
            while left > 0 {
                let want = buffer.len().min(left);
                let part = buffer.get_mut(..want).unwrap_or_default();
                let count = self.reader.read(part).await?;
                if count == 0 {
                    return Err(Error::from(ErrorKind::UnexpectedEof));
                }
                left -= count;
            }
            Ok(())
        };
        let slow = |_elapsed| SessionError::Rule("a payload took longer than 30 s");
        Ok(timeout(within, rest).await.map_err(slow)??)
    }

    /// Nothing is held for the sake of no bytes.
    fn let_go(&mut self) {
        if self.carry.is_empty() {
            self.carry = Bytes::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    /// A frame as this module sees it: a prelude, a header, a payload that is taken or not.
    type Made = (usize, usize, bool);

    /// Reads frames of these lengths from a peer that sends in such pieces; all that was read.
    async fn read(frames: Vec<Made>, pieces: Vec<usize>) -> Vec<(usize, Vec<u8>)> {
        let len = |&(header, payload, _): &Made| PRELUDE_BYTES + header + payload;
        let total: usize = frames.iter().map(len).sum();
        let bytes: Vec<u8> = (0..251_u8).cycle().take(total).collect();
        let (mut peer, own) = tokio::io::duplex(64 << 10);
        let send = async move {
            let mut rest = bytes.as_slice();
            for piece in pieces.iter().cycle() {
                let (now, later) = rest.split_at(rest.len().min(*piece));
                peer.write_all(now).await.unwrap();
                tokio::task::yield_now().await;
                rest = later;
                if rest.is_empty() {
                    return;
                }
            }
        };
        let receive = async move {
            let (mut inlet, mut got, mut at) = (Inlet::new(own), Vec::new(), 0);
            for (header, payload, taken) in frames {
                let prelude = loop {
                    match inlet.prelude() {
                        Some(prelude) => break prelude,
                        None => assert!(inlet.begin().await.unwrap() > 0),
                    }
                };
                got.push((at, prelude.to_vec()));
                at += PRELUDE_BYTES;
                got.push((at, inlet.take(header).await.unwrap().to_vec()));
                at += header;
                if taken {
                    got.push((at, inlet.take(payload).await.unwrap().to_vec()));
                } else {
                    inlet.discard(payload, Duration::MAX).await.unwrap();
                }
                at += payload;
            }
            assert!(!inlet.has_begun());
            assert_eq!(inlet.begin().await.unwrap(), 0);
            got
        };
        tokio::join!(send, receive).1
    }

    proptest! {
        #[test]
        fn every_byte_is_read_once_however_it_comes(
            frames in prop::collection::vec((0_usize..700, prop::sample::select(vec![0, 1, 400, 8 << 10, 60_000]), any::<bool>()), 1..9),
            pieces in prop::collection::vec(prop::sample::select(vec![1, 5, 600, 9_000, 70_000]), 1..5),
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
            let wanted: usize = frames.iter().map(|&(_, _, taken)| 2 + usize::from(taken)).sum();
            let got = runtime.block_on(read(frames, pieces));
            prop_assert_eq!(got.len(), wanted);
            for (at, bytes) in got {
                prop_assert!(bytes.iter().zip(at..).all(|(byte, at)| usize::from(*byte) == at % 251));
            }
        }
    }

    #[tokio::test]
    async fn what_ends_within_a_frame_is_an_error() {
        let (mut peer, own) = tokio::io::duplex(64);
        let mut inlet = Inlet::new(own);
        peer.write_all(b"abc").await.unwrap();
        drop(peer);
        assert_eq!(inlet.begin().await.unwrap(), 3);
        assert!(inlet.has_begun() && inlet.prelude().is_none());
        let cut = inlet.take(4).await.unwrap_err();
        assert_eq!(cut.kind(), ErrorKind::UnexpectedEof);
    }
}
