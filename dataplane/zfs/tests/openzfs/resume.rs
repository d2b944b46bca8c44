//! Resume tokens, by hand: what survives a death on either side, and when a token is worth nothing.

use std::{
    io::Write,
    process::{Command, Stdio},
};

use crate::{
    fixture::{Pair, Scratch, noise, pair, property_of, received, refused, sent},
    support::zfs,
};

const BYTES: usize = 3_000_000;

/// A filesystem with the snapshots 1 and 2, of 3 MB each, and a name to receive it into.
fn source(pair: &Pair) -> (Scratch, Scratch) {
    let fs = Scratch::create(&pair.from, &[]);
    for (file, snapshot) in [("one", "1"), ("two", "2")] {
        fs.write(file, &noise(BYTES));
        fs.snapshot(snapshot);
    }
    (fs, Scratch::absent(&pair.to))
}

/// Receives the beginning of a stream and keeps what arrived; gives the token.
fn broken_off(copy: &Scratch, stream: &[u8], end: usize) -> String {
    let said = received(&["-s", "-u", &copy.name], &stream[..end]).unwrap_err();
    assert!(said.contains("Partially received snapshot is saved"), "{said}");
    token(copy)
}

fn token(copy: &Scratch) -> String {
    let token = copy.property("receive_resume_token");
    assert!(token.starts_with("1-"), "{token}");
    token
}

fn same(fs: &Scratch, copy: &Scratch, snapshot: &str) {
    assert_eq!(property_of(&copy.at(snapshot), "guid"), property_of(&fs.at(snapshot), "guid"));
    assert_eq!(copy.property("receive_resume_token"), "-");
}

#[tokio::test]
async fn a_full_stream_goes_on_from_anywhere() {
    let Some(pair) = pair("a full stream broken off at three points and resumed from the token").await else {
        return;
    };
    let (fs, copy) = source(&pair);
    let whole = sent(&[&fs.at("1")]);
    for quarter in 1..4 {
        let end = whole.len() * quarter / 4;
        let token = broken_off(&copy, &whole, end);
        let rest = sent(&["-t", &token]);
        assert!(
            rest.len() < whole.len() - end + (512 << 10),
            "{} after {end} of {}",
            rest.len(),
            whole.len()
        );
        received(&["-s", "-u", &copy.name], &rest).unwrap();
        same(&fs, &copy, "1");
        zfs(&["destroy", "-r", &copy.name]);
    }
}

#[tokio::test]
async fn an_increment_goes_on() {
    let Some(pair) =
        pair("an incremental stream broken off and resumed; its base is untouched meanwhile").await
    else {
        return;
    };
    let (fs, copy) = source(&pair);
    received(&["-u", &copy.name], &sent(&[&fs.at("1")])).unwrap();
    let increment = sent(&["-i", &fs.at("1"), &fs.at("2")]);
    let token = broken_off(&copy, &increment, increment.len() / 2);
    same_base(&fs, &copy);
    received(&["-s", "-u", &copy.name], &sent(&["-t", &token])).unwrap();
    same(&fs, &copy, "2");
}

fn same_base(fs: &Scratch, copy: &Scratch) {
    assert_eq!(property_of(&copy.at("1"), "guid"), property_of(&fs.at("1"), "guid"));
}

#[tokio::test]
async fn a_stream_may_break_off_again_and_again() {
    let Some(pair) = pair("a stream that breaks off four times, each time a little further").await else {
        return;
    };
    let (fs, copy) = source(&pair);
    let mut stream = sent(&[&fs.at("1")]);
    for _ in 0..4 {
        let token = broken_off(&copy, &stream, stream.len() / 3);
        stream = sent(&["-t", &token]);
    }
    assert!(stream.len() < BYTES / 2);
    received(&["-s", "-u", &copy.name], &stream).unwrap();
    same(&fs, &copy, "1");
}

#[tokio::test]
async fn the_receiver_is_killed() {
    let Some(pair) = pair("kill -9 of `zfs receive -s` in the middle leaves a token").await else { return };
    let (fs, copy) = source(&pair);
    let whole = sent(&[&fs.at("1")]);
    let mut receiver =
        Command::new("zfs").args(["receive", "-s", "-u", &copy.name]).stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = receiver.stdin.take().unwrap();
    // All but what the pipe holds has been taken from it when this returns.
    stdin.write_all(&whole[..whole.len() * 2 / 3]).unwrap();
    receiver.kill().unwrap();
    receiver.wait().unwrap();
    drop(stdin);
    let rest = sent(&["-t", &token(&copy)]);
    assert!(rest.len() < whole.len(), "what had arrived is not sent again");
    received(&["-s", "-u", &copy.name], &rest).unwrap();
    same(&fs, &copy, "1");
}

