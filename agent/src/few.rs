//! A queue that is empty, as a rule: then it takes the room of one pointer.
//!
//! Not for: queues that are used all the time. [`crate::tail`] has several in each of 100,000 files.

use std::collections::{VecDeque, vec_deque};

/// The queue.
#[derive(Debug)]
#[expect(
    clippy::box_collection,
    reason = "the room of an empty one is what this is about"
)]
pub(crate) struct Few<T>(Option<Box<VecDeque<T>>>);

impl<T> Default for Few<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T> From<Vec<T>> for Few<T> {
    fn from(items: Vec<T>) -> Self {
        Self((!items.is_empty()).then(|| Box::new(items.into())))
    }
}

impl<T> Few<T> {
    /// Whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |items| items.len())
    }

    /// The oldest.
    pub(crate) fn front(&self) -> Option<&T> {
        self.0.as_ref()?.front()
    }

    /// Takes the oldest.
    pub(crate) fn pop_front(&mut self) -> Option<T> {
        let front = self.0.as_mut()?.pop_front();
        self.tidy();
        front
    }

    /// Adds the youngest.
    pub(crate) fn push_back(&mut self, item: T) {
        self.0.get_or_insert_default().push_back(item);
    }

    /// Keeps those that fit.
    pub(crate) fn retain(&mut self, fits: impl FnMut(&T) -> bool) {
        if let Some(items) = &mut self.0 {
            items.retain(fits);
        }
        self.tidy();
    }

    /// Oldest first.
    pub(crate) fn iter(&self) -> vec_deque::Iter<'_, T> {
        self.0
            .as_deref()
            .map_or_else(Default::default, VecDeque::iter)
    }

    /// An empty one has no room.
    fn tidy(&mut self) {
        if self.0.as_ref().is_some_and(|items| items.is_empty()) {
            self.0 = None;
        }
    }
}

impl<'a, T> IntoIterator for &'a Few<T> {
    type Item = &'a T;
    type IntoIter = vec_deque::Iter<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_a_queue_and_an_empty_one_has_no_room() {
        let mut few: Few<u8> = vec![1, 2].into();
        few.push_back(3);
        few.retain(|item| *item != 2);
        assert_eq!(few.iter().copied().collect::<Vec<_>>(), [1, 3]);
        assert_eq!((few.front(), few.len()), (Some(&1), 2));
        assert_eq!((few.pop_front(), few.pop_front()), (Some(1), Some(3)));
        assert!(few.is_empty() && few.0.is_none() && few.iter().next().is_none());
        assert!(few.pop_front().is_none() && Few::<u8>::from(Vec::new()).is_empty());
        assert_eq!(size_of_val(&few), size_of::<usize>());
    }
}
