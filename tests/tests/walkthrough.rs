//! The main job from end to end: what the README promises.

use anyhow::Result;
use ds_tests::{Postgres, System, image, task_image};

/// A command for `sh -c` that publishes one run.
fn publish(id: &str, fields: &str) -> String {
    format!("echo '[[DOTSCIENCE-RUN:{id}]]{{\"version\":\"1\",{fields}}}[[/DOTSCIENCE-RUN:{id}]]'")
}

fn new_id() -> String {
    uuid::Uuid::new_v4().to_string()
}

#[test]
fn a_tracked_run_from_upload_to_provenance() -> Result<()> {
    tell_the_whole_story(&System::start()?)
}

#[test]
fn the_same_on_postgresql() -> Result<()> {
    let server = Postgres::start()?;
    tell_the_whole_story(&System::start_on(&server.database("hub")?)?)
}

fn tell_the_whole_story(system: &System) -> Result<()> {
    let runner = system.runner("alpha")?;
    system.ds(&["project", "create", "demo"])?.ok()?;
    let code = system.folder().join("code");
    std::fs::create_dir_all(&code)?;
    std::fs::write(code.join("prepare.sh"), "echo 1,2,3 > data.csv\n")?;

    // First task: writes data.csv and declares it.
    let prepared = new_id();
    let script =
        format!("sh prepare.sh; {}", publish(&prepared, r#""output":["data.csv"],"description":"prepare""#));
    let upload = code.to_string_lossy().into_owned();
    let answer = system.ds(&[
        "run",
        "-p",
        "demo",
        "-I",
        image()?,
        "--upload-path",
        &upload,
        "--",
        "sh",
        "-c",
        &script,
    ])?;
    assert_eq!(answer.code, 0, "{}", answer.stderr);
    assert!(answer.stdout.contains("DOTSCIENCE-RUN"), "the log is streamed: {}", answer.stdout);

    // Second task: reads it, publishes two runs, returns 3.
    let (first, second) = (new_id(), new_id());
    let script = format!(
        "cat data.csv; echo model > model.bin; {}; {}; echo secret > undeclared; exit 3",
        publish(
            &first,
            r#""input":["data.csv"],"output":["model.bin"],"parameters":{"C":"1"},"summary":{"accuracy":"0.91"}"#
        ),
        publish(
            &second,
            r#""input":["data.csv"],"parameters":{"C":"10"},"summary":{"accuracy":"0.97"},"labels":{"kind":"svm"}"#
        ),
    );
    let answer = system.ds(&["run", "-p", "demo", "-I", image()?, "--", "sh", "-c", &script])?;
    assert_eq!(answer.code, 3, "the command's own exit code: {}", answer.stderr);
    assert!(answer.stdout.starts_with("1,2,3\n"), "the workspace carried over: {}", answer.stdout);

    let page = system.json(&["runs", "ls", "demo", "--sort", "metric.accuracy"])?;
    assert_eq!(page["items"].as_array().map(Vec::len), Some(3), "{page}");
    let run = system.json(&["runs", "show", &second])?;
    assert_eq!(run["metrics"]["accuracy"], "0.97");
    assert_eq!(run["parameters"]["C"], "10");
    assert_eq!(run["labels"]["kind"], "svm");
    assert_eq!(run["authority"], "workload");
    assert_eq!(run["success"], false, "its task returned 3");
    assert_eq!(run["inputs"][0]["written_by"], prepared.as_str(), "{run}");

    let provenance = system.json(&["runs", "provenance", &second])?;
    let text = provenance.to_string();
    assert!(text.contains(&prepared), "the walk reaches the first task's run: {text}");
    assert!(text.contains("undeclared"), "a changed file that nobody declared is a conflict: {text}");

    let comparison = system.json(&["runs", "compare", &first, &second])?;
    let rows = comparison["rows"].as_array().expect("rows");
    assert!(rows.iter().any(|r| r["name"] == "accuracy" && r["differs"] == true), "{comparison}");

    let commit = run["commit"].as_str().expect("a run has a commit");
    assert_eq!(system.ds(&["files", "cat", commit, "model.bin"])?.ok()?, "model\n");
    assert_eq!(system.ds(&["files", "cat", "demo", "data.csv"])?.ok()?, "1,2,3\n");
    let earlier = run["inputs"][0]["commit"].as_str().expect("resolved to a commit");
    assert_eq!(system.ds(&["files", "cat", earlier, "model.bin"])?.code, 1, "not there yet at that commit");
    let away = system.folder().join("fetched");
    system.ds(&["files", "get", commit, "model.bin", "-o", &away.to_string_lossy()])?.ok()?;
    let commits = system.json(&["commit", "ls", "demo"])?;
    assert_eq!(commits["items"].as_array().map(Vec::len), Some(4), "first, upload, two tasks: {commits}");
    runner.tidy()
}

#[test]
fn a_task_that_records_nothing_still_gets_a_run() -> Result<()> {
    let system = System::start()?;
    let runner = system.runner("alpha")?;
    system.ds(&["project", "create", "demo"])?.ok()?;
    let task =
        system.start_task("demo", &["sh", "-c", "echo hello; sleep 1; echo oops >&2; echo 1 > made"])?;
    let ended = system.task_end(&task)?;
    assert_eq!(ended["outcome"], "succeeded", "{ended}");
    let run = system.json(&["runs", "show", ended["runs"][0].as_str().expect("a run")])?;
    assert_eq!(run["authority"], "derived");
    assert_eq!(run["outputs"][0]["path"], "made");
    let log = system.ds(&["task", "logs", &task])?.ok()?;
    assert_eq!(log, "hello\noops\n");
    runner.tidy()
}

#[test]
fn two_runners_the_loser_of_the_race_becomes_a_branch() -> Result<()> {
    let system = System::start()?;
    let (alpha, beta) = (system.runner("alpha")?, system.runner("beta")?);
    system.ds(&["project", "create", "demo"])?.ok()?;
    // Both tasks start from the same head; a file on the host's side of neither tells them to end, so the order is given by sleep.
    let quick = system.start_task("demo", &["sh", "-c", "sleep 2; echo quick > who"])?;
    let slow = system.start_task("demo", &["sh", "-c", "sleep 5; echo slow > who"])?;
    let (quick, slow) = (system.task_end(&quick)?, system.task_end(&slow)?);
    assert_ne!(quick["runner"], slow["runner"], "one each");
    assert!(quick.get("branch").is_none_or(serde_json::Value::is_null), "{quick}");
    assert!(slow["branch"].is_string(), "the later one stays beside the head: {slow}");
    assert_eq!(system.ds(&["files", "cat", "demo", "who"])?.ok()?, "quick\n");
    let commit = slow["commit"].as_str().expect("a branch is a commit");
    assert_eq!(system.ds(&["files", "cat", commit, "who"])?.ok()?, "slow\n");
    // The head goes on from the winner, on whichever runner.
    for _ in 0..3 {
        let next = system.start_task("demo", &["sh", "-c", "cat who; echo again >> who"])?;
        assert_eq!(system.task_end(&next)?["outcome"], "succeeded");
    }
    assert_eq!(system.ds(&["files", "cat", "demo", "who"])?.ok()?, "quick\nagain\nagain\nagain\n");
    alpha.tidy()?;
    beta.tidy()
}

#[test]
fn the_original_python_client_in_script_mode() -> Result<()> {
    let system = System::start()?;
    let runner = system.runner("alpha")?;
    system.ds(&["project", "create", "demo"])?.ok()?;
    let program = r#"
import dotscience as ds
ds.script()
for c in ("1", "10"):
    ds.start("try " + c)
    ds.parameter("C", c)
    ds.summary("accuracy", 0.5 + len(c) / 10)
    open("out-" + c, "w").write(c)
    ds.output("out-" + c)
    ds.publish("done " + c)
"#;
    let answer = system.ds(&["run", "-p", "demo", "-I", task_image()?, "--", "python", "-c", program])?;
    assert_eq!(answer.code, 0, "{}{}", answer.stdout, answer.stderr);
    let page = system.json(&["runs", "ls", "demo"])?;
    let items = page["items"].as_array().expect("items");
    assert_eq!(items.len(), 2, "several publish() in one process: {page}");
    assert!(items.iter().all(|r| r["authority"] == "workload" && r["outputs"][0]["commit"].is_string()));
    runner.tidy()
}

#[test]
fn a_waiting_task_says_why_and_can_be_cancelled() -> Result<()> {
    let system = System::start()?;
    system.ds(&["project", "create", "demo"])?.ok()?;
    let task = system.start_task("demo", &["true"])?;
    let waiting = system.task_until(&task, |t| t["detail"].as_str().is_some_and(|d| d.contains("runner")))?;
    assert_eq!(waiting["state"], "queued");
    system.ds(&["task", "cancel", &task])?.ok()?;
    assert_eq!(system.task_end(&task)?["outcome"], "cancelled");

    let runner = system.runner_with("alpha", &["--slots", "1", "--label", "room=attic"], &[])?;
    let labelled = system
        .ds(&["run", "-d", "-p", "demo", "-I", image()?, "--label", "room=cellar", "--", "true"])?
        .ok()?;
    let waiting =
        system.task_until(labelled.trim(), |t| t["detail"].as_str().is_some_and(|d| d.contains("room")))?;
    assert_eq!(waiting["state"], "queued");
    system.ds(&["task", "cancel", labelled.trim()])?.ok()?;

    let long = system.start_task("demo", &["sh", "-c", "echo started; sleep 600"])?;
    system.task_until(&long, |t| t["log_bytes"].as_u64() > Some(0))?;
    let behind = system.start_task("demo", &["true"])?;
    system.task_until(&behind, |t| t["detail"].as_str().is_some_and(|d| d.contains("slot")))?;
    system.ds(&["task", "cancel", &long])?.ok()?;
    let ended = system.task_end(&long)?;
    assert_eq!(ended["outcome"], "cancelled", "{ended}");
    assert!(ended["commit"].is_string(), "what it wrote is kept");
    assert_eq!(system.task_end(&behind)?["outcome"], "succeeded");
    runner.tidy()
}
