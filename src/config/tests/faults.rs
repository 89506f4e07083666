//! What people are told when a file is wrong: word by word, for the words are
//! what the reader of the file has.

use super::super::{Error, Fault, Flaw, Misfit, Position};
use super::*;

#[test]
fn what_is_not_yaml() {
    let cases = [
        (
            "a: b: c",
            "1:5: bad YAML: mapping values are not allowed in this context",
        ),
        (
            "pools:\n\tmain: 1",
            "2:1: bad YAML: found character that cannot start any token, while scanning for the \
             next token",
        ),
        (
            "pools:\n  {{ name }}: 1",
            "2:3: bad YAML: pools: invalid type: map, expected a word as a key (quotes belong \
             around text with [ or { in it)",
        ),
        (
            "listen: [::1]:11311\npools: {}",
            "1:10: bad YAML: did not find expected node content, while parsing a flow node (an \
             IPv6 address belongs in quotes: \"[::1]:11311\")",
        ),
        (
            "pools: {main: {servers: *x}}",
            "1:25: bad YAML: unknown anchor",
        ),
        (
            "a: 1\n---\nb: 2",
            "1:1: bad YAML: deserializing from YAML containing more than one document is not \
             supported",
        ),
    ];
    for (yaml, expected) in cases {
        assert_told(yaml, expected);
    }
}

#[test]
fn what_is_no_map_of_keys() {
    let nothing = "found nothing, expected a map with the key 'pools'";
    assert_told("", &format!("1:1: {nothing}"));
    assert_told("# nothing\n", &format!("2:1: {nothing}"));
    assert_told(
        "[1, 2]",
        "1:1: found a list, expected a map with the key 'pools'",
    );
    assert_told(
        "log: info",
        "1:1: the key 'pools' is missing, expected a map of pools by name, each with its servers",
    );
    let no_pools = "expected a map of pools by name, each with its servers";
    assert_told("pools:", &format!("1:7: pools: found nothing, {no_pools}"));
    assert_told(
        "pools: {}",
        &format!("1:8: pools: found an empty map, {no_pools}"),
    );
    assert_told(
        "pools: {main: }",
        "1:15: pools.main: found nothing, expected a map with the key 'servers'",
    );
    assert_told(
        "pools: {main: {hash: md5}}",
        "1:9: pools.main: the key 'servers' is missing, expected a list of servers such as \
         [10.0.0.1:11211, 10.0.0.2:11211]",
    );
}

#[test]
fn unknown_keys() {
    assert_told_in_pool(
        "timeot: 1s",
        "4:5: pools.main.timeot: unknown key (did you mean 'timeout'?)",
    );
    assert_told_in_pool(
        "connect-timeout: 1s",
        "4:5: pools.main.connect-timeout: unknown key (did you mean 'connect_timeout'?)",
    );
    assert_told(
        "pools: {main: {servers: [{address: embedded, zzz: 1}]}}",
        "1:46: pools.main.servers[0].zzz: unknown key (known here: address, name, weight, \
         zone, range_start)",
    );
    // Not as much as the value is looked at.
    assert_told_in_pool(
        "zzz: {timeout: 5}",
        "4:5: pools.main.zzz: unknown key (known here: servers, shards, read, read_miss, repair_ttl, replication, hedge, hedge_budget, distribution, hash, hash_tag, \
         hash_stop, server_order, seed, timeout, connect_timeout, server_connections, preconnect, \
         in_flight_max, queue_bytes_max, stall_timeout, late_max, failures, on_eject, retries, probe_first, \
         probe_max, ramp, eject_max, slow_after, miss_on_error, server_protocol, embedded_memory)",
    );
}

#[test]
fn keys_that_nobody_stands_in_for() {
    assert_told(
        "pools: {main: {shards: [{primary: 192.0.2.1:11211}], on_eject: remap}}",
        "1:64: pools.main.on_eject: 'remap' is not for shards, whose replicas stand in",
    );
    assert_told_in_pool(
        "distribution: random\n    on_eject: remap",
        "5:15: pools.main.on_eject: 'remap' is not for 'distribution: random', under which keys \
         have no server of their own",
    );
}

