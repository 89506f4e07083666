//! What can be asked, and the form each request must have.

/// Commands of the binary dialect. A name with `Q` at its end is the quiet form:
/// a retrieval does not tell of a miss, any other not of its success.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
#[expect(missing_docs, reason = "each is the command of its name")]
pub enum Opcode {
    Get = 0x00,
    Set = 0x01,
    Add = 0x02,
    Replace = 0x03,
    Delete = 0x04,
    Increment = 0x05,
    Decrement = 0x06,
    Quit = 0x07,
    Flush = 0x08,
    GetQ = 0x09,
    Noop = 0x0a,
    Version = 0x0b,
    GetK = 0x0c,
    GetKQ = 0x0d,
    Append = 0x0e,
    Prepend = 0x0f,
    Stat = 0x10,
    SetQ = 0x11,
    AddQ = 0x12,
    ReplaceQ = 0x13,
    DeleteQ = 0x14,
    IncrementQ = 0x15,
    DecrementQ = 0x16,
    QuitQ = 0x17,
    FlushQ = 0x18,
    AppendQ = 0x19,
    PrependQ = 0x1a,
    Verbosity = 0x1b,
    Touch = 0x1c,
    Gat = 0x1d,
    GatQ = 0x1e,
    SaslListMechs = 0x20,
    SaslAuth = 0x21,
    SaslStep = 0x22,
    GatK = 0x23,
    GatKQ = 0x24,
}

/// Whether a request carries something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// It must not.
    Never,
    /// It must.
    Always,
    /// As it likes.
    Maybe,
}

/// The form of the requests with an opcode. memcached answers whatever differs
/// with [`super::Status::InvalidArguments`] and closes the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Form {
    /// Bytes of extras.
    pub extras_len: u8,
    /// Whether the extras may also be left out.
    pub extras_optional: bool,
    /// Whether there is a key.
    pub key: Part,
    /// Whether there is a value; an empty one counts as none.
    pub value: Part,
}

impl Form {
    const fn new(extras_len: u8, key: Part, value: Part) -> Self {
        Self {
            extras_len,
            extras_optional: false,
            key,
            value,
        }
    }

    /// Whether a request with so many bytes of each has this form.
    #[inline]
    pub fn admits(&self, extras_len: u8, key_len: usize, value_len: usize) -> bool {
        let part = |part, len| match part {
            Part::Never => len == 0,
            Part::Always => len > 0,
            Part::Maybe => true,
        };
        (extras_len == self.extras_len || (self.extras_optional && extras_len == 0))
            && part(self.key, key_len)
            && part(self.value, value_len)
    }
}

impl Opcode {
    /// All of them, in the order of their bytes.
    pub const ALL: [Self; 36] = [
        Self::Get,
        Self::Set,
        Self::Add,
        Self::Replace,
        Self::Delete,
        Self::Increment,
        Self::Decrement,
        Self::Quit,
        Self::Flush,
        Self::GetQ,
        Self::Noop,
        Self::Version,
        Self::GetK,
        Self::GetKQ,
        Self::Append,
        Self::Prepend,
        Self::Stat,
        Self::SetQ,
        Self::AddQ,
        Self::ReplaceQ,
        Self::DeleteQ,
        Self::IncrementQ,
        Self::DecrementQ,
        Self::QuitQ,
        Self::FlushQ,
        Self::AppendQ,
        Self::PrependQ,
        Self::Verbosity,
        Self::Touch,
        Self::Gat,
        Self::GatQ,
        Self::SaslListMechs,
        Self::SaslAuth,
        Self::SaslStep,
        Self::GatK,
        Self::GatKQ,
    ];

    /// The command with this byte.
    #[inline]
    pub fn from_byte(byte: u8) -> Option<Self> {
        // The bytes run without a gap but for one.
        let place = match byte {
            0..=0x1e => byte,
            _ => byte.wrapping_sub(1),
        };
        let opcode = Self::ALL.get(usize::from(place)).copied()?;
        (opcode.byte() == byte).then_some(opcode)
    }

    /// The byte on the wire.
    #[inline]
    pub const fn byte(self) -> u8 {
        self as u8
    }

