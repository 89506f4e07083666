//! Tests of what files say when nothing is wrong with them.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use super::super::{SectionDoc, sections};
use super::*;
use crate::log::Format;
use crate::net::listener::Address;
use crate::pool::server::Place;
use crate::proxy::{MissOnError, OnEject, ServerProtocol};
use crate::router::{Distribution, Hash, ServerOrder};

fn tcp(host: &str, port: u16) -> Address {
    Address::Tcp {
        host: host.to_owned(),
        port,
    }
}

fn unix(path: &str) -> Address {
    Address::Unix(PathBuf::from(path))
}

const POOLS: &str = "pools: {main: {servers: [embedded]}}";

#[test]
fn what_a_file_does_not_say_is_the_default() {
    let settings = settings(POOLS);
    let default = Settings::default();
    let pools = settings.pools.clone();
    assert_eq!(Settings { pools, ..default }, settings);
    assert_eq!(settings.listen[0].address, tcp("127.0.0.1", 11311));
    assert_eq!(settings.admin, Some(tcp("127.0.0.1", 11312)));
    let [pool] = &settings.pools[..] else {
        panic!("{settings:?}");
    };
    assert_eq!(pool.treatment, crate::pool::Settings::default());
    assert_eq!(pool.placement, crate::router::Settings::default());
    assert_eq!(settings.clients.sessions, crate::proxy::Settings::default());
}

#[test]
fn a_byte_order_mark_and_other_line_ends_make_no_difference() {
    let yaml = "\u{feff}pools:\r\n  main:\r\n    servers: [embedded]\r\n";
    assert_eq!(settings(yaml), settings(POOLS));
}

#[test]
fn listeners_are_addresses_lists_and_sections() {
    let listen = |listen: &str| settings(&format!("listen: {listen}\n{POOLS}")).listen;
    assert_eq!(listen("localhost:1")[0].address, tcp("localhost", 1));
    assert_eq!(listen("'[::1]:1'")[0].address, tcp("::1", 1));
    assert_eq!(listen("[127.0.0.1:0, 127.0.0.1:0]").len(), 2);
    let sockets = listen("[unix:/a, /b 0666, unix:/c 600]");
    let modes: Vec<_> = sockets.iter().map(|listen| listen.mode).collect();
    assert_eq!(modes, [None, Some(0o666), Some(0o600)]);
    assert_eq!(sockets[1].address, unix("/b"));
    // One section alone needs no list.
    assert_eq!(
        listen("{address: /a, route: main}")[0].route.as_deref(),
        Some("main")
    );
}

#[test]
fn a_mode_is_octal_however_it_is_written() {
    for mode in ["0660", "660", "'0660'", "'660'", "0o660", "'0o660'"] {
        let yaml = format!("listen: [{{address: /a, mode: {mode}}}]\n{POOLS}");
        assert_eq!(settings(&yaml).listen[0].mode, Some(0o660), "{mode}");
    }
}

#[test]
fn a_listener_may_differ_from_the_others() {
    let yaml = format!(
        "listen:\n  - 127.0.0.1:1\n  - {{address: 127.0.0.1:2, value_bytes_max: 2MiB, \
         line_bytes_max: 4KiB, flush_all: true}}\nclients: {{value_bytes_max: 1KiB}}\n{POOLS}"
    );
    let settings = settings(&yaml);
    let limits = |place: usize| settings.listen[place].limits(&settings.clients);
    assert_eq!(limits(0).value_bytes_max, 1 << 10);
    assert_eq!(limits(1).value_bytes_max, 2 << 20);
    assert_eq!(limits(1).line_bytes_max, 4 << 10);
    assert_eq!(settings.listen[1].flush_all, Some(true));
}

#[test]
fn the_admin_listener_can_be_off() {
    // Tools that write an older YAML say false.
    for off in ["off", "false", "'off'"] {
        assert_eq!(
            settings(&format!("admin: {off}\n{POOLS}")).admin,
            None,
            "{off}"
        );
    }
    let yaml = format!("admin: '[::1]:0'\n{POOLS}");
    assert_eq!(settings(&yaml).admin, Some(tcp("::1", 0)));
}

