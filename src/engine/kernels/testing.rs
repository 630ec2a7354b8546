//! What the tests of both operators share: numbers that try the limits, and memory whose borders nothing may cross.

use std::ops::{Deref, DerefMut};

use proptest::prelude::*;

use super::Aligned;

/// A plain generator (xorshift64*), so that a failing case prints as one seed and not as its numbers.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    pub fn vec<T>(&mut self, length: usize, mut value: impl FnMut(u64) -> T) -> Vec<T> {
        (0..length).map(|_| value(self.next())).collect()
    }

    pub fn inputs(&mut self, length: usize, values: Values) -> Vec<u8> {
        self.vec(length, |n| match values {
            Values::Any => n as u8,
            Values::Extreme | Values::Symmetric => [0, 0, 0, 255][n as usize % 4],
        })
    }

    pub fn weights(&mut self, length: usize, values: Values) -> Vec<i8> {
        self.vec(length, |n| match values {
            Values::Any => n as i8,
            Values::Extreme => [-128, -128, -128, 127][n as usize % 4],
            Values::Symmetric => [-127, -127, -127, 127][n as usize % 4],
        })
    }

    /// Small ones, and now and then that of a channel which is dead: far below zero.
    pub fn biases(&mut self, length: usize) -> Vec<i32> {
        self.vec(length, |n| {
            if n % 32 == 0 { i32::from((n >> 8) as u16) - (1 << 30) - (1 << 16) } else { n as i16 as i32 }
        })
    }

    /// Multipliers that spread sums of so many products over a few hundred steps, more or less.
    pub fn multipliers(&mut self, length: usize, products: usize) -> Vec<f32> {
        let usual = 1.0 / (40.0 * (products as f32).sqrt());
        self.vec(length, |n| usual * 2f32.powi((n % 8) as i32 - 5) * (1.0 + (n >> 8) as u8 as f32 / 256.0))
    }
}

#[derive(Debug, Clone, Copy)]
pub enum Values {
    Any,
    /// The ends of their ranges.
    Extreme,
    /// The same, but no weight of −128.
    Symmetric,
}

pub fn values() -> impl Strategy<Value = Values> {
    prop_oneof![Just(Values::Any), Just(Values::Extreme), Just(Values::Symmetric)]
}

pub fn zero_point() -> impl Strategy<Value = u8> {
    prop_oneof![Just(0), Just(255), any::<u8>()]
}

/// Where a buffer touches memory that must not be touched.
#[derive(Debug, Clone, Copy)]
pub enum Edge {
    Before,
    After,
}

pub const EDGES: [Edge; 2] = [Edge::Before, Edge::After];

/// A buffer next to a page that can neither be read nor written.
pub struct Guarded<T> {
    data: *mut T,
    length: usize,
    #[cfg(all(unix, not(miri)))]
    map: (*mut libc::c_void, usize),
}

#[cfg(all(unix, not(miri)))]
impl<T: Copy> Guarded<T> {
    pub fn new(values: &[T], edge: Edge) -> Self {
        // SAFETY: a fresh private mapping of three parts, the middle one large enough for the values, which start at
        // its first byte or end at its last; both are aligned, since pages are.
        unsafe {
            let page = libc::sysconf(libc::_SC_PAGESIZE) as usize;
            let bytes = size_of_val(values);
            let middle = bytes.max(1).next_multiple_of(page);
            let length = middle + 2 * page;
            let map = libc::mmap(
                std::ptr::null_mut(),
                length,
                libc::PROT_NONE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            );
            assert_ne!(map, libc::MAP_FAILED);
            let start = map.byte_add(page);
            assert_eq!(libc::mprotect(start, middle, libc::PROT_READ | libc::PROT_WRITE), 0);
            let data = match edge {
                Edge::Before => start,
                Edge::After => start.byte_add(middle - bytes),
            };
            let data = data.cast::<T>();
            data.copy_from_nonoverlapping(values.as_ptr(), values.len());
            Self { data, length: values.len(), map: (map, length) }
        }
    }
}

#[cfg(all(unix, not(miri)))]
impl<T> Drop for Guarded<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping is this buffer's own.
        unsafe { libc::munmap(self.map.0, self.map.1) };
    }
}

#[cfg(not(all(unix, not(miri))))]
impl<T: Copy> Guarded<T> {
    pub fn new(values: &[T], _edge: Edge) -> Self {
        let values = Box::<[T]>::from(values);
        Self { length: values.len(), data: Box::into_raw(values).cast() }
    }
}

#[cfg(not(all(unix, not(miri))))]
impl<T> Drop for Guarded<T> {
    fn drop(&mut self) {
        // SAFETY: the pointer and the length of the box it was.
        drop(unsafe { Box::from_raw(std::ptr::slice_from_raw_parts_mut(self.data, self.length)) });
    }
}

impl<T: Copy> Guarded<T> {
    /// Moves the values next to a guard page.
    ///
    /// # Safety
    /// From then on `values` are neither dropped, nor used after what this returns.
    pub unsafe fn replace(values: &mut Aligned<T>, edge: Edge) -> Self {
        let guarded = Self::new(values, edge);
        // SAFETY: so many values are there, and the caller promises that nothing hands them to the allocator.
        let moved = unsafe { Vec::from_raw_parts(guarded.data, guarded.length, guarded.length) };
        *values = Aligned::in_place(moved);
        guarded
    }
}

impl<T> Deref for Guarded<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: `new` filled so many values.
        unsafe { std::slice::from_raw_parts(self.data, self.length) }
    }
}

impl<T> DerefMut for Guarded<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as above, and the buffer is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.data, self.length) }
    }
}
