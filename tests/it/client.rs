//! A client that believes nothing: every answer must be one to its question.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// How long an answer may take before a test fails.
const ANSWER_MAX: Duration = Duration::from_secs(20);

/// What came of a `get`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Got {
    /// The value.
    Hit(Vec<u8>),
    /// Nothing there.
    Miss,
    /// A line that says why not.
    Error(String),
}

/// A connection. One descriptor: there may be ten thousand of them.
#[derive(Debug)]
pub(crate) struct Client {
    stream: BufReader<TcpStream>,
}

impl Client {
    /// Connects.
    pub(crate) fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(ANSWER_MAX)).unwrap();
        Self {
            stream: BufReader::new(stream),
        }
    }

    /// Waits for the other side to close; fails if it says anything before.
    pub(crate) fn expect_end(&mut self) {
        let mut rest = Vec::new();
        self.stream.read_to_end(&mut rest).unwrap();
        assert_eq!(String::from_utf8_lossy(&rest), "");
    }

    /// A second handle for sending, for another thread.
    pub(crate) fn sender(&self) -> TcpStream {
        self.stream.get_ref().try_clone().unwrap()
    }

    /// Sends bytes.
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.get_mut().write_all(bytes.as_ref()).unwrap();
    }

    /// Reads a line, without its end.
    pub(crate) fn line(&mut self) -> String {
        let mut line = Vec::new();
        self.stream.read_until(b'\n', &mut line).unwrap();
        let line = String::from_utf8_lossy(&line);
        assert!(line.ends_with("\r\n"), "no line: {line:?}");
        line.trim_end_matches(['\r', '\n']).to_owned()
    }

    /// Stores a value.
    pub(crate) fn set(&mut self, key: &str, value: &[u8]) -> String {
        self.send(
            [
                format!("set {key} 0 0 {}\r\n", value.len()).as_bytes(),
                value,
                b"\r\n",
            ]
            .concat(),
        );
        self.line()
    }

    /// Retrieves a value.
    pub(crate) fn get(&mut self, key: &str) -> Got {
        self.send(format!("get {key}\r\n"));
        self.got(key)
    }

    /// Reads the answer to a `get` of this key, and fails if it is that to
    /// another.
    pub(crate) fn got(&mut self, key: &str) -> Got {
        match self.value() {
            Err(line) if line == "END" => Got::Miss,
            Err(line) => Got::Error(line),
            Ok((named, value)) => {
                assert_eq!(named, key, "the answer to another question");
                assert_eq!(self.line(), "END");
                Got::Hit(value)
            }
        }
    }

    /// Reads the answer to a retrieval of several keys: what was found, and the
    /// line that ends it.
    pub(crate) fn got_many(&mut self) -> (Vec<(String, Vec<u8>)>, String) {
        let mut found = Vec::new();
        loop {
            match self.value() {
                Ok(item) => found.push(item),
                Err(line) => return (found, line),
            }
        }
    }

    /// Reads so many bytes and a line end.
    pub(crate) fn block(&mut self, length: usize) -> Vec<u8> {
        let mut block = vec![0; length + 2];
        self.stream.read_exact(&mut block).unwrap();
        assert!(block.ends_with(b"\r\n"), "no line end after {length} bytes");
        block.truncate(length);
        block
    }

    /// Reads a value with its key, or a line that is none.
    fn value(&mut self) -> Result<(String, Vec<u8>), String> {
        let line = self.line();
        let mut words = line.split(' ');
        if words.next() != Some("VALUE") {
            return Err(line);
        }
        let key = words.next().unwrap().to_owned();
        let length: usize = words.nth(1).unwrap().parse().unwrap();
        Ok((key, self.block(length)))
    }
}
