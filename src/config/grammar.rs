//! The small grammars of values: durations, sizes, addresses, servers, modes.
//!
//! Pure: text in, a value or a [`Flaw`] out. What a key wants of the value, its
//! range first of all, is said by the key.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::time::Duration;

use nom::branch::alt;
use nom::bytes::complete::{tag, take_till1, take_while1};
use nom::character::complete::{alpha1, char, digit1, space1};
use nom::combinator::{all_consuming, opt, recognize};
use nom::multi::many1;
use nom::sequence::{delimited, preceded};
use nom::{IResult, Parser};

use crate::net::listener::Address;
use crate::pool::server::Place;

/// Longest path of a Unix socket, in bytes: the system's structure has 108, one
/// of them for the end.
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// Why a text is not what it should be. Reads on after the text itself.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    /// It is not of the form at all.
    #[error("cannot be read")]
    Form,
    /// A number alone.
    #[error("has no unit")]
    NoUnit,
    /// A unit that is none.
    #[error("has the unknown unit '{0}'")]
    UnknownUnit(String),
    /// `30s1m`, or a unit twice.
    #[error("does not have its units from large to small")]
    UnitOrder,
    /// A number that no computer takes.
    #[error("is too large a number")]
    TooLarge,
    /// A host without a port.
    #[error("has no port")]
    NoPort,
    /// A port that cannot be.
    #[error("has the impossible port {0}")]
    Port(String),
    /// A name or number of a host that cannot be.
    #[error("has the impossible host '{0}'")]
    Host(String),
    /// An IPv6 address as it stands.
    #[error("has an IPv6 address without brackets")]
    NoBrackets,
    /// A path that does not begin at the root.
    #[error("has a path that does not begin with /")]
    RelativePath,
    /// A path that the system cannot bind.
    #[error("has a path of more than {SOCKET_PATH_BYTES_MAX} bytes")]
    LongPath,
    /// A unix socket where none will do.
    #[error("is a unix socket, where only a host and a port will do")]
    UnixSocket,
    /// Permissions that are not octal digits up to 777.
    #[error("has the impossible mode '{0}'")]
    Mode(String),
    /// Permissions for what is no file.
    #[error("has a mode, which only a unix socket takes")]
    ModeOfTcp,
    /// No text at all where some is needed.
    #[error("is empty")]
    Empty,
    /// A line end, or another character that would break what it is put into.
    #[error("has a control character")]
    Control,
    /// A log level that there is not.
    #[error("has the unknown level '{0}'")]
    UnknownLevel(String),
}

/// The units of durations, the largest first, in microseconds.
const TIME_UNITS: [(&str, u64); 6] = [
    ("d", 86_400_000_000),
    ("h", 3_600_000_000),
    ("m", 60_000_000),
    ("s", 1_000_000),
    ("ms", 1_000),
    ("us", 1),
];

/// The units of sizes, the largest first, in bytes.
const SIZE_UNITS: [(&str, u64); 5] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("B", 1),
];

/// What `parser` makes of all of `text`.
fn whole<'a, O>(
    parser: impl Parser<&'a str, Output = O, Error = nom::error::Error<&'a str>>,
    text: &'a str,
) -> Option<O> {
    all_consuming(parser).parse(text).ok().map(|(_, out)| out)
}

/// `12` or `1.5`.
fn number(input: &str) -> IResult<&str, &str> {
    recognize((digit1, opt((char('.'), digit1)))).parse(input)
}

/// What is wrong with a text that should be numbers with units.
fn no_unit(text: &str) -> Flaw {
    match whole(number, text) {
        Some(_) => Flaw::NoUnit,
        None => Flaw::Form,
    }
}

fn scale(digits: &str, factor: u64) -> Option<u64> {
    digits.parse::<u64>().ok()?.checked_mul(factor)
}

