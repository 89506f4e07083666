//! Walking over the tree of a file: where we are, and what is wrong there.

use super::error::{Error, Fault, Misfit, Problem, Warning};
use super::grammar::Flaw;
use super::path::{Part, Path};
use super::tree::{MERGE, Node};

/// Most problems of one file that are told; whoever has more starts with these.
pub(super) const PROBLEMS_MAX: usize = 100;

/// A node of the file and the way to it.
#[derive(Clone, Debug)]
pub(super) struct At<'a> {
    pub(super) node: &'a Node,
    pub(super) path: Path,
}

impl<'a> At<'a> {
    /// The root of a file.
    pub(super) fn root(node: &'a Node) -> Self {
        let path = Path::default();
        Self { node, path }
    }

    /// The entries of a map: its own, and behind them those merged into it that
    /// it does not have itself. `None` if the node is no map.
    pub(super) fn entries(&self) -> Option<Vec<(&'a str, At<'a>)>> {
        let Node::Map(own) = self.node else {
            return None;
        };
        let mut entries = Vec::with_capacity(own.len());
        let mut merges = Vec::new();
        for (place, (name, node)) in own.iter().enumerate() {
            let path = self.path.entry(name, place);
            let at = At { node, path };
            match (name.as_str(), node) {
                (MERGE, Node::Map(_)) => merges.push(at),
                (MERGE, Node::List(maps)) if maps.iter().all(Node::is_map) => {
                    merges.extend(at.items().unwrap_or_default());
                }
                _ => entries.push((name.as_str(), at)),
            }
        }
        for merged in merges.iter().filter_map(At::entries).flatten() {
            if !entries.iter().any(|(name, _)| *name == merged.0) {
                entries.push(merged);
            }
        }
        Some(entries)
    }

    /// The items of a list; `None` if the node is none.
    pub(super) fn items(&self) -> Option<Vec<At<'a>>> {
        let Node::List(items) = self.node else {
            return None;
        };
        let at = |(place, node)| {
            let path = self.path.item(place);
            At { node, path }
        };
        Some(items.iter().enumerate().map(at).collect())
    }

    /// The node under this key.
    pub(super) fn get(&self, name: &str) -> Option<At<'a>> {
        let mut entries = self.entries()?.into_iter();
        entries.find(|(key, _)| *key == name).map(|(_, at)| at)
    }

    /// The node under this key, or this one if there is no such key: the best
    /// place to tell something about it.
    pub(super) fn down(&self, name: &str) -> At<'a> {
        self.get(name).unwrap_or_else(|| self.clone())
    }

    /// The item at this place of a list, or this node if there is none.
    pub(super) fn item(&self, place: usize) -> At<'a> {
        match self.node {
            Node::List(items) if place < items.len() => At {
                node: items.get(place).unwrap_or(self.node),
                path: self.path.item(place),
            },
            _ => self.clone(),
        }
    }
}

/// Something to tell, and where; the line is found when all is known.
struct Note<T> {
    path: Path,
    part: Part,
    /// The other place that it is about.
    other: Option<Path>,
    what: T,
}

/// What has been found wrong or odd so far.
pub(super) struct Report<'a> {
    file: &'a str,
    text: &'a str,
    faults: Vec<Note<Fault>>,
    warnings: Vec<Note<String>>,
}

impl<'a> Report<'a> {
    /// Nothing yet, about `text` from `file`.
    pub(super) fn new(file: &'a str, text: &'a str) -> Self {
        Self {
            file,
            text,
            faults: Vec::new(),
            warnings: Vec::new(),
        }
    }

    /// Notes that something is wrong with a value.
    pub(super) fn fault(&mut self, at: &At<'_>, fault: Fault) {
        self.note(at, Part::Value, None, fault);
    }

    /// Notes that a value is not what is expected.
    pub(super) fn misfit(&mut self, at: &At<'_>, misfit: Misfit, expected: String) {
        self.fault(at, Fault::Value { misfit, expected });
    }

    /// Notes that a value is of another kind than is expected.
    pub(super) fn wrong_kind(&mut self, at: &At<'_>, expected: String) {
        self.misfit(at, Misfit::Kind(at.node.to_string()), expected);
    }

    /// Notes that a value does not follow its grammar.
    pub(super) fn flawed(&mut self, at: &At<'_>, flaw: Flaw, expected: String) {
        let value = at.node.to_string();
        self.misfit(at, Misfit::Flawed { value, flaw }, expected);
    }

    /// Notes that something is wrong with a key.
    pub(super) fn key_fault(&mut self, at: &At<'_>, fault: Fault) {
        self.note(at, Part::Key, None, fault);
    }

    /// Notes a fault that has to do with an earlier place, whose line it tells.
    pub(super) fn repeated(&mut self, at: &At<'_>, part: Part, first: &At<'_>, fault: Fault) {
        self.note(at, part, Some(first.path.clone()), fault);
    }

    fn note(&mut self, at: &At<'_>, part: Part, other: Option<Path>, what: Fault) {
        self.faults.push(Note {
            path: at.path.clone(),
            part,
            other,
            what,
        });
    }

    /// Notes that something is odd.
    pub(super) fn warn(&mut self, at: &At<'_>, part: Part, text: impl Into<String>) {
        self.warnings.push(Note {
            path: at.path.clone(),
            part,
            other: None,
            what: text.into(),
        });
    }

    /// Whether nothing is wrong with this node nor with any below it.
    pub(super) fn is_sound(&self, at: &At<'_>) -> bool {
        !self.faults.iter().any(|note| note.path.is_within(&at.path))
    }

    /// The scalar at this node as it is written, before YAML makes a number of
    /// it.
    pub(super) fn written(&self, at: &At<'_>) -> Option<String> {
        at.path.written(self.text)
    }

    /// What there is to warn of, if nothing is wrong.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if something is.
    pub(super) fn finish(mut self) -> Result<Vec<Warning>, Error> {
        if self.faults.is_empty() {
            let (file, text) = (self.file, self.text);
            self.warnings.sort_by_cached_key(|note| note.path.order());
            let warnings = self.warnings.into_iter().take(PROBLEMS_MAX);
            return Ok(warnings
                .map(|note| Warning {
                    file: file.to_owned(),
                    position: note.path.locate(note.part, text),
                    path: note.path.to_string(),
                    text: note.what,
                })
                .collect());
        }
        self.faults.sort_by_cached_key(|note| note.path.order());
        let more = self.faults.len().saturating_sub(PROBLEMS_MAX);
        let told = self.faults.into_iter().take(PROBLEMS_MAX);
        let problems = told.map(|mut note| {
            if let Some(other) = note.other {
                let line = other.locate(Part::Key, self.text).line;
                note.what.tell_first(line);
            }
            Problem {
                file: self.file.to_owned(),
                position: note.path.locate(note.part, self.text),
                path: note.path.to_string(),
                fault: note.what,
            }
        });
        let problems = problems.collect();
        Err(Error::Invalid { problems, more })
    }
}
