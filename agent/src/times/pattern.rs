//! A pattern of strftime, made ready to read times: what stands where in the text.
//!
//! Read by hand and without memory, since every line goes through here; the same text always gives
//! the same parts. Names are English, whatever their case.
//!
//! Not for: which moment the parts are (see [`super`]). Pure.

/// One place of a pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Item {
    /// This byte.
    Literal(u8),
    /// At least one blank.
    Blank,
    /// A part of the time.
    Field(Field),
}

/// What stands at a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    /// Four digits.
    Year,
    /// Two digits: 69 to 99 are of the last century.
    ShortYear,
    Month,
    /// A name of at least three letters.
    MonthName,
    Day,
    DayOfYear,
    Hour,
    /// 1 to 12; AM or PM decides.
    HalfDayHour,
    /// AM or PM.
    Half,
    Minute,
    Second,
    /// Digits of a second, so many or as many as there are, behind a point or comma or not.
    Fraction {
        point: bool,
        digits: Option<usize>,
    },
    /// `+0800`, `+08:00`, `+08`, `Z`.
    Offset,
    /// `UTC`, `GMT`, `Z`, an offset, or another name that says nothing.
    ZoneName,
    /// Seconds since 1970, before so many digits of a fraction.
    Epoch {
        before: usize,
    },
    /// A name that says nothing.
    Weekday,
}

/// The directives, as they are told to people.
const ALLOWED: &str = "%Y %y %m %b %B %d %e %j %H %k %I %l %p %M %S %f %3f %6f %9f %.f %.3f %z %Z %s \
                       %a %A %F %T %R %D %n %t %%";

/// Digits of seconds since 1970: fewer are of before 1973, and stand everywhere in lines.
const EPOCH_DIGITS: std::ops::RangeInclusive<usize> = 9..=12;

const MONTHS: [&[u8]; 12] = [
    b"january",
    b"february",
    b"march",
    b"april",
    b"may",
    b"june",
    b"july",
    b"august",
    b"september",
    b"october",
    b"november",
    b"december",
];
const WEEKDAYS: [&[u8]; 7] = [
    b"monday",
    b"tuesday",
    b"wednesday",
    b"thursday",
    b"friday",
    b"saturday",
    b"sunday",
];

/// What a text says, as it stands there: nothing is checked but that it fits the pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Parts {
    pub(super) year: Option<i64>,
    pub(super) month: Option<i64>,
    pub(super) day: Option<i64>,
    pub(super) day_of_year: Option<i64>,
    pub(super) hour: Option<i64>,
    pub(super) half_day_hour: Option<i64>,
    pub(super) is_pm: bool,
    pub(super) minute: i64,
    pub(super) second: i64,
    pub(super) ms: i64,
    /// Seconds east of Greenwich.
    pub(super) offset: Option<i64>,
    /// The zone has a name that says nothing.
    pub(super) other_zone: bool,
    /// Seconds since 1970.
    pub(super) epoch: Option<i64>,
}

/// A pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pattern {
    items: Vec<Item>,
}

impl Pattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// What is wrong with it, and what is allowed.
    pub(super) fn new(text: &str) -> Result<Self, String> {
        let mut items = Vec::new();
        add(text, text, &mut items)?;
        let pattern = Self {
            items: with_digits_shared(items),
        };
        pattern.check(text)?;
        Ok(pattern)
    }

    /// Whether it says enough for a moment.
    fn check(&self, text: &str) -> Result<(), String> {
        let has = |wanted: &[Field]| {
            let fields = self.items.iter().filter_map(|item| match item {
                Item::Field(field) => Some(field),
                Item::Literal(_) | Item::Blank => None,
            });
            fields.into_iter().any(|field| wanted.contains(field))
        };
        let epoch = |item: &Item| matches!(item, Item::Field(Field::Epoch { .. }));
        let month = has(&[Field::Month, Field::MonthName]);
        let date = (month && has(&[Field::Day])) || has(&[Field::DayOfYear]);
        let half = has(&[Field::HalfDayHour]);
        let hour = has(&[Field::Hour]) || half;
        let partly = month || has(&[Field::Day, Field::Year, Field::ShortYear]);
        let why = match () {
            () if half != has(&[Field::Half]) => "takes %I together with %p",
            () if self.items.iter().any(epoch) || date => return Ok(()),
            () if partly => "says a part of a date; it takes %m (or %b) with %d, or %j",
            () if !(hour && has(&[Field::Minute])) => {
                "says no time; it takes a date, hour and minute, or %s"
            }
            () => return Ok(()),
        };
        Err(format!("{text:?} {why}"))
    }

    /// Reads a text that begins with a time of this pattern; what follows it does not matter.
    pub(super) fn parse(&self, text: &[u8]) -> Option<Parts> {
        let mut parts = Parts::default();
        let mut rest = text;
        for item in &self.items {
            rest = match item {
                Item::Literal(byte) => rest.strip_prefix(&[*byte])?,
                Item::Blank => {
                    let blanks = rest.iter().take_while(|byte| is_blank(**byte)).count();
                    if blanks == 0 {
                        return None;
                    }
                    rest.get(blanks..)?
                }
                Item::Field(field) => parts.take(*field, rest)?,
            };
        }
        Some(parts)
    }
}

