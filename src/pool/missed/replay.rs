//! Deleting on a server what it has missed.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::set::Cursor;
use super::{Batch, Missed};
use crate::clock;
use crate::net::stream::Stream;
use crate::pool::dial::{Dialect, dial};
use crate::pool::failure::Failure;
use crate::pool::health;
use crate::pool::server::{Place, Server};
use crate::protocol::key::{encode_base64, is_plain};
use crate::protocol::reply::{self, Part, Shape};

/// Keys deleted in one go: few enough that the replies fit into socket buffers
/// while the requests are still being written, so that neither side waits for
/// the other.
const BATCH_KEYS_MAX: usize = 1024;

/// How long a batch may take at least: a pool whose requests may not take long
/// must not keep a server away for that.
const BATCH_TIMEOUT_MIN: Duration = Duration::from_secs(1);

/// A pause between rounds of deletions on a server that serves, so that changes
/// which go on failing do not cost a connection each.
const PAUSE: Duration = Duration::from_millis(10);

/// Deletes everything on the server that can be deleted now. `timeout` bounds
/// each batch.
///
/// # Errors
///
/// What the server did instead; what it has not deleted is still remembered.
pub async fn replay(
    stream: &mut Stream,
    missed: &Missed,
    timeout: Duration,
) -> Result<(), Failure> {
    match stream {
        Stream::Tcp(stream) => replay_over(stream, missed, timeout).await,
        Stream::Unix(stream) => replay_over(stream, missed, timeout).await,
    }
}

async fn replay_over(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    missed: &Missed,
    timeout: Duration,
) -> Result<(), Failure> {
    let mut cursor = Cursor::default();
    let mut batch = Batch::default();
    let (mut wire, mut shapes) = (Vec::new(), Vec::new());
    loop {
        missed.dismiss_guests(health::turns());
        missed.batch(&mut cursor, BATCH_KEYS_MAX, &mut batch);
        compose(&batch, &mut wire, &mut shapes);
        if shapes.is_empty() {
            return Ok(());
        }
        let timeout = timeout.max(BATCH_TIMEOUT_MIN);
        // A batch that is cut short loses the connection, and nothing else: keys
        // are forgotten only when all of it has been answered.
        clock::timeout(timeout, exchange(stream, &wire, &shapes))
            .await
            .unwrap_or(Err(Failure::TimedOut))?;
        missed.deleted(&batch);
    }
}

/// The requests for a batch, and the shape of the reply to each.
fn compose(batch: &Batch, wire: &mut Vec<u8>, shapes: &mut Vec<Shape>) {
    wire.clear();
    shapes.clear();
    if batch.everything.is_some() {
        wire.extend_from_slice(b"flush_all\r\n");
        shapes.push(Shape::Ok);
        return;
    }
    let mut rest = &batch.keys[..];
    for due in &batch.due {
        let Some(key) = rest.split_off(..usize::from(due.len)) else {
            return;
        };
        if is_plain(key) {
            // The zero keeps a key named `noreply` from being taken for a wish.
            wire.extend_from_slice(b"delete ");
            wire.extend_from_slice(key);
            wire.extend_from_slice(b" 0\r\n");
            shapes.push(Shape::Delete);
        } else {
            wire.extend_from_slice(b"md ");
            encode_base64(wire, key);
            wire.extend_from_slice(b" b\r\n");
            shapes.push(Shape::MetaDelete);
        }
    }
}

/// Sends requests and reads the reply to each.
async fn exchange(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    wire: &[u8],
    shapes: &[Shape],
) -> Result<(), Failure> {
    stream.write_all(wire).await.map_err(|_| Failure::Closed)?;
    let mut replies = Vec::with_capacity(16 * 1024);
    let mut shapes = shapes.iter();
    let Some(mut shape) = shapes.next() else {
        return Ok(());
    };
    loop {
        let mut used = 0;
        while let Ok(Part::Whole {
            len,
            outcome,
            in_step: true,
        }) = reply::cut(*shape, 0, replies.get(used..).unwrap_or_default())
        {
            // A server that is asked to delete what it cannot hold (a key too
            // long for it, a command it does not know) has nothing to forget.
            // One that is in trouble has.
            if outcome == reply::Outcome::ServerError {
                return Err(Failure::Protocol);
            }
            used += len;
            match shapes.next() {
                Some(next) => shape = next,
                None if used == replies.len() => return Ok(()),
                None => return Err(Failure::Protocol),
            }
        }
        replies.drain(..used);
        if !matches!(reply::cut(*shape, 0, &replies), Ok(Part::More { .. })) {
            return Err(Failure::Protocol);
        }
        match stream.read_buf(&mut replies).await {
            Ok(1..) => {}
            _ => return Err(Failure::Closed),
        }
    }
}

