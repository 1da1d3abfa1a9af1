//! What the demo shows, and how: plain lines where nobody watches, colour on a terminal.

use std::{
    io::{self, IsTerminal as _, Write as _},
    sync::LazyLock,
};

use super::interrupt;

/// Columns of the terminal; where there is none, lines may be of any length.
fn width() -> usize {
    if !is_terminal() {
        return usize::MAX;
    }
    terminal_size::terminal_size().map_or(80, |(width, _)| width.0.into())
}

/// Whether standard output is a terminal that can move its cursor.
pub(super) fn is_terminal() -> bool {
    static TERMINAL: LazyLock<bool> = LazyLock::new(|| {
        io::stdout().is_terminal() && std::env::var_os("TERM").is_some_and(|term| term != "dumb")
    });
    *TERMINAL
}

/// A way to set text off (ECMA-48, SGR).
#[derive(Clone, Copy)]
pub(super) enum Style {
    Bold,
    Dim,
    Green,
    Cyan,
}

/// The text in that style, where there is colour.
pub(super) fn paint(style: Style, text: &str) -> String {
    static COLOUR: LazyLock<bool> =
        LazyLock::new(|| is_terminal() && std::env::var_os("NO_COLOR").is_none());
    if !*COLOUR {
        return text.to_owned();
    }
    let code = match style {
        Style::Bold => 1,
        Style::Dim => 2,
        Style::Green => 32,
        Style::Cyan => 36,
    };
    format!("\x1b[{code}m{text}\x1b[0m")
}

/// Writes as it is. Where nobody reads any more, the demo stops.
pub(super) fn raw(text: &str) {
    let mut out = io::stdout().lock();
    if out
        .write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .is_err()
    {
        interrupt::request();
    }
}

/// One line.
pub(super) fn line(text: &str) {
    raw(&format!("{text}\n"));
}

/// The title of a step.
pub(super) fn title(number: usize, of: usize, text: &str) {
    line(&paint(Style::Bold, &format!("\n{number}/{of}  {text}")));
}

/// A sentence of explanation.
pub(super) fn note(text: &str) {
    line(&format!("     {text}"));
}

/// A command, as one would type it, and where it runs if not on the node.
pub(super) fn command(text: &str, place: Option<&str>) {
    let prompt = paint(Style::Cyan, &format!("$ {text}"));
    let place = place.map_or(String::new(), |place| {
        paint(Style::Dim, &format!("   # in {place}"))
    });
    line(&format!("     {prompt}{place}"));
}

/// Something that was verified.
pub(super) fn good(text: &str) {
    line(&format!("  {}  {text}", paint(Style::Green, "✓")));
}

/// What a command printed: at most `limit` lines of it, cut at the terminal's width.
pub(super) fn output(text: &str, limit: usize) {
    let lines: Vec<_> = text.lines().collect();
    for text in lines.iter().take(limit) {
        line(&fit(&format!("     {text}")));
    }
    if lines.len() > limit {
        let more = format!("     ... {} more lines", lines.len() - limit);
        line(&paint(Style::Dim, &more));
    }
}

/// A line whose end matters as much as its start: where it is too long, its middle is left out.
pub(super) fn ends(text: &str) {
    let text = format!("     {text}");
    let (width, length) = (width(), text.chars().count());
    if length <= width {
        return line(&text);
    }
    let half = width / 2;
    let head = text.chars().take(half.saturating_sub(1));
    let tail = text.chars().skip(length - (width - half));
    line(&head.chain(['…']).chain(tail).collect::<String>());
}

/// As much of a line as the terminal is wide.
pub(super) fn fit(text: &str) -> String {
    cut(text.trim_end(), width())
}

/// The text's first `width` characters, with a mark where something is missing.
fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars()
        .take(width.saturating_sub(1))
        .chain(['…'])
        .collect()
}

/// A number with its thousands set apart.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_set_apart() {
        for (number, text) in [
            (0, "0"),
            (999, "999"),
            (1000, "1,000"),
            (1_234_567, "1,234,567"),
        ] {
            assert_eq!(grouped(number), text);
        }
    }

    #[test]
    fn long_lines_are_cut() {
        assert_eq!(cut("abcdef", 6), "abcdef");
        assert_eq!(cut("abcdefg", 6), "abcde…");
    }
}
