//! What a client says, taken apart and carried out.

use std::io;
use std::task::{Context, Poll};

use memchr::memchr;

use super::ahead;
use super::command;
use super::incoming::Incoming;
use super::session::{End, PAUSE_BYTES, Session};
use super::settings::Dialect;
use super::shared::Shared;
use super::users::LOGIN_BYTES_MAX;
use crate::backend::execute::{self, Refused};
use crate::backend::store::Owned;
use crate::clock;
use crate::net::inbox::{Batch, Consumed};
use crate::net::outbox::Writer;
use crate::net::stream::ReadHalf;
use crate::protocol::binary::{self, MAGIC_REQUEST};
use crate::protocol::request::{Cut, Replaced, Request, Retrieve, Words};
use crate::protocol::{Error, Limits, text};

/// What a conversation may look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
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
    mode: Mode,
    /// Bytes of a refused value that are still to come.
    pub(super) swallow: usize,
    /// A large value that is on its way in.
    pub(super) incoming: Option<Box<Incoming>>,
    /// Of a retrieval that has been begun, the place of the key to go on with.
    retrieved: usize,
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
            retrieved: 0,
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
                if used >= fetched && scanned == 0 {
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

    #[inline]
    fn take_text(&mut self, rest: &[u8], scanned: usize, reading: &mut Reading<'_, '_>) -> Step {
        match text::cut(rest, scanned, &reading.limits) {
            Cut::Request {
                request: Request::Retrieve(retrieve),
                len,
            } => self.retrieve(&retrieve, len, reading),
            Cut::Request { request, len } => {
                reading.execute(&request);
                Step::Used(len)
            }
            Cut::Announced {
                request,
                len,
                value_len,
            } => self.expect_value(&request, rest, len, value_len, reading),
            Cut::Refused {
                error,
                silent,
                len,
                swallow,
                replaced,
            } => {
                let line = rest.get(..len).unwrap_or_default();
                self.swallow = swallow;
                if error == Error::UnknownCommand && reading.command_of_tests(line)
                    || error == Error::OpaqueTooLong && reading.refuse_too_large(line)
                {
                    return Step::Used(len);
                }
                reading.note_refused(error, line);
                reading.refuse(error, silent, replaced);
                Step::Used(len)
            }
            Cut::More { need } => Step::More {
                need,
                scanned: match memchr(b'\n', rest.get(scanned..).unwrap_or_default()) {
                    None => rest.len(),
                    Some(_) => 0,
                },
            },
            Cut::Close => Step::Close,
        }
    }
}

