//! What another launcher says, made fit for a log and a terminal.
//!
//! A peer can put anything into a text: a line break that begins a forged log line, a sequence that changes a terminal, a
//! megabyte. So each text of a peer's goes through here before it is logged, printed or kept for `hawser status`.

/// Characters of one text, as it is printed.
const MAX_TEXT: usize = 500;
/// Of one refusal.
const MAX_REASONS: usize = 64;

/// One line of bounded length, in which every character is printed as itself or as its escape. Quotation marks and
/// backslashes stay as they are, for legibility.
pub(crate) fn text(said: &str) -> String {
    let mut text = String::new();
    for (count, character) in said.chars().enumerate() {
        if count == MAX_TEXT {
            text.push('…');
            break;
        }
        match character {
            '"' | '\'' | '\\' => text.push(character),
            other => text.extend(other.escape_debug()),
        }
    }
    text
}

/// As many as a log and a message take, each as [`text`].
pub(crate) fn reasons(mut all: Vec<String>) -> Vec<String> {
    let more = all.len().saturating_sub(MAX_REASONS);
    all.truncate(MAX_REASONS);
    let mut all: Vec<_> = all.iter().map(|reason| text(reason)).collect();
    if more > 0 {
        all.push(format!("and {more} more reasons"));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_one_line_and_has_an_end() {
        assert_eq!(text("config.x: \"/a\\b\" at 'it'"), "config.x: \"/a\\b\" at 'it'");
        assert_eq!(
            text("no\n2026-01-01 ERROR forged\r\u{1b}[2J\u{202e}\u{0}"),
            "no\\n2026-01-01 ERROR forged\\r\\u{1b}[2J\\u{202e}\\0"
        );
        assert_eq!(text("größer"), "größer");
        let long = text(&"\u{1b}".repeat(100_000));
        assert!(
            long.len() < 10 * MAX_TEXT && long.ends_with('…'),
            "{}",
            long.len()
        );
    }

    #[test]
    fn a_refusal_has_an_end() {
        let all = reasons(vec!["x\n".repeat(1000); 5000]);
        assert_eq!(all.len(), MAX_REASONS + 1);
        assert!(all.iter().all(|reason| !reason.contains('\n')));
        assert_eq!(all.last().map(String::as_str), Some("and 4936 more reasons"));
        assert_eq!(reasons(vec!["a".into()]), ["a"]);
    }
}
