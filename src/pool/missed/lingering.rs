//! Connections that were given up on and may still carry changes to their
//! server.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio_util::task::AbortOnDropHandle;

use super::{Counts, Missed};
use crate::clock;
use crate::net::stream::ReadHalf;
use crate::pool::health::Health;
use crate::pool::server::Server;

/// Most such connections for each one that is in use. A server that hangs gets
/// one more each time a connection to it stalls, and it is ejected before that
/// happens often.
const LINGERING_MAX: usize = 8;

/// How long a server may serve before it must have closed such a connection. It
/// reads what there is within milliseconds of going on; one that takes longer
/// does not close at all.
const SERVED_MAX: Duration = Duration::from_secs(10);

/// Keys whose changes are in doubt; over when dropped.
#[derive(Debug)]
struct Doubts {
    missed: Arc<Missed>,
    /// The keys, packed.
    keys: Vec<u8>,
}

impl Drop for Doubts {
    fn drop(&mut self) {
        self.missed.settle(&self.keys);
    }
}

/// The connections that one has had before and given up on.
#[derive(Debug, Default)]
pub(crate) struct Lingering {
    connections: VecDeque<AbortOnDropHandle<()>>,
}

impl Lingering {
    /// Keeps a connection, whose sending side is closed, until its server closes
    /// it too: then the server has read all of it.
    pub(crate) fn wait_for_end(&mut self, mut read: ReadHalf, server: Arc<Server>, keys: Vec<u8>) {
        let doubts = Doubts {
            missed: Arc::clone(&server.missed),
            keys,
        };
        self.connections.retain(|waiting| !waiting.is_finished());
        if self.connections.len() >= LINGERING_MAX {
            Counts::add(&doubts.missed.counts.abandoned, 1);
            self.connections.pop_front();
        }
        let wait = tokio::task::spawn_local(async move {
            // Whichever is cancelled loses nothing: what is read is dropped anyway.
            tokio::select! {
                () = end_of(&mut read) => {}
                () = served(&server.health) => {
                    Counts::add(&doubts.missed.counts.abandoned, 1);
                }
            }
            drop(doubts);
        });
        self.connections.push_back(AbortOnDropHandle::new(wait));
    }

    /// Waits for the end of all of them.
    pub(crate) async fn all_ended(self) {
        for waiting in self.connections {
            // One that was aborted or panicked has ended too.
            let _ = waiting.await;
        }
    }
}

/// Reads until the server has closed the connection.
async fn end_of(read: &mut ReadHalf) {
    let mut buffer = Vec::with_capacity(512);
    while let Ok(1..) = read.read_buf(&mut buffer).await {
        buffer.clear();
    }
}

/// Waits until the server has served for long enough.
pub(super) async fn served(health: &Health) {
    loop {
        health.wait_until(true).await;
        tokio::select! {
            () = clock::sleep(SERVED_MAX) => return,
            () = health.wait_until(false) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::listener::Address;
    use crate::net::stream::Stream;
    use crate::pool::missed::packed;
    use crate::pool::server::{Place, Settings};
    use tokio::io::AsyncWriteExt;
    use tokio::net::UnixStream;

    fn server() -> Arc<Server> {
        let place = Place::Remote(Address::Unix("/nowhere".into()));
        let settings = Settings::default();
        Arc::new(Server::new("a", place, settings, Arc::default()))
    }

    #[tokio::test]
    async fn a_doubt_is_over_when_the_server_closes() {
        tokio::task::LocalSet::new()
            .run_until(async {
                let server = server();
                let missed = &server.missed;
                let mut keys = Vec::new();
                packed::push(&mut keys, b"k");
                missed.miss_all(&keys, true);
                let (ours, mut theirs) = UnixStream::pair().unwrap();
                let (read, write) = Stream::Unix(ours).into_split();
                drop(write);
                let mut lingering = Lingering::default();
                lingering.wait_for_end(read, Arc::clone(&server), keys);
                theirs.write_all(b"STORED\r\n").await.unwrap();
                tokio::task::yield_now().await;
                assert!(!*missed.work.borrow());
                drop(theirs);
                missed.wait_for_work().await;
            })
            .await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_serves_and_does_not_close_is_not_waited_for_for_ever() {
        tokio::task::LocalSet::new()
            .run_until(async {
                let server = server();
                let mut keys = Vec::new();
                packed::push(&mut keys, b"k");
                server.missed.miss_all(&keys, true);
                let (ours, _theirs) = UnixStream::pair().unwrap();
                let (read, _) = Stream::Unix(ours).into_split();
                let mut lingering = Lingering::default();
                lingering.wait_for_end(read, Arc::clone(&server), keys);
                server.missed.wait_for_work().await;
            })
            .await;
    }

    #[tokio::test]
    async fn connections_waited_for_are_bounded() {
        tokio::task::LocalSet::new()
            .run_until(async {
                let server = server();
                let mut lingering = Lingering::default();
                let mut theirs = Vec::new();
                for _ in 0..=LINGERING_MAX {
                    let (ours, their) = UnixStream::pair().unwrap();
                    theirs.push(their);
                    let (read, _) = Stream::Unix(ours).into_split();
                    lingering.wait_for_end(read, Arc::clone(&server), Vec::new());
                }
                assert_eq!(lingering.connections.len(), LINGERING_MAX);
                let abandoned = &server.missed.counts.abandoned;
                assert_eq!(abandoned.load(std::sync::atomic::Ordering::Relaxed), 1);
            })
            .await;
    }
}
