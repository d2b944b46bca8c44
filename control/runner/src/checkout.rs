//! Checks a git repository out into the clone of a workspace.
//!
//! The workspace's content was written by other people's commands, and the repository by strangers. So git's own folder
//! lies beside the journal and never in the workspace (its configuration and hooks are ours), only network protocols are
//! allowed, and no argument can be taken for an option. Files that are in the workspace and not in the repository stay.
//! Submodules are left out.

use std::{
    path::Path,
    process::{Output, Stdio},
};

use ds_domain::task::Repository;
use tokio::process::Command;

use crate::error::{Error, Result};

/// How a repository may be reached. Others, such as `file` and `ext`, would read this machine or run programs on it.
const PROTOCOLS: &str = "https:http:ssh:git";

/// Checks the repository out into `work_tree` and returns the commit's full id. It can be repeated, also half done:
/// `git_dir` is made anew.
pub(crate) async fn checkout(repository: &Repository, work_tree: &Path, git_dir: &Path) -> Result<String> {
    Git { repository, work_tree, folder: git_dir, protocols: PROTOCOLS }.checkout().await
}

struct Git<'a> {
    repository: &'a Repository,
    work_tree: &'a Path,
    /// Git's own.
    folder: &'a Path,
    protocols: &'static str,
}

impl Git<'_> {
    async fn checkout(&self) -> Result<String> {
        check_url(&self.repository.url, self.protocols)?;
        check_reference(&self.repository.reference)?;
        match tokio::fs::remove_dir_all(self.folder).await {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(self.failed("remove an older checkout", &e.to_string()));
            }
            _ => {}
        }
        self.must("make a repository", &["init", "--quiet", "--template="]).await?;
        let commit = self.fetch().await?;
        self.must("check the repository out", &["checkout", "--quiet", "--force", "--detach", &commit])
            .await?;
        Ok(commit)
    }

    /// Fetches as little as possible and returns the commit's id.
    async fn fetch(&self) -> Result<String> {
        let Repository { url, reference } = self.repository;
        let wanted = if reference.is_empty() { "HEAD" } else { reference };
        let shallow = self
            .run(&["fetch", "--quiet", "--depth=1", "--no-tags", "--end-of-options", url, wanted])
            .await?;
        if shallow.status.success() {
            return self.resolve("FETCH_HEAD").await;
        }
        if !looks_like_commit(wanted) {
            return Err(self.not_fetched(&shallow));
        }
        // Not every server gives out a commit by its id, and none by the beginning of one.
        let refs = ["+refs/heads/*:refs/remotes/origin/*", "+refs/tags/*:refs/tags/*"];
        let full = self.run(&["fetch", "--quiet", "--end-of-options", url, refs[0], refs[1]]).await?;
        if !full.status.success() {
            return Err(self.not_fetched(&full));
        }
        self.resolve(wanted).await
    }

    async fn resolve(&self, name: &str) -> Result<String> {
        let name = format!("{name}^{{commit}}");
        let output = self.run(&["rev-parse", "--verify", "--quiet", "--end-of-options", &name]).await?;
        if !output.status.success() {
            return Err(self.unknown_reference());
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    async fn must(&self, doing: &str, arguments: &[&str]) -> Result<()> {
        let output = self.run(arguments).await?;
        if output.status.success() { Ok(()) } else { Err(self.failed(doing, &words(&output))) }
    }

    async fn run(&self, arguments: &[&str]) -> Result<Output> {
        Command::new("git")
            .arg("--git-dir")
            .arg(self.folder)
            .arg("--work-tree")
            .arg(self.work_tree)
            // A server that stalls is given up after a minute.
            .args(["-c", "http.lowSpeedLimit=1000", "-c", "http.lowSpeedTime=60"])
            .args(["-c", "gc.auto=0", "-c", "advice.detachedHead=false"])
            .args(arguments)
            .current_dir(self.work_tree)
            .env("GIT_ALLOW_PROTOCOL", self.protocols)
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_TERMINAL_PROMPT", "0")
            .env(
                "GIT_SSH_COMMAND",
                "ssh -o BatchMode=yes -o StrictHostKeyChecking=accept-new -o ConnectTimeout=20",
            )
            .env("LC_ALL", "C")
            .env_remove("GIT_DIR")
            .env_remove("GIT_WORK_TREE")
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await
            .map_err(|e| self.failed("run git (is it installed on the runner?)", &e.to_string()))
    }

    fn not_fetched(&self, output: &Output) -> Error {
        let words = words(output);
        if words.contains("couldn't find remote ref") {
            return self.unknown_reference();
        }
        let url = without_secret(&self.repository.url);
        Error::Git(format!(
            "the repository {url} cannot be reached from the runner: check the address and that the runner may read it \
             (git says: {})",
            self.hide(&words)
        ))
    }

    fn unknown_reference(&self) -> Error {
        let Repository { url, reference } = self.repository;
        let reference = if reference.is_empty() { "HEAD" } else { reference };
        Error::Git(format!(
            "the repository {} has no branch, tag or commit `{reference}`: check the name, and that it was pushed",
            without_secret(url)
        ))
    }

    fn failed(&self, doing: &str, words: &str) -> Error {
        Error::Git(format!("cannot {doing}: {}", self.hide(words)))
    }

    /// Keeps a password in the URL out of what people read.
    fn hide(&self, words: &str) -> String {
        words.replace(&self.repository.url, &without_secret(&self.repository.url))
    }
}

fn check_url(url: &str, protocols: &str) -> Result<()> {
    let refuse = |why: &str| Err(Error::Git(format!("the repository {:?} {why}", without_secret(url))));
    if url.starts_with('-') || url.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return refuse("is no address: write it as in `https://host/team/repository.git`");
    }
    let protocol = match url.split_once("://") {
        Some((protocol, rest)) if !rest.starts_with('-') => protocol,
        // `user@host:path`, which is ssh. `ext::command` and a path have no user.
        None if url
            .split_once(':')
            .is_some_and(|(host, path)| is_ssh_host(host) && !path.starts_with(':')) =>
        {
            "ssh"
        }
        _ => return refuse("is no address: write it as in `https://host/team/repository.git`"),
    };
    if protocols.split(':').any(|allowed| allowed == protocol) {
        return Ok(());
    }
    refuse(&format!("uses `{protocol}`, which is not allowed: use one of {}", protocols.replace(':', ", ")))
}

