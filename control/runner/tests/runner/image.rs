//! An image for tests that needs no registry: a static busybox and nothing else.

use std::{
    path::Path,
    process::{Command, Stdio},
    sync::Once,
};

/// Its name.
pub(crate) const IMAGE: &str = "ds-test-busybox:latest";

/// Makes the image unless it is there.
pub(crate) fn make() {
    static MADE: Once = Once::new();
    MADE.call_once(|| {
        let there = Command::new("docker").args(["image", "inspect", IMAGE]).output().unwrap();
        if there.status.success() {
            return;
        }
        let busybox = ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|path| Path::new(path).exists());
        let busybox = busybox.expect("busybox is installed (Debian: apt install busybox-static)");
        let dir = tempfile::tempdir().unwrap();
        let bin = dir.path().join("bin");
        std::fs::create_dir(&bin).unwrap();
        std::fs::copy(busybox, bin.join("busybox")).unwrap();
        for applet in ["sh", "cat", "echo", "head", "printf", "pwd", "sleep", "true"] {
            std::os::unix::fs::symlink("busybox", bin.join(applet)).unwrap();
        }
        let mut tar =
            Command::new("tar").args(["-c", "."]).current_dir(&dir).stdout(Stdio::piped()).spawn().unwrap();
        let archive = tar.stdout.take().unwrap();
        let import = Command::new("docker").args(["import", "-", IMAGE]).stdin(archive).output().unwrap();
        assert!(import.status.success() && tar.wait().unwrap().success(), "{import:?}");
    });
}
