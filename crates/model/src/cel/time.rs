//! Points in time and durations: read, written, and taken apart.

use std::fmt::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use jiff::SignedDuration;
use jiff::civil::{DateTime, Weekday, date};

use super::Failure;
use super::types::Function;

/// From where seconds are counted.
const EPOCH: DateTime = date(1970, 1, 1).at(0, 0, 0, 0);
/// The most seconds of a duration: ten thousand years.
const LONGEST: i64 = 315_576_000_000;

/// A point in time, in UTC: the library's own type for these ends a day too early.
pub(super) type Time = DateTime;

/// A point in time that differs from `time`, within the years 1 to 9999.
pub(super) fn later(time: Time, by: SignedDuration) -> Result<Time, Failure> {
    time.checked_add(by).ok().filter(|time| time.year() >= 1).ok_or(Failure::Overflow)
}

/// A duration of at most ten thousand years.
pub(super) fn within_span(duration: SignedDuration) -> Result<SignedDuration, Failure> {
    if (-LONGEST..=LONGEST).contains(&duration.as_secs()) { Ok(duration) } else { Err(Failure::Overflow) }
}

pub(super) fn from_seconds(seconds: i64) -> Result<Time, Failure> {
    later(EPOCH, SignedDuration::from_secs(seconds))
}

/// The whole seconds since the epoch.
pub(super) fn seconds(time: Time) -> i64 {
    let since = time.duration_since(EPOCH);
    since.as_secs() - i64::from(since.subsec_nanos() < 0)
}

/// What a clock showed; none before the epoch.
pub(super) fn from_clock(time: SystemTime) -> Option<Time> {
    let since = time.duration_since(UNIX_EPOCH).ok()?;
    later(EPOCH, SignedDuration::try_from(since).ok()?).ok()
}

/// Reads RFC 3339.
pub(super) fn timestamp(text: &str) -> Result<Time, Failure> {
    // The library takes more forms than the language.
    let digit = |letter: char| if letter.is_ascii_digit() { '0' } else { letter.to_ascii_uppercase() };
    let shape: String = text.chars().map(digit).collect();
    let rest = shape.strip_prefix("0000-00-00T00:00:00").ok_or(Failure::Conversion)?;
    let offset = rest.strip_prefix('.').map_or(rest, |fraction| fraction.trim_start_matches('0'));
    if !matches!(offset, "Z" | "+00:00" | "-00:00") || rest.len() == offset.len() + 1 {
        return Err(Failure::Conversion);
    }
    let (civil, offset) = text.split_at_checked(text.len() - offset.len()).ok_or(Failure::Conversion)?;
    let time: Time = civil.parse().map_err(|_| Failure::Conversion)?;
    let offset = if offset.len() == 1 { SignedDuration::ZERO } else { zone(offset).ok_or(Failure::Conversion)? };
    later(time, -offset)
}

/// Reads `1h30m`, `1.5s`, `-20ms`: hours, minutes, seconds, and parts of these down to nanoseconds.
pub(super) fn duration(text: &str) -> Result<SignedDuration, Failure> {
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Ok(SignedDuration::ZERO);
    }
    let mut nanoseconds: i128 = 0;
    if rest.is_empty() {
        return Err(Failure::Conversion);
    }
    while !rest.is_empty() {
        let digits = |text: &str| text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
        let (whole, after) = rest.split_at(digits(rest));
        let (fraction, after) = after.strip_prefix('.').map_or(("", after), |after| after.split_at(digits(after)));
        let units = [("ns", 1), ("us", 1_000), ("ms", 1_000_000), ("s", 1_000_000_000), ("m", 60_000_000_000), ("h", 3_600_000_000_000)];
        let unit = units.into_iter().find_map(|(name, unit)| after.strip_prefix(name).map(|after| (unit, after)));
        let Some((unit, after)) = unit.filter(|_| !whole.is_empty() || !fraction.is_empty()) else { return Err(Failure::Conversion) };
        let count = |digits: &str| if digits.is_empty() { Some(0) } else { digits.parse::<i128>().ok().filter(|count| *count < 1 << 80) };
        let part = |digits: &str| -> Option<i128> {
            let kept = digits.get(..digits.len().min(15))?;
            Some(count(kept)? * unit / 10_i128.pow(u32::try_from(kept.len()).ok()?))
        };
        let (Some(whole), Some(fraction)) = (count(whole), part(fraction)) else { return Err(Failure::Conversion) };
        nanoseconds = whole.checked_mul(unit).and_then(|whole| nanoseconds.checked_add(whole + fraction)).ok_or(Failure::Overflow)?;
        rest = after;
    }
    let nanoseconds = if negative { -nanoseconds } else { nanoseconds };
    let seconds = i64::try_from(nanoseconds / 1_000_000_000).map_err(|_| Failure::Overflow)?;
    let rest = i32::try_from(nanoseconds % 1_000_000_000).map_err(|_| Failure::Overflow)?;
    within_span(SignedDuration::new(seconds, rest))
}

