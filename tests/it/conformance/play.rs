//! Playing one exchange on sockets.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use super::file::Resolved;
use super::text::{Match, Scope, Text, show};
use crate::now;
use crate::target::Target;

/// How long an answer may take. It takes microseconds; the rest is for a
/// machine that is busy with other things.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// How long an `until` step goes on asking.
const UNTIL_MAX: Duration = Duration::from_secs(10);
/// The pause between two questions of an `until` step.
const ASK_AGAIN: Duration = Duration::from_millis(10);
/// Byte by byte only at the two ends of a send: the middle of a long value
/// goes in one write.
const SINGLE_BYTES_MAX: usize = 4096;

/// What proves a connection in step: a question and its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sentinel {
    question: &'static [u8],
    answer: &'static [u8],
}

impl Sentinel {
    /// In text.
    pub(super) const TEXT: Self = Self {
        question: b"mn\r\n",
        answer: b"MN\r\n",
    };
    /// In binary: a `noop` with an opaque that no exchange has.
    pub(super) const BINARY: Self = Self {
        question: b"\x80\x0a\0\0\0\0\0\0\0\0\0\0SENT\0\0\0\0\0\0\0\0",
        answer: b"\x81\x0a\0\0\0\0\0\0\0\0\0\0SENT\0\0\0\0\0\0\0\0",
    };
}

/// How the bytes of a step are cut into writes.
#[derive(Debug, Clone, Copy)]
pub(super) enum Cuts {
    Whole,
    Bytes,
    /// At places drawn from this seed.
    Random(u64),
}

/// What went wrong in an exchange.
#[derive(Debug)]
pub(super) struct Failure {
    /// Counts from 1; the sentinel is the step after the last.
    pub(super) step: usize,
    pub(super) why: String,
    pub(super) sent: String,
    pub(super) expected: String,
    pub(super) got: String,
}

impl Failure {
    /// Whether this is the same failure, but for the keys.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        (self.step, &self.why) == (other.step, &other.why)
    }
}

/// One exchange being played.
pub(super) struct Play<'a> {
    target: &'a Target,
    cuts: Cuts,
    /// Steps of which nothing needs to be known are sent together.
    pipelined: bool,
    sentinel: Sentinel,
    scope: Scope,
    conns: BTreeMap<u32, Conn>,
}

impl<'a> Play<'a> {
    pub(super) fn new(
        target: &'a Target,
        cuts: Cuts,
        pipelined: bool,
        sentinel: Sentinel,
        scope: Scope,
    ) -> Self {
        Self {
            target,
            cuts,
            pipelined,
            sentinel,
            scope,
            conns: BTreeMap::new(),
        }
    }

    /// Gives the exchange a connection on which others were played before it.
    pub(super) fn lend(&mut self, conn: Conn) {
        self.conns.insert(1, conn);
    }

