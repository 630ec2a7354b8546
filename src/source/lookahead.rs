//! A stream of bytes that can be looked at before it is consumed.

use std::io::{self, Read};

const READ_SIZE: usize = 64 << 10;

/// Bytes read ahead of what was consumed.
pub struct Lookahead<R> {
    input: R,
    buffer: Vec<u8>,
    /// Where in `buffer` the bytes begin that were not consumed.
    start: usize,
}

impl<R: Read> Lookahead<R> {
    pub fn new(input: R) -> Self {
        Self { input, buffer: Vec::new(), start: 0 }
    }

    /// What was read and not consumed.
    pub fn bytes(&self) -> &[u8] {
        &self.buffer[self.start..]
    }

    pub fn consume(&mut self, count: usize) {
        self.start = self.start.saturating_add(count).min(self.buffer.len());
    }

    /// Consumes the first `count` bytes and gives them; they stay until the next call of [`Lookahead::fill`].
    pub fn take(&mut self, count: usize) -> &[u8] {
        let taken = self.start..self.start.saturating_add(count).min(self.buffer.len());
        self.start = taken.end;
        &self.buffer[taken]
    }

    /// Reads on; false at the end of the stream. After an error, it may be tried again.
    pub fn fill(&mut self) -> io::Result<bool> {
        self.buffer.drain(..self.start);
        self.start = 0;
        let filled = self.buffer.len();
        self.buffer.resize(filled + READ_SIZE, 0);
        let read = loop {
            match self.input.read(&mut self.buffer[filled..]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => break read,
            }
        };
        self.buffer.truncate(filled + *read.as_ref().unwrap_or(&0));
        Ok(read? > 0)
    }

    #[cfg(test)]
    pub fn capacity(&self) -> usize {
        self.buffer.capacity()
    }
}
