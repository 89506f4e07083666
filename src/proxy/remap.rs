//! Keys whose server is away, and the server that takes them meanwhile
//! (`on_eject: remap`).
//!
//! Never a stale value: what is changed on the way is remembered as missed by the
//! key's own server before it is changed elsewhere, and is deleted there before
//! that server serves again; and of what the other server holds only that counts
//! which was stored there since ([`crate::pool::missed::guests`]).

use std::rc::Rc;

use super::dispatch::Target;
use super::session::{Reading, Session};
use super::settings::OnEject;
use super::slots::Asked;
use super::worker::Link;
use crate::net::buffers;
use crate::pool::missed::{Claim, Hosting};
use crate::pool::{Connection, Cure, Failure, health};
use crate::protocol::Request;
use crate::protocol::effect::{Effect, absent};
use crate::protocol::request::Wire;

/// The way around a server that is away.
#[derive(Clone, Copy)]
pub(super) struct Detour<'a> {
    /// The way to the server of the key.
    home: &'a Rc<Connection>,
    /// The place of the server that stands in for it.
    pub(super) at: usize,
    /// What makes the key one of those that it holds; `None` if it is one.
    claim: Option<Claim>,
    /// Since when it holds it, or would.
    turn: u64,
}

/// What becomes of a request whose server is away.
pub(super) enum Turned {
    /// It is sent to the other server, and its success may mean something.
    Sent(Option<Cure>),
    /// The other server counts as holding nothing.
    Absent,
}

impl Session {
    /// The way around the server of `key`, which is that at place `at` of the pool;
    /// `None` if it is not away, or if nobody stands in for it.
    #[inline]
    pub(super) fn detour<'a>(
        &self,
        target: Target<'a>,
        key: &[u8],
        at: usize,
    ) -> Option<Detour<'a>> {
        match target.pool.on_eject {
            OnEject::FailFast => None,
            OnEject::Remap => self.detour_around(target, key, at),
        }
    }

    fn detour_around<'a>(&self, target: Target<'a>, key: &[u8], at: usize) -> Option<Detour<'a>> {
        let Link::Remote(connections) = target.view.links.get(at)? else {
            return None;
        };
        let home = self.pick(connections)?;
        // Before the servers are looked at: what changes meanwhile makes what is
        // noted for this turn worthless.
        let turn = health::turns();
        if home.server().health.is_active() {
            return None;
        }
        let host = target.pool.stand_in(key, at)?;
        let member = target.pool.members.get(host)?;
        let claim = match member.server.missed.hosting(key, turn) {
            Hosting::Holds => None,
            Hosting::Unknown(claim) => Some(claim),
            Hosting::Full => return None,
        };
        Some(Detour {
            home,
            at: host,
            claim,
            turn,
        })
    }

    /// Asks the server that stands in for that of a request's key.
    #[cold]
    pub(super) fn ask_around(
        self: &Rc<Self>,
        detour: &Detour<'_>,
        (request, key, wire): (&Request<'_>, &[u8], Wire<'_>),
        asked: Asked,
        target: Target<'_>,
        reading: &Reading<'_>,
    ) {
        let Some(host) = self.host(detour, target) else {
            return;
        };
        match detour.turn(Effect::of(request), key) {
            Turned::Sent(cure) => {
                if let Some(cure) = cure {
                    host.note_cure(key, cure);
                }
                self.ask_remote(host, (request, key, wire), asked, reading);
            }
            Turned::Absent => {
                let mut reply = buffers::take();
                let outcome = absent(request, &mut reply);
                if outcome.is_some() {
                    host.server().missed.answered_absent();
                }
                match outcome {
                    Some(outcome) if asked.quiet.hides(outcome) => {}
                    Some(_) => self.answer(&reply),
                    // It would make an item if there was none, which nobody knows.
                    None => self.fail_at_once(asked, detour.home, Failure::Ejected),
                }
                buffers::give(reply);
            }
        }
    }

    /// The connection to the server that stands in.
    pub(super) fn host<'a>(
        &self,
        detour: &Detour<'_>,
        target: Target<'a>,
    ) -> Option<&'a Rc<Connection>> {
        match target.view.links.get(detour.at)? {
            Link::Remote(connections) => self.pick(connections),
            Link::Embedded(_) | Link::Shard(_) => None,
        }
    }
}

impl<'a> Detour<'a> {
    /// The way to the server of the key.
    pub(super) fn home(&self) -> &'a Rc<Connection> {
        self.home
    }

    /// Turns a request of this effect on `key` aside. What is to be sent is counted;
    /// a change is remembered for the server of the key before anybody can see it.
    pub(super) fn turn(&self, effect: Effect, key: &[u8]) -> Turned {
        let cure = match (self.claim, effect) {
            (None, _) | (Some(Claim::Never), Effect::Replaces) => None,
            (Some(claim), Effect::Replaces) => Some(Cure::Hosted {
                turn: self.turn,
                claim,
            }),
            (Some(_), Effect::Reads | Effect::Changes) => return Turned::Absent,
        };
        self.home.remapped();
        if effect != Effect::Reads {
            self.home.server().missed.miss(key);
        }
        Turned::Sent(cure)
    }
}
