//! From checked settings to the layout that workers use.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use super::Config;
use super::error::Error;
use super::settings::{self, Settings};
use crate::net::listener::Address;
use crate::pool::missed;
use crate::pool::server::Place;
use crate::pool::{Missed, Server};
use crate::protocol::serve::Serve;
use crate::proxy::layout::{Cache, Member, Replication};
use crate::proxy::shard::Changes;
use crate::proxy::{Entry, Layout, Pool, Route};

/// The environment's word for the zone that the proxy is in.
const ZONE_VARIABLE: &str = "KETCH_ZONE";

/// Makes a cache of this much memory, in bytes, in this process.
pub type MakeCache<'a> =
    dyn Fn(usize) -> Result<Arc<dyn Serve>, Box<dyn std::error::Error + Send + Sync>> + 'a;

impl Config {
    /// Makes the layout.
    ///
    /// Servers of `previous` that have the same name, place and settings are
    /// taken over, with their connections and their health; so are embedded
    /// caches of the same pool, name and memory, with what they hold. Listeners
    /// of the same address keep their number.
    ///
    /// # Errors
    ///
    /// [`Error::Cache`] if `make_cache` fails.
    pub fn build(
        self,
        previous: Option<&Layout>,
        make_cache: &MakeCache<'_>,
    ) -> Result<Layout, Error> {
        let Settings {
            listen,
            clients,
            pools,
            missed,
            memory_max,
            in_flight_max,
            missed_dir,
            zone,
            ..
        } = self.settings;
        let mut builder = Builder {
            remote: previous.map(remote_servers).unwrap_or_default(),
            missed,
            missed_dir,
            previous,
            make_cache,
        };
        let entries = listen.iter().zip(self.routes).map(|(listen, route)| Entry {
            address: listen.address.clone(),
            protocol: listen.protocol,
            route: Route::Pool(route),
            limits: listen.limits(&clients),
            flush_all: listen.flush_all.unwrap_or(clients.flush_all),
        });
        let (addresses, entries) = numbered(entries, previous);
        let zone = zone.or_else(|| std::env::var(ZONE_VARIABLE).ok());
        let pools = pools.iter().zip(self.placements).map(|(pool, placement)| {
            Ok(Pool {
                replication: builder.replication(pool, zone.as_deref())?,
                name: pool.name.as_str().into(),
                placement,
                members: builder.members(pool, &pool.servers)?,
                on_eject: pool.on_eject,
                miss_on_error: pool.miss_on_error,
                server_protocol: pool.server_protocol,
            })
        });
        Ok(Layout {
            pools: pools.collect::<Result<_, Error>>()?,
            entries,
            addresses,
            sessions: clients.sessions,
            memory_max,
            in_flight_max,
        })
    }
}

/// Gives each listener its number: the one it had, else a new one. A number
/// whose listener is gone stays empty until one of the same address comes back:
/// clients that came by it may still be there.
fn numbered(
    entries: impl Iterator<Item = Entry>,
    previous: Option<&Layout>,
) -> (Vec<Address>, Vec<Option<Entry>>) {
    let mut addresses = previous.map_or_else(Vec::new, |layout| layout.addresses.clone());
    let mut numbered = vec![None; addresses.len()];
    for entry in entries {
        let mut its = addresses.iter().zip(&mut numbered);
        match its.find(|(known, now)| now.is_none() && **known == entry.address) {
            Some((_, now)) => *now = Some(entry),
            None => {
                addresses.push(entry.address.clone());
                numbered.push(Some(entry));
            }
        }
    }
    (addresses, numbered)
}

/// The servers behind sockets of a layout, by name.
fn remote_servers(layout: &Layout) -> HashMap<Box<str>, Vec<Arc<Server>>> {
    let mut by_name: HashMap<_, Vec<_>> = HashMap::new();
    for server in layout.servers() {
        if matches!(server.place, Place::Remote(_)) {
            let namesakes = by_name.entry(server.name.clone()).or_default();
            namesakes.push(server);
        }
    }
    by_name
}

/// Makes servers, or finds those that there are.
struct Builder<'a> {
    /// Servers behind sockets, of the previous layout and of this one: pools
    /// with the same server under the same settings share it. By name.
    remote: HashMap<Box<str>, Vec<Arc<Server>>>,
    missed: missed::Settings,
    missed_dir: Option<PathBuf>,
    previous: Option<&'a Layout>,
    make_cache: &'a MakeCache<'a>,
}

