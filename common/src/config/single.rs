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

/// What serde gets for a value of a single kind. The fault's text shows the value unless it is
/// `secret`.
pub(super) fn single(kind: &Kind, given: Given<'_>, secret: bool) -> Result<Value, String> {
    let shown = if secret {
        "the value".to_owned()
    } else {
        given.shown()
    };
    let wrong = |what: &str| format!("{shown} is no {what}; allowed are {}", kind.allowed());
    let text = |what: &str| {
        given
            .text()
            .ok_or_else(|| format!("{shown} is no {what}; expected is {}", kind.allowed()))
    };
    match kind {
        Kind::Text | Kind::Path => match text("text")? {
            "" => Err(format!("the text is empty; expected is {}", kind.allowed())),
            good => Ok(good.into()),
        },
        Kind::Checked { what, check, .. } => {
            let text = text("text")?;
            let hidden = |_why| wrong(what);
            if secret {
                check(text).map_err(hidden)?
            } else {
                check(text)?
            }
            Ok(text.into())
        }
        Kind::Choice { allowed, later } => {
            choose(text("text")?, allowed, later).map_err(|why| format!("{shown} {why}"))
        }
        Kind::Size { min, max } => {
            let bytes = amount(given, units::size, true).ok_or_else(|| wrong("size"))?;
            within(bytes, min, max, units::size, units::show_size)
        }
        Kind::Rate { min, max } => {
            let rate = amount(given, units::rate, true).ok_or_else(|| wrong("rate"))?;
            within(rate, min, max, units::rate, units::show_rate)
        }
        Kind::Duration { min, max } => {
            let ms = amount(given, units::duration, false).ok_or_else(|| wrong("duration"))?;
            within(ms, min, max, units::duration, units::show_duration)
        }
        Kind::Percent { min, max } => {
            let percent = given
                .text()
                .and_then(units::percent)
                .ok_or_else(|| wrong("percentage"))?;
            let fits = (*min..=*max).contains(&percent);
            if fits {
                Ok(percent.into())
            } else {
                Err(outside(&shown, kind))
            }
        }
        Kind::Integer { min, max } => {
            let number = given.integer().ok_or_else(|| wrong("whole number"))?;
            let fits = (*min..=*max).contains(&number);
            if fits {
                Ok(number.into())
            } else {
                Err(outside(&shown, kind))
            }
        }
        Kind::Bool => given
            .bool()
            .map(Value::from)
            .ok_or_else(|| wrong("truth value")),
        Kind::Socket => match text("address")? {
            text if text.parse::<SocketAddr>().is_ok() => Ok(text.into()),
            _ => Err(format!(
                "{shown} is no IP address with a port; expected is {}",
                kind.allowed()
            )),
        },
        Kind::HostPort => match text("address")? {
            text if is_host_port(text) => Ok(text.into()),
            _ => Err(format!(
                "{shown} is no host with a port; expected is {}",
                kind.allowed()
            )),
        },
        Kind::Url(schemes) => match text("URL")? {
            text if is_url(text, schemes) => Ok(text.into()),
            _ => Err(format!(
                "{shown} is no URL that fits; expected is {}",
                kind.allowed()
            )),
        },
        Kind::List { .. } | Kind::Table(_) | Kind::Map(_) | Kind::OneOf { .. } | Kind::Any => Err(
            format!("{shown} cannot stand here; expected is {}", kind.allowed()),
        ),
    }
}

/// The text of a number outside its range.
fn outside(shown: &str, kind: &Kind) -> String {
    format!("{shown} is out of range; allowed are {}", kind.allowed())
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

/// An amount between its bounds, which the schema writes in the same notation.
fn within(
    amount: u64,
    min: &str,
    max: &str,
    parse: fn(&str) -> Option<u64>,
    show: fn(u64) -> String,
) -> Result<Value, String> {
    // A bound that cannot be read is a slip in a schema; `sample` finds it in each part's tests.
    let (least, most) = (parse(min).unwrap_or(u64::MAX), parse(max).unwrap_or(0));
    if (least..=most).contains(&amount) {
        Ok(amount.into())
    } else {
        Err(format!(
            "{} is out of range; allowed are {min} to {max}",
            show(amount)
        ))
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
            Err("2GiB is out of range; allowed are 1MiB to 1GiB"),
        );
        check(
            size,
            "64 apples",
            Err(
                "\"64 apples\" is no size; allowed are 1MiB to 1GiB (B, KB, MB, GB, TB, KiB … TiB)",
            ),
        );
        check(
            Kind::duration("1ms", "7d"),
            "200",
            Err("\"200\" is no duration; allowed are 1ms to 7d (ms, s, m, h, d)"),
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
            Err("\"yes\" is no truth value; allowed are true, false"),
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
            "the value is no token; allowed are a token such as \"abc\""
        );
    }
}
