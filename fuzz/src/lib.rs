//! What the fuzz targets share: limits on memory and time, and streams that come in pieces.

use std::{
    alloc::System,
    io::{self, Read},
    time::Duration,
};

use cap::Cap;
use cpu_time::ThreadTime;

#[global_allocator]
static HEAP: Cap<System> = Cap::new(System, usize::MAX);

/// The CPU time that any work may take: hundreds of times what it needs, and far less than work whose time grows with
/// the square of its input.
const MOST_TIME: Duration = Duration::from_secs(5);

/// Does `work`, and crashes once it holds more than `budget` bytes at a time, or if it has taken too long.
pub fn within<T>(budget: usize, work: impl FnOnce() -> T) -> T {
    let limit = HEAP.allocated().saturating_add(budget);
    HEAP.set_limit(limit).expect("more than is in use");
    let start = ThreadTime::now();
    let done = work();
    let taken = start.elapsed();
    HEAP.set_limit(usize::MAX).expect("more than is in use");
    assert!(taken <= MOST_TIME, "it took {taken:?}");
    done
}

/// After so many reads the rest comes as fast as it is asked for: a reader may clear a buffer for each.
const SHORT_READS: usize = 64;

/// A stream as a pipe or a connection hands it out.
pub struct Pieces<R> {
    rest: R,
    /// The most bytes of each read, over and over; 0 stands for as many as are asked for.
    steps: [u8; 4],
    reads: usize,
}

impl<R: Read> Pieces<R> {
    pub fn new(rest: R, steps: [u8; 4]) -> Self {
        Self { rest, steps, reads: 0 }
    }
}

impl<R: Read> Read for Pieces<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let step = match self.steps[self.reads % self.steps.len()] {
            step if step > 0 && self.reads < SHORT_READS => buffer.len().min(step.into()),
            _ => buffer.len(),
        };
        self.reads += 1;
        self.rest.read(&mut buffer[..step])
    }
}

/// The same bytes again and again.
pub struct Repeated<'a> {
    bytes: &'a [u8],
    rest: &'a [u8],
    times: usize,
}

impl<'a> Repeated<'a> {
    /// `bytes` so often that they make at least `total`.
    pub fn new(bytes: &'a [u8], total: usize) -> Self {
        Self { bytes, rest: &[], times: total.checked_div(bytes.len()).map_or(0, |times| times + 1) }
    }
}

impl Read for Repeated<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            if self.rest.is_empty() {
                let Some(times) = self.times.checked_sub(1) else { break };
                (self.times, self.rest) = (times, self.bytes);
            }
            filled += self.rest.read(&mut buffer[filled..])?;
        }
        Ok(filled)
    }
}

/// How a stream is read, and the stream.
pub fn split(input: &[u8]) -> Option<([u8; 4], &[u8])> {
    input.split_first_chunk().map(|(steps, stream)| (*steps, stream))
}

/// Where `piece` begins in `bytes`, not before `from`.
pub fn position(bytes: &[u8], piece: &[u8], from: usize) -> Option<usize> {
    memchr::memmem::find(bytes.get(from..)?, piece).map(|at| from + at)
}
