//! Whether another process follows the changes of the same file.
//!
//! Within one process its feeds know of each other. Heartbeats between processes would have to be written to the file, which
//! costs a wait for the disk each; instead, locks on two empty files beside it, which the system releases when a
//! process ends, tell whether there is anybody else at all. Where there is, nobody claims to know how far they are.

use std::fs::{File, OpenOptions};
use std::io;
#[cfg(unix)]
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How often to ask for the first place when somebody has it: it may be someone who only looks whether it is taken.
const ATTEMPTS: usize = 5;
const BETWEEN_ATTEMPTS: Duration = Duration::from_millis(10);

/// What this store holds of the locks.
pub(crate) struct Presence {
    /// Locked by whoever came first.
    first: PathBuf,
    /// Locked, shared, by all others.
    others: PathBuf,
    held: Mutex<Option<Held>>,
}

enum Held {
    First(#[expect(dead_code, reason = "held, not used")] File),
    Other(#[expect(dead_code, reason = "held, not used")] File),
}

impl Presence {
    pub(crate) fn new(database: &str) -> Self {
        Self {
            first: format!("{database}-feed.lock").into(),
            others: format!("{database}-feeds.lock").into(),
            held: Mutex::new(None),
        }
    }

    /// Lets other processes know, before anything is followed and cached, that somebody does. May block for a moment.
    pub(crate) fn announce(&self) -> io::Result<()> {
        let mut held = self.held();
        if held.is_some() {
            return Ok(());
        }
        let first = open(&self.first)?;
        for _ in 0..ATTEMPTS {
            if first.try_lock().is_ok() {
                *held = Some(Held::First(first));
                return Ok(());
            }
            std::thread::sleep(BETWEEN_ATTEMPTS);
        }
        let others = open(&self.others)?;
        others.lock_shared()?;
        *held = Some(Held::Other(others));
        Ok(())
    }

    /// Whether nobody else follows the file.
    pub(crate) fn is_alone(&self) -> bool {
        match &*self.held() {
            Some(Held::First(_)) => is_free(&self.others),
            // Of the others, none can tell whether it is the only one.
            Some(Held::Other(_)) => false,
            None => is_free(&self.first) && is_free(&self.others),
        }
    }

    fn held(&self) -> MutexGuard<'_, Option<Held>> {
        // Nothing is left half-done by a panic.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether nobody holds the lock; if in doubt, somebody does.
fn is_free(path: &PathBuf) -> bool {
    open(path).is_ok_and(|file| file.try_lock().is_ok())
}

fn open(path: &PathBuf) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false);
    #[cfg(unix)]
    options.mode(0o600);
    options.open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn presences<const N: usize>() -> (tempfile::TempDir, [Presence; N]) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.db");
        let presences = std::array::from_fn(|_| Presence::new(path.to_str().unwrap()));
        (folder, presences)
    }

    #[test]
    fn whoever_is_the_only_one_is_alone() {
        let (_folder, [one, looking]) = presences();
        assert!(one.is_alone());
        one.announce().unwrap();
        one.announce().unwrap();
        assert!(one.is_alone());
        assert!(!looking.is_alone());
        drop(one);
        assert!(looking.is_alone());
    }

    #[test]
    fn of_several_none_is_alone() {
        let (_folder, [first, second, third]) = presences();
        for one in [&first, &second, &third] {
            one.announce().unwrap();
        }
        assert!([&first, &second, &third].iter().all(|one| !one.is_alone()));
        drop(second);
        assert!(!first.is_alone());
        drop(third);
        assert!(first.is_alone());
    }

    #[test]
    fn whoever_outlives_the_first_knows_nothing() {
        let (_folder, [first, second, looking]) = presences();
        first.announce().unwrap();
        second.announce().unwrap();
        drop(first);
        assert!(!second.is_alone());
        assert!(!looking.is_alone());
    }

    #[test]
    fn folder_that_cannot_be_written_is_in_doubt() {
        let nowhere = Presence::new("/nonexistent/keys.db");
        assert!(!nowhere.is_alone());
        assert!(nowhere.announce().is_err());
    }
}
