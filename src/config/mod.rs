//! From a YAML file to settings that fit together, and from those to a layout.
//!
//! A file is read into a tree (`tree.rs`); tables of keys (`keys/`) say what may
//! stand in it and which field of [`Settings`] it fills; what concerns several
//! keys at once is checked thereafter (`check.rs`). All that is wrong with a
//! file is told at once, by line and key. [`Config::build`] makes what the
//! workers use of it.
//!
//! Only the command line imports this module; those who are configured do not
//! know of it.

mod build;
mod check;
pub mod diff;
mod doc;
mod error;
mod form;
mod grammar;
mod key;
mod keys;
mod path;
mod place;
mod reader;
mod settings;
#[cfg(test)]
mod tests;
mod tree;

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

pub use build::MakeCache;
pub use diff::Diff;
pub use doc::{key_table, schema, sections};
pub use error::{Error, Fault, Meant, Misfit, Problem, Warning};
pub use grammar::{Flaw, show_duration, show_size};
pub use key::{Change, KeyDoc, SectionDoc};
pub use path::Position;
pub use settings::{Clients, Listen, Pool, Server, Settings, Shard};

use crate::router::Placement;
use keys::{CLIENTS, LISTENER, POOL, TOP};
use reader::{At, Report};
use tree::Node;

/// Largest file that is read: a hundred thousand servers fit in it.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// A configuration whose parts fit together.
#[derive(Debug)]
pub struct Config {
    /// The file it comes from.
    pub file: String,
    /// The text of the file.
    pub text: String,
    /// What the file says.
    pub settings: Settings,
    /// Where the keys of each pool go, in the order of the pools.
    pub placements: Vec<Placement>,
    /// The pool of each listener, by its place among the pools.
    pub routes: Vec<usize>,
    /// What is odd about it, though it can be had.
    pub warnings: Vec<Warning>,
}

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    ///
    /// [`Error`] if it cannot be read, or with all that is wrong in it.
    pub fn load(path: &Path) -> Result<Self, Error> {
        let file = path.display().to_string();
        let bytes = match read(path) {
            Ok(bytes) => bytes,
            Err(source) => return Err(Error::Unreadable { file, source }),
        };
        if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > FILE_BYTES_MAX {
            let max = show_size(FILE_BYTES_MAX);
            return Err(Error::TooLarge { file, max });
        }
        match std::str::from_utf8(&bytes) {
            Ok(text) => Self::parse(&file, text),
            Err(error) => {
                let good = bytes.get(..error.valid_up_to()).unwrap_or_default();
                let position = end_of(&String::from_utf8_lossy(good));
                Err(whole_file(file, position, Fault::Encoding))
            }
        }
    }

    /// Checks the text of a file, which is called `file` in messages.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] with all that is wrong in it.
    pub fn parse(file: &str, text: &str) -> Result<Self, Error> {
        // Some editors begin a file so; it says nothing.
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let root = Node::parse(text).map_err(|error| {
            let fault = Fault::Syntax(error.text);
            whole_file(file.to_owned(), error.position, fault)
        })?;
        let root = At::root(&root);
        let mut report = Report::new(file, text);
        let mut settings = Settings::default();
        TOP.read(&root, &mut settings, &mut report);
        let (placements, routes) = check::check(&settings, &root, &mut report);
        Ok(Self {
            file: file.to_owned(),
            text: text.to_owned(),
            settings,
            placements,
            routes,
            warnings: report.finish()?,
        })
    }

    /// What differs from the defaults, apart from servers, and from where
    /// listeners are and lead.
    pub fn changes(&self) -> Vec<Change> {
        let settings = &self.settings;
        let mut changes = TOP.changes("", settings);
        for listen in &settings.listen {
            changes.extend(LISTENER.changes(&format!("listen {}: ", listen.address), listen));
        }
        changes.extend(CLIENTS.changes("clients.", &settings.clients));
        for pool in &settings.pools {
            let mut pool = pool.clone();
            pool.placement.forget_the_natural();
            changes.extend(POOL.changes(&format!("pools.{}.", pool.name), &pool));
        }
        let told_by_listeners = ["listen", "route", "address", "mode"];
        changes.retain(|change| !told_by_listeners.contains(&change.key));
        changes
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let file = File::open(path)?;
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Where a text ends.
fn end_of(text: &str) -> Position {
    let line = text.matches('\n').count() + 1;
    let last = text.rsplit('\n').next().unwrap_or_default();
    let column = last.chars().count() + 1;
    Position { line, column }
}

/// One problem, with a file that has no keys to speak of.
fn whole_file(file: String, position: Position, fault: Fault) -> Error {
    let path = String::new();
    let problem = Problem {
        file,
        position,
        path,
        fault,
    };
    Error::Invalid {
        problems: vec![problem],
        more: 0,
    }
}
