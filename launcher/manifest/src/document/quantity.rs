//! Kubernetes quantities, exactly: `1.5Gi`, `1024M`, `500m`, `1e9`.
//!
//! The grammar is that of `k8s.io/apimachinery/pkg/api/resource`: a signed decimal number, then a binary suffix
//! (Ki to Ei), a decimal one (n, u, m, none, k to E) or an exponent. Whole numbers only come out, fractions
//! rounded up as Kubernetes does.

use super::report::quoted;

const FORM: &str = "expected a quantity such as 512Mi, 1G or 500m";

/// The quantity's value, rounded up to a whole number.
///
/// # Errors
/// Another form, a negative number, or one above `u64::MAX`.
pub fn parse(text: &str) -> Result<u64, String> {
    let form = || format!("{FORM}, found {}", quoted(text));
    let unsigned = text.strip_prefix('+').unwrap_or(text);
    let (negative, unsigned) = match unsigned.strip_prefix('-') {
        Some(rest) if unsigned.len() == text.len() => (true, rest),
        Some(_) => return Err(form()),
        None => (false, unsigned),
    };
    let end = unsigned
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(unsigned.len());
    let (number, suffix) = unsigned.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return Err(form());
    }
    let (factor, exponent) = scale(suffix).ok_or_else(form)?;
    if negative {
        let zero = number.bytes().all(|b| b == b'0' || b == b'.');
        return if zero {
            Ok(0)
        } else {
            Err(format!("must not be negative, found {}", quoted(text)))
        };
    }
    round_up(whole, fraction, factor, exponent).ok_or_else(|| format!("too large: {}", quoted(text)))
}

/// The suffix as a factor and a power of ten.
fn scale(suffix: &str) -> Option<(u64, i32)> {
    let scale = match suffix {
        "n" => (1, -9),
        "u" => (1, -6),
        "m" => (1, -3),
        "" => (1, 0),
        "k" => (1, 3),
        "M" => (1, 6),
        "G" => (1, 9),
        "T" => (1, 12),
        "P" => (1, 15),
        "E" => (1, 18),
        "Ki" => (1 << 10, 0),
        "Mi" => (1 << 20, 0),
        "Gi" => (1 << 30, 0),
        "Ti" => (1 << 40, 0),
        "Pi" => (1 << 50, 0),
        "Ei" => (1 << 60, 0),
        _ => {
            let digits = suffix.strip_prefix(['e', 'E'])?;
            let plain = digits.strip_prefix(['+', '-']).unwrap_or(digits);
            if plain.is_empty() || plain.len() > 3 || !plain.bytes().all(|b| b.is_ascii_digit()) {
                return None;
            }
            (1, digits.parse().ok()?)
        }
    };
    Some(scale)
}

/// `whole.fraction * factor * 10^exponent`, rounded up; `None` where it does not fit.
///
/// The digits are moved past the point as text, so that only the final number has to fit.
fn round_up(whole: &str, fraction: &str, factor: u64, exponent: i32) -> Option<u64> {
    let digits = format!("{whole}{fraction}");
    let digits = digits.trim_start_matches('0');
    if digits.is_empty() {
        return Some(0);
    }
    // The value is `digits * factor * 10^power`.
    let power = i64::from(exponent) - i64::try_from(fraction.len()).ok()?;
    if power >= 0 {
        let ten = 10_u128.checked_pow(u32::try_from(power).ok()?)?;
        let value = digits
            .parse::<u128>()
            .ok()?
            .checked_mul(ten)?
            .checked_mul(u128::from(factor))?;
        return u64::try_from(value).ok();
    }
    // What lies before the point and what lies behind it are multiplied apart; the latter with 18 places, and
    // anything beyond those counts as one more in the last of them. Kubernetes itself keeps nine.
    let places = usize::try_from(power.unsigned_abs()).ok()?;
    let cut = digits.len().saturating_sub(places);
    let (above, below) = digits.split_at(cut);
    let above = if above.is_empty() {
        0
    } else {
        above.parse::<u128>().ok()?
    };
    let padded = format!(
        "{}{below}",
        "0".repeat(places.saturating_sub(below.len()).min(18))
    );
    let (kept, rest) = padded.split_at(padded.len().min(18));
    let ten = 10_u128.checked_pow(u32::try_from(kept.len()).ok()?)?;
    let mut part = kept.parse::<u128>().ok()?.checked_mul(u128::from(factor))?;
    if rest.bytes().any(|b| b != b'0') {
        part = part.checked_add(1)?;
    }
    let value = above
        .checked_mul(u128::from(factor))?
        .checked_add(part.div_ceil(ten))?;
    u64::try_from(value).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_suffix_and_form() {
        let cases = [
            ("0", 0),
            ("1", 1),
            ("+1", 1),
            ("-0", 0),
            ("1n", 1),
            ("1500m", 2),
            ("2000000u", 2),
            (".5", 1),
            ("1.", 1),
            ("1k", 1000),
            ("1024M", 1_024_000_000),
            ("1G", 1_000_000_000),
            ("1T", 1_000_000_000_000),
            ("1P", 1_000_000_000_000_000),
            ("1E", 1_000_000_000_000_000_000),
            ("1Ki", 1 << 10),
            ("1.5Gi", 3 << 29),
            ("1Mi", 1 << 20),
            ("1Ti", 1 << 40),
            ("1Pi", 1 << 50),
            ("15Ei", 15 << 60),
            ("1e3", 1000),
            ("1E3", 1000),
            ("12e-1", 2),
            ("1e-100", 1),
            ("0e100", 0),
            ("0.1Ki", 103),
            ("18446744073709551615", u64::MAX),
            ("18446744073709551614.5", u64::MAX),
            ("00000000000000000000000000000000000000000001", 1),
        ];
        for (text, value) in cases {
            assert_eq!(parse(text), Ok(value), "{text}");
        }
    }

    #[test]
    fn malformed_negative_and_too_large() {
        for text in [
            "", ".", "Mi", "1 Mi", "1mi", "1KI", "1e", "1e+", "1e1000", "1.2.3", "--1", "+-1", "1Gib", "٣",
        ] {
            assert_eq!(parse(text), Err(format!("{FORM}, found {}", quoted(text))));
        }
        assert_eq!(parse("-1"), Err("must not be negative, found \"-1\"".to_owned()));
        for text in ["16Ei", "18446744073709551616", "1e20", "1e100", &"9".repeat(1000)] {
            assert_eq!(parse(text), Err(format!("too large: {}", quoted(text))));
        }
    }

    proptest! {
        #[test]
        fn whole_numbers_survive(value: u64) {
            prop_assert_eq!(parse(&value.to_string()), Ok(value));
        }

        #[test]
        fn mebibytes_with_three_places_round_up(thousandths in 0_u64..1 << 40) {
            let text = format!("{}.{:03}Mi", thousandths / 1000, thousandths % 1000);
            let exact = u128::from(thousandths) * (1 << 20);
            prop_assert_eq!(parse(&text).map(u128::from), Ok(exact.div_ceil(1000)));
        }

        #[test]
        fn any_text_is_answered(text in "\\PC{0,40}") {
            let _ = parse(&text);
        }
    }
}
