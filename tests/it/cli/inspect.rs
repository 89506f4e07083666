//! Commands that only tell.

use std::io::Write;
use std::process::Stdio;

use super::{TempFile, ketch, output, said};

#[test]
fn check_tells_what_a_file_would_do() {
    let file = TempFile::new(
        "check.yaml",
        "\
listen:
  - 127.0.0.1:11311
  - {address: /run/ketch.sock, mode: 0660, route: other, flush_all: true}
route: main
workers: 3
pools:
  main:
    servers: [192.0.2.1:11211, 192.0.2.2:11211:1 two]
    hash: fnv1a_64
    timeout: 400ms
  other:
    servers: ['h:1:2', 'h:2:2']
    distribution: jump
",
    );
    let path = file.path();
    let expected = format!(
        "\
{path}: good, with 1 warning

listeners
  127.0.0.1:11311 -> main
  unix:/run/ketch.sock (0660) -> other
admin: 127.0.0.1:11312
workers: 3

pool main: ketama, 2 servers
  server           address          weight  points    share
  192.0.2.1:11211  192.0.2.1:11211       1     160  46.32 %
  two              192.0.2.2:11211       1     160  53.68 %

pool other: jump, 2 servers
  server  address  weight  points    share
  h:1     h:1           2       -  50.00 %
  h:2     h:2           2       -  50.00 %

not at their defaults
  workers: 3 (default: auto)
  listen unix:/run/ketch.sock: flush_all: true (default: that of `clients`)
  pools.main.timeout: 400ms (default: 1s)
  pools.other.distribution: jump (default: ketama)

warnings
  {path}:13:19: pools.other.distribution: distribution jump ignores weights, and 2 of the servers have one other than 1
"
    );
    let (code, out, errors) = output(&["check", path]);
    assert_eq!((code, errors.as_str()), (0, ""));
    assert_eq!(out, expected);
}

#[test]
fn check_tells_all_that_is_wrong_and_fails() {
    let file = TempFile::new(
        "wrong.yaml",
        "pools:\n  main:\n    servers: [192.0.2.1]\n    timeout: 400\n",
    );
    let path = file.path();
    let (code, out, errors) = output(&["check", path]);
    assert_eq!((code, out.as_str()), (1, ""));
    let expected = format!(
        "\
{path}:3:15: pools.main.servers[0]: '192.0.2.1' has no port, expected a server such as 10.0.0.1:11211, 10.0.0.1:11211:1 name, unix:/path or embedded
{path}:4:14: pools.main.timeout: 400 has no unit, expected a duration such as 250ms or 1m30s, 1ms to 1h
"
    );
    assert_eq!(errors, expected);
    let (code, _, errors) = output(&["check", "/nowhere/proxy.yaml"]);
    assert_eq!(code, 1);
    assert_eq!(
        errors,
        "/nowhere/proxy.yaml: cannot be read: No such file or directory (os error 2)\n"
    );
}

#[test]
fn the_files_of_the_project_are_good() {
    for file in std::fs::read_dir("examples").unwrap() {
        let path = file.unwrap().path();
        let (code, _, errors) = output(&["check", path.to_str().unwrap()]);
        assert_eq!((code, errors.as_str()), (0, ""), "{}", path.display());
    }
    // The file that is read if none is named.
    let (code, out, _) = output(&["check"]);
    assert!(code == 0 && out.starts_with("proxy.yaml: good\n"), "{out}");
}

const TWEMPROXY: &str = "examples/twemproxy-replacement.yaml";

#[test]
fn route_tells_the_server_of_a_key_and_why() {
    let listen = "127.0.0.1:22122";
    // The keys and servers of twemproxy's own tests, by another hash.
    let (code, out, errors) =
        output(&["route", "-c", TWEMPROXY, "--listen", listen, "apple", "foo"]);
    assert_eq!((code, errors.as_str()), (0, ""));
    let expected = "\
pool  server   address                           hash       point  key
beta  server4  192.0.2.14:11211            2838417488  2838786566  apple
beta  server1  192.0.2.11:11211            2356372769  2358329183  foo
";
    assert_eq!(out, expected);
}

#[test]
fn route_tells_which_part_of_a_key_counts() {
    let listen = "127.0.0.1:22121";
    let (_, out, _) = output(&[
        "route",
        "-c",
        TWEMPROXY,
        "-l",
        listen,
        "user:{42}:name",
        "42",
    ]);
    let rows: Vec<_> = out.lines().collect();
    let [_, tagged, plain] = rows[..] else {
        panic!("{out}");
    };
    assert_eq!(
        tagged,
        plain.replace("  42", "  user:{42}:name  (of which '42')")
    );
}

