//! Whether settings and servers fit together, before anything is built.

use std::collections::HashMap;

use super::distribution::{Distribution, Hasher, Server, Weights};
use super::error::Error;
use super::hash::Hash;
use super::settings::{Member, ServerOrder, Settings};
use super::warning::Warning;

/// Settings and servers that fit together.
pub(super) struct Checked {
    pub(super) hasher: Hasher,
    /// In the order they are counted.
    pub(super) servers: Vec<Server>,
    pub(super) warnings: Vec<Warning>,
}

/// Checks all that can be known without building anything.
pub(super) fn check(settings: &Settings, members: &[Member]) -> Result<Checked, Error> {
    let distribution = settings.distribution;
    let mut warnings = Vec::new();
    let hasher = hasher(settings, &mut warnings)?;
    let mut servers = named(distribution, members)?;
    check_weights(distribution, &servers, &mut warnings)?;
    check_ranges(distribution, members, &servers)?;
    if distribution.hashes_names() {
        warnings.extend(
            members
                .iter()
                .filter(|member| member.name.is_none() && member.is_unix_socket())
                .map(|member| Warning::SocketUnnamed {
                    name: member.placement_name(),
                }),
        );
    }
    if settings
        .server_order
        .unwrap_or(distribution.natural_order())
        == ServerOrder::ByName
    {
        servers.sort_by(|one, other| by_name(&one.name, &other.name));
        let moved = (0..)
            .zip(&servers)
            .any(|(place, server)| server.listed != place);
        if moved && distribution.counts_servers() {
            warnings.push(Warning::OrderedByName { distribution });
        }
    }
    Ok(Checked {
        hasher,
        servers,
        warnings,
    })
}

/// The function that keys go through.
fn hasher(settings: &Settings, warnings: &mut Vec<Warning>) -> Result<Hasher, Error> {
    let distribution = settings.distribution;
    let hash = match (settings.hash, distribution.natural_hash()) {
        (None, natural) => natural.unwrap_or(Hash::Fnv1a64),
        (Some(hash), None) => {
            warnings.push(Warning::HashIgnored { distribution, hash });
            hash
        }
        (Some(hash), Some(own)) if hash != own && !distribution.takes_any_hash() => {
            return Err(Error::HashNotApplicable {
                distribution,
                hash,
                own,
            });
        }
        (Some(hash), Some(_)) => hash,
    };
    let seed = match &settings.seed {
        None => 0,
        Some(seed) if hash == Hash::Xxh3_64 && distribution.natural_hash().is_some() => {
            Hash::Xxh3_64.hash(seed.as_bytes())
        }
        Some(_) => return Err(Error::SeedNotApplicable),
    };
    Ok(Hasher { hash, seed })
}

/// The servers as they are listed, with names of which no two are the same.
fn named(distribution: Distribution, members: &[Member]) -> Result<Vec<Server>, Error> {
    let max = distribution.servers_max();
    if members.is_empty() {
        return Err(Error::NoServers);
    }
    if members.len() > max {
        return Err(Error::TooManyServers {
            count: members.len(),
            distribution,
            max,
        });
    }
    let servers: Vec<Server> = (0..)
        .zip(members)
        .map(|(listed, member)| Server {
            listed,
            name: member.placement_name(),
            weight: member.weight,
            range_start: member.range_start.clone().unwrap_or_default(),
        })
        .collect();
    let mut places = HashMap::with_capacity(servers.len());
    for (place, server) in servers.iter().enumerate() {
        if server.name.is_empty() {
            return Err(Error::NameEmpty { place });
        }
        if let Some(first) = places.insert(server.name.as_str(), place) {
            return Err(Error::NameDuplicate {
                name: server.name.clone(),
                first,
                second: place,
            });
        }
    }
    Ok(servers)
}

fn check_weights(
    distribution: Distribution,
    servers: &[Server],
    warnings: &mut Vec<Warning>,
) -> Result<(), Error> {
    let weights = distribution.weights();
    if let Some(server) = servers.iter().find(|server| !weights.admit(server.weight)) {
        return Err(Error::Weight {
            server: server.name.clone(),
            weight: server.weight,
            distribution,
            takes: weights.describe(),
        });
    }
    let sum: f64 = servers.iter().map(|server| server.weight).sum();
    match weights {
        Weights::Whole if sum > f64::from(u32::MAX) => return Err(Error::WeightSum { sum }),
        Weights::UpToOne | Weights::Any if sum == 0.0 => warnings.push(Warning::AllWeightsZero),
        Weights::Ignored => {
            let other = servers.iter().filter(|server| server.weight != 1.0).count();
            if other > 0 {
                warnings.push(Warning::WeightsIgnored {
                    distribution,
                    servers: other,
                });
            }
        }
        _ => {}
    }
    Ok(())
}

