//! Runs side by side.

use std::collections::{BTreeMap, BTreeSet};

use ds_domain::api::{ComparisonRow, Run};

/// A row for every parameter, metric and label that one of the runs has; those that differ first.
pub(crate) fn compare(runs: &[Run]) -> Vec<ComparisonRow> {
    let mut rows = rows_of("parameter", runs, |run| &run.parameters);
    rows.extend(rows_of("metric", runs, |run| &run.metrics));
    rows.extend(rows_of("label", runs, |run| &run.labels));
    rows.sort_by_key(|row| !row.differs);
    rows
}

fn rows_of(
    kind: &str,
    runs: &[Run],
    values_of: impl Fn(&Run) -> &BTreeMap<String, String>,
) -> Vec<ComparisonRow> {
    let names: BTreeSet<&String> = runs.iter().flat_map(|run| values_of(run).keys()).collect();
    let row = |name: &String| {
        let values: Vec<Option<String>> = runs.iter().map(|run| values_of(run).get(name).cloned()).collect();
        let differs = values.windows(2).any(|pair| pair[0] != pair[1]);
        ComparisonRow { kind: kind.to_owned(), name: name.clone(), values, differs }
    };
    names.into_iter().map(row).collect()
}
