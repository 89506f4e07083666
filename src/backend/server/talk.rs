//! What a client says, taken apart and carried out.

use std::io;
use std::task::{Context, Poll};

use super::ahead;
use super::incoming::Incoming;
use super::lines::Begun;
use super::session::{End, PAUSE_BYTES, Session};
use super::settings::Dialect;
use super::shared::Shared;
use crate::backend::execute::{self, Refused};
use crate::backend::store::{Owned, Store};
use crate::clock;
use crate::net::inbox::{Batch, Consumed};
use crate::net::outbox::Writer;
use crate::net::stream::ReadHalf;
use crate::protocol::binary::{self, MAGIC_REQUEST};
use crate::protocol::request::Cut;
use crate::protocol::{Limits, text};

/// What a conversation may look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// The first byte decides.
    Unknown,
    /// The client has to log in, by something that looks like a `set`.
    Login,
    /// Text and meta.
    Text,
    /// Binary.
    Binary,
}

/// A client's side of a conversation, as far as it has been heard.
#[derive(Debug)]
pub(super) struct Talk {
    pub(super) mode: Mode,
    /// Bytes of a refused value that are still to come.
    pub(super) swallow: usize,
    /// A large value that is on its way in.
    pub(super) incoming: Option<Box<Incoming>>,
    /// A retrieval that goes on when the client has taken what it is owed. Nothing of its
    /// line has been consumed.
    pub(super) begun: Option<Begun>,
    /// Taking stopped before the end of what had arrived.
    unread: bool,
    /// It did because it is the turn of others.
    yields: bool,
}

/// What stays the same while a batch of requests is taken.
pub(super) struct Reading<'a, 'b> {
    pub(super) session: &'a Session,
    pub(super) shared: &'a Shared,
    pub(super) out: &'a mut Writer<'b>,
    /// In seconds, for items.
    pub(super) now: u32,
    pub(super) limits: Limits,
}

fn consumed(used: usize, need: usize, scanned: usize) -> Consumed {
    Consumed {
        used,
        need,
        scanned,
    }
}

impl Talk {
    pub(super) fn new(session: &Session) -> Self {
        let shared = session.worker.shared();
        let listener = shared.listeners.get(session.presence().listener);
        let mode = match listener.map_or(shared.settings.dialect, |listener| listener.dialect) {
            _ if shared.users().is_some() => Mode::Login,
            Dialect::Ascii => Mode::Text,
            Dialect::Auto => Mode::Unknown,
            Dialect::Binary => Mode::Binary,
        };
        Self {
            mode,
            swallow: 0,
            incoming: None,
            begun: None,
            unread: false,
            yields: false,
        }
    }

    /// Whether taking stopped before the end of what had arrived. Once.
    #[inline]
    pub(super) fn has_unread(&mut self) -> bool {
        std::mem::take(&mut self.unread)
    }

    /// Whether it is the turn of other clients. Once.
    #[inline]
    pub(super) fn yields(&mut self) -> bool {
        std::mem::take(&mut self.yields)
    }

    /// Whether the bytes that come next belong to a large value.
    #[inline]
    pub(super) fn awaits_value(&self) -> bool {
        self.incoming.is_some()
    }

    /// Carries out every complete request of a batch.
    pub(super) fn take(&mut self, session: &Session, batch: &Batch<'_>) -> Consumed {
        let shared = session.worker.shared();
        session.presence().spoke(clock::now());
        let now = shared.store.now();
        let _working = session.worker.desk.work(session.presence().number);
        let mut out = session.outbox.writer();
        let mut reading = Reading {
            session,
            shared,
            out: &mut out,
            now,
            limits: execute::limits(&shared.store),
        };
        let consumed = self.take_each(batch, &mut reading);
        let received = u64::try_from(consumed.used).unwrap_or(u64::MAX);
        session.worker.stats.bytes_received.add(received);
        let halfway = self.incoming.is_some() || consumed.need > 0 || self.swallow > 0;
        session.presence().set_halfway(halfway);
        consumed
    }

