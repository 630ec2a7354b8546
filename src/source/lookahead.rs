//! A stream of bytes that can be looked at before it is consumed.

use std::io::{self, Read};

const READ_SIZE: usize = 64 << 10;

/// Bytes read ahead of what was consumed.
pub struct Lookahead<R> {
    input: R,
    /// Longer than what was read, so that it needn't be cleared for each read.
    buffer: Vec<u8>,
    /// Where in `buffer` the bytes begin that were not consumed.
    start: usize,
    /// Where in `buffer` the bytes end that were read.
    end: usize,
}

impl<R: Read> Lookahead<R> {
    pub fn new(input: R) -> Self {
        Self { input, buffer: Vec::new(), start: 0, end: 0 }
    }

    /// What was read and not consumed.
    pub fn bytes(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    pub fn consume(&mut self, count: usize) {
        self.start = self.start.saturating_add(count).min(self.end);
    }

    /// Consumes the first `count` bytes and gives them; they stay until the next call of [`Lookahead::fill`].
    pub fn take(&mut self, count: usize) -> &[u8] {
        let taken = self.start..self.start.saturating_add(count).min(self.end);
        self.start = taken.end;
        &self.buffer[taken]
    }

    /// Reads on; false at the end of the stream. After an error, it may be tried again.
    pub fn fill(&mut self) -> io::Result<bool> {
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        let full = self.end + READ_SIZE;
        if self.buffer.len() < full {
            self.buffer.resize(full, 0);
        }
        loop {
            match self.input.read(&mut self.buffer[self.end..full]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => {
                    let count = read?;
                    self.end += count;
                    return Ok(count > 0);
                }
            }
        }
    }

    #[cfg(test)]
    pub fn capacity(&self) -> usize {
        self.buffer.capacity()
    }
}