/// A duration: `250ms`, `1m30s`, `0`.
pub(super) fn duration(text: &str) -> Result<Duration, Flaw> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let terms = whole(many1((digit1, alpha1)), text).ok_or_else(|| no_unit(text))?;
    let mut larger = None;
    let mut micros = 0u64;
    for (digits, unit) in terms {
        let place = TIME_UNITS.iter().position(|(name, _)| *name == unit);
        let (Some(place), Some((_, factor))) = (place, place.and_then(|at| TIME_UNITS.get(at)))
        else {
            return Err(Flaw::UnknownUnit(unit.to_owned()));
        };
        if larger.is_some_and(|larger| place <= larger) {
            return Err(Flaw::UnitOrder);
        }
        larger = Some(place);
        micros = scale(digits, *factor)
            .and_then(|more| micros.checked_add(more))
            .ok_or(Flaw::TooLarge)?;
    }
    Ok(Duration::from_micros(micros))
}

/// A duration as the configuration writes it.
pub fn show_duration(duration: Duration) -> String {
    let mut rest = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
    let mut text = String::new();
    for (unit, factor) in TIME_UNITS {
        if rest >= factor {
            text.push_str(&format!("{}{unit}", rest / factor));
            rest %= factor;
        }
    }
    if text.is_empty() { "0".into() } else { text }
}

/// A size in bytes: `64MiB`, `100B`, `0`.
pub(super) fn size(text: &str) -> Result<u64, Flaw> {
    if text == "0" {
        return Ok(0);
    }
    let (digits, unit) = whole((digit1, alpha1), text).ok_or_else(|| no_unit(text))?;
    let (_, factor) = SIZE_UNITS
        .iter()
        .find(|(name, _)| *name == unit)
        .ok_or_else(|| Flaw::UnknownUnit(unit.to_owned()))?;
    scale(digits, *factor).ok_or(Flaw::TooLarge)
}

/// A size as the configuration writes it.
pub fn show_size(bytes: u64) -> String {
    let unit = SIZE_UNITS
        .iter()
        .find(|(_, factor)| bytes > 0 && bytes.is_multiple_of(*factor));
    match unit {
        Some((name, factor)) => format!("{}{name}", bytes / factor),
        None => "0".into(),
    }
}

/// Something without blanks.
fn word(input: &str) -> IResult<&str, &str> {
    take_till1(char::is_whitespace).parse(input)
}

/// `[::1]` without its brackets, a name, or an IPv4 address.
fn host(input: &str) -> IResult<&str, (&str, bool)> {
    let bracketed = delimited(char('['), take_while1(|c| c != ']'), char(']'));
    let plain = take_while1(|c: char| c.is_ascii_alphanumeric() || "._-".contains(c));
    alt((
        bracketed.map(|host| (host, true)),
        plain.map(|host| (host, false)),
    ))
    .parse(input)
}

/// Whether a host of this spelling may be.
fn is_host(host: &str, bracketed: bool) -> bool {
    if bracketed {
        // A zone (`%eth0`) is for the system to know.
        let address = host.split_once('%').map_or(host, |(address, _)| address);
        return address.parse::<Ipv6Addr>().is_ok();
    }
    let numeric = host.chars().all(|c| c.is_ascii_digit() || c == '.');
    !numeric || host.parse::<Ipv4Addr>().is_ok()
}

/// A place behind a socket, and the weight that may stand behind it.
fn place(word: &str) -> Result<(Address, Option<&str>), Flaw> {
    if let Some(path) = word.strip_prefix("unix:") {
        return if path.starts_with('/') {
            socket(path)
        } else {
            Err(Flaw::RelativePath)
        };
    }
    if word.starts_with('/') {
        return socket(word);
    }
    let weight = preceded(char(':'), number);
    let parser = (host, opt(preceded(char(':'), digit1)), opt(weight));
    let ((host, bracketed), port, weight) = whole(parser, word).ok_or_else(|| not_tcp(word))?;
    let port = port.ok_or(Flaw::NoPort)?;
    if !is_host(host, bracketed) {
        return Err(Flaw::Host(host.to_owned()));
    }
    let address = Address::Tcp {
        host: host.to_owned(),
        port: port.parse().map_err(|_| Flaw::Port(port.to_owned()))?,
    };
    Ok((address, weight))
}

