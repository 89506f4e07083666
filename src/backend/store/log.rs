//! The log: items one behind the other in segments.
//!
//! A segment fills an extent. Items are appended to a segment and change in place
//! where they can; one that goes leaves garbage until its segment is walked. Each
//! segment knows how much of it is alive and how much of that expires when, so that
//! nobody walks it in vain.

use std::sync::Arc;

use super::calendar::Calendar;
use super::item::{self, Item, NewItem, UNIT, low};
use super::memory::{EXTENT_BYTES, Extent, LARGE_BYTES_MIN, Memory};
use crate::net::lend::{Pages, fetch_ahead};

/// Bits of a location that count units within a segment.
const UNIT_BITS: u32 = 15;
/// Most segments of a shard; number 0 is none.
const SEGMENTS_MAX: usize = 1 << 15;

const _: () = assert!(EXTENT_BYTES == UNIT << UNIT_BITS);

/// Where an item lies in the log of its shard: segment and unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Location(u32);

impl Location {
    /// The place `offset` bytes into a segment.
    #[inline]
    pub(super) fn new(segment: u16, offset: usize) -> Self {
        Self(u32::from(segment) << UNIT_BITS | low(offset / UNIT))
    }

    /// A mark that points to no item but remembers the low 15 bits of a number.
    pub(super) fn mark(number: u32) -> Self {
        Self(number & ((1 << UNIT_BITS) - 1))
    }

    /// The number that a mark remembers.
    pub(super) fn marked(self) -> u32 {
        self.0 & ((1 << UNIT_BITS) - 1)
    }

    /// As a number of 30 bits.
    #[inline]
    pub(super) fn bits(self) -> u32 {
        self.0
    }

    /// The location that is this number.
    #[inline]
    pub(super) fn from_bits(bits: u32) -> Self {
        Self(bits)
    }

    /// Whether this can be the place of an item, not a mark.
    #[inline]
    pub(super) fn is_item(self) -> bool {
        self.0 >> UNIT_BITS != 0
    }

    /// The segment.
    #[inline]
    pub(super) fn segment(self) -> usize {
        (self.0 >> UNIT_BITS) as usize
    }

    /// Bytes from the segment's start.
    #[inline]
    pub(super) fn offset(self) -> usize {
        (self.0 & ((1 << UNIT_BITS) - 1)) as usize * UNIT
    }
}

/// Which queue a segment stands in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Queue {
    /// Of items that have not been used since they came.
    #[default]
    Young,
    /// Of items that have.
    Main,
}

/// What is known about a segment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Segment {
    /// Bytes written.
    pub used: usize,
    /// Bytes of them that belong to items.
    pub live: usize,
    /// Items in it.
    pub items: u32,
    /// Those of them with a large value.
    pub larges: u32,
    /// What of it expires when.
    pub expiring: Calendar,
    /// Items that begin before this byte are in the calendar: while it is counted anew
    /// not all are.
    pub counted: usize,
    /// When it was begun.
    pub born: u32,
    /// Tells it from those that had its number before.
    pub sequence: u32,
    /// Where it stands.
    pub queue: Queue,
}

impl Default for Segment {
    fn default() -> Self {
        Self::new(Queue::Young, 0, 0)
    }
}

impl Segment {
    /// One without items.
    fn new(queue: Queue, now: u32, sequence: u32) -> Self {
        Self {
            used: 0,
            live: 0,
            items: 0,
            larges: 0,
            expiring: Calendar::new(now),
            counted: usize::MAX,
            born: now,
            sequence,
            queue,
        }
    }

    /// Bytes to walk over, with what the large values of its items have at least.
    pub(super) fn weight(&self) -> usize {
        self.used + self.larges as usize * LARGE_BYTES_MIN
    }

    /// Notes an item.
    #[inline]
    fn add(&mut self, offset: usize, trace: Trace) {
        self.live += trace.size;
        self.items += 1;
        self.larges += u32::from(trace.is_large);
        if offset < self.counted {
            self.expiring.add(trace.exptime, trace.weight());
        }
    }

    /// Notes that an item has become another.
    #[inline]
    fn replace(&mut self, offset: usize, old: Trace, new: Trace) {
        self.live = self.live - old.size + new.size;
        self.larges = self.larges - u32::from(old.is_large) + u32::from(new.is_large);
        if offset < self.counted && (old.exptime, old.weight()) != (new.exptime, new.weight()) {
            self.expiring.remove(old.exptime, old.weight());
            self.expiring.add(new.exptime, new.weight());
        }
    }

    /// Forgets an item.
    #[inline]
    fn remove(&mut self, offset: usize, trace: Trace) {
        self.live -= trace.size;
        self.items -= 1;
        self.larges -= u32::from(trace.is_large);
        if offset < self.counted {
            self.expiring.remove(trace.exptime, trace.weight());
        }
    }
}

