use std::ops::{Deref, DerefMut};

/// Values that start at the beginning of a cache line, so that loads of whole vectors never need two lines.
#[derive(Debug, Default)]
pub struct Aligned<T> {
    values: Vec<T>,
    /// Values before those that count.
    start: usize,
}

/// Bytes of a cache line, and of the widest vector.
const LINE: usize = 64;

impl<T: Copy + Default> From<Vec<T>> for Aligned<T> {
    fn from(values: Vec<T>) -> Self {
        let most = LINE / size_of::<T>();
        let mut aligned: Vec<T> = Vec::with_capacity(most + values.len());
        // The vector doesn't move any more: it never grows beyond its capacity.
        let start = aligned.as_ptr().align_offset(LINE).min(most);
        aligned.resize(start, T::default());
        aligned.extend(values);
        Self { values: aligned, start }
    }
}

impl<T: Copy + Default> Clone for Aligned<T> {
    fn clone(&self) -> Self {
        Self::from(self.to_vec())
    }
}

impl<T> Deref for Aligned<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.values[self.start..]
    }
}

impl<T> DerefMut for Aligned<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.values[self.start..]
    }
}

#[cfg(test)]
impl<T> Aligned<T> {
    /// The same with the values in other memory.
    pub fn in_place(values: Vec<T>) -> Self {
        Self { values, start: 0 }
    }
}