fn check_ranges(
    distribution: Distribution,
    members: &[Member],
    servers: &[Server],
) -> Result<(), Error> {
    if distribution != Distribution::Range {
        let with_range = members
            .iter()
            .position(|member| member.range_start.is_some());
        return match with_range.and_then(|place| servers.get(place)) {
            None => Ok(()),
            Some(server) => Err(Error::RangeNotApplicable {
                server: server.name.clone(),
                distribution,
            }),
        };
    }
    let mut sorted: Vec<&Server> = servers.iter().collect();
    sorted.sort_by(|one, other| one.range_start.cmp(&other.range_start));
    for pair in sorted.windows(2) {
        if let [one, other] = pair
            && one.range_start == other.range_start
        {
            return Err(Error::RangeDuplicate {
                first: one.name.clone(),
                second: other.name.clone(),
                start: one.range_start.clone(),
            });
        }
    }
    match sorted.first() {
        Some(lowest) if !lowest.range_start.is_empty() => Err(Error::RangeGap {
            first: lowest.range_start.clone(),
        }),
        _ => Ok(()),
    }
}

/// twemproxy's order of names: the shorter first, those of one length by bytes.
///
/// Source: twemproxy `src/nc_string.c`, `string_compare`, as of 0.4.0.
fn by_name(one: &str, other: &str) -> std::cmp::Ordering {
    (one.len(), one).cmp(&(other.len(), other))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(count: usize) -> Vec<Member> {
        (0..count)
            .map(|i| Member::new(format!("10.0.0.{i}"), Some(11211)))
            .collect()
    }

    fn under(distribution: Distribution) -> Settings {
        Settings {
            distribution,
            ..Settings::default()
        }
    }

    fn refused(settings: &Settings, members: &[Member]) -> Error {
        check(settings, members)
            .map(|checked| checked.warnings)
            .unwrap_err()
    }

    fn warned(settings: &Settings, members: &[Member]) -> Vec<Warning> {
        check(settings, members)
            .map(|checked| checked.warnings)
            .unwrap()
    }

    #[test]
    fn a_pool_has_servers_with_names_of_their_own() {
        let settings = Settings::default();
        assert_eq!(refused(&settings, &[]), Error::NoServers);
        let nameless = [Member::new("", Some(11211))];
        assert_eq!(refused(&settings, &nameless), Error::NameEmpty { place: 0 });
        // A name may hit upon what another server is called by its address.
        let mut twice = members(3);
        twice[0].name = Some("10.0.0.2".to_owned());
        let expected = Error::NameDuplicate {
            name: "10.0.0.2".to_owned(),
            first: 0,
            second: 2,
        };
        assert_eq!(refused(&settings, &twice), expected);
        let mut named = [Member::new("h", Some(1)), Member::new("h", Some(1))];
        named[1].name = Some("other".to_owned());
        assert_eq!(warned(&settings, &named), []);
    }

    #[test]
    fn too_many_servers_are_refused() {
        let many = vec![Member::new("h", None); (1 << 16) + 1];
        let error = refused(&Settings::default(), &many);
        assert!(
            matches!(error, Error::TooManyServers { max: 65_536, .. }),
            "{error}"
        );
    }

    #[test]
    fn names_are_ordered_by_length_and_then_by_bytes() {
        let ports = [
            ("10.0.0.10", 11212),
            ("10.0.0.2", 11212),
            ("10.0.0.9", 11211),
            ("10.0.0.1", 11212),
        ];
        let members = ports.map(|(host, port)| Member::new(host, Some(port)));
        let checked = check(&under(Distribution::Modula), &members).unwrap();
        let places: Vec<u32> = checked.servers.iter().map(|server| server.listed).collect();
        assert_eq!(places, [2, 3, 1, 0]);
        let distribution = Distribution::Modula;
        assert_eq!(checked.warnings, [Warning::OrderedByName { distribution }]);
        let listed = check(&under(Distribution::Jump), &members).unwrap();
        let places: Vec<u32> = listed.servers.iter().map(|server| server.listed).collect();
        assert_eq!((places, listed.warnings), (vec![0, 1, 2, 3], vec![]));
    }

    #[test]
    fn weights_are_what_the_distribution_takes() {
        let weigh = |distribution, weights: [f64; 2]| {
            let mut members = members(2);
            members[0].weight = weights[0];
            members[1].weight = weights[1];
            check(&under(distribution), &members).map(|checked| checked.warnings)
        };
        let refused = [
            (Distribution::Ketama, 0.0),
            (Distribution::Ketama, 1.5),
            (Distribution::Modula, -1.0),
            (Distribution::WeightedFurc, 1.5),
            (Distribution::WeightedRendezvous, f64::NAN),
        ];
        for (distribution, weight) in refused {
            let result = weigh(distribution, [1.0, weight]);
            assert!(
                matches!(result, Err(Error::Weight { .. })),
                "{distribution} of {weight}"
            );
        }
        let sum = f64::from(u32::MAX) + 1.0;
        assert_eq!(
            weigh(Distribution::Ketama, [f64::from(u32::MAX), 1.0]),
            Err(Error::WeightSum { sum })
        );
        let distribution = Distribution::Jump;
        let ignored = Warning::WeightsIgnored {
            distribution,
            servers: 1,
        };
        assert_eq!(weigh(distribution, [1.0, 2.0]), Ok(vec![ignored]));
        assert_eq!(
            weigh(Distribution::WeightedFurc, [0.0, 0.0]),
            Ok(vec![Warning::AllWeightsZero])
        );
        assert_eq!(weigh(Distribution::WeightedFurc, [0.0, 1.0]), Ok(vec![]));
    }

    #[test]
    fn a_hash_is_one_the_distribution_takes() {
        let with = |distribution, hash| Settings {
            hash: Some(hash),
            ..under(distribution)
        };
        let expected = Error::HashNotApplicable {
            distribution: Distribution::Furc,
            hash: Hash::Md5,
            own: Hash::Murmur64a,
        };
        assert_eq!(
            refused(&with(Distribution::Furc, Hash::Md5), &members(2)),
            expected
        );
        assert_eq!(
            warned(&with(Distribution::Furc, Hash::Murmur64a), &members(2)),
            []
        );
        let ignored = Warning::HashIgnored {
            distribution: Distribution::Random,
            hash: Hash::Md5,
        };
        assert_eq!(
            warned(&with(Distribution::Random, Hash::Md5), &members(2)),
            [ignored]
        );
    }

    #[test]
    fn a_seed_needs_xxh3() {
        let seeded = |distribution| Settings {
            seed: Some("gutter".to_owned()),
            ..under(distribution)
        };
        for distribution in [
            Distribution::Ketama,
            Distribution::Furc,
            Distribution::Random,
        ] {
            assert_eq!(
                refused(&seeded(distribution), &members(2)),
                Error::SeedNotApplicable
            );
        }
        assert_eq!(warned(&seeded(Distribution::Jump), &members(2)), []);
    }

    #[test]
    fn ranges_cover_every_key_once() {
        let range = under(Distribution::Range);
        let starting = |starts: [Option<&str>; 2]| {
            let mut members = members(2);
            for (member, start) in members.iter_mut().zip(starts) {
                member.range_start = start.map(|start| start.as_bytes().to_vec());
            }
            members
        };
        assert_eq!(warned(&range, &starting([Some("m"), None])), []);
        assert_eq!(warned(&range, &starting([Some("m"), Some("")])), []);
        let gap = Error::RangeGap {
            first: b"a\xff".to_vec(),
        };
        assert_eq!(
            gap.to_string(),
            "no server owns the keys before 'a\\xff': the first range needs no start"
        );
        assert!(
            matches!(refused(&range, &starting([Some("m"), Some("b")])), Error::RangeGap { first } if first == b"b")
        );
        assert!(matches!(
            refused(&range, &starting([None, None])),
            Error::RangeDuplicate { .. }
        ));
        let error = refused(&Settings::default(), &starting([None, Some("b")]));
        assert!(matches!(error, Error::RangeNotApplicable { .. }));
    }

    #[test]
    fn an_unnamed_socket_is_warned_of_where_names_count() {
        let sockets = [
            Member::new("/run/one.sock", None),
            Member::new("/run/two.sock", None),
        ];
        assert_eq!(warned(&Settings::default(), &sockets).len(), 2);
        assert_eq!(warned(&under(Distribution::Jump), &sockets), []);
    }
}