/// What a segment notes of an item.
#[derive(Clone, Copy, Debug)]
pub(super) struct Trace {
    /// Bytes of it in the log.
    pub size: usize,
    /// When it expires, in seconds; 0 if never.
    pub exptime: u32,
    /// Whether its value is a large one.
    pub is_large: bool,
}

impl Trace {
    #[inline]
    pub(super) fn of(item: &Item<'_>) -> Self {
        Self {
            size: item.size(),
            exptime: item.exptime(),
            is_large: item.large().is_some(),
        }
    }

    #[inline]
    fn of_new(new: &NewItem<'_>) -> Self {
        Self {
            size: new.size(),
            exptime: new.exptime,
            is_large: new.large.is_some(),
        }
    }

    /// Bytes of it, with what a large value has at least: how large it is stands
    /// elsewhere.
    #[inline]
    pub(super) fn weight(self) -> u32 {
        low(self.size + usize::from(self.is_large) * LARGE_BYTES_MIN)
    }
}

/// The segments of a shard, by number.
#[derive(Debug)]
pub(super) struct Segments {
    memory: Arc<Memory>,
    extents: Vec<Option<Pages>>,
    about: Vec<Segment>,
    free: Vec<u16>,
    sequence: u32,
    /// Bytes that became garbage since nobody found enough of it in one place.
    pub(super) garbage: usize,
}

impl Segments {
    /// None yet.
    pub(super) fn new(memory: Arc<Memory>) -> Self {
        Self {
            memory,
            extents: vec![None],
            about: vec![Segment::default()],
            free: Vec::new(),
            sequence: 0,
            garbage: 0,
        }
    }

    /// Numbers in use or free; segments are below.
    pub(super) fn numbers(&self) -> usize {
        self.about.len()
    }

    /// Segments there are.
    pub(super) fn count(&self) -> usize {
        self.about.len() - 1 - self.free.len()
    }

    /// Whether there may be one more.
    pub(super) fn has_number(&self) -> bool {
        !self.free.is_empty() || self.about.len() < SEGMENTS_MAX
    }

    /// Makes a segment of an extent. There must be a number for it.
    pub(super) fn add(&mut self, extent: Extent, queue: Queue, now: u32) -> u16 {
        let number = self.free.pop().unwrap_or_else(|| {
            self.extents.push(None);
            self.about.push(Segment::default());
            u16::try_from(self.about.len() - 1).unwrap_or(u16::MAX)
        });
        self.sequence = self.sequence.wrapping_add(1);
        self.about[usize::from(number)] = Segment::new(queue, now, self.sequence);
        self.extents[usize::from(number)] = Some(extent.into_pages());
        number
    }

    /// Gives a segment's memory back.
    pub(super) fn release(&mut self, number: u16) {
        if let Some(extent) = self.extents[usize::from(number)].take() {
            self.memory.give_pages(extent);
            self.about[usize::from(number)] = Segment::default();
            self.free.push(number);
        }
    }

    /// Takes all segments out. Those that come are others than these.
    pub(super) fn take_all(&mut self) -> Self {
        let mut empty = Self::new(Arc::clone(&self.memory));
        empty.sequence = self.sequence;
        std::mem::replace(self, empty)
    }

    /// Gives the memory of a segment back, for segments that nobody needs any more.
    /// Returns whether there was one.
    pub(super) fn shed(&mut self) -> bool {
        while let Some(extent) = self.extents.pop() {
            if let Some(extent) = extent {
                self.memory.give_pages(extent);
                return true;
            }
        }
        false
    }

    /// What is known about a segment.
    #[inline]
    pub(super) fn about(&self, number: impl Into<usize>) -> &Segment {
        &self.about[number.into()]
    }

    /// What is known about a segment, to change.
    #[inline]
    pub(super) fn about_mut(&mut self, number: impl Into<usize>) -> &mut Segment {
        &mut self.about[number.into()]
    }

    /// Whether an item of `size` bytes fits behind the others.
    #[inline]
    pub(super) fn has_room(&self, number: u16, size: usize) -> bool {
        self.about[usize::from(number)].used + size <= EXTENT_BYTES
    }

    /// From a location to the end of its segment.
    #[inline]
    fn bytes(&self, at: Location) -> &[u8] {
        let extent = self.extents.get(at.segment()).and_then(Option::as_ref);
        debug_assert!(extent.is_some());
        extent.map_or(&[], |extent| {
            extent.bytes().get(at.offset()..).unwrap_or_default()
        })
    }

    /// `len` bytes from a location on, to write.
    #[inline]
    fn bytes_mut(&mut self, at: Location, len: usize) -> &mut [u8] {
        let extent = self.extents.get_mut(at.segment()).and_then(Option::as_mut);
        debug_assert!(extent.is_some());
        extent.map_or(&mut [], |extent| {
            let bytes = extent.bytes_mut(at.offset(), len);
            debug_assert_eq!(bytes.len(), len, "what is lent is not written to");
            bytes
        })
    }