    /// The form that is always answered: itself, unless it is quiet.
    #[inline]
    pub const fn loud(self) -> Self {
        match self {
            Self::GetQ => Self::Get,
            Self::GetKQ => Self::GetK,
            Self::GatQ => Self::Gat,
            Self::GatKQ => Self::GatK,
            Self::SetQ => Self::Set,
            Self::AddQ => Self::Add,
            Self::ReplaceQ => Self::Replace,
            Self::DeleteQ => Self::Delete,
            Self::IncrementQ => Self::Increment,
            Self::DecrementQ => Self::Decrement,
            Self::QuitQ => Self::Quit,
            Self::FlushQ => Self::Flush,
            Self::AppendQ => Self::Append,
            Self::PrependQ => Self::Prepend,
            loud => loud,
        }
    }

    /// The quiet form, if there is one.
    pub fn quiet(self) -> Option<Self> {
        let loud = self.loud();
        Self::ALL
            .into_iter()
            .find(|other| other.is_quiet() && other.loud() == loud)
    }

    /// Whether it keeps its usual answer back.
    #[inline]
    pub fn is_quiet(self) -> bool {
        self.loud() != self
    }

    /// Whether it asks for a value: quiet then means that a miss is not told,
    /// while for the others success is not.
    #[inline]
    pub const fn retrieves(self) -> bool {
        matches!(self.loud(), Self::Get | Self::GetK | Self::Gat | Self::GatK)
    }

    /// Whether answers name the key, those that tell of a miss too.
    #[inline]
    pub const fn returns_key(self) -> bool {
        matches!(self.loud(), Self::GetK | Self::GatK)
    }

    /// Whether it is about one item.
    #[inline]
    pub fn has_item(self) -> bool {
        self.form().key == Part::Always && !self.is_sasl()
    }

    /// Whether it is about who the client is.
    #[inline]
    pub const fn is_sasl(self) -> bool {
        matches!(self, Self::SaslListMechs | Self::SaslAuth | Self::SaslStep)
    }

    /// The form of its requests.
    #[inline]
    pub const fn form(self) -> Form {
        match self.loud() {
            Self::Get | Self::GetK | Self::Delete => Form::new(0, Part::Always, Part::Never),
            Self::Touch | Self::Gat | Self::GatK => Form::new(4, Part::Always, Part::Never),
            Self::Set | Self::Add | Self::Replace => Form::new(8, Part::Always, Part::Maybe),
            Self::Append | Self::Prepend | Self::SaslAuth | Self::SaslStep => {
                Form::new(0, Part::Always, Part::Maybe)
            }
            Self::Increment | Self::Decrement => Form::new(20, Part::Always, Part::Never),
            Self::Stat => Form::new(0, Part::Maybe, Part::Never),
            Self::Flush => Form {
                extras_optional: true,
                ..Form::new(4, Part::Never, Part::Never)
            },
            _ => Form::new(0, Part::Never, Part::Never),
        }
    }

    /// The name in metrics and logs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Set => "set",
            Self::Add => "add",
            Self::Replace => "replace",
            Self::Delete => "delete",
            Self::Increment => "increment",
            Self::Decrement => "decrement",
            Self::Quit => "quit",
            Self::Flush => "flush",
            Self::GetQ => "getq",
            Self::Noop => "noop",
            Self::Version => "version",
            Self::GetK => "getk",
            Self::GetKQ => "getkq",
            Self::Append => "append",
            Self::Prepend => "prepend",
            Self::Stat => "stat",
            Self::SetQ => "setq",
            Self::AddQ => "addq",
            Self::ReplaceQ => "replaceq",
            Self::DeleteQ => "deleteq",
            Self::IncrementQ => "incrementq",
            Self::DecrementQ => "decrementq",
            Self::QuitQ => "quitq",
            Self::FlushQ => "flushq",
            Self::AppendQ => "appendq",
            Self::PrependQ => "prependq",
            Self::Verbosity => "verbosity",
            Self::Touch => "touch",
            Self::Gat => "gat",
            Self::GatQ => "gatq",
            Self::SaslListMechs => "sasl_list_mechs",
            Self::SaslAuth => "sasl_auth",
            Self::SaslStep => "sasl_step",
            Self::GatK => "gatk",
            Self::GatKQ => "gatkq",
        }
    }
}
