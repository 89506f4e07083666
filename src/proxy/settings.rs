//! The bounds of client sessions.

use std::time::Duration;

/// When a retrieval from a server that cannot be asked is answered as a miss
/// instead of an error.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MissOnError {
    /// Never: any failure is told.
    Never,
    /// In a retrieval of several keys of which others were answered.
    #[default]
    Multiget,
    /// Always.
    Always,
}

impl MissOnError {
    /// Every choice.
    pub const ALL: [Self; 3] = [Self::Never, Self::Multiget, Self::Always];

    /// The name in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Never => "never",
            Self::Multiget => "multiget",
            Self::Always => "always",
        }
    }
}

/// What becomes of the keys of a server that is ejected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnEject {
    /// Their requests fail at once.
    #[default]
    FailFast,
    /// Another server of the pool stands in.
    Remap,
}

impl OnEject {
    /// Every choice.
    pub const ALL: [Self; 2] = [Self::FailFast, Self::Remap];

    /// The name in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::FailFast => "fail_fast",
            Self::Remap => "remap",
        }
    }
}

/// What the clients of a listener speak.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientProtocol {
    /// Whatever the first byte says that each of them sends.
    #[default]
    Auto,
    /// Text and meta commands.
    Text,
    /// Binary frames.
    Binary,
}

impl ClientProtocol {
    /// Every choice.
    pub const ALL: [Self; 3] = [Self::Auto, Self::Text, Self::Binary];

    /// The name in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Text => "text",
            Self::Binary => "binary",
        }
    }
}

/// How the servers of a pool are asked for binary clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ServerProtocol {
    /// In the client's own dialect, over connections for it.
    #[default]
    AsClient,
    /// In meta commands, over the connections that text requests take.
    Meta,
}

impl ServerProtocol {
    /// Every choice.
    pub const ALL: [Self; 2] = [Self::AsClient, Self::Meta];

    /// The name in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::AsClient => "as_client",
            Self::Meta => "meta",
        }
    }
}

/// How clients are treated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Requests of one client that may be in flight; reading from it pauses at
    /// this many.
    pub in_flight_max: usize,
    /// Bytes of replies owed to one client at which reading from it pauses.
    pub pause_bytes: usize,
    /// Bytes of replies owed to one client beyond which it is closed: they were
    /// asked for before reading paused, and it does not take them.
    pub owed_bytes_max: usize,
    /// Bytes of one multi-key reply while it is put together; beyond it the
    /// request fails.
    pub multiget_bytes_max: usize,
    /// How long a client may say nothing; zero means for ever.
    pub idle_timeout: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            in_flight_max: 4096,
            pause_bytes: 1 << 20,
            owed_bytes_max: 256 << 20,
            multiget_bytes_max: 64 << 20,
            idle_timeout: Duration::ZERO,
        }
    }
}
