//! libmemcached's conformance tool, on memcached itself and through the proxy.

use std::io;
use std::net::SocketAddr;
use std::process::Command;

use crate::ketch::Ketch;
use crate::peer::{Peer, is_required, show};

/// The verdict on each test of the tool, in its order; `None` without the tool.
fn verdicts(address: SocketAddr, dialect: &str) -> Option<Vec<(String, String)>> {
    let run = Command::new("memccapable")
        .args([
            "-h",
            &address.ip().to_string(),
            "-p",
            &address.port().to_string(),
            dialect,
        ])
        .output();
    let output = match run {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            assert!(!is_required(), "memccapable: {error}");
            show("skipped: memccapable is not installed");
            return None;
        }
        output => output.unwrap(),
    };
    // Names go to standard output with the verdict `[pass]`, and to standard
    // error with `[FAIL]`: a name without a verdict has failed.
    let text = String::from_utf8_lossy(&output.stdout);
    let mut verdicts = Vec::new();
    let prefix = if dialect == "-b" { "binary " } else { "ascii " };
    for name in text.split(prefix).skip(1) {
        let passed = name.contains("[pass]");
        let name = name
            .lines()
            .next()
            .unwrap_or_default()
            .replace("[pass]", "");
        let verdict = if passed { "pass" } else { "fail" };
        verdicts.push((name.trim().to_owned(), verdict.to_owned()));
    }
    assert!(verdicts.len() > 20, "{text}");
    Some(verdicts)
}

/// The proxy on three servers, with more settings of their pool.
fn proxy_over(peers: &[Peer], pool: &str) -> Ketch {
    let servers: String = peers
        .iter()
        .map(|peer| format!("      - {}\n", peer.target().address))
        .collect();
    Ketch::start(&format!(
        "listen: 127.0.0.1:0\nadmin: off\nclients: {{flush_all: true}}\npools:\n  main:\n{pool}    servers:\n{servers}"
    ))
}

#[test]
fn memccapable_passes_all_tests_on_the_bundled_cache() {
    let server = Peer::backend(&[]);
    for dialect in ["-a", "-b"] {
        let Some(verdicts) = verdicts(server.target().address, dialect) else {
            return;
        };
        for (name, verdict) in verdicts {
            // The tool wants a surplus word after `delete k` refused. memcached
            // ignores it since 1.6.40, and so does the cache.
            let changed = dialect == "-a" && name.starts_with("delete");
            assert!(verdict == "pass" || changed, "{dialect} {name}");
        }
    }
}

#[test]
fn memccapable_finds_the_proxy_as_capable_in_binary() {
    let Some(peers) = Peer::several(3) else {
        return;
    };
    let Some(direct) = verdicts(peers[0].target().address, "-b") else {
        return;
    };
    for pool in ["", "    server_protocol: meta\n"] {
        let ketch = proxy_over(&peers, pool);
        let through = verdicts(ketch.address(), "-b").unwrap();
        assert_eq!(through, direct, "{pool}");
    }
}

#[test]
fn memccapable_finds_the_proxy_as_capable_as_memcached() {
    let Some(peers) = Peer::several(3) else {
        return;
    };
    let ketch = proxy_over(&peers, "");
    let Some(direct) = verdicts(peers[0].target().address, "-a") else {
        return;
    };
    let through = verdicts(ketch.address(), "-a").unwrap();
    // The tool wants a surplus word after `delete k` refused. memcached ignores it
    // since 1.6.40, and so does the proxy whatever stands behind it.
    let old = peers[0].target().version < "1.6.40".parse().unwrap();
    for (through, direct) in through.iter().zip(&direct) {
        let changed = old && through.0.starts_with("delete");
        assert!(
            through == direct || changed,
            "{through:?}, memcached: {direct:?}"
        );
    }
    assert_eq!(through.len(), direct.len());
}
