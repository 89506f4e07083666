//! From a file that may have changed to a configuration in force, or to a word on
//! why it is not.

use std::path::Path;
use std::sync::Arc;

use ketch::config::{Config, Diff, Error, Settings};
use ketch::proxy::Layout;
use xxhash_rust::xxh3::xxh3_64;

use super::caches;

/// A configuration that is checked and built, and not in force yet.
pub(super) struct Prepared {
    pub(super) settings: Settings,
    pub(super) text: String,
    pub(super) layout: Layout,
    pub(super) diff: Diff,
    pub(super) warnings: Vec<String>,
}

/// What the file says now, as one number; `None` if it cannot be read.
pub(super) fn fingerprint(path: &Path) -> Option<u64> {
    std::fs::read(path).ok().map(|bytes| xxh3_64(&bytes))
}

/// Reads the file, checks and builds all of it. `None` if it says what is in
/// force already.
///
/// # Errors
///
/// All that is wrong with it.
pub(super) fn prepare(
    path: &Path,
    in_force: &str,
    previous: &Arc<Layout>,
    threads: usize,
) -> Result<Option<Prepared>, Error> {
    let config = Config::load(path)?;
    if config.text == in_force {
        return Ok(None);
    }
    let file = config.file.as_str();
    // What is in force was good once, and so it is again.
    let diff = Diff::new(&Config::parse(file, in_force)?, &config);
    let warnings = config.warnings.iter().map(ToString::to_string).collect();
    let (settings, text) = (config.settings.clone(), config.text.clone());
    let maker = caches::maker(&settings, threads);
    let layout = config.build(Some(previous), &maker)?;
    Ok(Some(Prepared {
        settings,
        text,
        layout,
        diff,
        warnings,
    }))
}

/// Logs what a new configuration changes.
pub(super) fn tell(prepared: &Prepared) {
    for warning in &prepared.warnings {
        tracing::warn!("{warning}");
    }
    let diff = &prepared.diff;
    for moved in &diff.moves {
        let listeners = moved.listeners.join(", ");
        match moved.percent {
            Some(percent) if percent > 0.0 => tracing::info!(
                listeners,
                from = moved.from,
                to = moved.to,
                percent = format!("{percent:.2}"),
                "keys move to other servers"
            ),
            _ => tracing::debug!(listeners, pool = moved.to, "no keys move"),
        }
    }
    if !diff.after_restart.is_empty() {
        let keys = diff.after_restart.join(", ");
        tracing::warn!(keys, "these keys change only with a restart");
    }
}

/// The same in a line, for whoever asked.
pub(super) fn summary(diff: &Diff) -> String {
    let mut parts = vec!["applied".to_owned()];
    for moved in &diff.moves {
        if let Some(percent) = moved.percent {
            parts.push(format!("{percent:.2} % of the keys of {} move", moved.to));
        }
    }
    if !diff.after_restart.is_empty() {
        let keys = diff.after_restart.join(", ");
        parts.push(format!("only with a restart: {keys}"));
    }
    parts.join("; ")
}
