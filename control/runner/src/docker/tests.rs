//! Against the machine's own Docker daemon.

#[path = "../../tests/runner/image.rs"]
mod image;

use std::process::{Command, Stdio};

use uuid::Uuid;

use self::image::IMAGE;
use super::{container::ContainerSpec, *};
use crate::spec::{Spec, tests::start};

/// A task whose container is removed with it.
pub(crate) struct TestTask {
    pub(crate) docker: Docker,
    pub(crate) spec: Spec,
    pub(crate) home: tempfile::TempDir,
}

impl TestTask {
    pub(crate) async fn new(image: &str, command: &[&str]) -> Self {
        image::make();
        let docker = Docker::connect(None, NodeId(Uuid::new_v4())).await.unwrap();
        let spec = Spec::from_start(start(image, command)).unwrap();
        Self { docker, spec, home: tempfile::tempdir().unwrap() }
    }

    pub(crate) async fn started(command: &[&str]) -> Self {
        let test = Self::new(IMAGE, command).await;
        test.create().await;
        test.docker.start(test.spec.task).await.unwrap();
        test
    }

    async fn create(&self) {
        let spec = ContainerSpec { task: &self.spec, clone: self.home.path(), git_commit: None };
        self.docker.create(&spec).await.unwrap();
    }

    async fn ended(&self) -> Exit {
        self.docker.wait(self.spec.task).await.unwrap();
        let state = self.docker.state(self.spec.task).await.unwrap().unwrap();
        assert!(state.started_ms > 0 && state.ended_ms >= state.started_ms, "{state:?}");
        let ContainerStatus::Ended(exit) = state.status else { panic!("{state:?}") };
        exit
    }

    async fn output(&self, source: Source) -> Vec<u8> {
        let frames: Vec<_> = self.docker.logs(self.spec.task, true).collect().await;
        let frames = frames.into_iter().map(Result::unwrap).filter(|frame| frame.source == source);
        frames.flat_map(|frame| frame.bytes).collect()
    }
}

impl Drop for TestTask {
    fn drop(&mut self) {
        let name = name(self.spec.task);
        Command::new("docker")
            .args(["rm", "--force", &name])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .unwrap();
    }
}

#[tokio::test]
async fn output_is_kept_byte_for_byte() {
    let script = "head -c 300000 /dev/urandom > data; cat data; printf 'to \\377 err' >&2";
    let test = TestTask::started(&["sh", "-c", script]).await;
    assert_eq!(test.ended().await.code, 0);
    let written = std::fs::read(test.home.path().join("data")).unwrap();
    assert_eq!(written.len(), 300_000);
    // Docker ends the last line of an output where the command did not.
    let end = if written.ends_with(b"\n") { &b""[..] } else { b"\n" };
    let output = test.output(Source::Stdout).await;
    assert!(output == written || output == [&written, end].concat(), "{} bytes", output.len());
    assert!(test.output(Source::Stderr).await.starts_with(b"to \xff err"));
}

#[tokio::test]
async fn the_clone_is_home_and_working_directory() {
    let test = TestTask::started(&["sh", "-c", "pwd; echo $HOME; echo $DS_TASK_ID; echo x > made"]).await;
    test.ended().await;
    let expected = format!("/home/ds\n/home/ds\n{}\n", test.spec.task);
    assert_eq!(String::from_utf8(test.output(Source::Stdout).await).unwrap(), expected);
    assert_eq!(std::fs::read(test.home.path().join("made")).unwrap(), b"x\n");
}

#[tokio::test]
async fn root_in_a_container_owns_files_and_makes_no_devices() {
    let script = "echo > made; busybox chown 1000:1000 made; busybox chmod 4755 made; busybox stat -c '%u %a' made; \
                  busybox mknod device c 1 3 2> error || echo refused; \
                  busybox grep -E '^(CapEff|NoNewPrivs)' /proc/self/status";
    let test = TestTask::started(&["sh", "-c", script]).await;
    test.ended().await;
    let output = String::from_utf8(test.output(Source::Stdout).await).unwrap();
    // CHOWN, DAC_OVERRIDE, FOWNER, FSETID, KILL, SETGID, SETUID, SETPCAP, NET_BIND_SERVICE, SYS_CHROOT.
    let expected = "1000 4755\nrefused\nCapEff:\t00000000000405fb\nNoNewPrivs:\t1\n";
    assert_eq!(output, expected);
}