    /// Plays the steps, then proves every open connection in step. The answer
    /// is the first connection, if it is still open.
    pub(super) fn run(mut self, steps: &[Resolved<'_>]) -> Result<Option<Conn>, Failure> {
        let mut sent = 0;
        for (at, step) in steps.iter().enumerate() {
            let fail = |why: String, got: &[u8], scope: &Scope| Failure {
                step: at + 1,
                why,
                sent: step.send.show(scope),
                expected: step.expect.show(scope) + if step.closes { " then close" } else { "" },
                got: show(got),
            };
            if sent <= at {
                sent = at + self.together(&steps[at..]);
                if let Err(why) = self.send(&steps[at..sent]) {
                    return Err(fail(why, &[], &self.scope));
                }
            }
            let conn = self.conns.get_mut(&step.conn);
            let Some(conn) = conn else {
                return Err(fail("the connection was closed".into(), &[], &self.scope));
            };
            let result = if step.until {
                conn.ask_until(step, self.sentinel, &self.scope)
            } else {
                conn.expect(step.expect, &mut self.scope)
            };
            if let Err(why) = result {
                return Err(fail(why, &conn.inbox, &self.scope));
            }
            if step.closes {
                if let Err(why) = conn.expect_close() {
                    return Err(fail(why, &conn.inbox, &self.scope));
                }
                self.conns.remove(&step.conn);
            }
        }
        for conn in self.conns.values_mut() {
            if let Err(why) = conn.prove_in_step(self.sentinel) {
                return Err(Failure {
                    step: steps.len() + 1,
                    why,
                    sent: show(self.sentinel.question),
                    expected: show(self.sentinel.answer),
                    got: show(&conn.inbox),
                });
            }
        }
        Ok(self.conns.remove(&1))
    }

    /// How many of the steps, one at least, are sent in one go.
    fn together(&self, steps: &[Resolved<'_>]) -> usize {
        if !self.pipelined || steps[0].until {
            return 1;
        }
        1 + steps[1..]
            .iter()
            .take_while(|step| step.conn == steps[0].conn && !step.until)
            .take_while(|step| !step.send.needs_saved())
            .count()
    }

    fn send(&mut self, steps: &[Resolved<'_>]) -> Result<(), String> {
        let mut bytes = Vec::new();
        for step in steps {
            bytes.extend(step.send.render(&self.scope)?);
        }
        let conn = match self.conns.entry(steps[0].conn) {
            std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::btree_map::Entry::Vacant(entry) => {
                entry.insert(Conn::open(self.target).map_err(|error| error.to_string())?)
            }
        };
        if steps[0].until {
            // It sends for itself, as often as it takes.
            return Ok(());
        }
        conn.send(&bytes, &mut self.cuts)
            .map_err(|error| format!("cannot send: {error}"))
    }
}

/// A client connection, with the bytes that came and were not yet looked at.
#[derive(Debug)]
pub(super) struct Conn {
    stream: TcpStream,
    inbox: Vec<u8>,
}

impl Conn {
    pub(super) fn open(target: &Target) -> io::Result<Self> {
        let stream = TcpStream::connect(target.address)?;
        // Without this the kernel would join the bytes which we cut.
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(ANSWER_MAX))?;
        Ok(Self {
            stream,
            inbox: Vec::new(),
        })
    }

    fn send(&mut self, bytes: &[u8], cuts: &mut Cuts) -> io::Result<()> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let at = bytes.len() - rest.len();
            let len = cuts.next(at, rest.len());
            let (chunk, after) = rest.split_at(len);
            match self.stream.write_all(chunk) {
                Ok(()) => rest = after,
                // The server has closed. What it said before comes to light
                // when that is read, and so does the close.
                Err(error) if is_close(&error) => return Ok(()),
                Err(error) => return Err(error),
            }
            if len < bytes.len() {
                // A chance for the server to read what there is.
                thread::yield_now();
            }
        }
        Ok(())
    }

    /// Waits for exactly this, and takes it out of the inbox.
    fn expect(&mut self, text: &Text, scope: &mut Scope) -> Result<(), String> {
        let deadline = now() + ANSWER_MAX;
        loop {
            match text.hold(&self.inbox, scope)? {
                Match::Whole { len, saved } => {
                    self.inbox.drain(..len);
                    scope.saved.extend(saved);
                    return Ok(());
                }
                Match::Differs(at) => return Err(format!("another answer, from byte {at}")),
                Match::Part => {}
            }
            let left = deadline.saturating_duration_since(now());
            if self.read(left)? == 0 {
                return Err("the server closed the connection".into());
            }
        }
    }

    fn expect_close(&mut self) -> Result<(), String> {
        if self.inbox.is_empty() && self.read(ANSWER_MAX)? == 0 {
            return Ok(());
        }
        Err("more bytes instead of a close".into())
    }

    /// A sentinel shows that nothing is left over, and that the server takes
    /// the next bytes for a request.
    fn prove_in_step(&mut self, sentinel: Sentinel) -> Result<(), String> {
        let _ = self.stream.write_all(sentinel.question);
        let deadline = now() + ANSWER_MAX;
        while self.inbox.len() < sentinel.answer.len() {
            if !sentinel.answer.starts_with(&self.inbox) {
                break;
            }
            let left = deadline.saturating_duration_since(now());
            if self.read(left)? == 0 {
                return Err("the server closed the connection".into());
            }
        }
        if self.inbox == sentinel.answer {
            self.inbox.clear();
            return Ok(());
        }
        Err("the connection is out of step, or something is left over".into())
    }

    /// Asks again and again until the answer is the expected one. A sentinel
    /// behind each question shows where an answer ends.
    fn ask_until(
        &mut self,
        step: &Resolved<'_>,
        sentinel: Sentinel,
        scope: &Scope,
    ) -> Result<(), String> {
        let mut question = step.send.render(scope)?;
        question.extend_from_slice(sentinel.question);
        let deadline = now() + UNTIL_MAX;
        loop {
            self.send(&question, &mut Cuts::Whole)
                .map_err(|error| format!("cannot send: {error}"))?;
            while !self.inbox.ends_with(sentinel.answer) {
                if self.read(ANSWER_MAX)? == 0 {
                    return Err("the server closed the connection".into());
                }
            }
            let answer = self.inbox.len() - sentinel.answer.len();
            if let Match::Whole { len, .. } = step.expect.hold(&self.inbox[..answer], scope)?
                && len == answer
            {
                self.inbox.clear();
                return Ok(());
            }
            if now() > deadline {
                return Err(format!("not within {UNTIL_MAX:?}"));
            }
            self.inbox.clear();
            thread::sleep(ASK_AGAIN);
        }
    }

