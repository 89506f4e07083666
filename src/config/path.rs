//! Where in a file something stands: by names, and by line and column.

use std::cell::Cell;
use std::fmt;
use std::rc::Rc;

use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess};
use serde::de::{Unexpected, Visitor};

use super::tree::MERGE;

/// A line and a column of a text, both counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The line.
    pub line: usize,
    /// The column, in characters.
    pub column: usize,
}

impl Position {
    /// Where a text begins.
    pub(super) const START: Self = Self { line: 1, column: 1 };

    /// The position of an error of the YAML reader, if it knows one.
    pub(super) fn of(error: &serde_yaml::Error) -> Option<Self> {
        error.location().map(|location| Self {
            line: location.line(),
            column: location.column(),
        })
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// From a node of a file to one below it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    /// To the value of an entry of a map.
    Entry {
        name: Rc<str>,
        /// Its place among the entries, keys that stand twice counted twice.
        place: usize,
    },
    /// To an item of a list.
    Item(usize),
}

/// Which part of an entry is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Key,
    Value,
}

/// The way from the root of a file to one of its nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Path(Vec<Step>);

impl Path {
    /// The way on to an entry's value.
    pub(super) fn entry(&self, name: &str, place: usize) -> Self {
        let name = name.into();
        self.with(Step::Entry { name, place })
    }

    /// The way on to an item of a list.
    pub(super) fn item(&self, place: usize) -> Self {
        self.with(Step::Item(place))
    }

    fn with(&self, step: Step) -> Self {
        Self(self.0.iter().cloned().chain([step]).collect())
    }

    /// Whether this way leads through the node of the other, or ends there.
    pub(super) fn is_within(&self, other: &Self) -> bool {
        self.0.starts_with(&other.0)
    }

    /// Sorts as the nodes stand in the file.
    pub(super) fn order(&self) -> Vec<usize> {
        let place = |step: &Step| match step {
            Step::Entry { place, .. } | Step::Item(place) => *place,
        };
        self.0.iter().map(place).collect()
    }

    /// Where in `text` this way leads.
    ///
    /// The reader says where something stands only when it complains. So it is
    /// sent down the way once more, and what meets it at the end complains.
    pub(super) fn locate(&self, part: Part, text: &str) -> Position {
        let way = Way {
            steps: &self.0,
            part,
            written: None,
        };
        let complaint = way.deserialize(serde_yaml::Deserializer::from_str(text));
        let position = complaint.err().as_ref().and_then(Position::of);
        position.unwrap_or(Position::START)
    }

    /// The scalar at the end of this way as `text` has it: `0660`, `0o660` and
    /// `432` are the same to YAML. `None` if there is no scalar.
    pub(super) fn written(&self, text: &str) -> Option<String> {
        let written = Cell::new(None);
        let way = Way {
            steps: &self.0,
            part: Part::Value,
            written: Some(&written),
        };
        // Complains as above, having noted what it met.
        let _ = way.deserialize(serde_yaml::Deserializer::from_str(text));
        written.take()
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut merging = false;
        for (depth, step) in self.0.iter().enumerate() {
            match step {
                // Merged keys are told by where they take effect.
                Step::Entry { name, .. } if &**name == MERGE => merging = true,
                Step::Item(_) if merging => {}
                Step::Entry { name, .. } => {
                    merging = false;
                    f.write_str(if depth > 0 { "." } else { "" })?;
                    if is_plain(name) {
                        f.write_str(name)?;
                    } else {
                        write!(f, "{:?}", &**name)?;
                    }
                }
                Step::Item(place) => write!(f, "[{place}]")?,
            }
        }
        Ok(())
    }
}

/// Whether a name needs no quotes among dots and brackets.
fn is_plain(name: &str) -> bool {
    !name.is_empty()
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-')
}

/// The rest of a way.
#[derive(Clone, Copy)]
struct Way<'a> {
    steps: &'a [Step],
    part: Part,
    /// Takes the scalar at the end.
    written: Option<&'a Cell<Option<String>>>,
}

