//! `ketch route`: which server holds a key, and why.

use std::io::{self, BufRead, Write};
use std::os::unix::ffi::OsStrExt;

use ketch::config::{Config, Pool};
use ketch::protocol::limits::KEY_BYTES_MAX;
use ketch::router::{Distribution, Placement};

use super::BadQuestion;
use super::args::Route;

/// The pool, by its place, that requests go to which come in at `listen`.
///
/// # Errors
///
/// If no listener has this address, or if none is named and it matters.
pub(crate) fn pool(config: &Config, listen: Option<&str>) -> anyhow::Result<usize> {
    let listeners = config.settings.listen.iter();
    let addresses: Vec<_> = listeners.map(|listen| listen.address.to_string()).collect();
    let all = addresses.join(", ");
    let number = match listen {
        Some(asked) => {
            let found = addresses.iter().position(|known| known == asked);
            found.ok_or_else(|| BadQuestion(format!("no listener {asked}; there are {all}")))?
        }
        None => {
            let first = config.routes.first();
            if config.routes.iter().any(|route| Some(route) != first) {
                let which = "listeners lead to different pools: name one by --listen, of";
                return Err(BadQuestion(format!("{which} {all}")).into());
            }
            0
        }
    };
    // Every listener of a checked configuration has a route.
    Ok(config.routes.get(number).copied().unwrap_or(0))
}

/// Writes the server of each key that is asked about.
pub(crate) fn explain(
    config: &Config,
    pool: usize,
    asked: &Route,
    out: &mut dyn Write,
) -> io::Result<()> {
    let mut pools = config.settings.pools.iter().zip(&config.placements);
    let Some((pool, placement)) = pools.nth(pool) else {
        return Ok(());
    };
    let table = Table::new(pool, placement);
    table.write_header(out)?;
    for key in &asked.keys {
        table.write_row(key.as_bytes(), out)?;
    }
    if asked.stdin {
        for line in io::stdin().lock().split(b'\n') {
            let line = line?;
            let key = line.strip_suffix(b"\r").unwrap_or(&line);
            table.write_row(key, out)?;
        }
    }
    if pool.placement.distribution == Distribution::Random {
        writeln!(
            out,
            "distribution random: the next request goes anywhere else"
        )?;
    }
    Ok(())
}

/// Rows of one pool. Keys stand last: their length is not known beforehand.
struct Table<'a> {
    pool: &'a Pool,
    placement: &'a Placement,
    /// Widths of the columns of names and addresses.
    name: usize,
    address: usize,
}

/// Digits of the largest hash.
const HASH: usize = 20;
/// Digits of the largest point.
const POINT: usize = 10;

impl<'a> Table<'a> {
    fn new(pool: &'a Pool, placement: &'a Placement) -> Self {
        let width = |text: fn(&ketch::config::Server) -> String, least: &str| {
            let lengths = pool
                .servers
                .iter()
                .map(|server| text(server).chars().count());
            lengths.max().unwrap_or(0).max(least.len())
        };
        Self {
            pool,
            placement,
            name: width(ketch::config::Server::shown_name, "server"),
            address: width(|server| server.place.to_string(), "address"),
        }
    }

    fn write_header(&self, out: &mut dyn Write) -> io::Result<()> {
        let pool = self.pool.name.chars().count().max("pool".len());
        let Self { name, address, .. } = self;
        writeln!(
            out,
            "{:pool$}  {:name$}  {:address$}  {:>HASH$}  {:>POINT$}  key",
            "pool", "server", "address", "hash", "point",
        )
    }

    fn write_row(&self, key: &[u8], out: &mut dyn Write) -> io::Result<()> {
        let shown = String::from_utf8_lossy(key);
        if !(1..=KEY_BYTES_MAX).contains(&key.len()) {
            let bytes = key.len();
            let says = format!("a key has 1 to {KEY_BYTES_MAX} bytes, this one has {bytes}");
            return writeln!(out, "{says}: {shown}");
        }
        let why = self.placement.explain(key);
        let Some(server) = self.pool.servers.get(why.server) else {
            return Ok(());
        };
        let pool = self.pool.name.chars().count().max("pool".len());
        let Self { name, address, .. } = self;
        let number = |number: Option<u64>| number.map_or("-".to_owned(), |n| n.to_string());
        write!(
            out,
            "{:pool$}  {:name$}  {:address$}  {:>HASH$}  {:>POINT$}  {shown}",
            self.pool.name,
            server.shown_name(),
            server.place.to_string(),
            number(why.hash),
            number(why.point.map(u64::from)),
        )?;
        if why.hashed != key {
            write!(
                out,
                "  (of which '{}')",
                String::from_utf8_lossy(why.hashed)
            )?;
        }
        let replicas = self.pool.replicas.get(why.server);
        let replicas = replicas.map_or(&[][..], Vec::as_slice);
        for (at, replica) in replicas.iter().enumerate() {
            let before = if at == 0 { "  (replicas: " } else { ", " };
            let end = if at + 1 == replicas.len() { ")" } else { "" };
            write!(out, "{before}{}{end}", replica.shown_name())?;
        }
        writeln!(out)
    }
}
