//! What passing bytes on costs at the least: a thread that reads them from one socket and writes them to
//! another, and does nothing else.
//!
//! What is below is the kernel's: copies and TCP over the loopback, of which each end pays a part. Not
//! for: what a bus does beside that (see [`crate::counting`]).

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    thread::{self, JoinHandle},
};

use anyhow::{Result, anyhow};

use crate::cpu::{Usage, usage_of_thread};

/// Bytes that the reader behind it takes at a time.
const TAKEN_BYTES: usize = 1 << 20;

/// CPU seconds of passing on so many pieces of so many bytes, one at a time.
///
/// # Errors
/// When a socket fails.
pub(crate) fn passed_on(pieces: u64, bytes: usize) -> Result<f64> {
    let (front, mut from) = pair()?;
    let (mut to, behind) = pair()?;
    let writer = thread::spawn(move || write(front, pieces, bytes));
    let reader = thread::spawn(move || read(behind));
    let passer = thread::spawn(move || {
        let before = usage_of_thread()?;
        let mut piece = vec![0; bytes];
        for _piece in 0..pieces {
            from.read_exact(&mut piece)?;
            to.write_all(&piece)?;
        }
        anyhow::Ok(usage_of_thread()?.since(before))
    });
    let used: Usage = joined(passer)?;
    joined(writer)?;
    joined(reader)?;
    Ok(used.cpu_s())
}

fn joined<T>(thread: JoinHandle<Result<T>>) -> Result<T> {
    thread.join().map_err(|_panic| anyhow!("a panic"))?
}

/// The two ends of a connection.
fn pair() -> Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let one = TcpStream::connect(listener.local_addr()?)?;
    let (other, _addr) = listener.accept()?;
    one.set_nodelay(true)?;
    other.set_nodelay(true)?;
    Ok((one, other))
}

fn write(mut to: TcpStream, pieces: u64, bytes: usize) -> Result<()> {
    let piece = vec![7; bytes];
    for _piece in 0..pieces {
        to.write_all(&piece)?;
    }
    Ok(())
}

fn read(mut from: TcpStream) -> Result<()> {
    let mut taken = vec![0; TAKEN_BYTES];
    while from.read(&mut taken)? > 0 {}
    Ok(())
}
