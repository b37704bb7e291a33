//! Names of physical targets with places to fill in: `{topic}`, `{date}`, `{hour}`.
//!
//! Not for: which topic goes where (see [`crate::route`]). The config parses templates, the router
//! renders one per batch. Pure.

use tributary_common::ids::Topic;

/// What may stand in braces, for messages.
pub const PLACEHOLDERS: &str = "{topic}, {date}, {hour}";

/// Minutes of a day.
const DAY_MINUTES: u32 = 24 * 60;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Literal(String),
    Topic,
    Date,
    Hour,
}

/// A parsed template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    parts: Vec<Part>,
    /// Dates and hours are filled in by the destination, record by record.
    by_record: bool,
}

/// Why text is not a template.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// Something else than a known placeholder stands in braces.
    #[error("{{{0}}} is unknown; allowed are {PLACEHOLDERS}")]
    Unknown(String),
    /// A `{` without its `}`, or the other way round.
    #[error("{0:?} has a brace without its pair; allowed are {PLACEHOLDERS}")]
    Brace(String),
}

impl Template {
    /// Reads a template.
    ///
    /// # Errors
    /// [`TemplateError`] when braces hold anything but a known placeholder.
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        let brace = || TemplateError::Brace(text.to_owned());
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((literal, after)) = rest.split_once('{') {
            let (name, tail) = after.split_once('}').ok_or_else(brace)?;
            if literal.contains('}') {
                return Err(brace());
            }
            if !literal.is_empty() {
                parts.push(Part::Literal(literal.to_owned()));
            }
            parts.push(match name {
                "topic" => Part::Topic,
                "date" => Part::Date,
                "hour" => Part::Hour,
                unknown => return Err(TemplateError::Unknown(unknown.to_owned())),
            });
            rest = tail;
        }
        if rest.contains('}') {
            return Err(brace());
        }
        if !rest.is_empty() {
            parts.push(Part::Literal(rest.to_owned()));
        }
        Ok(Self {
            parts,
            by_record: false,
        })
    }

    /// The same template for a destination that fills in dates and hours record by record: rendered, it
    /// is a template of those alone. The topic is in lower case, as indices must be.
    #[must_use]
    pub fn by_record(mut self) -> Self {
        self.by_record = true;
        self
    }

    /// The text for one batch: `minute` counts from 1970-01-01 00:00 UTC; dates and hours are UTC.
    #[must_use]
    pub fn render(&self, topic: &Topic, minute: u32) -> String {
        self.render_named(topic.as_str(), minute)
    }

    /// [`Self::render`] with something else in the place of the topic.
    #[must_use]
    pub fn render_named(&self, topic: &str, minute: u32) -> String {
        let mut text = String::new();
        for part in &self.parts {
            match part {
                Part::Literal(literal) => text.push_str(literal),
                Part::Topic if self.by_record => {
                    text.push_str(&topic.to_ascii_lowercase());
                }
                Part::Date if self.by_record => text.push_str("{date}"),
                Part::Hour if self.by_record => text.push_str("{hour}"),
                Part::Topic => text.push_str(topic),
                Part::Date => text.push_str(&date(minute)),
                Part::Hour => {
                    text.push_str(&format!("{:02}", minute % DAY_MINUTES / 60));
                }
            }
        }
        text
    }

    /// The topic that a text was rendered for; empty where its name stands nowhere in the template. `None`: this template
    /// renders no such text. For one that is rendered batch by batch.
    #[must_use]
    pub fn topic_of(&self, text: &str) -> Option<String> {
        topic_in(&self.parts, text, None).map(str::to_owned)
    }

    /// The literal text before the first placeholder.
    #[must_use]
    pub fn static_prefix(&self) -> &str {
        match self.parts.first() {
            Some(Part::Literal(literal)) => literal,
            Some(Part::Topic | Part::Date | Part::Hour) | None => "",
        }
    }

    /// Whether the text depends on the event time.
    #[must_use]
    pub fn has_time(&self) -> bool {
        self.parts
            .iter()
            .any(|part| matches!(part, Part::Date | Part::Hour))
    }
}

