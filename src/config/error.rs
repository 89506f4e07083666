//! What is wrong with a configuration, said so that its author can mend it.

use std::fmt;
use std::io;

use super::grammar::Flaw;
use super::path::Position;
use crate::router;

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("{file}: cannot be read")]
    Unreadable {
        /// The file.
        file: String,
        /// What the system says.
        source: io::Error,
    },
    /// The file is so large that it must be another.
    #[error("{file}: larger than {max}, which no configuration is")]
    TooLarge {
        /// The file.
        file: String,
        /// The largest size.
        max: String,
    },
    /// The file can be read, and something in it is wrong.
    #[error("{}", Lines(.problems, *.more))]
    Invalid {
        /// What is wrong, in the order of the file.
        problems: Vec<Problem>,
        /// How much more is wrong than `problems` has.
        more: usize,
    },
    /// What earlier processes have remembered could not be read, or nothing can be
    /// written there.
    #[error("missed_keys_dir: cannot use '{folder}'")]
    MissedKeys {
        /// The folder.
        folder: String,
        /// Why.
        source: io::Error,
    },
    /// A cache in this process could not be made.
    #[error("pools.{pool}: no cache for server '{server}'")]
    Cache {
        /// The pool.
        pool: String,
        /// The server.
        server: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Several problems, each in a line of its own.
struct Lines<'a>(&'a [Problem], usize);

impl fmt::Display for Lines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(problems, more) = self;
        for (at, problem) in problems.iter().enumerate() {
            let end = if at > 0 { "\n" } else { "" };
            write!(f, "{end}{problem}")?;
        }
        match more {
            0 => Ok(()),
            more => write!(f, "\nand {more} more"),
        }
    }
}

/// One thing that is wrong, and where.
#[derive(Clone, Debug, PartialEq)]
pub struct Problem {
    /// The file, as it was named to us.
    pub file: String,
    /// The place in the file.
    pub position: Position,
    /// The key, from the top of the file; empty for the file as a whole.
    pub path: String,
    /// What is wrong.
    pub fault: Fault,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: ", self.file, self.position)?;
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        self.fault.fmt(f)
    }
}

/// What is wrong.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Fault {
    /// The file is not YAML.
    #[error("bad YAML: {0}")]
    Syntax(String),
    /// The file is not text.
    #[error("not UTF-8")]
    Encoding,
    /// A key that there is not.
    #[error("unknown key ({0})")]
    UnknownKey(Meant),
    /// A key that stands twice in one map.
    #[error("the key stands in line {first} already")]
    DuplicateKey {
        /// The line of its first occurrence.
        first: usize,
    },
    /// A key that must be there.
    #[error("the key '{key}' is missing, expected {expected}")]
    MissingKey {
        /// The key.
        key: &'static str,
        /// What it should be.
        expected: String,
    },
    /// A value that cannot be.
    #[error("{misfit}, expected {expected}")]
    Value {
        /// What is wrong with it.
        misfit: Misfit,
        /// What it should be.
        expected: String,
    },
    /// Two values that contradict each other.
    #[error("'{key}' is {value}, expected at least '{other}', which is {least}")]
    Less {
        /// The key that is too small.
        key: &'static str,
        /// Its value.
        value: String,
        /// The key that it must not be less than.
        other: &'static str,
        /// The value of that key.
        least: String,
    },
    /// Two lists of servers.
    #[error("a pool has 'servers' or 'shards', not both")]
    ServersAndShards,
    /// Keys that nobody can stand in for.
    #[error("'remap' is not for {0}")]
    NoRemap(&'static str),
    /// An address that is used twice.
    #[error("{address} is the address of line {first} already")]
    AddressTaken {
        /// The address.
        address: String,
        /// The line of its first use.
        first: usize,
    },
    /// The address of the admin listener.
    #[error("{address} is the address of 'admin' already")]
    AdminAddress {
        /// The address.
        address: String,
    },
    /// A mode where there is no file.
    #[error("{address} has a mode, which only a unix socket takes")]
    ModeOfTcp {
        /// The address.
        address: String,
    },
    /// A port to be shared where there is none.
    #[error("{address} has no port that could be shared")]
    NoPort {
        /// The address.
        address: String,
    },
    /// A listener that leads nowhere.
    #[error(
        "{address} has no route, expected 'route' here or at the top of the file, one of {pools}"
    )]
    NoRoute {
        /// The listener's address.
        address: String,
        /// The names of all pools.
        pools: String,
    },
    /// A pool that cannot be placed.
    #[error(transparent)]
    Placement(router::Error),
}

impl Fault {
    /// Fills in the line of the earlier place that it is about.
    pub(super) fn tell_first(&mut self, line: usize) {
        if let Self::DuplicateKey { first } | Self::AddressTaken { first, .. } = self {
            *first = line;
        }
    }
}

/// What is wrong with one value.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Misfit {
    /// It is of another kind.
    #[error("found {0}")]
    Kind(String),
    /// It does not follow its grammar.
    #[error("{value} {flaw}")]
    Flawed {
        /// The value.
        value: String,
        /// What is wrong with it.
        flaw: Flaw,
    },
    /// It is too small or too large.
    #[error("{0} is out of range")]
    Range(String),
    /// It is none of a few names.
    #[error("{0} is unknown")]
    Unknown(String),
    /// It is nearly one of a few names.
    #[error("{value} is unknown ({meant})")]
    Misspelt {
        /// The value.
        value: String,
        /// The name.
        meant: Meant,
    },
    /// It names a pool that there is not.
    #[error("there is no pool '{0}'")]
    NoSuchPool(String),
}

/// What an unknown word may have meant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Meant {
    /// This word, which is much like it.
    #[error("did you mean '{0}'?")]
    Nearest(&'static str),
    /// What twemproxy means by it; here it is told otherwise.
    #[error("twemproxy's: {0}")]
    Twemproxys(&'static str),
    /// Who knows; these are all words there are.
    #[error("known here: {}", .0.join(", "))]
    OneOf(Vec<&'static str>),
}

/// Something odd about a configuration that can be had.
#[derive(Clone, Debug, PartialEq)]
pub struct Warning {
    /// The file.
    pub file: String,
    /// The place in the file.
    pub position: Position,
    /// The key it is about.
    pub path: String,
    /// What is odd.
    pub text: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            file,
            position,
            path,
            text,
        } = self;
        write!(f, "{file}:{position}: {path}: {text}")
    }
}

/// How alike two words must be, from 0 to 1, for one to be taken for the other
/// misspelt.
const ALIKE_MIN: f64 = 0.75;

/// The name most like `word`, if one is like it.
pub(super) fn nearest(
    word: &str,
    names: impl IntoIterator<Item = &'static str>,
) -> Option<&'static str> {
    let word = word.to_ascii_lowercase().replace('-', "_");
    names
        .into_iter()
        .map(|name| (strsim::jaro_winkler(&word, name), name))
        .filter(|(alike, _)| *alike >= ALIKE_MIN)
        .max_by(|(one, _), (other, _)| one.total_cmp(other))
        .map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_the_one_meant() {
        let names = ["timeout", "connect_timeout", "hash", "hash_tag", "servers"];
        let cases = [
            ("timeot", Some("timeout")),
            ("Timeout", Some("timeout")),
            ("connect-timeout", Some("connect_timeout")),
            ("hashtag", Some("hash_tag")),
            ("server", Some("servers")),
            ("redis", None),
            ("", None),
        ];
        for (word, expected) in cases {
            assert_eq!(nearest(word, names), expected, "{word}");
        }
    }
}