/// What is wrong with a word that should be a host and a port.
fn not_tcp(word: &str) -> Flaw {
    if word.contains("::") || word.matches(':').count() > 2 {
        Flaw::NoBrackets
    } else {
        Flaw::Form
    }
}

/// The path of a socket, and the weight that may stand behind it.
fn socket(word: &str) -> Result<(Address, Option<&str>), Flaw> {
    let (path, weight) = match word.rsplit_once(':') {
        Some((path, weight)) if whole(number, weight).is_some() => (path, Some(weight)),
        _ => (word, None),
    };
    if path.len() > SOCKET_PATH_BYTES_MAX {
        return Err(Flaw::LongPath);
    }
    Ok((Address::Unix(PathBuf::from(path)), weight))
}

/// A place behind a socket: `host:port`, `[ipv6]:port`, `unix:/path`, `/path`.
pub(super) fn address(text: &str) -> Result<Address, Flaw> {
    let word = whole(word, text).ok_or(Flaw::Form)?;
    match place(word)? {
        (address, None) => Ok(address),
        (_, Some(_)) => Err(Flaw::Form),
    }
}

/// A host and a port.
pub(super) fn tcp_address(text: &str) -> Result<Address, Flaw> {
    match address(text)? {
        Address::Unix(_) => Err(Flaw::UnixSocket),
        address @ Address::Tcp { .. } => Ok(address),
    }
}

/// Where to listen: an address, and the mode that may stand behind a path.
pub(super) fn listener(text: &str) -> Result<(Address, Option<u32>), Flaw> {
    let (at, bits) = whole((word, opt(preceded(space1, word))), text).ok_or(Flaw::Form)?;
    let at = address(at)?;
    match (&at, bits) {
        (_, None) => Ok((at, None)),
        (Address::Tcp { .. }, Some(_)) => Err(Flaw::ModeOfTcp),
        (Address::Unix(_), Some(bits)) => mode(bits).map(|bits| (at, Some(bits))),
    }
}

/// Permissions in octal digits: `0660`, `660`, `0o660`.
pub(super) fn mode(text: &str) -> Result<u32, Flaw> {
    whole(preceded(opt(tag("0o")), digit1), text)
        .and_then(|digits| u32::from_str_radix(digits, 8).ok())
        .filter(|bits| *bits <= 0o777)
        .ok_or_else(|| Flaw::Mode(text.to_owned()))
}

/// A server as one text.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct ServerText {
    pub(super) place: Place,
    pub(super) weight: Option<f64>,
    pub(super) name: Option<String>,
}

/// A server: an address or `embedded`; behind an address, as twemproxy has it,
/// perhaps `:weight` and perhaps a blank and a name.
pub(super) fn server(text: &str) -> Result<ServerText, Flaw> {
    if text == "embedded" {
        return Ok(ServerText {
            place: Place::Embedded,
            weight: None,
            name: None,
        });
    }
    let (at, name) = whole((word, opt(preceded(space1, word))), text).ok_or(Flaw::Form)?;
    let (address, weight) = place(at)?;
    Ok(ServerText {
        place: server_place(address)?,
        // A number by the grammar, hence one for Rust.
        weight: weight.and_then(|weight| weight.parse().ok()),
        name: name.map(str::to_owned),
    })
}

/// Where a server is, without weight and name.
pub(super) fn server_address(text: &str) -> Result<Place, Flaw> {
    match text {
        "embedded" => Ok(Place::Embedded),
        _ => server_place(address(text)?),
    }
}