#[test]
fn servers_are_texts_and_sections() {
    let yaml = "\
pools:
  main:
    distribution: weighted_rendezvous
    servers:
      - 192.0.2.1:11211:3 one
      - {address: '[::1]:11211', name: two, weight: 0.5}
      - /run/mc.sock:2 three
      - embedded
      - {address: embedded, name: mine}
      - embedded
";
    let settings = settings(yaml);
    let servers = &settings.pools[0].servers;
    let names: Vec<_> = servers.iter().map(|server| server.shown_name()).collect();
    assert_eq!(
        names,
        ["one", "two", "three", "embedded-1", "mine", "embedded-3"]
    );
    let weights: Vec<_> = servers.iter().map(|server| server.weight).collect();
    assert_eq!(weights, [3.0, 0.5, 2.0, 1.0, 1.0, 1.0]);
    assert_eq!(servers[1].place, Place::Remote(tcp("::1", 11211)));
    assert_eq!(servers[2].place, Place::Remote(unix("/run/mc.sock")));
    assert!(servers[3].is_embedded());
}

#[test]
fn shards_have_a_primary_and_replicas() {
    let yaml = "\
pools:
  main:
    shards:
      - primary: 192.0.2.1:11211:3 one
        replicas: [192.0.2.2:11211, {address: 192.0.2.3:11211, zone: b}]
      - {primary: 192.0.2.4:11211, name: second, weight: 5}
";
    let pool = &settings(yaml).pools[0];
    let members = pool.members();
    let names: Vec<_> = members
        .iter()
        .map(|member| member.name.as_deref())
        .collect();
    assert_eq!(names, [Some("one"), Some("second")]);
    let weights: Vec<_> = members.iter().map(|member| member.weight).collect();
    assert_eq!(weights, [3.0, 5.0]);
    assert_eq!(pool.servers[1].shown_name(), "192.0.2.4:11211");
    let replicas: Vec<_> = pool.replicas.iter().map(Vec::len).collect();
    assert_eq!(replicas, [2, 0]);
    assert_eq!(pool.replicas[0][1].zone.as_deref(), Some("b"));
    assert_eq!(pool.all_servers().count(), 4);
}

#[test]
fn keys_of_shards_do_nothing_without_them() {
    let yaml = "pools: {main: {servers: [embedded], read: spread}}";
    let text = "test.yaml:1:37: pools.main.read: the pool has no shards";
    assert_eq!(warned(yaml), [text]);
}

#[test]
fn merged_keys_are_overruled_by_ones_own() {
    let yaml = "\
route: b
pools:
  a: &a
    servers: [192.0.2.1:11211]
    timeout: 400ms
    failures: 5
  b:
    <<: *a
    timeout: 200ms
  c:
    failures: 7
    <<: [*a, {hash: md5, failures: 9}]
";
    let settings = settings(yaml);
    let pool = |place: usize| {
        let pool = &settings.pools[place];
        let treatment = &pool.treatment;
        (
            treatment.timeout.as_millis(),
            treatment.failures,
            pool.placement.hash,
        )
    };
    assert_eq!(pool(0), (400, 5, None));
    assert_eq!(pool(1), (200, 5, None));
    assert_eq!(pool(2), (400, 7, Some(Hash::Md5)));
    assert_eq!(settings.pools[1].servers, settings.pools[0].servers);
}

#[test]
fn odd_configurations_are_warned_of() {
    let yaml = "\
route: a
pools:
  a:
    servers: [unix:/a, h:1]
    hash: crc32
    embedded_memory: 1GiB
  b:
    servers: [h:1:2, h:2, 'h:3:1 a']
    distribution: jump
";
    assert_eq!(
        warned(yaml),
        [
            "test.yaml:4:15: pools.a.servers[0]: a unix socket without a name is placed as '/a:', \
             with a colon, as twemproxy does: give it a name",
            "test.yaml:5:11: pools.a.hash: hash crc32 reaches only the beginning of a ketama \
             ring: 100.0 % of the keys go to server 'h:1' (crc32a is the hash to take)",
            "test.yaml:6:22: pools.a.embedded_memory: no server of the pool is embedded",
            "test.yaml:7:3: pools.b: no listener leads to this pool",
            "test.yaml:9:19: pools.b.distribution: distribution jump ignores weights, and 1 of \
             the servers have one other than 1",
        ]
    );
}

