//! The questions of check.py, asked by the `memcache` crate in both its modes:
//! `ketch-client-check ascii|binary HOST:PORT`.

use std::collections::HashMap;
use std::thread::sleep;
use std::time::{Duration, Instant};

use memcache::{Client, MemcacheError};

const MEGABYTE: usize = 1 << 20;

fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while !condition() {
        assert!(Instant::now() < deadline, "{what}: not in time");
        sleep(Duration::from_millis(50));
    }
}

fn main() -> Result<(), MemcacheError> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, mode, address] = arguments.as_slice() else {
        panic!("usage: ketch-client-check ascii|binary HOST:PORT");
    };
    let connect = || {
        Client::connect(format!(
            "memcache://{address}?timeout=5&tcp_nodelay=true&protocol={mode}"
        ))
    };
    let client = connect()?;
    let prefix = format!("rust:{mode}:{}", std::process::id());
    let key = format!("{prefix}:one");
    let get = |client: &Client, key: &str| client.get::<String>(key);

    assert_eq!(get(&client, &key)?, None);
    client.set(&key, "value", 0)?;
    assert_eq!(get(&client, &key)?.as_deref(), Some("value"));
    // In text the crate takes NOT_STORED for success: the value tells what happened.
    let told = mode == "binary";
    assert!(client.add(&key, "other", 0).is_err() || !told);
    assert_eq!(get(&client, &key)?.as_deref(), Some("value"));
    client.replace(&key, "second", 0)?;
    assert_eq!(get(&client, &key)?.as_deref(), Some("second"));
    let none = format!("{prefix}:none");
    assert!(client.replace(&none, "x", 0).is_err() || !told);
    assert_eq!(get(&client, &none)?, None);
    println!("  set, get, add, replace");

    let many: Vec<String> = (0..200).map(|n| format!("{prefix}:many:{n}")).collect();
    for name in &many {
        client.set(name, name.as_str(), 0)?;
    }
    let missing: Vec<String> = (0..50).map(|n| format!("{prefix}:nothing:{n}")).collect();
    let asked: Vec<&str> = many.iter().chain(&missing).map(String::as_str).collect();
    let got: HashMap<String, String> = client.gets(&asked)?;
    assert_eq!(got.len(), many.len());
    assert!(got.iter().all(|(name, value)| name == value));
    println!("  multi-get over all servers");

    let found: HashMap<String, (Vec<u8>, u32, Option<u64>)> = client.gets(&[key.as_str()])?;
    let version = found[&key].2.expect("a version");
    assert!(client.cas(&key, "third", 0, version)?);
    assert!(!client.cas(&key, "fourth", 0, version)?);
    assert_eq!(get(&client, &key)?.as_deref(), Some("third"));
    println!("  cas");

    let number = format!("{prefix}:number");
    client.set(&number, 10, 0)?;
    assert_eq!(client.increment(&number, 5)?, 15);
    assert_eq!(client.decrement(&number, 3)?, 12);
    println!("  incr, decr");

    client.append(&key, ">")?;
    client.prepend(&key, "<")?;
    assert_eq!(get(&client, &key)?.as_deref(), Some("<third>"));
    println!("  append, prepend");

    assert!(client.touch(&key, 100)?);
    assert!(!client.touch(&format!("{prefix}:none"), 100)?);
    assert!(client.touch(&key, 1)?);
    wait_until("a touched item expires", || get(&client, &key).unwrap().is_none());
    println!("  touch");

    client.set(&key, "value", 0)?;
    assert!(client.delete(&key)?);
    assert!(!client.delete(&key)?);
    println!("  delete");

    client.set(&key, "soon gone", 1)?;
    wait_until("an item expires", || get(&client, &key).unwrap().is_none());
    println!("  expiry");

    let large = "x".repeat(MEGABYTE - 200);
    client.set(&format!("{prefix}:large"), large.as_str(), 0)?;
    assert_eq!(get(&client, &format!("{prefix}:large"))?, Some(large));
    println!("  a value of 1 MiB");

    client.set(&key, "before", 0)?;
    let too_large = "x".repeat(2 * MEGABYTE);
    assert!(client.set(&format!("{prefix}:too-large"), too_large.as_str(), 0).is_err());
    assert_eq!(get(&client, &key)?.as_deref(), Some("before"));
    println!("  a value over the limit");

    drop(client);
    assert_eq!(get(&connect()?, &key)?.as_deref(), Some("before"));
    println!("  reconnect");
    Ok(())
}