impl<'de> DeserializeSeed<'de> for Way<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        if self.steps.is_empty() && self.written.is_some() {
            // Asked for a string, the reader hands out any scalar untouched.
            return deserializer.deserialize_str(self);
        }
        deserializer.deserialize_any(self)
    }
}

/// Whatever has no method here is a scalar, and the trait's own methods complain.
impl<'de> Visitor<'de> for Way<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the end of the way")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<(), E> {
        if let Some(written) = self.written {
            written.set(Some(text.to_owned()));
        }
        Err(E::invalid_type(Unexpected::Str(text), &self))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        if let Some((Step::Item(place), steps)) = self.steps.split_first() {
            for _ in 0..*place {
                items.next_element::<IgnoredAny>()?;
            }
            items.next_element_seed(Way { steps, ..self })?;
        }
        Err(A::Error::invalid_type(Unexpected::Seq, &self))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        if let Some((Step::Entry { place, .. }, steps)) = self.steps.split_first() {
            for _ in 0..*place {
                entries.next_entry::<IgnoredAny, IgnoredAny>()?;
            }
            let way = Way { steps, ..self };
            if steps.is_empty() && self.part == Part::Key {
                entries.next_key_seed(way)?;
            } else {
                entries.next_key::<IgnoredAny>()?;
                entries.next_value_seed(way)?;
            }
        }
        Err(A::Error::invalid_type(Unexpected::Map, &self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
a: 1
b:
  - x
  - {c: 5, d: [], d: ~}
e: &anchor
  f: tagged
g: *anchor
h: !tag {i: 1}
";

    fn at(path: &Path, part: Part) -> (usize, usize) {
        let position = path.locate(part, TEXT);
        (position.line, position.column)
    }

    #[test]
    fn every_kind_of_node_is_found() {
        let root = Path::default();
        let item = root.entry("b", 1).item(1);
        let cases = [
            (root.clone(), (1, 1), (1, 1)),
            (root.entry("a", 0), (1, 1), (1, 4)),
            (root.entry("b", 1), (2, 1), (3, 3)),
            (root.entry("b", 1).item(0), (3, 5), (3, 5)),
            (item.clone(), (4, 5), (4, 5)),
            (item.entry("c", 0), (4, 6), (4, 9)),
            (item.entry("d", 1), (4, 12), (4, 15)),
            (item.entry("d", 2), (4, 19), (4, 22)),
            (root.entry("e", 2).entry("f", 0), (6, 3), (6, 6)),
            (root.entry("g", 3).entry("f", 0), (6, 3), (6, 6)),
            (root.entry("h", 4), (8, 1), (8, 4)),
        ];
        for (path, key, value) in cases {
            assert_eq!(at(&path, Part::Key), key, "the key of {path}");
            assert_eq!(at(&path, Part::Value), value, "the value of {path}");
        }
    }

    #[test]
    fn scalars_are_had_as_they_are_written() {
        let text = "a: [0660, 0o660, 432, '0660', 1.10, [x]]";
        let list = Path::default().entry("a", 0);
        let written = |place| list.item(place).written(text);
        let scalars: Vec<_> = (0..5).map_while(written).collect();
        assert_eq!(scalars, ["0660", "0o660", "432", "0660", "1.10"]);
        assert_eq!(written(5), None);
        assert_eq!(list.written(text), None);
    }

    #[test]
    fn a_path_reads_as_people_write_it() {
        let path = Path::default().entry("pools", 0).entry("main", 0);
        let path = path.entry("servers", 2).item(2).entry("weight", 1);
        assert_eq!(path.to_string(), "pools.main.servers[2].weight");
        let odd = Path::default().entry("pools", 0).entry("a.b c", 0);
        assert_eq!(odd.to_string(), "pools.\"a.b c\"");
        let merged = Path::default().entry("pools", 0).entry("main", 0);
        let merged = merged.entry(MERGE, 1).item(0).entry("hash", 2);
        assert_eq!(merged.to_string(), "pools.main.hash");
        assert_eq!(Path::default().to_string(), "");
    }
}