/// Retrievals.
impl Talk {
    /// Carries out a retrieval of `len` bytes, or as much of it as may be owed to the client.
    #[inline]
    fn retrieve(
        &mut self,
        request: &Retrieve<'_>,
        len: usize,
        reading: &mut Reading<'_, '_>,
    ) -> Step {
        let from = self.retrieved;
        let rest = Retrieve {
            keys: request.keys.from(from),
            ..*request
        };
        let place = reading.retrieve(&rest).map(|place| from + place);
        self.retrieved = place.unwrap_or(0);
        match place {
            Some(_) => Step::Paused,
            None => Step::Used(len),
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
    /// Makes ready for the value of the command at the start of `rest`, or to pass over it.
    fn expect_value(
        &mut self,
        request: &Request<'_>,
        rest: &[u8],
        len: usize,
        value_len: usize,
        reading: &mut Reading<'_, '_>,
    ) -> Step {
        let store = &reading.shared.store;
        if !execute::fits(store, request, value_len) {
            self.swallow = value_len + 2;
            reading.execute_with(request, Err(Refused::TooLarge));
        } else if let Some(need) = Incoming::wants(rest, len, value_len) {
            return Step::More { need, scanned: 0 };
        } else {
            let head = rest.get(..len).unwrap_or_default();
            self.incoming = Some(Box::new(Incoming::new(store, head, value_len, 2)));
        }
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

/// Logging in.
impl Talk {
    /// Takes what looks like a `set`; its value is `name password`.
    fn take_login(&mut self, rest: &[u8], reading: &mut Reading<'_, '_>) -> Step {
        /// Shorter is no login at all, and memcached closes.
        const LINE_BYTES_MIN: usize = 6;
        /// Longer is rubbish.
        const LINE_BYTES_MAX: usize = 2048;
        let Some(end) = memchr(b'\n', rest) else {
            if rest.len() > LINE_BYTES_MAX {
                return Step::Close;
            }
            let need = rest.len() + 1;
            return Step::More { need, scanned: 0 };
        };
        if end < LINE_BYTES_MIN {
            return Step::Close;
        }
        let line = rest.get(..end).and_then(|line| line.strip_suffix(b"\r"));
        let Some(line) = line else {
            return Step::Close;
        };
        let mut words = Words::new(line);
        let is_set = words.next() == Some(b"set");
        let length = words.nth(3).and_then(crate::protocol::number::read_u32);
        let length = length.and_then(|length| usize::try_from(length).ok());
        let Some(length) = length.filter(|_| is_set) else {
            reading.say("CLIENT_ERROR unauthenticated");
            return Step::Used(end + 1);
        };
        if length > LOGIN_BYTES_MAX {
            reading.say("CLIENT_ERROR auth token too long");
            return Step::Used(end + 1);
        }
        let total = end + 1 + length + 2;
        let Some(block) = rest.get(end + 1..total) else {
            return Step::More {
                need: total,
                scanned: 0,
            };
        };
        if reading.login(block) {
            self.mode = Mode::Text;
        }
        Step::Used(total)
    }
}

impl Reading<'_, '_> {
    /// Carries out a request.
    #[inline]
    fn execute(&mut self, request: &Request<'_>) {
        if self.shared.detail.is_enabled() {
            return self.execute_in_detail(request);
        }
        if let Request::Admin(admin) = request {
            command::execute(self.session, self.shared, admin, self.now, self.out);
        } else {
            execute::execute(&self.shared.store, request, self.now, self.out);
        }
    }

    /// Retrieves as much as may be owed to the client. Returns the place of the key to go on
    /// with, if that was not all.
    #[inline]
    fn retrieve(&mut self, request: &Retrieve<'_>) -> Option<usize> {
        let (store, now) = (&self.shared.store, self.now);
        let detail = &self.shared.detail;
        let retrieved = if detail.is_enabled() {
            let seen = |key: &[u8], hit| detail.record_get(key, hit);
            execute::retrieve_some(store, request, PAUSE_BYTES, now, self.out, seen)
        } else {
            execute::retrieve_some(store, request, PAUSE_BYTES, now, self.out, |_, _| {})
        };
        // Who has been told that there is no memory is done.
        retrieved.unwrap_or(None)
    }

    /// Carries out a request and counts it for its key's prefix.
    fn execute_in_detail(&mut self, request: &Request<'_>) {
        let detail = &self.shared.detail;
        let store = &self.shared.store;
        match request {
            Request::Store(store) => detail.record_set(store.key),
            Request::Change(change)
                if change.verb == crate::protocol::request::ChangeVerb::Delete =>
            {
                detail.record_delete(change.key);
            }
            Request::Admin(admin) => {
                return command::execute(self.session, self.shared, admin, self.now, self.out);
            }
            _ => {}
        }
        execute::execute(store, request, self.now, self.out);
    }

    fn execute_with(&mut self, request: &Request<'_>, value: Result<Owned, Refused>) {
        self.count_set_in_detail(request);
        execute::execute_with(&self.shared.store, request, value, self.now, self.out);
    }

    /// Counts a value that is stored, or not, for its key's prefix, as memcached does for
    /// commands of the classic dialect.
    fn count_set_in_detail(&self, request: &Request<'_>) {
        if self.shared.detail.is_enabled()
            && let Request::Store(store) = request
        {
            self.shared.detail.record_set(store.key);
        }
    }

    fn refuse(&mut self, error: Error, silent: bool, replaced: Option<Replaced<'_>>) {
        self.session.worker.stats.bad_requests.increment();
        if error == Error::TooLarge {
            self.shared.store.count_too_large();
        }
        if let Some(replaced) = replaced {
            execute::delete_replaced(&self.shared.store, replaced, self.now);
        }
        if !silent {
            self.say(&error.to_string());
        }
    }

    /// Counts a value that was refused with its command, and tells watchers if that was for
    /// its size. `bytes` begin with the line.
    fn note_refused(&self, error: Error, bytes: &[u8]) {
        let is_too_large = error == Error::TooLarge;
        if !is_too_large && !matches!(error, Error::BadDataChunk | Error::OpaqueTooLong) {
            return;
        }
        let line = memchr(b'\n', bytes).and_then(|end| bytes.get(..=end));
        let announced = line.map(|line| text::cut(line, 0, &self.limits_of_any_value()));
        let Some(Cut::Announced { request, .. }) = announced else {
            return;
        };
        self.count_set_in_detail(&request);
        if is_too_large {
            execute::note_too_large(&request);
        } else {
            execute::count_refused(&self.shared.store, &request);
        }
    }

    /// Refuses an `ms` whose opaque is too long for its value instead, if that is too
    /// large for its key: memcached looks at that first, and what the key held goes.
    /// Says whether it did.
    fn refuse_too_large(&mut self, line: &[u8]) -> bool {
        let announced = text::cut(line, 0, &self.limits_of_any_value());
        if let Cut::Announced {
            request, value_len, ..
        } = announced
            && !execute::fits(&self.shared.store, &request, value_len)
        {
            self.execute_with(&request, Err(Refused::TooLarge));
            return true;
        }
        false
    }

    /// Bounds within which every value is announced.
    pub(super) fn limits_of_any_value(&self) -> Limits {
        Limits {
            value_bytes_max: usize::MAX,
            announce_bytes_min: 0,
            opaque_bytes_max: usize::MAX,
            ..self.limits
        }
    }

    fn say(&mut self, text: &str) {
        let bytes = self.out.bytes();
        bytes.extend_from_slice(text.as_bytes());
        bytes.extend_from_slice(b"\r\n");
    }

    /// Checks `name password` and a line end.
    fn login(&mut self, block: &[u8]) -> bool {
        let Some(login) = block.strip_suffix(b"\r\n") else {
            self.say("CLIENT_ERROR bad command line termination");
            return false;
        };
        let blank = memchr(b' ', login).and_then(|blank| login.split_at_checked(blank));
        let Some((name, [_, password @ ..])) = blank else {
            self.say("CLIENT_ERROR bad authentication token format");
            return false;
        };
        let stats = &self.session.worker.stats;
        stats.logins.increment();
        let users = self.shared.users();
        let known = users.is_some_and(|users| users.know(name, password));
        if known {
            self.say("STORED");
        } else {
            stats.login_failures.increment();
            self.say("CLIENT_ERROR authentication failure");
        }
        known
    }

    /// Commands that only tests of clients and servers have. Says whether it was
    /// one.
    fn command_of_tests(&mut self, line: &[u8]) -> bool {
        let line = line.trim_ascii_end();
        let Some(args) = line.strip_prefix(b"debugtime ") else {
            return false;
        };
        if !self.shared.settings.move_clock {
            return false;
        }
        let seconds = str::from_utf8(args).ok().and_then(|args| args.parse().ok());
        match seconds {
            Some(seconds) => {
                self.shared.store.advance_clock(seconds);
                self.now = self.shared.store.now();
                self.say("OK");
            }
            None => self.say("ERROR"),
        }
        true
    }
}
