//! The strings of an exchange: escapes, and holes in braces.
//!
//! The grammar is in `tests/conformance/README.md`. A [`Text`] is parsed once,
//! then either rendered into the bytes to send or held against the bytes that
//! came back.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::ops::RangeInclusive;

/// A parsed string.
#[derive(Debug, Clone, Default)]
pub(super) struct Text {
    pieces: Vec<Piece>,
}

#[derive(Debug, Clone)]
enum Piece {
    Bytes(Vec<u8>),
    /// `{k}`
    Key,
    /// `{i}`: which round of the repetition this is.
    Round,
    /// `{...*N}`
    Repeat(Text, usize),
    /// `{b64:...}`
    Base64(Text),
    /// `{now+N}`
    Now(i64),
    /// `{=name+N}`
    Saved(String, i64),
    /// `{int}`, `{int:LO..HI}`, `{cas:name}`
    Int {
        range: RangeInclusive<u64>,
        save: Option<String>,
    },
    /// `{line}`
    Line,
    /// `{stats}`
    Stats,
    /// The eight bytes of a number in a binary frame.
    Binary(Number),
    /// A binary response, or any number of them, whatever it says.
    Response {
        opcode: u8,
        opaque: u32,
        many: bool,
    },
}

/// A number of eight bytes.
#[derive(Debug, Clone)]
pub(super) enum Number {
    Known(u64),
    /// What was remembered under this name.
    Saved(String),
    /// Any but 0, remembered under this name.
    Any(Option<String>),
}

/// How many characters `{k}` has.
pub(super) const KEY_CHARACTERS: usize = 6;

/// What the holes are filled with.
#[derive(Debug, Clone, Default)]
pub(super) struct Scope {
    /// The prefix of the exchange's keys.
    pub(super) key: String,
    /// Unix time when the exchange began.
    pub(super) now: i64,
    /// What `{cas:name}` matched.
    pub(super) saved: HashMap<String, u64>,
}

/// The result of holding a text against the bytes that have come so far.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Match {
    /// The first `len` bytes are the text; these numbers were remembered.
    Whole {
        len: usize,
        saved: HashMap<String, u64>,
    },
    /// So far it fits; more bytes must come.
    Part,
    /// It cannot fit any more. The difference is at this offset.
    Differs(usize),
}

impl Text {
    /// Reads a string of an exchange file.
    pub(super) fn parse(source: &str) -> Result<Self, String> {
        let mut pieces = Vec::new();
        let mut bytes = Vec::new();
        let mut rest = source;
        while let Some(c) = rest.chars().next() {
            if c == '\\' {
                let (byte, len) = escape(rest).ok_or_else(|| format!("bad escape: {rest}"))?;
                bytes.push(byte);
                rest = &rest[len..];
            } else if c == '{' {
                let inside = hole(rest).ok_or_else(|| format!("no closing brace: {rest}"))?;
                if !bytes.is_empty() {
                    pieces.push(Piece::Bytes(std::mem::take(&mut bytes)));
                }
                pieces.push(Piece::parse(inside)?);
                rest = &rest[inside.len() + 2..];
            } else if c == '}' {
                return Err(format!("a brace too many (a literal one is \\x7d): {rest}"));
            } else {
                rest = &rest[c.len_utf8()..];
                bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            }
        }
        if !bytes.is_empty() {
            pieces.push(Piece::Bytes(bytes));
        }
        Ok(Self { pieces })
    }

    /// Just these bytes.
    pub(super) fn of_bytes(bytes: &[u8]) -> Self {
        Self {
            pieces: vec![Piece::Bytes(bytes.to_vec())],
        }
    }

    /// A response of success whose key and value do not matter.
    pub(super) fn any_response(opcode: u8, opaque: u32, many: bool) -> Self {
        Self {
            pieces: vec![Piece::Response {
                opcode,
                opaque,
                many,
            }],
        }
    }

    /// Puts a number of eight bytes behind.
    pub(super) fn push_number(&mut self, number: Number) {
        self.pieces.push(Piece::Binary(number));
    }

    /// Puts other texts behind.
    pub(super) fn extend(&mut self, texts: impl IntoIterator<Item = Self>) {
        self.pieces
            .extend(texts.into_iter().flat_map(|text| text.pieces));
    }

    /// How many bytes it has, whatever fills its holes.
    pub(super) fn len(&self) -> Result<usize, String> {
        // Every key of an exchange begins with as many characters.
        let scope = Scope {
            key: "k".repeat(KEY_CHARACTERS),
            ..Scope::default()
        };
        match self.parts(&scope)?.as_slice() {
            [] => Ok(0),
            [Part::Bytes(bytes)] => Ok(bytes.len()),
            _ => Err("the length of a part of a frame must be known".into()),
        }
    }

