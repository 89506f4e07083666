//! Binary connections to a server, made when the first binary client needs them.

use std::cell::OnceCell;
use std::rc::Rc;
use std::sync::Arc;

use crate::net::turn::Turn;
use crate::pool::{Connection, Deadlines, Dialect, Server};

/// One worker's binary connections to one server, as many as it has in text.
pub struct Way {
    server: Arc<Server>,
    turn: Rc<Turn>,
    deadlines: Rc<Deadlines>,
    made: OnceCell<Rc<[Rc<Connection>]>>,
}

impl Way {
    /// A way that nobody has gone yet.
    pub fn new(server: Arc<Server>, turn: &Rc<Turn>, deadlines: &Rc<Deadlines>) -> Rc<Self> {
        Rc::new(Self {
            server,
            turn: Rc::clone(turn),
            deadlines: Rc::clone(deadlines),
            made: OnceCell::new(),
        })
    }

    /// The connections; a client always uses the same one.
    #[inline]
    pub fn connections(&self) -> &[Rc<Connection>] {
        self.made.get_or_init(|| self.make())
    }

    fn make(&self) -> Rc<[Rc<Connection>]> {
        let make = |_| {
            let server = Arc::clone(&self.server);
            let connection = Connection::new(server, Dialect::Binary, &self.turn, &self.deadlines);
            tokio::task::spawn_local(Rc::clone(&connection).run());
            connection
        };
        let count = self.server.settings.connections.max(1);
        (0..count).map(make).collect()
    }

    /// Those that there are.
    pub fn made(&self) -> &[Rc<Connection>] {
        self.made.get().map_or(&[], |made| made)
    }

    /// Takes them out of service: the server has left.
    pub fn retire(&self) {
        self.made()
            .iter()
            .for_each(|connection| connection.retire());
    }
}
