//! Rows under headings.

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};

/// A table as it grows.
pub(crate) struct Rows(Table);

impl Rows {
    /// With these headings.
    pub(crate) fn new(headings: &[&str]) -> Self {
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
        table.set_header(headings.iter().map(|heading| heading.to_uppercase()));
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        Self(table)
    }

    /// Aligns these columns to the right: numbers.
    pub(crate) fn right(mut self, columns: &[usize]) -> Self {
        for column in columns {
            if let Some(column) = self.0.column_mut(*column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        self
    }

    /// One more row.
    pub(crate) fn row<I: IntoIterator<Item = String>>(&mut self, cells: I) {
        self.0.add_row(cells);
    }

    /// The table, without spaces at the ends of lines.
    pub(crate) fn text(&self) -> String {
        let text = self.0.to_string();
        text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
    }
}
