//! What people are told of values that cannot be, word by word.

use super::*;

#[test]
fn numbers_without_a_unit_and_other_bad_durations() {
    let expected = "expected a duration such as 250ms or 1m30s, 1ms to 1h";
    let cases = [
        ("400", "400 has no unit"),
        ("'400'", "'400' has no unit"),
        ("0.4", "0.4 has no unit"),
        ("400msec", "'400msec' has the unknown unit 'msec'"),
        (
            "30s1m",
            "'30s1m' does not have its units from large to small",
        ),
        ("9999999999d", "'9999999999d' is too large a number"),
        ("soon", "'soon' cannot be read"),
        ("2h", "'2h' is out of range"),
        ("0", "0 is out of range"),
        ("~", "found nothing"),
        ("true", "found true"),
        ("[1s]", "found a list"),
        ("{}", "found an empty map"),
        ("!very 1s", "found a value tagged !very"),
    ];
    for (value, problem) in cases {
        assert_told_in_pool(
            &format!("timeout: {value}"),
            &format!("4:14: pools.main.timeout: {problem}, {expected}"),
        );
    }
    assert_told(
        "pools: {main: {servers: [embedded]}}\nclients:\n  idle_timeout: 500ms",
        "3:17: clients.idle_timeout: '500ms' is out of range, expected a duration such as 250ms \
         or 1m30s, 0, or 1s to 30d",
    );
}

#[test]
fn bad_sizes() {
    let expected = "expected a size such as 512KiB or 64MiB, 4KiB to 64GiB";
    let cases = [
        ("1048576", "1048576 has no unit"),
        ("64MB", "'64MB' has the unknown unit 'MB'"),
        ("64m", "'64m' has the unknown unit 'm'"),
        ("100B", "'100B' is out of range"),
        ("1TiB", "'1TiB' is out of range"),
        ("99999999TiB", "'99999999TiB' is too large a number"),
        ("much", "'much' cannot be read"),
    ];
    for (value, problem) in cases {
        assert_told_in_pool(
            &format!("queue_bytes_max: {value}"),
            &format!("4:22: pools.main.queue_bytes_max: {problem}, {expected}"),
        );
    }
}

#[test]
fn bad_numbers_names_and_flags() {
    let cases = [
        (
            "failures: 0",
            "4:15: pools.main.failures: 0 is out of range, expected a whole number from 1 to 1000",
        ),
        (
            "failures: 1.5",
            "4:15: pools.main.failures: found 1.5, expected a whole number from 1 to 1000",
        ),
        (
            "failures: '3'",
            "4:15: pools.main.failures: found '3', expected a whole number from 1 to 1000",
        ),
        (
            "failures: 340282366920938463463374607431768211455",
            "4:15: pools.main.failures: 170141183460469231731687303715884105727 is out of range, \
             expected a whole number from 1 to 1000",
        ),
        (
            "preconnect: yes",
            "4:17: pools.main.preconnect: found 'yes', expected true or false",
        ),
        (
            "miss_on_error: allways",
            "4:20: pools.main.miss_on_error: 'allways' is unknown (did you mean 'always'?), \
             expected one of never, multiget, always",
        ),
        (
            "server_order: 5",
            "4:19: pools.main.server_order: found 5, expected one of by_name, listed",
        ),
        (
            "hash_tag: {}",
            "4:15: pools.main.hash_tag: found an empty map, expected two characters in quotes, \
             such as \"{}\"",
        ),
        (
            "seed: 7",
            "4:11: pools.main.seed: found 7, expected a name of one line, in quotes if it looks \
             like a number",
        ),
        (
            "seed: ''",
            "4:11: pools.main.seed: '' is empty, expected a name of one line, in quotes if it \
             looks like a number",
        ),
    ];
    for (line, expected) in cases {
        assert_told_in_pool(line, expected);
    }
    let pools = "\npools: {main: {servers: [embedded]}}";
    let cases = [
        (
            "workers: 257",
            "1:10: workers: 257 is out of range, expected a whole number from 1 to 256, or 'auto'",
        ),
        (
            "log: inof",
            "1:6: log: 'inof' has the unknown level 'inof', expected a level (off, error, warn, \
             info, debug, trace) or targets with levels, such as warn,ketch::pool=debug",
        ),
        (
            "log_format: xml",
            "1:13: log_format: 'xml' is unknown, expected one of text, json",
        ),
        (
            "admin: 11312",
            "1:8: admin: found 11312, expected an address such as 127.0.0.1:11312, or 'off'",
        ),
        (
            "admin: unix:/a",
            "1:8: admin: 'unix:/a' is a unix socket, where only a host and a port will do, \
             expected an address such as 127.0.0.1:11312, or 'off'",
        ),
    ];
    for (line, expected) in cases {
        assert_told(&format!("{line}{pools}"), expected);
    }
}

