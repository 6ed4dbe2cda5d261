//! Text for display: sanitized guest output, and probabilities.

/// Sanitizes text from a guest: one line, no control characters, at most `most` characters.
pub fn harmless(text: &str, most: usize) -> String {
    let mut out: String = text.chars().filter(|c| !c.is_control()).take(most).collect();
    if text.chars().nth(most).is_some() {
        out.push('…');
    }
    out
}

/// Cuts a text to `width` characters, after a whole word if there is one.
pub fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let kept: String = text.chars().take(width.saturating_sub(1)).collect();
    let next = text.chars().nth(kept.chars().count());
    let end = match kept.rfind(' ') {
        // The cut is at the end of a word already.
        _ if next.is_some_and(|next| [' ', ',', ';', ':'].contains(&next)) => kept.len(),
        Some(blank) if blank > 0 => blank,
        _ => kept.len(),
    };
    format!("{}…", kept[..end].trim_end_matches([' ', ',', ':', ';']))
}

/// Formats a probability with two significant digits: `0.00016`, `0.49`, `1`.
pub fn probability(p: f64) -> String {
    if p >= 0.995 {
        return "1".into();
    }
    if p < 1e-9 {
        return "< 1e-9".into();
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 1 and 10")]
    let places = (1.0 - p.log10().floor()) as usize;
    format!("{p:.places$}")
}

/// A number of any size with two significant digits, or all digits before the point: `135`, `3.4`,
/// `0.12`; from a million on, `4.2e11`.
pub fn significant(number: f64) -> String {
    if number >= 1e6 {
        return format!("{number:.1e}");
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and 10")]
    let places = (1.0 - number.max(1e-9).log10().floor()).max(0.0) as usize;
    format!("{number:.places$}")
}

/// A time with four significant digits: `12.34 us`.
pub fn nanoseconds(time: f64) -> String {
    let (value, unit) = match time {
        t if t < 1e3 => (t, "ns"),
        t if t < 1e6 => (t / 1e3, "us"),
        t if t < 1e9 => (t / 1e6, "ms"),
        t => (t / 1e9, "s"),
    };
    let places = match value {
        v if v < 10.0 => 3,
        v if v < 100.0 => 2,
        _ => 1,
    };
    format!("{value:.places$} {unit}")
}

/// The name of a variant as the files of a run have it, in kebab case, such as `accounting-mismatch`.
pub(crate) fn word(variant: &impl serde::Serialize) -> String {
    serde_json::to_value(variant).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_cut_after_a_whole_word() {
        assert_eq!(cut("WARNING in flush_all_cpus", 40), "WARNING in flush_all_cpus");
        assert_eq!(cut("WARNING in flush_all_cpus_locked", 20), "WARNING in…");
        assert_eq!(cut("3 of 9 reported, 2 left", 16), "3 of 9 reported…");
        assert_eq!(cut("a_name_without_any_blank", 10), "a_name_wi…");
        assert!(cut(&"ab ".repeat(50), 80).chars().count() <= 80);
    }

    #[test]
    fn a_guest_cannot_steer_the_terminal() {
        assert_eq!(harmless("a\u{1b}[31mb\r\nc\u{9b}x", 80), "a[31mbcx");
        assert_eq!(harmless("abcdef", 3), "abc…");
    }
}
