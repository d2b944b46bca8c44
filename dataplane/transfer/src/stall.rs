//! When a transfer is given up because nothing moves: no bytes, and not what ZFS has put on the pool either.

use std::time::Duration;

use ds_zfs::{ReceiveProgress, ResumeToken};
use tokio::time::{Instant, sleep_until};

use crate::{Error, Result};

/// Without any progress for so long a transfer is given up: an end that is reachable but stuck must not hold a place
/// for ever. Long, because ZFS may search for changes, or write out, for minutes.
const STALL: Duration = Duration::from_mins(10);

/// How often ZFS is asked while nothing moves.
const LOOK: Duration = Duration::from_mins(2);

/// Watches one end of a transfer.
#[derive(Debug)]
pub(crate) struct Watch {
    moved: Instant,
    looked: Instant,
    /// Where a receive is that takes no bytes but may be at work.
    receive: Option<ReceiveProgress>,
    token: Option<ResumeToken>,
}

/// What a look has found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Look {
    /// ZFS is further than it was: the other end, which sees no bytes move, should hear of it.
    ZfsMoved,
    /// Nothing yet.
    Still,
}

impl Watch {
    pub(crate) fn new() -> Self {
        let now = Instant::now();
        Self { moved: now, looked: now, receive: None, token: None }
    }

    /// Looks at this receive as well from now on.
    pub(crate) fn watch(&mut self, receive: ReceiveProgress) {
        self.receive = Some(receive);
    }

    /// Says that bytes moved.
    pub(crate) fn moved(&mut self) {
        self.moved = Instant::now();
    }

    /// Completes when nothing has moved for a while, and again after each [look](Watch::look).
    pub(crate) async fn still(&self) {
        sleep_until(self.moved.max(self.looked) + LOOK).await;
    }

    /// Asks ZFS. Fails with [`Error::Stalled`], which names `what` stands still, when nothing has moved for too long.
    pub(crate) async fn look(&mut self, what: &'static str) -> Result<Look> {
        let token = match &self.receive {
            // ZFS may be too busy to say; then it is asked again.
            Some(receive) => receive.token().await.unwrap_or_default(),
            None => None,
        };
        self.judge(token, Instant::now(), what)
    }

    fn judge(&mut self, token: Option<ResumeToken>, now: Instant, what: &'static str) -> Result<Look> {
        self.looked = now;
        if token.is_some() && token != self.token {
            let first = self.token.is_none();
            self.token = token;
            // The first one says where it is, not that it moves.
            if !first {
                self.moved = now;
                return Ok(Look::ZfsMoved);
            }
        }
        if now.saturating_duration_since(self.moved) < STALL {
            return Ok(Look::Still);
        }
        Err(Error::Stalled { minutes: STALL.as_secs() / 60, what })
    }
}

#[cfg(test)]
mod tests {
    use ds_zfs::{SnapshotGuid, StreamMode};

    use super::*;

    fn token(bytes: u64) -> ResumeToken {
        let said =
            format!("\ttoguid = 0x1\n\ttoname = a@b\n\tobject = 0x2\n\toffset = 0x0\n\tbytes = {bytes}\n");
        let token = ResumeToken::parse("1-a-b-c", &said).unwrap();
        assert_eq!((token.to, token.mode), (SnapshotGuid(1), StreamMode::PLAIN));
        token
    }

    fn after(watch: &Watch, minutes: u64) -> Instant {
        watch.moved + Duration::from_mins(minutes)
    }

    #[test]
    fn nothing_for_ten_minutes_is_too_long_and_named() {
        let mut watch = Watch::new();
        for minutes in [2, 4, 6, 8] {
            let now = after(&watch, minutes);
            assert_eq!(watch.judge(None, now, "x").unwrap(), Look::Still);
        }
        let now = after(&watch, 10);
        let error = watch.judge(None, now, "the sender sent nothing").unwrap_err();
        assert_eq!(error.to_string(), "nothing moved for 10 minutes: the sender sent nothing");
    }

    #[test]
    fn a_receive_that_gets_on_is_waited_for() {
        let mut watch = Watch::new();
        let mut looks = Vec::new();
        for bytes in [7, 7, 8, 8, 8, 8, 9] {
            let now = watch.looked + LOOK;
            looks.push(watch.judge(Some(token(bytes)), now, "x").unwrap());
        }
        let (moved, still) = (Look::ZfsMoved, Look::Still);
        assert_eq!(looks, [still, still, moved, still, still, still, moved]);
        let now = after(&watch, 10);
        assert!(watch.judge(Some(token(9)), now, "x").is_err());
    }
}
