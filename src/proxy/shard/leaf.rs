//! The leaf operation: one request to one server, as a future.
//!
//! What looks at a reply before it acts is a task of the worker that awaits
//! leaves. Asking happens when the leaf is made, not when it is first polled, so
//! that requests leave in the order in which tasks were started; a leaf that is
//! dropped leaves its request under way, and its reply is dropped.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;

use super::version::Shown;
use crate::net::outbox::SHARE_BYTES_MIN;
use crate::pool::{Asker, Failure, Reply, Verdict};
use crate::protocol::reply::{Block, Outcome};

/// What came of client.
#[derive(Clone, Debug)]
pub enum Said {
    /// The server's reply.
    Reply {
        /// As it was sent; of a retrieval of many keys only its end.
        bytes: Bytes,
        /// What it says.
        outcome: Outcome,
    },
    /// There was none.
    Failed {
        /// The server's name.
        server: Rc<str>,
        /// Why not.
        failure: Failure,
    },
}

impl Said {
    /// Whether the server did as told, or said what it holds.
    pub fn is_good(&self) -> bool {
        matches!(self, Self::Reply { outcome, .. } if !outcome.is_error())
    }

    /// What a member says that holds nothing.
    pub fn nothing() -> Self {
        Self::Reply {
            bytes: Bytes::from_static(b"NOT_FOUND\r\n"),
            outcome: Outcome::Miss,
        }
    }

    /// Whether the member has yet to delete what it missed of the key.
    pub fn is_behind(&self) -> bool {
        matches!(
            self,
            Self::Failed {
                failure: Failure::Behind,
                ..
            }
        )
    }

    /// How good it is, against others: hit, then stored and the like, then miss,
    /// then error, then nothing.
    pub fn rank(&self) -> u8 {
        match self {
            Self::Reply { outcome, .. } => match outcome {
                Outcome::Hit => 0,
                Outcome::Done => 1,
                outcome if outcome.is_error() => 3,
                _ => 2,
            },
            Self::Failed { .. } => 4,
        }
    }

    /// What it says, if it says anything.
    pub fn outcome(&self) -> Option<Outcome> {
        match self {
            Self::Reply { outcome, .. } => Some(*outcome),
            Self::Failed { .. } => None,
        }
    }

    /// Tells whoever asked.
    pub fn tell(&self, asker: &dyn Asker, token: u64) {
        match self {
            Self::Reply { bytes, outcome } => {
                let reply = Reply::Whole {
                    bytes,
                    owner: Some(bytes),
                    outcome: *outcome,
                };
                // A reply that fits its request fits whoever passed that on.
                let _ = asker.reply(token, reply);
            }
            Self::Failed { server, failure } => {
                let failure = *failure;
                let _ = asker.reply(token, Reply::Failed { server, failure });
            }
        }
    }
}

/// `VALUE` blocks, one behind the other, and what each of them is.
#[derive(Clone, Debug)]
pub struct Found {
    /// The blocks.
    pub bytes: Bytes,
    /// What they are.
    pub blocks: Vec<Block>,
}

/// What has been heard so far.
#[derive(Debug, Default)]
struct Heard {
    found: Vec<Found>,
    said: Option<Said>,
    waker: Option<Waker>,
}

/// Whoever waits for one reply.
#[derive(Debug, Default)]
pub struct Ear {
    heard: RefCell<Heard>,
}

impl Asker for Ear {
    fn reply(&self, _token: u64, reply: Reply<'_>) -> Verdict {
        let mut heard = self.heard.borrow_mut();
        heard.said = Some(match reply {
            Reply::Blocks {
                bytes,
                blocks,
                owner,
            } => {
                heard.found.push(Found {
                    bytes: kept(bytes, owner),
                    blocks: blocks.to_vec(),
                });
                return Verdict::Fits;
            }
            Reply::Whole {
                bytes,
                owner,
                outcome,
            } => Said::Reply {
                bytes: kept(bytes, owner),
                outcome,
            },
            Reply::Failed { server, failure } => Said::Failed {
                server: server.into(),
                failure,
            },
        });
        if let Some(waker) = heard.waker.take() {
            waker.wake();
        }
        Verdict::Fits
    }
}

