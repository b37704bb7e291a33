//! The writing half of a connection: answers in as few frames and writes as possible.
//!
//! Ends when nobody can answer any more, after a last word, or when the peer takes nothing. Not
//! for: what is answered.

use std::time::Duration;

use tokio::{
    io::{AsyncWrite, AsyncWriteExt},
    sync::mpsc,
    time::{Instant, timeout},
};
use tributary_common::wire::{self, Frame, MAX_RECEIPTS, Receipt, WireError};

use super::{SessionError, WINDOW_BATCHES};
use crate::dedupe::{Answer, Answered};

/// A peer that takes no answers for this long is gone.
const WRITE_WITHIN: Duration = Duration::from_secs(60);
/// The spread of reconnects when the node stops, in ms.
pub(super) const RECONNECT_WITHIN_MS: u32 = 5_000;
/// The same for one that is handed over: the others go at other times.
pub(super) const HAND_OVER_WITHIN_MS: u32 = 500;

/// While the reader waits or is behind, the agent hears something at least this often.
pub(super) const ALIVE_EVERY: Duration = Duration::from_secs(1);

/// What the writer sends beside answers.
#[derive(Debug)]
pub(super) enum Word {
    Pong(u64),
    Ping(u64),
    /// The reader waits, or is behind: the agent hears that the node is there.
    Alive,
    /// With the spread of reconnects in ms.
    GoAway(u32),
    Error(String),
}

/// The writing half: sends all that is ready in one write, until nobody can answer any more.
pub(super) async fn write<W: AsyncWrite + Unpin>(
    mut writer: W,
    mut answers: mpsc::Receiver<Answered>,
    mut words: mpsc::Receiver<Word>,
) -> Result<(), SessionError> {
    // Empty as long as nothing is to be answered: an idle connection holds no room for it.
    let mut ready = Vec::new();
    let (mut answers_open, mut words_open) = (true, true);
    let mut spoke = Instant::now();
    while answers_open || words_open {
        let mut bytes = Vec::new();
        tokio::select! {
            biased;
            word = words.recv(), if words_open => match word {
                Some(Word::Error(text)) => {
                    send(&mut writer, &wire::encode(&Frame::Error(text))?).await?;
                    break;
                }
                Some(Word::Ping(number)) => bytes = wire::encode(&Frame::Ping(number))?,
                // Answers say it as well.
                Some(Word::Alive) if spoke.elapsed() < ALIVE_EVERY => continue,
                Some(Word::Alive) => bytes = wire::encode(&Frame::Pong(0))?,
                Some(Word::Pong(number)) => bytes = wire::encode(&Frame::Pong(number))?,
                Some(Word::GoAway(reconnect_within_ms)) => {
                    bytes = wire::encode(&Frame::GoAway { reconnect_within_ms })?;
                }
                None => words_open = false,
            },
            count = answers.recv_many(&mut ready, WINDOW_BATCHES as usize), if answers_open => {
                answers_open = count > 0;
                bytes = encode_answers(&mut ready)?;
            }
        }
        if !bytes.is_empty() {
            send(&mut writer, &bytes).await?;
            spoke = Instant::now();
        }
    }
    drop(timeout(WRITE_WITHIN, writer.shutdown()).await);
    Ok(())
}

async fn send<W: AsyncWrite + Unpin>(writer: &mut W, bytes: &[u8]) -> Result<(), SessionError> {
    let write = async {
        writer.write_all(bytes).await?;
        writer.flush().await
    };
    let slow = |_elapsed| SessionError::Rule("the peer takes no answers");
    Ok(timeout(WRITE_WITHIN, write).await.map_err(slow)??)
}

/// The frames of these answers, receipts together, in order; frees their slots.
fn encode_answers(ready: &mut Vec<Answered>) -> Result<Vec<u8>, WireError> {
    let mut bytes = Vec::new();
    let mut receipts: Vec<Receipt> = Vec::new();
    for answered in ready.drain(..) {
        let (answer, _slot) = *answered;
        let frame = match answer {
            Answer::Receipt(receipt) => {
                receipts.push(receipt);
                if receipts.len() == MAX_RECEIPTS {
                    bytes.extend(encode_receipts(&mut receipts)?);
                }
                continue;
            }
            Answer::Busy(busy) => Frame::Busy(busy),
            Answer::Refuse(refusal) => Frame::Refuse(refusal),
        };
        bytes.extend(wire::encode(&frame)?);
    }
    bytes.extend(encode_receipts(&mut receipts)?);
    Ok(bytes)
}

/// One frame, or several when long paths make one too long.
fn encode_receipts(receipts: &mut Vec<Receipt>) -> Result<Vec<u8>, WireError> {
    if receipts.is_empty() {
        return Ok(Vec::new());
    }
    match wire::encode(&Frame::Receipts(receipts.clone())) {
        Ok(bytes) => {
            receipts.clear();
            Ok(bytes)
        }
        Err(error) if receipts.len() == 1 => Err(error),
        Err(_too_long) => {
            let mut second = receipts.split_off(receipts.len() / 2);
            let mut bytes = encode_receipts(receipts)?;
            bytes.extend(encode_receipts(&mut second)?);
            Ok(bytes)
        }
    }
}
