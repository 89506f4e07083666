//! Keys whose changes a server has missed, for binary clients.

use std::rc::Rc;

use super::owed::Asked;
use crate::pool::{Connection, Failure};
use crate::protocol::binary::{Opcode, Request};
use crate::protocol::effect::Effect;
use crate::proxy::remap::{Detour, Turned};
use crate::proxy::session::Session;
use crate::proxy::slots::Slot;

/// What a request does to the item of its key.
#[inline]
pub(super) fn effect(request: &Request<'_>) -> Effect {
    match request.opcode.loud() {
        Opcode::Get | Opcode::GetK => Effect::Reads,
        Opcode::Set | Opcode::Delete if request.cas == 0 => Effect::Replaces,
        _ => Effect::Changes,
    }
}

/// The key that a request changes, if it changes any.
#[inline]
pub(super) fn changed_key<'a>(request: &Request<'a>) -> &'a [u8] {
    match effect(request) {
        Effect::Reads => b"",
        Effect::Replaces | Effect::Changes => request.key,
    }
}

impl Session {
    /// Answers a request on a key whose changes the server has missed; says whether
    /// that was so. As for text: what replaces the item goes to the server, what
    /// reads it misses, and what depends on it has to wait.
    #[cold]
    pub(super) fn answer_behind_item(
        &self,
        request: &Request<'_>,
        asked: &Asked,
        connection: &Rc<Connection>,
    ) -> bool {
        let server = connection.server();
        if !server.missed.has(request.key) {
            return false;
        }
        let effect = effect(request);
        if effect == Effect::Replaces {
            connection.note_replaced(request.key);
            return false;
        }
        let answer = if !server.health.is_active() {
            if effect == Effect::Changes {
                server.missed.miss(request.key);
            }
            connection.refused(Failure::Ejected);
            asked.failure(&server.name, Failure::Ejected, &self.worker.stats)
        } else if request.opcode.retrieves() {
            server.missed.answered_absent();
            asked.absent()
        } else {
            connection.refused(Failure::Behind);
            asked.failure(&server.name, Failure::Behind, &self.worker.stats)
        };
        self.answer_item(&answer);
        true
    }

    /// Turns a request aside whose server is away; says whether it has been answered
    /// with that.
    #[cold]
    pub(super) fn turn_item(
        &self,
        detour: &Detour<'_>,
        request: &Request<'_>,
        asked: &Asked,
        host: &Rc<Connection>,
    ) -> bool {
        match detour.turn(effect(request), request.key) {
            Turned::Sent(cure) => {
                if let Some(cure) = cure {
                    host.note_cure(request.key, cure);
                }
                return false;
            }
            Turned::Absent if request.opcode.retrieves() => {
                host.server().missed.answered_absent();
                self.answer_item(&asked.absent());
            }
            Turned::Absent => {
                let home = detour.home();
                home.refused(Failure::Ejected);
                let name = &home.server().name;
                let answer = asked.failure(name, Failure::Ejected, &self.worker.stats);
                self.answer_item(&answer);
            }
        }
        true
    }

    fn answer_item(&self, answer: &[u8]) {
        let mut slots = self.slots.borrow_mut();
        let number = slots.push(Slot::Parked { start: 0, len: 0 });
        slots.answer(number, answer, None, &self.outbox);
    }
}