/// Deletes on a server that serves what it has missed meanwhile, for as long as
/// it is part of the configuration. Before one that was ejected serves again,
/// the probe does it.
pub async fn keep_up(server: &Server) {
    let Place::Remote(address) = &server.place else {
        return;
    };
    let settings = &server.settings;
    let mut attempt = 0;
    loop {
        server.missed.wait_for_work().await;
        server.health.wait_until(true).await;
        let done = match dial(address, Dialect::Text, settings.connect_timeout).await {
            Ok(mut stream) => replay(&mut stream, &server.missed, settings.timeout).await,
            Err(failure) => Err(failure),
        };
        let wait = match done {
            Ok(()) => {
                attempt = 0;
                PAUSE
            }
            Err(failure) => {
                tracing::debug!(
                    server = %server.name,
                    cause = failure.name(),
                    "cannot delete what was missed"
                );
                attempt += 1;
                settings.probe.wait(attempt - 1, fastrand::f64())
            }
        };
        clock::sleep(wait).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::missed::{OnReturn, Settings};
    use std::sync::atomic::Ordering;

    fn missed(keys: &[&[u8]], keys_max: usize) -> Missed {
        let missed = Missed::new(Settings {
            keys_max,
            on_return: OnReturn::Flush,
        });
        keys.iter().for_each(|key| missed.miss(key));
        missed
    }

    /// Replays to a server that expects `wants` and answers `answer`.
    async fn played(missed: &Missed, wants: &[u8], answer: &[u8]) -> Result<(), Failure> {
        let (mut ours, mut theirs) = tokio::io::duplex(64 * 1024);
        let server = async move {
            let mut got = vec![0; wants.len()];
            theirs.read_exact(&mut got).await.unwrap();
            assert_eq!(got, wants);
            for byte in answer {
                theirs.write_all(&[*byte]).await.unwrap();
            }
        };
        let replay = replay_over(&mut ours, missed, Duration::from_secs(5));
        tokio::join!(replay, server).0
    }

    #[tokio::test]
    async fn keys_are_deleted_in_order() {
        let missed = missed(&[b"b", b"noreply", b"a b"], 10);
        let wants = b"delete b 0\r\ndelete noreply 0\r\nmd YSBi b\r\n";
        let answer = b"DELETED\r\nNOT_FOUND\r\nNF\r\n";
        assert_eq!(played(&missed, wants, answer).await, Ok(()));
        assert!(!missed.any());
        assert_eq!(missed.counts.replayed.load(Ordering::Relaxed), 3);
    }

    #[tokio::test]
    async fn too_many_keys_flush_the_server() {
        let missed = missed(&[b"a", b"b"], 1);
        assert_eq!(played(&missed, b"flush_all\r\n", b"OK\r\n").await, Ok(()));
        assert!(!missed.any());
        assert_eq!(missed.counts.flushes.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn what_is_not_confirmed_is_not_forgotten() {
        for answer in [
            &b"DELETED\r\n"[..],
            b"DELETED\r\nDELETED\r\nDELETED\r\n",
            b"DELETED\r\nSTORED\r\n",
            b"SERVER_ERROR out of memory\r\nDELETED\r\n",
        ] {
            let missed = missed(&[b"a", b"b"], 10);
            let wants = b"delete a 0\r\ndelete b 0\r\n";
            assert!(played(&missed, wants, answer).await.is_err(), "{answer:?}");
            assert!(missed.has(b"a") && missed.has(b"b"));
        }
    }

    #[tokio::test]
    async fn what_the_server_cannot_hold_is_forgotten() {
        let missed = missed(&[b"a b"], 10);
        let done = played(&missed, b"md YSBi b\r\n", b"ERROR\r\n").await;
        assert_eq!(done, Ok(()));
        assert!(!missed.any());
    }
}
