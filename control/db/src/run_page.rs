//! Which runs are on a page.
//!
//! A page comes from one index, in its order, from where the page before ended: no page costs more than another. Sorted by
//! a value, three indexes follow each other: the runs where it is a number, those where it is another text, and those that
//! do not have it.

use ds_domain::{ProjectId, RunId};
use serde::{Deserialize, Serialize};
use sqlx::{Row, any::AnyRow};

use crate::{
    Db, Filter, Kind, Op, Result, RunQuery, Sort,
    rows::{Columns, NAME_KEY_BYTES, Sql, TEXT_KEY_BYTES, cursor, key, read_cursor},
    run_write::number,
};

/// A condition that no more runs than this meet is looked up first, which costs the same wherever in the page's order they
/// are: of 100,000 runs, up to 50 ms. One that more meet is checked run by run in that order, which ends soon unless nearly
/// all of them come last.
const RARE: u32 = 20_000;

/// Where a page ended: the sort key of its last run. Numbers are kept bit by bit.
#[derive(Debug, Clone, Serialize, Deserialize)]
enum Position {
    Number(u64, RunId),
    Text(String, RunId),
    Created(i64, i64, RunId),
}

/// The index that the page, or the rest of it, is read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Number,
    Text,
    Created,
}

/// A condition, and whether it is rare.
struct Condition<'a> {
    filter: &'a Filter,
    rare: bool,
}

/// The ids of a page, and its cursor if there is more.
pub(crate) async fn page_of(
    db: &Db,
    project: ProjectId,
    query: &RunQuery,
) -> Result<(Vec<RunId>, Option<String>)> {
    let after: Option<Position> = read_cursor(query.cursor.as_deref())?;
    let Some(conditions) = conditions(db, project, query).await? else { return Ok((Vec::new(), None)) };
    let limit = query.limit as usize;
    let mut found: Vec<Position> = Vec::new();
    for part in parts(query, after.as_ref()) {
        let after = after.as_ref().filter(|position| position.part() == part);
        let sql = statement(project, query, &conditions, part, after, limit + 1 - found.len());
        let rows = sql.query().fetch_all(db.reader()).await?;
        for row in &rows {
            found.push(Position::read(row, part)?);
        }
        if found.len() > limit {
            break;
        }
    }
    let more = found.len() > limit;
    found.truncate(limit);
    let next = found.last().filter(|_| more).map(cursor);
    Ok((found.iter().map(Position::run).collect(), next))
}

/// The indexes to read, from where the page before ended.
fn parts(query: &RunQuery, after: Option<&Position>) -> impl Iterator<Item = Part> {
    let all: &[Part] = match &query.sort {
        Sort::Created => &[Part::Created],
        // Who has to have the value is not among those without it.
        Sort::Value(kind, name) if query.filters.iter().any(|f| f.kind == *kind && f.name == *name) => {
            &[Part::Number, Part::Text]
        }
        Sort::Value(..) => &[Part::Number, Part::Text, Part::Created],
    };
    let first = after.map_or(Part::Number, Position::part);
    all.iter().copied().filter(move |part| *part >= first)
}

impl Position {
    fn part(&self) -> Part {
        match self {
            Self::Number(..) => Part::Number,
            Self::Text(..) => Part::Text,
            Self::Created(..) => Part::Created,
        }
    }

    fn run(&self) -> RunId {
        match self {
            Self::Number(_, run) | Self::Text(_, run) | Self::Created(_, _, run) => *run,
        }
    }

    fn read(row: &AnyRow, part: Part) -> Result<Self> {
        let run = row.parsed("id")?;
        Ok(match part {
            Part::Number => Self::Number(row.try_get::<f64, _>("number")?.to_bits(), run),
            Part::Text => Self::Text(row.text("text_key")?, run),
            Part::Created => Self::Created(row.int("created_ms")?, row.int("position")?, run),
        })
    }
}

/// `None` if one of them is met by no run.
async fn conditions<'a>(
    db: &Db,
    project: ProjectId,
    query: &'a RunQuery,
) -> Result<Option<Vec<Condition<'a>>>> {
    let mut conditions = Vec::with_capacity(query.filters.len());
    for filter in &query.filters {
        let found = counting(project, filter).query().fetch_one(db.reader()).await?.size("found")?;
        if found == 0 {
            return Ok(None);
        }
        conditions.push(Condition { filter, rare: found <= u64::from(RARE) });
    }
    Ok(Some(conditions))
}

