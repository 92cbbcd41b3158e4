//! A list that one side appends to and others read as it was a moment ago. What was appended never changes, so that a reader's copy shares
//! all of it but the last few.

use std::sync::Arc;

/// How many are shared at once.
const CHUNK: usize = 1024;

/// The list, at the side that appends.
#[derive(Debug)]
pub(super) struct Growing<T> {
    full: Vec<Arc<[T]>>,
    tail: Vec<T>,
}

impl<T> Default for Growing<T> {
    fn default() -> Self {
        Self { full: Vec::new(), tail: Vec::new() }
    }
}

impl<T: Clone> Growing<T> {
    pub(super) fn push(&mut self, item: T) {
        self.tail.push(item);
    }

    pub(super) fn len(&self) -> usize {
        self.full.len() * CHUNK + self.tail.len()
    }

    /// Forgets all past the first `length`. Only what was appended since the last [`Self::look`] can be forgotten.
    pub(super) fn forget_past(&mut self, length: usize) {
        self.tail.truncate(length.saturating_sub(self.full.len() * CHUNK));
    }

    /// The list as it is now.
    pub(super) fn look(&mut self) -> Grown<T> {
        while self.tail.len() >= CHUNK {
            let rest = self.tail.split_off(CHUNK);
            self.full.push(std::mem::replace(&mut self.tail, rest).into());
        }
        Grown { full: self.full.clone(), tail: self.tail.as_slice().into() }
    }
}

/// The list as it was.
#[derive(Debug, Clone)]
pub(super) struct Grown<T> {
    full: Vec<Arc<[T]>>,
    tail: Arc<[T]>,
}

impl<T> Grown<T> {
    pub(super) fn len(&self) -> usize {
        self.full.len() * CHUNK + self.tail.len()
    }

    pub(super) fn get(&self, index: usize) -> Option<&T> {
        match self.full.get(index / CHUNK) {
            Some(chunk) => chunk.get(index % CHUNK),
            None => self.tail.get(index - self.full.len() * CHUNK),
        }
    }

    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = &T> {
        self.full.iter().flat_map(|chunk| chunk.iter()).chain(self.tail.iter())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_stays_as_it_was() {
        let mut growing = Growing::default();
        let mut looks = Vec::new();
        for number in 0..3000_usize {
            growing.push(number);
            if number % 700 == 0 {
                looks.push(growing.look());
            }
        }
        for (index, look) in looks.iter().enumerate() {
            assert_eq!(look.len(), index * 700 + 1);
            assert!(look.iter().copied().eq(0..look.len()));
            assert!((0..look.len()).all(|index| look.get(index) == Some(&index)) && look.get(look.len()).is_none());
        }
        let length = growing.len();
        let before = growing.look();
        (0..5).for_each(|_| growing.push(7));
        growing.forget_past(length);
        assert!(growing.look().iter().eq(before.iter()));
    }
}