/// Writes a duration in seconds, with no, 3, 6 or 9 digits behind the point: `90s`, `1.500s`.
pub(super) fn written(duration: SignedDuration) -> String {
    let mut text = String::new();
    let sign = if duration.is_negative() { "-" } else { "" };
    let (seconds, rest) = (duration.as_secs().unsigned_abs(), duration.subsec_nanos().unsigned_abs());
    // Writing to a text does not fail.
    let _ = write!(text, "{sign}{seconds}");
    fraction(&mut text, rest);
    text.push('s');
    text
}

/// Writes a point in time as RFC 3339, with no, 3, 6 or 9 digits behind the point.
pub(super) fn written_time(time: Time) -> String {
    let mut text = String::new();
    let (date, hour, minute, second) = (time.date(), time.hour(), time.minute(), time.second());
    // Writing to a text does not fail.
    let _ = write!(text, "{date}T{hour:02}:{minute:02}:{second:02}");
    fraction(&mut text, time.subsec_nanosecond().unsigned_abs());
    text.push('Z');
    text
}

fn fraction(text: &mut String, nanoseconds: u32) {
    // Writing to a text does not fail.
    let _ = match nanoseconds {
        0 => Ok(()),
        some if some % 1_000_000 == 0 => write!(text, ".{:03}", some / 1_000_000),
        some if some % 1_000 == 0 => write!(text, ".{:06}", some / 1_000),
        some => write!(text, ".{some:09}"),
    };
}

/// By how much a zone is ahead of UTC: `UTC`, or the difference itself, `+01:00`, `-02:30`, `02:00`.
pub(super) fn zone(text: &str) -> Option<SignedDuration> {
    if text == "UTC" {
        return Some(SignedDuration::ZERO);
    }
    let (sign, rest) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    let two =
        |text: &str| (text.len() == 2 && text.bytes().all(|digit| digit.is_ascii_digit())).then(|| text.parse::<i64>().ok()).flatten();
    let (hours, minutes) = rest.split_once(':')?;
    let (hours, minutes) = (two(hours).filter(|hours| *hours < 24)?, two(minutes).filter(|minutes| *minutes < 60)?);
    Some(SignedDuration::from_secs(sign * (hours * 3600 + minutes * 60)))
}

/// A part of a point in time, in a zone that is so much ahead of UTC.
pub(super) fn part(function: Function, time: Time, zone: SignedDuration) -> Result<i64, Failure> {
    let time = time.checked_add(zone).map_err(|_| Failure::Overflow)?;
    Ok(match function {
        Function::FullYear => time.year().into(),
        Function::Month => i64::from(time.month()) - 1,
        Function::DayOfYear => i64::from(time.day_of_year()) - 1,
        Function::DayOfMonth => i64::from(time.day()) - 1,
        Function::Date => time.day().into(),
        Function::DayOfWeek => match time.weekday() {
            Weekday::Sunday => 0,
            Weekday::Monday => 1,
            Weekday::Tuesday => 2,
            Weekday::Wednesday => 3,
            Weekday::Thursday => 4,
            Weekday::Friday => 5,
            Weekday::Saturday => 6,
        },
        Function::Hours => time.hour().into(),
        Function::Minutes => time.minute().into(),
        Function::Seconds => time.second().into(),
        Function::Milliseconds => time.millisecond().into(),
        _ => return Err(Failure::WrongType),
    })
}

/// A duration counted in a unit, without what is left over; of milliseconds those beyond its seconds.
pub(super) fn count(function: Function, duration: SignedDuration) -> Result<i64, Failure> {
    Ok(match function {
        Function::Hours => duration.as_secs() / 3600,
        Function::Minutes => duration.as_secs() / 60,
        Function::Seconds => duration.as_secs(),
        Function::Milliseconds => (duration.subsec_nanos() / 1_000_000).into(),
        _ => return Err(Failure::WrongType),
    })
}
