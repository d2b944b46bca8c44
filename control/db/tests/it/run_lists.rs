//! Lists of runs: filters, sorting, pages.

use std::collections::BTreeMap;

use ds_db::{Error, Filter, Kind, Op, RunQuery, Sort};
use ds_domain::{RunId, api::Run};

use crate::place::{Place, World};

fn metric(name: &str) -> Sort {
    Sort::Value(Kind::Metric, name.into())
}

fn filter(kind: Kind, name: &str, op: Op, value: &str) -> Filter {
    Filter { kind, name: name.into(), op, value: value.into() }
}

fn query(sort: Sort, descending: bool, limit: u32) -> RunQuery {
    RunQuery { sort, descending, limit, ..RunQuery::default() }
}

/// All runs of a query, page by page.
async fn all(world: &World, mut query: RunQuery) -> Vec<Run> {
    let mut runs = Vec::new();
    loop {
        let page = world.db.list_runs(world.project, &query).await.unwrap();
        assert!(page.items.len() <= query.limit as usize);
        runs.extend(page.items);
        query.cursor = page.next;
        if query.cursor.is_none() {
            return runs;
        }
    }
}

async fn record(world: &World, values: &[Option<&str>]) -> Vec<RunId> {
    let runs: Vec<Run> = (0..)
        .zip(values)
        .map(|(n, value)| {
            let metrics = value.iter().map(|value| ("loss".to_owned(), (*value).to_owned())).collect();
            let labels =
                BTreeMap::from([("team".to_owned(), if n % 2 == 0 { "even" } else { "odd" }.to_owned())]);
            Run { metrics, labels, created_ms: 100 + n / 3, ..world.run(world.first, None) }
        })
        .collect();
    world.db.record_runs(&runs).await.unwrap();
    runs.iter().map(|run| run.id).collect()
}

pub(crate) async fn pages_sorted_by_anything_have_each_run_once(place: Place) {
    let world = place.world().await;
    let values =
        [Some("2"), None, Some("10"), Some("nan"), Some("0.5"), Some("-1e3"), Some("early"), None, Some("2")];
    let ids = record(&world, &values).await;
    for limit in 1..=10 {
        for descending in [false, true] {
            let created: Vec<RunId> =
                all(&world, query(Sort::Created, descending, limit)).await.iter().map(|r| r.id).collect();
            let mut expected = ids.clone();
            if descending {
                expected.reverse();
            }
            assert_eq!(created, expected);

            let sorted = all(&world, query(metric("loss"), descending, limit)).await;
            let texts: Vec<&str> =
                sorted.iter().map(|run| run.metrics.get("loss").map_or("-", String::as_str)).collect();
            let expected = if descending {
                ["10", "2", "2", "0.5", "-1e3", "nan", "early", "-", "-"]
            } else {
                ["-1e3", "0.5", "2", "2", "10", "early", "nan", "-", "-"]
            };
            assert_eq!(texts, expected, "limit {limit}");
        }
    }
    let none = all(&world, query(metric("unknown"), true, 4)).await;
    assert_eq!(none.len(), values.len());
}

pub(crate) async fn filters_are_met(place: Place) {
    let world = place.world().await;
    let values = [Some("2"), None, Some("10"), Some("nan"), Some("0.5"), Some("2.0"), Some("Early")];
    record(&world, &values).await;
    let found = async |filters: &[Filter], sort: Sort| {
        let query = RunQuery { filters: filters.to_vec(), ..query(sort, false, 2) };
        let runs = all(&world, query).await;
        runs.into_iter().map(|run| run.metrics.get("loss").cloned().unwrap_or_default()).collect::<Vec<_>>()
    };
    let loss = |op, value: &str| filter(Kind::Metric, "loss", op, value);
    for sort in [Sort::Created, metric("loss"), metric("other")] {
        let mut cases = vec![
            (loss(Op::Equal, "2.00"), vec!["2", "2.0"]),
            (loss(Op::Equal, "Early"), vec!["Early"]),
            (loss(Op::NotEqual, "2"), vec!["0.5", "10", "Early", "nan"]),
            (loss(Op::NotEqual, "nan"), vec!["0.5", "10", "2", "2.0", "Early"]),
            (loss(Op::Less, "2"), vec!["0.5"]),
            (loss(Op::AtMost, "2"), vec!["0.5", "2", "2.0"]),
            (loss(Op::Greater, "2"), vec!["10"]),
            (loss(Op::AtLeast, "2"), vec!["10", "2", "2.0"]),
            (loss(Op::Greater, "x"), vec![]),
            (loss(Op::Contains, "arl"), vec!["Early"]),
            (loss(Op::Contains, "ARL"), vec![]),
            (loss(Op::Exists, ""), vec!["0.5", "10", "2", "2.0", "Early", "nan"]),
        ];
        cases.push((filter(Kind::Label, "team", Op::Equal, "odd"), vec!["", "2.0", "nan"]));
        for (filter, expected) in cases {
            let mut texts = found(std::slice::from_ref(&filter), sort.clone()).await;
            texts.sort();
            assert_eq!(texts, expected, "{filter:?} by {sort:?}");
        }
        let both = [loss(Op::AtLeast, "2"), filter(Kind::Label, "team", Op::Equal, "even")];
        let mut texts = found(&both, sort.clone()).await;
        texts.sort();
        assert_eq!(texts, ["10", "2"]);
    }
}