    fn take_each(&mut self, batch: &Batch<'_>, reading: &mut Reading<'_, '_>) -> Consumed {
        let mut used = 0;
        let mut scanned = batch.scanned;
        // No bound is a number that 64 KiB of requests do not reach.
        let mut left = reading.shared.settings.requests_per_turn.wrapping_sub(1);
        // Up to where what requests ask for is fetched.
        let mut fetched = 0;
        loop {
            let skip = self.swallow.min(batch.bytes.len() - used);
            self.swallow -= skip;
            used += skip;
            let rest = batch.bytes.get(used..).unwrap_or_default();
            if rest.is_empty() {
                return consumed(used, 0, 0);
            }
            if reading.session.is_deaf() {
                // `quit` or `watch`: what comes after it is not read.
                return consumed(batch.bytes.len(), 0, 0);
            }
            if reading.out.len() >= PAUSE_BYTES {
                self.unread = true;
                return consumed(used, 0, 0);
            }
            let step = if self.incoming.is_some() {
                self.take_value(rest, reading)
            } else {
                // A line that goes on has been looked at when it began.
                if used >= fetched && scanned == 0 && self.begun.is_none() {
                    fetched = used + self.fetch_ahead(rest, reading);
                }
                self.take_one(rest, scanned, reading)
            };
            match step {
                Step::Used(count) => {
                    used += count;
                    // Nothing is used of what only tells the dialect.
                    if count > 0 && used < batch.bytes.len() {
                        if left == 0 {
                            reading.session.worker.stats.yields.increment();
                            (self.unread, self.yields) = (true, true);
                            return consumed(used, 0, 0);
                        }
                        left -= 1;
                    }
                }
                Step::More { need, scanned } => return consumed(used, need, scanned),
                Step::Paused => {
                    self.unread = true;
                    return consumed(used, 0, 0);
                }
                Step::Close => {
                    reading.session.end(End::Rubbish);
                    return consumed(batch.bytes.len(), 0, 0);
                }
            }
            scanned = 0;
        }
    }

    /// Has the processor fetch what the first requests of `rest` will look at. Returns how
    /// far those go.
    #[inline]
    fn fetch_ahead(&self, rest: &[u8], reading: &Reading<'_, '_>) -> usize {
        let store = &reading.shared.store;
        match self.mode {
            Mode::Text => ahead::fetch_ahead(store, rest, ahead::of_line),
            Mode::Binary => ahead::fetch_ahead(store, rest, ahead::of_frame),
            Mode::Login | Mode::Unknown => 0,
        }
    }

    /// Takes the first request of `rest`.
    #[inline]
    fn take_one(&mut self, rest: &[u8], scanned: usize, reading: &mut Reading<'_, '_>) -> Step {
        match self.mode {
            Mode::Text => self.take_text(rest, scanned, reading),
            Mode::Login => self.take_login(rest, reading),
            Mode::Binary => self.take_frame(rest, reading),
            Mode::Unknown => {
                self.mode = match rest.first() {
                    Some(&MAGIC_REQUEST) => Mode::Binary,
                    _ => Mode::Text,
                };
                Step::Used(0)
            }
        }
    }
}

/// How far a request goes.
pub(super) enum Step {
    /// So many bytes are done with.
    Used(usize),
    /// The rest is needed.
    More { need: usize, scanned: usize },
    /// It is begun, and goes on when the client has taken what it is owed.
    Paused,
    /// The client is not worth an answer.
    Close,
}

/// Large values.
impl Talk {
    /// Makes ready for the value of the request whose head are the first `len` bytes of
    /// `rest`, once some of it has come. `lens` are those of the value and of what ends it.
    pub(super) fn begin_value(
        &mut self,
        store: &Store,
        rest: &[u8],
        len: usize,
        lens: [usize; 2],
    ) -> Step {
        let [value_len, end_len] = lens;
        if let Some(need) = Incoming::wants(rest, len, value_len) {
            return Step::More { need, scanned: 0 };
        }
        let head = rest.get(..len).unwrap_or_default();
        self.incoming = Some(Box::new(Incoming::new(store, head, value_len, end_len)));
        Step::Used(len)
    }

