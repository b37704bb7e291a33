//! The lines of container runtimes, one by one.
//!
//! CRI: `2016-10-06T00:17:09.669794202Z stdout F text` (`P` where the record goes on in the next line
//! of the stream; further tags follow a colon). Docker's json-file: `{"log":"text\n","stream":"stdout",
//! "time":"2016-10-06T00:17:09.669794202Z"}`, where a text without a newline at its end goes on.
//! What is neither is malformed.
//!
//! Not for: joining (see [`super::joined`]). Pure.

use std::borrow::Cow;

use serde::Deserialize;

/// Which runtime wrote a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Runtime {
    /// Kubernetes' container runtime interface: containerd, CRI-O.
    Cri,
    /// Docker's json-file driver.
    DockerJson,
}

/// Where a container wrote a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stream {
    Stdout,
    Stderr,
    /// It is not said.
    Other,
}

impl Stream {
    /// All of them; their places are their numbers.
    pub(super) const ALL: [Self; 3] = [Self::Stdout, Self::Stderr, Self::Other];

    /// Its name; `None` where it is not said.
    pub(super) fn name(self) -> Option<&'static str> {
        match self {
            Self::Stdout => Some("stdout"),
            Self::Stderr => Some("stderr"),
            Self::Other => None,
        }
    }
}

/// A line of a runtime.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Part<'a> {
    /// What the container wrote.
    pub(super) text: Cow<'a, [u8]>,
    /// Where.
    pub(super) stream: Stream,
    /// When the runtime took it, as it says it.
    pub(super) time: Cow<'a, str>,
    /// The record ends with it.
    pub(super) is_last: bool,
}

#[derive(Deserialize)]
struct DockerLine<'a> {
    #[serde(borrow)]
    log: Cow<'a, str>,
    #[serde(borrow, default)]
    stream: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    time: Option<Cow<'a, str>>,
}

impl Runtime {
    /// Reads a line; `None` when it is none of the runtime's.
    pub(super) fn parse(self, line: &[u8]) -> Option<Part<'_>> {
        match self {
            Self::Cri => cri(line),
            Self::DockerJson => docker_json(line),
        }
    }
}

fn cri(line: &[u8]) -> Option<Part<'_>> {
    let (time, rest) = word(line)?;
    let (stream, rest) = word(rest)?;
    let stream = match stream {
        b"stdout" => Stream::Stdout,
        b"stderr" => Stream::Stderr,
        _ => return None,
    };
    // A line without text may lack the space behind its tags.
    let (tags, text) = word(rest).unwrap_or((rest, b""));
    let is_last = match tags.split(|&byte| byte == b':').next()? {
        b"F" => true,
        b"P" => false,
        _ => return None,
    };
    let time = str::from_utf8(time).ok()?;
    let looks_like_time = time.starts_with(|first: char| first.is_ascii_digit());
    (looks_like_time && time.contains('T')).then_some(Part {
        text: Cow::Borrowed(text),
        stream,
        time: Cow::Borrowed(time),
        is_last,
    })
}

/// The bytes up to the first space, and those behind it.
fn word(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (word, rest) = bytes.split_at_checked(memchr::memchr(b' ', bytes)?)?;
    Some((word, rest.get(1..)?))
}

fn docker_json(line: &[u8]) -> Option<Part<'_>> {
    // A list would do as well for the parser.
    line.trim_ascii_start().strip_prefix(b"{")?;
    let line: DockerLine<'_> = serde_json::from_slice(line).ok()?;
    let (is_last, text) = match line.log {
        Cow::Borrowed(text) => {
            let cut = text.strip_suffix('\n');
            (cut.is_some(), Cow::Borrowed(cut.unwrap_or(text).as_bytes()))
        }
        Cow::Owned(mut text) => {
            let is_last = text.ends_with('\n');
            text.truncate(text.len() - usize::from(is_last));
            (is_last, Cow::Owned(text.into_bytes()))
        }
    };
    Some(Part {
        text,
        stream: match line.stream.as_deref() {
            Some("stdout") => Stream::Stdout,
            Some("stderr") => Stream::Stderr,
            Some(_) | None => Stream::Other,
        },
        time: line.time.unwrap_or_default(),
        is_last,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    type Wanted<'a> = Option<(&'a str, Stream, &'a str, bool)>;

    fn check(runtime: Runtime, line: &str, wanted: Wanted<'_>) {
        let part = runtime.parse(line.as_bytes());
        let got = part.as_ref().map(|part| {
            let text = str::from_utf8(&part.text).unwrap();
            (text, part.stream, part.time.as_ref(), part.is_last)
        });
        assert_eq!(got, wanted, "{line}");
    }

    const TIME: &str = "2016-10-06T00:17:09.669794202Z";
    const OUT: Stream = Stream::Stdout;

    #[test]
    fn lines_of_cri_are_read() {
        let good = |rest: &str, wanted: (&str, Stream, bool)| {
            let (text, stream, is_last) = wanted;
            let wanted = Some((text, stream, TIME, is_last));
            check(Runtime::Cri, &format!("{TIME} {rest}"), wanted);
        };
        good("stdout F a b ", ("a b ", OUT, true));
        good("stderr P a", ("a", Stream::Stderr, false));
        good("stdout F:x:y a", ("a", OUT, true));
        good("stdout F ", ("", OUT, true));
        good("stdout F", ("", OUT, true));
        let bad = |line: &str| check(Runtime::Cri, line, None);
        ["", "x", "a plain line of text", "2016 stdout F x"]
            .into_iter()
            .for_each(bad);
        for rest in ["stdlog F x", "stdout X x", "stdout"] {
            bad(&format!("{TIME} {rest}"));
        }
    }

    #[test]
    fn lines_of_docker_are_read() {
        let good = |log: &str, wanted: (&str, bool)| {
            let line = format!(r#"{{"log":"{log}","stream":"stdout","time":"{TIME}"}}"#);
            let (text, is_last) = wanted;
            let wanted = Some((text, OUT, TIME, is_last));
            check(Runtime::DockerJson, &line, wanted);
        };
        good(r"a \u4e2d\tb\n", ("a 中\tb", true));
        good("partial", ("partial", false));
        good(r"two\n\n", ("two\n", true));
        let line = r#"{"log":"x\n","attrs":{"a":"b"}}"#;
        check(
            Runtime::DockerJson,
            line,
            Some(("x", Stream::Other, "", true)),
        );
        for none in [
            "",
            "{",
            "{}",
            r#"{"log":5}"#,
            r#"["log"]"#,
            r#"{"log":"x"}}"#,
        ] {
            check(Runtime::DockerJson, none, None);
        }
    }
}
