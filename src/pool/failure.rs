//! Why a request got no reply.

use thiserror::Error;

/// A request that a server did not answer.
///
/// The message follows the server's name in what a client is told:
/// `SERVER_ERROR 10.0.0.1:11211 timed out`.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum Failure {
    /// No reply within the pool's `timeout`.
    #[error("timed out")]
    TimedOut,
    /// Nobody listens there, or the way there is blocked.
    #[error("refused the connection")]
    Refused,
    /// No connection within the pool's `connect_timeout`.
    #[error("did not accept the connection in time")]
    ConnectTimedOut,
    /// It could not be reached for another reason: its name does not resolve,
    /// this process is out of descriptors, ...
    #[error("cannot be reached")]
    Unreachable,
    /// The connection ended while the request was under way.
    #[error("closed the connection")]
    Closed,
    /// It said something that is no reply to what was asked.
    #[error("broke the protocol")]
    Protocol,
    /// It answers in text, but not to a binary client's requests.
    #[error("does not speak the binary protocol (server_protocol: meta would do)")]
    NoBinary,
    /// It has failed too often and is left alone until it answers a probe.
    #[error("is ejected")]
    Ejected,
    /// Too many requests are waiting for it already.
    #[error("has too many requests waiting")]
    QueueFull,
    /// It is no longer part of the pool.
    #[error("has left the pool")]
    Removed,
    /// It still holds what this request must not see, and is about to be told to
    /// delete it.
    #[error("has yet to delete what it missed of this key")]
    Behind,
    /// Too many requests are waiting for all servers together.
    #[error("is not asked while too many requests wait (in_flight_max)")]
    Overload,
    /// Clients make the proxy hold too much.
    #[error("is not asked while memory is short (memory_max)")]
    Memory,
    /// It takes much longer than the other servers of its pool.
    #[error("is slow")]
    Slow,
}

/// Whether a failed request may be sent once more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// It may have been carried out.
    Never,
    /// It never left this process.
    NothingSent,
}

impl Failure {
    /// Every failure, in the order of [`Self::index`].
    pub const ALL: [Self; 14] = [
        Self::TimedOut,
        Self::Refused,
        Self::ConnectTimedOut,
        Self::Unreachable,
        Self::Closed,
        Self::Protocol,
        Self::Ejected,
        Self::QueueFull,
        Self::Removed,
        Self::NoBinary,
        Self::Overload,
        Self::Memory,
        Self::Slow,
        Self::Behind,
    ];

    /// A short name for metrics and logs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::TimedOut => "timeout",
            Self::Refused => "refused",
            Self::ConnectTimedOut => "connect_timeout",
            Self::Unreachable => "unreachable",
            Self::Closed => "closed",
            Self::Protocol => "protocol",
            Self::Ejected => "ejected",
            Self::QueueFull => "queue_full",
            Self::Removed => "removed",
            Self::Overload => "overload",
            Self::Memory => "memory",
            Self::Slow => "slow",
            Self::NoBinary => "no_binary",
            Self::Behind => "behind",
        }
    }

    /// The place in [`Self::ALL`].
    pub const fn index(self) -> usize {
        match self {
            Self::TimedOut => 0,
            Self::Refused => 1,
            Self::ConnectTimedOut => 2,
            Self::Unreachable => 3,
            Self::Closed => 4,
            Self::Protocol => 5,
            Self::Ejected => 6,
            Self::QueueFull => 7,
            Self::Removed => 8,
            Self::NoBinary => 9,
            Self::Overload => 10,
            Self::Memory => 11,
            Self::Slow => 12,
            Self::Behind => 13,
        }
    }

    /// Whether the server is to blame, so that it counts against its health.
    pub const fn is_the_servers(self) -> bool {
        !matches!(
            self,
            Self::Ejected
                | Self::QueueFull
                | Self::Removed
                | Self::NoBinary
                | Self::Overload
                | Self::Memory
                | Self::Behind
        )
    }

    /// Whether a single one is enough to eject: nothing can come of asking on.
    pub const fn is_conclusive(self) -> bool {
        matches!(
            self,
            Self::Refused | Self::ConnectTimedOut | Self::Unreachable | Self::Slow
        )
    }

    /// Whether a connection was lost in the middle of something.
    pub const fn is_a_loss(self) -> bool {
        matches!(self, Self::Closed | Self::Protocol)
    }

    /// Whether the request may be sent once more.
    pub const fn retry(self) -> Retry {
        match self {
            Self::TimedOut | Self::Closed | Self::Protocol => Retry::Never,
            Self::Refused
            | Self::ConnectTimedOut
            | Self::Unreachable
            | Self::Ejected
            | Self::QueueFull
            | Self::Removed
            | Self::NoBinary
            | Self::Overload
            | Self::Memory
            | Self::Slow
            | Self::Behind => Retry::NothingSent,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_failure_has_a_place_a_name_and_a_text_of_its_own() {
        let names: HashSet<_> = Failure::ALL.iter().map(|failure| failure.name()).collect();
        let texts: HashSet<_> = Failure::ALL.iter().map(ToString::to_string).collect();
        assert_eq!(
            (names.len(), texts.len()),
            (Failure::ALL.len(), Failure::ALL.len())
        );
        for (at, failure) in Failure::ALL.into_iter().enumerate() {
            assert_eq!(failure.index(), at);
        }
    }
}
