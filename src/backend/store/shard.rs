//! A part of the store that one thread at a time works on.
//!
//! Pure: time and bytes go in, values come out. It never waits and takes no lock;
//! what it needs of memory it is given or it says that it is [`Full`].

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::Arc;

use super::compact::Compaction;
use super::counters::Counters;
use super::expiry::Sweep;
use super::extend::Kept;
use super::flush::Dropped;
use super::hash::Tag;
use super::index::{Index, Position};
use super::item::{self, Item, NewItem, State};
use super::large::{Filed, Large};
use super::log::{Location, Queue, Segments};
use super::memory::{EXTENT_COST, Extent, Memory, PAGE_BYTES};
use super::table::Table;
use crate::backend::watch::{self, Kinds};
use crate::net::lend::{Lent, Pages, fetch_ahead};

/// Values in the log that are so long are lent to who sends them instead of being copied.
/// Below it a copy costs no more than a reference and a piece of its own to write.
pub const LEND_BYTES_MIN: usize = 4096;

/// Bytes of a value that the processor is told to fetch when it is found: it is written
/// some values later. Beyond these it sees by itself what comes next.
const AHEAD_BYTES: usize = 1024;
/// Of the rest only the tables of its pages are fetched, with a line of each page. Measured:
/// a twentieth of what a value of 10 KiB takes, nothing of one of 6 KB.
const LINE_BYTES: usize = 64;
/// Of a large value that is done at every step of so many bytes: one line of the tables is
/// for eight pages.
const AHEAD_STEP_BYTES: usize = 16 * 1024;
/// Steps that are made: more is not written at once.
const AHEAD_STEPS: usize = 16;

/// There is no memory for what was to be done. Nothing of it has been done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// How a shard behaves.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Whether items are evicted to make room for others.
    pub evicts: bool,
    /// Whether items get cas ids.
    pub cas: bool,
    /// The seed of the key hash.
    pub seed: u64,
    /// Which shard this is, from 0.
    pub number: u64,
    /// How many shards there are.
    pub shards: u64,
}

/// An item as it was found; good until the shard is changed.
#[derive(Clone, Copy, Debug)]
pub struct At {
    pub(super) position: Position,
    pub(super) location: Location,
}

/// The segments of one queue, and how far its eviction has come.
#[derive(Debug, Default)]
pub(super) struct Order {
    /// From the oldest to the one that is being written.
    pub(super) segments: VecDeque<u16>,
    /// Bytes of the oldest segment that have been cleared.
    pub(super) cleared: usize,
    /// Bytes of the oldest segment that were spared.
    pub(super) spared: usize,
    /// What large values of items of this queue cost.
    pub(super) large: usize,
}

impl Order {
    /// Memory it takes up.
    pub(super) fn cost(&self) -> usize {
        self.segments.len() * EXTENT_COST + self.large
    }
}

/// The value of an item that is to be stored.
#[derive(Clone, Copy, Debug)]
pub struct Value<'a> {
    /// What lies outside of the log, if anything does.
    pub large: Option<&'a Arc<Large>>,
    /// What follows that, in two pieces, together shorter than
    /// [`super::LARGE_BYTES_MIN`].
    pub tail: [&'a [u8]; 2],
}

impl<'a> Value<'a> {
    /// A value that lies in the log.
    pub fn small(value: &'a [u8]) -> Self {
        Self {
            large: None,
            tail: [value, b""],
        }
    }

    /// What lies outside of the log.
    pub fn parts(&self) -> impl Iterator<Item = &'a [u8]> {
        parts_of(self.large)
    }

    /// Bytes of it.
    pub fn len(&self) -> usize {
        let [first, second] = self.tail;
        self.large.map_or(0, |large| large.len()) + first.len() + second.len()
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

fn parts_of(large: Option<&Arc<Large>>) -> impl Iterator<Item = &[u8]> {
    large.into_iter().flat_map(|large| large.parts())
}

fn cost_of(large: Option<&Arc<Large>>) -> usize {
    large.map_or(0, |large| large.cost())
}

/// Has the processor fetch the first line of each.
#[inline]
fn fetch_lines<'a>(steps: impl Iterator<Item = &'a [u8]>) {
    for step in steps {
        fetch_ahead(step.get(..LINE_BYTES).unwrap_or_default());
    }
}

