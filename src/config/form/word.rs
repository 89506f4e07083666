//! Words: flags, names out of a few, text with a grammar; and what stands around
//! other forms.

use serde_json::{Value as Json, json};

use super::{Form, misfit, text};
use crate::config::error::{Meant, Misfit, nearest};
use crate::config::grammar::Flaw;
use crate::config::tree::Node;

/// Yes or no.
pub(in crate::config) struct Flag;

impl Form<bool> for Flag {
    fn read(&self, node: &Node) -> Result<bool, Misfit> {
        match node {
            Node::Bool(value) => Ok(*value),
            _ => misfit(node),
        }
    }

    fn show(&self, value: &bool) -> Option<String> {
        Some(value.to_string())
    }

    fn expected(&self) -> String {
        "true or false".to_owned()
    }

    fn brief(&self) -> String {
        self.expected()
    }

    fn schema(&self) -> Json {
        json!({"type": "boolean"})
    }

    fn json(&self, value: &bool) -> Option<Json> {
        Some((*value).into())
    }
}

/// One of a few names.
pub(in crate::config) struct OneOf<V: 'static> {
    pub(in crate::config) all: &'static [V],
    pub(in crate::config) name: fn(V) -> &'static str,
}

impl<V: Copy> OneOf<V> {
    fn names(&self) -> impl Iterator<Item = &'static str> {
        self.all.iter().map(|value| (self.name)(*value))
    }
}

impl<V: Copy + Sync> Form<V> for OneOf<V> {
    fn read(&self, node: &Node) -> Result<V, Misfit> {
        let Node::Text(text) = node else {
            return misfit(node);
        };
        let found = self.all.iter().find(|value| (self.name)(**value) == text);
        found.copied().ok_or_else(|| {
            let value = node.to_string();
            match nearest(text, self.names()).map(Meant::Nearest) {
                Some(meant) => Misfit::Misspelt { value, meant },
                None => Misfit::Unknown(value),
            }
        })
    }

    fn show(&self, value: &V) -> Option<String> {
        Some((self.name)(*value).to_owned())
    }

    fn expected(&self) -> String {
        let names: Vec<_> = self.names().collect();
        format!("one of {}", names.join(", "))
    }

    fn brief(&self) -> String {
        let names: Vec<_> = self.names().map(|name| format!("`{name}`")).collect();
        names.join(", ")
    }

    fn schema(&self) -> Json {
        json!({"enum": self.names().collect::<Vec<_>>()})
    }
}

/// A text with a grammar of its own.
pub(in crate::config) struct Parsed<V> {
    pub(in crate::config) read: fn(&str) -> Result<V, Flaw>,
    pub(in crate::config) show: fn(&V) -> String,
    pub(in crate::config) expected: &'static str,
    pub(in crate::config) brief: &'static str,
    /// A regular expression for the schema; empty for none.
    pub(in crate::config) pattern: &'static str,
}

impl<V> Form<V> for Parsed<V> {
    fn read(&self, node: &Node) -> Result<V, Misfit> {
        text(node, self.read)
    }

    fn show(&self, value: &V) -> Option<String> {
        Some((self.show)(value))
    }

    fn expected(&self) -> String {
        self.expected.to_owned()
    }

    fn brief(&self) -> String {
        self.brief.to_owned()
    }

    fn schema(&self) -> Json {
        if self.pattern.is_empty() {
            json!({"type": "string"})
        } else {
            json!({"type": "string", "pattern": self.pattern})
        }
    }
}

/// A form, or a word for none of it.
pub(in crate::config) struct OrWord<F> {
    pub(in crate::config) word: &'static str,
    pub(in crate::config) form: F,
}

impl<F> OrWord<F> {
    /// Tools that follow an older YAML turn `off` into `false`.
    fn is_word(&self, node: &Node) -> bool {
        match node {
            Node::Text(text) => text == self.word,
            Node::Bool(false) => self.word == "off",
            _ => false,
        }
    }
}

impl<V, F: Form<V>> Form<Option<V>> for OrWord<F> {
    fn read(&self, node: &Node) -> Result<Option<V>, Misfit> {
        if self.is_word(node) {
            return Ok(None);
        }
        self.form.read(node).map(Some)
    }

    fn show(&self, value: &Option<V>) -> Option<String> {
        match value {
            Some(value) => self.form.show(value),
            None => Some(self.word.to_owned()),
        }
    }

    fn expected(&self) -> String {
        format!("{}, or '{}'", self.form.expected(), self.word)
    }

    fn brief(&self) -> String {
        format!("{}, or `{}`", self.form.brief(), self.word)
    }

    fn schema(&self) -> Json {
        let mut words = vec![json!(self.word)];
        words.extend((self.word == "off").then_some(json!(false)));
        json!({"anyOf": [{"enum": words}, self.form.schema()]})
    }

    fn json(&self, value: &Option<V>) -> Option<Json> {
        match value {
            Some(value) => self.form.json(value),
            None => Some(self.word.into()),
        }
    }
}

/// A form for what is there only if the key is.
pub(in crate::config) struct Optional<F>(pub(in crate::config) F);

impl<V, F: Form<V>> Form<Option<V>> for Optional<F> {
    fn read(&self, node: &Node) -> Result<Option<V>, Misfit> {
        self.0.read(node).map(Some)
    }

    fn show(&self, value: &Option<V>) -> Option<String> {
        self.0.show(value.as_ref()?)
    }

    fn expected(&self) -> String {
        self.0.expected()
    }

    fn brief(&self) -> String {
        self.0.brief()
    }

    fn schema(&self) -> Json {
        self.0.schema()
    }

    fn json(&self, value: &Option<V>) -> Option<Json> {
        self.0.json(value.as_ref()?)
    }
}
