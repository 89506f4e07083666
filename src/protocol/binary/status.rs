//! How a request went.

/// The status of a response. Those above [`Status::OutOfMemory`] are the proxy's
/// own: the specification has them, memcached never sends them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum Status {
    /// Done.
    Ok = 0x00,
    /// No such item.
    NotFound = 0x01,
    /// There is such an item, or it has another version.
    Exists = 0x02,
    /// The value is larger than the bound.
    TooLarge = 0x03,
    /// The request has a form that its opcode does not have.
    InvalidArguments = 0x04,
    /// A condition was not met.
    NotStored = 0x05,
    /// The item holds no number.
    NotANumber = 0x06,
    /// Not allowed, or not authenticated.
    AuthFailure = 0x20,
    /// The next step of an authentication.
    AuthContinue = 0x21,
    /// No such opcode.
    UnknownCommand = 0x81,
    /// No room for the item.
    OutOfMemory = 0x82,
    /// Something went wrong that is nobody's fault outside.
    Internal = 0x84,
    /// A bound of the proxy was reached.
    Busy = 0x85,
    /// The server of the key could not be asked.
    TemporaryFailure = 0x86,
}

impl Status {
    /// All of them.
    pub const ALL: [Self; 14] = [
        Self::Ok,
        Self::NotFound,
        Self::Exists,
        Self::TooLarge,
        Self::InvalidArguments,
        Self::NotStored,
        Self::NotANumber,
        Self::AuthFailure,
        Self::AuthContinue,
        Self::UnknownCommand,
        Self::OutOfMemory,
        Self::Internal,
        Self::Busy,
        Self::TemporaryFailure,
    ];

    /// The number on the wire.
    #[inline]
    pub const fn code(self) -> u16 {
        self as u16
    }

    /// The status with this number.
    pub fn from_code(code: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.code() == code)
    }

    /// What stands in the value of a response with this status: memcached's own
    /// words, byte for byte, as far as it has any.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Ok | Self::AuthContinue => "",
            Self::NotFound => "Not found",
            Self::Exists => "Data exists for key.",
            Self::TooLarge => "Too large.",
            Self::InvalidArguments => "Invalid arguments",
            Self::NotStored => "Not stored.",
            Self::NotANumber => "Non-numeric server-side value for incr or decr",
            Self::AuthFailure => "Auth failure.",
            Self::UnknownCommand => "Unknown command",
            Self::OutOfMemory => "Out of memory",
            Self::Internal => "Internal error",
            Self::Busy => "Busy",
            Self::TemporaryFailure => "Temporary failure",
        }
    }
}
