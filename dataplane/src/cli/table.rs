//! Aligned columns.

/// A table that grows row by row.
#[derive(Debug)]
pub(super) struct Table {
    rows: Vec<Vec<String>>,
    /// Columns of numbers, which align to the right.
    numbers: Vec<bool>,
}

impl Table {
    /// With these headings; one that starts with `#` heads numbers.
    pub(super) fn new(headings: &[&str]) -> Self {
        let numbers = headings.iter().map(|name| name.starts_with('#')).collect();
        let names = headings.iter().map(|name| name.trim_start_matches('#'));
        Self {
            rows: vec![names.map(str::to_owned).collect()],
            numbers,
        }
    }

    /// Adds a row, with a cell for each heading; an empty one shows as `-`.
    pub(super) fn row(&mut self, cells: Vec<String>) {
        let shown = |cell: String| if cell.is_empty() { "-".into() } else { cell };
        self.rows.push(cells.into_iter().map(shown).collect());
    }

    /// The text, with a line for each row.
    pub(super) fn text(&self) -> String {
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<_> = (0..self.numbers.len()).map(width).collect();
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for ((cell, width), number) in row.iter().zip(&widths).zip(&self.numbers) {
                if !line.is_empty() {
                    line.push_str("  ");
                }
                let padded = if *number {
                    format!("{cell:>width$}")
                } else {
                    format!("{cell:<width$}")
                };
                line.push_str(&padded);
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// A cell for what need not be there.
pub(super) fn optional(value: &Option<impl ToString>) -> String {
    value.as_ref().map(ToString::to_string).unwrap_or_default()
}

/// Bytes in the largest binary unit that leaves a number of at least one.
pub(super) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut amount = bytes as f64;
    let mut unit = 0;
    while amount >= 1024.0 && unit + 1 < UNITS.len() {
        amount /= 1024.0;
        unit += 1;
    }
    match unit {
        0 => format!("{bytes} B"),
        _ => format!("{amount:.1} {}", UNITS[unit]),
    }
}

/// A time in the two units that tell most.
pub(in crate::cli) fn duration(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..86_400 => format!("{}h{:02}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds / 3600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_align_and_empty_cells_show() {
        let mut table = Table::new(&["NAME", "#COUNT"]);
        table.row(vec!["a".into(), "5".into()]);
        table.row(vec!["long name".into(), String::new()]);
        assert_eq!(
            table.text(),
            "NAME       COUNT\na              5\nlong name      -\n"
        );
    }

    #[test]
    fn units_are_the_largest_that_fit() {
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(3 << 40), "3.0 TiB");
    }

    #[test]
    fn times_are_short_enough_to_read() {
        assert_eq!(duration(59), "59s");
        assert_eq!(duration(3599), "59m");
        assert_eq!(duration(7 * 3600 + 65), "7h01m");
        assert_eq!(duration(100 * 3600), "4d04h");
    }
}
