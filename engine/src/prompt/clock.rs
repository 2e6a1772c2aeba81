//! `strftime_now`: today's date as templates print it (C's `strftime` codes), in UTC.

use std::time::{SystemTime, UNIX_EPOCH};

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];

struct Civil {
    year: i64,
    /// 1-12.
    month: i64,
    /// 1-31.
    day: i64,
    /// 1-366.
    day_of_year: i64,
    /// 0 is a Thursday, as 1970-01-01 was.
    day_of_week: usize,
    seconds_of_day: i64,
}

/// Unknown codes stay as they are.
pub(super) fn format(now: SystemTime, format: &str) -> String {
    let seconds = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let date = civil(i64::try_from(seconds).unwrap_or(i64::MAX));
    let mut out = String::new();
    let mut rest = format.chars();
    while let Some(character) = rest.next() {
        if character != '%' {
            out.push(character);
            continue;
        }
        let mut code = rest.next();
        let padded = code != Some('-');
        if !padded {
            code = rest.next();
        }
        let Some(code) = code else { break };
        match field(&date, code) {
            Some(text) if padded => out.push_str(&text),
            Some(text) => {
                out.push_str(Some(text.trim_start_matches('0')).filter(|t| !t.is_empty()).unwrap_or("0"))
            }
            None => out.extend(['%', code]),
        }
    }
    out
}

fn field(date: &Civil, code: char) -> Option<String> {
    let (hour, minute) = (date.seconds_of_day / 3600, date.seconds_of_day / 60 % 60);
    let month = MONTHS[usize::try_from(date.month - 1).expect("months are 1-12")];
    let day = DAYS[date.day_of_week];
    Some(match code {
        'Y' => date.year.to_string(),
        'y' => format!("{:02}", date.year % 100),
        'm' => format!("{:02}", date.month),
        'B' => month.to_owned(),
        'b' | 'h' => month[..3].to_owned(),
        'd' => format!("{:02}", date.day),
        'e' => format!("{:2}", date.day),
        'j' => format!("{:03}", date.day_of_year),
        'A' => day.to_owned(),
        'a' => day[..3].to_owned(),
        'H' => format!("{hour:02}"),
        'I' => format!("{:02}", (hour + 11) % 12 + 1),
        'p' => if hour < 12 { "AM" } else { "PM" }.to_owned(),
        'M' => format!("{minute:02}"),
        'S' => format!("{:02}", date.seconds_of_day % 60),
        'F' => format!("{}-{:02}-{:02}", date.year, date.month, date.day),
        'T' => format!("{hour:02}:{minute:02}:{:02}", date.seconds_of_day % 60),
        'Z' => "UTC".to_owned(),
        'z' => "+0000".to_owned(),
        '%' => "%".to_owned(),
        _ => return None,
    })
}

/// Year by year and month by month: the few hundred steps are nothing beside a prompt.
fn civil(seconds: i64) -> Civil {
    // Year 9999, where Python's dates end too.
    let seconds = seconds.clamp(0, 253_402_300_799);
    let days = seconds / 86_400;
    let day_of_week = usize::try_from(days % 7).expect("days are counted from 1970");
    let (mut year, mut left) = (1970, days);
    while left >= days_of_year(year) {
        left -= days_of_year(year);
        year += 1;
    }
    let day_of_year = left + 1;
    let mut month = 1;
    while left >= days_of_month(year, month) {
        left -= days_of_month(year, month);
        month += 1;
    }
    Civil { year, month, day: left + 1, day_of_year, day_of_week, seconds_of_day: seconds % 86_400 }
}

fn days_of_year(year: i64) -> i64 {
    if is_leap(year) { 366 } else { 365 }
}

fn days_of_month(year: i64, month: i64) -> i64 {
    match month {
        2 => 28 + i64::from(is_leap(year)),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn dates_as_python_prints_them() {
        let check = |seconds: u64, text: &str, expected: &str| {
            assert_eq!(format(UNIX_EPOCH + Duration::from_secs(seconds), text), expected, "{seconds} {text}");
        };
        check(0, "%d %b %Y, %A", "01 Jan 1970, Thursday");
        check(1_709_251_199, "%Y-%m-%d %H:%M:%S %j", "2024-02-29 23:59:59 060");
        check(1_709_251_200, "%-d %B %y (%a) %I %p", "1 March 24 (Fri) 12 AM");
        check(1_735_689_599, "%F %T %j", "2024-12-31 23:59:59 366");
        check(4_102_444_800, "%F 100%% %Q %", "2100-01-01 100% %Q ");
        check(u64::MAX / 2, "%Y", "9999");
    }
}
