//! A time in UTC, to the microsecond.

use std::fmt;
use std::time::Duration;

use chrono::{DateTime, Datelike as _, SecondsFormat, Timelike as _, Utc};

/// A time in UTC, in whole microseconds since 1970: the precision of both databases, so that a time
/// equals itself after being stored.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// 9999-12-31T23:59:59.999999Z, the last time that RFC 3339 can write.
    pub const MAX: Self = Self(253_402_300_799_999_999);

    /// 0000-01-01T00:00:00Z, the first time that RFC 3339 can write.
    pub const MIN: Self = Self(-62_167_219_200_000_000);

    /// Returns the time `micros` microseconds after 1970, clamped to [`MIN`](Self::MIN) and
    /// [`MAX`](Self::MAX).
    #[must_use]
    pub const fn from_unix_micros(micros: i64) -> Self {
        if micros > Self::MAX.0 {
            Self::MAX
        } else if micros < Self::MIN.0 {
            Self::MIN
        } else {
            Self(micros)
        }
    }

    /// Returns microseconds since 1970.
    #[must_use]
    pub const fn unix_micros(self) -> i64 {
        self.0
    }

    /// Returns milliseconds since 1970, rounded down.
    #[must_use]
    pub const fn unix_millis(self) -> i64 {
        self.0.div_euclid(1_000)
    }

    /// Parses RFC 3339 with any offset. A date alone, or a time without an offset, is refused,
    /// because it is ambiguous.
    ///
    /// # Errors
    /// [`InvalidTimestamp`] if the text has any other form.
    ///
    /// ```
    /// use keys_core::Timestamp;
    ///
    /// let moment = Timestamp::parse_rfc3339("2026-01-01T01:00:00+01:00")?;
    /// assert_eq!(moment.to_string(), "2026-01-01T00:00:00.000Z");
    /// assert!(Timestamp::parse_rfc3339("2026-01-01").is_err());
    /// # Ok::<(), keys_core::InvalidTimestamp>(())
    /// ```
    pub fn parse_rfc3339(text: &str) -> Result<Self, InvalidTimestamp> {
        // Longer than any sensible number of fractional digits.
        const TEXT_MAX_LEN: usize = 64;
        // RFC 3339 has `T` between date and time; the parser would accept a blank as well.
        let has_t = matches!(text.as_bytes().get(10), Some(b'T' | b't'));
        // The parser also accepts U+2212 as the sign of the offset.
        if text.len() > TEXT_MAX_LEN || !has_t || !text.is_ascii() {
            return Err(InvalidTimestamp);
        }
        let moment = DateTime::parse_from_rfc3339(text).map_err(|_| InvalidTimestamp)?;
        if !is_on_a_clock(moment.to_utc()) {
            return Err(InvalidTimestamp);
        }
        Ok(Self::from_unix_micros(moment.timestamp_micros()))
    }

    /// Returns this time plus `duration`, at most [`MAX`](Self::MAX).
    #[must_use]
    pub fn saturating_add(self, duration: Duration) -> Self {
        let micros = i64::try_from(duration.as_micros()).unwrap_or(i64::MAX);
        Self::from_unix_micros(self.0.saturating_add(micros))
    }

    /// Returns the time since `earlier`, or zero if `earlier` is later.
    #[must_use]
    pub fn saturating_since(self, earlier: Self) -> Duration {
        Duration::from_micros(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// Returns the time as an HTTP-date (RFC 9110, section 5.6.7), rounded down to a whole second.
    ///
    /// ```
    /// use keys_core::Timestamp;
    ///
    /// let moment = Timestamp::parse_rfc3339("1994-11-06T08:49:37.9Z")?;
    /// assert_eq!(moment.to_http_date(), "Sun, 06 Nov 1994 08:49:37 GMT");
    /// # Ok::<(), keys_core::InvalidTimestamp>(())
    /// ```
    #[must_use]
    pub fn to_http_date(self) -> String {
        let moment = self.to_chrono();
        moment.format("%a, %d %b %Y %H:%M:%S GMT").to_string()
    }

    /// Returns the same time as a chrono type.
    #[must_use]
    #[expect(
        clippy::missing_panics_doc,
        reason = "every value of this type is in chrono's range"
    )]
    pub fn to_chrono(self) -> DateTime<Utc> {
        DateTime::from_timestamp_micros(self.0)
            .expect("every moment between MIN and MAX has a date")
    }
}

/// Returns whether the time is not a leap second, or is a possible one. RFC 3339, section 5.7: they
/// are at the end of a month in UTC.
fn is_on_a_clock(moment: DateTime<Utc>) -> bool {
    const SECOND: u32 = 1_000_000_000;
    let is_leap_second = moment.nanosecond() >= SECOND;
    let tomorrow = moment.date_naive().succ_opt();
    let ends_month = (moment.hour(), moment.minute()) == (23, 59)
        && tomorrow.is_none_or(|tomorrow| tomorrow.day() == 1);
    !is_leap_second || ends_month
}

