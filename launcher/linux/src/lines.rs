//! What a program prints, line by line, in a form that harms no log: bounded in length, and without control characters.

/// Bytes of a line that are kept.
const MAX_LINE: usize = 1000;

/// Cuts bytes into lines.
#[derive(Debug, Default)]
pub struct Lines(Vec<u8>);

impl Lines {
    /// A line that ends with this byte. Empty ones are left out.
    pub fn push(&mut self, byte: u8) -> Option<String> {
        if byte == b'\n' {
            return self.finish();
        }
        if self.0.len() < MAX_LINE {
            self.0.push(byte);
        }
        None
    }

    /// The line at hand, without the space at its end.
    pub fn finish(&mut self) -> Option<String> {
        let line = std::mem::take(&mut self.0);
        let text = String::from_utf8_lossy(&line);
        let text: String = text.trim_end().chars().flat_map(escaped).collect();
        (!text.is_empty()).then_some(text)
    }
}

/// What a terminal would act on, and nothing else.
fn escaped(character: char) -> impl Iterator<Item = char> {
    let plain = matches!(character, '\'' | '"').then_some(character);
    let escaped = plain.is_none().then(|| character.escape_debug());
    plain.into_iter().chain(escaped.into_iter().flatten())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_escaped_and_long_lines_cut() {
        let mut lines = Lines::default();
        let text = [b"can't\n\n  \x1b[31m\"red\"\r\n".as_slice(), &[b'x'; 5000]].concat();
        let mut found: Vec<_> = text.iter().filter_map(|byte| lines.push(*byte)).collect();
        found.extend(lines.finish());
        assert_eq!(found, ["can't", "  \\u{1b}[31m\"red\"", &"x".repeat(MAX_LINE)]);
        assert_eq!(lines.finish(), None);
    }
}
