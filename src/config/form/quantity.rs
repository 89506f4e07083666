//! Numbers, with and without a unit.

use std::fmt::Display;
use std::time::Duration;

use serde_json::{Value as Json, json};

use super::{Form, misfit, text};
use crate::config::error::Misfit;
use crate::config::grammar::{self, Flaw};
use crate::config::tree::Node;

/// Reads a text that begins with a number; a number alone may be 0 only.
fn with_unit<V>(node: &Node, read: impl FnOnce(&str) -> Result<V, Flaw>) -> Result<V, Misfit> {
    match node {
        Node::Int(0) => text(&Node::Text("0".to_owned()), read),
        Node::Int(_) | Node::Float(_) => Err(Misfit::Flawed {
            value: node.to_string(),
            flaw: Flaw::NoUnit,
        }),
        _ => text(node, read),
    }
}

fn in_range<V: PartialOrd>(value: V, min: V, max: V, node: &Node) -> Result<V, Misfit> {
    if (min..=max).contains(&value) {
        Ok(value)
    } else {
        Err(Misfit::Range(node.to_string()))
    }
}

/// A time with its unit.
pub(in crate::config) struct Durations {
    /// 0 is taken beside the range, and means something of its own.
    pub(in crate::config) zero: bool,
    pub(in crate::config) min: Duration,
    pub(in crate::config) max: Duration,
}

impl Durations {
    fn range(&self) -> String {
        let zero = if self.zero { "0, or " } else { "" };
        let (min, max) = (self.min, self.max);
        let show = grammar::show_duration;
        format!("{zero}{} to {}", show(min), show(max))
    }
}

impl Form<Duration> for Durations {
    fn read(&self, node: &Node) -> Result<Duration, Misfit> {
        let duration = with_unit(node, grammar::duration)?;
        if self.zero && duration.is_zero() {
            return Ok(duration);
        }
        in_range(duration, self.min, self.max, node)
    }

    fn show(&self, value: &Duration) -> Option<String> {
        Some(grammar::show_duration(*value))
    }

    fn expected(&self) -> String {
        let range = self.range();
        format!("a duration such as 250ms or 1m30s, {range}")
    }

    fn brief(&self) -> String {
        format!("duration, {}", self.range())
    }

    fn schema(&self) -> Json {
        quantity("^(0|([0-9]+(d|h|m|s|ms|us))+)$", self.zero)
    }
}

/// Text with a unit, or perhaps the number 0.
fn quantity(pattern: &str, zero: bool) -> Json {
    let text = json!({"type": "string", "pattern": pattern});
    if zero {
        json!({"anyOf": [text, {"const": 0}]})
    } else {
        text
    }
}

/// A whole number of hundredths, 0 to 100, with its sign.
pub(in crate::config) struct Percent;

impl Form<u32> for Percent {
    fn read(&self, node: &Node) -> Result<u32, Misfit> {
        let percent = with_unit(node, |text| match text.strip_suffix('%') {
            Some(number) => number.parse().map_err(|_| Flaw::Form),
            None if text == "0" => Ok(0),
            None => Err(Flaw::Form),
        })?;
        in_range(percent, 0, 100, node)
    }

    fn show(&self, value: &u32) -> Option<String> {
        Some(format!("{value}%"))
    }

    fn expected(&self) -> String {
        "a share such as 10%, 0% to 100%".to_owned()
    }

    fn brief(&self) -> String {
        "share, 0% to 100%".to_owned()
    }

    fn schema(&self) -> Json {
        quantity("^([0-9]|[1-9][0-9]|100)%$", true)
    }
}

/// A number of bytes with its unit.
pub(in crate::config) struct Sizes {
    pub(in crate::config) min: usize,
    pub(in crate::config) max: usize,
}

impl Sizes {
    fn range(&self) -> String {
        let show = |bytes| grammar::show_size(u64::try_from(bytes).unwrap_or(u64::MAX));
        format!("{} to {}", show(self.min), show(self.max))
    }
}

impl Form<usize> for Sizes {
    fn read(&self, node: &Node) -> Result<usize, Misfit> {
        let bytes = with_unit(node, grammar::size)?;
        // What no memory holds is out of every range.
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        in_range(bytes, self.min, self.max, node)
    }

    fn show(&self, value: &usize) -> Option<String> {
        u64::try_from(*value).ok().map(grammar::show_size)
    }

    fn expected(&self) -> String {
        let range = self.range();
        format!("a size such as 512KiB or 64MiB, {range}")
    }

    fn brief(&self) -> String {
        format!("size, {}", self.range())
    }

    fn schema(&self) -> Json {
        quantity("^(0|[0-9]+(TiB|GiB|MiB|KiB|B))$", self.min == 0)
    }
}

/// A whole number.
pub(in crate::config) struct Counts {
    pub(in crate::config) min: u32,
    pub(in crate::config) max: u32,
}

impl<V: Display + TryFrom<u32>> Form<V> for Counts {
    fn read(&self, node: &Node) -> Result<V, Misfit> {
        let Node::Int(number) = *node else {
            return misfit(node);
        };
        let count = in_range(number, self.min.into(), self.max.into(), node)?;
        let narrow = u32::try_from(count).ok();
        narrow
            .and_then(|count| V::try_from(count).ok())
            .ok_or_else(|| Misfit::Range(node.to_string()))
    }

    fn show(&self, value: &V) -> Option<String> {
        Some(value.to_string())
    }

    fn expected(&self) -> String {
        format!("a whole number from {} to {}", self.min, self.max)
    }

    fn brief(&self) -> String {
        format!("number, {} to {}", self.min, self.max)
    }

    fn schema(&self) -> Json {
        json!({"type": "integer", "minimum": self.min, "maximum": self.max})
    }

    fn json(&self, value: &V) -> Option<Json> {
        value.to_string().parse::<u64>().ok().map(Json::from)
    }
}

/// A weight: any number from 0; what the distribution takes is for it to say.
pub(in crate::config) struct Weight;

impl Form<f64> for Weight {
    fn read(&self, node: &Node) -> Result<f64, Misfit> {
        let weight = match node {
            // Larger ones than these are not told apart, and refused later on.
            Node::Int(number) => u32::try_from(*number).ok().map(f64::from),
            Node::Float(number) => Some(*number),
            _ => return misfit(node),
        };
        weight
            .filter(|weight| *weight >= 0.0 && weight.is_finite())
            .ok_or_else(|| Misfit::Range(node.to_string()))
    }

    fn show(&self, value: &f64) -> Option<String> {
        Some(value.to_string())
    }

    fn expected(&self) -> String {
        "a number from 0 that the distribution takes".to_owned()
    }

    fn brief(&self) -> String {
        "number from 0".to_owned()
    }

    fn schema(&self) -> Json {
        json!({"type": "number", "minimum": 0})
    }

    fn json(&self, value: &f64) -> Option<Json> {
        Some((*value).into())
    }
}