pub(crate) async fn a_page_out_of_many(place: Place) {
    const MANY: usize = 6000;
    let world = place.world().await;
    for batch in 0..MANY / 1000 {
        let runs: Vec<Run> = (0..1000)
            .map(|n| {
                let n = batch * 1000 + n;
                // Each number once, in an order unlike that of recording.
                let accuracy = (n * 7919) % MANY;
                let metrics = BTreeMap::from([
                    ("accuracy".to_owned(), accuracy.to_string()),
                    ("loss".to_owned(), (MANY - accuracy).to_string()),
                ]);
                let labels = BTreeMap::from([(
                    "team".to_owned(),
                    if n % 100 == 0 { "rare" } else { "usual" }.to_owned(),
                )]);
                let created_ms = i64::try_from(batch).unwrap();
                Run { metrics, labels, created_ms, ..world.run(world.first, None) }
            })
            .collect();
        assert_eq!(world.db.record_runs(&runs).await.unwrap().len(), 1000);
    }
    let numbers = async |filters: &[Filter]| {
        let query = RunQuery { filters: filters.to_vec(), ..query(metric("accuracy"), true, 3) };
        let page = world.db.list_runs(world.project, &query).await.unwrap();
        assert!(page.next.is_some());
        page.items.iter().map(|run| run.metrics["accuracy"].parse::<usize>().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(numbers(&[]).await, [5999, 5998, 5997]);
    let below = filter(Kind::Metric, "accuracy", Op::Less, "3000");
    assert_eq!(numbers(std::slice::from_ref(&below)).await, [2999, 2998, 2997]);
    // Met by nearly half of the runs, none of them near the start of the order.
    let far = filter(Kind::Metric, "loss", Op::Greater, "3500");
    assert_eq!(numbers(std::slice::from_ref(&far)).await, [2499, 2498, 2497]);
    let usual = filter(Kind::Label, "team", Op::Equal, "usual");
    let both = numbers(&[far.clone(), usual]).await;
    assert!(both.is_sorted_by(|a, b| a > b) && both.iter().all(|accuracy| (2400..2500).contains(accuracy)));
    let pages = RunQuery { filters: vec![far], ..query(metric("accuracy"), true, 999) };
    assert_eq!(all(&world, pages).await.len(), 2500);
    let rare = filter(Kind::Label, "team", Op::Equal, "rare");
    let multiples: Vec<usize> =
        (0..MANY / 100).map(|n| (n * 100 * 7919) % MANY).filter(|n| *n < 3000).collect();
    let mut best = multiples.clone();
    best.sort_by(|a, b| b.cmp(a));
    assert_eq!(numbers(&[below.clone(), rare]).await, best[..3]);
    let usual = filter(Kind::Label, "team", Op::Equal, "usual");
    let found = numbers(&[below, usual]).await;
    assert!(found.iter().all(|n| *n < 3000 && !multiples.contains(n)));

    let one_page = query(Sort::Created, false, 1000);
    assert_eq!(all(&world, one_page.clone()).await.len(), MANY);
    let refused = world.db.list_runs(world.project, &RunQuery { limit: 0, ..one_page.clone() }).await;
    assert!(matches!(refused, Err(Error::Invalid(_))));
    let made_up = RunQuery { cursor: Some("made up".into()), ..one_page };
    assert!(matches!(world.db.list_runs(world.project, &made_up).await, Err(Error::Invalid(_))));
}
