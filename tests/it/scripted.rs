//! Servers that speak memcached and misbehave on request.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use socket2::{Domain, SockRef, Socket, Type};

/// What a slow server takes for an answer.
const SLOWNESS: Duration = Duration::from_millis(8);

/// What a late one takes: longer than anybody waits.
const LATENESS: Duration = Duration::from_millis(400);

/// Connections that fill the queue of a listener nobody accepts from.
const FILLING: usize = 4;

/// What a server does beside answering. Can be changed while it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing.
    None,
    /// Answers `version`, and nothing else ever.
    Silent,
    /// Holds its answers back until it is set to [`Fault::None`].
    Holding,
    /// Appends these bytes to every answer.
    Junk(&'static [u8]),
    /// Closes the connection after every answer.
    CloseAfterReply,
    /// Closes the connection in the middle of every answer.
    CloseWithin,
    /// Answers with what was asked before: one answer too few, then all late by
    /// one.
    Shifted,
    /// Sends a byte at a time.
    Drip,
    /// Takes some milliseconds for every answer.
    Slow,
    /// Takes longer for every answer than anybody waits.
    Late,
    /// Closes every connection before it has said anything.
    CloseAtOnce,
    /// The connections that there are lead nowhere any more; new ones do.
    HalfOpen,
    /// Packets from and to it are dropped, as by a route that is gone: nothing is
    /// read, and no connection is made.
    Unrouted,
    /// Says no to everything.
    Refuse(&'static str),
    /// Answers the first request of each connection, and closes at the second.
    Alternate,
    /// Answers a set with this as soon as it has seen its line, and only then
    /// reads the value.
    Early(&'static str),
    /// Answers a set with this as soon as it has seen its line, and never reads
    /// on.
    EarlyAndDeaf(&'static str),
    /// Reads nothing any more, as if the machine had gone without a word.
    Deaf,
}

/// A memcached of sorts on a port of its own; ends when dropped.
#[derive(Debug)]
pub(crate) struct Scripted {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    fault: Mutex<Fault>,
    changed: Condvar,
    items: Mutex<HashMap<Vec<u8>, Item>>,
    streams: Mutex<Vec<TcpStream>>,
    listener: TcpListener,
    /// What fills the listener's queue while there is no route to it.
    filling: Mutex<Vec<Socket>>,
    /// How many connections there were when the fault began.
    before: AtomicUsize,
    accepted: AtomicUsize,
    ended: AtomicBool,
    open: AtomicUsize,
}

/// Client flags, as sent, and value.
type Item = (Vec<u8>, Vec<u8>);

impl Scripted {
    /// Starts a server.
    pub(crate) fn start(fault: Fault) -> Self {
        Self::start_at(SocketAddr::from(([127, 0, 0, 1], 0)), fault)
    }

    /// Starts a server at an address, perhaps that of one which has ended.
    pub(crate) fn start_at(address: SocketAddr, fault: Fault) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            fault: Mutex::new(fault),
            changed: Condvar::new(),
            items: Mutex::default(),
            streams: Mutex::default(),
            listener,
            filling: Mutex::default(),
            before: AtomicUsize::new(0),
            accepted: AtomicUsize::new(0),
            ended: AtomicBool::new(false),
            open: AtomicUsize::new(0),
        });
        let accepting = Arc::clone(&shared);
        thread::spawn(move || {
            for stream in accepting.listener.incoming().map_while(Result::ok) {
                accepting.wait_while(|fault| fault == Fault::Unrouted);
                if accepting.ended.load(Ordering::SeqCst) {
                    return;
                }
                stream.set_nodelay(true).unwrap();
                let copy = stream.try_clone().unwrap();
                accepting.streams.lock().unwrap().push(copy);
                let shared = Arc::clone(&accepting);
                // Ends with its connection.
                thread::spawn(move || {
                    let copy = stream.try_clone().unwrap();
                    let number = shared.accepted.fetch_add(1, Ordering::SeqCst);
                    shared.open.fetch_add(1, Ordering::SeqCst);
                    let _ = shared.serve(stream, number);
                    let _ = copy.shutdown(Shutdown::Both);
                    shared.open.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        Self { address, shared }
    }

    /// Changes what it does beside answering.
    pub(crate) fn set(&self, fault: Fault) {
        let shared = &self.shared;
        let accepted = shared.accepted.load(Ordering::SeqCst);
        shared.before.store(accepted, Ordering::SeqCst);
        let queue = SockRef::from(&shared.listener);
        shared.filling.lock().unwrap().clear();
        *shared.fault.lock().unwrap() = fault;
        if fault == Fault::Unrouted {
            queue.listen(1).unwrap();
            let filling = (0..FILLING).map(|_| filler(self.address));
            shared.filling.lock().unwrap().extend(filling);
        } else {
            queue.listen(QUEUE).unwrap();
        }
        shared.changed.notify_all();
        if fault == Fault::CloseAtOnce {
            self.close_connections();
        }
    }

    /// The value under a key.
    pub(crate) fn value(&self, key: &[u8]) -> Option<Vec<u8>> {
        let items = self.shared.items.lock().unwrap();
        items.get(key).map(|(_, value)| value.clone())
    }

    /// Connections that its clients have not closed.
    pub(crate) fn connections(&self) -> usize {
        self.shared.open.load(Ordering::SeqCst)
    }

    /// Closes every connection there is, and goes on listening.
    pub(crate) fn close_connections(&self) {
        for stream in self.shared.streams.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        self.set(Fault::None);
        // Wakes the accepting thread, which lets go of the port.
        let _ = SockRef::from(&self.shared.listener).shutdown(Shutdown::Both);
        self.close_connections();
    }
}

/// An address at which nobody answers, not even to say no: the queue of a
/// listener that accepts nobody is full.
#[derive(Debug)]
pub(crate) struct BlackHole {
    /// Where it is.
    pub(crate) address: SocketAddr,
    _listener: Socket,
    _queued: Vec<Socket>,
}

impl BlackHole {
    /// Makes one.
    pub(crate) fn new() -> Self {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        listener
            .bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())
            .unwrap();
        listener.listen(1).unwrap();
        let address = listener.local_addr().unwrap().as_socket().unwrap();
        Self {
            address,
            _queued: (0..FILLING).map(|_| filler(address)).collect(),
            _listener: listener,
        }
    }
}

/// Connections that may wait to be accepted.
const QUEUE: i32 = 128;

/// A connection that waits to be accepted, or for a place where it may wait.
fn filler(address: SocketAddr) -> Socket {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_nonblocking(true).unwrap();
    // Under way: the answer may never come.
    let _ = socket.connect(&address.into());
    socket
}

impl Shared {
    /// Waits while the fault is one of these.
    fn wait_while(&self, is_one: impl Fn(Fault) -> bool) {
        let mut fault = self.fault.lock().unwrap();
        while is_one(*fault) {
            fault = self.changed.wait(fault).unwrap();
        }
    }

    fn serve(&self, stream: TcpStream, number: usize) -> std::io::Result<()> {
        let mut reader = BufReader::new(stream.try_clone()?);
        let mut writer = stream;
        let mut line = Vec::new();
        let mut owed = Vec::new();
        let mut asked = 0;
        loop {
            self.hear(&mut writer, &[], number)?;
            line.clear();
            if reader.read_until(b'\n', &mut line)? == 0 {
                return Ok(());
            }
            // What began while it was waited for holds for it already.
            self.hear(&mut writer, &[], number)?;
            let words: Vec<_> = line.trim_ascii_end().split(|&byte| byte == b' ').collect();
            if words[0] == b"version" {
                writer.write_all(b"VERSION 1.6.45\r\n")?;
                continue;
            }
            self.hear(&mut writer, &words, number)?;
            let answer = self.answer(&words, &mut reader)?;
            asked += 1;
            let mut fault = self.fault.lock().unwrap();
            while *fault == Fault::Holding {
                fault = self.changed.wait(fault).unwrap();
            }
            for (slow, takes) in [(Fault::Slow, SLOWNESS), (Fault::Late, LATENESS)] {
                if *fault == slow {
                    fault = self.changed.wait_timeout(fault, takes).unwrap().0;
                }
            }
            let fault = *fault;
            match fault {
                Fault::None | Fault::Holding | Fault::Slow | Fault::Late => {
                    writer.write_all(&answer)?;
                }
                Fault::Silent => {}
                Fault::Junk(junk) => writer.write_all(&[&answer[..], junk].concat())?,
                Fault::CloseAfterReply => {
                    writer.write_all(&answer)?;
                    return writer.shutdown(Shutdown::Both);
                }
                Fault::CloseWithin => {
                    writer.write_all(&answer[..answer.len() / 2])?;
                    return writer.shutdown(Shutdown::Both);
                }
                Fault::Shifted => {
                    let before = std::mem::replace(&mut owed, answer);
                    writer.write_all(&before)?;
                }
                Fault::Drip => {
                    for byte in answer {
                        writer.write_all(&[byte])?;
                    }
                }
                Fault::Refuse(text) => writer.write_all(text.as_bytes())?,
                Fault::Alternate if asked > 1 => return writer.shutdown(Shutdown::Both),
                Fault::CloseAtOnce => return writer.shutdown(Shutdown::Both),
                Fault::Alternate | Fault::Deaf | Fault::HalfOpen | Fault::Unrouted => {
                    writer.write_all(&answer)?;
                }
                // Answered already, if it was a set.
                Fault::Early(_) | Fault::EarlyAndDeaf(_) if words[0] == b"set" => {}
                Fault::Early(_) | Fault::EarlyAndDeaf(_) => writer.write_all(&answer)?,
            }
        }
    }

    /// Does what is to be done before more is read: with the words of a command
    /// before its value, without before the next command. `number` is that of the
    /// connection.
    fn hear(&self, writer: &mut TcpStream, words: &[&[u8]], number: usize) -> std::io::Result<()> {
        let mut fault = self.fault.lock().unwrap();
        let is_set = words.first() == Some(&&b"set"[..]);
        if let (Fault::Early(text) | Fault::EarlyAndDeaf(text), true) = (*fault, is_set) {
            writer.write_all(text.as_bytes())?;
        }
        if *fault == Fault::CloseAtOnce {
            return Err(std::io::ErrorKind::ConnectionAborted.into());
        }
        let is_old = number < self.before.load(Ordering::SeqCst);
        let is_deaf = |fault: Fault| match fault {
            Fault::Deaf | Fault::Unrouted => true,
            Fault::HalfOpen => is_old,
            Fault::EarlyAndDeaf(_) => is_set,
            _ => false,
        };
        while is_deaf(*fault) {
            fault = self.changed.wait(fault).unwrap();
        }
        Ok(())
    }

    fn answer(&self, words: &[&[u8]], reader: &mut impl Read) -> std::io::Result<Vec<u8>> {
        let mut items = self.items.lock().unwrap();
        Ok(match *words {
            [b"get", ref keys @ ..] => {
                let mut answer = Vec::new();
                for key in keys {
                    if let Some((flags, value)) = items.get(*key) {
                        let length = value.len().to_string();
                        let words = [&b"VALUE"[..], key, flags, length.as_bytes()];
                        let header = words.join(&b' ');
                        answer.extend([&header[..], b"\r\n", value, b"\r\n"].concat());
                    }
                }
                answer.extend(b"END\r\n");
                answer
            }
            [b"set", key, flags, _, length] => {
                drop(items);
                let length: usize = std::str::from_utf8(length).unwrap().parse().unwrap();
                let mut value = vec![0; length + 2];
                reader.read_exact(&mut value)?;
                value.truncate(length);
                let mut items = self.items.lock().unwrap();
                items.insert(key.to_vec(), (flags.to_vec(), value));
                b"STORED\r\n".to_vec()
            }
            [b"delete", key, ..] => match items.remove(key) {
                Some(_) => b"DELETED\r\n".to_vec(),
                None => b"NOT_FOUND\r\n".to_vec(),
            },
            [b"incr", key, delta] => match items.get_mut(key) {
                Some((_, value)) => {
                    let number = |text: &[u8]| -> u64 {
                        std::str::from_utf8(text).unwrap().parse().unwrap()
                    };
                    *value = (number(value) + number(delta)).to_string().into_bytes();
                    [&value[..], b"\r\n"].concat()
                }
                None => b"NOT_FOUND\r\n".to_vec(),
            },
            [b"flush_all", ..] => {
                items.clear();
                b"OK\r\n".to_vec()
            }
            _ => b"ERROR\r\n".to_vec(),
        })
    }
}