#[tokio::test]
async fn the_sender_is_killed() {
    let Some(pair) = pair("kill -9 of `zfs send` ends the stream, and the receiver keeps what it has").await
    else {
        return;
    };
    let (fs, copy) = source(&pair);
    let mut sender = Command::new("zfs").args(["send", &fs.at("1")]).stdout(Stdio::piped()).spawn().unwrap();
    let mut stream = std::io::Read::take(sender.stdout.take().unwrap(), 1_500_000);
    let mut receiver =
        Command::new("zfs").args(["receive", "-s", "-u", &copy.name]).stdin(Stdio::piped()).spawn().unwrap();
    std::io::copy(&mut stream, receiver.stdin.as_mut().unwrap()).unwrap();
    sender.kill().unwrap();
    sender.wait().unwrap();
    drop(receiver.stdin.take());
    assert!(!receiver.wait().unwrap().success());
    received(&["-s", "-u", &copy.name], &sent(&["-t", &token(&copy)])).unwrap();
    same(&fs, &copy, "1");
}

#[tokio::test]
async fn a_token_whose_snapshot_is_gone() {
    let Some(pair) = pair("the sender destroyed the snapshot, or made another of its name: start over").await
    else {
        return;
    };
    let (fs, copy) = source(&pair);
    let whole = sent(&[&fs.at("2")]);
    let token = broken_off(&copy, &whole, whole.len() / 2);
    zfs(&["destroy", &fs.at("2")]);
    assert!(refused(&["send", "-t", &token]).contains("no longer exists"));
    fs.snapshot("2");
    assert!(
        refused(&["send", "-t", &token]).contains("no longer the same snapshot used in the initial send")
    );
    zfs(&["receive", "-A", &copy.name]);
    refused(&["list", &copy.name]);
    received(&["-s", "-u", &copy.name], &sent(&[&fs.at("2")])).unwrap();
    same(&fs, &copy, "2");
}

#[tokio::test]
async fn giving_up_keeps_the_base() {
    let Some(pair) = pair("`receive -A` after a broken increment leaves the base as it was").await else {
        return;
    };
    let (fs, copy) = source(&pair);
    received(&["-u", &copy.name], &sent(&[&fs.at("1")])).unwrap();
    let increment = sent(&["-i", &fs.at("1"), &fs.at("2")]);
    broken_off(&copy, &increment, increment.len() / 2);
    zfs(&["receive", "-A", &copy.name]);
    same(&fs, &copy, "1");
    refused(&["receive", "-A", &copy.name]);
    received(&["-u", &copy.name], &increment).unwrap();
    same(&fs, &copy, "2");
}

#[tokio::test]
async fn what_waits_blocks_everything_else() {
    let Some(pair) = pair("while a token waits, a stream that is not its continuation is refused").await
    else {
        return;
    };
    let (fs, copy) = source(&pair);
    let whole = sent(&[&fs.at("1")]);
    let waiting = broken_off(&copy, &whole, whole.len() / 2);
    for flags in [&["-u"][..], &["-s", "-u"], &["-F", "-u"]] {
        received(&[flags, &[copy.name.as_str()]].concat(), &whole).unwrap_err();
        assert_eq!(token(&copy), waiting, "receive {flags:?} left it alone");
    }
}

#[tokio::test]
async fn tokens_that_are_none() {
    let Some(pair) = pair("damaged, cut and invented tokens are refused by the sender").await else { return };
    let (fs, copy) = source(&pair);
    let whole = sent(&[&fs.at("1")]);
    let token = broken_off(&copy, &whole, whole.len() / 2);
    let mut damaged = token.clone().into_bytes();
    let last = damaged.len() - 1;
    damaged[last] = if damaged[last] == b'0' { b'1' } else { b'0' };
    let damaged = String::from_utf8(damaged).unwrap();
    for none in [&token[..token.len() / 2], &damaged, "1-0-0-0", "x", ""] {
        let said = refused(&["send", "-t", none]);
        assert!(
            said.contains("resume token is corrupt") || said.contains("cannot resume send"),
            "{none}: {said}"
        );
    }
    // A base goes without saying: one that is given beside a token is a mistake.
    refused(&["send", "-t", &token, "-i", &fs.at("1")]);
}

#[tokio::test]
async fn a_token_keeps_its_flags() {
    let Some(pair) = pair("a stream of -L -c -e goes on with the same flags, which the token holds").await
    else {
        return;
    };
    let (fs, copy) = (Scratch::create(&pair.from, &["-o", "recordsize=1M"]), Scratch::absent(&pair.to));
    fs.write("f", &noise(4 << 20));
    fs.write("text", "a line\n".repeat(300_000).as_bytes());
    fs.snapshot("1");
    let whole = sent(&["-Lce", &fs.at("1")]);
    let token = broken_off(&copy, &whole, whole.len() / 2);
    let told = zfs(&["send", "-nvt", &token]);
    for flag in ["largeblockok", "embedok", "compressok"] {
        assert!(told.contains(flag), "{told}");
    }
    received(&["-s", "-u", &copy.name], &sent(&["-t", &token])).unwrap();
    same(&fs, &copy, "1");
}