#[test]
fn bad_listeners() {
    let expected = "expected an address such as 127.0.0.1:11311, [::1]:11311 (in quotes) or \
                    unix:/path";
    let several = format!("{expected}, or a list of addresses or sections");
    let with = |listen: &str| format!("listen: {listen}\npools: {{main: {{servers: [embedded]}}}}");
    let cases = [
        ("11311", "1:9: listen: found 11311"),
        ("[]", "1:9: listen: found an empty list"),
        ("localhost", "1:9: listen: 'localhost' has no port"),
        ("[127.0.0.1:1, 5]", "1:23: listen[1]: found 5"),
        (
            "'::1:11311'",
            "1:9: listen: '::1:11311' has an IPv6 address without brackets",
        ),
        (
            "127.0.0.1:70000",
            "1:9: listen: '127.0.0.1:70000' has the impossible port 70000",
        ),
        (
            "127.0.0.256:1",
            "1:9: listen: '127.0.0.256:1' has the impossible host '127.0.0.256'",
        ),
        (
            "unix:run/x.sock",
            "1:9: listen: 'unix:run/x.sock' has a path that does not begin with /",
        ),
        (
            "/run/x.sock 0999",
            "1:9: listen: '/run/x.sock 0999' has the impossible mode '0999'",
        ),
        (
            "127.0.0.1:1 0600",
            "1:9: listen: '127.0.0.1:1 0600' has a mode, which only a unix socket takes",
        ),
    ];
    for (listen, problem) in cases {
        assert_told(&with(listen), &format!("{problem}, {several}"));
    }
    let long = format!("/{}", "x".repeat(107));
    assert_told(
        &with(&long),
        &format!(
            "1:9: listen: '{}...' has a path of more than 107 bytes, {several}",
            &long[..60]
        ),
    );
    assert_told(
        &with("[{mode: 0660}]"),
        &format!("1:10: listen[0]: the key 'address' is missing, {expected}"),
    );
    assert_told(
        &with("[{address: 5}]"),
        &format!("1:20: listen[0].address: found 5, {expected}"),
    );
    let mode = "expected octal digits such as 0660";
    assert_told(
        &with("[{address: /x, mode: 0888}]"),
        &format!("1:30: listen[0].mode: '0888' cannot be read, {mode}"),
    );
    assert_told(
        &with("[{address: /x, mode: 1777}]"),
        &format!("1:30: listen[0].mode: 1777 cannot be read, {mode}"),
    );
    assert_told(
        &with("[{address: /x, mode: [6]}]"),
        &format!("1:30: listen[0].mode: found a list, {mode}"),
    );
    assert_told(
        &with("[{address: 127.0.0.1:1, mode: 0660}]"),
        "1:39: listen[0].mode: 127.0.0.1:1 has a mode, which only a unix socket takes",
    );
    assert_told(
        &with("[127.0.0.1:1, /x, {address: 127.0.0.1:1}]"),
        "1:27: listen[2]: 127.0.0.1:1 is the address of line 1 already",
    );
    assert_told(
        &with("127.0.0.1:11312"),
        "1:9: listen: 127.0.0.1:11312 is the address of 'admin' already",
    );
}

#[test]
fn bad_servers() {
    let expected = "expected a server such as 10.0.0.1:11211, 10.0.0.1:11211:1 name, unix:/path \
                    or embedded";
    let cases = [
        ("192.0.2.1", "'192.0.2.1' has no port"),
        ("192.0.2.1:0", "'192.0.2.1:0' has the impossible port 0"),
        ("192.0.2.1:1:1 a b", "'192.0.2.1:1:1 a b' cannot be read"),
        (
            "'::1:11211:1'",
            "'::1:11211:1' has an IPv6 address without brackets",
        ),
        ("5", "found 5"),
        ("\"h:1\\n\"", "'h:1\\n' cannot be read"),
    ];
    for (server, problem) in cases {
        assert_told(
            &format!("pools: {{main: {{servers: [{server}]}}}}"),
            &format!("1:26: pools.main.servers[0]: {problem}, {expected}"),
        );
    }
    let list = "expected a list of servers such as [10.0.0.1:11211, 10.0.0.2:11211]";
    for (servers, found) in [("[]", "an empty list"), ("embedded", "'embedded'")] {
        assert_told(
            &format!("pools: {{main: {{servers: {servers}}}}}"),
            &format!("1:25: pools.main.servers: found {found}, {list}"),
        );
    }
    let address = "expected an address such as 10.0.0.1:11211, [::1]:11211 (in quotes), \
                   unix:/path or embedded";
    let name = "expected a name of one line, in quotes if it looks like a number";
    let weight = "expected a number from 0 that the distribution takes";
    let cases = [
        (
            "name: x",
            format!("1:26: pools.main.servers[0]: the key 'address' is missing, {address}"),
        ),
        (
            "address: '192.0.2.1:1:1'",
            format!(
                "1:36: pools.main.servers[0].address: '192.0.2.1:1:1' cannot be read, {address}"
            ),
        ),
        (
            "address: embedded, name: \"a\\r\\nb\"",
            format!("1:52: pools.main.servers[0].name: 'a\\r\\nb' has a control character, {name}"),
        ),
        (
            "address: embedded, name: 1.10",
            format!("1:52: pools.main.servers[0].name: found 1.1, {name}"),
        ),
        (
            "address: embedded, weight: -1",
            format!("1:54: pools.main.servers[0].weight: -1 is out of range, {weight}"),
        ),
        (
            "address: embedded, weight: .nan",
            format!("1:54: pools.main.servers[0].weight: NaN is out of range, {weight}"),
        ),
        (
            "address: embedded, weight: '2'",
            format!("1:54: pools.main.servers[0].weight: found '2', {weight}"),
        ),
    ];
    for (keys, expected) in cases {
        assert_told(
            &format!("pools: {{main: {{servers: [{{{keys}}}]}}}}"),
            &expected,
        );
    }
}

