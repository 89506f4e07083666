//! The one place where a key is declared.
//!
//! A [`Section`] is a table of [`Key`]s, each of which knows the field it
//! fills, the form of its value, and what to tell people about it. Reading a
//! file, the JSON schema, the table in the documentation, and what `ketch check`
//! calls a change from the default: all come from these tables. A new key is a
//! row and a field.

use serde_json::{Map, Value as Json, json};

use super::error::{Fault, Meant, nearest};
use super::form::Form;
use super::path::Part;
use super::reader::{At, Report};
use super::tree::MERGE;

/// The way from a `T` to one of its fields.
pub(super) struct Lens<T: 'static, V: 'static> {
    pub(super) get: fn(&T) -> &V,
    pub(super) get_mut: fn(&mut T) -> &mut V,
}

/// The [`Lens`] to a field, however deep: `lens!(Pool, placement.hash)`.
macro_rules! lens {
    ($whole:ty, $($field:ident).+) => {
        $crate::config::key::Lens::<$whole, _> {
            get: |whole| &whole.$($field).+,
            get_mut: |whole| &mut whole.$($field).+,
        }
    };
}
pub(super) use lens;

/// Where the value of a key goes, and what it looks like.
pub(super) trait Slot<T>: Sync {
    /// Reads the value into `target`, or notes what is wrong with it.
    fn read(&self, at: &At<'_>, target: &mut T, report: &mut Report<'_>);

    /// The value of `target` as the file would say it; `None` if it would say
    /// nothing, or more than a line.
    fn show(&self, target: &T) -> Option<String> {
        let _ = target;
        None
    }

    /// The value of `target` as JSON.
    fn json(&self, target: &T) -> Option<Json> {
        self.show(target).map(Json::String)
    }

    /// What is expected, behind that word.
    fn expected(&self) -> String;

    /// The same in a few words, for a table.
    fn brief(&self) -> String;

    /// What the JSON schema says of it.
    fn schema(&self) -> Json;
}

/// What a key has if the file does not say.
pub(super) enum Preset {
    /// What a fresh target has.
    Fresh,
    /// Something that these words tell.
    Told(&'static str),
    /// Nothing: the file must say.
    Required,
}

/// One key of a section.
pub(super) struct Key<T: 'static> {
    pub(super) name: &'static str,
    pub(super) slot: &'static dyn Slot<T>,
    pub(super) preset: Preset,
    /// What it does, in a sentence or two.
    pub(super) help: &'static str,
    /// What happens when the bound is reached; empty if it is none.
    pub(super) bound: &'static str,
}

impl<T> Key<T> {
    fn default(&self, fresh: &T) -> String {
        match self.preset {
            Preset::Fresh => self.slot.show(fresh).unwrap_or_default(),
            Preset::Told(words) => words.to_owned(),
            Preset::Required => "required".to_owned(),
        }
    }
}

/// A map of the file that is read into a `T`.
pub(super) struct Section<T: 'static> {
    /// Its place in the file, as headings show it.
    pub(super) name: &'static str,
    /// Its name in the JSON schema.
    pub(super) definition: &'static str,
    /// What it is about.
    pub(super) help: &'static str,
    /// What is expected in its place.
    pub(super) expected: &'static str,
    pub(super) keys: &'static [Key<T>],
    /// Keys that twemproxy has here and we have not, and what we say instead.
    pub(super) twemproxys: &'static [(&'static str, &'static str)],
    /// A target of which the file has said nothing yet.
    pub(super) fresh: fn() -> T,
}

impl<T> Section<T> {
    /// Reads a map into `target`, which keeps what the map does not mention.
    pub(super) fn read(&self, at: &At<'_>, target: &mut T, report: &mut Report<'_>) {
        let Some(entries) = at.entries() else {
            return report.wrong_kind(at, self.expected.to_owned());
        };
        for (place, (name, value)) in entries.iter().enumerate() {
            if *name == MERGE {
                // What can be merged is among the entries already.
                report.wrong_kind(value, "a map or a list of maps to merge".to_owned());
                continue;
            }
            let Some(key) = self.keys.iter().find(|key| key.name == *name) else {
                report.key_fault(value, self.unknown(name));
                continue;
            };
            let before = entries.iter().take(place);
            match before.into_iter().find(|(earlier, _)| earlier == name) {
                Some((_, first)) => {
                    let fault = Fault::DuplicateKey { first: 0 };
                    report.repeated(value, Part::Key, first, fault);
                }
                None => key.slot.read(value, target, report),
            }
        }
        for key in self.keys {
            let required = matches!(key.preset, Preset::Required);
            if required && !entries.iter().any(|(name, _)| *name == key.name) {
                let expected = key.slot.expected();
                let key = key.name;
                report.key_fault(at, Fault::MissingKey { key, expected });
            }
        }
    }