    /// The bytes to send.
    pub(super) fn render(&self, scope: &Scope) -> Result<Vec<u8>, String> {
        let mut out = Vec::new();
        for part in self.parts(scope)? {
            match part {
                Part::Bytes(bytes) => out.extend_from_slice(&bytes),
                Part::Saved(name, _) | Part::SavedBinary(name) => {
                    return Err(format!("nothing was saved as {name}"));
                }
                Part::AnyBinary(_)
                | Part::Response { .. }
                | Part::Int { .. }
                | Part::Line
                | Part::Stats => {
                    return Err("what is sent has no holes to match".into());
                }
            }
        }
        Ok(out)
    }

    /// The names which the text needs to have been saved.
    pub(super) fn needs_saved(&self) -> bool {
        self.pieces.iter().any(|piece| match piece {
            Piece::Saved(..) | Piece::Binary(Number::Saved(_)) => true,
            Piece::Repeat(text, _) | Piece::Base64(text) => text.needs_saved(),
            _ => false,
        })
    }

    /// Whether the end of a match is known without seeing what follows.
    pub(super) fn ends_with_bytes(&self) -> bool {
        !matches!(
            self.pieces.last(),
            Some(Piece::Int { .. } | Piece::Line | Piece::Stats | Piece::Saved(..))
                | Some(Piece::Response { many: true, .. })
        )
    }

    /// Holds the text against `input`.
    pub(super) fn hold(&self, input: &[u8], scope: &Scope) -> Result<Match, String> {
        let mut saved = HashMap::new();
        let mut at = 0;
        for part in self.parts(scope)? {
            let rest = &input[at..];
            match part {
                Part::Bytes(bytes) => match literal(&bytes, rest) {
                    Literal::Whole => at += bytes.len(),
                    Literal::Part => return Ok(Match::Part),
                    Literal::Differs(offset) => return Ok(Match::Differs(at + offset)),
                },
                Part::Saved(name, delta) => {
                    let number = saved
                        .get(&name)
                        .ok_or_else(|| format!("nothing was saved as {name}"))?;
                    let bytes = add(*number, delta)?;
                    match literal(&bytes, rest) {
                        Literal::Whole => at += bytes.len(),
                        Literal::Part => return Ok(Match::Part),
                        Literal::Differs(offset) => return Ok(Match::Differs(at + offset)),
                    }
                }
                Part::SavedBinary(name) => {
                    let number: &u64 = saved
                        .get(&name)
                        .ok_or_else(|| format!("nothing was saved as {name}"))?;
                    match literal(&number.to_be_bytes(), rest) {
                        Literal::Whole => at += 8,
                        Literal::Part => return Ok(Match::Part),
                        Literal::Differs(offset) => return Ok(Match::Differs(at + offset)),
                    }
                }
                Part::AnyBinary(save) => {
                    let Some((number, _)) = rest.split_first_chunk::<8>() else {
                        return Ok(Match::Part);
                    };
                    let number = u64::from_be_bytes(*number);
                    if number == 0 {
                        return Ok(Match::Differs(at));
                    }
                    saved.extend(save.map(|name| (name, number)));
                    at += 8;
                }
                Part::Response {
                    opcode,
                    opaque,
                    many,
                } => loop {
                    match response(&input[at..], opcode, opaque, many) {
                        Response::Whole(len) => at += len,
                        Response::Part => return Ok(Match::Part),
                        Response::Other if many => break,
                        Response::Other => return Ok(Match::Differs(at)),
                    }
                    if !many {
                        break;
                    }
                },
                Part::Int { range, save } => {
                    let len = rest.iter().take_while(|b| b.is_ascii_digit()).count();
                    if len == rest.len() {
                        return Ok(Match::Part);
                    }
                    match number(&rest[..len]) {
                        Some(number) if range.contains(&number) => {
                            saved.extend(save.map(|name| (name, number)));
                        }
                        _ => return Ok(Match::Differs(at)),
                    }
                    at += len;
                }
                Part::Line => {
                    let Some(len) = line(rest) else {
                        return Ok(Match::Part);
                    };
                    at += len;
                }
                Part::Stats => loop {
                    match literal(b"STAT ", &input[at..]) {
                        Literal::Whole => match line(&input[at..]) {
                            Some(len) => at += len + 2,
                            None => return Ok(Match::Part),
                        },
                        Literal::Part => return Ok(Match::Part),
                        Literal::Differs(_) => break,
                    }
                },
            }
        }
        Ok(Match::Whole { len: at, saved })
    }