/// How many runs meet a filter, at most one more than [`RARE`].
fn counting(project: ProjectId, filter: &Filter) -> Sql {
    let mut sql = Sql::new("SELECT COUNT(*) AS found FROM (SELECT 1 FROM run_values f WHERE f.project_id = ");
    sql.bind(project.to_string()).push(" AND ");
    matches(&mut sql, "f", filter);
    sql.push(" LIMIT ").bind(i64::from(RARE) + 1).push(") few");
    sql
}

fn statement(
    project: ProjectId,
    query: &RunQuery,
    conditions: &[Condition<'_>],
    part: Part,
    after: Option<&Position>,
    limit: usize,
) -> Sql {
    let (mut sql, id) = match (&query.sort, part) {
        (Sort::Value(kind, name), Part::Number | Part::Text) => {
            (of_value(project, *kind, name, part), "s.run_id")
        }
        (sort, _) => (of_created(project, sort), "s.id"),
    };
    if let Some(after) = after {
        beyond(&mut sql, after, query.descending);
    }
    for condition in conditions {
        sql.push(" AND ");
        meets(&mut sql, project, id, condition, part, &query.sort);
    }
    let columns: &[&str] = match part {
        Part::Number => &["s.number", "s.run_id"],
        Part::Text => &["s.text_key", "s.run_id"],
        Part::Created => &["s.created_ms", "s.position", "s.id"],
    };
    for (index, column) in columns.iter().enumerate() {
        sql.push(if index == 0 { " ORDER BY " } else { ", " }).push(column);
        sql.push(if query.descending { " DESC" } else { "" });
    }
    sql.push(" LIMIT ").bind(i64::try_from(limit).unwrap_or(i64::MAX));
    sql
}

fn of_value(project: ProjectId, kind: Kind, name: &str, part: Part) -> Sql {
    let mut sql =
        Sql::new("SELECT s.run_id AS id, s.number, s.text_key FROM run_values s WHERE s.project_id = ");
    sql.bind(project.to_string());
    named(sql.push(" AND "), "s", kind, name);
    sql.push(if part == Part::Number { " AND s.number IS NOT NULL" } else { " AND s.number IS NULL" });
    sql
}

fn of_created(project: ProjectId, sort: &Sort) -> Sql {
    let mut sql = Sql::new("SELECT s.id, s.created_ms, s.position FROM runs s WHERE s.project_id = ");
    sql.bind(project.to_string());
    if let Sort::Value(kind, name) = sort {
        sql.push(" AND NOT EXISTS (SELECT 1 FROM run_values v WHERE v.run_id = s.id AND ");
        named(&mut sql, "v", *kind, name);
        sql.push(")");
    }
    sql
}

/// Only what comes after the page before.
fn beyond(sql: &mut Sql, after: &Position, descending: bool) {
    let order = if descending { ") < (" } else { ") > (" };
    match after {
        Position::Number(bits, run) => {
            sql.push(" AND (s.number, s.run_id")
                .push(order)
                .bind(f64::from_bits(*bits))
                .push(", ")
                .bind(run.to_string());
        }
        Position::Text(text, run) => {
            sql.push(" AND (s.text_key, s.run_id")
                .push(order)
                .bind(text.clone())
                .push(", ")
                .bind(run.to_string());
        }
        Position::Created(created_ms, position, run) => {
            sql.push(" AND (s.created_ms, s.position, s.id").push(order).bind(*created_ms);
            sql.push(", ").bind(*position).push(", ").bind(run.to_string());
        }
    }
    sql.push(")");
}

/// The condition on the run of this row, in the way that looks at the fewest rows.
fn meets(sql: &mut Sql, project: ProjectId, id: &str, condition: &Condition<'_>, part: Part, sort: &Sort) {
    let Condition { filter, rare } = *condition;
    let sorted = matches!(sort, Sort::Value(kind, name) if *kind == filter.kind && *name == filter.name);
    if sorted && part != Part::Created {
        matches(sql, "s", filter);
    } else if rare {
        sql.push(id)
            .push(" IN (SELECT f.run_id FROM run_values f WHERE f.project_id = ")
            .bind(project.to_string());
        matches(sql.push(" AND "), "f", filter);
        sql.push(")");
    } else {
        sql.push("EXISTS (SELECT 1 FROM run_values f WHERE f.run_id = ").push(id);
        matches(sql.push(" AND "), "f", filter);
        sql.push(")");
    }
}

/// Whether a row of `run_values` meets a filter.
fn matches(sql: &mut Sql, row: &str, filter: &Filter) {
    named(sql, row, filter.kind, &filter.name);
    let text = key(&filter.value, TEXT_KEY_BYTES);
    let number = number(&filter.value);
    let column = |sql: &mut Sql, words: &str| {
        sql.push(" AND ").push(&words.replace('#', row));
    };
    match (filter.op, number) {
        (Op::Exists, _) => {}
        (Op::Contains, _) if text.is_empty() => {}
        (Op::Contains, _) => {
            // `LIKE` looks at the case on one of the databases only.
            column(sql, "REPLACE(#.text_key, ");
            sql.bind(text).push(", '') <> ").push(row).push(".text_key");
        }
        (Op::Equal, Some(number)) => {
            column(sql, "#.number = ");
            sql.bind(number);
        }
        (Op::NotEqual, Some(number)) => {
            column(sql, "(#.number IS NULL OR #.number <> ");
            sql.bind(number).push(")");
        }
        (Op::Equal, None) => {
            column(sql, "#.number IS NULL AND #.text_key = ");
            sql.bind(text);
        }
        (Op::NotEqual, None) => {
            column(sql, "(#.number IS NOT NULL OR #.text_key <> ");
            sql.bind(text).push(")");
        }
        (Op::Less | Op::AtMost | Op::Greater | Op::AtLeast, Some(number)) => {
            column(sql, "#.number ");
            sql.push(comparison(filter.op)).bind(number);
        }
        // Nothing is above or below what is no number.
        (Op::Less | Op::AtMost | Op::Greater | Op::AtLeast, None) => column(sql, "1 = 0"),
    }
}

fn comparison(op: Op) -> &'static str {
    match op {
        Op::Less => "< ",
        Op::AtMost => "<= ",
        Op::Greater => "> ",
        _ => ">= ",
    }
}