    /// Reads what there is, waiting for it no longer than `wait`. The answer
    /// 0 means that the server has closed.
    fn read(&mut self, wait: Duration) -> Result<usize, String> {
        // A time-out of zero would mean none.
        let wait = wait.max(Duration::from_millis(1));
        let mut buffer = [0; 65536];
        let result = self
            .stream
            .set_read_timeout(Some(wait))
            .and_then(|()| self.stream.read(&mut buffer));
        match result {
            Ok(len) => {
                self.inbox.extend_from_slice(&buffer[..len]);
                Ok(len)
            }
            Err(error) if is_close(&error) => Ok(0),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                Err("no answer in time".into())
            }
            Err(error) => Err(error.to_string()),
        }
    }
}

/// A close with bytes that the server had not read arrives as a reset.
fn is_close(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::ConnectionAborted
    )
}

impl Cuts {
    /// How many of the `left` bytes the next write takes, `at` bytes into the
    /// send.
    fn next(&mut self, at: usize, left: usize) -> usize {
        match self {
            Self::Whole => left,
            Self::Bytes if at < SINGLE_BYTES_MAX || left <= SINGLE_BYTES_MAX => 1,
            Self::Bytes => left - SINGLE_BYTES_MAX,
            Self::Random(state) => {
                // Short and long pieces are equally likely: first the number
                // of bits is drawn, then the length.
                let bits = xorshift(state) % 16;
                let length = 1 + xorshift(state) % (1 << bits);
                usize::try_from(length).map_or(left, |length| length.min(left))
            }
        }
    }
}

/// A small generator; where the cuts fall needs no better one.
fn xorshift(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::target::{Kind, Version};

    /// Plays one step on a server that says `answer` to the first bytes it
    /// reads, and `MN` to the rest.
    fn failure(answer: &'static [u8], expect: &str) -> Option<String> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let target = Target {
            name: "a server of few words".into(),
            kind: Kind::Memcached,
            version: Version::NEWEST,
            behind: None,
            address: listener.local_addr().unwrap(),
        };
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut buffer = [0; 1024];
            let mut answer = answer;
            while stream.read(&mut buffer).is_ok_and(|len| len > 0) {
                stream.write_all(answer).unwrap();
                answer = Sentinel::TEXT.answer;
            }
        });
        let step = Resolved {
            conn: 1,
            send: &Text::parse("get {k}\\r\\n").unwrap(),
            expect: &Text::parse(expect).unwrap(),
            until: false,
            closes: false,
        };
        let play = Play::new(
            &target,
            Cuts::Whole,
            false,
            Sentinel::TEXT,
            Scope::default(),
        );
        let failure = play.run(&[step]).err();
        server.join().unwrap();
        failure.map(|failure| format!("{}: {}", failure.step, failure.why))
    }

    #[test]
    fn a_failure_says_where_and_why() {
        let out_of_step = "2: the connection is out of step, or something is left over";
        assert_eq!(failure(b"END\r\n", "END\\r\\n"), None);
        assert_eq!(
            failure(b"ENQ\r\n", "END\\r\\n").as_deref(),
            Some("1: another answer, from byte 2")
        );
        assert_eq!(
            failure(b"END\r\n\r\n", "END\\r\\n").as_deref(),
            Some(out_of_step)
        );
        assert_eq!(failure(b"END\r\n", "").as_deref(), Some(out_of_step));
    }

    #[test]
    fn cuts_add_up() {
        for cuts in [Cuts::Whole, Cuts::Bytes, Cuts::Random(7)] {
            for len in [1, 2, SINGLE_BYTES_MAX, 2 * SINGLE_BYTES_MAX + 5] {
                let mut cuts = cuts;
                let mut at = 0;
                while at < len {
                    let next = cuts.next(at, len - at);
                    assert!((1..=len - at).contains(&next), "{cuts:?} {at} {next}");
                    at += next;
                }
                assert_eq!(at, len);
            }
        }
        assert_eq!(Cuts::Bytes.next(0, 100), 1);
    }
}
