//! What others wrote, shown to people.

use std::borrow::Cow;

/// A text whose control characters are escaped, so that it is one cell of one line, and commands no terminal.
pub(crate) fn shown(text: &str) -> Cow<'_, str> {
    escaped(text, char::is_control)
}

/// The same for text of many lines.
pub(crate) fn shown_lines(text: &str) -> Cow<'_, str> {
    escaped(text, |c| c.is_control() && !matches!(c, '\n' | '\t'))
}

fn escaped(text: &str, is_odd: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.contains(&is_odd) {
        return Cow::Borrowed(text);
    }
    let mut written = String::with_capacity(text.len());
    for c in text.chars() {
        match is_odd(c) {
            true => written.extend(c.escape_default()),
            false => written.push(c),
        }
    }
    Cow::Owned(written)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_others_wrote_commands_a_terminal() {
        assert_eq!(shown("a\tb\nc\x1b[2J\u{9b}2Jü"), "a\\tb\\nc\\u{1b}[2J\\u{9b}2Jü");
        assert_eq!(shown_lines("a\tb\r\nc\x1b]0;x\x07"), "a\tb\\r\nc\\u{1b}]0;x\\u{7}");
        assert!(matches!(shown("quiet ü \\"), Cow::Borrowed(_)));
    }
}
