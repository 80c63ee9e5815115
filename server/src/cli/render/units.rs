//! Numbers with their units.

/// Milliseconds, as people say them: `9 ms`, `1.2 s`, `3 min 20 s`, `2 h 5 min`.
pub(super) fn duration(milliseconds: u64) -> String {
    let seconds = milliseconds / 1000;
    match milliseconds {
        0..1000 => format!("{milliseconds} ms"),
        1000..60_000 => format!("{seconds}.{} s", milliseconds % 1000 / 100),
        60_000..3_600_000 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
    }
}

/// A part of a whole, 0 to 1, in per cent.
pub(super) fn share(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

/// A weight; one on its way may have decimals, of which one is shown.
pub(super) fn weight(weight: f64) -> String {
    if weight.fract() == 0.0 { format!("{weight:.0}") } else { format!("{weight:.1}") }
}

/// Numbers of CPUs, as `taskset` writes them: `0-3,7`.
pub(super) fn cpus(cpus: &[u32]) -> String {
    let mut sorted = cpus.to_vec();
    sorted.sort_unstable();
    sorted.dedup();
    let runs = sorted.chunk_by(|one, next| one + 1 == *next).map(|run| match run {
        [only] => only.to_string(),
        [first, .., last] => format!("{first}-{last}"),
        [] => String::new(),
    });
    runs.collect::<Vec<_>>().join(",")
}

/// A time of the wall clock, in UTC: `2026-08-01T12:00:00.123Z`.
pub(super) fn utc(unix_ms: u64) -> String {
    let (days, in_day) = (unix_ms / 86_400_000, unix_ms % 86_400_000);
    let (hour, minute, second) = (in_day / 3_600_000, in_day / 60_000 % 60, in_day / 1000 % 60);
    // Howard Hinnant's civil_from_days: the year begins in March, so that the leap day is its last.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", unix_ms % 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_the_unit_of_their_size() {
        let texts = [0, 999, 1000, 1250, 59_999, 60_000, 200_000, 7_500_000].map(duration);
        let said = ["0 ms", "999 ms", "1.0 s", "1.2 s", "59.9 s", "1 min 0 s", "3 min 20 s", "2 h 5 min"];
        assert_eq!(texts, said);
    }

    #[test]
    fn weights_have_a_decimal_only_on_their_way() {
        assert_eq!([0.0, 1.0, 2.44, 99.96, 100.0].map(weight), ["0", "1", "2.4", "100.0", "100"]);
    }

    #[test]
    fn cpus_are_in_ranges() {
        assert_eq!(cpus(&[]), "");
        assert_eq!(cpus(&[5]), "5");
        assert_eq!(cpus(&[7, 2, 0, 1, 3, 9, 8, 2]), "0-3,7-9");
        assert_eq!(cpus(&[0, u32::MAX]), "0,4294967295");
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        let texts = [0, 951_782_400_000, 951_868_799_999, 1_785_585_600_123, 4_107_542_400_000].map(utc);
        let said = [
            "1970-01-01T00:00:00.000Z",
            "2000-02-29T00:00:00.000Z",
            "2000-02-29T23:59:59.999Z",
            "2026-08-01T12:00:00.123Z",
            "2100-03-01T00:00:00.000Z",
        ];
        assert_eq!(texts, said);
    }
}
