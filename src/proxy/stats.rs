//! What a worker counts about its clients and pools.

use std::sync::Arc;

use crate::protocol::binary::Opcode;
use crate::protocol::meta;
use crate::protocol::request::{Change, ChangeVerb, Request, RetrieveVerb, StoreVerb};
use crate::stats::{Counter, Gauge};

/// A command that goes to servers, as metrics name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is the command of its name")]
pub enum Command {
    Get,
    Gets,
    Gat,
    Gats,
    Set,
    Add,
    Replace,
    Append,
    Prepend,
    Cas,
    Incr,
    Decr,
    Delete,
    Touch,
    Mg,
    Ms,
    Md,
    Ma,
    Me,
    FlushAll,
}

impl Command {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 20] = [
        Self::Get,
        Self::Gets,
        Self::Gat,
        Self::Gats,
        Self::Set,
        Self::Add,
        Self::Replace,
        Self::Append,
        Self::Prepend,
        Self::Cas,
        Self::Incr,
        Self::Decr,
        Self::Delete,
        Self::Touch,
        Self::Mg,
        Self::Ms,
        Self::Md,
        Self::Ma,
        Self::Me,
        Self::FlushAll,
    ];

    /// Its name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Gets => "gets",
            Self::Gat => "gat",
            Self::Gats => "gats",
            Self::Set => "set",
            Self::Add => "add",
            Self::Replace => "replace",
            Self::Append => "append",
            Self::Prepend => "prepend",
            Self::Cas => "cas",
            Self::Incr => "incr",
            Self::Decr => "decr",
            Self::Delete => "delete",
            Self::Touch => "touch",
            Self::Mg => "mg",
            Self::Ms => "ms",
            Self::Md => "md",
            Self::Ma => "ma",
            Self::Me => "me",
            Self::FlushAll => "flush_all",
        }
    }

    /// The command of a request; those not about a key all count as one.
    #[inline]
    pub fn of(request: &Request<'_>) -> Self {
        match request {
            Request::Retrieve(retrieve) => match retrieve.verb {
                RetrieveVerb::Get => Self::Get,
                RetrieveVerb::Gets => Self::Gets,
                RetrieveVerb::Gat => Self::Gat,
                RetrieveVerb::Gats => Self::Gats,
            },
            Request::Store(store) => match store.verb {
                StoreVerb::Set => Self::Set,
                StoreVerb::Add => Self::Add,
                StoreVerb::Replace => Self::Replace,
                StoreVerb::Append => Self::Append,
                StoreVerb::Prepend => Self::Prepend,
                StoreVerb::Cas => Self::Cas,
            },
            Request::Change(Change { verb, .. }) => match verb {
                ChangeVerb::Delete => Self::Delete,
                ChangeVerb::Touch(_) => Self::Touch,
                ChangeVerb::Incr(_) => Self::Incr,
                ChangeVerb::Decr(_) => Self::Decr,
            },
            Request::Meta(meta) => match meta.verb {
                meta::Verb::Get => Self::Mg,
                meta::Verb::Set => Self::Ms,
                meta::Verb::Delete => Self::Md,
                meta::Verb::Arithmetic => Self::Ma,
                meta::Verb::Debug => Self::Me,
            },
            Request::Admin(_) => Self::FlushAll,
        }
    }

    /// The command that does what this opcode does, told or untold.
    #[inline]
    pub fn of_opcode(opcode: Opcode) -> Self {
        match opcode.loud() {
            Opcode::Get | Opcode::GetK => Self::Get,
            Opcode::Gat | Opcode::GatK => Self::Gat,
            Opcode::Set => Self::Set,
            Opcode::Add => Self::Add,
            Opcode::Replace => Self::Replace,
            Opcode::Append => Self::Append,
            Opcode::Prepend => Self::Prepend,
            Opcode::Increment => Self::Incr,
            Opcode::Decrement => Self::Decr,
            Opcode::Delete => Self::Delete,
            Opcode::Touch => Self::Touch,
            _ => Self::FlushAll,
        }
    }
}

/// What a request came in, as metrics name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// Text and meta commands, which tell themselves apart.
    Text,
    /// Binary frames.
    Binary,
}

impl Dialect {
    /// Both of them.
    pub const ALL: [Self; 2] = [Self::Text, Self::Binary];

    /// The name in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Binary => "binary",
        }
    }
}