/// What is to be stored.
#[derive(Clone, Copy, Debug)]
pub struct Put<'a> {
    /// The key.
    pub key: &'a [u8],
    /// The client's flags.
    pub flags: u32,
    /// When it expires, in seconds; 0 if never.
    pub exptime: u32,
    /// Its cas id; `None` for the next one.
    pub cas: Option<u64>,
    /// What clients see of it.
    pub state: State,
    /// The value.
    pub value: Value<'a>,
}

/// An item with all of its value.
#[derive(Clone, Copy, Debug)]
pub struct Found<'a> {
    /// Its part in the log.
    pub item: Item<'a>,
    /// What lies outside of the log of its value, if anything does.
    pub large: Option<&'a Arc<Large>>,
    /// Where that part lies, if it may be lent.
    pub(super) pages: Option<&'a Pages>,
}

impl<'a> Found<'a> {
    /// What stands in the log of its value, to be read when the shard is not locked any
    /// more; `None` if it is little, which is sooner copied, or cannot be lent.
    #[inline]
    pub fn lend(&self) -> Option<Lent> {
        let len = self.item.word().tail_len();
        let lent = self.pages?.lend(self.item.tail_at()?, len)?;
        fetch_ahead(lent.get(..AHEAD_BYTES).unwrap_or(&lent));
        fetch_lines(lent.chunks(PAGE_BYTES).skip(1));
        Some(lent)
    }

    /// What lies outside of the log of its value, if anything does, to be read when the
    /// shard is not locked any more.
    #[inline]
    pub fn share(&self) -> Option<&'a Arc<Large>> {
        let large = self.large?;
        let steps = large.parts().flat_map(|part| part.chunks(AHEAD_STEP_BYTES));
        fetch_lines(steps.take(AHEAD_STEPS));
        Some(large)
    }

    /// What lies outside of the log of its value.
    pub fn parts(&self) -> impl Iterator<Item = &'a [u8]> {
        parts_of(self.large)
    }

    /// Bytes of its value.
    #[inline]
    pub fn value_len(&self) -> usize {
        self.large.map_or(0, |large| large.len()) + self.item.tail().len()
    }

    /// Bytes that it costs, all of it, but for its slot in the index.
    pub fn cost(&self) -> usize {
        self.item.size() + cost_of(self.large)
    }
}

/// A part of the store.
#[derive(Debug)]
pub struct Shard {
    pub(super) memory: Arc<Memory>,
    pub(super) settings: Settings,
    pub(super) index: Index,
    pub(super) segments: Segments,
    pub(super) young: Order,
    pub(super) main: Order,
    pub(super) large: Table<Filed>,
    /// An extent put by for the next segment.
    pub(super) spare: Option<Extent>,
    pub(super) compaction: Option<Compaction>,
    /// Segments of young items that have been evicted: the clock of ghosts.
    pub(super) generation: u32,
    /// A segment that was begun in advance, by number and sequence.
    pub(super) advanced: Option<(u16, u32)>,
    /// Where the janitor goes on.
    pub(super) sweep: Sweep,
    /// Items that are not to be evicted, because they are being added to.
    pub(super) kept: Vec<Kept>,
    /// When everything is to be dropped, in seconds.
    pub(super) flush_at: Option<u32>,
    /// The index as it was when everything was dropped, for a while: so that who
    /// asks for what has been dropped is counted.
    pub(super) flushed: Option<Index>,
    /// What has been dropped, and is still to be given back.
    pub(super) dropped: Dropped,
    /// Cas ids given out.
    cas_ids: u64,
    /// Items there are.
    pub(super) items: u64,
    /// Bytes of them, without the index.
    pub(super) bytes: u64,
    /// What has been seen.
    pub counters: Counters,
}

impl Shard {
    /// A shard without items.
    pub fn new(memory: Arc<Memory>, settings: Settings) -> Self {
        Self {
            index: Index::new(Arc::clone(&memory), settings.evicts),
            segments: Segments::new(Arc::clone(&memory)),
            memory,
            settings,
            young: Order::default(),
            main: Order::default(),
            large: Table::default(),
            spare: None,
            compaction: None,
            generation: 0,
            advanced: None,
            sweep: Sweep::default(),
            kept: Vec::new(),
            flush_at: None,
            flushed: None,
            dropped: Dropped::default(),
            cas_ids: 0,
            items: 0,
            bytes: 0,
            counters: Counters::default(),
        }
    }