    /// What stands before the key of an item, to write. It is never lent.
    #[inline]
    pub(super) fn head_mut(&mut self, at: Location) -> &mut [u8] {
        let len = self.item(at).word().key_at();
        self.bytes_mut(at, len)
    }

    /// The memory of a segment.
    #[inline]
    pub(super) fn pages(&self, at: Location) -> Option<&Pages> {
        self.extents.get(at.segment())?.as_ref()
    }

    /// Whether some of an item is lent, so that it cannot be written over.
    #[inline]
    pub(super) fn is_lent(&mut self, at: Location) -> bool {
        let size = self.item(at).size();
        let extent = self.extents.get_mut(at.segment()).and_then(Option::as_mut);
        extent.is_some_and(|extent| extent.is_lent(at.offset(), size))
    }

    /// The item at a location.
    #[inline]
    pub(super) fn item(&self, at: Location) -> Item<'_> {
        Item::new(self.bytes(at))
    }

    /// Has the processor fetch the start of an item.
    #[inline]
    pub(super) fn fetch(&self, at: Location) {
        /// An item of a short key and a short value, wherever in its first line it begins.
        const BYTES: usize = 128;
        let bytes = self.bytes(at);
        fetch_ahead(bytes.get(..BYTES).unwrap_or(bytes));
    }

    /// Appends an item to a segment, which has room.
    pub(super) fn append(&mut self, number: u16, new: &NewItem<'_>) -> Location {
        let at = self.begin(number, Trace::of_new(new));
        new.write(self.bytes_mut(at, new.size()));
        at
    }

    /// Writes an item over another, which is no smaller. What is left of that one
    /// is garbage.
    pub(super) fn overwrite(&mut self, at: Location, new: &NewItem<'_>) {
        let (old, trace) = (Trace::of(&self.item(at)), Trace::of_new(new));
        let (old_size, size) = (old.size, trace.size);
        debug_assert!(size <= old_size);
        let bytes = self.bytes_mut(at, old_size);
        new.write(bytes);
        if size < old_size {
            item::write_gap(&mut bytes[size..], old_size - size);
        }
        self.garbage += old_size - size;
        let segment = self.about_mut(at.segment());
        segment.replace(at.offset(), old, trace);
    }

    /// Copies an item behind those of another segment, which has room. The old
    /// one stays; it is for the caller to mark it.
    pub(super) fn copy(&mut self, from: Location, number: u16) -> Location {
        let trace = Trace::of(&self.item(from));
        let size = trace.size;
        let to = self.begin(number, trace);
        let pair = self
            .extents
            .get_disjoint_mut([from.segment(), to.segment()]);
        if let Ok([Some(source), Some(target)]) = pair {
            let bytes = &source.bytes()[from.offset()..from.offset() + size];
            target.bytes_mut(to.offset(), size).copy_from_slice(bytes);
        } else {
            debug_assert!(false, "an item is copied to another segment");
        }
        to
    }

    /// Takes room at the end of a segment.
    fn begin(&mut self, number: u16, trace: Trace) -> Location {
        let segment = self.about_mut(number);
        let offset = segment.used;
        segment.used += trace.size;
        segment.add(offset, trace);
        Location::new(number, offset)
    }

    /// Marks an item as garbage. Returns whether its segment has no other.
    pub(super) fn mark_gone(&mut self, at: Location) -> bool {
        let item = self.item(at);
        debug_assert!(!item.word().is_gone());
        let trace = Trace::of(&item);
        item::set_gone(self.head_mut(at));
        self.garbage += trace.size;
        let segment = self.about_mut(at.segment());
        segment.remove(at.offset(), trace);
        segment.items == 0
    }

    /// Changes an item's expiry, if it has room for one.
    pub(super) fn set_exptime(&mut self, at: Location, exptime: u32) -> bool {
        let old = Trace::of(&self.item(at));
        if !item::set_exptime(self.head_mut(at), exptime) {
            return false;
        }
        let segment = self.about_mut(at.segment());
        segment.replace(at.offset(), old, Trace { exptime, ..old });
        true
    }

    /// The items and gaps of a segment from an offset on.
    pub(super) fn walk(&self, number: u16, offset: usize) -> Walk<'_> {
        Walk {
            segments: self,
            number,
            offset,
            end: self.about(number).used,
        }
    }
}

impl Drop for Segments {
    fn drop(&mut self) {
        while self.shed() {}
    }
}

/// Walks a segment.
#[derive(Debug)]
pub(super) struct Walk<'a> {
    segments: &'a Segments,
    number: u16,
    offset: usize,
    end: usize,
}

impl<'a> Iterator for Walk<'a> {
    type Item = (Location, Item<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        if self.offset >= self.end {
            return None;
        }
        let at = Location::new(self.number, self.offset);
        let item = self.segments.item(at);
        // A size of nothing would be a bug; going on would not end.
        debug_assert!(item.size() > 0);
        self.offset += item.size().max(UNIT);
        Some((at, item))
    }
}