#[test]
fn names_of_pools() {
    assert_told(
        "pools: {'': {servers: [embedded]}}",
        "1:9: pools.\"\": '' is empty, expected a name of one line for the pool",
    );
    assert_told(
        "pools: {\"a\\n\": {servers: [embedded]}}",
        "1:9: pools.\"a\\n\": 'a\\n' has a control character, expected a name of one line for the \
         pool",
    );
}

#[test]
fn values_that_contradict_each_other() {
    assert_told_in_pool(
        "stall_timeout: 500ms",
        "4:20: pools.main.stall_timeout: 'stall_timeout' is 500ms, expected at least 'timeout', \
         which is 1s",
    );
    assert_told_in_pool(
        "timeout: 10s",
        "4:14: pools.main.timeout: 'stall_timeout' is 5s, expected at least 'timeout', which is \
         10s",
    );
    assert_told_in_pool(
        "probe_first: 1m",
        "4:18: pools.main.probe_first: 'probe_max' is 5s, expected at least 'probe_first', which \
         is 1m",
    );
    let pools = "\npools: {main: {servers: [embedded]}}";
    assert_told(
        &format!("clients: {{pause_bytes: 1GiB}}{pools}"),
        "1:24: clients.pause_bytes: 'owed_bytes_max' is 256MiB, expected at least 'pause_bytes', \
         which is 1GiB",
    );
    let small = "owed_bytes_max: 2MiB, multiget_bytes_max: 2MiB";
    assert_told(
        &format!("clients: {{{small}, value_bytes_max: 4MiB}}{pools}"),
        "1:27: clients.owed_bytes_max: 'owed_bytes_max' is 2MiB, expected at least \
         'value_bytes_max', which is 4MiB",
    );
    assert_told(
        &format!("listen: [{{address: /x, value_bytes_max: 4MiB}}]\nclients: {{{small}}}{pools}"),
        "2:27: clients.owed_bytes_max: 'owed_bytes_max' is 2MiB, expected at least \
         'value_bytes_max', which is 4MiB",
    );
    // What could not be read contradicts nothing.
    assert_told_in_pool(
        "stall_timeout: 500ms\n    timeout: 100",
        "5:14: pools.main.timeout: 100 has no unit, expected a duration such as 250ms or 1m30s, \
         1ms to 1h",
    );
}

