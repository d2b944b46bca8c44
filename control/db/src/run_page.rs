//! Which runs are on a page.
//!
//! A page comes from one index, in its order, from where the page before ended: no page costs more than another. Sorted by
//! a value, three indexes follow each other: the runs where it is a number, those where it is another text, and those that
//! do not have it.

use std::collections::{HashMap, HashSet};

use ds_domain::{ProjectId, RunId};
use serde::{Deserialize, Serialize};
use sqlx::{Row, any::AnyRow};

use crate::{
    Db, Error, Filter, Kind, Op, Result, RunQuery, Sort,
    rows::{Columns, IDS, NAME_KEY_BYTES, Sql, TEXT_KEY_BYTES, cursor, key, read_cursor},
    run_write::number,
};

/// So many runs at the start of a page's order are first asked whether they meet the conditions, which is soon done and
/// nearly always enough. Where only so many meet a condition, these are looked up at once.
const FEW: i64 = 2_000;
/// Of the runs, one in so many has to meet a condition until it is cheaper to read whole columns than to look up each.
const RARE: i64 = 8;

/// Where a page ended: the sort key of its last run, with the run's number in the project. Floats are kept bit by bit.
#[derive(Debug, Clone, Serialize, Deserialize)]
enum Position {
    Number(u64, i64),
    Text(String, i64),
    Recorded(i64),
}

/// The index that the page, or the rest of it, is read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Number,
    Text,
    Recorded,
}

/// A query whose names were looked up.
struct Search<'a> {
    project: ProjectId,
    /// The column that it is sorted by; without one, by when runs were recorded.
    order: Option<i64>,
    descending: bool,
    /// Rarest first.
    conditions: Vec<Condition<'a>>,
}

/// What a column's values have to be.
#[derive(Clone, Copy)]
struct Condition<'a> {
    column: i64,
    filter: &'a Filter,
    /// How many runs meet it, as far as they were counted.
    found: i64,
    /// Whether so few runs meet it that all of them are looked up, wherever in the page's order they are.
    rare: bool,
}

/// The ids of a page, and its cursor if there is more.
pub(crate) async fn page_of(
    db: &Db,
    project: ProjectId,
    query: &RunQuery,
) -> Result<(Vec<RunId>, Option<String>)> {
    let after: Option<Position> = read_cursor(query.cursor.as_deref())?;
    let Some(search) = Search::new(db, project, query).await? else { return Ok((Vec::new(), None)) };
    let limit = query.limit as usize;
    let mut found: Vec<Position> = Vec::new();
    for part in search.parts(after.as_ref()) {
        let after = after.as_ref().filter(|position| position.part() == part);
        found.extend(search.read(db, part, after, limit + 1 - found.len()).await?);
        if found.len() > limit {
            break;
        }
    }
    let more = found.len() > limit;
    found.truncate(limit);
    let next = found.last().filter(|_| more).map(cursor);
    let numbers: Vec<i64> = found.iter().map(Position::run_no).collect();
    Ok((ids(db, project, &numbers).await?, next))
}

/// The runs with these numbers, in this order.
async fn ids(db: &Db, project: ProjectId, numbers: &[i64]) -> Result<Vec<RunId>> {
    let mut ids = HashMap::with_capacity(numbers.len());
    for batch in numbers.chunks(IDS) {
        let mut sql = Sql::new("SELECT no, id FROM runs WHERE project_id = ");
        bind_numbers(sql.bind(project.to_string()).push(" AND no IN "), batch);
        for row in sql.query().fetch_all(db.reader()).await? {
            ids.insert(row.int("no")?, row.parsed("id")?);
        }
    }
    Ok(numbers.iter().filter_map(|no| ids.remove(no)).collect())
}

