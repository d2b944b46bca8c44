//! The query of a list of runs:
//! `filter=metric.accuracy>0.9&filter=parameter.C=10&sort=metric.accuracy&order=desc`.

use ds_db::{Filter, Kind, Op, RunQuery, Sort};

use super::{page::MAX_LIMIT, problem::Problem};

const DEFAULT_LIMIT: u32 = 50;
/// Conditions of one query.
const MAX_FILTERS: usize = 20;

/// Longer operators before their own beginnings.
const OPERATORS: [(&str, Op); 7] = [
    ("!=", Op::NotEqual),
    ("<=", Op::AtMost),
    (">=", Op::AtLeast),
    ("=", Op::Equal),
    ("<", Op::Less),
    (">", Op::Greater),
    ("~", Op::Contains),
];

/// Reads the pairs behind the question mark. Unknown keys are refused, so that a typing error does not list
/// everything.
pub(super) fn parse(pairs: Vec<(String, String)>) -> Result<RunQuery, Problem> {
    let mut query = RunQuery { limit: DEFAULT_LIMIT, descending: true, ..RunQuery::default() };
    let mut order = None;
    for (key, value) in pairs {
        match key.as_str() {
            "filter" if query.filters.len() < MAX_FILTERS => query.filters.push(filter(&value)?),
            "filter" => return Err(Problem::invalid(format!("more than {MAX_FILTERS} filters"))),
            "sort" => query.sort = sort(&value)?,
            "order" => order = Some(descending(&value)?),
            "limit" => query.limit = limit(&value)?,
            "cursor" => query.cursor = Some(value),
            _ => {
                return Err(Problem::invalid(format!(
                    "{key:?} is no parameter of this list: it takes filter, sort, order, limit and cursor"
                )));
            }
        }
    }
    query.descending = order.unwrap_or(true);
    Ok(query)
}

fn filter(text: &str) -> Result<Filter, Problem> {
    let start = text.find(['=', '!', '<', '>', '~']).unwrap_or(text.len());
    let (name, rest) = text.split_at(start);
    let (kind, name) = value_name(name)
        .ok_or_else(|| Problem::invalid(format!("the filter {text:?} does not start with {NAMES}")))?;
    if rest.is_empty() {
        return Ok(Filter { kind, name, op: Op::Exists, value: String::new() });
    }
    let operator = OPERATORS.iter().find_map(|(sign, op)| Some((*op, rest.strip_prefix(sign)?)));
    let (op, value) = operator.ok_or_else(|| {
        Problem::invalid(format!("the filter {text:?} has none of the operators = != < <= > >= ~ (contains)"))
    })?;
    let numeric = matches!(op, Op::Less | Op::AtMost | Op::Greater | Op::AtLeast);
    if numeric && value.trim().parse::<f64>().is_err() {
        return Err(Problem::invalid(format!(
            "the filter {text:?} compares with {value:?}, which is no number"
        )));
    }
    Ok(Filter { kind, name, op, value: value.to_owned() })
}

const NAMES: &str = "`metric.<name>`, `parameter.<name>` or `label.<name>`";

fn value_name(text: &str) -> Option<(Kind, String)> {
    let (kind, name) = text.trim().split_once('.')?;
    let kind = match kind {
        "metric" | "summary" => Kind::Metric,
        "parameter" => Kind::Parameter,
        "label" => Kind::Label,
        _ => return None,
    };
    (!name.is_empty()).then(|| (kind, name.to_owned()))
}

fn sort(text: &str) -> Result<Sort, Problem> {
    if text == "created" {
        return Ok(Sort::Created);
    }
    let (kind, name) = value_name(text)
        .ok_or_else(|| Problem::invalid(format!("cannot sort by {text:?}: give `created`, {NAMES}")))?;
    Ok(Sort::Value(kind, name))
}

fn descending(text: &str) -> Result<bool, Problem> {
    match text {
        "desc" => Ok(true),
        "asc" => Ok(false),
        _ => Err(Problem::invalid(format!("{text:?} is no order: give `asc` or `desc`"))),
    }
}

fn limit(text: &str) -> Result<u32, Problem> {
    let limit: u32 = text
        .parse()
        .map_err(|_| Problem::invalid(format!("the limit {text:?} is no number from 1 to {MAX_LIMIT}")))?;
    Ok(limit.clamp(1, MAX_LIMIT))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
        list.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    fn condition(kind: Kind, name: &str, op: Op, value: &str) -> Filter {
        Filter { kind, name: name.into(), op, value: value.into() }
    }

    #[test]
    fn filters_and_order_are_read() {
        let query = parse(pairs(&[
            ("filter", "metric.accuracy>=0.9"),
            ("filter", "parameter.C=10"),
            ("filter", "label.artefact:m"),
            ("filter", "label.note~a=b"),
            ("sort", "metric.accuracy"),
            ("order", "asc"),
        ]))
        .unwrap();
        let expected = [
            condition(Kind::Metric, "accuracy", Op::AtLeast, "0.9"),
            condition(Kind::Parameter, "C", Op::Equal, "10"),
            condition(Kind::Label, "artefact:m", Op::Exists, ""),
            condition(Kind::Label, "note", Op::Contains, "a=b"),
        ];
        assert_eq!(query.filters, expected);
        assert_eq!(query.sort, Sort::Value(Kind::Metric, "accuracy".into()));
        assert!(!query.descending);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let bad = [
            ("filter", "accuracy>1"),
            ("filter", "metric.>1"),
            ("filter", "metric.a>x"),
            ("filter", "metric.a!1"),
            ("sort", "accuracy"),
            ("order", "up"),
            ("limit", "-1"),
            ("fitler", "metric.a>1"),
        ];
        for pair in bad {
            assert!(parse(pairs(&[pair])).is_err(), "{pair:?}");
        }
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(text in ".{0,60}") {
            let _ = filter(&text);
            let _ = filter(&format!("metric.{text}"));
            let _ = sort(&text);
        }
    }
}
