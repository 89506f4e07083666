//! Values under numbers that are used again.

use super::item::low;

/// A table that hands out small numbers for what is put into it.
#[derive(Debug)]
pub(super) struct Table<T> {
    entries: Vec<Option<T>>,
    free: Vec<u32>,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self {
            entries: Vec::new(),
            free: Vec::new(),
        }
    }
}

impl<T> Table<T> {
    /// Keeps a value; returns its number.
    pub(super) fn insert(&mut self, value: T) -> u32 {
        let number = self.free.pop().unwrap_or_else(|| {
            self.entries.push(None);
            low(self.entries.len() - 1)
        });
        self.entries[number as usize] = Some(value);
        number
    }

    /// Values in it, for tests.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    /// The value of a number.
    pub(super) fn get(&self, number: u32) -> Option<&T> {
        self.entries.get(number as usize)?.as_ref()
    }

    /// Takes any value out of a table that nobody needs any more.
    pub(super) fn pop(&mut self) -> Option<T> {
        std::iter::from_fn(|| self.entries.pop()).find_map(|value| value)
    }

    /// Takes a value out. An empty table holds no memory.
    pub(super) fn remove(&mut self, number: u32) -> Option<T> {
        let value = self.entries.get_mut(number as usize)?.take()?;
        self.free.push(number);
        if self.free.len() == self.entries.len() {
            *self = Self::default();
        }
        Some(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_used_again() {
        let mut table = Table::default();
        let (a, b) = (table.insert('a'), table.insert('b'));
        assert_eq!((table.get(a), table.get(b)), (Some(&'a'), Some(&'b')));
        assert_eq!(table.remove(a), Some('a'));
        assert_eq!(table.remove(a), None);
        assert_eq!(table.get(a), None);
        assert_eq!(table.insert('c'), a);
        table.remove(b);
        assert_eq!((table.pop(), table.pop()), (Some('c'), None));
    }
}