/// The column `no` of a statement, in its order. One text is read many times faster than a row for each number.
async fn numbers(db: &Db, column: Sql) -> Result<Vec<i64>> {
    let row = column.concatenated("no").query().fetch_one(db.reader()).await?;
    let text = row.optional_text("numbers")?.unwrap_or_default();
    let number =
        |digits: &str| digits.parse().map_err(|_| Error::Corrupt { what: "no", value: digits.into() });
    text.split_terminator(',').map(number).collect()
}

fn bind_numbers(sql: &mut Sql, numbers: &[i64]) {
    for (index, no) in numbers.iter().enumerate() {
        sql.push(if index == 0 { "(" } else { ", " }).bind(*no);
    }
    sql.push(")");
}

async fn positions(db: &Db, sql: Sql, part: Part) -> Result<Vec<Position>> {
    sql.query().fetch_all(db.reader()).await?.iter().map(|row| Position::read(row, part)).collect()
}

fn push_list<'s>(sql: &'s mut Sql, columns: &[&str], suffix: &str) -> &'s mut Sql {
    for (index, column) in columns.iter().enumerate() {
        sql.push(if index == 0 { "" } else { ", " }).push(column).push(suffix);
    }
    sql
}

impl Part {
    /// The columns that its rows are ordered by.
    fn key(self) -> &'static [&'static str] {
        match self {
            Self::Number => &["s.number", "s.run_no"],
            Self::Text => &["s.text_key", "s.run_no"],
            Self::Recorded => &["s.no"],
        }
    }

    /// The last of them.
    fn run_no(self) -> &'static str {
        if self == Self::Recorded { "s.no" } else { "s.run_no" }
    }
}

impl Position {
    fn part(&self) -> Part {
        match self {
            Self::Number(..) => Part::Number,
            Self::Text(..) => Part::Text,
            Self::Recorded(..) => Part::Recorded,
        }
    }

    fn run_no(&self) -> i64 {
        match self {
            Self::Number(_, no) | Self::Text(_, no) | Self::Recorded(no) => *no,
        }
    }

    fn read(row: &AnyRow, part: Part) -> Result<Self> {
        let no = row.int(if part == Part::Recorded { "no" } else { "run_no" })?;
        Ok(match part {
            Part::Number => Self::Number(row.try_get::<f64, _>("number")?.to_bits(), no),
            Part::Text => Self::Text(row.text("text_key")?, no),
            Part::Recorded => Self::Recorded(no),
        })
    }
}

impl<'a> Search<'a> {
    /// `None` if no run meets one of the conditions.
    async fn new(db: &Db, project: ProjectId, query: &'a RunQuery) -> Result<Option<Self>> {
        let order = match &query.sort {
            Sort::Created => None,
            Sort::Value(kind, name) => column(db, project, *kind, name).await?,
        };
        let mut search = Self { project, order, descending: query.descending, conditions: Vec::new() };
        if query.filters.is_empty() {
            return Ok(Some(search));
        }
        let most = (runs_of(db, project).await? / RARE).max(FEW);
        for filter in &query.filters {
            let Some(column) = column(db, project, filter.kind, &filter.name).await? else { return Ok(None) };
            let found =
                counting(column, filter, most + 1).query().fetch_one(db.reader()).await?.int("found")?;
            if found == 0 {
                return Ok(None);
            }
            search.conditions.push(Condition { column, filter, found, rare: found <= most });
        }
        search.conditions.sort_by_key(|condition| condition.found);
        Ok(Some(search))
    }

    /// The indexes to read, from where the page before ended.
    fn parts(&self, after: Option<&Position>) -> impl Iterator<Item = Part> + use<> {
        let all: &[Part] = match self.order {
            None => &[Part::Recorded],
            // Who has to have the value is not among those without it.
            Some(order) if self.conditions.iter().any(|condition| condition.column == order) => {
                &[Part::Number, Part::Text]
            }
            Some(_) => &[Part::Number, Part::Text, Part::Recorded],
        };
        let first = after.map_or(Part::Number, Position::part);
        all.iter().copied().filter(move |part| *part >= first)
    }

