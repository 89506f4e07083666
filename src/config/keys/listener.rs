//! One listener of several.

use std::path::PathBuf;

use serde_json::{Value as Json, json};

use super::NAME;
use super::clients::{LINE, VALUE};
use crate::config::form::{Flag, OneOf, Optional, Parsed};
use crate::config::grammar::{self, Flaw};
use crate::config::key::{Key, Preset, Scalar, Section, Slot, lens};
use crate::config::reader::{At, Report};
use crate::config::settings::Listen;
use crate::config::tree::Node;
use crate::net::listener::Address;
use crate::proxy::ClientProtocol;

/// A section of the list `listen`.
pub(in crate::config) static LISTENER: Section<Listen> = Section {
    name: "listen[]",
    definition: "listener",
    help: "One listener of several, where they differ.",
    expected: "a map with the key 'address'",
    // Only until its address is read, without which there is no listener.
    fresh: || Listen::at(Address::Unix(PathBuf::new())),
    twemproxys: &[],
    keys: &[
        Key {
            name: "address",
            slot: &Scalar {
                lens: lens!(Listen, address),
                form: Parsed {
                    read: grammar::address,
                    show: Address::to_string,
                    expected: "an address such as 127.0.0.1:11311, [::1]:11311 (in quotes) or \
                               unix:/path",
                    brief: "address",
                    pattern: "",
                },
            },
            preset: Preset::Required,
            help: "Where it listens: `host:port`, `[ipv6]:port` or `unix:/path`. A name means all \
                   its addresses that are on this host. Port 0 lets the system choose.",
            bound: "",
        },
        Key {
            name: "mode",
            slot: &Mode,
            preset: Preset::Told("the umask's"),
            help: "Permissions of a unix socket's file, in octal digits.",
            bound: "",
        },
        Key {
            name: "protocol",
            slot: &Scalar {
                lens: lens!(Listen, protocol),
                form: OneOf {
                    all: &ClientProtocol::ALL,
                    name: ClientProtocol::name,
                },
            },
            preset: Preset::Fresh,
            help: "What its clients speak. `auto`: the first byte of each connection tells, as \
                   in memcached.",
            bound: "",
        },
        Key {
            name: "reuse_port",
            slot: &Scalar {
                lens: lens!(Listen, reuse_port),
                form: Flag,
            },
            preset: Preset::Fresh,
            help: "Whether other processes of the same user may listen on the same port, so that \
                   the next proxy can start before this one ends; then they share the port of \
                   `admin` too.",
            bound: "",
        },
        Key {
            name: "route",
            slot: &Scalar {
                lens: lens!(Listen, route),
                form: Optional(NAME),
            },
            preset: Preset::Told("`route` at the top"),
            help: "The pool that its requests go to, by name.",
            bound: "",
        },
        Key {
            name: "value_bytes_max",
            slot: &Scalar {
                lens: lens!(Listen, value_bytes_max),
                form: Optional(VALUE),
            },
            preset: Preset::Told("that of `clients`"),
            help: "Largest value that its clients may store.",
            bound: "as under `clients`.",
        },
        Key {
            name: "line_bytes_max",
            slot: &Scalar {
                lens: lens!(Listen, line_bytes_max),
                form: Optional(LINE),
            },
            preset: Preset::Told("that of `clients`"),
            help: "Longest line of a `get` of several keys.",
            bound: "as under `clients`.",
        },
        Key {
            name: "flush_all",
            slot: &Scalar {
                lens: lens!(Listen, flush_all),
                form: Optional(Flag),
            },
            preset: Preset::Told("that of `clients`"),
            help: "Whether its clients may empty all servers of their pool.",
            bound: "",
        },
    ],
};

/// Octal digits, which YAML would take for a decimal number.
struct Mode;

impl Slot<Listen> for Mode {
    fn read(&self, at: &At<'_>, target: &mut Listen, report: &mut Report<'_>) {
        let digits = match at.node {
            Node::Int(_) | Node::Text(_) => report.written(at),
            _ => None,
        };
        match digits.map(|digits| grammar::mode(&digits)) {
            Some(Ok(mode)) => target.mode = Some(mode),
            Some(Err(_)) => report.flawed(at, Flaw::Form, self.expected()),
            None => report.wrong_kind(at, self.expected()),
        }
    }

    fn show(&self, target: &Listen) -> Option<String> {
        target.mode.map(|mode| format!("0{mode:o}"))
    }

    fn expected(&self) -> String {
        "octal digits such as 0660".to_owned()
    }

    fn brief(&self) -> String {
        "octal digits, as `0660`".to_owned()
    }

    fn schema(&self) -> Json {
        json!({"anyOf": [
            {"type": "string", "pattern": "^(0o)?0?[0-7]{1,3}$"},
            {"type": "integer", "minimum": 0, "maximum": 777},
        ]})
    }
}