/// Adds what `text`, the pattern or the long form of a directive, says.
fn add(pattern: &str, text: &str, items: &mut Vec<Item>) -> Result<(), String> {
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if is_blank(byte) {
            items.push(Item::Blank);
            continue;
        }
        if byte != b'%' {
            items.push(Item::Literal(byte));
            continue;
        }
        let mut directive = vec![b'%'];
        loop {
            let next = bytes
                .next()
                .ok_or_else(|| format!("{pattern:?} ends within a directive"))?;
            directive.push(next);
            if !matches!(next, b'.' | b':' | b'0'..=b'9') {
                break;
            }
        }
        let directive = String::from_utf8_lossy(&directive).into_owned();
        if let Some(long) = long_form(&directive) {
            add(pattern, long, items)?;
            continue;
        }
        items.push(item_of(&directive).ok_or_else(|| {
            format!("{pattern:?} has the directive {directive}; allowed are {ALLOWED}")
        })?);
    }
    Ok(())
}

fn long_form(directive: &str) -> Option<&'static str> {
    match directive {
        "%F" => Some("%Y-%m-%d"),
        "%T" => Some("%H:%M:%S"),
        "%R" => Some("%H:%M"),
        "%D" => Some("%m/%d/%y"),
        _ => None,
    }
}

fn item_of(directive: &str) -> Option<Item> {
    let fraction = |point, digits| Field::Fraction { point, digits };
    Some(Item::Field(match directive {
        "%%" => return Some(Item::Literal(b'%')),
        "%n" | "%t" => return Some(Item::Blank),
        "%Y" => Field::Year,
        "%y" => Field::ShortYear,
        "%m" => Field::Month,
        "%b" | "%B" | "%h" => Field::MonthName,
        "%d" | "%e" => Field::Day,
        "%j" => Field::DayOfYear,
        "%H" | "%k" => Field::Hour,
        "%I" | "%l" => Field::HalfDayHour,
        "%p" | "%P" => Field::Half,
        "%M" => Field::Minute,
        "%S" => Field::Second,
        "%f" => fraction(false, None),
        "%3f" => fraction(false, Some(3)),
        "%6f" => fraction(false, Some(6)),
        "%9f" => fraction(false, Some(9)),
        "%.f" => fraction(true, None),
        "%.3f" => fraction(true, Some(3)),
        "%.6f" => fraction(true, Some(6)),
        "%.9f" => fraction(true, Some(9)),
        "%z" | "%:z" => Field::Offset,
        "%Z" => Field::ZoneName,
        "%s" => Field::Epoch { before: 0 },
        "%a" | "%A" => Field::Weekday,
        _ => return None,
    }))
}

/// In `%s%3f` the last three of all digits are the fraction. Blanks in a row are one.
fn with_digits_shared(mut items: Vec<Item>) -> Vec<Item> {
    items.dedup_by(|a, b| *a == Item::Blank && *b == Item::Blank);
    for at in 1..items.len() {
        if let (
            Some(Item::Field(Field::Fraction {
                point: false,
                digits: Some(digits),
            })),
            true,
        ) = (
            items.get(at).copied(),
            items.get(at - 1) == Some(&Item::Field(Field::Epoch { before: 0 })),
        ) && let Some(epoch) = items.get_mut(at - 1)
        {
            *epoch = Item::Field(Field::Epoch { before: digits });
        }
    }
    items
}