    /// The text as a report shows it: rendered as far as it can be.
    pub(super) fn show(&self, scope: &Scope) -> String {
        let parts = match self.parts(scope) {
            Ok(parts) => parts,
            Err(error) => return error,
        };
        let mut bytes = Vec::new();
        for part in parts {
            match part {
                Part::Bytes(more) => bytes.extend_from_slice(&more),
                Part::Saved(name, _) | Part::SavedBinary(name) => {
                    write_hole(&mut bytes, &format!("={name}"));
                }
                Part::AnyBinary(_) => write_hole(&mut bytes, "int"),
                Part::Response { .. } => write_hole(&mut bytes, "any response"),
                Part::Int { .. } => write_hole(&mut bytes, "int"),
                Part::Line => write_hole(&mut bytes, "line"),
                Part::Stats => write_hole(&mut bytes, "stats"),
            }
        }
        show(&bytes)
    }

    /// Fills every hole that can be filled.
    fn parts(&self, scope: &Scope) -> Result<Vec<Part>, String> {
        let mut parts = Vec::new();
        self.fill(scope, 0, &mut parts)?;
        Ok(parts)
    }

    fn fill(&self, scope: &Scope, round: usize, out: &mut Vec<Part>) -> Result<(), String> {
        for piece in &self.pieces {
            match piece {
                Piece::Bytes(bytes) => push(out, bytes),
                Piece::Key => push(out, scope.key.as_bytes()),
                Piece::Round => push(out, round.to_string().as_bytes()),
                Piece::Repeat(text, times) => {
                    for round in 1..=*times {
                        text.fill(scope, round, out)?;
                    }
                }
                Piece::Base64(text) => {
                    let mut inside = Vec::new();
                    text.fill(scope, round, &mut inside)?;
                    match inside.as_slice() {
                        [Part::Bytes(bytes)] => push(out, base64(bytes).as_bytes()),
                        _ => return Err("base64 of something that is not known".into()),
                    }
                }
                Piece::Now(delta) => push(out, (scope.now + delta).to_string().as_bytes()),
                Piece::Saved(name, delta) => match scope.saved.get(name) {
                    Some(number) => push(out, &add(*number, *delta)?),
                    None => out.push(Part::Saved(name.clone(), *delta)),
                },
                Piece::Int { range, save } => out.push(Part::Int {
                    range: range.clone(),
                    save: save.clone(),
                }),
                Piece::Line => out.push(Part::Line),
                Piece::Stats => out.push(Part::Stats),
                Piece::Binary(Number::Known(number)) => push(out, &number.to_be_bytes()),
                Piece::Binary(Number::Saved(name)) => match scope.saved.get(name) {
                    Some(number) => push(out, &number.to_be_bytes()),
                    None => out.push(Part::SavedBinary(name.clone())),
                },
                Piece::Binary(Number::Any(save)) => out.push(Part::AnyBinary(save.clone())),
                &Piece::Response {
                    opcode,
                    opaque,
                    many,
                } => out.push(Part::Response {
                    opcode,
                    opaque,
                    many,
                }),
            }
        }
        Ok(())
    }
}

impl Piece {
    /// Reads what stands between two braces.
    fn parse(inside: &str) -> Result<Self, String> {
        let bad = || format!("unknown hole {{{inside}}}");
        let any = 0..=u64::MAX;
        Ok(match inside {
            "k" => Self::Key,
            "i" => Self::Round,
            "line" => Self::Line,
            "stats" => Self::Stats,
            "int" => Self::Int {
                range: any,
                save: None,
            },
            _ => {
                if let Some(range) = inside.strip_prefix("int:") {
                    let (low, high) = range.split_once("..").ok_or_else(bad)?;
                    Self::Int {
                        range: low.parse().map_err(|_| bad())?..=high.parse().map_err(|_| bad())?,
                        save: None,
                    }
                } else if let Some(name) = inside.strip_prefix("cas:") {
                    Self::Int {
                        range: any,
                        save: Some(name.to_owned()),
                    }
                } else if let Some(text) = inside.strip_prefix("b64:") {
                    Self::Base64(Text::parse(text)?)
                } else if let Some(name) = inside.strip_prefix('=') {
                    let (name, delta) = sum(name).ok_or_else(bad)?;
                    Self::Saved(name.to_owned(), delta)
                } else if let Some(("now", delta)) = sum(inside) {
                    Self::Now(delta)
                } else {
                    let (text, times) = inside.rsplit_once('*').ok_or_else(bad)?;
                    Self::Repeat(Text::parse(text)?, times.parse().map_err(|_| bad())?)
                }
            }
        })
    }
}

