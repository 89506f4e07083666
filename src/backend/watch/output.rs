//! The lines that one watcher is to get.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, Write};

use super::event::Kinds;

/// Room that is kept for the line that tells of lines left out.
const SKIPPED_BYTES: usize = 32;

/// One watcher, as the thread that writes to it knows it.
pub(super) struct Output {
    /// Its seat.
    pub(super) number: u64,
    /// What it wants to know.
    kinds: Kinds,
    /// It wants to know of what comes after this event.
    after: u64,
    to: Box<dyn Write + Send>,
    /// What its socket has not taken yet.
    waiting: VecDeque<u8>,
    /// Bytes of them there may be.
    bytes_max: usize,
    /// The socket takes nothing more in this turn.
    full: bool,
    /// Lines left out since one was not.
    skipped: u64,
    broken: bool,
}

impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Output")
            .field("number", &self.number)
            .field("waiting", &self.waiting.len())
            .finish_non_exhaustive()
    }
}

/// What has become of lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Told {
    /// Lines handed to watchers.
    pub(super) sent: u64,
    /// Lines that they did not get because there was no room.
    pub(super) skipped: u64,
}

impl Output {
    /// A watcher that is told `OK` first.
    pub(super) fn new(
        number: u64,
        kinds: Kinds,
        after: u64,
        bytes_max: usize,
        to: Box<dyn Write + Send>,
    ) -> Self {
        Self {
            number,
            kinds,
            after,
            to,
            waiting: VecDeque::from(b"OK\r\n".to_vec()),
            bytes_max,
            full: false,
            skipped: 0,
            broken: false,
        }
    }

    /// Whether an event is for it.
    pub(super) fn wants(&self, kind: Kinds, gid: u64) -> bool {
        self.kinds.meet(kind) && gid > self.after
    }

    /// Whether its socket has broken.
    pub(super) fn is_broken(&self) -> bool {
        self.broken
    }

    /// Queues a line, or counts it as left out.
    pub(super) fn push(&mut self, line: &[u8], told: &mut Told) {
        if !self.has_room(line.len()) && !self.full {
            self.flush();
        }
        if !self.has_room(line.len()) {
            self.skipped += 1;
            told.skipped += 1;
            return;
        }
        if self.skipped > 0 {
            let skipped = format!("skipped={}\n", self.skipped);
            self.waiting.extend(skipped.as_bytes());
            self.skipped = 0;
        }
        self.waiting.extend(line);
        told.sent += 1;
    }

    fn has_room(&self, len: usize) -> bool {
        self.waiting.len() + len + SKIPPED_BYTES <= self.bytes_max
    }

    /// Tries its socket once more. Returns whether that has taken anything.
    pub(super) fn turn(&mut self) -> bool {
        self.full = false;
        let before = self.waiting.len();
        self.flush();
        self.waiting.len() < before
    }

    /// Writes until nothing waits or the socket takes nothing more.
    fn flush(&mut self) {
        while !self.full && !self.waiting.is_empty() {
            let (first, _) = self.waiting.as_slices();
            match self.to.write(first) {
                Ok(0) => (self.broken, self.full) = (true, true),
                Ok(count) => drop(self.waiting.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.broken = error.kind() != io::ErrorKind::WouldBlock;
                    self.full = true;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// A socket that takes so many bytes at a time, until it is full.
    #[derive(Clone, Default)]
    struct Socket(Arc<Mutex<State>>);

    #[derive(Default)]
    struct State {
        taken: Vec<u8>,
        /// Bytes that it takes before it is full.
        room: usize,
        broken: bool,
    }

    impl Socket {
        fn with_room(room: usize) -> Self {
            let socket = Self::default();
            socket.0.lock().unwrap().room = room;
            socket
        }

        fn taken(&self) -> String {
            let state = self.0.lock().unwrap();
            String::from_utf8(state.taken.clone()).unwrap()
        }
    }

    impl Write for Socket {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let mut state = self.0.lock().unwrap();
            if state.broken {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            let count = bytes.len().min(state.room).min(7);
            if count == 0 {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            state.room -= count;
            state.taken.extend_from_slice(&bytes[..count]);
            Ok(count)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn output(socket: &Socket, bytes_max: usize) -> Output {
        Output::new(1, Kinds::FETCHERS, 10, bytes_max, Box::new(socket.clone()))
    }

    #[test]
    fn lines_follow_the_answer() {
        let socket = Socket::with_room(1000);
        let mut output = output(&socket, 100);
        let mut told = Told::default();
        output.push(b"one\n", &mut told);
        assert!(output.turn());
        assert_eq!(socket.taken(), "OK\r\none\n");
        assert!(!output.turn() && !output.is_broken());
        assert_eq!((told.sent, told.skipped), (1, 0));
    }

    #[test]
    fn what_was_left_out_is_told_before_the_next_line() {
        let socket = Socket::with_room(0);
        let mut output = output(&socket, 50);
        let mut told = Told::default();
        for line in [b"first line\n", b"other line\n", b"third line\n"] {
            output.push(line, &mut told);
        }
        assert_eq!((told.sent, told.skipped), (1, 2));
        socket.0.lock().unwrap().room = 1000;
        assert!(output.turn());
        output.push(b"fourth\n", &mut told);
        output.turn();
        assert_eq!(socket.taken(), "OK\r\nfirst line\nskipped=2\nfourth\n");
        assert_eq!((told.sent, told.skipped), (2, 2));
    }

    #[test]
    fn a_line_is_written_to_the_end_before_another() {
        let socket = Socket::with_room(9);
        let mut output = output(&socket, 1000);
        output.push(b"a long line\n", &mut Told::default());
        output.turn();
        assert_eq!(socket.taken(), "OK\r\na lon");
        socket.0.lock().unwrap().room = 1000;
        output.push(b"another\n", &mut Told::default());
        output.turn();
        assert_eq!(socket.taken(), "OK\r\na long line\nanother\n");
    }

    #[test]
    fn a_socket_that_keeps_up_misses_nothing() {
        let socket = Socket::with_room(10_000);
        let mut output = output(&socket, 60);
        let mut told = Told::default();
        for _ in 0..100 {
            output.push(b"a line of twenty by\n", &mut told);
        }
        output.turn();
        assert_eq!((told.sent, told.skipped), (100, 0));
        assert_eq!(socket.taken().lines().count(), 101);
    }

    #[test]
    fn a_line_that_never_fits_keeps_nobody_waiting() {
        let socket = Socket::with_room(1000);
        let mut output = output(&socket, 40);
        let mut told = Told::default();
        output.push(&[b'x'; 100], &mut told);
        assert_eq!((told.sent, told.skipped), (0, 1));
    }

    #[test]
    fn a_socket_that_has_broken_is_noticed() {
        let socket = Socket::default();
        socket.0.lock().unwrap().broken = true;
        let mut output = output(&socket, 40);
        output.turn();
        assert!(output.is_broken());
    }

    #[test]
    fn only_what_comes_after_it_and_is_wanted_is_for_a_watcher() {
        let output = output(&Socket::default(), 40);
        assert!(output.wants(Kinds::FETCHERS, 11));
        assert!(!output.wants(Kinds::FETCHERS, 10));
        assert!(!output.wants(Kinds::MUTATIONS, 11));
    }
}