fn named(sql: &mut Sql, row: &str, kind: Kind, name: &str) {
    sql.push(row).push(".kind = ").bind(kind.column().to_owned());
    sql.push(" AND ").push(row).push(".name = ").bind(key(name, NAME_KEY_BYTES));
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    /// What SQLite does for a part of a page.
    async fn plan(query: &RunQuery, part: Part, after: Option<&Position>, rare: bool) -> String {
        let conditions: Vec<_> = query.filters.iter().map(|filter| Condition { filter, rare }).collect();
        explain(statement(ProjectId(Uuid::nil()), query, &conditions, part, after, 50)).await
    }

    async fn explain(sql: Sql) -> String {
        let folder = tempfile::tempdir().unwrap();
        let db = Db::connect(&format!("sqlite:{}", folder.path().join("hub.db").display())).await.unwrap();
        let rows = sql.explained().query().fetch_all(db.reader()).await.unwrap();
        rows.iter().map(|row| row.text("detail").unwrap()).collect::<Vec<_>>().join("\n")
    }

    #[tokio::test]
    async fn pages_are_read_in_the_order_of_an_index() {
        let run = RunId(Uuid::nil());
        let number = Position::Number(0, run);
        let (text, created) = (Position::Text("x".into(), run), Position::Created(1, 2, run));
        let filters =
            vec![Filter { kind: Kind::Label, name: "team".into(), op: Op::Equal, value: "a".into() }];
        let by_metric =
            RunQuery { filters, sort: Sort::Value(Kind::Metric, "loss".into()), ..RunQuery::default() };
        let newest = RunQuery { descending: true, ..RunQuery::default() };
        for (query, part, after, index) in [
            (&by_metric, Part::Number, &number, "run_values_by_number"),
            (&by_metric, Part::Text, &text, "run_values_by_text"),
            (&by_metric, Part::Created, &created, "runs_by_project"),
            (&newest, Part::Created, &created, "runs_by_project"),
        ] {
            for after in [None, Some(after)] {
                let plan = plan(query, part, after, false).await;
                let first = plan.lines().next().unwrap();
                assert!(first.starts_with("SEARCH s USING") && first.contains(index), "{plan}");
                assert!(!plan.contains("TEMP B-TREE") && !plan.contains("SCAN"), "{plan}");
            }
        }
        let plan = plan(&by_metric, Part::Number, None, true).await;
        assert!(!plan.contains("SCAN s") && !plan.contains("SCAN f"), "{plan}");
    }

    #[tokio::test]
    async fn every_condition_is_counted_in_an_index_alone() {
        for op in [Op::Equal, Op::NotEqual, Op::Less, Op::Contains, Op::Exists] {
            for value in ["1", "a"] {
                let filter = Filter { kind: Kind::Label, name: "team".into(), op, value: value.into() };
                let plan = explain(counting(ProjectId(Uuid::nil()), &filter)).await;
                assert!(
                    plan.contains("SEARCH f USING COVERING INDEX run_values_by_"),
                    "{op:?} {value}: {plan}"
                );
            }
        }
    }
}
