//! One value that is no list and no table: from what was given to what serde gets, or why not.
//!
//! Not for: where it stands (see `walk`). Pure.

use std::net::SocketAddr;

use serde_json::Value;
use toml::de::DeValue;

use super::{nearest::nearest, schema::Kind, units};

/// A value as it was given.
#[derive(Debug, Clone, Copy)]
pub(super) enum Given<'a> {
    /// A value of the document.
    Toml(&'a DeValue<'a>),
    /// Text without quotes, from the environment or a default: it may mean a number as well.
    Bare(&'a str),
}

impl<'a> Given<'a> {
    /// The text, where it is one.
    fn text(self) -> Option<&'a str> {
        match self {
            Self::Toml(value) => value.as_str(),
            Self::Bare(text) => Some(text),
        }
    }

    /// The whole number, where it is one that fits.
    fn integer(self) -> Option<i64> {
        match self {
            Self::Toml(value) => {
                let integer = value.as_integer()?;
                i64::from_str_radix(integer.as_str(), integer.radix()).ok()
            }
            Self::Bare(text) => text.parse().ok(),
        }
    }

    /// Yes or no, where it is that.
    fn bool(self) -> Option<bool> {
        match self {
            Self::Toml(value) => value.as_bool(),
            Self::Bare(text) => text.parse().ok(),
        }
    }

    /// The value as a person wrote it, for a fault.
    fn shown(self) -> String {
        match self {
            Self::Bare(text) => format!("{text:?}"),
            Self::Toml(DeValue::String(text)) => format!("{text:?}"),
            Self::Toml(DeValue::Integer(number)) => number.to_string(),
            Self::Toml(DeValue::Float(number)) => number.to_string(),
            Self::Toml(DeValue::Boolean(truth)) => truth.to_string(),
            Self::Toml(DeValue::Datetime(time)) => time.to_string(),
            Self::Toml(DeValue::Array(_)) => "a list".to_owned(),
            Self::Toml(DeValue::Table(_)) => "a table".to_owned(),
        }
    }
}

