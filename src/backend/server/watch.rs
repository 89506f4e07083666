//! Clients that watch: how they begin, and what others are told of clients.

use std::fs::File;

use super::session::{End, Session};
use super::shared::{Presence, Shared};
use super::worker::Worker;
use crate::backend::watch::{self, Event, Kinds, Reason, Refused};
use crate::net::outbox::Writer;
use crate::protocol::request::Words;

/// Carries out `watch` with its words: from now on the client is told what happens and
/// is not listened to. Says what the client is told if that cannot be; else it is told
/// `OK` by whom it is then told the rest.
pub(super) fn begin(
    session: &Session,
    shared: &Shared,
    args: &[u8],
    out: &Writer<'_>,
) -> Option<&'static str> {
    if !shared.settings.watch {
        return Some("CLIENT_ERROR watch commands not allowed");
    }
    if !out.is_empty() {
        return Some("ERROR cannot pipeline other commands before watch");
    }
    let Some(kinds) = read_kinds(args) else {
        return Some("ERROR");
    };
    // Lines are written by a thread of their own: a second handle to the socket, which
    // the session reads on to know when the client goes.
    let Ok(socket) = session.outbox.duplicate() else {
        return Some("WATCHER_FAILED failed to add log watcher");
    };
    match shared.watch.join(kinds, Box::new(File::from(socket))) {
        Ok(seat) => {
            session.watch(seat);
            None
        }
        Err(Refused::TooMany) => Some("WATCHER_TOO_MANY log watcher limit reached"),
        Err(Refused::Failed) => Some("WATCHER_FAILED failed to add log watcher"),
    }
}

/// What a client wants to be told; without a word what is looked for.
fn read_kinds(args: &[u8]) -> Option<Kinds> {
    let mut kinds = Words::new(args).map(Kinds::named).peekable();
    if kinds.peek().is_none() {
        return Some(Kinds::FETCHERS);
    }
    kinds.try_fold(Kinds::NONE, |all, kinds| Some(all | kinds?))
}

/// Tells that a client has come.
pub(super) fn note_opened(worker: &Worker, presence: &Presence) {
    note(worker, presence, Event::Opened);
}

/// Tells that a client has gone.
pub(super) fn note_closed(worker: &Worker, presence: &Presence, end: End) {
    let reason = match end {
        End::Client => Reason::Normal,
        End::Rubbish => Reason::Error,
        End::Idle => Reason::Idle,
        End::Shutdown => Reason::Shutdown,
    };
    note(worker, presence, Event::Closed(reason));
}

fn note(worker: &Worker, presence: &Presence, event: Event) {
    if let Some(_working) = worker.desk.work(presence.number) {
        watch::note(event, presence.peer.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_name_what_is_told() {
        assert_eq!(read_kinds(b""), Some(Kinds::FETCHERS));
        assert_eq!(
            read_kinds(b" mutations deletions "),
            Some(Kinds::MUTATIONS | Kinds::DELETIONS)
        );
        assert_eq!(
            read_kinds(b" rawcmds proxyuser sysevents"),
            Some(Kinds::NONE)
        );
        assert_eq!(read_kinds(b" fetchers nonsense"), None);
        assert_eq!(read_kinds(b" fetchers noreply"), None);
    }
}
