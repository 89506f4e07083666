//! Tests of layouts made of files, and of what outlives a reload.

use std::cell::RefCell;
use std::sync::Arc;

use super::*;
use crate::pool::Server;
use crate::protocol::reply::Outcome;
use crate::protocol::request::Request;
use crate::protocol::serve::Serve;
use crate::proxy::{Layout, MissOnError, Route};

/// A cache that has nothing.
struct Nothing;

impl Serve for Nothing {
    fn serve(&self, _: &Request<'_>, _: &mut Vec<u8>) -> Outcome {
        Outcome::Miss
    }
}

/// Builds, and tells how large the caches are that were made for it.
fn build(yaml: &str, previous: Option<&Layout>) -> (Layout, Vec<usize>) {
    let made = RefCell::new(Vec::new());
    let make_cache = |memory_bytes: usize| {
        made.borrow_mut().push(memory_bytes);
        let cache: Arc<dyn Serve> = Arc::new(Nothing);
        Ok(cache)
    };
    let layout = good(yaml).build(previous, &make_cache).unwrap();
    (layout, made.into_inner())
}

fn server(layout: &Layout, pool: usize, place: usize) -> &Arc<Server> {
    &layout.pools[pool].members[place].server
}

/// The number of the listener at this address.
fn number(layout: &Layout, address: &str) -> Option<usize> {
    let is_it = |entry: &Option<crate::proxy::Entry>| {
        entry
            .as_ref()
            .is_some_and(|entry| entry.address.to_string() == address)
    };
    layout.entries.iter().position(is_it)
}

#[test]
fn a_layout_is_what_the_file_says() {
    let yaml = "\
listen:
  - {address: 127.0.0.1:1, route: b, value_bytes_max: 2KiB}
  - {address: 127.0.0.1:2, flush_all: true}
route: a
pools:
  a: {servers: [192.0.2.1:11211, 192.0.2.2:11211], timeout: 2s, miss_on_error: never}
  b: {servers: [embedded], embedded_memory: 2MiB}
clients: {in_flight_max: 7, value_bytes_max: 1KiB}
";
    let (layout, made) = build(yaml, None);
    assert_eq!(made, [2 << 20]);
    let names: Vec<_> = layout.pools.iter().map(|pool| &*pool.name).collect();
    assert_eq!(names, ["a", "b"]);
    assert_eq!(layout.pools[0].miss_on_error, MissOnError::Never);
    assert_eq!(&*server(&layout, 0, 1).name, "192.0.2.2:11211");
    assert_eq!(server(&layout, 0, 1).settings.timeout.as_secs(), 2);
    assert_eq!(&*server(&layout, 1, 0).name, "embedded-1");
    assert!(layout.pools[1].members[0].embedded.is_some());
    let entry = |number| layout.entry(number).unwrap();
    assert_eq!(
        (entry(0).route, entry(1).route),
        (Route::Pool(1), Route::Pool(0))
    );
    assert_eq!((entry(0).flush_all, entry(1).flush_all), (false, true));
    assert_eq!(entry(0).limits.value_bytes_max, 2 << 10);
    assert_eq!(entry(1).limits.value_bytes_max, 1 << 10);
    assert_eq!(layout.sessions.in_flight_max, 7);
}

#[test]
fn pools_with_the_same_server_share_it() {
    let yaml = "\
route: a
pools:
  a: {servers: [192.0.2.1:11211, 192.0.2.2:11211]}
  b: {servers: [192.0.2.2:11211, 192.0.2.2:11211:1 other]}
  c: {servers: [192.0.2.2:11211], timeout: 2s}
";
    let (layout, _) = build(yaml, None);
    assert!(Arc::ptr_eq(server(&layout, 0, 1), server(&layout, 1, 0)));
    assert!(!Arc::ptr_eq(server(&layout, 1, 0), server(&layout, 1, 1)));
    assert!(!Arc::ptr_eq(server(&layout, 1, 0), server(&layout, 2, 0)));
}

