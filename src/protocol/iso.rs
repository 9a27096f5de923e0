//! Moments as ISO 8601 text, the forms that Celery writes and forgives.

const DAY_MS: i64 = 86_400_000;
/// 0001-01-01 and the last millisecond of 9999: what Python's `datetime` can hold.
const RANGE_MS: std::ops::RangeInclusive<i64> = -62_135_596_800_000..=253_402_300_799_999;

/// Writes milliseconds since the epoch as Celery writes a moment in UTC:
/// `2026-11-21T20:59:18.986000+00:00`. Outside the years 1 to 9999 it is the nearest moment inside.
pub fn format_iso_utc(ms: i64) -> String {
    let ms = ms.clamp(*RANGE_MS.start(), *RANGE_MS.end());
    let (year, month, day) = civil_from_days(ms.div_euclid(DAY_MS));
    let in_day = ms.rem_euclid(DAY_MS);
    let (hour, minute, second) = (in_day / 3_600_000, in_day / 60_000 % 60, in_day / 1000 % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}000+00:00", in_day % 1000)
}

/// Reads a date, or a date and a time, as milliseconds since the epoch. `T`, `t` or a blank between them;
/// any number of decimals, cut to milliseconds; `Z`, an offset, or neither, which means UTC.
pub fn parse_iso_ms(text: &str) -> Option<i64> {
    let mut scan = Scan(text.as_bytes());
    let days = scan.date()?;
    let mut ms = days * DAY_MS;
    if !scan.0.is_empty() {
        if !(scan.eat(b'T') || scan.eat(b't') || scan.eat(b' ')) {
            return None;
        }
        ms += scan.time()?;
        ms -= scan.offset()?;
    }
    (scan.0.is_empty() && RANGE_MS.contains(&ms)).then_some(ms)
}

/// What is left to read.
struct Scan<'a>(&'a [u8]);

impl Scan<'_> {
    fn eat(&mut self, byte: u8) -> bool {
        let found = self.0.first() == Some(&byte);
        if found {
            self.0 = &self.0[1..];
        }
        found
    }

    fn digits(&mut self, count: usize) -> Option<i64> {
        let (digits, rest) = self.0.split_at_checked(count)?;
        if !digits.iter().all(u8::is_ascii_digit) {
            return None;
        }
        self.0 = rest;
        Some(digits.iter().fold(0, |number, digit| number * 10 + i64::from(digit - b'0')))
    }

    /// `YYYY-MM-DD` or `YYYYMMDD`, as days since the epoch.
    fn date(&mut self) -> Option<i64> {
        let year = self.digits(4)?;
        let dashed = self.eat(b'-');
        let month = self.digits(2)?;
        if dashed && !self.eat(b'-') {
            return None;
        }
        let day = self.digits(2)?;
        let valid = year >= 1 && (1..=12).contains(&month) && (1..=days_in_month(year, month)).contains(&day);
        valid.then(|| days_from_civil(year, month, day))
    }

    /// `HH`, `HH:MM`, `HH:MM:SS`, `HH:MM:SS.f`, or the same without colons. 24:00 is the next midnight.
    fn time(&mut self) -> Option<i64> {
        let hour = self.digits(2)?;
        let (minute, second, has_second) = self.minute_and_second()?;
        let mut ms = 0;
        if has_second && (self.eat(b'.') || self.eat(b',')) {
            let mut scale = 100;
            let before = self.0.len();
            while let Some(digit) = self.digits(1) {
                ms += digit * scale;
                scale /= 10;
            }
            if self.0.len() == before {
                return None;
            }
        }
        let midnight = hour == 24 && minute == 0 && second == 0 && ms == 0;
        let valid = (hour < 24 || midnight) && minute < 60 && second < 60;
        valid.then_some(((hour * 60 + minute) * 60 + second) * 1000 + ms)
    }

    /// `Z`, `+HH`, `+HHMM`, `+HH:MM`, `+HH:MM:SS` or nothing, in milliseconds east of UTC.
    fn offset(&mut self) -> Option<i64> {
        if self.0.is_empty() || self.eat(b'Z') || self.eat(b'z') {
            return Some(0);
        }
        let sign = if self.eat(b'+') {
            1
        } else if self.eat(b'-') {
            -1
        } else {
            return None;
        };
        let hour = self.digits(2)?;
        let (minute, second, _) = self.minute_and_second()?;
        let valid = hour < 24 && minute < 60 && second < 60;
        valid.then_some(sign * ((hour * 60 + minute) * 60 + second) * 1000)
    }

    /// The minutes and seconds after the hours, as far as they are there; whether there were seconds.
    fn minute_and_second(&mut self) -> Option<(i64, i64, bool)> {
        let colon = self.eat(b':');
        if !colon && !self.0.first().is_some_and(u8::is_ascii_digit) {
            return Some((0, 0, false));
        }
        let minute = self.digits(2)?;
        let more = if colon { self.eat(b':') } else { self.0.first().is_some_and(u8::is_ascii_digit) };
        let second = if more { self.digits(2)? } else { 0 };
        Some((minute, second, more))
    }
}

fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days since 1970-01-01 in the Gregorian calendar. Years are counted from March, so that the leap day is
/// the last of its year.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    year * 365 + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + of_year - 719_468
}

/// The other way round.
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let of_era = days.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let month = (from_march + 2) % 12 + 1;
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    (year, month, of_year - (153 * from_march + 2) / 5 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEW_YEAR_2020: i64 = 1_577_836_800_000;

    #[test]
    fn every_form_that_celery_forgives_is_read() {
        for (text, ms) in [
            ("2020-01-01T00:00:00Z", 0),
            ("2020-01-01 00:00:00", 0),
            ("2020-01-01t00:00:00z", 0),
            ("2020-01-01", 0),
            ("20200101T000000", 0),
            ("2020-01-01T00", 0),
            ("2020-01-01T00:00", 0),
            ("2020-01-01T00:00:00.123456789+00:00", 123),
            ("2020-01-01T00:00:00,5", 500),
            ("2020-01-01T01:00:00+01:00", 0),
            ("2020-01-01T01:00:00+0100", 0),
            ("2020-01-01T01:00:00+01", 0),
            ("2019-12-31T22:30:00.001-01:30", 1),
            ("2020-01-01T00:53:28+00:53:28", 0),
            ("2019-12-31T24:00:00", 0),
        ] {
            assert_eq!(parse_iso_ms(text), Some(NEW_YEAR_2020 + ms), "{text}");
        }
    }

    #[test]
    fn what_is_no_date_is_refused() {
        for text in [
            "",
            "tomorrow",
            "2020",
            "2020-13-01",
            "2021-02-29",
            "2020-01-32",
            "0000-01-01",
            "2020-01-01T",
            "2020-01-01T25:00",
            "2020-01-01T00:60",
            "2020-01-01T00:00:60",
            "2020-01-01T00:00:00.",
            "2020-01-01T00:00:00 ",
            "2020-01-01T00:00:00+",
            "2020-01-01T00:00:00+25:00",
            "2020-01-01X00:00:00",
            "2020-01-01T00:00:00Zz",
            "0001-01-01T00:00:00+01:00",
            "9999-12-31T23:59:59-01:00",
            "２０２０-01-01",
        ] {
            assert_eq!(parse_iso_ms(text), None, "{text}");
        }
    }

    #[test]
    fn a_moment_is_written_as_celery_writes_it() {
        assert_eq!(format_iso_utc(1_795_294_758_986), "2026-11-21T20:59:18.986000+00:00");
        assert_eq!(format_iso_utc(-1), "1969-12-31T23:59:59.999000+00:00");
        assert_eq!(format_iso_utc(i64::MIN), "0001-01-01T00:00:00.000000+00:00");
        assert_eq!(format_iso_utc(i64::MAX), "9999-12-31T23:59:59.999000+00:00");
    }
}