#[tokio::test]
async fn exit_codes_are_the_commands() {
    let failing = TestTask::started(&["sh", "-c", "exit 7"]).await;
    assert_eq!(failing.ended().await.code, 7);
    let missing = TestTask::started(&["no-such-program"]).await;
    assert_eq!(missing.ended().await.code, 127);
    let folder = TestTask::started(&["/bin"]).await;
    assert_eq!(folder.ended().await.code, 126);
}

#[tokio::test]
async fn an_image_that_is_not_to_be_had_is_explained() {
    let test = TestTask::new(IMAGE, &["true"]).await;
    assert!(test.docker.image(IMAGE, |_| {}).await.unwrap().starts_with("sha256:"));
    let error = test.docker.image("127.0.0.1:1/no/such:image", |_| {}).await.unwrap_err().to_string();
    assert!(error.contains("127.0.0.1:1/no/such:image") && error.contains("docker load"), "{error}");
    assert!(
        test.docker.image("../../version", |_| {}).await.unwrap_err().to_string().contains("no image name")
    );
}

#[tokio::test]
async fn a_command_is_ended_and_a_deaf_one_killed() {
    let test =
        TestTask::started(&["sh", "-c", "trap 'exit 9' TERM; echo ready; while true; do sleep 0.1; done"])
            .await;
    let logs = test.docker.logs(test.spec.task, true);
    assert_eq!(std::pin::pin!(logs).next().await.unwrap().unwrap().bytes, "ready\n");
    test.docker.stop(test.spec.task, Duration::from_secs(10)).await.unwrap();
    assert_eq!(test.ended().await.code, 9);
    test.docker.stop(test.spec.task, Duration::from_secs(10)).await.unwrap();

    let deaf =
        TestTask::started(&["sh", "-c", "trap '' TERM; echo ready; while true; do sleep 0.1; done"]).await;
    let logs = deaf.docker.logs(deaf.spec.task, true);
    assert_eq!(std::pin::pin!(logs).next().await.unwrap().unwrap().bytes, "ready\n");
    deaf.docker.stop(deaf.spec.task, Duration::from_secs(1)).await.unwrap();
    assert_eq!(deaf.ended().await.code, 137);
}

#[tokio::test]
async fn a_container_is_found_again_and_leaves_nothing() {
    let test = TestTask::started(&["sleep", "1000"]).await;
    let (task, runner) = (test.spec.task, test.docker.runner);
    let again = Docker::connect(None, runner).await.unwrap();
    assert_eq!(again.tasks().await.unwrap(), [task]);
    assert_eq!(again.state(task).await.unwrap().unwrap().status, ContainerStatus::Running);
    again.start(task).await.unwrap();
    again.remove(task).await.unwrap();
    again.remove(task).await.unwrap();
    assert_eq!(again.state(task).await.unwrap(), None);
    assert!(again.tasks().await.unwrap().is_empty());
}

#[tokio::test]
async fn another_runners_containers_are_not_ours() {
    let test = TestTask::new(IMAGE, &["true"]).await;
    test.create().await;
    test.create().await;
    assert_eq!(test.docker.state(test.spec.task).await.unwrap().unwrap().status, ContainerStatus::Created);
    let other = Docker::connect(None, NodeId(Uuid::new_v4())).await.unwrap();
    assert!(other.tasks().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_missing_daemon_says_how_to_start_it() {
    let error =
        Docker::connect(Some("unix:///nowhere/docker.sock"), NodeId(Uuid::new_v4())).await.unwrap_err();
    assert!(error.to_string().contains("systemctl start docker"), "{error}");
    assert!(error.is_retryable());
}