/// A line for every key that says something else than the default, under its
/// section. Those without a line are seen to by other tests.
const OTHER: &[(&str, &str, &str)] = &[
    ("top level", "listen", "listen: 127.0.0.1:1"),
    ("top level", "route", "route: main"),
    ("top level", "pools", ""),
    ("top level", "clients", ""),
    ("top level", "missed_keys_max", "missed_keys_max: 10"),
    ("top level", "missed_keys_dir", "missed_keys_dir: /tmp/x"),
    ("top level", "on_return", "on_return: serve"),
    ("top level", "zone", "zone: a"),
    ("top level", "workers", "workers: 3"),
    ("top level", "admin", "admin: off"),
    ("top level", "log", "log: debug"),
    ("top level", "log_format", "log_format: json"),
    ("top level", "drain_timeout", "drain_timeout: 1s"),
    ("top level", "memory_max", "memory_max: 3MiB"),
    ("top level", "in_flight_max", "in_flight_max: 5"),
    ("top level", "watch", "watch: false"),
    ("listen[]", "address", ""),
    ("listen[]", "mode", "mode: 0600"),
    ("listen[]", "protocol", "protocol: binary"),
    ("listen[]", "reuse_port", "reuse_port: true"),
    ("listen[]", "route", "route: main"),
    ("listen[]", "value_bytes_max", "value_bytes_max: 1KiB"),
    ("listen[]", "line_bytes_max", "line_bytes_max: 3KiB"),
    ("listen[]", "flush_all", "flush_all: true"),
    ("clients", "connections_max", "connections_max: 5"),
    ("clients", "accept_rate", "accept_rate: 5"),
    ("clients", "idle_timeout", "idle_timeout: 1m"),
    ("clients", "in_flight_max", "in_flight_max: 5"),
    ("clients", "pause_bytes", "pause_bytes: 8KiB"),
    ("clients", "owed_bytes_max", "owed_bytes_max: 1GiB"),
    ("clients", "multiget_bytes_max", "multiget_bytes_max: 1MiB"),
    ("clients", "value_bytes_max", "value_bytes_max: 1KiB"),
    ("clients", "line_bytes_max", "line_bytes_max: 3KiB"),
    ("clients", "flush_all", "flush_all: true"),
    ("pools.NAME", "servers", ""),
    ("pools.NAME", "shards", ""),
    ("pools.NAME", "read", "read: nearest"),
    ("pools.NAME", "read_miss", "read_miss: next"),
    ("pools.NAME", "repair_ttl", "repair_ttl: 5m"),
    ("pools.NAME", "replication", "replication: sync"),
    ("pools.NAME", "hedge", "hedge: 95%"),
    ("pools.NAME", "hedge_budget", "hedge_budget: 10%"),
    ("pools.NAME", "distribution", "distribution: jump"),
    ("pools.NAME", "hash", "hash: md5"),
    ("pools.NAME", "hash_tag", "hash_tag: '{}'"),
    ("pools.NAME", "hash_stop", "hash_stop: '|#|'"),
    ("pools.NAME", "server_order", "server_order: listed"),
    ("pools.NAME", "seed", "{seed: x, hash: xxh3_64}"),
    ("pools.NAME", "timeout", "timeout: 2s"),
    ("pools.NAME", "connect_timeout", "connect_timeout: 2s"),
    ("pools.NAME", "server_connections", "server_connections: 2"),
    ("pools.NAME", "preconnect", "preconnect: false"),
    ("pools.NAME", "in_flight_max", "in_flight_max: 5"),
    ("pools.NAME", "queue_bytes_max", "queue_bytes_max: 8KiB"),
    ("pools.NAME", "stall_timeout", "stall_timeout: 7s"),
    ("pools.NAME", "late_max", "late_max: 0"),
    ("pools.NAME", "failures", "failures: 5"),
    ("pools.NAME", "on_eject", "on_eject: remap"),
    ("pools.NAME", "retries", "retries: 5%"),
    ("pools.NAME", "probe_first", "probe_first: 1s"),
    ("pools.NAME", "probe_max", "probe_max: 1s"),
    ("pools.NAME", "ramp", "ramp: 5s"),
    ("pools.NAME", "eject_max", "eject_max: 50%"),
    ("pools.NAME", "slow_after", "slow_after: 5"),
    ("pools.NAME", "miss_on_error", "miss_on_error: never"),
    ("pools.NAME", "server_protocol", "server_protocol: meta"),
    ("pools.NAME", "embedded_memory", "embedded_memory: 1GiB"),
    ("pools.NAME.servers[]", "address", ""),
    ("pools.NAME.servers[]", "name", "name: x"),
    ("pools.NAME.servers[]", "weight", "weight: 2"),
    ("pools.NAME.servers[]", "range_start", ""),
    ("pools.NAME.servers[]", "zone", "zone: a"),
    ("pools.NAME.shards[]", "primary", ""),
    ("pools.NAME.shards[]", "replicas", ""),
    ("pools.NAME.shards[]", "name", ""),
    ("pools.NAME.shards[]", "weight", ""),
];

