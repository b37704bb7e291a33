//! What the benchmarks read: access-log lines as a busy shop writes them, about 360 bytes each.
//!
//! They compress about six times by zstd-1, as real ones do: addresses, times, sizes and ids vary,
//! paths, referers and browsers repeat.

use std::{
    fmt::Write as _,
    fs::File,
    io::{self, BufWriter, Write as _},
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

const PATHS: [&str; 12] = [
    "/",
    "/cart",
    "/checkout/payment",
    "/search",
    "/item",
    "/api/v2/orders",
    "/api/v2/stock",
    "/assets/app.7f3a.js",
    "/assets/main.91cc.css",
    "/account/login",
    "/img/hero.webp",
    "/help",
];
const REFERERS: [&str; 6] = [
    "https://shop.example/",
    "https://shop.example/search?q=running+shoes&page=2",
    "https://www.search.example/results?query=running%20shoes%20wide",
    "https://shop.example/item/8812-trail-runner-gtx",
    "https://news.example/2026/11/best-of-the-season",
    "-",
];
const AGENTS: [&str; 6] = [
    "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/154.0.0.0 Safari/537.36",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/153.0.0.0 Safari/537.36 Edg/153.0.0.0",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 19_1 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/19.1 Mobile/15E148 Safari/604.1",
    "Mozilla/5.0 (Macintosh; Intel Mac OS X 15_2) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/19.0 Safari/605.1.15",
    "Mozilla/5.0 (Linux; Android 16; Pixel 10) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/154.0.0.0 Mobile Safari/537.36",
    "Googlebot/2.1 (+http://www.google.com/bot.html)",
];

/// Appends one line, newline included. `stamp_us` is when it was written, in µs since 1970.
pub(crate) fn push_line(text: &mut String, random: &mut fastrand::Rng, stamp_us: u64) {
    let pick = |random: &mut fastrand::Rng, from: &[&'static str]| from[random.usize(..from.len())];
    let second = stamp_us / 1_000_000;
    let path = pick(random, &PATHS);
    // Writing into a String cannot fail.
    writeln!(
        text,
        "10.{}.{}.{} - user{} [21/Nov/2026:{:02}:{:02}:{:02} +0000] \"GET {path}?sid={:016x}&item={} HTTP/1.1\" {} {} \"{}\" \"{}\" rt={:.3} trace={:016x}{:08x} up=10.1.{}.{}:8080 t={stamp_us}",
        random.u8(..8), random.u8(..), random.u8(..), random.u16(..20_000),
        second / 3_600 % 24, second / 60 % 60, second % 60,
        random.u64(..), random.u32(..100_000),
        if random.u8(..) < 8 { 502 } else { 200 },
        random.u32(200..90_000),
        pick(random, &REFERERS),
        pick(random, &AGENTS),
        f64::from(random.u16(..2_000)) / 1_000.0,
        random.u64(..), random.u32(..),
        random.u8(..4), random.u8(..32),
    )
    .unwrap_or_default();
}

/// Now, in µs since 1970.
pub(crate) fn now_us() -> u64 {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(now.as_micros()).unwrap_or(u64::MAX)
}

/// The stamp that [`push_line`] put at the end of a line.
pub(crate) fn stamp_us(line: &[u8]) -> Option<u64> {
    let at = line.iter().rposition(|&b| b == b'=')?;
    std::str::from_utf8(line.get(at + 1..)?)
        .ok()?
        .trim_end()
        .parse()
        .ok()
}

/// Writes a log of at least `bytes`; returns its bytes and lines.
///
/// # Errors
/// When the disk does not take it.
pub(crate) fn write_log(path: &Path, bytes: u64) -> io::Result<(u64, u64)> {
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
    let mut random = fastrand::Rng::with_seed(7);
    let (mut text, mut written, mut lines, start) = (String::new(), 0, 0, now_us());
    while written < bytes {
        text.clear();
        for _ in 0..1_000 {
            push_line(&mut text, &mut random, start + lines * 50);
            lines += 1;
        }
        file.write_all(text.as_bytes())?;
        written += text.len() as u64;
    }
    file.flush()?;
    Ok((written, lines))
}
