//! What one configuration has that another has not, and which keys it moves.

use std::collections::BTreeMap;

use super::Config;
use super::settings::{Listen, Pool, Settings};
use crate::pool::server::Place;
use crate::router::{Distribution, Placement};

/// Keys that are tried to estimate how many move: the share is then right to
/// within a third of a per cent, and takes some 20 ms.
const SAMPLES: usize = 100_000;

/// Bytes of a key that is tried.
const SAMPLE_BYTES: usize = 16;

/// What differs between two configurations, from an `old` one to a `new` one.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Diff {
    /// Listeners that come.
    pub listeners_added: Vec<String>,
    /// Listeners that go.
    pub listeners_removed: Vec<String>,
    /// The pools that listeners lead to, and the keys that move.
    pub moves: Vec<Move>,
    /// Pools that come.
    pub pools_added: Vec<String>,
    /// Pools that go.
    pub pools_removed: Vec<String>,
    /// Servers that come, as `pool: server`.
    pub servers_added: Vec<String>,
    /// Servers that go, as `pool: server`.
    pub servers_removed: Vec<String>,
    /// Other values that change.
    pub values: Vec<Value>,
    /// Keys that change but not before the process starts anew.
    pub after_restart: Vec<&'static str>,
}

/// Keys of some listeners that go to other servers than before.
#[derive(Clone, Debug, PartialEq)]
pub struct Move {
    /// The listeners.
    pub listeners: Vec<String>,
    /// The pool that they led to.
    pub from: String,
    /// The pool that they lead to.
    pub to: String,
    /// How many per cent of all keys move; `None` if the pool has no fixed place
    /// for a key.
    pub percent: Option<f64>,
}

/// A value that changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value {
    /// The key, from the top of the file.
    pub path: String,
    /// The value before.
    pub old: String,
    /// The value after.
    pub new: String,
}

impl Diff {
    /// What changes from `old` to `new`.
    pub fn new(old: &Config, new: &Config) -> Self {
        let mut diff = Self {
            values: values(old, new),
            after_restart: after_restart(&old.settings, &new.settings),
            ..Self::default()
        };
        diff.compare_listeners(old, new);
        let (before, after) = (&old.settings.pools, &new.settings.pools);
        diff.pools_added = names_missing(after, before);
        diff.pools_removed = names_missing(before, after);
        for pool in after {
            if let Some(known) = before.iter().find(|known| known.name == pool.name) {
                diff.servers_added.extend(servers_missing(pool, known));
                diff.servers_removed.extend(servers_missing(known, pool));
            }
        }
        diff
    }

    fn compare_listeners(&mut self, old: &Config, new: &Config) {
        let mut left: Vec<_> = old.settings.listen.iter().zip(&old.routes).collect();
        for (listen, &to) in new.settings.listen.iter().zip(&new.routes) {
            let address = listen.address.to_string();
            let same = |(known, _): &(&Listen, &usize)| known.address == listen.address;
            match left.iter().position(same) {
                Some(place) => {
                    let (_, &from) = left.remove(place);
                    self.compare_pools((old, from), (new, to), address);
                }
                None => self.listeners_added.push(address),
            }
        }
        let gone = left.iter().map(|(listen, _)| listen.address.to_string());
        self.listeners_removed.extend(gone);
    }

    fn compare_pools(
        &mut self,
        (old, from): (&Config, usize),
        (new, to): (&Config, usize),
        listener: String,
    ) {
        let (Some(before), Some(after)) = (Holder::of(old, from), Holder::of(new, to)) else {
            return;
        };
        let mut moves = self.moves.iter_mut();
        match moves.find(|known| known.from == before.pool.name && known.to == after.pool.name) {
            Some(known) => known.listeners.push(listener),
            None => self.moves.push(Move {
                listeners: vec![listener],
                from: before.pool.name.clone(),
                to: after.pool.name.clone(),
                percent: percent_moved(&before, &after),
            }),
        }
    }

    /// Whether nothing differs.
    pub fn is_empty(&self) -> bool {
        let nothing = Self {
            moves: self.moves.clone(),
            ..Self::default()
        };
        let moves = |moved: &Move| moved.from != moved.to || moved.percent.unwrap_or(0.0) > 0.0;
        *self == nothing && !self.moves.iter().any(moves)
    }
}

/// A pool, and who holds the keys of each of its places.
struct Holder<'a> {
    pool: &'a Pool,
    placement: &'a Placement,
    /// What tells the memory at one place from that at any other: keys move when
    /// it changes, whatever the server's name.
    memories: Vec<String>,
}

