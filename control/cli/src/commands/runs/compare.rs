//! `ds runs compare`, for people.

use anyhow::Result;
use ds_domain::api::Comparison;

use crate::{
    context::Context,
    output::{Table, text},
};

/// Changed files that are printed; `--json` has them all.
const SHOWN_CHANGES: usize = 50;

pub(super) fn print(context: &Context, comparison: &Comparison) -> Result<()> {
    context.out.print_table(&table(comparison))?;
    let changes = &comparison.changed_files;
    if changes.is_empty() {
        return Ok(());
    }
    context.out.print_heading("files that changed from the first to the last")?;
    for change in changes.iter().take(SHOWN_CHANGES) {
        context.out.print(format_args!(
            "{} {}",
            text::change_sign(change.change),
            text::plain(&change.path)
        ))?;
    }
    if changes.len() > SHOWN_CHANGES {
        context.out.note(format_args!("and {} more; --json has all", changes.len() - SHOWN_CHANGES));
    }
    Ok(())
}

/// A row for each value, a column for each run; `*` marks what differs.
fn table(comparison: &Comparison) -> Table {
    let fixed = [String::new(), "NAME".into()];
    let ids = comparison.runs.iter().map(|run| text::short(run.id));
    let mut table = Table::new(fixed.into_iter().chain(ids));
    let commits = comparison.runs.iter().map(|run| text::short(run.commit));
    table.row([String::new(), "commit".into()].into_iter().chain(commits));
    let commands = comparison.runs.iter().map(|run| run.workload_file.clone().unwrap_or_default());
    table.row([String::new(), "file".into()].into_iter().chain(commands));
    for row in &comparison.rows {
        let mark = if row.differs { "*" } else { "" };
        let values = row.values.iter().map(|value| value.clone().unwrap_or_else(|| "-".into()));
        // As many cells as runs, whatever came.
        let values = values.chain(std::iter::repeat("-".into())).take(comparison.runs.len());
        table.row([mark.into(), format!("{} {}", row.kind, row.name)].into_iter().chain(values));
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_is_marked() {
        let run = |id: &str| {
            serde_json::json!({
                "id": format!("{id}-0c7e-4f5b-9d1a-2b6f0f6f7a11"), "project": "00000000-0000-0000-0000-000000000000",
                "commit": "5d6e7f80-0000-0000-0000-000000000000", "authority": "workload", "author": "ann",
                "success": true, "created_ms": 0, "workload_file": "train.py"
            })
        };
        let row = |name: &str, values: [Option<&str>; 2]| serde_json::json!({"kind": "metric", "name": name, "values": values, "differs": values[0] != values[1]});
        let comparison = serde_json::from_value(serde_json::json!({
            "runs": [run("aaaaaaaa"), run("bbbbbbbb")],
            "rows": [row("accuracy", [Some("0.9"), None]), row("loss", [Some("1"), Some("1")])],
            "changed_files": []
        }));
        let text = table(&comparison.unwrap()).render(None, false);
        let lines: Vec<_> = text.lines().collect();
        assert!(lines[0].contains("aaaaaaaa") && lines[0].contains("bbbbbbbb"), "{text}");
        assert!(lines[3].starts_with('*') && lines[3].ends_with('-'), "{text}");
        assert!(!lines[4].contains('*') && lines[4].contains("metric loss"), "{text}");
    }
}