#[test]
fn route_reads_keys_from_standard_input() {
    let file = TempFile::new(
        "route.yaml",
        "pools: {main: {servers: [h:1, h:2], distribution: random}}",
    );
    let mut child = ketch(&["route", "--config", file.path(), "--stdin"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let keys = format!("one\r\n\n{}\nlast", "x".repeat(251));
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(keys.as_bytes()).unwrap();
    drop(stdin);
    let (code, out, errors) = said(&child.wait_with_output().unwrap());
    assert_eq!((code, errors.as_str()), (0, ""));
    let rows: Vec<_> = out.lines().collect();
    assert!(rows[1].ends_with("-           -  one"), "{out}");
    assert_eq!(rows[2], "a key has 1 to 250 bytes, this one has 0: ");
    assert!(rows[3].starts_with("a key has 1 to 250 bytes, this one has 251: xxx"));
    assert!(rows[4].ends_with("  last"));
    assert_eq!(
        rows[5],
        "distribution random: the next request goes anywhere else"
    );
}

#[test]
fn route_wants_to_know_the_listener_where_it_matters() {
    let (code, _, errors) = output(&["route", "-c", TWEMPROXY, "foo"]);
    assert_eq!(code, 2);
    assert_eq!(
        errors,
        "listeners lead to different pools: name one by --listen, of 127.0.0.1:22121, \
         127.0.0.1:22122\n"
    );
    let (code, _, errors) = output(&["route", "-c", TWEMPROXY, "-l", "127.0.0.1:1", "foo"]);
    assert_eq!(code, 2);
    assert_eq!(
        errors,
        "no listener 127.0.0.1:1; there are 127.0.0.1:22121, 127.0.0.1:22122\n"
    );
}

#[test]
fn schema_prints_the_schema() {
    let (code, out, _) = output(&["schema"]);
    assert_eq!(code, 0);
    assert_eq!(
        out,
        std::fs::read_to_string("docs/config.schema.json").unwrap()
    );
}

#[test]
fn help_and_version_are_told_and_bad_usage_is_refused() {
    let (code, out, _) = output(&["--help"]);
    assert_eq!(code, 0);
    for word in [
        "proxy",
        "check",
        "diff",
        "route",
        "schema",
        "--config",
        "Exit codes",
    ] {
        assert!(out.contains(word), "{word}: {out}");
    }
    let (code, out, _) = output(&["--version"]);
    assert_eq!(
        (code, out),
        (0, format!("ketch {}\n", env!("CARGO_PKG_VERSION")))
    );
    for args in [
        &["serve"][..],
        &["--port", "1"],
        &["route"],
        &["check", "a", "b"],
    ] {
        assert_eq!(output(args).0, 2, "{args:?}");
    }
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let mut child = ketch(&["schema"]).stdout(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_diff_says_what_changes_and_how_many_keys_move() {
    let old = TempFile::new(
        "old.yaml",
        "listen: 127.0.0.1:1\nworkers: 1\npools: {main: {servers: [192.0.2.1:1, 192.0.2.2:1]}}\n",
    );
    let new = TempFile::new(
        "new.yaml",
        "listen: [127.0.0.1:1, 127.0.0.1:2]\nworkers: 2\n\
         pools: {main: {timeout: 2s, servers: [192.0.2.1:1, 192.0.2.3:1]}}\n",
    );
    let (code, out, errors) = output(&["diff", old.path(), new.path()]);
    assert_eq!((code, errors.as_str()), (0, ""));
    let (before, percent) = out.split_once("main (127.0.0.1:1): ").unwrap();
    assert_eq!(
        before,
        "listeners\n  + 127.0.0.1:2\nservers\n  + main: 192.0.2.3:1\n  - main: 192.0.2.2:1\n\
         values\n  pools.main.timeout: 1s -> 2s\n  workers: 1 -> 2\n\
         keys that move to other servers\n  "
    );
    let (percent, rest) = percent.split_once(" %\n").unwrap();
    assert!((50.0..80.0).contains(&percent.parse::<f64>().unwrap()));
    assert_eq!(rest, "only with a restart: workers\n");
    let (_, out, _) = output(&["diff", new.path(), new.path()]);
    assert_eq!(out, "nothing changes\n");
    let (code, _, errors) = output(&["diff", old.path(), "/nowhere"]);
    assert_eq!(code, 1, "{errors}");
}

#[test]
fn shards_are_told_with_their_replicas() {
    let file = "examples/replicas.yaml";
    let (code, out, errors) = output(&["check", file]);
    assert_eq!((code, errors.as_str()), (0, ""));
    let expected = "\
pool main: ketama, 2 shards
  server                      address           weight  points    share
  one: 192.0.2.1:11211        192.0.2.1:11211        1     160  49.66 %
    replica 192.0.2.11:11211  192.0.2.11:11211       -       -        -
    replica 192.0.2.21:11211  192.0.2.21:11211       -       -        -
  two: 192.0.2.12:11211       192.0.2.12:11211       1     160  50.34 %
    replica 192.0.2.2:11211   192.0.2.2:11211        -       -        -
    replica 192.0.2.22:11211  192.0.2.22:11211       -       -        -
";
    assert!(out.contains(expected), "{out}");
    let (code, out, errors) = output(&["route", "-c", file, "pear"]);
    assert_eq!((code, errors.as_str()), (0, ""));
    let expected = "\
main  192.0.2.12:11211  192.0.2.12:11211            3611819629  3638897399  pear  \
(replicas: 192.0.2.2:11211, 192.0.2.22:11211)
";
    assert!(out.ends_with(expected), "{out}");
}