/// RFC 3339 in UTC with milliseconds and `Z`, as in both HTTP contracts.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = self.to_chrono();
        f.write_str(&time.to_rfc3339_opts(SecondsFormat::Millis, true))
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = self.to_chrono();
        f.write_str(&time.to_rfc3339_opts(SecondsFormat::Micros, true))
    }
}

/// Error returned when a text is not an RFC 3339 time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a time is written as in RFC 3339, with an offset: 2026-12-31T23:59:59Z")]
#[non_exhaustive]
pub struct InvalidTimestamp;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn any_offset_is_read_and_utc_is_shown() {
        for text in [
            "2025-12-31T23:59:59Z",
            "2025-12-31t23:59:59z",
            "2026-01-01T05:29:59+05:30",
            "2025-12-31T15:59:59.000000-08:00",
        ] {
            assert_eq!(
                Timestamp::parse_rfc3339(text).unwrap().to_string(),
                "2025-12-31T23:59:59.000Z",
                "{text}"
            );
        }
    }

    #[test]
    fn texts_that_name_no_moment_are_refused() {
        for text in [
            "",
            "2025-12-31",
            "2025-12-31T23:59:59",
            "2025-12-31 23:59:59Z",
            "2025-12-31T23:59Z",
            "2025-13-01T00:00:00Z",
            "2025-02-30T00:00:00Z",
            "+12025-01-01T00:00:00Z",
            "1735689599",
            "tomorrow",
            "2099-12-31T23:59:59\u{2212}05:00",
            "2099-12-31T23:59:59\u{ff0b}05:00",
            "2099-06-15T12:34:60Z",
            "2099-06-15T23:59:60Z",
            "2099-06-30T23:58:60Z",
            "2099-06-30T23:59:60-01:00",
            "2099-06-30T23:59:61Z",
        ] {
            assert!(Timestamp::parse_rfc3339(text).is_err(), "{text}");
        }
        assert!(
            Timestamp::parse_rfc3339(&format!("2025-12-31T23:59:59.{}Z", "9".repeat(1_000)))
                .is_err()
        );
    }

    #[test]
    fn leap_seconds_are_read_at_the_end_of_a_month_in_utc() {
        for (text, next) in [
            ("2016-12-31T23:59:60Z", "2017-01-01T00:00:00.000Z"),
            ("2016-12-31T15:59:60-08:00", "2017-01-01T00:00:00.000Z"),
            ("2015-07-01T05:29:60.25+05:30", "2015-07-01T00:00:00.250Z"),
        ] {
            let moment = Timestamp::parse_rfc3339(text).unwrap();
            assert_eq!(moment.to_string(), next, "{text}");
        }
        let last = Timestamp::parse_rfc3339("9999-12-31T23:59:60Z");
        assert_eq!(last, Ok(Timestamp::MAX));
    }

    #[test]
    fn http_dates_have_four_digits_of_the_year_and_round_down() {
        let date = |micros| Timestamp::from_unix_micros(micros).to_http_date();
        assert_eq!(date(-1), "Wed, 31 Dec 1969 23:59:59 GMT");
        assert_eq!(date(999_999), "Thu, 01 Jan 1970 00:00:00 GMT");
        assert_eq!(date(i64::MIN), "Sat, 01 Jan 0000 00:00:00 GMT");
        assert_eq!(date(i64::MAX), "Fri, 31 Dec 9999 23:59:59 GMT");
    }

    #[test]
    fn the_ends_of_time_hold() {
        assert_eq!(
            Timestamp::MAX.saturating_add(Duration::from_secs(1)),
            Timestamp::MAX
        );
        assert_eq!(Timestamp::from_unix_micros(i64::MIN), Timestamp::MIN);
        assert_eq!(Timestamp::MIN.to_string(), "0000-01-01T00:00:00.000Z");
        assert_eq!(
            format!("{:?}", Timestamp::MAX),
            "9999-12-31T23:59:59.999999Z"
        );
        assert_eq!(
            Timestamp::MIN.saturating_since(Timestamp::MAX),
            Duration::ZERO
        );
    }

    proptest! {
        #[test]
        fn shown_times_are_read_back_to_the_millisecond(micros: i64) {
            let moment = Timestamp::from_unix_micros(micros);
            let back = Timestamp::parse_rfc3339(&moment.to_string()).unwrap();
            prop_assert_eq!(back.unix_millis(), moment.unix_millis());
        }

        #[test]
        fn arbitrary_text_never_panics(text in "\\PC{0,70}") {
            let _ = Timestamp::parse_rfc3339(&text);
        }
    }
}