    /// Items there are.
    pub fn items(&self) -> u64 {
        self.items
    }

    /// Bytes of its items, without the index.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Bytes of its index.
    pub fn index_bytes(&self) -> usize {
        self.index.bytes()
    }

    /// Memory that the shard holds and could give.
    pub fn cost(&self) -> usize {
        let queues = self.queue_cost(Queue::Young) + self.queue_cost(Queue::Main);
        let spare = if self.spare.is_some() { EXTENT_COST } else { 0 };
        queues + self.index.bytes() + spare + self.dropped.bytes()
    }

    /// Memory that a queue holds and could give.
    pub(super) fn queue_cost(&self, queue: Queue) -> usize {
        // Somebody else may have dropped what is kept.
        let cost = self.order(queue).cost();
        cost.saturating_sub(self.kept_cost(queue))
    }

    /// Items in the queue of the young and in the main one.
    pub fn queue_items(&self) -> [u64; 2] {
        [&self.young, &self.main].map(|order| {
            let items = order.segments.iter();
            items
                .map(|&number| u64::from(self.segments.about(number).items))
                .sum()
        })
    }

    /// The numbers of all segments, those written last first.
    pub(super) fn segment_numbers(&self) -> Vec<u16> {
        let main = self.main.segments.iter().rev();
        let young = self.young.segments.iter().rev();
        young.chain(main).copied().collect()
    }

    /// Shows every item of a segment to `visit`, until it has seen enough.
    pub(super) fn visit(
        &self,
        number: u16,
        visit: &mut impl FnMut(Found<'_>) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        if usize::from(number) >= self.segments.numbers() {
            // Everything has been dropped meanwhile.
            return ControlFlow::Continue(());
        }
        self.segments
            .walk(number, 0)
            .filter(|(_, item)| !item.word().is_gone())
            .try_for_each(|(_, item)| {
                visit(Found {
                    item,
                    large: self.large(&item),
                    pages: None,
                })
            })
    }

    /// When the oldest segments of the two queues were begun.
    pub fn oldest(&self) -> [Option<u32>; 2] {
        [&self.young, &self.main].map(|order| {
            let oldest = order.segments.front();
            oldest.map(|&number| self.segments.about(number).born)
        })
    }

    /// The next cas id. Those of a key grow, and no two items of the store have
    /// the same, without the shards sharing a counter.
    pub fn next_cas(&mut self) -> u64 {
        if !self.settings.cas {
            return 0;
        }
        let id = self.cas_ids.wrapping_mul(self.settings.shards) + self.settings.number + 1;
        self.cas_ids = self.cas_ids.wrapping_add(1);
        id
    }

    /// The cas id of an item that is to have this one, if any; 0 if there are none.
    pub fn new_cas(&mut self, wanted: Option<u64>) -> u64 {
        match wanted {
            Some(id) if self.settings.cas => id,
            _ => self.next_cas(),
        }
    }

    /// Finds the item of a key. One that has expired is not found, and is gone.
    #[inline]
    pub fn find(&mut self, tag: Tag, key: &[u8], now: u32) -> Option<At> {
        if watch::wants(Kinds::FETCHERS) {
            return self.find_and_note(tag, key, now);
        }
        self.look_up(tag, key, now)
    }

    /// As [`Self::find`], without anybody being told.
    #[inline]
    pub(super) fn look_up(&mut self, tag: Tag, key: &[u8], now: u32) -> Option<At> {
        self.flush_if_due(now);
        let segments = &self.segments;
        let found = self
            .index
            .find(tag, |location| segments.item(location).key() == key);
        let Some((position, location)) = found else {
            if self.flushed.is_some() {
                self.count_flushed(tag);
            }
            return None;
        };
        let at = At { position, location };
        if self.segments.item(location).is_expired(now) {
            self.counters.get_expired += 1;
            self.expire(at);
            return None;
        }
        Some(at)
    }

