//! Running the bundled cache.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};

use rustix::process::Signal;

use super::{DEADLINE, Running, ketch};

/// The cache, telling where it listens.
fn start(args: &[&str]) -> Running {
    Running::start(ketch(&["backend", "-v", "-m", "8", "-t", "1", "-u", "root"]).args(args))
}

/// Whether the cache answers there.
fn answers(address: SocketAddr) -> bool {
    let Ok(stream) = TcpStream::connect(address) else {
        return false;
    };
    is_served(stream)
}

fn is_served(mut stream: TcpStream) -> bool {
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut answer = [0; 4];
    stream.write_all(b"mn\r\n").unwrap();
    stream.read_exact(&mut answer).is_ok() && &answer == b"MN\r\n"
}

#[test]
fn without_an_address_or_with_a_star_all_are_listened_on() {
    let has_ipv6 = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok();
    for args in [&["-p", "-1"][..], &["-p", "-1", "-l", "*"]] {
        let cache = start(args);
        let port = cache.port();
        if has_ipv6 {
            // A port that is chosen is that of all.
            assert_eq!(cache.port(), port);
            assert!(answers((Ipv6Addr::LOCALHOST, port).into()));
        }
        assert!(answers((Ipv4Addr::LOCALHOST, port).into()));
        assert_eq!(cache.end(Signal::TERM), 0);
    }
}
