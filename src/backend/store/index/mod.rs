//! Where each item lies: an extendible hash table of tags.
//!
//! A slot of eight bytes holds the tag of a key, 34 bits of its hash, and a
//! location in the log. Eight slots are a line, 64 lines a page of 4 KiB. The
//! low bits of a tag name two lines, in one of which its slot is; its high bits
//! find the page in a directory. When both lines are full and nothing in them can
//! move to its other line, the page splits by the next bit of the tags: a slot
//! moves to the same place in the new page or stays, no item is looked at, and
//! nothing else in the table changes. Two half empty pages that were one become
//! one again. Nothing here takes longer than the work on two pages, but for the
//! doubling of the directory, which is 2 bytes an item at most and copied flat.
//!
//! A slot that no item needs may keep the tag of one that was evicted, as a
//! *ghost*: should its key come back soon, it was evicted too early.

use std::sync::Arc;

use super::hash::{TAG_BITS, Tag};
use super::log::Location;
use super::memory::{EXTENT_BYTES, Extent, Memory};
use crate::net::lend::fetch_ahead;

/// Bytes of a slot.
const SLOT_BYTES: usize = 8;
/// Slots of a line, which is one line of the processor's cache.
const LINE_SLOTS: usize = 8;
const LINE_BYTES: usize = LINE_SLOTS * SLOT_BYTES;
/// Lines of a page.
const LINES: usize = 64;
const PAGE_SLOTS: usize = LINES * LINE_SLOTS;
const PAGE_BYTES: usize = PAGE_SLOTS * SLOT_BYTES;
const PAGES_PER_EXTENT: usize = EXTENT_BYTES / PAGE_BYTES;

/// Bits of a tag that name lines; the directory uses those above.
const LINE_BITS: u32 = 12;
/// Most bits the directory can use: two thousand million items.
const DEPTH_MAX: u32 = TAG_BITS - LINE_BITS;

/// A page with fewer items than this tries to become one with its sibling.
const MERGE_BELOW: u16 = 128;
/// Together they must hold so few that they will not split again soon.
const MERGED_MAX: u16 = 256;

/// Bits of a location.
const LOCATION_BITS: u32 = 30;
const LOCATION_MASK: u64 = (1 << LOCATION_BITS) - 1;

/// What a slot says.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Slot(u64);

impl Slot {
    const EMPTY: Self = Self(0);

    #[inline]
    fn new(tag: Tag, location: Location) -> Self {
        Self((tag.bits() << LOCATION_BITS) | u64::from(location.bits()))
    }

    #[inline]
    fn tag(self) -> Tag {
        Tag::from_bits(self.0 >> LOCATION_BITS)
    }

    #[inline]
    fn location(self) -> Location {
        Location::from_bits(low_u32(self.0 & LOCATION_MASK))
    }

    /// Whether an item lies where it points.
    #[inline]
    fn is_item(self) -> bool {
        self.location().is_item()
    }
}

/// The low 32 bits.
#[inline]
fn low_u32(value: u64) -> u32 {
    let [a, b, c, d, ..] = value.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

/// The place of a slot, until the next insertion or removal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Position {
    page: usize,
    /// Within the page.
    slot: usize,
}

/// One page's place in the directory.
#[derive(Clone, Copy, Debug)]
struct Page {
    /// The high bits that its tags have in common, `depth` of them.
    prefix: usize,
    depth: u32,
    /// Slots of items.
    items: u16,
}

/// There is no memory for another page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NoPage;

/// The table.
#[derive(Debug)]
pub(super) struct Index {
    memory: Arc<Memory>,
    /// Whether it takes memory that the limit does not allow: where items are evicted
    /// some go for it.
    ahead: bool,
    /// The page of each value of the `depth` highest bits of a tag.
    directory: Vec<u32>,
    depth: u32,
    pages: Vec<Page>,
    /// The memory of the pages, in their order, without holes.
    extents: Vec<Extent>,
}

impl Drop for Index {
    fn drop(&mut self) {
        while self.shed() {}
    }
}

/// The two lines of a tag.
#[inline]
fn lines_of(tag: Tag) -> [usize; 2] {
    let first = tag.low(6);
    [first, other_line(first, tag)]
}

