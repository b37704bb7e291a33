//! The smallest HTTP/1.1 client that the scenarios need: one request, one answer, close.
//!
//! On purpose not the product's own client: the rig must not share its mistakes.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow};

/// An answer takes longer only when something is broken; a bomb is long in a busy machine's debug build.
const LIMIT: Duration = Duration::from_secs(30);

/// What came back.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The header lines, lowercase, without the status line.
    pub head: String,
    /// The body.
    pub body: Vec<u8>,
}

impl Answer {
    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    ///
    /// # Errors
    /// When it is none, with the body.
    pub fn json(&self) -> Result<serde_json::Value> {
        serde_json::from_slice(&self.body)
            .with_context(|| format!("not JSON ({}): {}", self.status, self.text()))
    }
}

/// `GET http://address/path`.
///
/// # Errors
/// When there is no answer.
pub fn get(address: &str, path: &str) -> Result<Answer> {
    send(address, "GET", path, &[], &[])
}

/// `POST` with extra header lines (`"content-encoding: gzip"`).
///
/// # Errors
/// When there is no answer.
pub fn post(address: &str, path: &str, headers: &[&str], body: &[u8]) -> Result<Answer> {
    send(address, "POST", path, headers, body)
}

/// Any method, with extra header lines.
///
/// # Errors
/// When there is no answer.
pub fn request(
    address: &str,
    method: &str,
    path: &str,
    headers: &[&str],
    body: &[u8],
) -> Result<Answer> {
    send(address, method, path, headers, body)
}

/// Asks for an upgrade and gives the answer's head with the connection that follows it.
///
/// # Errors
/// When there is no answer.
pub fn upgrade(address: &str, path: &str, protocol: &str) -> Result<(Answer, TcpStream)> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))?;
    let lines = [
        format!("GET {path} HTTP/1.1"),
        format!("host: {address}"),
        "connection: Upgrade".to_owned(),
        format!("upgrade: {protocol}\r\n\r\n"),
    ];
    stream.write_all(lines.join("\r\n").as_bytes())?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream
            .read_exact(&mut byte)
            .context("no answer to the upgrade")?;
        head.push(byte[0]);
    }
    Ok((parse(&head)?, stream))
}

fn send(address: &str, method: &str, path: &str, headers: &[&str], body: &[u8]) -> Result<Answer> {
    let mut stream =
        TcpStream::connect(address).with_context(|| format!("failed to connect to {address}"))?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))?;
    let mut head = format!("{method} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n");
    for line in headers {
        head.push_str(line);
        head.push_str("\r\n");
    }
    head.push_str(&format!("content-length: {}\r\n\r\n", body.len()));
    stream.write_all(head.as_bytes())?;
    // A server that refuses early closes its side before it has read all: its answer still counts.
    let sent = stream.write_all(body);
    let mut bytes = Vec::new();
    let received = stream.read_to_end(&mut bytes);
    parse(&bytes).with_context(|| {
        format!(
            "no answer to {method} {path} from {address} (sent {sent:?}, received {received:?})"
        )
    })
}

fn parse(bytes: &[u8]) -> Result<Answer> {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n");
    let end = end.ok_or_else(|| anyhow!("{} bytes without an end of headers", bytes.len()))?;
    let head = std::str::from_utf8(&bytes[..end])?.to_ascii_lowercase();
    let (first, head) = head.split_once("\r\n").unwrap_or((&head, ""));
    let status = first
        .split(' ')
        .nth(1)
        .ok_or_else(|| anyhow!("no status in '{first}'"))?;
    let body = &bytes[end + 4..];
    let body = match head.contains("transfer-encoding: chunked") {
        true => unchunk(body)?,
        false => body.to_vec(),
    };
    Ok(Answer {
        status: status.parse()?,
        head: head.to_owned(),
        body,
    })
}

fn unchunk(mut rest: &[u8]) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let line = rest.windows(2).position(|two| two == b"\r\n");
        let line = line.ok_or_else(|| anyhow!("chunk without a length"))?;
        let length = usize::from_str_radix(std::str::from_utf8(&rest[..line])?.trim(), 16)?;
        if length == 0 {
            return Ok(body);
        }
        let chunk = rest.get(line + 2..line + 2 + length);
        body.extend_from_slice(chunk.ok_or_else(|| anyhow!("chunk is cut short"))?);
        rest = rest.get(line + 4 + length..).unwrap_or_default();
    }
}
