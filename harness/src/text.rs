//! Text of a guest, which is hostile.

/// Text of a guest made harmless: one line, no control characters, at most `most` characters.
pub fn harmless(text: &str, most: usize) -> String {
    let mut out: String = text.chars().filter(|c| !c.is_control()).take(most).collect();
    if text.chars().nth(most).is_some() {
        out.push('…');
    }
    out
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
