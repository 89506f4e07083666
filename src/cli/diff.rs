//! `ketch diff`: what a reload would change.

use std::io::{self, Write};

use ketch::config::{Config, Diff};

/// Writes what changes from `old` to `new`.
///
/// # Errors
///
/// Those of `out`.
pub(crate) fn report(old: &Config, new: &Config, out: &mut dyn Write) -> io::Result<()> {
    let diff = Diff::new(old, new);
    if diff.is_empty() {
        return writeln!(out, "nothing changes");
    }
    let lists = [
        ("listeners", '+', &diff.listeners_added),
        ("listeners", '-', &diff.listeners_removed),
        ("pools", '+', &diff.pools_added),
        ("pools", '-', &diff.pools_removed),
        ("servers", '+', &diff.servers_added),
        ("servers", '-', &diff.servers_removed),
    ];
    let mut heading = "";
    for (name, sign, items) in lists {
        if !items.is_empty() && heading != name {
            writeln!(out, "{name}")?;
            heading = name;
        }
        for item in items {
            writeln!(out, "  {sign} {item}")?;
        }
    }
    if !diff.values.is_empty() {
        writeln!(out, "values")?;
    }
    for value in &diff.values {
        writeln!(out, "  {}: {} -> {}", value.path, value.old, value.new)?;
    }
    writeln!(out, "keys that move to other servers")?;
    for moved in &diff.moves {
        let listeners = moved.listeners.join(", ");
        let pools = if moved.from == moved.to {
            moved.to.clone()
        } else {
            format!("{} -> {}", moved.from, moved.to)
        };
        match moved.percent {
            Some(percent) => writeln!(out, "  {pools} ({listeners}): {percent:.2} %")?,
            None => writeln!(out, "  {pools} ({listeners}): keys have no fixed place")?,
        }
    }
    if !diff.after_restart.is_empty() {
        let keys = diff.after_restart.join(", ");
        writeln!(out, "only with a restart: {keys}")?;
    }
    Ok(())
}