#[test]
fn a_reload_keeps_servers_that_are_the_same() {
    let before = "pools: {a: {servers: ['h:1:1 one', 'h:2:1 two', 'h:3:1 three']}}";
    let (before, _) = build(before, None);
    // Another pool name, another order, another weight: the same servers.
    let after = "pools: {b: {servers: ['h:3:5 three', 'h:2:1 zwei', 'h:4:1 one', 'h:1:1 one2']}}";
    let (after, _) = build(after, Some(&before));
    assert!(Arc::ptr_eq(server(&after, 0, 0), server(&before, 0, 2)));
    for (place, old) in [(1, 1), (2, 0), (3, 0)] {
        assert!(!Arc::ptr_eq(
            server(&after, 0, place),
            server(&before, 0, old)
        ));
    }
    let slower = "pools: {b: {servers: ['h:3:5 three'], timeout: 2s}}";
    let (slower, _) = build(slower, Some(&after));
    assert!(!Arc::ptr_eq(server(&slower, 0, 0), server(&after, 0, 0)));
}

#[test]
fn a_reload_keeps_caches_of_the_same_pool_name_and_memory() {
    let yaml = |memory: &str| {
        format!(
            "route: a\npools:\n  a: {{servers: [embedded, embedded], embedded_memory: {memory}}}\n  \
             b: {{servers: [embedded]}}\n"
        )
    };
    let (before, made) = build(&yaml("2MiB"), None);
    assert_eq!(made, [2 << 20, 2 << 20, 64 << 20]);
    let cache = |layout: &Layout, pool: usize, place: usize| {
        let member = &layout.pools[pool].members[place];
        Arc::clone(&member.embedded.as_ref().unwrap().serve)
    };
    assert!(!Arc::ptr_eq(&cache(&before, 0, 0), &cache(&before, 1, 0)));
    let (same, made) = build(&yaml("2MiB"), Some(&before));
    assert_eq!(made, [0; 0]);
    for (pool, place) in [(0, 0), (0, 1), (1, 0)] {
        let (old, new) = (cache(&before, pool, place), cache(&same, pool, place));
        assert!(Arc::ptr_eq(&old, &new));
        assert!(Arc::ptr_eq(
            server(&before, pool, place),
            server(&same, pool, place)
        ));
    }
    let (_, made) = build(&yaml("3MiB"), Some(&before));
    assert_eq!(made, [3 << 20, 3 << 20]);
}

#[test]
fn a_listener_keeps_its_number() {
    let yaml = |listen: &str| format!("listen: {listen}\npools: {{main: {{servers: [embedded]}}}}");
    let (first, _) = build(&yaml("[/a, /b, 127.0.0.1:0, 127.0.0.1:0]"), None);
    assert_eq!(first.entries.len(), 4);
    let (second, _) = build(&yaml("[127.0.0.1:0, /c, /b]"), Some(&first));
    assert_eq!(number(&second, "unix:/b"), Some(1));
    assert_eq!(number(&second, "127.0.0.1:0"), Some(2));
    assert_eq!(number(&second, "unix:/c"), Some(4));
    assert!(second.entry(0).is_none() && second.entry(3).is_none());
    // Clients of a number whose listener is gone must not meet another's rules,
    // but they may meet those of its return.
    let (third, _) = build(&yaml("[/d, /a]"), Some(&second));
    assert_eq!(number(&third, "unix:/a"), Some(0));
    assert_eq!(number(&third, "unix:/d"), Some(5));
}

#[test]
fn a_cache_that_cannot_be_made_is_an_error() {
    let yaml = "pools: {main: {servers: ['h:1', embedded]}}";
    let no_cache = |_| Err("no memory".into());
    let error = good(yaml).build(None, &no_cache).unwrap_err();
    assert_eq!(
        error.to_string(),
        "pools.main: no cache for server 'embedded-1'"
    );
    let source = std::error::Error::source(&error).unwrap();
    assert_eq!(source.to_string(), "no memory");
}