    /// Takes what has come of the value.
    fn take_value(&mut self, rest: &[u8], reading: &mut Reading<'_, '_>) -> Step {
        let Some(incoming) = &mut self.incoming else {
            return Step::Used(0);
        };
        let before = incoming.rest();
        let taken = incoming.take(&reading.shared.store, rest, reading.now);
        // Some may have been taken before there was no memory.
        let used = before - incoming.rest();
        if taken.is_err() {
            self.give_up(reading);
        } else {
            self.finish_value(reading);
        }
        Step::Used(used)
    }

    /// Reads what has come of the value. Ready with `false` at the end of the
    /// stream.
    pub(super) fn poll_value(
        &mut self,
        session: &Session,
        cx: &mut Context<'_>,
        stream: &ReadHalf,
    ) -> Poll<io::Result<bool>> {
        let Some(incoming) = &mut self.incoming else {
            return Poll::Ready(Ok(true));
        };
        let shared = session.worker.shared();
        let now = shared.store.now();
        // Reading makes room, and so evicts: watchers are told of that too.
        let _working = session.worker.desk.work(session.presence().number);
        let read = incoming.poll_read(cx, stream, &shared.store, now);
        let read = std::task::ready!(read)?;
        session.presence().spoke(clock::now());
        let mut out = session.outbox.writer();
        let mut reading = Reading {
            session,
            shared,
            out: &mut out,
            now,
            limits: execute::limits(&shared.store),
        };
        match read {
            Ok(0) => return Poll::Ready(Ok(false)),
            Ok(count) => {
                let received = u64::try_from(count).unwrap_or(u64::MAX);
                session.worker.stats.bytes_received.add(received);
                self.finish_value(&mut reading);
            }
            Err(_) => self.give_up(&mut reading),
        }
        session.presence().set_halfway(self.incoming.is_some());
        Poll::Ready(Ok(true))
    }

    /// Carries out the command whose value is there, if it is.
    fn finish_value(&mut self, reading: &mut Reading<'_, '_>) {
        let Some(incoming) = self.incoming.take_if(|incoming| incoming.rest() == 0) else {
            return;
        };
        let well_ended = incoming.is_well_ended();
        let head = incoming.head.clone();
        let value = if well_ended {
            Ok(incoming.finish())
        } else {
            Err(Refused::BadEnd)
        };
        self.execute_head(&head, value, reading);
    }

    /// Carries out a command from its head, now that its value is there or is known
    /// not to come.
    fn execute_head(
        &self,
        head: &[u8],
        value: Result<Owned, Refused>,
        reading: &mut Reading<'_, '_>,
    ) {
        // It was announced before, and is so again.
        if self.mode == Mode::Binary {
            if let Some((request, _, _)) = binary::announced(head, &reading.limits) {
                reading.execute_frame_with(&request, value);
            }
        } else if let Cut::Announced { request, .. } = text::cut(head, 0, &reading.limits) {
            reading.execute_with(&request, value);
        }
    }

    /// There is no memory for the value: the rest of it is passed over.
    fn give_up(&mut self, reading: &mut Reading<'_, '_>) {
        if let Some(incoming) = self.incoming.take() {
            self.swallow = incoming.rest();
            let head = incoming.head.clone();
            drop(incoming);
            self.execute_head(&head, Err(Refused::Full), reading);
        }
    }
}

impl Reading<'_, '_> {
    /// Bounds within which every value is announced.
    pub(super) fn limits_of_any_value(&self) -> Limits {
        Limits {
            value_bytes_max: usize::MAX,
            announce_bytes_min: 0,
            opaque_bytes_max: usize::MAX,
            ..self.limits
        }
    }

    pub(super) fn say(&mut self, text: &str) {
        let bytes = self.out.bytes();
        bytes.extend_from_slice(text.as_bytes());
        bytes.extend_from_slice(b"\r\n");
    }
}