#[test]
fn keys_of_twemproxy_that_are_told_otherwise_here() {
    let cases = [
        ("server_failure_limit: 2", "'failures' here"),
        ("auto_eject_hosts: true", "'on_eject: remap' here"),
        ("redis: false", "memcached only here"),
    ];
    for (line, expected) in cases {
        let (key, _) = line.split_once(':').unwrap();
        let expected = format!("4:5: pools.main.{key}: unknown key (twemproxy's: {expected})");
        assert_told_in_pool(line, &expected);
    }
}

#[test]
fn keys_that_stand_twice() {
    assert_told_in_pool(
        "timeout: 2s\n    timeout: 3s",
        "5:5: pools.main.timeout: the key stands in line 4 already",
    );
    assert_told(
        "pools:\n  a: {servers: [embedded]}\n  a: {servers: [embedded]}\n",
        "3:3: pools.a: the key stands in line 2 already",
    );
}

#[test]
fn everything_wrong_is_told_at_once_in_the_order_of_the_file() {
    let yaml = "\
workers: many
listen:
  - 127.0.0.1:1
  - nowhere
pools:
  one:
    timeot: 1s
    servers:
      - 192.0.2.1:11211
      - {address: 192.0.2.1, weight: x}
    failures: 0
  two:
    servers: [h:1, h:1]
clients:
  value_bytes_max: 1
route: three
";
    let problems = told(yaml);
    let places: Vec<_> = problems
        .iter()
        .map(|problem| problem.splitn(5, ':').collect::<Vec<_>>()[1..4].join(":"))
        .collect();
    assert_eq!(
        places,
        [
            "1:10: workers",
            "4:5: listen[1]",
            "7:5: pools.one.timeot",
            "10:19: pools.one.servers[1].address",
            "10:38: pools.one.servers[1].weight",
            "11:15: pools.one.failures",
            "13:20: pools.two.servers[1]",
            "15:20: clients.value_bytes_max",
            "16:8: route",
        ],
        "{problems:#?}"
    );
}

#[test]
fn only_so_many_problems_are_told() {
    let servers = "x, ".repeat(130);
    let problems = told(&format!("pools: {{main: {{servers: [{servers}]}}}}"));
    assert_eq!(problems.len(), 101);
    assert_eq!(problems.last().unwrap(), "and 30 more");
}

#[test]
fn a_problem_is_a_value_and_not_only_a_text() {
    let error = Config::parse("test.yaml", &in_pool("timeout: 400")).unwrap_err();
    let Error::Invalid { problems, more: 0 } = error else {
        panic!("{error}");
    };
    let [problem] = &problems[..] else {
        panic!("{problems:?}");
    };
    let position = Position {
        line: 4,
        column: 14,
    };
    assert_eq!(
        (problem.position, &*problem.path),
        (position, "pools.main.timeout")
    );
    let Fault::Value { misfit, .. } = &problem.fault else {
        panic!("{problem}");
    };
    let expected = Misfit::Flawed {
        value: "400".to_owned(),
        flaw: Flaw::NoUnit,
    };
    assert_eq!(*misfit, expected);
}

#[test]
fn files_that_cannot_be_read() {
    let directory = std::env::temp_dir().join(format!("ketch-config-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let shown = directory.display();
    let load = |name: &str| Config::load(&directory.join(name)).unwrap_err().to_string();
    assert_eq!(
        load("none.yaml"),
        format!("{shown}/none.yaml: cannot be read")
    );
    std::fs::write(directory.join("latin.yaml"), b"a: 1\nb: \xe4\n").unwrap();
    assert_eq!(
        load("latin.yaml"),
        format!("{shown}/latin.yaml:2:4: not UTF-8")
    );
    let huge = std::fs::File::create(directory.join("huge.yaml")).unwrap();
    huge.set_len((16 << 20) + 1).unwrap();
    assert_eq!(
        load("huge.yaml"),
        format!("{shown}/huge.yaml: larger than 16MiB, which no configuration is")
    );
    std::fs::remove_dir_all(directory).unwrap();
}