/// Port 0 is for listeners: nothing can be reached there.
fn server_place(address: Address) -> Result<Place, Flaw> {
    match address {
        Address::Tcp { port: 0, .. } => Err(Flaw::Port("0".to_owned())),
        address => Ok(Place::Remote(address)),
    }
}

/// A folder.
pub(super) fn folder(text: &str) -> Result<PathBuf, Flaw> {
    match text {
        "" => Err(Flaw::Empty),
        _ if text.starts_with('/') => Ok(PathBuf::from(text)),
        _ => Err(Flaw::RelativePath),
    }
}

/// A share: `95%`.
pub(super) fn percent(text: &str) -> Result<u8, Flaw> {
    let digits = text.strip_suffix('%').ok_or(Flaw::NoUnit)?;
    let share: u8 = digits.parse().map_err(|_| Flaw::Form)?;
    if (1..=99).contains(&share) {
        Ok(share)
    } else {
        Err(Flaw::Form)
    }
}

/// A name: of a pool, of a server. It appears in replies, logs and metrics.
pub(super) fn name(text: &str) -> Result<String, Flaw> {
    if text.is_empty() {
        return Err(Flaw::Empty);
    }
    if text.chars().any(char::is_control) {
        return Err(Flaw::Control);
    }
    Ok(text.to_owned())
}

/// A filter of log events: levels, or targets with levels, by commas. Blanks
/// around them are left out of what is returned.
pub(super) fn log_filter(text: &str) -> Result<String, Flaw> {
    let parts: Vec<String> = text
        .split(',')
        .map(log_directive)
        .collect::<Result<_, _>>()?;
    let filter = parts.join(",");
    match tracing_subscriber::EnvFilter::try_new(&filter) {
        Ok(_) => Ok(filter),
        Err(_) => Err(Flaw::Form),
    }
}

