//! Where events go: every reporter hears every event, in one order.

use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use stickler_reports::{Event, Record, Reporter};

/// The reporters of a run, shared by everything that has something to tell.
#[derive(Clone)]
pub struct Sink(Arc<Mutex<Vec<Box<dyn Reporter>>>>);

impl Sink {
    /// All of these hear every event.
    pub fn new(reporters: Vec<Box<dyn Reporter>>) -> Self {
        Self(Arc::new(Mutex::new(reporters)))
    }

    /// Tells an event, dated now.
    pub fn tell(&self, event: Event) {
        let mut reporters = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Dated under the lock, so that the order of times is the order of lines.
        let record = Record { at: Timestamp::now(), event };
        for reporter in reporters.iter_mut() {
            reporter.hear(&record);
        }
    }
}