/// The topic in a text, by the parts that it was made of; `known` is what it was before.
fn topic_in<'a>(parts: &[Part], text: &'a str, known: Option<&'a str>) -> Option<&'a str> {
    let digits = |text: &str| {
        text.bytes()
            .all(|byte| byte.is_ascii_digit() || byte == b'-')
    };
    let Some((part, parts)) = parts.split_first() else {
        return text.is_empty().then(|| known.unwrap_or_default());
    };
    match part {
        Part::Literal(literal) => topic_in(parts, text.strip_prefix(literal.as_str())?, known),
        Part::Date | Part::Hour => {
            let length = if *part == Part::Date { 10 } else { 2 };
            let (time, rest) = text.split_at_checked(length)?;
            topic_in(parts, rest, known).filter(|_topic| digits(time))
        }
        Part::Topic => match known {
            Some(topic) => topic_in(parts, text.strip_prefix(topic)?, known),
            // Topics are short.
            None => (1..=text.len()).find_map(|end| {
                let (topic, rest) = text.split_at_checked(end)?;
                topic_in(parts, rest, Some(topic))
            }),
        },
    }
}

/// `YYYY-MM-DD` of a minute, in UTC.
fn date(minute: u32) -> String {
    let second = i64::from(minute) * 60;
    match jiff::Timestamp::from_second(second) {
        Ok(time) => time.strftime("%Y-%m-%d").to_string(),
        // Every u32 of minutes lies before the year 10,140, jiff ends at 9999: such a clock is wrong.
        Err(_beyond_the_calendar) => "9999-12-31".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_are_filled_in_utc() {
        let check = |template: &str, minute: u32, want: &str| {
            let topic = Topic::new("web.access").unwrap();
            assert_eq!(
                Template::parse(template).unwrap().render(&topic, minute),
                want
            );
        };
        check(
            "/data/{topic}/dt={date}/hour={hour}",
            0,
            "/data/web.access/dt=1970-01-01/hour=00",
        );
        check("{topic}", 5, "web.access");
        check("x-{topic}-{hour}", 23 * 60 + 59, "x-web.access-23");
        check("{date}", 28_000_000, "2023-03-28");
        check("{date}", u32::MAX, "9999-12-31");
        check("plain", 1, "plain");
    }

    #[test]
    fn the_topic_of_a_rendered_name_is_found() {
        let check = |template: &str, text: &str, want: Option<&str>| {
            let topic = Template::parse(template).unwrap().topic_of(text);
            assert_eq!(topic.as_deref(), want, "{template} {text}");
        };
        check("{topic}", "web.access", Some("web.access"));
        check("x-{topic}-y", "x-web-y", Some("web"));
        check("x-{topic}-y", "x-a-y-b-y", Some("a-y-b"));
        check("x-{topic}-y", "x--y", None);
        check("{topic}-{date}-{hour}", "a-2026-11-24-07", Some("a"));
        check("{topic}-{date}", "a-2026x11-24", None);
        check("{topic}.{topic}", "ab.ab", Some("ab"));
        check("{topic}.{topic}", "ab.ac", None);
        check("plain", "plain", Some(""));
        check("plain", "other", None);
    }

    #[test]
    fn bad_braces_are_named() {
        let check = |template: &str, text: &str| {
            assert_eq!(Template::parse(template).unwrap_err().to_string(), text);
        };
        check(
            "a{tpoic}",
            "{tpoic} is unknown; allowed are {topic}, {date}, {hour}",
        );
        check(
            "a{topic",
            "\"a{topic\" has a brace without its pair; allowed are {topic}, {date}, {hour}",
        );
        check(
            "a}b{topic}",
            "\"a}b{topic}\" has a brace without its pair; allowed are {topic}, {date}, {hour}",
        );
        check(
            "{topic}}",
            "\"{topic}}\" has a brace without its pair; allowed are {topic}, {date}, {hour}",
        );
    }

    #[test]
    fn the_static_prefix_ends_at_the_first_placeholder() {
        let prefix = |text: &str| Template::parse(text).unwrap().static_prefix().to_owned();
        assert_eq!(prefix("/data/{topic}/x"), "/data/");
        assert_eq!(prefix("{topic}/x"), "");
        assert_eq!(prefix("/data"), "/data");
    }
}