/// A piece with its hole filled, as far as that can be done before a match.
enum Part {
    Bytes(Vec<u8>),
    Saved(String, i64),
    Int {
        range: RangeInclusive<u64>,
        save: Option<String>,
    },
    Line,
    Stats,
    SavedBinary(String),
    AnyBinary(Option<String>),
    Response {
        opcode: u8,
        opaque: u32,
        many: bool,
    },
}

/// What stands at the front of what a server has sent.
enum Response {
    /// A response of success with this opcode and opaque; so long.
    Whole(usize),
    Part,
    Other,
}

/// Looks for a response. One of many has a key, unlike that which ends them.
fn response(input: &[u8], opcode: u8, opaque: u32, many: bool) -> Response {
    let Some(header) = input.first_chunk::<24>() else {
        return Response::Part;
    };
    let number = |range: std::ops::Range<usize>| {
        let bytes = header[range].iter();
        bytes.fold(0, |sum, byte| sum << 8 | usize::from(*byte))
    };
    let fits = header[0] == 0x81
        && header[1] == opcode
        && number(6..8) == 0
        && header[12..16] == opaque.to_be_bytes()
        && (!many || number(2..4) > 0);
    match 24 + number(8..12) {
        _ if !fits => Response::Other,
        len if input.len() < len => Response::Part,
        len => Response::Whole(len),
    }
}

/// Appends bytes, joining them with bytes that stand before them.
fn push(parts: &mut Vec<Part>, bytes: &[u8]) {
    if let Some(Part::Bytes(last)) = parts.last_mut() {
        last.extend_from_slice(bytes);
    } else {
        parts.push(Part::Bytes(bytes.to_vec()));
    }
}

/// How long the line at the front of `input` is, if its end has come.
fn line(input: &[u8]) -> Option<usize> {
    input.windows(2).position(|pair| pair == b"\r\n")
}

enum Literal {
    Whole,
    Part,
    Differs(usize),
}

fn literal(expected: &[u8], input: &[u8]) -> Literal {
    let differs = expected.iter().zip(input).position(|(a, b)| a != b);
    match differs {
        Some(offset) => Literal::Differs(offset),
        None if input.len() < expected.len() => Literal::Part,
        None => Literal::Whole,
    }
}

