//! How the members of a shard are used.

use std::time::Duration;

/// Which member of a shard is read from first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReadFrom {
    /// The primary, then the replicas in the order listed.
    #[default]
    Primary,
    /// The replicas in turn, then the primary.
    Replica,
    /// Those in the proxy's own zone in the order listed, then the others.
    Nearest,
    /// All in turn.
    Spread,
}

impl ReadFrom {
    /// Every choice.
    pub const ALL: [Self; 4] = [Self::Primary, Self::Replica, Self::Nearest, Self::Spread];

    /// The name in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::Replica => "replica",
            Self::Nearest => "nearest",
            Self::Spread => "spread",
        }
    }
}

/// What is done when the member that was read from holds nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnMiss {
    /// It is a miss.
    #[default]
    Answer,
    /// The next member is asked, and what it holds is added to those that held
    /// nothing.
    Next,
}

impl OnMiss {
    /// Every choice.
    pub const ALL: [Self; 2] = [Self::Answer, Self::Next];

    /// The name in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Answer => "answer",
            Self::Next => "next",
        }
    }
}

/// How changes reach the other members of a shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Copies {
    /// The client has its answer when the primary has given it.
    #[default]
    Async,
    /// When all have; the worst answer counts.
    Sync,
    /// When more than half have.
    Majority,
    /// Not at all: something else copies.
    None,
}

impl Copies {
    /// Every choice.
    pub const ALL: [Self; 4] = [Self::Async, Self::Sync, Self::Majority, Self::None];

    /// The name in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Async => "async",
            Self::Sync => "sync",
            Self::Majority => "majority",
            Self::None => "none",
        }
    }
}

/// How the members of each shard of a pool are used.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Who is read from.
    pub read: ReadFrom,
    /// What a miss leads to.
    pub on_miss: OnMiss,
    /// How long an item lives that is added to a member which held nothing, where
    /// its own time to live is not known.
    pub repair_ttl: Duration,
    /// How changes are copied.
    pub copies: Copies,
    /// A second member is asked when the first takes longer than this share of
    /// its answers took lately, in per cent.
    pub hedge: Option<u8>,
    /// Most second questions, in per cent of reads.
    pub hedge_budget: u8,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            read: ReadFrom::default(),
            on_miss: OnMiss::default(),
            repair_ttl: Duration::from_secs(60),
            copies: Copies::default(),
            hedge: None,
            hedge_budget: 5,
        }
    }
}
