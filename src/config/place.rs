//! Where the keys of a pool go, and what is wrong if they cannot.

use super::error::Fault;
use super::path::Part;
use super::reader::{At, PROBLEMS_MAX, Report};
use super::settings::Pool;
use crate::router::{Error, Member, Placement, Settings, Warning};

/// The keys of a pool that decide where its keys go.
const PLACING: [&str; 8] = [
    "servers",
    "shards",
    "distribution",
    "hash",
    "hash_tag",
    "hash_stop",
    "server_order",
    "seed",
];

/// The placement of a pool; of use only if nothing is wrong with it, and all that
/// is wrong is noted.
pub(super) fn place(pool: &Pool, at: &At<'_>, report: &mut Report<'_>) -> Option<Placement> {
    let mut placing = PLACING.iter().filter_map(|key| at.get(key));
    // Without servers there is a fault already.
    if pool.servers.is_empty() || !placing.all(|at| report.is_sound(&at)) {
        return None;
    }
    let mut attempt = Attempt {
        settings: pool.placement.clone(),
        members: pool.members(),
        at,
    };
    // The router tells one error at a time. Each is mended to find the next.
    for _ in 0..PROBLEMS_MAX {
        match Placement::new(&attempt.settings, &attempt.members) {
            Ok((placement, warnings)) => {
                for warning in warnings.iter().take(PROBLEMS_MAX) {
                    let place = attempt.place_of_warning(warning);
                    report.warn(&place, Part::Value, warning.to_string());
                }
                return Some(placement);
            }
            Err(error) => {
                let place = attempt.place_of_error(&error);
                let is_mended = attempt.mend(&error);
                report.fault(&place, Fault::Placement(error));
                if !is_mended {
                    return None;
                }
            }
        }
    }
    None
}

/// What is tried to be placed, and the pool that it comes from.
struct Attempt<'a> {
    settings: Settings,
    members: Vec<Member>,
    at: &'a At<'a>,
}

impl<'a> Attempt<'a> {
    /// The server at this place, or one of its keys if it is a map.
    fn server(&self, place: usize, key: &str) -> At<'a> {
        let list = match self.at.get("shards") {
            Some(shards) => shards,
            None => self.at.down("servers"),
        };
        list.item(place).down(key)
    }

    fn find(&self, is_it: impl Fn(&Member) -> bool) -> usize {
        // Whoever complains of a server has it from this list.
        self.members.iter().position(is_it).unwrap_or_default()
    }

    fn named(&self, name: &str) -> usize {
        self.find(|member| member.placement_name() == *name)
    }

    fn starting_at(&self, start: &[u8]) -> usize {
        self.find(|member| member.range_start.as_deref() == Some(start))
    }

    /// Where in the file that stands which an error is about.
    fn place_of_error(&self, error: &Error) -> At<'a> {
        match error {
            Error::NameEmpty { place } => self.server(*place, "name"),
            Error::NameDuplicate { second, .. } => self.server(*second, "name"),
            Error::Weight { server, .. } => self.server(self.named(server), "weight"),
            Error::HashNotApplicable { .. } => self.at.down("hash"),
            Error::SeedNotApplicable => self.at.down("seed"),
            Error::HashTag { .. } => self.at.down("hash_tag"),
            Error::HashStop { .. } | Error::TagAndStop => self.at.down("hash_stop"),
            Error::RangeNotApplicable { server, .. } => {
                self.server(self.named(server), "range_start")
            }
            Error::RangeDuplicate { second, .. } => self.server(self.named(second), "range_start"),
            Error::RangeGap { first } => self.server(self.starting_at(first), "range_start"),
            Error::NoServers
            | Error::TooManyServers { .. }
            | Error::WeightSum { .. }
            | Error::AliveLength { .. }
            | Error::NoneAlive => self.at.down("servers"),
        }
    }

    /// Where in the file that stands which a warning is about.
    fn place_of_warning(&self, warning: &Warning) -> At<'a> {
        match warning {
            Warning::ZeroPoints { server, .. } => self.server(self.named(server), "weight"),
            Warning::SocketUnnamed { name: server } | Warning::NameTruncated { server } => {
                self.server(self.named(server), "name")
            }
            Warning::NarrowHash { .. } | Warning::HashIgnored { .. } => self.at.down("hash"),
            Warning::OrderedByName { .. } | Warning::WeightsIgnored { .. } => {
                self.at.down("distribution")
            }
            Warning::AllWeightsZero => self.at.down("servers"),
        }
    }

    /// Changes what an error is about so that it does not come again; says
    /// whether that can be done. What comes of it is placed nowhere.
    fn mend(&mut self, error: &Error) -> bool {
        let settings = &mut self.settings;
        match error {
            Error::HashNotApplicable { .. } => settings.hash = None,
            Error::SeedNotApplicable => settings.seed = None,
            Error::HashTag { .. } => settings.hash_tag = None,
            Error::HashStop { .. } | Error::TagAndStop => settings.hash_stop = None,
            _ => return self.mend_member(error),
        }
        true
    }

    fn mend_member(&mut self, error: &Error) -> bool {
        let place = match error {
            Error::NameEmpty { place } | Error::NameDuplicate { second: place, .. } => *place,
            Error::Weight { server, .. }
            | Error::RangeNotApplicable { server, .. }
            | Error::RangeDuplicate { second: server, .. } => self.named(server),
            Error::RangeGap { first } => self.starting_at(first),
            _ => return false,
        };
        let Some(member) = self.members.get_mut(place) else {
            return false;
        };
        match error {
            Error::NameEmpty { .. } | Error::NameDuplicate { .. } => {
                let name = member.placement_name();
                member.name = Some(format!("{name} (servers[{place}])"));
            }
            Error::Weight { .. } => member.weight = 1.0,
            Error::RangeDuplicate { start, .. } => {
                let unique = format!("\n{place}");
                member.range_start = Some([start, unique.as_bytes()].concat());
            }
            _ => member.range_start = None,
        }
        true
    }
}
