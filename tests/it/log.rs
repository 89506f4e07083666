//! The log, and those who read it badly.

use rustix::process::Signal;

use crate::client::Client;
use crate::ketch::{Ketch, Reader};

const CONFIG: &str = "listen: 127.0.0.1:0\nadmin: 127.0.0.1:0\nwatch: false\npools:\n  main:\n    servers: [embedded]\n";

/// A configuration of which every line is wrong, and is told.
fn bad() -> String {
    let wrong = (0..10).map(|number| format!("no_such_key_{number}: 1\n"));
    std::iter::once(CONFIG.to_owned()).chain(wrong).collect()
}

fn serves(ketch: &Ketch) {
    let mut client = Client::connect(ketch.address());
    assert_eq!(client.set("key", b"value"), "STORED");
}

#[test]
fn a_log_that_nobody_takes_ends_nothing() {
    let mut ketch = Ketch::start(CONFIG);
    ketch.set_reader(Reader::Leaves);
    for _ in 0..3 {
        assert_eq!(ketch.reload(&bad()).0, 409);
        serves(&ketch);
    }
    ketch.signal(Signal::TERM);
    assert_eq!(ketch.wait(), Some(0));
}

#[test]
fn a_log_that_is_read_slowly_delays_nobody() {
    let mut ketch = Ketch::start(&format!("log: trace\n{CONFIG}"));
    ketch.set_reader(Reader::Waits);
    while ketch.metric("ketch_log_lines_lost_total", "") == 0.0 {
        (0..100).for_each(|_| serves(&ketch));
    }
    ketch.signal(Signal::TERM);
    assert_eq!(ketch.wait_unheard(), Some(0));
}