fn is_ssh_host(host: &str) -> bool {
    host.split_once('@').is_some_and(|(user, name)| {
        let plain =
            |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
        plain(user) && plain(name) && !user.starts_with('-') && !name.starts_with('-')
    })
}

fn check_reference(reference: &str) -> Result<()> {
    // What git itself refuses in a name, and all that has a meaning in a refspec or a revision.
    let odd = |c: char| c.is_control() || c.is_whitespace() || "~^:?*[\\+@{".contains(c);
    if reference.starts_with('-') || reference.contains("..") || reference.contains(odd) {
        return Err(Error::Git(format!(
            "{reference:?} is no name of a branch or tag, and no commit: give one of these"
        )));
    }
    Ok(())
}

fn looks_like_commit(reference: &str) -> bool {
    (4..=64).contains(&reference.len()) && reference.bytes().all(|b| b.is_ascii_hexdigit())
}

/// `https://user:secret@host/` without user and secret.
pub(crate) fn without_secret(url: &str) -> String {
    let Some((protocol, rest)) = url.split_once("://") else { return url.to_owned() };
    let authority = rest.split('/').next().unwrap_or(rest);
    match authority.rsplit_once('@') {
        Some((user, _)) if protocol != "ssh" => format!("{protocol}://{}", &rest[user.len() + 1..]),
        _ => url.to_owned(),
    }
}

/// What git said last.
fn words(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let telling = lines.iter().find(|line| line.starts_with("fatal:")).or(lines.last());
    telling.map_or_else(|| format!("nothing ({})", output.status), |line| (*line).to_owned())
}

