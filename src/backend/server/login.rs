//! Logging in (`-Y`).

use memchr::memchr;

use super::talk::{Mode, Reading, Step, Talk};
use super::users::LOGIN_BYTES_MAX;
use crate::protocol::number::read_u32;
use crate::protocol::request::Words;

impl Talk {
    /// Takes what looks like a `set`; its value is `name password`.
    pub(super) fn take_login(&mut self, rest: &[u8], reading: &mut Reading<'_, '_>) -> Step {
        /// Shorter is no login at all, and memcached closes.
        const LINE_BYTES_MIN: usize = 6;
        /// Longer is rubbish.
        const LINE_BYTES_MAX: usize = 2048;
        let Some(end) = memchr(b'\n', rest) else {
            if rest.len() > LINE_BYTES_MAX {
                return Step::Close;
            }
            let need = rest.len() + 1;
            return Step::More { need, scanned: 0 };
        };
        if end < LINE_BYTES_MIN {
            return Step::Close;
        }
        let line = rest.get(..end).and_then(|line| line.strip_suffix(b"\r"));
        let Some(line) = line else {
            return Step::Close;
        };
        let mut words = Words::new(line);
        let is_set = words.next() == Some(b"set");
        let length = words.nth(3).and_then(read_u32);
        let length = length.and_then(|length| usize::try_from(length).ok());
        let Some(length) = length.filter(|_| is_set) else {
            reading.say("CLIENT_ERROR unauthenticated");
            return Step::Used(end + 1);
        };
        if length > LOGIN_BYTES_MAX {
            reading.say("CLIENT_ERROR auth token too long");
            return Step::Used(end + 1);
        }
        let total = end + 1 + length + 2;
        let Some(block) = rest.get(end + 1..total) else {
            return Step::More {
                need: total,
                scanned: 0,
            };
        };
        if reading.login(block) {
            self.mode = Mode::Text;
        }
        Step::Used(total)
    }
}

impl Reading<'_, '_> {
    /// Checks `name password` and a line end.
    fn login(&mut self, block: &[u8]) -> bool {
        let Some(login) = block.strip_suffix(b"\r\n") else {
            self.say("CLIENT_ERROR bad command line termination");
            return false;
        };
        let blank = memchr(b' ', login).and_then(|blank| login.split_at_checked(blank));
        let Some((name, [_, password @ ..])) = blank else {
            self.say("CLIENT_ERROR bad authentication token format");
            return false;
        };
        let stats = &self.session.worker.stats;
        stats.logins.increment();
        let users = self.shared.users();
        let known = users.is_some_and(|users| users.know(name, password));
        if known {
            self.say("STORED");
        } else {
            stats.login_failures.increment();
            self.say("CLIENT_ERROR authentication failure");
        }
        known
    }
}
