//! `/route?key=`: where a key goes and why.

use serde_json::{Value, json};
use thiserror::Error;

use super::state::State;
use crate::proxy::{Member, OnEject, Route};

/// Why there is no answer.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Error {
    /// No listener of this address.
    #[error("no listener {asked}; there are {known}")]
    UnknownListener {
        /// What was asked for.
        asked: String,
        /// Which there are.
        known: String,
    },
    /// The configuration is being replaced.
    #[error("no route")]
    NoRoute,
}

/// Where requests for `key` go that come in at `listener`, the first one if none
/// is named.
///
/// # Errors
///
/// [`Error::UnknownListener`] if there is no such listener.
pub fn explain(state: &State, key: &[u8], listener: Option<&str>) -> Result<Value, Error> {
    let source = state.source.load();
    let mut listeners = source.listeners.iter();
    let found = match listener {
        None => listeners.next().ok_or(Error::NoRoute)?,
        Some(asked) => listeners
            .find(|known| known.address == asked)
            .ok_or_else(|| {
                let known = source.listeners.iter();
                let known: Vec<_> = known.map(|known| known.address.as_str()).collect();
                Error::UnknownListener {
                    asked: asked.to_owned(),
                    known: known.join(", "),
                }
            })?,
    };
    let layout = state.shared.layout.load();
    let Route::Pool(pool) = layout.entry(found.number).ok_or(Error::NoRoute)?.route;
    let pool = layout.pools.get(pool).ok_or(Error::NoRoute)?;
    let explanation = pool.placement.explain(key);
    let server = pool.members.get(explanation.server).ok_or(Error::NoRoute)?;
    let is_away = pool.on_eject == OnEject::Remap && !server.server.health.is_active();
    let stand_in = pool.stand_in(key, explanation.server);
    let stand_in = stand_in
        .filter(|_| is_away)
        .and_then(|at| pool.members.get(at));
    let state = |member: &Member| member.server.health.standing().state.name();
    let replicas = pool.replicas(explanation.server).iter().map(|member| {
        json!({
            "server": member.server.name,
            "address": member.server.place.to_string(),
            "state": state(member),
        })
    });
    Ok(json!({
        "key": String::from_utf8_lossy(key),
        "listener": found.address,
        "pool": pool.name,
        "hashed": String::from_utf8_lossy(explanation.hashed),
        "hash": explanation.hash,
        "point": explanation.point,
        "server": server.server.name,
        "address": server.server.place.to_string(),
        "state": state(server),
        "stand_in": stand_in.map(|member| &member.server.name),
        "replicas": replicas.collect::<Vec<_>>(),
    }))
}