#[cfg(test)]
mod tests {
    use std::{fs, path::PathBuf};

    use proptest::prelude::*;

    use super::*;

    struct Fixture {
        _dir: tempfile::TempDir,
        url: String,
        work_tree: PathBuf,
        git_dir: PathBuf,
        first: String,
    }

    /// A repository with two commits, the second on `main` and tagged `v2`.
    fn fixture() -> Fixture {
        let dir = tempfile::tempdir().unwrap();
        let origin = dir.path().join("origin");
        let (work_tree, git_dir) = (dir.path().join("work"), dir.path().join("git"));
        for folder in [&origin, &work_tree] {
            fs::create_dir(folder).unwrap();
        }
        let git = |arguments: &[&str]| {
            let identity =
                ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"];
            let output = std::process::Command::new("git")
                .args(identity)
                .args(arguments)
                .current_dir(&origin)
                .output()
                .unwrap();
            assert!(output.status.success(), "{output:?}");
            String::from_utf8(output.stdout).unwrap().trim().to_owned()
        };
        git(&["init", "-q", "-b", "main"]);
        fs::write(origin.join("train.py"), "one").unwrap();
        git(&["add", "."]);
        git(&["commit", "-q", "-m", "one"]);
        let first = git(&["rev-parse", "HEAD"]);
        fs::write(origin.join("train.py"), "two").unwrap();
        git(&["commit", "-q", "-a", "-m", "two"]);
        git(&["tag", "v2"]);
        let url = format!("file://{}", origin.display());
        Fixture { _dir: dir, url, work_tree, git_dir, first }
    }

    impl Fixture {
        async fn checkout(&self, reference: &str) -> Result<String> {
            let repository = Repository { url: self.url.clone(), reference: reference.into() };
            let (work_tree, git_dir) = (&self.work_tree, &self.git_dir);
            Git { repository: &repository, work_tree, folder: git_dir, protocols: "file" }.checkout().await
        }

        fn content(&self) -> String {
            fs::read_to_string(self.work_tree.join("train.py")).unwrap()
        }
    }

    #[tokio::test]
    async fn branch_tag_and_commit_are_found() {
        let fixture = fixture();
        for reference in ["", "main", "v2"] {
            fixture.checkout(reference).await.unwrap();
            assert_eq!(fixture.content(), "two");
        }
        for reference in [fixture.first.as_str(), &fixture.first[..8]] {
            assert_eq!(fixture.checkout(reference).await.unwrap(), fixture.first);
            assert_eq!(fixture.content(), "one");
        }
    }

    #[tokio::test]
    async fn the_workspace_gets_no_git_folder_and_its_own_is_not_used() {
        let fixture = fixture();
        let hook = fixture.work_tree.join(".git/hooks/post-checkout");
        fs::create_dir_all(hook.parent().unwrap()).unwrap();
        fs::write(&hook, "#!/bin/sh\ntouch ran\n").unwrap();
        std::process::Command::new("chmod").arg("+x").arg(&hook).status().unwrap();
        fs::write(fixture.work_tree.join("mine.txt"), "kept").unwrap();
        fixture.checkout("main").await.unwrap();
        assert!(!fixture.work_tree.join("ran").exists());
        assert_eq!(fs::read_to_string(fixture.work_tree.join("mine.txt")).unwrap(), "kept");
    }

    #[tokio::test]
    async fn a_link_in_the_workspace_leads_nowhere() {
        let fixture = fixture();
        let outside = fixture.work_tree.with_file_name("outside");
        fs::write(&outside, "outside").unwrap();
        std::os::unix::fs::symlink(&outside, fixture.work_tree.join("train.py")).unwrap();
        fixture.checkout("main").await.unwrap();
        assert_eq!(fs::read_to_string(outside).unwrap(), "outside");
        assert_eq!(fixture.content(), "two");
    }

