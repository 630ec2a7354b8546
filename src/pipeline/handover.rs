//! How threads hand things to each other and are asked to end.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use crossbeam::{
    channel::{self, Receiver, RecvTimeoutError, Sender, TryRecvError, TrySendError},
    select,
};

/// Asks all threads to end. Clones share one state.
#[derive(Debug, Clone)]
pub struct Stop {
    /// Nothing is ever sent: dropping the sender wakes everyone who waits on `signal`.
    held: Arc<Mutex<Option<Sender<Infallible>>>>,
    pub(super) signal: Receiver<Infallible>,
}

impl Default for Stop {
    fn default() -> Self {
        let (sender, signal) = channel::bounded(0);
        Self { held: Arc::new(Mutex::new(Some(sender))), signal }
    }
}

impl Stop {
    pub fn request(&self) {
        lock(&self.held).take();
    }

    pub fn requested(&self) -> bool {
        self.signal.try_recv() == Err(TryRecvError::Disconnected)
    }

    /// Requests the stop when dropped, also by a panic.
    pub(super) fn at_end_of_scope(&self) -> impl Drop + '_ {
        struct Guard<'a>(&'a Stop);
        impl Drop for Guard<'_> {
            fn drop(&mut self) {
                self.0.request();
            }
        }
        Guard(self)
    }

    /// Waits until the stop is requested.
    pub(super) fn wait(&self) {
        // Always an error: nothing is ever sent.
        let _ = self.signal.recv();
    }

    /// Sleeps until `due`; false if asked to stop before.
    pub(super) fn sleep_until(&self, due: Instant) -> bool {
        self.signal.recv_deadline(due) != Err(RecvTimeoutError::Disconnected)
    }
}

/// The writing end of a one-item hand-over.
///
/// There is only one writer. So once the unread item is out, taken by the reader or by
/// [`SlotWriter::replace`], the slot is empty until this writer fills it.
pub(super) struct SlotWriter<T> {
    sender: Sender<T>,
    unread: Receiver<T>,
}

pub(super) fn slot<T>() -> (SlotWriter<T>, Receiver<T>) {
    let (sender, receiver) = channel::bounded(1);
    (SlotWriter { sender, unread: receiver.clone() }, receiver)
}

impl<T> SlotWriter<T> {
    /// Puts `item` in, in place of an unread one, which is returned. Never blocks.
    pub(super) fn replace(&self, item: T) -> Option<T> {
        let Err(TrySendError::Full(item)) = self.sender.try_send(item) else { return None };
        let unread = self.unread.try_recv().ok();
        // Cannot be full: see above. Cannot be disconnected: `self.unread` is a receiver.
        let _ = self.sender.try_send(item);
        unread
    }

    /// Waits until the slot is empty, then puts `item` in; false if asked to stop before.
    pub(super) fn wait(&self, item: T, stop: &Stop) -> bool {
        select! {
            send(self.sender, item) -> sent => sent.is_ok(),
            recv(stop.signal) -> _ => false,
        }
    }
}

/// Locks a mutex whose data stays valid even if a thread panicked while it held the lock.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
