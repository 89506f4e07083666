//! Binary frames, as the fields that an exchange file names.
//!
//! Written from the specification and not with the code under test: a mistake
//! there must not be made here too. The fields are in
//! `tests/conformance/README.md`.

use serde::Deserialize;

use super::text::{Number, Text};

/// What is sent or expected: a string, or frames.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Raw<F> {
    Text(String),
    Frames(Vec<F>),
}

/// The opaque of frames that name none.
const OPAQUE: u32 = 0x0bad_cafe;

/// The opcodes by name.
const OPCODES: [(&str, u8); 36] = [
    ("get", 0x00),
    ("set", 0x01),
    ("add", 0x02),
    ("replace", 0x03),
    ("delete", 0x04),
    ("increment", 0x05),
    ("decrement", 0x06),
    ("quit", 0x07),
    ("flush", 0x08),
    ("getq", 0x09),
    ("noop", 0x0a),
    ("version", 0x0b),
    ("getk", 0x0c),
    ("getkq", 0x0d),
    ("append", 0x0e),
    ("prepend", 0x0f),
    ("stat", 0x10),
    ("setq", 0x11),
    ("addq", 0x12),
    ("replaceq", 0x13),
    ("deleteq", 0x14),
    ("incrementq", 0x15),
    ("decrementq", 0x16),
    ("quitq", 0x17),
    ("flushq", 0x18),
    ("appendq", 0x19),
    ("prependq", 0x1a),
    ("verbosity", 0x1b),
    ("touch", 0x1c),
    ("gat", 0x1d),
    ("gatq", 0x1e),
    ("sasl_list_mechs", 0x20),
    ("sasl_auth", 0x21),
    ("sasl_step", 0x22),
    ("gatk", 0x23),
    ("gatkq", 0x24),
];

/// The statuses by name, with the text that memcached sends with each.
const STATUSES: [(&str, u16, &str); 11] = [
    ("ok", 0x00, ""),
    ("not_found", 0x01, "Not found"),
    ("exists", 0x02, "Data exists for key."),
    ("too_large", 0x03, "Too large."),
    ("invalid", 0x04, "Invalid arguments"),
    ("not_stored", 0x05, "Not stored."),
    (
        "not_a_number",
        0x06,
        "Non-numeric server-side value for incr or decr",
    ),
    ("auth_failure", 0x20, "Auth failure."),
    ("unknown", 0x81, "Unknown command"),
    ("no_memory", 0x82, "Out of memory"),
    ("busy", 0x85, "Busy"),
];

/// A byte, or the name of an opcode.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum RawOpcode {
    Name(String),
    Byte(u8),
}

impl RawOpcode {
    fn byte(&self) -> Result<u8, String> {
        match self {
            Self::Byte(byte) => Ok(*byte),
            Self::Name(name) => OPCODES
                .iter()
                .find(|(known, _)| known == name)
                .map(|(_, byte)| *byte)
                .ok_or_else(|| format!("no opcode is named {name:?}")),
        }
    }

    /// The bytes of extras that requests with it have.
    fn extras_len(byte: u8) -> usize {
        match byte {
            0x01..=0x03 | 0x11..=0x13 => 8,
            0x05 | 0x06 | 0x15 | 0x16 => 20,
            0x1b..=0x1e | 0x23 | 0x24 => 4,
            _ => 0,
        }
    }
}

/// A number, or a hole that one is remembered in or taken from.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum RawNumber {
    Number(u64),
    Hole(String),
}

impl RawNumber {
    fn read(&self) -> Result<Number, String> {
        match self {
            Self::Number(number) => Ok(Number::Known(*number)),
            Self::Hole(hole) => {
                let inside = hole
                    .strip_prefix('{')
                    .and_then(|rest| rest.strip_suffix('}'));
                match inside.and_then(|inside| inside.split_at_checked(1)) {
                    Some(("=", name)) => Ok(Number::Saved(name.to_owned())),
                    _ if hole == "{int}" => Ok(Number::Any(None)),
                    _ => inside
                        .and_then(|inside| inside.strip_prefix("cas:"))
                        .map(|name| Number::Any(Some(name.to_owned())))
                        .ok_or_else(|| format!("no number: {hole:?}")),
                }
            }
        }
    }
}

/// A request. The lengths are those of what is there, unless they are named.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawRequest {
    op: RawOpcode,
    #[serde(default)]
    key: String,
    #[serde(default)]
    value: String,
    flags: Option<u32>,
    exptime: Option<u32>,
    delta: Option<u64>,
    initial: Option<u64>,
    /// Extras byte by byte, in the place of those that the opcode has.
    extras: Option<String>,
    opaque: Option<u32>,
    cas: Option<RawNumber>,
    magic: Option<u8>,
    data_type: Option<u8>,
    vbucket: Option<u16>,
    key_len: Option<u16>,
    extras_len: Option<u8>,
    body_len: Option<u32>,
}