impl Parts {
    /// Reads one field, and gives what follows it.
    fn take<'a>(&mut self, field: Field, text: &'a [u8]) -> Option<&'a [u8]> {
        let (value, rest) = match field {
            Field::Year => digits(text, 4, 4)?,
            Field::DayOfYear => digits(text, 1, 3)?,
            Field::Day | Field::Hour | Field::HalfDayHour => {
                digits(text.strip_prefix(b" ").unwrap_or(text), 1, 2)?
            }
            Field::ShortYear => digits(text, 2, 2)?,
            Field::Month | Field::Minute | Field::Second => digits(text, 1, 2)?,
            Field::MonthName => name(text, &MONTHS)?,
            Field::Weekday => name(text, &WEEKDAYS)?,
            Field::Half => {
                let half = text.get(..2)?;
                let is_pm = half.eq_ignore_ascii_case(b"pm");
                if !is_pm && !half.eq_ignore_ascii_case(b"am") {
                    return None;
                }
                (i64::from(is_pm), text.get(2..)?)
            }
            Field::Fraction { point, digits } => fraction(text, point, digits)?,
            Field::Offset => offset(text)?,
            Field::ZoneName => return self.zone_name(text),
            Field::Epoch { before } => {
                let all = text.iter().take_while(|b| b.is_ascii_digit()).count();
                let len = all
                    .checked_sub(before)
                    .filter(|len| EPOCH_DIGITS.contains(len))?;
                digits(text, len, len)?
            }
        };
        match field {
            Field::Year => self.year = Some(value),
            Field::ShortYear => self.year = Some(value + if value < 69 { 2000 } else { 1900 }),
            Field::Month => self.month = Some(value),
            Field::MonthName => self.month = Some(value + 1),
            Field::Day => self.day = Some(value),
            Field::DayOfYear => self.day_of_year = Some(value),
            Field::Hour => self.hour = Some(value),
            Field::HalfDayHour => self.half_day_hour = Some(value),
            Field::Half => self.is_pm = value == 1,
            Field::Minute => self.minute = value,
            Field::Second => self.second = value,
            Field::Fraction { .. } => self.ms = value,
            Field::Offset => self.offset = Some(value),
            Field::Epoch { .. } => self.epoch = Some(value),
            Field::ZoneName | Field::Weekday => {}
        }
        Some(rest)
    }

    fn zone_name<'a>(&mut self, text: &'a [u8]) -> Option<&'a [u8]> {
        if let Some((value, rest)) = offset(text)
            && !rest.first().is_some_and(u8::is_ascii_alphabetic)
        {
            self.offset = Some(value);
            return Some(rest);
        }
        let letters = text.iter().take_while(|b| b.is_ascii_alphabetic()).count();
        let (name, rest) = text.split_at_checked(letters)?;
        match name {
            b"UTC" | b"GMT" | b"UT" => self.offset = Some(0),
            // Abbreviations are not unique: CST is in China and in Chicago.
            _ if (2..=6).contains(&letters) => self.other_zone = true,
            _ => return None,
        }
        Some(rest)
    }
}

fn is_blank(byte: u8) -> bool {
    byte == b' ' || byte == b'\t'
}

/// A number of `min` to `max` digits, and what follows it.
#[inline]
fn digits(text: &[u8], min: usize, max: usize) -> Option<(i64, &[u8])> {
    let mut value = 0;
    let mut len = 0;
    for byte in text.iter().take(max) {
        if !byte.is_ascii_digit() {
            break;
        }
        value = value * 10 + i64::from(byte - b'0');
        len += 1;
    }
    (len >= min).then_some((value, text.get(len..)?))
}

/// Which of the names it is, by at least its first three letters.
fn name<'a>(text: &'a [u8], names: &[&[u8]]) -> Option<(i64, &'a [u8])> {
    let letters = text.iter().take_while(|b| b.is_ascii_alphabetic()).count();
    let (word, rest) = text.split_at_checked(letters)?;
    if letters < 3 {
        return None;
    }
    let is_it = |name: &&[u8]| {
        let start = name.get(..letters);
        start.is_some_and(|start| start.eq_ignore_ascii_case(word))
    };
    let place = names.iter().position(is_it)?;
    Some((i64::try_from(place).ok()?, rest))
}

/// Milliseconds of a fraction of a second.
fn fraction(text: &[u8], point: bool, wanted: Option<usize>) -> Option<(i64, &[u8])> {
    let behind = match text.split_first() {
        Some((b'.' | b',', behind)) if point => behind,
        _ if !point => text,
        // A fraction with a point may be left out, unless its digits are wanted.
        _ => return wanted.is_none().then_some((0, text)),
    };
    let all = behind.iter().take_while(|b| b.is_ascii_digit()).count();
    let len = wanted.unwrap_or(all);
    if len == 0 && point {
        return Some((0, text));
    }
    if len == 0 || all < len {
        return None;
    }
    let (read, _rest) = digits(behind, 1, len.min(3))?;
    let ms = match len {
        1 => read * 100,
        2 => read * 10,
        _ => read,
    };
    Some((ms, behind.get(len..)?))
}

/// Seconds east of Greenwich.
fn offset(text: &[u8]) -> Option<(i64, &[u8])> {
    let (sign, rest) = match text.split_first()? {
        (b'Z' | b'z', rest) => return Some((0, rest)),
        (b'+', rest) => (1, rest),
        (b'-', rest) => (-1, rest),
        _ => return None,
    };
    let (hours, rest) = digits(rest, 2, 2)?;
    let behind = rest.strip_prefix(b":").unwrap_or(rest);
    let (minutes, rest) = digits(behind, 2, 2).unwrap_or((0, rest));
    (hours < 24 && minutes < 60).then_some((sign * (hours * 3600 + minutes * 60), rest))
}
