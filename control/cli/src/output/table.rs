//! Tables for people: a header, no lines, never wider than the terminal.

use comfy_table::{Attribute, Cell, CellAlignment, ColumnConstraint, ContentArrangement, Width, presets};

use super::text;

/// Rows under a header.
pub(crate) struct Table {
    header: Vec<Column>,
    rows: Vec<Vec<String>>,
}

struct Column {
    name: String,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Wraps where the terminal is narrow.
    Text,
    /// Short, and useless when broken: ids, ages.
    Whole,
    /// Like `Whole`, aligned to the right.
    Number,
}

impl Table {
    /// A table with these columns. `=NAME` is never wrapped; `>NAME` neither, and aligned to the right.
    pub(crate) fn new<S: AsRef<str>>(columns: impl IntoIterator<Item = S>) -> Self {
        let header = columns.into_iter().map(|column| Column::parse(column.as_ref())).collect();
        Self { header, rows: Vec::new() }
    }

    /// Adds a row; a cell for each column.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let cells: Vec<_> = cells.into_iter().map(|cell| text::plain(&cell)).collect();
        debug_assert_eq!(cells.len(), self.header.len(), "a row has a cell for each column");
        self.rows.push(cells);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The table as text without a final line feed. `width` is the terminal's; `None` keeps every row on one line.
    pub(crate) fn render(&self, width: Option<u16>, color: bool) -> String {
        let mut table = comfy_table::Table::new();
        table.load_style(presets::NOTHING).force_no_tty();
        if color {
            table.enforce_styling();
        }
        match width {
            Some(width) => table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width),
            None => table.set_content_arrangement(ContentArrangement::Disabled),
        };
        table.set_header(
            self.header.iter().map(|column| Cell::new(&column.name).add_attribute(Attribute::Bold)),
        );
        table.add_rows(&self.rows);
        self.shape(&mut table, width);
        table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
    }

    fn shape(&self, table: &mut comfy_table::Table, width: Option<u16>) {
        let widths = table.column_max_content_widths();
        let last = self.header.len().saturating_sub(1);
        // Columns are kept whole only while they leave half of the width to the others.
        let whole: u16 =
            self.header.iter().zip(&widths).filter(|(c, _)| c.kind != Kind::Text).map(|(_, w)| w + 2).sum();
        let keep = width.is_none_or(|width| {
            whole <= width / 2 || self.header.iter().all(|c| c.kind != Kind::Text) && whole <= width
        });
        for (index, (column, content)) in self.header.iter().zip(widths).enumerate() {
            let Some(shaped) = table.column_mut(index) else { continue };
            let padding = if index == last { 0 } else { 2 };
            shaped.set_padding((0, padding));
            if column.kind == Kind::Number {
                shaped.set_cell_alignment(CellAlignment::Right);
            }
            if column.kind != Kind::Text && keep {
                shaped.set_constraint(ColumnConstraint::Absolute(Width::Fixed(content + padding)));
            }
        }
    }
}

impl Column {
    fn parse(column: &str) -> Self {
        let (kind, name) = match column.split_at_checked(1) {
            Some(("=", name)) => (Kind::Whole, name),
            Some((">", name)) => (Kind::Number, name),
            _ => (Kind::Text, column),
        };
        Self { name: name.to_owned(), kind }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs() -> Table {
        let mut table = Table::new(["=RUN", "=WHEN", "OK", "FILE", "PARAMETERS", "METRICS"]);
        for n in 0..3 {
            table.row([
                format!("3f2c8a4{n}"),
                "12 min ago".into(),
                "yes".into(),
                "experiments/vision/train_with_a_long_name.py".into(),
                "batch_size=128 learning_rate=0.0003 optimizer=adam epochs=40".into(),
                "accuracy=0.98712 loss=0.03113 ünïcödé=数値".into(),
            ]);
        }
        table
    }

    fn widest(text: &str) -> usize {
        text.lines().map(|line| line.chars().count()).max().unwrap()
    }

    #[test]
    fn a_table_fits_the_terminal_and_ids_stay_whole() {
        for width in [60, 80, 120] {
            let text = runs().render(Some(width), false);
            assert!(widest(&text) <= usize::from(width), "wider than {width}:\n{text}");
            assert!(text.contains("3f2c8a42") && text.contains("12 min ago"), "broken at {width}:\n{text}");
        }
    }

    #[test]
    fn many_columns_in_a_narrow_terminal_still_fit() {
        let mut table = Table::new(["=RUN", "=WHEN", ">SIZE", "A", "B", "C", "D", "E"]);
        table.row(
            ["3f2c8a40", "12 min ago", "123.4 MiB", "aaaaaaaaaa", "b", "cccccccccccccc", "d", "e"]
                .map(String::from),
        );
        let text = table.render(Some(60), false);
        assert!(widest(&text) <= 60, "{text}");
    }

    #[test]
    fn without_a_terminal_each_row_is_one_line() {
        let text = runs().render(None, false);
        assert_eq!(text.lines().count(), 4);
        assert!(text.lines().all(|line| !line.ends_with(' ')));
        assert!(text.starts_with("RUN       WHEN        OK   FILE"), "{text}");
    }

    #[test]
    fn cells_cannot_steer_the_terminal() {
        let mut table = Table::new(["A"]);
        table.row(["\x1b[31mred\nnext\r\x07".to_owned()]);
        assert!(!table.render(None, false).contains(['\x1b', '\r', '\x07']));
        assert!(table.render(None, true).starts_with("\x1b[1m"));
    }
}