/// One part of a [log filter](log_filter) without blanks, of which the reader
/// of filters makes a part of a target, or panics.
fn log_directive(text: &str) -> Result<String, Flaw> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let text = text.trim();
    if text.contains('[') {
        return Ok(text.to_owned());
    }
    // The filter takes a word that is no level for a target, of which it then
    // shows everything and of the rest nothing: never what was meant.
    let (target, level) = match text.split_once('=') {
        Some((target, level)) => (Some(target.trim()), level.trim()),
        None => (None, text),
    };
    if !LEVELS.contains(&level.to_ascii_lowercase().as_str()) {
        return Err(Flaw::UnknownLevel(level.to_owned()));
    }
    Ok(target.map_or(level.to_owned(), |target| format!("{target}={level}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tcp(host: &str, port: u16) -> Address {
        Address::Tcp {
            host: host.to_owned(),
            port,
        }
    }

    fn unix(path: &str) -> Address {
        Address::Unix(PathBuf::from(path))
    }

    #[test]
    fn durations_carry_units() {
        let good = [
            ("0", 0),
            ("250ms", 250_000),
            ("1s", 1_000_000),
            ("1m30s", 90_000_000),
            ("1d2h3m4s5ms6us", 93_784_005_006),
        ];
        for (text, micros) in good {
            assert_eq!(duration(text), Ok(Duration::from_micros(micros)), "{text}");
        }
        let unknown = |unit: &str| Flaw::UnknownUnit(unit.to_owned());
        let bad = [
            ("", Flaw::Form),
            ("soon", Flaw::Form),
            ("-1s", Flaw::Form),
            ("1 s", Flaw::Form),
            ("1.5s", Flaw::Form),
            ("400", Flaw::NoUnit),
            ("0.4", Flaw::NoUnit),
            ("400msec", unknown("msec")),
            ("1S", unknown("S")),
            ("30s1m", Flaw::UnitOrder),
            ("1s1s", Flaw::UnitOrder),
            ("99999999999999999999s", Flaw::TooLarge),
            ("999999999999d", Flaw::TooLarge),
        ];
        for (text, flaw) in bad {
            assert_eq!(duration(text), Err(flaw), "{text}");
        }
    }

    #[test]
    fn sizes_carry_units() {
        let good = [
            ("0", 0),
            ("100B", 100),
            ("512KiB", 524_288),
            ("1GiB", 1 << 30),
        ];
        for (text, bytes) in good {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        let bad = [
            ("1048576", Flaw::NoUnit),
            ("1MB", Flaw::UnknownUnit("MB".to_owned())),
            ("1m", Flaw::UnknownUnit("m".to_owned())),
            ("1MiB1KiB", Flaw::Form),
            ("many", Flaw::Form),
            ("99999999TiB", Flaw::TooLarge),
        ];
        for (text, flaw) in bad {
            assert_eq!(size(text), Err(flaw), "{text}");
        }
    }

    #[test]
    fn addresses_are_hosts_with_ports_or_paths() {
        let good = [
            ("127.0.0.1:11311", tcp("127.0.0.1", 11311)),
            ("[::1]:11311", tcp("::1", 11311)),
            ("[fe80::1%eth0]:1", tcp("fe80::1%eth0", 1)),
            ("localhost:0", tcp("localhost", 0)),
            ("my-cache_1.example:11211", tcp("my-cache_1.example", 11211)),
            ("unix:/run/mc.sock", unix("/run/mc.sock")),
            ("/run/mc.sock", unix("/run/mc.sock")),
        ];
        for (text, expected) in good {
            assert_eq!(address(text), Ok(expected), "{text}");
        }
        let host = |host: &str| Flaw::Host(host.to_owned());
        let bad = [
            ("", Flaw::Form),
            (":11311", Flaw::Form),
            ("*:11311", Flaw::Form),
            ("a:1:1", Flaw::Form),
            ("a:http", Flaw::Form),
            ("a:1 ", Flaw::Form),
            ("a", Flaw::NoPort),
            ("a:65536", Flaw::Port("65536".to_owned())),
            ("::1:11311", Flaw::NoBrackets),
            ("[::1]", Flaw::NoPort),
            ("[localhost]:1", host("localhost")),
            ("10.0.0.256:1", host("10.0.0.256")),
            ("11311", Flaw::NoPort),
            ("unix:run/mc.sock", Flaw::RelativePath),
            ("unix:", Flaw::RelativePath),
        ];
        for (text, flaw) in bad {
            assert_eq!(address(text), Err(flaw), "{text}");
        }
        assert_eq!(tcp_address("localhost:1"), Ok(tcp("localhost", 1)));
        assert_eq!(tcp_address("unix:/a"), Err(Flaw::UnixSocket));
        let long = format!("/{}", "x".repeat(SOCKET_PATH_BYTES_MAX));
        assert_eq!(address(&long), Err(Flaw::LongPath));
        assert!(address(&long[..SOCKET_PATH_BYTES_MAX]).is_ok());
    }

    #[test]
    fn a_mode_may_stand_behind_the_path_of_a_listener() {
        let path = unix("/run/mc.sock");
        for text in ["/run/mc.sock 0666", "unix:/run/mc.sock 666"] {
            assert_eq!(listener(text), Ok((path.clone(), Some(0o666))), "{text}");
        }
        assert_eq!(listener("/run/mc.sock"), Ok((path, None)));
        assert_eq!(listener("127.0.0.1:1 0666"), Err(Flaw::ModeOfTcp));
        for bad in ["0888", "1777", "rw", "99999999999"] {
            let flaw = Flaw::Mode(bad.to_owned());
            assert_eq!(listener(&format!("/run/mc.sock {bad}")), Err(flaw));
        }
        assert_eq!(listener("/run/mc.sock 0666 x"), Err(Flaw::Form));
    }

    #[test]
    fn servers_are_written_as_twemproxy_has_them() {
        let remote = |address: Address, weight, name: Option<&str>| ServerText {
            place: Place::Remote(address),
            weight,
            name: name.map(str::to_owned),
        };
        let mc = || tcp("10.0.0.1", 11211);
        let sock = || unix("/run/mc.sock");
        let good = [
            ("10.0.0.1:11211", remote(mc(), None, None)),
            ("10.0.0.1:11211:3", remote(mc(), Some(3.0), None)),
            ("10.0.0.1:11211:1 one", remote(mc(), Some(1.0), Some("one"))),
            ("10.0.0.1:11211 one", remote(mc(), None, Some("one"))),
            ("[::1]:11211:2", remote(tcp("::1", 11211), Some(2.0), None)),
            ("/run/mc.sock:2 two", remote(sock(), Some(2.0), Some("two"))),
            ("unix:/run/mc.sock", remote(sock(), None, None)),
            ("embedded:11211", remote(tcp("embedded", 11211), None, None)),
        ];
        for (text, expected) in good {
            assert_eq!(server(text), Ok(expected), "{text}");
        }
        assert_eq!(server("embedded").unwrap().place, Place::Embedded);
        let bad = [
            ("10.0.0.1", Flaw::NoPort),
            ("10.0.0.1:0", Flaw::Port("0".to_owned())),
            ("10.0.0.1:11211:x", Flaw::Form),
            ("10.0.0.1:11211:1 two words", Flaw::Form),
            ("::1:11211:1", Flaw::NoBrackets),
        ];
        for (text, flaw) in bad {
            assert_eq!(server(text), Err(flaw), "{text}");
        }
    }

    #[test]
    fn a_name_can_be_told_in_one_line() {
        assert_eq!(name("my cache, old").as_deref(), Ok("my cache, old"));
        assert_eq!(name(""), Err(Flaw::Empty));
        assert_eq!(name("a\r\nVALUE"), Err(Flaw::Control));
    }

    #[test]
    fn a_log_filter_names_levels() {
        for good in ["info", "ketch=debug", "warn,ketch::pool=trace", "OFF"] {
            assert!(log_filter(good).is_ok(), "{good}");
        }
        let unknown = |level: &str| Err(Flaw::UnknownLevel(level.to_owned()));
        assert_eq!(log_filter("inof"), unknown("inof"));
        assert_eq!(log_filter("ketch=loud"), unknown("loud"));
        assert_eq!(log_filter(""), unknown(""));
        assert_eq!(log_filter("[x=info"), Err(Flaw::Form));
    }

    #[test]
    fn a_log_filter_has_no_blanks() {
        let read = |text: &str| log_filter(text).expect("the filter is valid");
        assert_eq!(
            read(" warn, ketch::pool = debug "),
            "warn,ketch::pool=debug"
        );
        assert_eq!(read("warn,\u{a0}[x]=info"), "warn,[x]=info");
        // The reader of filters slices the text where blanks put it off.
        assert_eq!(log_filter(" a\u{bf1}["), Err(Flaw::Form));
    }

    proptest! {
        #[test]
        fn durations_read_as_they_are_shown(micros: u64) {
            let before = Duration::from_micros(micros);
            prop_assert_eq!(duration(&show_duration(before)), Ok(before));
        }

        #[test]
        fn sizes_read_as_they_are_shown(bytes: u64) {
            prop_assert_eq!(size(&show_size(bytes)), Ok(bytes));
        }

        #[test]
        fn addresses_read_as_they_are_shown(
            host in "[a-z][a-z0-9.-]{0,20}|::[0-9a-f]{1,4}", port: u16, path in "/[a-z0-9/._-]{1,40}",
        ) {
            let address_of = |text: &Address| address(&text.to_string());
            prop_assert_eq!(address_of(&tcp(&host, port)), Ok(tcp(&host, port)));
            prop_assert_eq!(address_of(&unix(&path)), Ok(unix(&path)));
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,40}|[0-9:./\\[\\]a-z ]{0,40}") {
            let _ = (duration(&text), size(&text), address(&text), listener(&text));
            let _ = (server(&text), server_address(&text), mode(&text), log_filter(&text));
        }
    }
}
