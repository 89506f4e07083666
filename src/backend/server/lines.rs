//! The text dialect of a conversation, with its meta commands.

use std::ops::Range;

use memchr::memchr;

use super::command;
use super::session::PAUSE_BYTES;
use super::talk::{Reading, Step, Talk};
use crate::backend::execute::{self, Refused};
use crate::backend::store::Owned;
use crate::protocol::request::{ChangeVerb, Cut, Keys, Replaced, Request, Retrieve, RetrieveVerb};
use crate::protocol::{Error, text};

/// A retrieval that has been carried out in part.
#[derive(Debug)]
pub(super) struct Begun {
    verb: RetrieveVerb,
    exptime: i32,
    /// Where in its line the keys are that are still to be looked for.
    keys: Range<usize>,
    /// The length of the line.
    len: usize,
}

impl Talk {
    /// Takes the first request of `rest`, whose first `scanned` bytes hold no line end.
    #[inline]
    pub(super) fn take_text(
        &mut self,
        rest: &[u8],
        scanned: usize,
        reading: &mut Reading<'_, '_>,
    ) -> Step {
        if let Some(begun) = self.begun.take() {
            return self.go_on(begun, rest, reading);
        }
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

    /// Carries out a retrieval of `len` bytes, or as much of it as may be owed to the client.
    #[inline]
    fn retrieve(
        &mut self,
        request: &Retrieve<'_>,
        len: usize,
        reading: &mut Reading<'_, '_>,
    ) -> Step {
        let Some(place) = reading.retrieve(request) else {
            return Step::Used(len);
        };
        let behind = request.whole.get(request.head.len()..).unwrap_or_default();
        let blanks = behind.iter().take_while(|&&byte| byte == b' ').count();
        let first = request.head.len() + blanks;
        self.begun = Some(Begun {
            verb: request.verb,
            exptime: request.exptime,
            keys: first + place..first + request.keys.all.len(),
            len,
        });
        Step::Paused
    }

    /// Goes on with a retrieval whose line `rest` begins with.
    fn go_on(&mut self, mut begun: Begun, rest: &[u8], reading: &mut Reading<'_, '_>) -> Step {
        let keys = rest.get(begun.keys.clone()).unwrap_or_default();
        let request = Retrieve {
            verb: begun.verb,
            head: b"",
            exptime: begun.exptime,
            keys: Keys::of(keys),
            whole: b"",
        };
        let Some(place) = reading.retrieve(&request) else {
            return Step::Used(begun.len);
        };
        begun.keys.start += place;
        self.begun = Some(begun);
        Step::Paused
    }

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
            return Step::Used(len);
        }
        self.begin_value(store, rest, len, [value_len, 2])
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
            Request::Change(change) if change.verb == ChangeVerb::Delete => {
                detail.record_delete(change.key);
            }
            Request::Admin(admin) => {
                return command::execute(self.session, self.shared, admin, self.now, self.out);
            }
            _ => {}
        }
        execute::execute(store, request, self.now, self.out);
    }

    pub(super) fn execute_with(&mut self, request: &Request<'_>, value: Result<Owned, Refused>) {
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