/// A decimal number as memcached writes it: no sign, no zeros before it.
fn number(digits: &[u8]) -> Option<u64> {
    if digits.len() > 1 && digits.starts_with(b"0") {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

fn add(number: u64, delta: i64) -> Result<Vec<u8>, String> {
    let sum = number
        .checked_add_signed(delta)
        .ok_or_else(|| format!("{number}{delta:+} is out of range"))?;
    Ok(sum.to_string().into_bytes())
}

/// Splits `name+3` or `name-3`; without a sign the number is 0.
fn sum(source: &str) -> Option<(&str, i64)> {
    match source.find(['+', '-']) {
        Some(at) => Some((&source[..at], source[at..].parse().ok()?)),
        None => Some((source, 0)),
    }
}

/// The escape at the front of `source`, and its length.
fn escape(source: &str) -> Option<(u8, usize)> {
    let byte = match source.as_bytes().get(1)? {
        b'r' => b'\r',
        b'n' => b'\n',
        b't' => b'\t',
        b'0' => 0,
        b'\\' => b'\\',
        b'x' => return Some((u8::from_str_radix(source.get(2..4)?, 16).ok()?, 4)),
        _ => return None,
    };
    Some((byte, 2))
}

/// What stands in the braces at the front of `source`, braces within included.
fn hole(source: &str) -> Option<&str> {
    let mut depth = 0_usize;
    for (at, byte) in source.bytes().enumerate() {
        match byte {
            b'{' => depth += 1,
            b'}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some(&source[1..at]);
        }
    }
    None
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for chunk in bytes.chunks(3) {
        let mut group = [0; 4];
        group[1..=chunk.len()].copy_from_slice(chunk);
        let group = u32::from_be_bytes(group);
        for digit in 0..4 {
            out.push(if digit <= chunk.len() {
                char::from(DIGITS[(group >> (18 - 6 * digit)) as usize & 63])
            } else {
                '='
            });
        }
    }
    out
}

/// Bytes in the escapes of the exchange files; the middle of a long run is
/// left out.
pub(super) fn show(bytes: &[u8]) -> String {
    /// Longer than any line of an answer without a value.
    const SHOWN_MAX: usize = 600;
    if bytes.len() > SHOWN_MAX {
        let half = SHOWN_MAX / 2;
        let (front, back) = (&bytes[..half], &bytes[bytes.len() - half..]);
        let left_out = bytes.len() - 2 * half;
        return format!("{} [... {left_out} bytes ...] {}", show(front), show(back));
    }
    let mut out = String::new();
    for byte in bytes {
        match byte {
            b'\r' => out.push_str("\\r"),
            b'\n' => out.push_str("\\n"),
            b'\t' => out.push_str("\\t"),
            b'\0' => out.push_str("\\0"),
            b'\\' => out.push_str("\\\\"),
            0x20..=0x7e => out.push(char::from(*byte)),
            // Writing to a string cannot fail.
            _ => drop(write!(out, "\\x{byte:02x}")),
        }
    }
    out
}

fn write_hole(bytes: &mut Vec<u8>, name: &str) {
    bytes.extend_from_slice(format!("{{{name}}}").as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope() -> Scope {
        Scope {
            key: "abc123".into(),
            now: 1000,
            saved: HashMap::from([("x".to_owned(), 7)]),
        }
    }

    fn rendered(source: &str) -> Vec<u8> {
        Text::parse(source).unwrap().render(&scope()).unwrap()
    }

    fn held(source: &str, input: &str) -> Match {
        let text = Text::parse(source).unwrap();
        text.hold(input.as_bytes(), &scope()).unwrap()
    }

    fn whole(len: usize, saved: &[(&str, u64)]) -> Match {
        let saved = saved.iter().map(|(k, v)| ((*k).to_owned(), *v)).collect();
        Match::Whole { len, saved }
    }

    #[test]
    fn escapes_and_holes_are_filled() {
        assert_eq!(rendered(r"a\r\n\t\0\\\xffé"), b"a\r\n\t\0\\\xff\xc3\xa9");
        assert_eq!(rendered("get {k}n"), b"get abc123n");
        assert_eq!(rendered("{a*3}{ k{i}*3}"), b"aaa k1 k2 k3");
        assert_eq!(rendered("{b64:{k}\\xff}"), b"YWJjMTIz/w==");
        assert_eq!(
            rendered("{=x} {=x+3} {=x-7} {now-1} {now}"),
            b"7 10 0 999 1000"
        );
        assert_eq!(rendered(r"\x7b{a*2}\x7d"), b"{aa}");
    }

    #[test]
    fn base64_pads() {
        assert_eq!(base64(b"foobar"), "Zm9vYmFy");
        assert_eq!(base64(b"fooba"), "Zm9vYmE=");
        assert_eq!(base64(b"foob"), "Zm9vYg==");
    }

    #[test]
    fn mistakes_are_refused() {
        for source in ["{", "}", "{nothing}", r"\q", r"\xg0", "{int:1}", "{a*b}"] {
            assert!(Text::parse(source).is_err(), "{source}");
        }
        assert!(Text::parse("{int}").unwrap().render(&scope()).is_err());
        assert!(Text::parse("{=y}").unwrap().render(&scope()).is_err());
    }

    #[test]
    fn a_match_is_exact() {
        assert_eq!(held("END\\r\\n", "END\r\nmore"), whole(5, &[]));
        assert_eq!(held("END\\r\\n", "END\r"), Match::Part);
        assert_eq!(held("END\\r\\n", "ENX"), Match::Differs(2));
        assert_eq!(held("", "x"), whole(0, &[]));
        assert_eq!(held("t{int:90..100}\\r", "t100\r"), whole(5, &[]));
        assert_eq!(held("t{int:90..100}\\r", "t101\r"), Match::Differs(1));
        assert_eq!(held("t{int}\\r", "t007\r"), Match::Differs(1));
        assert_eq!(held("t{int}\\r", "t\r"), Match::Differs(1));
        assert_eq!(held("t{int}\\r", "t12"), Match::Part);
        assert_eq!(
            held("{stats}END", "STAT a 1\r\nSTAT b 2\r\nEND"),
            whole(23, &[])
        );
        assert_eq!(held("{stats}END", "STAT a 1\r\nST"), Match::Part);
        assert_eq!(held("V {line}\\r\\n", "V a\rb\r\n"), whole(7, &[]));
    }

    #[test]
    fn a_number_is_remembered_within_its_own_text() {
        assert_eq!(held("{cas:c} {=c+1};", "41 42;"), whole(6, &[("c", 41)]));
        assert_eq!(held("{cas:c} {=c};", "41 42;"), Match::Differs(4));
    }
}