    /// The first `limit` of a part.
    async fn read(
        &self,
        db: &Db,
        part: Part,
        after: Option<&Position>,
        limit: usize,
    ) -> Result<Vec<Position>> {
        let Some(rarest) = self.others(part).next().filter(|rarest| rarest.found > FEW) else {
            return positions(db, self.statement(part, after, limit), part).await;
        };
        let found = positions(db, self.beginning(part, after, limit), part).await?;
        if found.len() == limit {
            return Ok(found);
        }
        if rarest.rare {
            return positions(db, self.statement(part, after, limit), part).await;
        }
        self.intersect(db, part, after, limit).await
    }

    /// Takes whole columns out of the database and looks for the page in them: what a row costs is then next to nothing.
    async fn intersect(
        &self,
        db: &Db,
        part: Part,
        after: Option<&Position>,
        limit: usize,
    ) -> Result<Vec<Position>> {
        let mut met: Option<HashSet<i64>> = None;
        for condition in self.others(part) {
            let mut sql = Sql::new("SELECT f.run_no AS no FROM run_values f WHERE ");
            condition.met_by(&mut sql, "f");
            let numbers = numbers(db, sql).await?;
            met = Some(match met {
                None => numbers.into_iter().collect(),
                Some(met) => numbers.into_iter().filter(|no| met.contains(no)).collect(),
            });
        }
        let mut sql = Sql::new("SELECT ");
        sql.push(part.run_no()).push(" AS no FROM ");
        self.rows(&mut sql, part, after);
        self.first(&mut sql, part, i64::MAX);
        let met = met.unwrap_or_default();
        let page: Vec<i64> =
            numbers(db, sql).await?.into_iter().filter(|no| met.contains(no)).take(limit).collect();
        let mut found = Vec::with_capacity(page.len());
        for batch in page.chunks(IDS) {
            let mut sql = Sql::new("SELECT ");
            push_list(&mut sql, part.key(), "").push(" FROM ");
            self.rows(&mut sql, part, after);
            bind_numbers(sql.push(" AND ").push(part.run_no()).push(" IN "), batch);
            self.first(&mut sql, part, i64::MAX);
            found.extend(positions(db, sql, part).await?);
        }
        Ok(found)
    }

