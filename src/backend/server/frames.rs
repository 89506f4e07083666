//! The binary dialect of a conversation.

use super::session::End;
use super::stats;
use super::talk::{Reading, Step, Talk};
use crate::backend::execute::{self, Refused, VERSION, respond};
use crate::backend::store::Owned;
use crate::protocol::binary::{self, Cut, Extras, Opcode, Request, Response, Status};

impl Talk {
    /// Takes the first request of `rest`.
    pub(super) fn take_frame(&mut self, rest: &[u8], reading: &mut Reading<'_, '_>) -> Step {
        match binary::cut(rest, &reading.limits) {
            Cut::Request { request, len } => {
                reading.execute_frame(&request);
                Step::Used(len)
            }
            Cut::More { need } => match binary::announced(rest, &reading.limits) {
                Some((request, len, value_len)) => {
                    self.expect_frame_value(&request, rest, len, value_len, reading)
                }
                None => Step::More { need, scanned: 0 },
            },
            Cut::Refused(refused) => {
                if refused.status == Status::TooLarge {
                    reading.note_too_large_frame(rest.get(..refused.len).unwrap_or_default());
                }
                reading.refuse_frame(&refused);
                self.swallow = refused.swallow;
                Step::Used(refused.len)
            }
            Cut::Close => Step::Close,
        }
    }

    /// Makes ready for the value of the request at the start of `rest`, or to pass over it.
    fn expect_frame_value(
        &mut self,
        request: &Request<'_>,
        rest: &[u8],
        len: usize,
        value_len: usize,
        reading: &mut Reading<'_, '_>,
    ) -> Step {
        let store = &reading.shared.store;
        if !execute::fits_binary(store, request, value_len) {
            self.swallow = value_len;
            reading.execute_frame_with(request, Err(Refused::TooLarge));
            return Step::Used(len);
        }
        self.begin_value(store, rest, len, [value_len, 0])
    }
}

impl Reading<'_, '_> {
    #[inline]
    fn execute_frame(&mut self, request: &Request<'_>) {
        if request.opcode.has_item() {
            let store = &self.shared.store;
            let hit = execute::execute_binary(store, request, None, self.now, self.out);
            if self.shared.detail.is_enabled() {
                self.count_in_detail(request, hit);
            }
        } else {
            self.execute_frame_of_server(request);
        }
    }

    /// Carries out a request whose value came separately, or did not.
    pub(super) fn execute_frame_with(
        &mut self,
        request: &Request<'_>,
        value: Result<Owned, Refused>,
    ) {
        let store = &self.shared.store;
        execute::execute_binary(store, request, Some(value), self.now, self.out);
        if self.shared.detail.is_enabled() {
            self.count_in_detail(request, true);
        }
    }

    fn count_in_detail(&self, request: &Request<'_>, hit: bool) {
        let (detail, key) = (&self.shared.detail, request.key);
        match request.opcode.loud() {
            Opcode::Delete => detail.record_delete(key),
            Opcode::Increment | Opcode::Decrement => {}
            opcode if opcode.retrieves() || opcode == Opcode::Touch => detail.record_get(key, hit),
            _ => detail.record_set(key),
        }
    }

    /// Carries out a request that is not about an item.
    fn execute_frame_of_server(&mut self, request: &Request<'_>) {
        let out = self.out.bytes();
        let quiet = request.opcode.is_quiet();
        match request.opcode.loud() {
            Opcode::Noop => respond(request, Status::Ok, out),
            Opcode::Version => answer(request, b"", VERSION.as_bytes(), out),
            Opcode::Quit => {
                if !quiet {
                    respond(request, Status::Ok, out);
                }
                self.session.end(End::Client);
            }
            Opcode::Flush if !self.shared.settings.flush => {
                respond(request, Status::AuthFailure, out);
            }
            Opcode::Flush => {
                let at = match request.extras {
                    Extras::Exptime(at) => at,
                    _ => 0,
                };
                stats::count_flush(self.shared);
                execute::flush_at(&self.shared.store, at, self.now);
                if !quiet {
                    respond(request, Status::Ok, out);
                }
            }
            Opcode::Stat => self.report(request),
            // What is not known has been refused before.
            _ => respond(request, Status::UnknownCommand, out),
        }
    }

    /// Tells statistics: a response for each, and one without a name.
    fn report(&mut self, request: &Request<'_>) {
        let out = self.out.bytes();
        let Some(lines) = stats::report_binary(self.shared, request.key, self.now) else {
            return respond(request, Status::NotFound, out);
        };
        for (name, value) in &lines {
            answer(request, name.as_bytes(), value.as_bytes(), out);
        }
        answer(request, b"", b"", out);
    }

    /// Counts a value that was refused for its size, and tells watchers, from the header,
    /// extras and key that announced it.
    fn note_too_large_frame(&self, head: &[u8]) {
        if let Some((request, _, _)) = binary::announced(head, &self.limits_of_any_value()) {
            if self.shared.detail.is_enabled() {
                self.count_in_detail(&request, true);
            }
            execute::note_too_large_binary(&request);
        }
    }

    fn refuse_frame(&mut self, refused: &binary::Refused<'_>) {
        self.session.worker.stats.bad_requests.increment();
        if refused.status == Status::TooLarge {
            self.shared.store.count_too_large();
        }
        if let Some(key) = refused.replaced {
            execute::delete_key(&self.shared.store, key, self.now);
        }
        Response::of_status(refused.opcode, refused.opaque, refused.status)
            .encode(self.out.bytes());
        if refused.closes {
            self.session.end(End::Rubbish);
        }
    }
}

/// Writes a response that holds something.
fn answer(request: &Request<'_>, key: &[u8], value: &[u8], out: &mut Vec<u8>) {
    Response {
        opcode: request.opcode.byte(),
        opaque: request.opaque,
        key,
        value,
        ..Response::default()
    }
    .encode(out);
}