    /// Has the processor fetch the item that a tag leads to, if there is one.
    #[inline]
    pub(super) fn fetch_item(&self, tag: Tag) {
        if let Some((_, location)) = self.index.find(tag, |_| true) {
            self.segments.fetch(location);
        }
    }

    /// The item that was found.
    #[inline]
    pub fn get(&self, at: At) -> Found<'_> {
        let item = self.segments.item(at.location);
        Found {
            item,
            large: self.large(&item),
            pages: self.lendable(at, &item),
        }
    }

    /// Where an item lies, if what stands there of its value is better lent than copied.
    #[inline]
    fn lendable(&self, at: At, item: &Item<'_>) -> Option<&Pages> {
        if item.word().tail_len() < LEND_BYTES_MIN || !self.memory.lends() {
            return None;
        }
        self.segments.pages(at.location)
    }

    #[inline]
    fn large(&self, item: &Item<'_>) -> Option<&Arc<Large>> {
        self.large.get(item.large()?).map(Filed::large)
    }

    /// What the large value of an item costs, if it has one.
    pub(super) fn large_cost(&self, item: &Item<'_>) -> usize {
        cost_of(self.large(item))
    }

    /// Notes that an item has been read.
    #[inline]
    pub fn bump(&mut self, at: At, now: u32) {
        let item = self.segments.item(at.location);
        let (word, accessed) = (item.word(), item.accessed());
        let fetched = word.fetched();
        if fetched != word || accessed != now {
            let bytes = self.segments.head_mut(at.location);
            item::set_word(bytes, fetched);
            item::set_accessed(bytes, now);
        }
    }

    /// Notes that an item has been used, though not read.
    pub fn use_once(&mut self, at: At, now: u32) {
        let word = self.segments.item(at.location).word();
        let bytes = self.segments.head_mut(at.location);
        item::set_word(bytes, word.used());
        item::set_accessed(bytes, now);
    }

    /// Changes what clients see of an item.
    pub fn set_state(&mut self, at: At, state: State) {
        let word = self.segments.item(at.location).word();
        item::set_word(self.segments.head_mut(at.location), word.with_state(state));
    }

    /// Changes the cas id of an item.
    pub fn set_cas(&mut self, at: At, cas: u64) {
        item::set_cas(self.segments.head_mut(at.location), cas);
    }

    /// Gives an item another time to expire.
    ///
    /// # Errors
    ///
    /// [`Full`] if the item has no room for one and there is no memory to write
    /// it anew.
    pub fn set_exptime(&mut self, at: At, exptime: u32, now: u32) -> Result<At, Full> {
        let same = self.segments.item(at.location).exptime() == exptime;
        if same || self.segments.set_exptime(at.location, exptime) {
            return Ok(at);
        }
        let item = self.segments.item(at.location);
        let queue = self.segments.about(at.location.segment()).queue;
        let size = item.size() + item::UNIT;
        let number = self.room_to_rewrite(queue, size, now)?;
        let item = self.segments.item(at.location);
        let (key, tail) = (item.key().to_vec(), item.tail().to_vec());
        let new = NewItem {
            key: &key,
            flags: item.flags(),
            exptime,
            accessed: item.accessed(),
            cas: item.cas(),
            state: item.word().state(),
            uses: item.word().uses(),
            large: item.large(),
            tail: [&tail, b""],
        };
        let (old_size, new_size) = (item.size(), new.size());
        let location = self.segments.append(number, &new);
        self.index.relocate(at.position, location);
        self.leave(at.location);
        self.bytes = self
            .bytes
            .wrapping_add_signed(difference(new_size, old_size));
        Ok(At { location, ..at })
    }

    /// Stores an item, in the place of `old` if the key has one.
    ///
    /// # Errors
    ///
    /// [`Full`] if there is no memory for it.
    pub fn put(&mut self, tag: Tag, old: Option<At>, put: &Put<'_>, now: u32) -> Result<At, Full> {
        let uses = old.map_or(0, |at| self.segments.item(at.location).word().used().uses());
        let mut new = NewItem {
            key: put.key,
            flags: put.flags,
            exptime: put.exptime,
            accessed: now,
            cas: 0,
            state: put.state,
            uses,
            large: put.value.large.map(|_| 0),
            tail: put.value.tail,
        };
        let size = new.size();
        let place = self.place_for(tag, old, size, now)?;
        new.cas = self.new_cas(put.cas);
        let old_large = old.and_then(|at| self.segments.item(at.location).large());
        if let Some(number) = old_large {
            self.drop_large(number, old.map(|at| at.location));
        }
        if let Some(large) = put.value.large {
            new.large = Some(self.large.insert(Filed::new(Arc::clone(large))));
        }
        let location = match place {
            Place::Same(at) => {
                let old_size = self.segments.item(at.location).size();
                self.segments.overwrite(at.location, &new);
                self.bytes = self.bytes.wrapping_add_signed(difference(size, old_size));
                at
            }
            Place::Moved(at, number) => {
                let old_size = self.segments.item(at.location).size();
                let location = self.segments.append(number, &new);
                self.index.relocate(at.position, location);
                self.leave(at.location);
                self.bytes = self.bytes.wrapping_add_signed(difference(size, old_size));
                At { location, ..at }
            }
            Place::New(position, number) => {
                let location = self.segments.append(number, &new);
                self.index.insert(position, tag, location);
                self.items += 1;
                self.bytes += to_u64(size);
                At { position, location }
            }
        };
        self.counters.total_items += 1;
        self.add_large(location.location, put.value.large);
        Ok(location)
    }

    /// Where an item of `size` bytes can be written.
    fn place_for(
        &mut self,
        tag: Tag,
        old: Option<At>,
        size: usize,
        now: u32,
    ) -> Result<Place, Full> {
        match old {
            Some(at)
                if size <= self.segments.item(at.location).size()
                    && !self.segments.is_lent(at.location) =>
            {
                Ok(Place::Same(at))
            }
            Some(at) => {
                let queue = self.segments.about(at.location.segment()).queue;
                let is_hardly_longer = size <= self.segments.item(at.location).size() + item::UNIT;
                let number = if is_hardly_longer {
                    self.room_to_rewrite(queue, size, now)?
                } else {
                    self.room_for(queue, size, now)?
                };
                Ok(Place::Moved(at, number))
            }
            None => {
                let queue = self.queue_for(tag);
                let number = self.room_for(queue, size, now)?;
                let position = self.index.reserve(tag).map_err(|_| Full)?;
                Ok(Place::New(position, number))
            }
        }
    }

    /// The segment of a queue that is being written, with room for `size` bytes.
    pub(super) fn room_for(&mut self, queue: Queue, size: usize, now: u32) -> Result<u16, Full> {
        if self.is_cleaning() && self.memory.is_over() {
            // What there is has been taken in advance, for what is being copied.
            return Err(Full);
        }
        self.room_within(queue, size, now)
    }

    /// As [`Self::room_for`], for an item that is there and gets a little longer. Where
    /// nobody is evicted for it, it may take more memory than there is, as what is copied
    /// may: a segment for each shard.
    fn room_to_rewrite(&mut self, queue: Queue, size: usize, now: u32) -> Result<u16, Full> {
        let room = self.room_for(queue, size, now);
        let is_there = |(number, sequence)| self.segments.about(number).sequence == sequence;
        if room.is_ok() || self.settings.evicts || self.advanced.is_some_and(is_there) {
            return room;
        }
        let number = self.room_in_advance(queue, size, now).ok_or(Full)?;
        self.advanced = Some((number, self.segments.about(number).sequence));
        Ok(number)
    }

    /// As [`Self::room_for`], for what is being copied too.
    pub(super) fn room_within(&mut self, queue: Queue, size: usize, now: u32) -> Result<u16, Full> {
        if let Some(&number) = self.order(queue).segments.back()
            && self.segments.has_room(number, size)
        {
            return Ok(number);
        }
        if !self.segments.has_number() {
            return Err(Full);
        }
        let spare = self.spare.take().or_else(|| self.memory.extent());
        let extent = spare.ok_or(Full)?;
        Ok(self.begin_segment(extent, queue, now))
    }

    pub(super) fn begin_segment(&mut self, extent: Extent, queue: Queue, now: u32) -> u16 {
        let number = self.segments.add(extent, queue, now);
        let segments = &mut self.order_mut(queue).segments;
        let before = segments.back().copied();
        segments.push_back(number);
        if let Some(before) = before {
            let about = self.segments.about(before);
            let (items, garbage) = (about.items, about.used - about.live);
            // Nobody was to look at what it had while it was being written. Some of it may
            // be counted already; then it is looked for a little early.
            self.segments.garbage += garbage;
            // It was kept, though empty, because it was the one being written.
            if items == 0 {
                self.drop_if_done(before);
            }
        }
        number
    }

    #[inline]
    pub(super) fn order(&self, queue: Queue) -> &Order {
        match queue {
            Queue::Young => &self.young,
            Queue::Main => &self.main,
        }
    }

    #[inline]
    pub(super) fn order_mut(&mut self, queue: Queue) -> &mut Order {
        match queue {
            Queue::Young => &mut self.young,
            Queue::Main => &mut self.main,
        }
    }

    /// Removes the item that was found.
    pub fn remove(&mut self, at: At) {
        self.take_out(at, None);
    }

    /// Removes an item that has expired.
    pub(super) fn expire(&mut self, at: At) {
        let fetched = self.segments.item(at.location).word().state().fetched;
        self.counters.reclaimed += 1;
        self.counters.expired_unfetched += u64::from(!fetched);
        self.take_out(at, None);
    }

    /// Removes an item, and leaves a ghost if wanted.
    pub(super) fn take_out(&mut self, at: At, ghost: Option<Location>) {
        let item = self.segments.item(at.location);
        let (size, large) = (item.size(), item.large());
        if let Some(number) = large {
            self.drop_large(number, Some(at.location));
        }
        self.items -= 1;
        self.bytes -= to_u64(size);
        self.index.remove(at.position, ghost);
        self.leave(at.location);
    }

    /// Lets go of the large value of the item at `owner`.
    fn drop_large(&mut self, number: u32, owner: Option<Location>) {
        let Some(filed) = self.large.remove(number) else {
            return;
        };
        let cost = filed.large().cost();
        self.bytes -= to_u64(cost);
        if let Some(owner) = owner {
            let queue = self.segments.about(owner.segment()).queue;
            self.order_mut(queue).large -= cost;
        }
    }

    /// Counts the large value of the item at `owner`, if it has one.
    fn add_large(&mut self, owner: Location, large: Option<&Arc<Large>>) {
        let cost = cost_of(large);
        self.bytes += to_u64(cost);
        let queue = self.segments.about(owner.segment()).queue;
        self.order_mut(queue).large += cost;
    }

    /// Makes garbage of what lies at a location. A segment with nothing else is
    /// given back, unless it is being written.
    pub(super) fn leave(&mut self, location: Location) {
        let empty = self.segments.mark_gone(location);
        if empty && let Ok(number) = u16::try_from(location.segment()) {
            self.drop_if_done(number);
        }
    }

    /// Gives back a segment without items that is not being written.
    pub(super) fn drop_if_done(&mut self, number: u16) {
        let is_target = self
            .compaction
            .as_ref()
            .is_some_and(|work| work.target == Some(number));
        let order = self.order_mut(self.segments.about(number).queue);
        if is_target || order.segments.back() == Some(&number) {
            return;
        }
        if order.segments.front() == Some(&number) {
            order.segments.pop_front();
            (order.cleared, order.spared) = (0, 0);
        } else {
            order.segments.retain(|&other| other != number);
        }
        self.segments.release(number);
    }

    /// Gives back the segment of a queue that is being written, which has no items.
    pub(super) fn drop_written(&mut self, queue: Queue) {
        let order = self.order_mut(queue);
        if let Some(number) = order.segments.pop_back() {
            if order.segments.is_empty() {
                (order.cleared, order.spared) = (0, 0);
            }
            self.segments.release(number);
        }
    }
}

/// Where an item is going to be written.
enum Place {
    /// Over the one that it replaces.
    Same(At),
    /// To this segment, while the one that it replaces becomes garbage.
    Moved(At, u16),
    /// To this segment, with a new slot.
    New(Position, u16),
}

/// `new` less `old`.
fn difference(new: usize, old: usize) -> i64 {
    i64::from(item::low(new)) - i64::from(item::low(old))
}

pub(super) fn to_u64(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

impl Drop for Shard {
    fn drop(&mut self) {
        if let Some(extent) = self.spare.take() {
            self.memory.give_extent(extent);
        }
    }
}
