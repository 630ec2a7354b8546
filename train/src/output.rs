//! What commands say on standard output.

use std::io::{ErrorKind, Write, stdout};

use anyhow::{Context, Result};

/// Writes `text`; nobody reading any more is no error.
pub fn print(text: &str) -> Result<()> {
    let mut out = stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written.context("writing to standard output"),
    }
}
