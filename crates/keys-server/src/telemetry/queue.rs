//! The bounded queue of log lines, and the thread that writes them.

use std::io::{self, ErrorKind, Write};
use std::mem;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::sampler::{Sampler, WINDOW};

/// Maximum bytes of lines that wait to be written, about 6,000 lines. Further lines are dropped.
pub(super) const BYTES_MAX: usize = 1024 * 1024;

/// Capacity that an idle buffer keeps.
const IDLE_BYTES_MAX: usize = 64 * 1024;

/// Interval between two attempts to write if standard error is in non-blocking mode.
const RETRY: Duration = Duration::from_millis(10);

/// Lines that wait for the writer.
#[derive(Debug, Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    /// Wakes the writer.
    work: Condvar,
    /// Wakes the end of the program.
    progress: Condvar,
    dropped_total: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    bytes: Vec<u8>,
    is_writing: bool,
    /// Set while the sampler needs to be called once a second.
    wants_ticks: bool,
    is_ending: bool,
    /// Dropped lines that the log has not reported yet.
    untold: u64,
    /// Counts successful writes.
    written: u64,
}

impl Queue {
    /// Adds complete lines, or drops them if there is no room. Blocks only for copying them.
    pub(super) fn push(&self, lines: &[u8]) {
        let mut state = self.lock();
        if state.bytes.len() + lines.len() > BYTES_MAX {
            self.count_dropped(&mut state, count_lines(lines));
            return;
        }
        let was_empty = state.bytes.is_empty();
        state.bytes.extend_from_slice(lines);
        drop(state);
        if was_empty {
            self.work.notify_one();
        }
    }

    /// Makes the writer call the sampler once a second, until it has nothing left.
    pub(super) fn want_ticks(&self) {
        let mut state = self.lock();
        if !state.wants_ticks {
            state.wants_ticks = true;
            drop(state);
            self.work.notify_one();
        }
    }

    pub(super) fn dropped_total(&self) -> u64 {
        self.dropped_total.load(Ordering::Relaxed)
    }

    /// Waits until everything is written, or until nothing has been written for as long as
    /// `patience`.
    pub(super) fn finish(&self, patience: Duration) {
        let mut state = self.lock();
        state.is_ending = true;
        self.work.notify_one();
        let mut written = state.written;
        let mut give_up = Instant::now() + patience;
        while state.is_ending || state.is_writing || !state.bytes.is_empty() {
            if state.written != written {
                written = state.written;
                give_up = Instant::now() + patience;
            }
            let left = give_up.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let waited = self.progress.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count_dropped(&self, state: &mut State, lines: u64) {
        state.untold += lines;
        self.dropped_total.fetch_add(lines, Ordering::Relaxed);
    }

    /// Moves the waiting lines into `batch`, and returns what else to do.
    fn take(&self, batch: &mut Vec<u8>, next_tick: Instant) -> Todo {
        let mut state = self.lock();
        loop {
            let left = next_tick.saturating_duration_since(Instant::now());
            if state.wants_ticks && left.is_zero() {
                state.wants_ticks = false;
                return Todo::Tick;
            }
            if !state.bytes.is_empty() {
                mem::swap(&mut state.bytes, batch);
                state.is_writing = true;
                return Todo::Write;
            }
            if state.is_ending {
                return Todo::End;
            }
            state = if state.wants_ticks {
                let waited = self.work.wait_timeout(state, left);
                waited.unwrap_or_else(PoisonError::into_inner).0
            } else {
                let waited = self.work.wait(state);
                waited.unwrap_or_else(PoisonError::into_inner)
            };
        }
    }

    /// Records the result of a write. Returns the number of dropped lines that the log has to
    /// report.
    fn wrote(&self, lost: u64) -> u64 {
        let mut state = self.lock();
        state.is_writing = false;
        state.written += 1;
        let untold = if lost == 0 {
            mem::take(&mut state.untold)
        } else {
            self.count_dropped(&mut state, lost);
            0
        };
        drop(state);
        self.progress.notify_all();
        untold
    }
}

enum Todo {
    Write,
    Tick,
    End,
}

/// Starts the thread that writes. It ends with the process.
pub(super) fn spawn_writer(
    queue: &Arc<Queue>,
    sampler: &Arc<Sampler>,
    mut output: impl Write + Send + 'static,
) -> io::Result<()> {
    let (queue, sampler) = (Arc::clone(queue), Arc::clone(sampler));
    thread::Builder::new()
        .name("keys-log".into())
        .spawn(move || {
            let mut batch = Vec::new();
            let mut next_tick = Instant::now();
            loop {
                match queue.take(&mut batch, next_tick) {
                    Todo::Write => {
                        let lost = write(&mut output, &batch);
                        batch.clear();
                        batch.shrink_to(IDLE_BYTES_MAX);
                        let dropped = queue.wrote(lost);
                        if dropped > 0 {
                            tracing::warn!(
                                dropped,
                                "{dropped} lines of the log are missing here: the reader of standard error did not take them"
                            );
                        }
                    }
                    Todo::Tick => {
                        next_tick = Instant::now() + WINDOW;
                        if sampler.tell() {
                            queue.want_ticks();
                        }
                    }
                    Todo::End => {
                        sampler.tell_all();
                        let mut state = queue.lock();
                        state.is_ending = false;
                        drop(state);
                        queue.progress.notify_all();
                    }
                }
            }
        })?;
    Ok(())
}

/// Writes all lines. Returns how many of them were lost because the output failed.
fn write(output: &mut impl Write, lines: &[u8]) -> u64 {
    let mut left = lines;
    while !left.is_empty() {
        match output.write(left) {
            Ok(0) => return count_lines(left),
            Ok(length) => left = &left[length..],
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(RETRY),
            // The reader has closed the pipe or the disk is full. The next batch tries again.
            Err(_) => return count_lines(left),
        }
    }
    let _ = output.flush();
    0
}

fn count_lines(lines: &[u8]) -> u64 {
    let lines = lines.split_inclusive(|byte| *byte == b'\n').count();
    u64::try_from(lines).unwrap_or(u64::MAX)
}

/// A writer for one formatted event.
pub(super) struct Line(pub(super) Arc<Queue>);

impl Write for Line {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
