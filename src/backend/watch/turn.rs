//! The thread that serves watchers, while there are any.
//!
//! In each turn it takes what is on the shelves, puts it in order, makes lines of it and
//! writes what sockets take. Nobody waits for it and it waits for nobody: it sleeps in
//! between, shorter while there is something to tell. So those who work on the cache
//! need not wake it.

use std::io::Write as _;
use std::thread;
use std::time::Duration;

use super::hub::Hub;
use super::line::Line;
use super::output::{Output, Told};
use super::page::Page;

/// The pause while there is something to tell. A shelf of 64 KiB then holds what comes
/// in at half a million events a second.
const PAUSE_MIN: Duration = Duration::from_millis(1);

/// The pause after a while without anything.
const PAUSE_MAX: Duration = Duration::from_millis(50);

/// Serves watchers until there are none.
pub(super) fn run(hub: &Hub) {
    let mut teller = Teller::default();
    let mut pause = PAUSE_MIN;
    while hub.renew(&mut teller.outputs) {
        if teller.turn(hub) {
            pause = PAUSE_MIN;
        } else {
            pause = (pause * 2).min(PAUSE_MAX);
        }
        thread::park_timeout(pause);
    }
}

/// What the thread works with.
#[derive(Default)]
struct Teller {
    outputs: Vec<Output>,
    /// What was on the shelves.
    pages: Vec<Page>,
    /// The events of all pages by their numbers, with page and place.
    order: Vec<(u64, usize, usize)>,
    line: Vec<u8>,
}

impl Teller {
    /// Tells what there is to tell. Returns whether there was anything.
    fn turn(&mut self, hub: &Hub) -> bool {
        let mut moved = false;
        for output in &mut self.outputs {
            moved |= output.turn();
        }
        let shelves = hub.shelves();
        self.pages.resize_with(shelves.len(), Page::default);
        self.order.clear();
        for (number, (page, shelf)) in self.pages.iter_mut().zip(&shelves).enumerate() {
            shelf.take(page);
            let gids = page.gids().enumerate();
            self.order
                .extend(gids.map(|(place, gid)| (gid, number, place)));
        }
        self.order.sort_unstable();
        hub.count(self.tell());
        for output in &mut self.outputs {
            moved |= output.turn();
        }
        for output in self.outputs.extract_if(.., |output| output.is_broken()) {
            hub.leave(output.number);
        }
        moved || !self.order.is_empty()
    }

    /// Hands out lines.
    fn tell(&mut self) -> Told {
        let mut told = Told::default();
        for &(gid, number, place) in &self.order {
            let Some((record, about)) = self.pages.get(number).and_then(|page| page.get(place))
            else {
                continue;
            };
            let kind = record.event.kind();
            let takers = self.outputs.iter_mut();
            let mut takers = takers.filter(|output| output.wants(kind, gid)).peekable();
            if takers.peek().is_none() {
                continue;
            }
            self.line.clear();
            // Writing to a vector cannot fail.
            let _ = write!(self.line, "{}", Line { record, about });
            takers.for_each(|output| output.push(&self.line, &mut told));
        }
        told
    }
}
