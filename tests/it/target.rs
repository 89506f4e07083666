//! What an exchange is played on.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use serde::Deserialize;

/// A server that is listening.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    /// How a report calls it.
    pub(crate) name: String,
    /// What it is: an exchange may hold for some kinds only, or be answered
    /// otherwise by a proxy.
    pub(crate) kind: Kind,
    /// The release of memcached which it is, or which it promises to be like:
    /// chooses between the answers of old and new releases.
    pub(crate) version: Version,
    /// Behind a proxy, the release of the servers which it asks.
    pub(crate) behind: Option<Version>,
    /// Where it listens.
    pub(crate) address: SocketAddr,
}

impl Target {
    /// Our proxy at `address`; `behind` is the release of the servers it asks, if they
    /// are the original.
    pub(crate) fn proxy(name: &str, behind: Option<Version>, address: SocketAddr) -> Self {
        Self {
            name: name.to_owned(),
            kind: Kind::Proxy,
            version: Version::NEWEST,
            behind,
            address,
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}, like {})", self.name, self.address, self.version)
    }
}

/// The kinds of server that exchanges tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    /// The original.
    Memcached,
    /// Our bundled cache.
    Backend,
    /// Our proxy, whatever stands behind it.
    Proxy,
}

/// A release of memcached: `1.6.45`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version([u32; 3]);

impl Version {
    /// The release whose answers are the rule.
    pub(crate) const NEWEST: Self = Self([1, 6, 45]);
}

impl FromStr for Version {
    type Err = String;

    /// Reads the numbers at the front; what a distribution appends (`_debian`,
    /// `-dirty`) does not count.
    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("{text:?} is not a version such as 1.6.45");
        let mut numbers = [0; 3];
        let mut parts = text.trim().splitn(3, '.');
        for number in &mut numbers {
            let part = parts.next().ok_or_else(bad)?;
            let end = part
                .find(|c: char| !c.is_ascii_digit())
                .unwrap_or(part.len());
            *number = part[..end].parse().map_err(|_| bad())?;
        }
        Ok(Self(numbers))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [major, minor, patch] = self.0;
        write!(f, "{major}.{minor}.{patch}")
    }
}

#[test]
fn versions_compare_as_numbers() {
    let version = |text: &str| text.parse::<Version>();
    assert!(version("1.6.9") < version("1.6.18"));
    assert_eq!(version("1.6.45-3-gabc"), Ok(Version::NEWEST));
    assert!(version("1.6").is_err());
}
