//! Where the cache listens (`-l`, `-p`, `-s`).

use std::path::Path;

use ketch::backend::server::Dialect;
use ketch::net::listener::{ANY, Address};

use super::super::BadUsage;

/// An address to listen on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Listen {
    /// Where.
    pub(super) address: Address,
    /// What is spoken there.
    pub(super) dialect: Dialect,
}

/// All addresses. A unix socket excludes the others, as in memcached; without any
/// address it is every one of the host.
///
/// # Errors
///
/// [`BadUsage`] if one cannot be read.
pub(super) fn all(
    listen: &[String],
    port: i32,
    socket: Option<&Path>,
    dialect: Dialect,
) -> Result<Vec<Listen>, BadUsage> {
    if let Some(path) = socket {
        return Ok(vec![Listen {
            address: Address::Unix(path.to_owned()),
            dialect,
        }]);
    }
    // No port is as good as the system's choice, once it is clear that there is one.
    let default_port = match u16::try_from(port.max(0)) {
        Ok(0) if port == 0 => None,
        port => Some(port.unwrap_or(0)),
    };
    if listen.is_empty() {
        let any = default_port.map(|port| Listen {
            address: tcp(ANY, port),
            dialect,
        });
        return Ok(any.into_iter().collect());
    }
    let mut all = Vec::new();
    for word in listen.iter().filter(|word| !word.is_empty()) {
        all.extend(one(word, default_port, dialect)?);
    }
    Ok(all)
}

fn tcp(host: &str, port: u16) -> Address {
    Address::Tcp {
        host: host.to_owned(),
        port,
    }
}

/// One address; `None` if it has no port and TCP is switched off.
fn one(
    word: &str,
    default_port: Option<u16>,
    mut dialect: Dialect,
) -> Result<Option<Listen>, BadUsage> {
    let mut rest = word;
    loop {
        if let Some((name, after)) = in_brackets(rest, "proto") {
            dialect = match name {
                "ascii" => Dialect::Ascii,
                "binary" => Dialect::Binary,
                "negotiating" | "auto" => Dialect::Auto,
                _ => return Err(bad(word, "protocols are ascii, binary and negotiating")),
            };
            rest = after;
        } else if let Some((_, after)) = in_brackets(rest, "tag").or_else(|| underlined(rest)) {
            rest = after;
        } else {
            break;
        }
    }
    let (host, port) = split(rest).ok_or_else(|| bad(word, "not an address"))?;
    let port = match port {
        Some(port) => Some(port.parse().map_err(|_| bad(word, "not a port"))?),
        None => default_port,
    };
    Ok(port.map(|port| Listen {
        address: tcp(host, port),
        dialect,
    }))
}

/// Host and port of the HTTP listener.
///
/// # Errors
///
/// [`BadUsage`] if it cannot be read or has no port.
pub(super) fn admin(word: &str) -> Result<(String, u16), BadUsage> {
    match split(word) {
        Some((host, Some(port))) => match port.parse() {
            Ok(port) => Ok((host.to_owned(), port)),
            Err(_) => Err(BadUsage(format!("--admin {word}: not a port"))),
        },
        _ => Err(BadUsage(format!("--admin {word}: not host and port"))),
    }
}

/// `name[inside]:rest`.
fn in_brackets<'a>(text: &'a str, name: &str) -> Option<(&'a str, &'a str)> {
    let (inside, rest) = text
        .strip_prefix(name)?
        .strip_prefix('[')?
        .split_once(']')?;
    Some((inside, rest.strip_prefix(':').unwrap_or(rest)))
}

/// `tag_inside_:rest`.
fn underlined(text: &str) -> Option<(&str, &str)> {
    text.strip_prefix("tag_")?.split_once("_:")
}

/// Host and port, if it has one. An IPv6 address stands in brackets or alone.
fn split(text: &str) -> Option<(&str, Option<&str>)> {
    if let Some(rest) = text.strip_prefix('[') {
        let (host, rest) = rest.split_once(']')?;
        return match rest.strip_prefix(':') {
            Some(port) => Some((host, Some(port))),
            None => rest.is_empty().then_some((host, None)),
        };
    }
    match text.split_once(':') {
        Some((host, port)) if !port.contains(':') => Some((host, Some(port))),
        _ => Some((text, None)),
    }
}

fn bad(word: &str, why: &str) -> BadUsage {
    BadUsage(format!("-l {word}: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(listen: &[&str], port: i32) -> Vec<String> {
        let listen: Vec<_> = listen.iter().map(|&word| word.to_owned()).collect();
        let all = all(&listen, port, None, Dialect::Auto).unwrap();
        all.iter()
            .map(|listen| format!("{} {}", listen.address, listen.dialect.name()))
            .collect()
    }

    #[test]
    fn addresses_are_read() {
        assert_eq!(
            shown(&["127.0.0.1", "host:1", "[::1]:2", "::1", "*:3"], 11211),
            [
                "127.0.0.1:11211 auto-negotiate",
                "host:1 auto-negotiate",
                "[::1]:2 auto-negotiate",
                "[::1]:11211 auto-negotiate",
                "*:3 auto-negotiate",
            ]
        );
        assert_eq!(
            shown(
                &["proto[binary]:tag[x]:1.2.3.4:5", "proto[ascii]:tag_y_:h:6"],
                0
            ),
            ["1.2.3.4:5 binary", "h:6 ascii"]
        );
    }

    #[test]
    fn without_an_address_it_is_every_one() {
        assert_eq!(shown(&[], -1), ["*:0 auto-negotiate"]);
        assert!(shown(&[], 0).is_empty());
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for word in ["proto[http]:a:1", "a:b", "[::1:2"] {
            let listen = [word.to_owned()];
            assert!(all(&listen, 1, None, Dialect::Auto).is_err(), "{word}");
        }
    }
}