/// The line of a tag that is not `line`.
#[inline]
fn other_line(line: usize, tag: Tag) -> usize {
    // Odd, so that the two always differ.
    line ^ ((tag.low(LINE_BITS) >> 6) | 1)
}

impl Index {
    /// A table without items. It takes memory with the first of them, in advance or not.
    pub(super) fn new(memory: Arc<Memory>, ahead: bool) -> Self {
        Self {
            memory,
            ahead,
            directory: vec![0],
            depth: 0,
            pages: Vec::new(),
            extents: Vec::new(),
        }
    }

    /// Bytes of memory it takes.
    pub(super) fn bytes(&self) -> usize {
        self.extents.len() * EXTENT_BYTES + self.directory.capacity() * size_of::<u32>()
    }

    /// Gives some memory back, for a table that nobody needs any more. Returns whether
    /// there was any.
    pub(super) fn shed(&mut self) -> bool {
        let extent = self.extents.pop();
        let given = extent.is_some();
        if let Some(extent) = extent {
            self.memory.give_extent(extent);
        }
        given
    }

    /// Whether it has never had an item.
    pub(super) fn is_unused(&self) -> bool {
        self.extents.is_empty()
    }

    /// Items in it; counted, for tests.
    #[cfg(test)]
    pub(super) fn items(&self) -> usize {
        self.pages.iter().map(|page| usize::from(page.items)).sum()
    }

    #[inline]
    fn page_of(&self, tag: Tag) -> usize {
        self.directory[tag.high(self.depth)] as usize
    }

    #[inline]
    fn line(&self, page: usize, line: usize) -> &[u8; LINE_BYTES] {
        let lines = self.extents[page / PAGES_PER_EXTENT].bytes().as_chunks().0;
        &lines[page % PAGES_PER_EXTENT * LINES + line]
    }

