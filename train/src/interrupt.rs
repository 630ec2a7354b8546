//! Ctrl-C: a run saves and stops at the next step.

use std::sync::{
    OnceLock,
    atomic::{AtomicBool, Ordering},
};

use anyhow::{Context, Result};

static REQUESTED: AtomicBool = AtomicBool::new(false);
static HANDLER: OnceLock<()> = OnceLock::new();

/// From now on Ctrl-C and termination only ask to stop; the second time they end the program.
pub fn listen() -> Result<()> {
    if HANDLER.set(()).is_err() {
        return Ok(());
    }
    ctrlc::set_handler(|| {
        if REQUESTED.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
        log::warn!("stopping after this step; again to stop at once");
    })
    .context("listening for Ctrl-C")
}

/// Whether somebody asked to stop.
pub fn requested() -> bool {
    REQUESTED.load(Ordering::Relaxed)
}