fn kept(bytes: &[u8], owner: Option<&Bytes>) -> Bytes {
    match owner {
        Some(owner) if bytes.len() >= SHARE_BYTES_MIN => owner.slice_ref(bytes),
        _ => Bytes::copy_from_slice(bytes),
    }
}

/// A request under way to one server.
#[derive(Debug)]
pub struct Leaf {
    ear: Rc<Ear>,
    /// How what it hears is shown, if it is not as it is.
    shown: Option<Shown>,
}

impl Leaf {
    /// A leaf whose request will be answered to `ear`.
    pub fn new(ear: Rc<Ear>) -> Self {
        Self { ear, shown: None }
    }

    /// The leaf, whose answer names versions of a replica.
    pub(super) fn showing(self, shown: Option<Shown>) -> Self {
        Self { shown, ..self }
    }

    /// One that has its answer already.
    pub fn answered(said: Said) -> Self {
        let ear = Ear::default();
        ear.heard.borrow_mut().said = Some(said);
        Self::new(Rc::new(ear))
    }

    /// The blocks that a retrieval of many keys has found.
    pub fn take_found(&self) -> Vec<Found> {
        let found = std::mem::take(&mut self.ear.heard.borrow_mut().found);
        match self.shown {
            Some(shown) => found.iter().map(|found| shown.found(found)).collect(),
            None => found,
        }
    }
}

impl Future for Leaf {
    type Output = Said;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Said> {
        let mut heard = self.ear.heard.borrow_mut();
        match heard.said.take() {
            Some(said) => Poll::Ready(match self.shown {
                Some(shown) => shown.said(said),
                None => said,
            }),
            None => {
                heard.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

/// Several leaves and what has come of them.
#[derive(Debug, Default)]
pub struct Leaves {
    leaves: Vec<Leaf>,
    said: Vec<Option<Said>>,
}

impl Leaves {
    /// Adds one.
    pub fn push(&mut self, leaf: Leaf) {
        self.leaves.push(leaf);
        self.said.push(None);
    }

    /// What each has said so far, in the order they were added.
    pub fn said(&self) -> &[Option<Said>] {
        &self.said
    }

    /// Waits until `enough` has been said, or all have said what they will.
    pub async fn until(&mut self, enough: impl Fn(&[Option<Said>]) -> bool) {
        std::future::poll_fn(|cx| {
            for (leaf, said) in self.leaves.iter_mut().zip(&mut self.said) {
                if said.is_none()
                    && let Poll::Ready(answer) = Pin::new(leaf).poll(cx)
                {
                    *said = Some(answer);
                }
            }
            if enough(&self.said) || self.said.iter().all(Option::is_some) {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn done(bytes: &'static [u8], outcome: Outcome) -> Said {
        Said::Reply {
            bytes: Bytes::from_static(bytes),
            outcome,
        }
    }

    #[test]
    fn answers_have_an_order() {
        let failed = Said::Failed {
            server: "a".into(),
            failure: Failure::Ejected,
        };
        let all = [
            done(b"VALUE", Outcome::Hit),
            done(b"STORED", Outcome::Done),
            done(b"END", Outcome::Miss),
            done(b"SERVER_ERROR", Outcome::ServerError),
            failed,
        ];
        assert!(all.is_sorted_by_key(Said::rank));
        assert!(all[2].is_good() && !all[3].is_good() && !all[4].is_good());
    }

    #[tokio::test]
    async fn a_leaf_is_woken_by_its_answer() {
        let ear = Rc::new(Ear::default());
        let leaf = Leaf::new(Rc::clone(&ear));
        let (said, ()) = tokio::join!(leaf, async {
            tokio::task::yield_now().await;
            let reply = Reply::Whole {
                bytes: b"OK\r\n",
                owner: None,
                outcome: Outcome::Done,
            };
            assert_eq!(ear.reply(0, reply), Verdict::Fits);
        });
        assert_eq!(said.outcome(), Some(Outcome::Done));
    }

    #[tokio::test]
    async fn enough_is_enough() {
        let silent = Rc::new(Ear::default());
        let mut leaves = Leaves::default();
        leaves.push(Leaf::new(silent));
        leaves.push(Leaf::answered(done(b"OK", Outcome::Done)));
        leaves
            .until(|said| said.iter().flatten().count() == 1)
            .await;
        assert!(leaves.said()[0].is_none() && leaves.said()[1].is_some());
    }
}