    #[tokio::test]
    async fn what_is_wrong_is_said() {
        let mut fixture = fixture();
        for reference in ["nosuch", "deadbeef"] {
            let error = fixture.checkout(reference).await.unwrap_err().to_string();
            assert!(error.contains("no branch, tag or commit") && error.contains(reference), "{error}");
        }
        fixture.url.push_str("-gone");
        let error = fixture.checkout("main").await.unwrap_err().to_string();
        assert!(error.contains("cannot be reached"), "{error}");
    }

    #[test]
    fn an_address_cannot_be_an_option_or_run_a_program() {
        for bad in [
            "--upload-pack=touch /tmp/x",
            "ext::sh -c id",
            "ext::id",
            "file:///etc",
            "/etc",
            "../x",
            "https://-oProxyCommand=x/",
            "-host:path",
            "user@-oProxyCommand=x:path",
            "a@b::c",
            "",
        ] {
            assert!(check_url(bad, PROTOCOLS).is_err(), "{bad}");
        }
        for good in
            ["https://host/a.git", "http://host:80/a", "git://h/a", "ssh://git@host/a", "git@host:team/a.git"]
        {
            check_url(good, PROTOCOLS).unwrap();
        }
    }

    #[test]
    fn a_reference_cannot_be_an_option_or_a_refspec() {
        for bad in ["--force", "a:b", "+main", "a..b", "a b", "HEAD~1", "HEAD@{1}", "a\nb"] {
            assert!(check_reference(bad).is_err(), "{bad}");
        }
        for good in ["", "main", "feature/x-1", "v1.0", "0123abcd"] {
            check_reference(good).unwrap();
        }
    }

    #[test]
    fn a_password_is_not_repeated() {
        assert_eq!(without_secret("https://me:pw@host/a@b.git"), "https://host/a@b.git");
        assert_eq!(without_secret("git@host:a.git"), "git@host:a.git");
    }

    proptest! {
        #[test]
        fn what_is_let_through_cannot_be_an_option_another_protocol_or_a_refspec(
            url in address(),
            reference in "[ -~]{0,20}|\\PC{0,10}",
        ) {
            if check_url(&url, PROTOCOLS).is_ok() {
                prop_assert!(!url.starts_with('-') && !url.starts_with('/') && !url.starts_with('.'));
                prop_assert!(!url.contains("::") || url.contains("://"), "{url}");
                prop_assert!(!url.contains(|c: char| c.is_control() || c.is_whitespace()));
                let protocol = url.split_once("://").map_or("ssh", |(protocol, _)| protocol);
                prop_assert!(["https", "http", "ssh", "git"].contains(&protocol), "{url}");
                let place = url.split_once("://").map_or(url.as_str(), |(_, place)| place);
                prop_assert!(!place.starts_with('-'), "{url}");
            }
            if check_reference(&reference).is_ok() {
                prop_assert!(!reference.starts_with('-') && !reference.starts_with('+'));
                prop_assert!(!reference.contains(':') && !reference.contains(".."));
            }
        }

        #[test]
        fn no_password_is_left(user in "[a-z]{1,5}", secret in "[A-Z0-9:@]{1,8}", rest in "[a-z./@]{0,12}") {
            let shown = without_secret(&format!("https://{user}:{secret}@host/{rest}"));
            prop_assert_eq!(shown, format!("https://host/{rest}"));
        }
    }

    /// Addresses, good and bad, and what looks a little like one.
    fn address() -> impl Strategy<Value = String> {
        let protocol =
            prop_oneof!["https?://", "ssh://", "git://", "ext::", "file://", "-?", "[a-z]{1,8}:{0,2}/{0,2}"];
        let host = prop_oneof!["[a-z]{1,5}", "-[a-zA-Z]{1,5}", "[a-z]{0,3}@-?[a-z]{1,5}:?", "\\PC{0,8}"];
        (protocol, host, "[ -~]{0,12}").prop_map(|(protocol, host, path)| format!("{protocol}{host}{path}"))
    }
}