/// A file with this line in this section.
fn file_with(section: &str, line: &str) -> String {
    let main = "pools:\n  main:\n    servers:\n      - address: embedded\n";
    // Several keys are merged from a map.
    let line = if line.starts_with('{') {
        format!("<<: {line}")
    } else {
        line.to_owned()
    };
    match section {
        "top level" => format!("{line}\n{main}"),
        // Only sockets with a port can share it, only others have modes.
        "listen[]" if line.starts_with("reuse_port") => {
            format!("listen:\n  - address: 127.0.0.1:1\n    {line}\n{main}")
        }
        "listen[]" => format!("listen:\n  - address: /a\n    {line}\n{main}"),
        "clients" => format!("clients:\n  <<: {{}}\n  {line}\n{main}"),
        "pools.NAME" => format!("{main}    {line}\n"),
        _ => format!("{main}        {line}\n"),
    }
}

/// Nothing may be read and do nothing.
#[test]
fn every_key_changes_what_the_file_says() {
    for (section, key, line) in OTHER.iter().filter(|(.., line)| !line.is_empty()) {
        let merged = format!("<<: {line}");
        let plain = file_with(section, line).replace(&merged, "");
        let plain = plain.replace(line, "");
        let plain = settings(&plain);
        let changed = settings(&file_with(section, line));
        assert_ne!(changed, plain, "{section} {key}");
    }
    let seen: BTreeSet<_> = OTHER
        .iter()
        .map(|(section, key, _)| (*section, *key))
        .collect();
    let sections = sections();
    let keys = |section: &SectionDoc| {
        let name = section.name;
        let keys = section.keys.clone().into_iter();
        keys.map(move |key| (name, key.name))
    };
    let declared: BTreeSet<_> = sections.iter().flat_map(keys).collect();
    assert_eq!(seen, declared);
}

#[test]
fn every_key_fills_its_own_field() {
    let yaml = "\
pools:
  main:
    servers: [{address: embedded, range_start: ''}]
    distribution: range
    server_order: listed
    timeout: 2ms
    connect_timeout: 3ms
    server_connections: 4
    preconnect: false
    in_flight_max: 5
    queue_bytes_max: 6KiB
    stall_timeout: 7ms
    late_max: 8
    failures: 9
    on_eject: remap
    retries: 13%
    probe_first: 10ms
    probe_max: 11ms
    ramp: 21ms
    eject_max: 22%
    slow_after: 23
    miss_on_error: always
    server_protocol: meta
    embedded_memory: 12MiB
clients:
  connections_max: 13
  idle_timeout: 14s
  in_flight_max: 15
  pause_bytes: 16KiB
  owed_bytes_max: 17MiB
  multiget_bytes_max: 17408KiB
  value_bytes_max: 18KiB
  line_bytes_max: 19KiB
  flush_all: true
workers: 20
log: ketch=debug
log_format: json
";
    let settings = settings(yaml);
    let pool = &settings.pools[0];
    let ms = Duration::from_millis;
    let expected = crate::pool::Settings {
        timeout: ms(2),
        connect_timeout: ms(3),
        connections: 4,
        preconnect: false,
        in_flight_max: 5,
        queue_bytes_max: 6 << 10,
        stall_timeout: ms(7),
        late_max: 8,
        retries_percent: 13,
        failures: 9,
        probe: crate::pool::backoff::Backoff {
            first: ms(10),
            max: ms(11),
            ..crate::pool::Settings::default().probe
        },
        ramp: ms(21),
        eject_max_percent: 22,
        slow_after: Some(23),
    };
    assert_eq!(pool.treatment, expected);
    assert_eq!(pool.placement.distribution, Distribution::Range);
    assert_eq!(pool.placement.server_order, Some(ServerOrder::Listed));
    assert_eq!(pool.servers[0].range_start.as_deref(), Some(&b""[..]));
    assert_eq!(pool.on_eject, OnEject::Remap);
    assert_eq!(pool.miss_on_error, MissOnError::Always);
    assert_eq!(pool.server_protocol, ServerProtocol::Meta);
    assert_eq!(pool.embedded_memory, 12 << 20);
    let clients = &settings.clients;
    let expected = crate::proxy::Settings {
        in_flight_max: 15,
        pause_bytes: 16 << 10,
        owed_bytes_max: 17 << 20,
        multiget_bytes_max: 17 << 20,
        idle_timeout: Duration::from_secs(14),
    };
    assert_eq!(clients.sessions, expected);
    assert_eq!((clients.connections_max, clients.flush_all), (13, true));
    assert_eq!(clients.limits.value_bytes_max, 18 << 10);
    assert_eq!(clients.limits.line_bytes_max, 19 << 10);
    assert_eq!(settings.workers, Some(20));
    assert_eq!(settings.log, "ketch=debug");
    assert_eq!(settings.log_format, Format::Json);
}
