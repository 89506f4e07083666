//! `ketch check`: what a configuration would do.

use std::io::{self, Write};

use ketch::config::{Config, Pool, Settings};
use ketch::router::{Placement, Share};

use super::proxy::workers;

/// Writes what the configuration would do.
pub(crate) fn report(config: &Config, out: &mut dyn Write) -> io::Result<()> {
    let Settings {
        listen,
        admin,
        pools,
        ..
    } = &config.settings;
    let warnings = match config.warnings.len() {
        0 => String::new(),
        1 => ", with 1 warning".to_owned(),
        count => format!(", with {count} warnings"),
    };
    writeln!(out, "{}: good{warnings}\n", config.file)?;
    writeln!(out, "listeners")?;
    for (listen, route) in listen.iter().zip(&config.routes) {
        let pool = pools.get(*route).map_or("", |pool| pool.name.as_str());
        let mode = listen.mode.map(|mode| format!(" (0{mode:o})"));
        let mode = mode.unwrap_or_default();
        writeln!(out, "  {}{mode} -> {pool}", listen.address)?;
    }
    match admin {
        Some(address) => writeln!(out, "admin: {address}")?,
        None => writeln!(out, "admin: off")?,
    }
    let workers = workers(&config.settings);
    match config.settings.workers {
        Some(_) => writeln!(out, "workers: {workers}")?,
        None => writeln!(out, "workers: {workers} (auto, here)")?,
    }
    for (pool, placement) in pools.iter().zip(&config.placements) {
        write_pool(pool, placement, out)?;
    }
    let changes = config.changes();
    if !changes.is_empty() {
        writeln!(out, "\nnot at their defaults")?;
    }
    for change in changes {
        let (path, value, default) = (change.path, change.value, change.default);
        writeln!(out, "  {path}: {value} (default: {default})")?;
    }
    if !config.warnings.is_empty() {
        writeln!(out, "\nwarnings")?;
    }
    for warning in &config.warnings {
        writeln!(out, "  {warning}")?;
    }
    Ok(())
}

fn write_pool(pool: &Pool, placement: &Placement, out: &mut dyn Write) -> io::Result<()> {
    let count = pool.servers.len();
    let members = match (pool.replicas.is_empty(), count) {
        (true, 1) => "server",
        (true, _) => "servers",
        (false, 1) => "shard",
        (false, _) => "shards",
    };
    let distribution = pool.placement.distribution;
    writeln!(
        out,
        "\npool {}: {distribution}, {count} {members}",
        pool.name
    )?;
    let header = ["server", "address", "weight", "points", "share"];
    let mut rows = vec![header.map(str::to_owned)];
    let mut replicas = pool.replicas.iter();
    for (server, share) in pool.servers.iter().zip(placement.shares()) {
        let Share {
            points, percent, ..
        } = share;
        let name = server.shown_name();
        let shard = server.shard.as_ref();
        rows.push([
            shard.map_or(name.clone(), |shard| format!("{shard}: {name}")),
            server.place.to_string(),
            server.weight.to_string(),
            points.map_or_else(none, |points| points.to_string()),
            percent.map_or_else(none, |percent| format!("{percent:.2} %")),
        ]);
        for replica in replicas.next().into_iter().flatten() {
            let name = format!("  replica {}", replica.shown_name());
            rows.push([name, replica.place.to_string(), none(), none(), none()]);
        }
    }
    let width = |column: usize| {
        let widths = rows.iter().filter_map(|row| row.get(column));
        widths.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let [name, address, weight, points, share] = [0, 1, 2, 3, 4].map(width);
    for [server, place, heavy, dots, part] in &rows {
        writeln!(
            out,
            "  {server:name$}  {place:address$}  {heavy:>weight$}  {dots:>points$}  {part:>share$}"
        )?;
    }
    Ok(())
}

/// What stands where there is nothing to say.
fn none() -> String {
    "-".to_owned()
}