/// Why a value is refused; [`Why::text`] adds the value and what is allowed.
enum Why {
    /// It is not of this sort.
    Not(&'static str),
    /// It is outside of its range.
    Outside,
    /// It is a text without letters.
    Empty,
    /// Said by a check, with the value in it.
    Said(String),
    /// Said about the value, which is to be put in front.
    About(String),
}

impl Why {
    /// The whole sentence. The value is not in it when it is `secret`.
    fn text(self, kind: &Kind, given: Given<'_>, secret: bool) -> String {
        let allowed = kind.allowed();
        let shown = if secret {
            "the value".to_owned()
        } else {
            given.shown()
        };
        match self {
            Self::Not(what) => format!("{shown} is no {what}; expected is {allowed}"),
            Self::Outside => format!("{shown} is out of range; allowed are {allowed}"),
            Self::Empty => format!("the text is empty; expected is {allowed}"),
            Self::Said(_) | Self::About(_) if secret => {
                format!("{shown} does not fit; expected is {allowed}")
            }
            Self::Said(why) => why,
            Self::About(why) => format!("{shown} {why}"),
        }
    }
}

/// What serde gets for a value of a single kind. The fault's text shows the value unless it is
/// `secret`.
pub(super) fn single(kind: &Kind, given: Given<'_>, secret: bool) -> Result<Value, String> {
    read(kind, given).map_err(|why| why.text(kind, given, secret))
}

/// Reads a value of a single kind.
fn read(kind: &Kind, given: Given<'_>) -> Result<Value, Why> {
    let text = || given.text().ok_or(Why::Not("text"));
    let fitting = |what, fits: &dyn Fn(&str) -> bool| match text()? {
        good if fits(good) => Ok(good.into()),
        _ => Err(Why::Not(what)),
    };
    match kind {
        Kind::Text | Kind::Path => match text()? {
            "" => Err(Why::Empty),
            good => Ok(good.into()),
        },
        Kind::Checked { check, .. } => {
            let text = text()?;
            check(text).map_err(Why::Said)?;
            Ok(text.into())
        }
        Kind::Choice { allowed, later } => choose(text()?, allowed, later).map_err(Why::About),
        Kind::Size { min, max } => {
            let bytes = amount(given, units::size, true).ok_or(Why::Not("size"))?;
            within(bytes, units::size(min), units::size(max))
        }
        Kind::Rate { min, max } => {
            let rate = amount(given, units::rate, true).ok_or(Why::Not("rate"))?;
            within(rate, units::rate(min), units::rate(max))
        }
        Kind::Duration { min, max } => {
            let ms = amount(given, units::duration, false).ok_or(Why::Not("duration"))?;
            within(ms, units::duration(min), units::duration(max))
        }
        Kind::Percent { min, max } => {
            let percent = given.text().and_then(units::percent);
            within(
                percent.ok_or(Why::Not("percentage"))?,
                Some(*min),
                Some(*max),
            )
        }
        Kind::Integer { min, max } => {
            let number = given.integer().ok_or(Why::Not("whole number"))?;
            within(number, Some(*min), Some(*max))
        }
        Kind::Bool => given.bool().map(Value::from).ok_or(Why::Not("truth value")),
        Kind::Socket => fitting("IP address with a port", &|text| {
            text.parse::<SocketAddr>().is_ok()
        }),
        Kind::HostPort => fitting("host with a port", &is_host_port),
        Kind::Url(schemes) => fitting("URL that fits", &|text| is_url(text, schemes)),
        Kind::List { .. } => Err(Why::Not("list")),
        Kind::Table(_) | Kind::Map(_) | Kind::OneOf { .. } => Err(Why::Not("table")),
        Kind::Any => Err(Why::Not("value of a key that this version knows")),
    }
}

/// One of the allowed words, or why not.
pub(super) fn choose(text: &str, allowed: &[&str], later: &[&str]) -> Result<Value, String> {
    if allowed.contains(&text) {
        return Ok(text.into());
    }
    let allowed_text = allowed.join(", ");
    if later.contains(&text) {
        return Err(format!(
            "is not in this version; allowed are {allowed_text}"
        ));
    }
    match nearest(text, allowed.iter().copied()) {
        Some(near) if allowed.len() > 4 => Err(format!(
            "is unknown, did you mean {near:?}? Allowed are {allowed_text}"
        )),
        Some(_) | None => Err(format!("is unknown; allowed are {allowed_text}")),
    }
}

/// A number with its unit; plain bytes where `plain` allows it.
fn amount(given: Given<'_>, parse: fn(&str) -> Option<u64>, plain: bool) -> Option<u64> {
    match given.integer() {
        Some(number) if plain => u64::try_from(number).ok(),
        Some(_) => None,
        None => parse(given.text()?),
    }
}

/// A number between its bounds. Bounds that cannot be read are a slip in a schema: nothing lies
/// between them, which the test with [`super::samples`] in each part finds.
fn within<N: PartialOrd + Into<Value>>(
    number: N,
    least: Option<N>,
    most: Option<N>,
) -> Result<Value, Why> {
    match (least, most) {
        (Some(least), Some(most)) if least <= number && number <= most => Ok(number.into()),
        _ => Err(Why::Outside),
    }
}

/// Whether a text is `host:port`, with an IPv6 address in brackets.
fn is_host_port(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else {
        return false;
    };
    let bracketed = host.starts_with('[') && host.ends_with(']');
    let bare = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let host_fits = !host.is_empty() && host.chars().all(bare);
    (host_fits || bracketed && text.parse::<SocketAddr>().is_ok())
        && port.bytes().all(|b| b.is_ascii_digit())
        && port.parse::<u16>().is_ok_and(|port| port > 0)
}

/// Whether a text is a URL of one of the schemes.
fn is_url(text: &str, schemes: &[&str]) -> bool {
    text.split_once("://").is_some_and(|(scheme, rest)| {
        let plain = |c: char| !c.is_whitespace() && !c.is_control();
        schemes.contains(&scheme) && !rest.is_empty() && rest.chars().all(plain)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a bare text gives for a kind.
    #[track_caller]
    fn check(kind: Kind, text: &str, wanted: Result<Value, &str>) {
        let found = single(&kind, Given::Bare(text), false);
        assert_eq!(found, wanted.map_err(str::to_owned), "{text:?}");
    }

    #[test]
    fn amounts_are_numbers_in_base_units() {
        check(Kind::size("1B", "1TiB"), "64MiB", Ok((64_u64 << 20).into()));
        check(Kind::size("1B", "1TiB"), "4096", Ok(4096.into()));
        check(Kind::rate("1B/s", "1TB/s"), "20MB/s", Ok(20_000_000.into()));
        check(Kind::duration("1ms", "7d"), "2s", Ok(2000.into()));
        check(
            Kind::Percent {
                min: 0.0,
                max: 100.0,
            },
            "5%",
            Ok(5.0.into()),
        );
        check(Kind::Integer { min: -1, max: 9 }, "-1", Ok((-1).into()));
        check(Kind::Bool, "true", Ok(true.into()));
    }

    #[test]
    fn faults_name_the_value_and_what_is_allowed() {
        let size = Kind::size("1MiB", "1GiB");
        check(
            size,
            "2GiB",
            Err(
                "\"2GiB\" is out of range; allowed are 1MiB to 1GiB (B, KB, MB, GB, TB, KiB … TiB)",
            ),
        );
        check(
            size,
            "64 apples",
            Err(
                "\"64 apples\" is no size; expected is 1MiB to 1GiB (B, KB, MB, GB, TB, KiB … TiB)",
            ),
        );
        check(
            Kind::duration("1ms", "7d"),
            "200",
            Err("\"200\" is no duration; expected is 1ms to 7d (ms, s, m, h, d)"),
        );
        check(
            Kind::Integer { min: 1, max: 9 },
            "10",
            Err("\"10\" is out of range; allowed are 1 to 9"),
        );
        check(
            Kind::Percent {
                min: 0.0,
                max: 50.0,
            },
            "51%",
            Err("\"51%\" is out of range; allowed are 0% to 50%"),
        );
        check(
            Kind::Bool,
            "yes",
            Err("\"yes\" is no truth value; expected is true, false"),
        );
        check(Kind::Text, "", Err("the text is empty; expected is text"));
    }

    #[test]
    fn choices_tell_the_unknown_from_the_later() {
        let kind = Kind::Choice {
            allowed: &["rdkafka"],
            later: &["verbatim"],
        };
        check(kind, "rdkafka", Ok("rdkafka".into()));
        check(
            kind,
            "verbatim",
            Err("\"verbatim\" is not in this version; allowed are rdkafka"),
        );
        check(kind, "x", Err("\"x\" is unknown; allowed are rdkafka"));
    }

    #[test]
    fn addresses_and_urls_are_checked() {
        for good in ["bus1.dc1:7400", "127.0.0.1:1", "[::1]:7400", "a_b-c:65535"] {
            check(Kind::HostPort, good, Ok(good.into()));
        }
        for bad in [
            "bus1",
            "bus1:",
            ":7400",
            "bus1:0",
            "bus1:65536",
            "::1:7400",
            "a b:1",
            "a:+1",
        ] {
            assert!(
                single(&Kind::HostPort, Given::Bare(bad), false).is_err(),
                "{bad}"
            );
        }
        check(Kind::Socket, "0.0.0.0:0", Ok("0.0.0.0:0".into()));
        assert!(single(&Kind::Socket, Given::Bare("localhost:1"), false).is_err());
        let url = Kind::Url(&["http", "https"]);
        check(url, "http://m:7500", Ok("http://m:7500".into()));
        check(
            url,
            "ftp://m",
            Err("\"ftp://m\" is no URL that fits; expected is a URL: http://…, https://…"),
        );
    }

    #[test]
    fn a_secret_is_not_in_its_fault() {
        let long = |text: &str| Err::<(), _>(format!("{text:?} is too long"));
        let kind = Kind::checked("token", "abc", long);
        let why = single(&kind, Given::Bare("hunter2"), true).unwrap_err();
        assert_eq!(
            why,
            "the value does not fit; expected is a token such as \"abc\""
        );
    }
}
