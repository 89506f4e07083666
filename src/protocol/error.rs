//! What is wrong with a request, and what its client is told.

use thiserror::Error;

/// A request that cannot be carried out as it stands.
///
/// The message of each variant is memcached's own, byte for byte, for the newest
/// release (1.6.45): clients match on these texts.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum Error {
    /// No command of this name.
    #[error("ERROR")]
    UnknownCommand,
    /// Missing words, a key that is too long, a number that is none.
    #[error("CLIENT_ERROR bad command line format")]
    BadFormat,
    /// The data block does not end with a line end.
    #[error("CLIENT_ERROR bad data chunk")]
    BadDataChunk,
    /// A value beyond the size bound.
    #[error("SERVER_ERROR object too large for cache")]
    TooLarge,
    /// The time given to `touch`, `gat` or `flush_all` is no number.
    #[error("CLIENT_ERROR invalid exptime argument")]
    InvalidExptime,
    /// The amount given to `incr` or `decr` is no number.
    #[error("CLIENT_ERROR invalid numeric delta argument")]
    InvalidDelta,
    /// A meta flag that stands twice.
    #[error("CLIENT_ERROR duplicate flag")]
    DuplicateFlag,
    /// A meta flag that no command knows.
    #[error("CLIENT_ERROR invalid flag")]
    InvalidFlag,
    /// A meta flag whose number is none.
    #[error("CLIENT_ERROR bad token in command line format")]
    BadToken,
    /// The initial number of `ma` is none.
    #[error("CLIENT_ERROR invalid numeric initial value")]
    InvalidInitialFlag,
    /// The amount of `ma` is no number.
    #[error("CLIENT_ERROR invalid numeric delta value")]
    InvalidDeltaFlag,
    /// More meta flags than memcached looks at.
    #[error("CLIENT_ERROR options flags are too long")]
    TooManyFlags,
    /// An opaque longer than memcached gives back.
    #[error("CLIENT_ERROR opaque token too long")]
    OpaqueTooLong,
    /// A key announced as base64 which is not.
    #[error("CLIENT_ERROR error decoding key")]
    KeyNotBase64,
    /// A mode of `ms` that does not exist.
    #[error("CLIENT_ERROR invalid mode for ms M token")]
    InvalidSetMode,
    /// A mode of `ma` that does not exist.
    #[error("CLIENT_ERROR invalid mode for ma M token")]
    InvalidArithmeticMode,
    /// Anything else wrong with the flags of `ma`.
    #[error("CLIENT_ERROR invalid or duplicate flag")]
    InvalidOrDuplicateFlag,
}