/// What one worker has seen of a pool.
#[derive(Debug, Default)]
pub struct PoolStats {
    /// Requests, by [`Command`].
    requests: [Counter; Command::ALL.len()],
    /// Those of them that came in binary frames.
    in_binary: [Counter; Command::ALL.len()],
    /// Reads that went on to another member of a shard after an error.
    pub failovers: Counter,
    /// Items added to members of a shard that did not hold them.
    pub repairs: Counter,
    /// Repairs not begun because too many were under way.
    pub repairs_denied: Counter,
    /// Changes of shards' keys that crossed others of the same key: all but one
    /// member deleted it.
    pub changes_crossed: Counter,
    /// Second members asked because the first was slow.
    pub hedges: Counter,
    /// Second members that answered first.
    pub hedges_won: Counter,
    /// Second members not asked because the budget was spent.
    pub hedges_denied: Counter,
}

impl PoolStats {
    /// Counts a request.
    #[inline]
    pub fn asked(&self, command: Command) {
        if let Some(counter) = self.requests.get(command as usize) {
            counter.increment();
        }
    }

    /// Counts a request in a binary frame.
    #[inline]
    pub fn asked_in_binary(&self, command: Command) {
        self.asked(command);
        if let Some(counter) = self.in_binary.get(command as usize) {
            counter.increment();
        }
    }

    /// Requests with this command.
    pub fn requests(&self, command: Command) -> u64 {
        self.requests.get(command as usize).map_or(0, Counter::get)
    }

    /// Requests with this command that came in this dialect.
    pub fn requests_in(&self, command: Command, dialect: Dialect) -> u64 {
        // Read before the sum: a request is counted there first.
        let binary = self.in_binary.get(command as usize);
        let binary = binary.map_or(0, Counter::get);
        match dialect {
            Dialect::Text => self.requests(command).saturating_sub(binary),
            Dialect::Binary => binary,
        }
    }
}

/// Why a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The client closed or quit.
    Client,
    /// It sent what is not worth an answer.
    Rubbish,
    /// It was idle for too long.
    Idle,
    /// It did not take its replies.
    Slow,
    /// The proxy is stopping.
    Drain,
    /// The worker held too much, and it stood still for longest.
    Memory,
}

impl End {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 6] = [
        Self::Client,
        Self::Rubbish,
        Self::Idle,
        Self::Slow,
        Self::Drain,
        Self::Memory,
    ];

    /// The name in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Rubbish => "rubbish",
            Self::Idle => "idle",
            Self::Slow => "slow",
            Self::Drain => "drain",
            Self::Memory => "memory",
        }
    }
}

/// What one worker has seen of its clients.
#[derive(Debug, Default)]
pub struct WorkerStats {
    /// Sessions it serves now.
    pub sessions: Gauge,
    /// Bytes that its peers make it hold, as it was last looked at.
    pub held: Gauge,
    /// Sessions ended, by [`End`].
    ended: [Counter; End::ALL.len()],
    /// Bytes received from clients.
    pub bytes_received: Counter,
    /// Bytes sent to clients.
    pub bytes_sent: Counter,
    /// Requests refused for their form, and answered with an error.
    pub bad_requests: Counter,
    /// How often reading from a client paused because it was owed too much.
    pub pauses: Counter,
    /// Multi-key replies that outgrew their bound.
    pub oversized: Counter,
    /// Failures told to clients as `SERVER_ERROR`.
    pub failures_told: Counter,
    /// Keys told as misses although their server was not heard
    /// (`miss_on_error`).
    pub failures_masked: Counter,
    /// Failures kept back because the client wanted no answer (`noreply`).
    pub failures_untold: Counter,
}

impl WorkerStats {
    /// Counts the end of a session.
    pub fn ended(&self, end: End) {
        if let Some(counter) = self.ended.get(end as usize) {
            counter.increment();
        }
    }

    /// Sessions ended for this reason.
    pub fn sessions_ended(&self, end: End) -> u64 {
        self.ended.get(end as usize).map_or(0, Counter::get)
    }
}

/// The counters of one worker, by pool.
#[derive(Clone, Debug)]
pub struct PoolCounters {
    /// The pool's name.
    pub pool: Box<str>,
    /// Its counters.
    pub stats: Arc<PoolStats>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_lists_agree() {
        for (at, command) in Command::ALL.into_iter().enumerate() {
            assert_eq!(command as usize, at, "{}", command.name());
        }
        for (at, end) in End::ALL.into_iter().enumerate() {
            assert_eq!(end as usize, at, "{}", end.name());
        }
    }
}