impl<'a> Holder<'a> {
    fn of(config: &'a Config, place: usize) -> Option<Self> {
        let pool = config.settings.pools.get(place)?;
        let memory = |server: &super::Server| match &server.place {
            Place::Remote(address) => address.to_string(),
            Place::Embedded => {
                let name = server.shown_name();
                format!("{} {name} {}", pool.name, pool.embedded_memory)
            }
        };
        Some(Self {
            pool,
            placement: config.placements.get(place)?,
            memories: pool.servers.iter().map(memory).collect(),
        })
    }

    fn memory(&self, key: &[u8]) -> Option<&String> {
        self.memories.get(self.placement.pick(key))
    }
}

/// How many per cent of keys have another server in `after`. The keys tried are
/// always the same: equal questions get equal answers.
fn percent_moved(before: &Holder<'_>, after: &Holder<'_>) -> Option<f64> {
    let is_random = |holder: &Holder<'_>| {
        let several = holder.memories.len() > 1;
        several && holder.pool.placement.distribution == Distribution::Random
    };
    if is_random(before) || is_random(after) {
        return None;
    }
    let mut random = fastrand::Rng::with_seed(0);
    let mut key = [0; SAMPLE_BYTES];
    let mut moved = 0_u32;
    for _ in 0..SAMPLES {
        key.fill_with(|| random.u8(b'!'..=b'~'));
        moved += u32::from(before.memory(&key) != after.memory(&key));
    }
    let samples = u32::try_from(SAMPLES).unwrap_or(u32::MAX);
    Some(f64::from(moved) * 100.0 / f64::from(samples))
}

fn names_missing(here: &[Pool], there: &[Pool]) -> Vec<String> {
    let missing = |pool: &&Pool| there.iter().all(|other| other.name != pool.name);
    let pools = here.iter().filter(missing);
    pools.map(|pool| pool.name.clone()).collect()
}

fn servers_missing(here: &Pool, there: &Pool) -> Vec<String> {
    let same = |one: &super::Server, other: &super::Server| {
        one.place == other.place && one.shown_name() == other.shown_name()
    };
    let missing = |server: &&super::Server| there.all_servers().all(|other| !same(server, other));
    let servers = here.all_servers().filter(missing);
    let show = |server: &super::Server| match &server.name {
        Some(name) => format!("{}: {name} ({})", here.name, server.place),
        None => format!("{}: {}", here.name, server.place),
    };
    servers.map(show).collect()
}

/// The values that differ, weights included.
fn values(old: &Config, new: &Config) -> Vec<Value> {
    let mut all: BTreeMap<String, (Option<String>, Option<String>, String)> = BTreeMap::new();
    for change in old.changes() {
        all.insert(change.path, (Some(change.value), None, change.default));
    }
    for change in new.changes() {
        let entry = all.entry(change.path);
        let values = entry.or_insert((None, None, change.default));
        values.1 = Some(change.value);
    }
    let mut values: Vec<_> = all
        .into_iter()
        .map(|(path, (old, new, default))| Value {
            path,
            old: old.unwrap_or_else(|| default.clone()),
            new: new.unwrap_or(default),
        })
        .filter(|value| value.old != value.new)
        .collect();
    for pool in &new.settings.pools {
        let mut before = old.settings.pools.iter();
        let Some(before) = before.find(|known| known.name == pool.name) else {
            continue;
        };
        for server in &pool.servers {
            let name = server.shown_name();
            let mut servers = before.servers.iter();
            if let Some(known) = servers.find(|known| known.shown_name() == name)
                && known.weight.total_cmp(&server.weight).is_ne()
            {
                values.push(Value {
                    path: format!("pools.{}: weight of {name}", pool.name),
                    old: known.weight.to_string(),
                    new: server.weight.to_string(),
                });
            }
        }
    }
    values
}

/// The keys whose new value waits for the process to start anew: threads are
/// started once, sockets made once, and whoever asks at the admin address must find it.
fn after_restart(old: &Settings, new: &Settings) -> Vec<&'static str> {
    let stay = || {
        old.listen.iter().filter_map(|old| {
            let mut listeners = new.listen.iter();
            Some((old, listeners.find(|new| new.address == old.address)?))
        })
    };
    let differs = [
        ("admin", old.admin != new.admin),
        ("listen.mode", stay().any(|(old, new)| old.mode != new.mode)),
        (
            "listen.reuse_port",
            stay().any(|(old, new)| old.reuse_port != new.reuse_port),
        ),
        ("log", old.log != new.log),
        ("log_format", old.log_format != new.log_format),
        ("workers", old.workers != new.workers),
    ];
    let differing = differs.into_iter().filter(|(_, differs)| *differs);
    differing.map(|(key, _)| key).collect()
}