    #[inline]
    fn slots(&self, page: usize, line: usize) -> impl Iterator<Item = Slot> + '_ {
        let slots = self.line(page, line).as_chunks().0.iter();
        slots.map(|slot| Slot(u64::from_le_bytes(*slot)))
    }

    #[inline]
    fn slot(&self, position: Position) -> Slot {
        let slots = self.page(position.page).as_chunks().0;
        Slot(u64::from_le_bytes(slots[position.slot]))
    }

    #[inline]
    fn write(&mut self, position: Position, slot: Slot) {
        let page = self.page_mut(position.page);
        page.as_chunks_mut().0[position.slot] = slot.0.to_le_bytes();
    }

    fn page(&self, page: usize) -> &[u8; PAGE_BYTES] {
        let pages = self.extents[page / PAGES_PER_EXTENT].bytes().as_chunks().0;
        &pages[page % PAGES_PER_EXTENT]
    }

    fn page_mut(&mut self, page: usize) -> &mut [u8; PAGE_BYTES] {
        let pages = self.extents[page / PAGES_PER_EXTENT].bytes_mut();
        &mut pages.as_chunks_mut().0[page % PAGES_PER_EXTENT]
    }

    /// Has the processor fetch the slots where a tag can be.
    #[inline]
    pub(super) fn fetch_slots(&self, tag: Tag) {
        if !self.pages.is_empty() {
            let page = self.page_of(tag);
            for line in lines_of(tag) {
                fetch_ahead(self.line(page, line));
            }
        }
    }

    /// Finds the item of a tag that `matches`; tags alone may be equal by chance.
    #[inline]
    pub(super) fn find(
        &self,
        tag: Tag,
        mut matches: impl FnMut(Location) -> bool,
    ) -> Option<(Position, Location)> {
        if self.pages.is_empty() {
            return None;
        }
        let page = self.page_of(tag);
        for line in lines_of(tag) {
            for (at, slot) in self.slots(page, line).enumerate() {
                if slot.tag() == tag && slot.is_item() && matches(slot.location()) {
                    let slot_at = line * LINE_SLOTS + at;
                    let position = Position {
                        page,
                        slot: slot_at,
                    };
                    return Some((position, slot.location()));
                }
            }
        }
        None
    }

    /// The ghost of a tag, if there is one.
    pub(super) fn ghost(&self, tag: Tag) -> Option<Location> {
        if self.pages.is_empty() {
            return None;
        }
        let page = self.page_of(tag);
        lines_of(tag)
            .into_iter()
            .flat_map(|line| self.slots(page, line))
            .find(|slot| slot.tag() == tag && *slot != Slot::EMPTY && !slot.is_item())
            .map(Slot::location)
    }

    /// Sees to it that there is a slot for one more item with this tag. It is for
    /// [`Self::insert`], next.
    ///
    /// # Errors
    ///
    /// [`NoPage`] if that takes memory which there is not.
    pub(super) fn reserve(&mut self, tag: Tag) -> Result<Position, NoPage> {
        if self.pages.is_empty() {
            self.add_page(0, 0)?;
        }
        loop {
            let page = self.page_of(tag);
            if let Some(position) = self.free_slot(page, tag) {
                return Ok(position);
            }
            if let Some(position) = self.displace(page, tag) {
                return Ok(position);
            }
            self.split(page)?;
        }
    }

    /// A slot of one of the tag's lines that no item needs.
    fn free_slot(&self, page: usize, tag: Tag) -> Option<Position> {
        // Mostly the first line, so that mostly the first line is looked at.
        lines_of(tag)
            .into_iter()
            .find_map(|line| self.free_slot_in(page, line, tag))
    }

    fn free_slot_in(&self, page: usize, line: usize, tag: Tag) -> Option<Position> {
        let mut ghost = None;
        for (at, slot) in self.slots(page, line).enumerate() {
            if slot.is_item() {
                continue;
            }
            let slot_at = line * LINE_SLOTS + at;
            // Its own ghost goes first: there must not be two of one tag.
            if slot == Slot::EMPTY || slot.tag() == tag {
                ghost = Some(slot_at);
                break;
            }
            ghost = ghost.or(Some(slot_at));
        }
        ghost.map(|slot| Position { page, slot })
    }

    /// Frees a slot in one of the tag's lines by moving an item to its other line.
    fn displace(&mut self, page: usize, tag: Tag) -> Option<Position> {
        let (from, to) = lines_of(tag).into_iter().find_map(|line| {
            self.slots(page, line).enumerate().find_map(|(at, slot)| {
                let other = other_line(line, slot.tag());
                let to = self.free_slot_in(page, other, slot.tag())?;
                let from = line * LINE_SLOTS + at;
                Some((Position { page, slot: from }, to))
            })
        })?;
        let slot = self.slot(from);
        self.write(to, slot);
        self.write(from, Slot::EMPTY);
        Some(from)
    }

    /// Puts an item into the slot reserved for its tag.
    pub(super) fn insert(&mut self, position: Position, tag: Tag, location: Location) {
        debug_assert!(!self.slot(position).is_item() && location.is_item());
        self.write(position, Slot::new(tag, location));
        self.pages[position.page].items += 1;
    }

    /// Notes that the item of a slot lies elsewhere now.
    #[inline]
    pub(super) fn relocate(&mut self, position: Position, location: Location) {
        let slot = self.slot(position);
        debug_assert!(slot.is_item() && location.is_item());
        self.write(position, Slot::new(slot.tag(), location));
    }

    /// Forgets an item, or leaves a ghost in its place.
    pub(super) fn remove(&mut self, position: Position, ghost: Option<Location>) {
        let slot = self.slot(position);
        debug_assert!(slot.is_item() && ghost.is_none_or(|ghost| !ghost.is_item()));
        let left = ghost.map_or(Slot::EMPTY, |ghost| Slot::new(slot.tag(), ghost));
        self.write(position, left);
        let page = &mut self.pages[position.page];
        page.items -= 1;
        if page.items < MERGE_BELOW {
            self.merge(position.page);
        }
    }

    /// Adds an empty page that the directory does not know yet.
    fn add_page(&mut self, prefix: usize, depth: u32) -> Result<usize, NoPage> {
        let page = self.pages.len();
        if page == self.extents.len() * PAGES_PER_EXTENT {
            let extent = if self.ahead {
                // The items it is for are worth more than those that go for it.
                self.memory.extent_in_advance()
            } else {
                self.memory.extent()
            };
            self.extents.push(extent.ok_or(NoPage)?);
        }
        self.pages.push(Page {
            prefix,
            depth,
            items: 0,
        });
        self.page_mut(page).fill(0);
        Ok(page)
    }

    /// Makes the directory's entries for a page point to it.
    fn point_at(&mut self, page: usize) {
        let Page { prefix, depth, .. } = self.pages[page];
        let shift = self.depth - depth;
        let number = u32::try_from(page).unwrap_or(u32::MAX);
        self.directory[prefix << shift..(prefix + 1) << shift].fill(number);
    }

    /// Moves half of a page's items to a new page.
    fn split(&mut self, page: usize) -> Result<(), NoPage> {
        let Page { prefix, depth, .. } = self.pages[page];
        if depth == DEPTH_MAX {
            return Err(NoPage);
        }
        let new = self.add_page(prefix << 1 | 1, depth + 1)?;
        if depth == self.depth {
            self.directory = self.directory.iter().flat_map(|&at| [at, at]).collect();
            self.depth += 1;
        }
        let mut old_page = *self.page(page);
        let mut new_page = [0u8; PAGE_BYTES];
        let mut moved = 0;
        let slots = old_page.as_chunks_mut::<SLOT_BYTES>().0.iter_mut();
        let places = new_page.as_chunks_mut::<SLOT_BYTES>().0.iter_mut();
        for (slot, place) in slots.zip(places) {
            let value = Slot(u64::from_le_bytes(*slot));
            if value.tag().high(depth + 1) & 1 == 1 {
                moved += u16::from(value.is_item());
                *place = std::mem::take(slot);
            }
        }
        *self.page_mut(page) = old_page;
        *self.page_mut(new) = new_page;
        self.pages[new].items = moved;
        let old = &mut self.pages[page];
        old.prefix = prefix << 1;
        old.depth = depth + 1;
        old.items -= moved;
        self.point_at(new);
        Ok(())
    }

    /// Makes a page one with its sibling, if they are a page's fill together.
    fn merge(&mut self, page: usize) {
        let Page {
            prefix,
            depth,
            items,
        } = self.pages[page];
        if depth == 0 {
            return;
        }
        let sibling = self.directory[(prefix ^ 1) << (self.depth - depth)] as usize;
        let other = self.pages[sibling];
        if other.depth != depth || items + other.items > MERGED_MAX {
            return;
        }
        let Some(merged) = merged(self.page(page), self.page(sibling)) else {
            return;
        };
        let keep = page.min(sibling);
        *self.page_mut(keep) = merged;
        self.pages[keep] = Page {
            prefix: prefix >> 1,
            depth: depth - 1,
            items: items + other.items,
        };
        self.point_at(keep);
        self.drop_page(page.max(sibling));
    }

    /// Drops a page that the directory does not know any more; the last one takes
    /// its place.
    fn drop_page(&mut self, page: usize) {
        let last = self.pages.len() - 1;
        if page != last {
            let bytes = *self.page(last);
            *self.page_mut(page) = bytes;
            self.pages[page] = self.pages[last];
            self.point_at(page);
        }
        self.pages.pop();
        if last.is_multiple_of(PAGES_PER_EXTENT)
            && let Some(extent) = self.extents.pop()
        {
            self.memory.give_extent(extent);
        }
    }
}

/// The slots of two pages in one; `None` if the lines of one are too full.
fn merged(page: &[u8; PAGE_BYTES], other: &[u8; PAGE_BYTES]) -> Option<[u8; PAGE_BYTES]> {
    let mut merged = *page;
    let slots = merged.as_chunks_mut::<SLOT_BYTES>().0;
    for slot in other.as_chunks::<SLOT_BYTES>().0 {
        let value = Slot(u64::from_le_bytes(*slot));
        if !value.is_item() {
            continue;
        }
        let place = lines_of(value.tag())
            .into_iter()
            .flat_map(|line| line * LINE_SLOTS..(line + 1) * LINE_SLOTS)
            .find(|&at| !Slot(u64::from_le_bytes(slots[at])).is_item())?;
        slots[place] = *slot;
    }
    Some(merged)
}

#[cfg(test)]
mod tests;
