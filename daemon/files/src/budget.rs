//! How much may wait for its turn when work is done in any order but delivered in one.

use std::sync::{Condvar, Mutex, PoisonError};

/// Bytes that may wait. A single piece may be larger.
const LIMIT: usize = 8 << 20;

/// Counts what waits, and lets those wait who would make it too much; never the one whose turn it is, so that there is always progress.
#[derive(Debug, Default)]
pub(crate) struct Budget {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    turn: u64,
    waiting: usize,
    over: bool,
}

impl Budget {
    /// Waits until the task numbered `task` may hand over `bytes`. False when nobody wants them any more.
    pub(crate) fn take(&self, task: u64, bytes: usize) -> bool {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let full = |state: &mut State| !state.over && state.turn != task && state.waiting + bytes > LIMIT;
        let mut state = self.changed.wait_while(state, full).unwrap_or_else(PoisonError::into_inner);
        state.waiting += bytes;
        !state.over
    }

    /// Notes that `bytes` were delivered.
    pub(crate) fn give(&self, bytes: usize) {
        self.change(|state| state.waiting = state.waiting.saturating_sub(bytes));
    }

    /// Says whose turn it is.
    pub(crate) fn turn(&self, task: u64) {
        self.change(|state| state.turn = task);
    }

    /// Ends all waiting.
    pub(crate) fn close(&self) {
        self.change(|state| state.over = true);
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::sync_channel;
    use std::time::Duration;

    #[test]
    fn only_those_out_of_turn_wait() {
        let budget = Budget::default();
        assert!(budget.take(1, LIMIT));
        assert!(budget.take(0, LIMIT), "whose turn it is never waits");
        std::thread::scope(|scope| {
            let (done, waited) = sync_channel(1);
            let budget = &budget;
            scope.spawn(move || done.send(budget.take(1, 1)).unwrap());
            assert!(waited.recv_timeout(Duration::from_millis(100)).is_err());
            budget.turn(1);
            assert!(waited.recv_timeout(Duration::from_secs(60)).unwrap());
        });
        budget.close();
        assert!(!budget.take(7, LIMIT));
    }
}
