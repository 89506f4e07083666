//! One shard of a pool.

use serde_json::{Value as Json, json};

use super::NAME;
use super::pool::{ONE_EXPECTED, one_server};
use super::server::SERVER;
use crate::config::form::{Optional, Weight};
use crate::config::key::{Key, Preset, Scalar, Section, Slot, lens};
use crate::config::reader::{At, Report};
use crate::config::settings::{Server, Shard};

/// A section of the list `shards`.
pub(in crate::config) static SHARD: Section<Shard> = Section {
    name: "pools.NAME.shards[]",
    definition: "shard",
    help: "One shard of a pool: servers that hold the same keys. Where it stands among the shards \
           is decided by its name if it has one, else by its primary.",
    expected: "a map with the key 'primary'",
    fresh: Shard::default,
    twemproxys: &[],
    keys: &[
        Key {
            name: "primary",
            slot: &Primary,
            preset: Preset::Required,
            help: "The server that changes go to first. While it is ejected the first healthy \
                   replica takes its place.",
            bound: "",
        },
        Key {
            name: "replicas",
            slot: &Replicas,
            preset: Preset::Told("none"),
            help: "The servers that changes are copied to, in the order in which they take the \
                   primary's place.",
            bound: "",
        },
        Key {
            name: "name",
            slot: &Scalar {
                lens: lens!(Shard, name),
                form: Optional(NAME),
            },
            preset: Preset::Told("the primary's"),
            help: "What ketama and rendezvous place it by: with a name another server can become \
                   the primary and no key moves.",
            bound: "",
        },
        Key {
            name: "weight",
            slot: &Scalar {
                lens: lens!(Shard, weight),
                form: Optional(Weight),
            },
            preset: Preset::Told("the primary's"),
            help: "Its share of the keys, against those of the other shards.",
            bound: "",
        },
    ],
};

/// The primary.
struct Primary;

impl Slot<Shard> for Primary {
    fn read(&self, at: &At<'_>, target: &mut Shard, report: &mut Report<'_>) {
        target.primary = one_server(at, report);
    }

    fn expected(&self) -> String {
        ONE_EXPECTED.to_owned()
    }

    fn brief(&self) -> String {
        format!("server or `{}`", SERVER.name)
    }

    fn schema(&self) -> Json {
        one_schema()
    }
}

/// The list of replicas.
struct Replicas;

impl Slot<Shard> for Replicas {
    fn read(&self, at: &At<'_>, target: &mut Shard, report: &mut Report<'_>) {
        let Some(items) = at.items() else {
            return report.wrong_kind(at, self.expected());
        };
        let servers = items.iter().filter_map(|item| one_server(item, report));
        target.replicas = servers.collect();
    }

    fn expected(&self) -> String {
        "a list of servers such as [10.0.0.2:11211, 10.0.0.3:11211]".to_owned()
    }

    fn brief(&self) -> String {
        format!("list of servers or of `{}`", SERVER.name)
    }

    fn schema(&self) -> Json {
        json!({"type": "array", "items": one_schema()})
    }
}

fn one_schema() -> Json {
    json!({"anyOf": [{"type": "string"}, SERVER.reference()]})
}

impl Shard {
    /// The primary, as it is placed, and its replicas; `None` if the primary
    /// could not be read.
    pub(super) fn into_servers(self) -> Option<(Server, Vec<Server>)> {
        let mut primary = self.primary?;
        primary.shard = self.name;
        primary.weight = self.weight.unwrap_or(primary.weight);
        Some((primary, self.replicas))
    }
}
