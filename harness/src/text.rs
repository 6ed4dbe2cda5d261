//! Text for people: what a guest says made harmless, and figures.

/// Text of a guest made harmless: one line, no control characters, at most `most` characters.
pub fn harmless(text: &str, most: usize) -> String {
    let mut out: String = text.chars().filter(|c| !c.is_control()).take(most).collect();
    if text.chars().nth(most).is_some() {
        out.push('…');
    }
    out
}

/// Two significant digits: `0.00016`, `0.49`, `1`.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_cannot_steer_the_terminal() {
        assert_eq!(harmless("a\u{1b}[31mb\r\nc\u{9b}x", 80), "a[31mbcx");
        assert_eq!(harmless("abcdef", 3), "abc…");
    }
}