    /// The conditions that the part's own index does not answer, rarest first.
    fn others(&self, part: Part) -> impl Iterator<Item = &Condition<'a>> {
        self.conditions.iter().filter(move |condition| !self.is_sorted_by(part, condition))
    }

    /// Those among the first [`FEW`] of a part that meet the conditions.
    fn beginning(&self, part: Part, after: Option<&Position>, limit: usize) -> Sql {
        let mut sql = Sql::new("SELECT ");
        push_list(&mut sql, part.key(), "").push(" FROM (SELECT ");
        push_list(&mut sql, part.key(), "").push(" FROM ");
        self.rows(&mut sql, part, after);
        self.first(&mut sql, part, FEW);
        sql.push(") s WHERE 1 = 1");
        for condition in self.others(part) {
            condition.met_by_run(&mut sql, part);
        }
        self.first(&mut sql, part, i64::try_from(limit).unwrap_or(i64::MAX));
        sql
    }

    fn statement(&self, part: Part, after: Option<&Position>, limit: usize) -> Sql {
        let mut others = self.others(part).peekable();
        let looked_up = others.next_if(|rarest| rarest.rare);
        let mut sql = Sql::new("SELECT ");
        push_list(&mut sql, part.key(), "").push(" FROM ");
        // SQLite takes the tables of a cross join in this order.
        sql.push(if looked_up.is_some() { "run_values f CROSS JOIN " } else { "" });
        self.rows(&mut sql, part, after);
        if let Some(condition) = looked_up {
            sql.push(" AND f.run_no = ").push(part.run_no()).push(" AND ");
            condition.met_by(&mut sql, "f");
        }
        for condition in others {
            condition.met_by_run(&mut sql, part);
        }
        self.first(&mut sql, part, i64::try_from(limit).unwrap_or(i64::MAX));
        sql
    }

    /// Whether the part's index is over the very values that the condition is about.
    fn is_sorted_by(&self, part: Part, condition: &Condition<'_>) -> bool {
        part != Part::Recorded && self.order == Some(condition.column)
    }

    /// The rows of a part, as `s`, from where the page before ended.
    fn rows(&self, sql: &mut Sql, part: Part, after: Option<&Position>) {
        self.of(sql, part);
        if let Some(after) = after {
            beyond(sql, after, self.descending);
        }
        for condition in self.conditions.iter().filter(|condition| self.is_sorted_by(part, condition)) {
            condition.met_by(sql.push(" AND "), "s");
        }
    }

    fn first(&self, sql: &mut Sql, part: Part, limit: i64) {
        let direction = if self.descending { " DESC" } else { "" };
        push_list(sql.push(" ORDER BY "), part.key(), direction).push(" LIMIT ").bind(limit);
    }

    fn of(&self, sql: &mut Sql, part: Part) {
        match (part, self.order) {
            (Part::Number, Some(column)) => {
                sql.push("run_values s WHERE s.number IS NOT NULL AND s.name_id = ").bind(column);
            }
            (Part::Text, Some(column)) => {
                sql.push("run_values s WHERE s.number IS NULL AND s.name_id = ").bind(column);
            }
            (_, order) => {
                sql.push("runs s WHERE s.project_id = ").bind(self.project.to_string());
                if let Some(column) = order {
                    sql.push(
                        " AND NOT EXISTS (SELECT 1 FROM run_values v WHERE v.run_no = s.no AND v.name_id = ",
                    );
                    sql.bind(column).push(")");
                }
            }
        }
    }
}

/// The number of a column of values, if any run has one.
async fn column(db: &Db, project: ProjectId, kind: Kind, name: &str) -> Result<Option<i64>> {
    let query = sqlx::query("SELECT id FROM value_names WHERE project_id = $1 AND kind = $2 AND name = $3");
    let query = query.bind(project.to_string()).bind(kind.column()).bind(key(name, NAME_KEY_BYTES));
    query.fetch_optional(db.reader()).await?.map(|row| row.int("id")).transpose()
}

async fn runs_of(db: &Db, project: ProjectId) -> Result<i64> {
    let query = sqlx::query("SELECT runs FROM projects WHERE id = $1").bind(project.to_string());
    query.fetch_optional(db.reader()).await?.map_or(Ok(0), |row| row.int("runs"))
}

/// How many runs meet a filter, at most `limit`.
fn counting(column: i64, filter: &Filter, limit: i64) -> Sql {
    let mut sql = Sql::new("SELECT COUNT(*) AS found FROM (SELECT 1 FROM run_values f WHERE ");
    Condition { column, filter, found: 0, rare: false }.met_by(&mut sql, "f");
    sql.push(" LIMIT ").bind(limit).push(") few");
    sql
}

/// Only what comes after the page before.
fn beyond(sql: &mut Sql, after: &Position, descending: bool) {
    let order = if descending { ") < (" } else { ") > (" };
    match after {
        Position::Number(bits, no) => {
            sql.push(" AND (s.number, s.run_no").push(order).bind(f64::from_bits(*bits));
            sql.push(", ").bind(*no);
        }
        Position::Text(text, no) => {
            sql.push(" AND (s.text_key, s.run_no").push(order).bind(text.clone());
            sql.push(", ").bind(*no);
        }
        Position::Recorded(no) => {
            sql.push(" AND (s.no").push(order).bind(*no);
        }
    }
    sql.push(")");
}