    fn unknown(&self, name: &str) -> Fault {
        let known: Vec<_> = self.keys.iter().map(|key| key.name).collect();
        let mut twemproxys = self.twemproxys.iter();
        let meant = match twemproxys.find(|(theirs, _)| *theirs == name) {
            Some((_, ours)) => Meant::Twemproxys(ours),
            None => match nearest(name, known.iter().copied()) {
                Some(nearest) => Meant::Nearest(nearest),
                None => Meant::OneOf(known),
            },
        };
        Fault::UnknownKey(meant)
    }

    /// What `target` has that a fresh one has not.
    pub(super) fn changes(&self, path: &str, target: &T) -> Vec<Change> {
        let fresh = (self.fresh)();
        let changed = |key: &Key<T>| {
            let value = key.slot.show(target)?;
            let default = key.default(&fresh);
            (value != default).then(|| Change {
                path: format!("{path}{}", key.name),
                key: key.name,
                value,
                default,
            })
        };
        self.keys.iter().filter_map(changed).collect()
    }

    /// What people are told about the section.
    pub(super) fn doc(&self) -> SectionDoc {
        let fresh = (self.fresh)();
        let keys = self.keys.iter().map(|key| KeyDoc {
            name: key.name,
            value: key.slot.brief(),
            default: key.default(&fresh),
            help: key.help,
            bound: key.bound,
        });
        SectionDoc {
            name: self.name,
            help: self.help,
            keys: keys.collect(),
            twemproxys: self.twemproxys,
        }
    }

    /// Where the JSON schema tells of the section.
    pub(super) fn reference(&self) -> Json {
        json!({"$ref": format!("#/$defs/{}", self.definition)})
    }

    /// What the JSON schema says of the section.
    pub(super) fn schema(&self) -> Json {
        let fresh = (self.fresh)();
        let mut properties = Map::new();
        let mut required = Vec::new();
        for key in self.keys {
            let mut property = key.slot.schema();
            if let Json::Object(fields) = &mut property {
                let help = match key.bound {
                    "" => key.help.to_owned(),
                    bound => format!("{} At the bound: {bound}", key.help),
                };
                fields.insert("description".to_owned(), help.into());
                if let (Preset::Fresh, Some(json)) = (&key.preset, key.slot.json(&fresh)) {
                    fields.insert("default".to_owned(), json);
                }
            }
            properties.insert(key.name.to_owned(), property);
            if matches!(key.preset, Preset::Required) {
                required.push(key.name);
            }
        }
        json!({
            "type": "object",
            "description": self.help,
            "properties": properties,
            "required": required,
            "additionalProperties": false,
        })
    }
}

/// A value that is not the default.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The key, from the top of the file.
    pub path: String,
    /// The key alone.
    pub key: &'static str,
    /// Its value, as the file would say it.
    pub value: String,
    /// What it would be otherwise.
    pub default: String,
}

/// A section as the documentation tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SectionDoc {
    /// Its place in the file.
    pub name: &'static str,
    /// What it is about.
    pub help: &'static str,
    /// Its keys.
    pub keys: Vec<KeyDoc>,
    /// Keys that twemproxy has here and we have not, and what we say instead.
    pub twemproxys: &'static [(&'static str, &'static str)],
}

/// A key as the documentation tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyDoc {
    /// Its name.
    pub name: &'static str,
    /// What its value may be.
    pub value: String,
    /// Its value if the file does not say.
    pub default: String,
    /// What it does.
    pub help: &'static str,
    /// What happens when the bound is reached; empty if it is none.
    pub bound: &'static str,
}

/// A slot for one scalar.
pub(super) struct Scalar<T: 'static, V: 'static, F> {
    pub(super) lens: Lens<T, V>,
    pub(super) form: F,
}

impl<T, V, F: Form<V>> Slot<T> for Scalar<T, V, F> {
    fn read(&self, at: &At<'_>, target: &mut T, report: &mut Report<'_>) {
        match self.form.read(at.node) {
            Ok(value) => *(self.lens.get_mut)(target) = value,
            Err(misfit) => report.misfit(at, misfit, self.form.expected()),
        }
    }

    fn show(&self, target: &T) -> Option<String> {
        self.form.show((self.lens.get)(target))
    }

    fn json(&self, target: &T) -> Option<Json> {
        self.form.json((self.lens.get)(target))
    }

    fn expected(&self) -> String {
        self.form.expected()
    }

    fn brief(&self) -> String {
        self.form.brief()
    }

    fn schema(&self) -> Json {
        self.form.schema()
    }
}

/// A slot for a map with a section of its own.
pub(super) struct Nested<T: 'static, U: 'static> {
    pub(super) lens: Lens<T, U>,
    pub(super) section: &'static Section<U>,
}

impl<T, U> Slot<T> for Nested<T, U> {
    fn read(&self, at: &At<'_>, target: &mut T, report: &mut Report<'_>) {
        self.section.read(at, (self.lens.get_mut)(target), report);
    }

    fn expected(&self) -> String {
        self.section.expected.to_owned()
    }

    fn brief(&self) -> String {
        format!("section, see `{}`", self.section.name)
    }

    fn schema(&self) -> Json {
        self.section.reference()
    }
}
