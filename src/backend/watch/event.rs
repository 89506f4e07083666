//! What can be told.

use std::ops::BitOr;

/// Kinds of events, as a watcher names them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kinds(u8);

impl Kinds {
    /// Keys that are looked for.
    pub const FETCHERS: Self = Self(1);
    /// Values that are to be stored.
    pub const MUTATIONS: Self = Self(1 << 1);
    /// Items that go for others.
    pub const EVICTIONS: Self = Self(1 << 2);
    /// Clients that come and go.
    pub const CONNEVENTS: Self = Self(1 << 3);
    /// Items that are deleted.
    pub const DELETIONS: Self = Self(1 << 4);
    /// What memcached has and nothing here causes.
    pub const NONE: Self = Self(0);

    /// The kinds by name, in the order in which memcached compares them.
    /// `rawcmds` it takes and never tells; the others without a kind are about its
    /// crawler and its proxy.
    const NAMED: [(&'static str, Self); 10] = [
        ("rawcmds", Self::NONE),
        ("evictions", Self::EVICTIONS),
        ("fetchers", Self::FETCHERS),
        ("mutations", Self::MUTATIONS),
        ("sysevents", Self::NONE),
        ("connevents", Self::CONNEVENTS),
        ("proxyreqs", Self::NONE),
        ("proxyevents", Self::NONE),
        ("proxyuser", Self::NONE),
        ("deletions", Self::DELETIONS),
    ];

    /// The first kind whose name begins so, as memcached reads it.
    pub fn named(word: &[u8]) -> Option<Self> {
        let named = Self::NAMED.iter();
        let mut fits = named.filter(|(name, _)| name.as_bytes().starts_with(word));
        fits.next().map(|&(_, kinds)| kinds)
    }

    /// As a number.
    pub(super) const fn bits(self) -> u8 {
        self.0
    }

    pub(super) const fn from_bits(bits: u8) -> Self {
        Self(bits)
    }

    /// Whether there is one in both.
    pub(super) const fn meet(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

impl BitOr for Kinds {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// Something that happened. What it is about, a key or the address of a client, is
/// told apart from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A key was looked for.
    Fetched {
        /// What came of it.
        status: Fetched,
        /// Bytes of the value.
        bytes: usize,
    },
    /// A value was to be stored.
    Stored {
        /// What became of it.
        status: Status,
        /// By which command.
        how: How,
        /// Seconds until it expires, as memcached counts them; 0 for never.
        ttl: u32,
        /// Bytes of the value.
        bytes: usize,
    },
    /// An item was deleted.
    Deleted {
        /// By which command.
        by: Removed,
        /// Bytes of its value.
        bytes: usize,
    },
    /// An item went for others.
    Evicted {
        /// Whether it had ever been read.
        fetched: bool,
        /// Seconds until it would have expired; -1 for never.
        ttl: i64,
        /// Seconds since it was last used.
        idle: u32,
        /// Bytes of its value.
        bytes: usize,
    },
    /// A client came.
    Opened,
    /// A client went.
    Closed(Reason),
}

impl Event {
    /// Who wants to know of it.
    pub(super) const fn kind(self) -> Kinds {
        match self {
            Self::Fetched { .. } => Kinds::FETCHERS,
            Self::Stored { .. } => Kinds::MUTATIONS,
            Self::Deleted { .. } => Kinds::DELETIONS,
            Self::Evicted { .. } => Kinds::EVICTIONS,
            Self::Opened | Self::Closed(_) => Kinds::CONNEVENTS,
        }
    }
}

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$of:meta])* $word:ident => $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name {
            $($(#[$of])* $word,)*
        }

        impl $name {
            /// As it is written in a line.
            pub(super) const fn word(self) -> &'static str {
                match self {
                    $(Self::$word => $text,)*
                }
            }
        }
    };
}

words! {
    /// What came of looking for a key.
    Fetched {
        /// Nothing there.
        Missing => "not_found",
        /// An item.
        Found => "found",
        /// It was there until everything was dropped.
        Flushed => "flushed",
        /// It had expired.
        Expired => "expired",
    }
}

words! {
    /// What became of a value that was to be stored.
    Status {
        /// A condition was not met.
        NotStored => "not_stored",
        /// It is stored.
        Stored => "stored",
        /// The item has another cas id.
        Exists => "exists",
        /// No item to compare with.
        NotFound => "not_found",
        /// It was too large.
        TooLarge => "too_large",
        /// There was no memory for it.
        NoMemory => "no_memory",
    }
}

words! {
    /// How a value was to be stored.
    How {
        /// If the key holds nothing.
        Add => "add",
        /// Always.
        Set => "set",
        /// If the key holds something.
        Replace => "replace",
        /// Behind what the key holds.
        Append => "append",
        /// Before it.
        Prepend => "prepend",
        /// If the cas id fits.
        Cas => "cas",
    }
}

words! {
    /// By what an item was deleted.
    Removed {
        /// `delete`, or that of the binary dialect.
        Delete => "delete",
        /// `md`.
        Meta => "md",
    }
}

words! {
    /// Why a client has gone.
    Reason {
        /// It sent what is not worth an answer.
        Error => "error",
        /// It closed, or said `quit`.
        Normal => "normal",
        /// It said nothing for too long.
        Idle => "idle_timeout",
        /// It had the process end.
        Shutdown => "shutdown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_found_by_the_start_of_their_names() {
        assert_eq!(Kinds::named(b"fetchers"), Some(Kinds::FETCHERS));
        assert_eq!(Kinds::named(b"m"), Some(Kinds::MUTATIONS));
        assert_eq!(Kinds::named(b"proxy"), Some(Kinds::NONE));
        assert_eq!(Kinds::named(b"fetchersx"), None);
        assert_eq!(Kinds::named(b"Fetchers"), None);
    }

    #[test]
    fn kinds_meet_where_they_share_one() {
        let both = Kinds::FETCHERS | Kinds::EVICTIONS;
        assert!(both.meet(Kinds::EVICTIONS) && !both.meet(Kinds::DELETIONS));
        assert!(!Kinds::NONE.meet(both));
        assert_eq!(Kinds::from_bits(both.bits()), both);
    }
}