impl Condition<'_> {
    /// Only where the value that the run of a part's row has in this column meets it.
    fn met_by_run(&self, sql: &mut Sql, part: Part) {
        sql.push(" AND EXISTS (SELECT 1 FROM run_values e WHERE e.run_no = ")
            .push(part.run_no())
            .push(" AND ");
        self.met_by(sql, "e");
        sql.push(")");
    }

    /// Whether a row of `run_values` meets it.
    fn met_by(&self, sql: &mut Sql, row: &str) {
        sql.push(row).push(".name_id = ").bind(self.column);
        matches(sql, row, self.filter);
    }
}

/// What the value in a row of `run_values` has to be.
fn matches(sql: &mut Sql, row: &str, filter: &Filter) {
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

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    const SORTED_BY: i64 = 1;
    const FILTERED_BY: i64 = 2;

    fn filter(op: Op, value: &str) -> Filter {
        Filter { kind: Kind::Label, name: "team".into(), op, value: value.into() }
    }

    /// What SQLite does for a part of a page.
    async fn plan(order: Option<i64>, rare: bool, part: Part, after: Option<&Position>) -> String {
        let filter = filter(Op::Equal, "a");
        let conditions = vec![Condition { column: FILTERED_BY, filter: &filter, found: 7, rare }];
        let search = Search { project: ProjectId(Uuid::nil()), order, descending: true, conditions };
        explain(search.statement(part, after, 50)).await
    }

    async fn explain(sql: Sql) -> String {
        let folder = tempfile::tempdir().unwrap();
        let db = Db::connect(&format!("sqlite:{}", folder.path().join("hub.db").display())).await.unwrap();
        let rows = sql.explained().query().fetch_all(db.reader()).await.unwrap();
        rows.iter().map(|row| row.text("detail").unwrap()).collect::<Vec<_>>().join("\n")
    }

    #[tokio::test]
    async fn pages_are_read_in_the_order_of_an_index() {
        let (number, text) = (Position::Number(0, 3), Position::Text("x".into(), 3));
        let recorded = Position::Recorded(3);
        for (order, part, after, index) in [
            (Some(SORTED_BY), Part::Number, &number, "COVERING INDEX run_values_by_number"),
            (Some(SORTED_BY), Part::Text, &text, "INDEX run_values_by_text"),
            (Some(SORTED_BY), Part::Recorded, &recorded, "COVERING INDEX runs_by_number"),
            (None, Part::Recorded, &recorded, "COVERING INDEX runs_by_number"),
        ] {
            for after in [None, Some(after)] {
                let plan = plan(order, false, part, after).await;
                let first = plan.lines().next().unwrap();
                assert!(first.starts_with("SEARCH s USING") && first.contains(index), "{plan}");
                assert!(!plan.contains("TEMP B-TREE") && !plan.contains("SCAN"), "{plan}");
                assert!(plan.contains(" USING PRIMARY KEY (name_id=? AND run_no=?)"), "{plan}");
            }
        }
    }

    #[tokio::test]
    async fn what_few_runs_meet_is_looked_up_first() {
        for part in [Part::Number, Part::Text, Part::Recorded] {
            let plan = plan(Some(SORTED_BY), true, part, None).await;
            let mut steps = plan.lines();
            assert!(steps.next().unwrap().starts_with("SEARCH f USING"), "{plan}");
            assert!(steps.next().unwrap().starts_with("SEARCH s USING"), "{plan}");
            assert!(!plan.contains("SCAN"), "{plan}");
        }
    }

    #[tokio::test]
    async fn every_condition_is_counted_in_one_column() {
        for op in [Op::Equal, Op::NotEqual, Op::Less, Op::Contains, Op::Exists] {
            for value in ["1", "a"] {
                let plan = explain(counting(FILTERED_BY, &filter(op, value), 50)).await;
                let column =
                    ["SEARCH f USING COVERING INDEX run_values_by_", "SEARCH f USING PRIMARY KEY (name_id=?"];
                assert!(column.iter().any(|step| plan.contains(step)), "{op:?} {value}: {plan}");
            }
        }
    }
}