impl Builder<'_> {
    /// What makes the members of a pool the primaries of shards.
    fn replication(
        &mut self,
        pool: &settings::Pool,
        zone: Option<&str>,
    ) -> Result<Option<Replication>, Error> {
        if pool.replicas.is_empty() {
            return Ok(None);
        }
        let mut replicas = Vec::with_capacity(pool.replicas.len());
        for servers in &pool.replicas {
            replicas.push(self.members(pool, servers)?);
        }
        Ok(Some(Replication {
            replicas,
            settings: pool.replication.clone(),
            zone: zone.map(Into::into),
            changes: self.changes(&pool.name),
        }))
    }

    /// The changes under way in the pool of this name: those of before, which may
    /// not have ended.
    fn changes(&self, pool: &str) -> Arc<Changes> {
        let before = self.previous.and_then(|layout| layout.pool(pool));
        let before = before.and_then(|pool| pool.replication.as_ref());
        before.map_or_else(Arc::default, |before| Arc::clone(&before.changes))
    }

    fn members(
        &mut self,
        pool: &settings::Pool,
        servers: &[settings::Server],
    ) -> Result<Vec<Member>, Error> {
        let member = |server: &settings::Server| {
            if server.is_embedded() {
                return self.embedded(pool, server);
            }
            Ok(Member {
                server: self.remote(pool, server)?,
                embedded: None,
                zone: server.zone.as_deref().map(Into::into),
            })
        };
        servers.iter().map(member).collect()
    }

    fn remote(
        &mut self,
        pool: &settings::Pool,
        server: &settings::Server,
    ) -> Result<Arc<Server>, Error> {
        let name = server.shown_name();
        let missed = self.missed(&server.place)?;
        missed.configure(self.missed.clone());
        let namesakes = self.remote.entry(name.as_str().into()).or_default();
        let same =
            |known: &&Arc<Server>| known.place == server.place && known.settings == pool.treatment;
        if let Some(known) = namesakes.iter().find(same) {
            return Ok(Arc::clone(known));
        }
        let new = new_server(&name, pool, server, missed);
        namesakes.push(Arc::clone(&new));
        Ok(new)
    }

    /// What the server at a place has missed: it is one memory, whatever the
    /// server is called and however it is treated.
    fn missed(&self, place: &Place) -> Result<Arc<Missed>, Error> {
        let mut known = self.remote.values().flatten();
        if let Some(known) = known.find(|server| server.place == *place) {
            return Ok(Arc::clone(&known.missed));
        }
        let settings = self.missed.clone();
        let missed = match &self.missed_dir {
            None => Missed::new(settings),
            Some(folder) => {
                Missed::recover(settings, folder, &place.to_string()).map_err(|source| {
                    Error::MissedKeys {
                        folder: folder.display().to_string(),
                        source,
                    }
                })?
            }
        };
        Ok(Arc::new(missed))
    }

    fn embedded(&self, pool: &settings::Pool, server: &settings::Server) -> Result<Member, Error> {
        let name = server.shown_name();
        let memory_bytes = pool.embedded_memory;
        if let Some(known) = self.known_cache(&pool.name, &name, memory_bytes) {
            return Ok(Member {
                zone: server.zone.as_deref().map(Into::into),
                ..known.clone()
            });
        }
        let serve = (self.make_cache)(memory_bytes).map_err(|source| Error::Cache {
            pool: pool.name.clone(),
            server: name.clone(),
            source,
        })?;
        Ok(Member {
            server: new_server(&name, pool, server, Arc::default()),
            embedded: Some(Cache {
                serve,
                memory_bytes,
            }),
            zone: server.zone.as_deref().map(Into::into),
        })
    }

    /// The cache of this name and memory that the pool of this name had before.
    /// Pools do not share caches: equal keys would meet there.
    fn known_cache(&self, pool: &str, name: &str, memory_bytes: usize) -> Option<&Member> {
        let mut pools = self.previous?.pools.iter();
        let pool = pools.find(|known| *known.name == *pool)?;
        pool.servers().find(|member| {
            let embedded = member.embedded.as_ref();
            *member.server.name == *name
                && embedded.is_some_and(|embedded| embedded.memory_bytes == memory_bytes)
        })
    }
}

fn new_server(
    name: &str,
    pool: &settings::Pool,
    server: &settings::Server,
    missed: Arc<Missed>,
) -> Arc<Server> {
    let place = server.place.clone();
    Arc::new(Server::new(name, place, pool.treatment.clone(), missed))
}
