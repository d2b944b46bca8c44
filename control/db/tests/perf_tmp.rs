use ds_db::*;
use ds_domain::{api::*, *};
use std::{collections::BTreeMap, time::Instant};
use uuid::Uuid;
#[tokio::test(flavor = "multi_thread")]
async fn perf() {
    let folder = tempfile::tempdir().unwrap();
    let url =
        std::env::var("PERF_URL").unwrap_or(format!("sqlite:{}", folder.path().join("hub.db").display()));
    let db = Db::connect(&url).await.unwrap();
    let user = User { id: UserId(Uuid::new_v4()), username: "a".into(), admin: false, created_ms: 1 };
    db.create_user(&user, "").await.unwrap();
    let p = NewProject {
        id: ProjectId(Uuid::new_v4()),
        name: "p".into(),
        description: String::new(),
        owner: user.id,
        workspace: VolumeId(Uuid::new_v4()),
        commit: CommitId(Uuid::new_v4()),
        snapshot: SnapshotId(Uuid::new_v4()),
        guid: 1,
        created_ms: 1,
    };
    db.create_project(&p).await.unwrap();
    let t = Instant::now();
    for b in 0..10usize {
        let runs: Vec<Run> = (0..1000)
            .map(|n| {
                let n = b * 1000 + n;
                let h = (n * 7919) % 100_000;
                Run {
                    id: RunId(Uuid::new_v4()),
                    project: p.id,
                    commit: p.commit,
                    task: None,
                    authority: "remote".into(),
                    author: "a".into(),
                    description: String::new(),
                    workload_file: None,
                    error: None,
                    success: true,
                    start: None,
                    end: None,
                    parameters: (0..5).map(|i| (format!("p{i}"), format!("{}", h % (i + 2)))).collect(),
                    metrics: BTreeMap::from([
                        ("acc".into(), format!("0.{h:05}")),
                        ("loss".into(), format!("{}", h as f64 / 7.0)),
                    ]),
                    labels: BTreeMap::from([(
                        "team".into(),
                        if h % 1000 == 0 {
                            "rare"
                        } else if h % 2 == 0 {
                            "even"
                        } else {
                            "odd"
                        }
                        .into(),
                    )]),
                    inputs: vec![RunFile { path: "a".into(), commit: Some(p.commit), written_by: None }],
                    outputs: vec![],
                    conflicts: vec![],
                    branch: None,
                    created_ms: b as i64,
                }
            })
            .collect();
        db.record_runs(&runs).await.unwrap();
    }
    println!("100k runs in {:?}", t.elapsed());
    let m = |n: &str| Sort::Value(Kind::Metric, n.into());
    let f = |k, n: &str, op, v: &str| Filter { kind: k, name: n.into(), op, value: v.into() };
    let cases: Vec<(&str, Vec<Filter>, Sort)> = vec![
        ("sort acc", vec![], m("acc")),
        ("created", vec![], Sort::Created),
        ("acc>0.5 by acc", vec![f(Kind::Metric, "acc", Op::Greater, "0.5")], m("acc")),
        ("loss<100 by acc", vec![f(Kind::Metric, "loss", Op::Less, "100")], m("acc")),
        ("loss<5000 by acc", vec![f(Kind::Metric, "loss", Op::Less, "5000")], m("acc")),
        ("team=even by acc", vec![f(Kind::Label, "team", Op::Equal, "even")], m("acc")),
        ("team=rare by acc", vec![f(Kind::Label, "team", Op::Equal, "rare")], m("acc")),
        ("team=none by acc", vec![f(Kind::Label, "team", Op::Equal, "none")], m("acc")),
        ("team~none by acc", vec![f(Kind::Label, "team", Op::Contains, "none")], m("acc")),
        (
            "team=even p1=2 by loss",
            vec![f(Kind::Label, "team", Op::Equal, "even"), f(Kind::Parameter, "p1", Op::Equal, "2")],
            m("loss"),
        ),
        ("acc>0.5 created", vec![f(Kind::Metric, "acc", Op::Greater, "0.5")], Sort::Created),
        ("acc>0.9999 created", vec![f(Kind::Metric, "acc", Op::Greater, "0.9999")], Sort::Created),
        ("sort unknown", vec![], m("unknown")),
    ];
    for (name, filters, sort) in cases {
        for descending in [true, false] {
            let mut q = RunQuery {
                filters: filters.clone(),
                sort: sort.clone(),
                descending,
                limit: 50,
                cursor: None,
            };
            let t = Instant::now();
            let page = db.list_runs(p.id, &q).await.unwrap();
            let a = t.elapsed();
            q.cursor = page.next;
            let n = page.items.len();
            let t = Instant::now();
            db.list_runs(p.id, &q).await.unwrap();
            println!("{name} desc={descending}: {n} {a:?} next {:?}", t.elapsed());
        }
    }
}
