//! What a value looks like: how it is read, shown and described.

mod quantity;
mod word;

use serde_json::Value as Json;

use super::error::Misfit;
use super::grammar::Flaw;
use super::tree::Node;

pub(super) use quantity::{Counts, Durations, Percent, Sizes, Weight};
pub(super) use word::{Flag, OneOf, Optional, OrWord, Parsed};

/// The look of a value of type `V`.
pub(super) trait Form<V>: Sync {
    /// Reads a value.
    fn read(&self, node: &Node) -> Result<V, Misfit>;
    /// The value as the file would say it; `None` if it would say nothing.
    fn show(&self, value: &V) -> Option<String>;
    /// What is expected, behind that word.
    fn expected(&self) -> String;
    /// The same in a few words, for a table.
    fn brief(&self) -> String;
    /// What the JSON schema says of it.
    fn schema(&self) -> Json;
    /// The value as JSON.
    fn json(&self, value: &V) -> Option<Json> {
        self.show(value).map(Json::String)
    }
}

fn misfit<V>(node: &Node) -> Result<V, Misfit> {
    Err(Misfit::Kind(node.to_string()))
}

/// Reads a text by its grammar.
fn text<V>(node: &Node, read: impl FnOnce(&str) -> Result<V, Flaw>) -> Result<V, Misfit> {
    let Node::Text(text) = node else {
        return misfit(node);
    };
    read(text).map_err(|flaw| {
        let value = node.to_string();
        Misfit::Flawed { value, flaw }
    })
}