impl RawRequest {
    fn extras(&self, opcode: u8) -> Result<Text, String> {
        let mut extras = Vec::new();
        let exptime = self.exptime.unwrap_or(0).to_be_bytes();
        let len = RawOpcode::extras_len(opcode);
        match len {
            8 => {
                extras.extend(self.flags.unwrap_or(0).to_be_bytes());
                extras.extend(exptime);
            }
            20 => {
                extras.extend(self.delta.unwrap_or(1).to_be_bytes());
                extras.extend(self.initial.unwrap_or(0).to_be_bytes());
                extras.extend(exptime);
            }
            4 => extras.extend(exptime),
            // A flush may have a delay or not.
            _ if self.exptime.is_some() => extras.extend(exptime),
            _ => {}
        }
        let uses = [
            (self.flags.is_some(), len == 8),
            (self.delta.is_some() || self.initial.is_some(), len == 20),
        ];
        if uses.iter().any(|(given, used)| *given && !used) {
            return Err("numbers that the opcode has no place for".into());
        }
        match &self.extras {
            Some(extras) => Text::parse(extras),
            None => Ok(Text::of_bytes(&extras)),
        }
    }

    fn text(&self) -> Result<Text, String> {
        let opcode = self.op.byte()?;
        let (extras, key, value) = (
            self.extras(opcode)?,
            Text::parse(&self.key)?,
            Text::parse(&self.value)?,
        );
        let body = extras.len()? + key.len()? + value.len()?;
        let key_len = self.key_len.map_or_else(|| fit(key.len()?), Ok)?;
        let extras_len = self.extras_len.map_or_else(|| fit(extras.len()?), Ok)?;
        let mut text = header(
            self.magic.unwrap_or(0x80),
            opcode,
            (
                key_len,
                extras_len,
                self.body_len.map_or_else(|| fit(body), Ok)?,
            ),
            self.data_type.unwrap_or(0),
            self.vbucket.unwrap_or(0),
            self.opaque.unwrap_or(OPAQUE),
        );
        text.push_number(match &self.cas {
            None => Number::Known(0),
            Some(cas) => cas.read()?,
        });
        text.extend([extras, key, value]);
        Ok(text)
    }
}

/// A response.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawResponse {
    op: RawOpcode,
    status: Option<String>,
    #[serde(default)]
    key: String,
    /// Left out, it is the usual text of the status.
    value: Option<String>,
    /// The four bytes of client flags before a value.
    flags: Option<u32>,
    /// A value of eight bytes.
    number: Option<u64>,
    opaque: Option<u32>,
    /// 0 if left out; `{int}` is any but 0.
    cas: Option<RawNumber>,
    /// Whether key and value may be anything.
    #[serde(default)]
    any: bool,
    /// Whether any number of such responses may come, each with a key.
    #[serde(default)]
    many: bool,
}

impl RawResponse {
    fn text(&self) -> Result<Text, String> {
        let opcode = self.op.byte()?;
        let opaque = self.opaque.unwrap_or(OPAQUE);
        if self.any || self.many {
            return Ok(Text::any_response(opcode, opaque, self.many));
        }
        let status = self.status.as_deref().unwrap_or("ok");
        let (_, status, usual) = STATUSES
            .iter()
            .find(|(known, _, _)| *known == status)
            .ok_or_else(|| format!("no status is named {status:?}"))?;
        let extras = self.flags.map(u32::to_be_bytes);
        let extras = Text::of_bytes(extras.as_ref().map_or(&[], |flags| &flags[..]));
        let key = Text::parse(&self.key)?;
        let value = match (&self.value, self.number) {
            (Some(value), None) => Text::parse(value)?,
            (None, Some(number)) => Text::of_bytes(&number.to_be_bytes()),
            (None, None) => Text::of_bytes(usual.as_bytes()),
            (Some(_), Some(_)) => return Err("a value and a number".into()),
        };
        let body = extras.len()? + key.len()? + value.len()?;
        let lengths = (fit(key.len()?)?, fit(extras.len()?)?, fit(body)?);
        let mut text = header(0x81, opcode, lengths, 0, *status, opaque);
        text.push_number(match &self.cas {
            None => Number::Known(0),
            Some(cas) => cas.read()?,
        });
        text.extend([extras, key, value]);
        Ok(text)
    }
}

/// The header up to the version of the item.
fn header(
    magic: u8,
    opcode: u8,
    (key_len, extras_len, body_len): (u16, u8, u32),
    data_type: u8,
    status: u16,
    opaque: u32,
) -> Text {
    let mut bytes = vec![magic, opcode];
    bytes.extend(key_len.to_be_bytes());
    bytes.extend([extras_len, data_type]);
    bytes.extend(status.to_be_bytes());
    bytes.extend(body_len.to_be_bytes());
    bytes.extend(opaque.to_be_bytes());
    Text::of_bytes(&bytes)
}

fn fit<N: TryFrom<usize>>(len: usize) -> Result<N, String> {
    N::try_from(len).map_err(|_| format!("{len} bytes do not fit"))
}

impl Raw<RawRequest> {
    pub(super) fn text(&self) -> Result<Text, String> {
        match self {
            Self::Text(text) => Text::parse(text),
            Self::Frames(frames) => joined(frames.iter().map(RawRequest::text)),
        }
    }
}

impl Raw<RawResponse> {
    pub(super) fn text(&self) -> Result<Text, String> {
        match self {
            Self::Text(text) => Text::parse(text),
            Self::Frames(frames) => joined(frames.iter().map(RawResponse::text)),
        }
    }
}

fn joined(texts: impl Iterator<Item = Result<Text, String>>) -> Result<Text, String> {
    let mut all = Text::default();
    for text in texts {
        all.extend([text?]);
    }
    Ok(all)
}