#[test]
fn placement_that_cannot_be() {
    let cases = [
        (
            "hash_tag: '{'",
            "4:15: pools.main.hash_tag: hash tag '{' is not two characters of one byte each",
        ),
        (
            "hash_stop: ''",
            "4:16: pools.main.hash_stop: hash stop of 0 bytes, but 1 to 16 are allowed",
        ),
        (
            "{hash_tag: '{}', hash_stop: '|'}",
            "4:37: pools.main.hash_stop: a hash tag and a hash stop exclude each other",
        ),
        (
            "{distribution: furc, hash: md5}",
            "4:36: pools.main.hash: distribution furc has its own hash, murmur64a, and takes no md5",
        ),
        (
            "seed: x",
            "4:11: pools.main.seed: a seed needs hash xxh3_64, which this pool does not use",
        ),
    ];
    for (line, expected) in cases {
        // A map in braces stands for several lines.
        match line.strip_prefix('{') {
            Some(_) => assert_told_in_pool(&format!("<<: {line}"), expected),
            None => assert_told_in_pool(line, expected),
        }
    }
    let cases = [
        (
            "[h:1, h:2, h:1]",
            "1:36: pools.main.servers[2]: two servers are named 'h:1', at places 0 and 2",
        ),
        (
            "[embedded, {address: embedded, name: embedded-1}]",
            "1:62: pools.main.servers[1].name: two servers are named 'embedded-1', at places 0 \
             and 1",
        ),
        (
            "[h:1, h:2:0]",
            "1:31: pools.main.servers[1]: server 'h:2' has weight 0, but distribution ketama \
             takes whole numbers from 1",
        ),
        (
            "[{address: h:1, weight: 0.5}]",
            "1:49: pools.main.servers[0].weight: server 'h:1' has weight 0.5, but distribution \
             ketama takes whole numbers from 1",
        ),
        (
            "[h:1:4294967295, h:2:4294967295]",
            "1:25: pools.main.servers: the weights add up to 8589934590, more than 4294967295",
        ),
        (
            "[h:1, {address: h:2, range_start: m}]",
            "1:59: pools.main.servers[1].range_start: server 'h:2' has a range start, which \
             distribution ketama does not know",
        ),
        (
            "[{address: h:1, range_start: m}], distribution: range",
            "1:54: pools.main.servers[0].range_start: no server owns the keys before 'm': the \
             first range needs no start",
        ),
        (
            "[h:1, {address: h:2, range_start: ''}], distribution: range",
            "1:59: pools.main.servers[1].range_start: the ranges of 'h:1' and 'h:2' start at the \
             same key, ''",
        ),
    ];
    for (servers, expected) in cases {
        assert_told(
            &format!("pools: {{main: {{servers: {servers}}}}}"),
            expected,
        );
    }
}

#[test]
fn all_that_is_wrong_with_a_placement_is_told_at_once() {
    let yaml = "\
pools:
  a:
    hash_tag: '{'
    hash: md5
    distribution: range
    seed: x
    servers:
      - {address: 'h:1', range_start: m}
      - {address: 'h:1', range_start: z}
      - {address: 'h:2', range_start: z}
      - {address: 'h:1', range_start: x}
  b:
    hash_tag: '{}'
    hash_stop: ''
    distribution: furc
    hash: md5
    servers: [h:1, h:2, h:1]
  c:
    servers: [h:1:0, h:2, h:3:0.5, {address: 'h:4', range_start: a}]
route: a
";
    let expected = [
        "3:15: pools.a.hash_tag: hash tag '{' is not two characters of one byte each",
        "6:11: pools.a.seed: a seed needs hash xxh3_64, which this pool does not use",
        "8:39: pools.a.servers[0].range_start: no server owns the keys before 'm': the first \
         range needs no start",
        "9:9: pools.a.servers[1]: two servers are named 'h:1', at places 0 and 1",
        "10:39: pools.a.servers[2].range_start: the ranges of 'h:1 (servers[1])' and 'h:2' start \
         at the same key, 'z'",
        "11:9: pools.a.servers[3]: two servers are named 'h:1', at places 0 and 3",
        "14:16: pools.b.hash_stop: a hash tag and a hash stop exclude each other",
        "16:11: pools.b.hash: distribution furc has its own hash, murmur64a, and takes no md5",
        "17:25: pools.b.servers[2]: two servers are named 'h:1', at places 0 and 2",
        "19:15: pools.c.servers[0]: server 'h:1' has weight 0, but distribution ketama takes \
         whole numbers from 1",
        "19:27: pools.c.servers[2]: server 'h:3' has weight 0.5, but distribution ketama takes \
         whole numbers from 1",
        "19:66: pools.c.servers[3].range_start: server 'h:4' has a range start, which \
         distribution ketama does not know",
    ];
    assert_eq!(told(yaml), expected.map(|line| format!("test.yaml:{line}")));
}

#[test]
fn routes_that_lead_nowhere() {
    let pools = "\npools:\n  a: {servers: [embedded]}\n  b: {servers: [embedded]}\n";
    let cases = [
        (
            "route: c",
            "1:8: route: there is no pool 'c', expected one of a, b",
        ),
        (
            "route: a\nlisten: [{address: /x, route: c}]",
            "2:31: listen[0].route: there is no pool 'c', expected one of a, b",
        ),
        (
            "log: info",
            "1:1: 127.0.0.1:11311 has no route, expected 'route' here or at the top of the file, \
             one of a, b",
        ),
        (
            "listen: [{address: /x, route: a}, /y]",
            "1:35: listen[1]: unix:/y has no route, expected 'route' here or at the top of the \
             file, one of a, b",
        ),
    ];
    for (lines, expected) in cases {
        assert_told(&format!("{lines}{pools}"), expected);
    }
}
