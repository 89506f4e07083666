//! A file as the tree of what it says, before anybody asks what it means.

use std::fmt;

use serde::de::{Deserialize, Deserializer, EnumAccess, IgnoredAny, MapAccess, SeqAccess};
use serde::de::{VariantAccess, Visitor};

use super::path::Position;

/// The key whose value, a map, fills what its own map leaves out.
pub(super) const MERGE: &str = "<<";

/// A value of the file.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Node {
    Null,
    Bool(bool),
    Int(i128),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    /// In the order of the file; a key may stand twice.
    Map(Vec<(String, Node)>),
    /// A value under a tag of its own: `tag` of `!tag`.
    Tagged(String),
}

/// Longest part of a text that a message shows, in characters.
const SHOWN_MAX: usize = 60;

/// As messages name it.
impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("nothing"),
            Self::Bool(value) => value.fmt(f),
            Self::Int(value) => value.fmt(f),
            Self::Float(value) => write!(f, "{value:?}"),
            Self::Text(text) => {
                let shown: String = text.chars().take(SHOWN_MAX).collect();
                let cut = if shown.len() < text.len() { "..." } else { "" };
                write!(f, "'{}{cut}'", shown.escape_debug())
            }
            Self::List(items) if items.is_empty() => f.write_str("an empty list"),
            Self::List(_) => f.write_str("a list"),
            Self::Map(entries) if entries.is_empty() => f.write_str("an empty map"),
            Self::Map(_) => f.write_str("a map"),
            Self::Tagged(tag) => write!(f, "a value tagged !{tag}"),
        }
    }
}

/// Why a text is no tree.
#[derive(Debug)]
pub(super) struct SyntaxError {
    pub(super) position: Position,
    pub(super) text: String,
}

impl Node {
    /// The tree of a file. An empty one is [`Node::Null`].
    pub(super) fn parse(text: &str) -> Result<Self, SyntaxError> {
        serde_yaml::from_str(text).map_err(|error| {
            let position = Position::of(&error).unwrap_or(Position::START);
            // Messages begin with the position already.
            let Position { line, column } = position;
            let said = format!(" at line {line} column {column}");
            let mut message = error.to_string().replacen(&said, "", 1);
            // The mistake that people make, and that no reader can tell from
            // others.
            let at_fault = text.lines().nth(line.saturating_sub(1));
            if at_fault.is_some_and(|line| line.contains("]:")) {
                message.push_str(" (an IPv6 address belongs in quotes: \"[::1]:11311\")");
            }
            SyntaxError {
                position,
                text: message,
            }
        })
    }

    /// Whether this is a map.
    pub(super) fn is_map(&self) -> bool {
        matches!(self, Self::Map(_))
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }

    fn visit_none<E>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
        Ok(Node::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
        Ok(Node::Int(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
        Ok(Node::Int(value.into()))
    }

    fn visit_i128<E>(self, value: i128) -> Result<Node, E> {
        Ok(Node::Int(value))
    }

    fn visit_u128<E>(self, value: u128) -> Result<Node, E> {
        // Out of every range, as the largest number is.
        Ok(Node::Int(i128::try_from(value).unwrap_or(i128::MAX)))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Node, E> {
        Ok(Node::Float(value))
    }

    fn visit_str<E>(self, text: &str) -> Result<Node, E> {
        Ok(Node::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Node, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Node::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Node, A::Error> {
        let mut map = Vec::new();
        while let Some((Key(key), value)) = entries.next_entry()? {
            map.push((key, value));
        }
        Ok(Node::Map(map))
    }

    fn visit_enum<A: EnumAccess<'de>>(self, tagged: A) -> Result<Node, A::Error> {
        let (Key(tag), value) = tagged.variant()?;
        value.newtype_variant::<IgnoredAny>()?;
        Ok(Node::Tagged(tag))
    }
}

/// A key as it is written, be it a word or a number.
struct Key(String);

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(KeyVisitor).map(Self)
    }
}

struct KeyVisitor;

impl Visitor<'_> for KeyVisitor {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a word as a key (quotes belong around text with [ or { in it)")
    }

    fn visit_str<E>(self, text: &str) -> Result<String, E> {
        Ok(text.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Node {
        Node::Text(text.to_owned())
    }

    fn parse(yaml: &str) -> Node {
        Node::parse(yaml).unwrap()
    }

    #[test]
    fn scalars_are_what_yaml_says_they_are() {
        let cases = [
            ("~", Node::Null),
            ("", Node::Null),
            ("false", Node::Bool(false)),
            ("off", text("off")),
            ("400", Node::Int(400)),
            ("-1", Node::Int(-1)),
            ("0x10", Node::Int(16)),
            ("0660", text("0660")),
            ("1.5", Node::Float(1.5)),
            ("'1.5'", text("1.5")),
            ("127.0.0.1:11211", text("127.0.0.1:11211")),
            (
                "99999999999999999999",
                Node::Int(99_999_999_999_999_999_999),
            ),
            ("!word x", Node::Tagged("word".to_owned())),
            ("!word [x, {y: z}]", Node::Tagged("word".to_owned())),
        ];
        for (yaml, node) in cases {
            assert_eq!(parse(yaml), node, "{yaml}");
        }
    }

    #[test]
    fn keys_stay_in_order_and_may_stand_twice() {
        let entry = |key: &str, value| (key.to_owned(), Node::Int(value));
        let map = Node::Map(vec![entry("b", 1), entry("a", 2), entry("b", 3)]);
        assert_eq!(parse("b: 1\na: 2\nb: 3\n"), map);
        assert_eq!(parse("{b: 1, 'a': 2, b: 3}"), map);
        let map = Node::Map(vec![entry("1", 1), entry("true", 2), entry("~", 3)]);
        assert_eq!(parse("1: 1\ntrue: 2\n~: 3"), map);
    }

    #[test]
    fn what_is_not_yaml_is_told_with_its_place() {
        let error = Node::parse("a: 1\nb: [1\nc: 2\n").unwrap_err();
        assert_eq!((error.position.line, error.position.column), (3, 2));
        assert_eq!(
            error.text,
            "did not find expected ',' or ']', while parsing a flow sequence at line 2 column 4"
        );
        let unrendered = Node::parse("a: {{ b }}\n").unwrap_err();
        assert_eq!(
            (unrendered.position.line, unrendered.position.column),
            (1, 5)
        );
    }

    #[test]
    fn a_bomb_of_aliases_is_refused() {
        let mut yaml = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x]\n");
        for level in 1..9 {
            let before = format!("*a{}", level - 1);
            let all = [before.as_str(); 9].join(",");
            yaml.push_str(&format!("a{level}: &a{level} [{all}]\n"));
        }
        assert!(Node::parse(&yaml).is_err());
        let deep = "[".repeat(10_000);
        assert!(Node::parse(&deep).is_err());
    }

    #[test]
    fn messages_show_the_beginning_of_a_long_text() {
        let long = text(&"x".repeat(100));
        assert_eq!(long.to_string(), format!("'{}...'", "x".repeat(60)));
        assert_eq!(text("a\nb").to_string(), "'a\\nb'");
        assert_eq!(parse("[]").to_string(), "an empty list");
        assert_eq!(parse("{}").to_string(), "an empty map");
        assert_eq!(parse("!x 1").to_string(), "a value tagged !x");
    }
}
