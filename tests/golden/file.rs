//! A file of recorded picks.

use std::path::Path;

use ketch::router::Member;

/// One file: servers, and pools over them.
pub(crate) struct Recorded {
    pub(crate) members: Vec<Member>,
    /// Which of the servers were live.
    pub(crate) alive: Vec<bool>,
    pub(crate) pools: Vec<Pool>,
}

/// One pool: its options, and the servers that it picked.
pub(crate) struct Pool {
    pub(crate) options: Vec<(String, String)>,
    /// The servers of the first keys.
    pub(crate) first: Vec<usize>,
    /// The digests of the picks, a thousand each.
    pub(crate) blocks: Vec<u64>,
}

impl Recorded {
    /// Reads a file; README.md describes its lines.
    pub(crate) fn read(path: &Path) -> Recorded {
        let mut recorded = Recorded {
            members: Vec::new(),
            alive: Vec::new(),
            pools: Vec::new(),
        };
        for line in std::fs::read_to_string(path).unwrap().lines() {
            let Some((word, rest)) = line.split_once(' ') else {
                continue;
            };
            match word {
                "#" => {}
                "server" => recorded.server(rest),
                "pool" => recorded.pools.push(Pool {
                    options: rest.split(' ').map(option).collect(),
                    first: Vec::new(),
                    blocks: Vec::new(),
                }),
                "first" => {
                    let digits = rest.chars().map(digit);
                    recorded.pools.last_mut().unwrap().first.extend(digits);
                }
                "blocks" => {
                    let digests = rest
                        .split(' ')
                        .map(|hex| u64::from_str_radix(hex, 16).unwrap());
                    recorded.pools.last_mut().unwrap().blocks.extend(digests);
                }
                other => panic!("no such line: {other}"),
            }
        }
        for pool in &recorded.pools {
            assert_eq!(
                (pool.first.len(), pool.blocks.len()),
                (1_000, 100),
                "{}",
                path.display()
            );
        }
        recorded
    }

    /// `host:port:weight name`, or `/path:weight name`, as in nutcracker.yml.
    fn server(&mut self, line: &str) {
        let (line, dead) = match line.split_once(" # dead") {
            Some((line, _)) => (line, true),
            None => (line, false),
        };
        let (address, name) = match line.split_once(' ') {
            Some((address, name)) => (address, Some(name.to_owned())),
            None => (line, None),
        };
        let (address, weight) = address.rsplit_once(':').unwrap();
        let (host, port) = match address.starts_with('/') {
            true => (address, None),
            false => {
                let (host, port) = address.rsplit_once(':').unwrap();
                (host, Some(port.parse().unwrap()))
            }
        };
        self.members.push(Member {
            name,
            weight: weight.parse().unwrap(),
            ..Member::new(host, port)
        });
        self.alive.push(!dead);
    }
}

fn option(text: &str) -> (String, String) {
    let (option, value) = text.split_once('=').unwrap();
    (option.to_owned(), value.to_owned())
}

fn digit(digit: char) -> usize {
    "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
        .find(digit)
        .unwrap()
}
