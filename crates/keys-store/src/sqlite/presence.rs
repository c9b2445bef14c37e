//! Whether another process follows the changes of the same file.
//!
//! Within one process its feeds know each other. Heartbeats between processes would have to be
//! written to the file, and each would wait for the disk. Instead, locks on two empty files beside
//! it, which the system releases when a process ends, show whether there is any other process. If
//! there is one, its progress counts as unknown.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::file::{self, DatabaseFile, Identity};

/// Suffixes of the lock file of the first process, and of that of all others.
pub(super) const FIRST: &str = "-feed.lock";
const OTHERS: &str = "-feeds.lock";

/// Number of attempts to take the first lock while it is held, because another process may only be
/// testing it.
const ATTEMPTS: usize = 5;
const BETWEEN_ATTEMPTS: Duration = Duration::from_millis(10);

/// The locks that this store holds.
pub(crate) struct Presence {
    /// Locked by the first process.
    first: PathBuf,
    /// Locked, shared, by all others.
    others: PathBuf,
    held: Mutex<Option<Held>>,
}

struct Held {
    is_first: bool,
    path: PathBuf,
    identity: Identity,
    /// Time at which this store created a lock file although the database existed before: an
    /// operator may have removed the one that another process has a lock on.
    created_at: Option<Instant>,
    #[expect(dead_code, reason = "held, not used")]
    lock: File,
}

impl Held {
    /// Returns whether other processes can still find the lock.
    fn is_found(&self) -> bool {
        file::identity(&self.path).is_ok_and(|now| now == self.identity)
    }

    /// Returns whether a process that holds a lock on a removed file has noticed that by now, or
    /// has been silent for so long that it has no usable cache.
    fn is_settled(&self, silence: Duration) -> bool {
        self.created_at
            .is_none_or(|created_at| created_at.elapsed() > silence)
    }
}

impl Presence {
    pub(crate) fn new(database: &DatabaseFile) -> Self {
        let presence = Self {
            first: database.beside(FIRST),
            others: database.beside(OTHERS),
            held: Mutex::new(None),
        };
        if database.is_new() {
            // No process can hold a lock on earlier ones. A folder that cannot be written is
            // reported later.
            for path in [&presence.first, &presence.others] {
                let _ = file::open_or_create(path);
            }
        }
        presence
    }

    /// Announces this process to others, before anything is followed and cached. May block for a
    /// moment.
    pub(crate) fn announce(&self) -> io::Result<()> {
        let mut held = self.held();
        if held.as_ref().is_some_and(Held::is_found) {
            return Ok(());
        }
        let (first, is_new) = file::open_or_create(&self.first)?;
        for _ in 0..ATTEMPTS {
            if first.try_lock().is_ok() {
                // The other file is missing after a restore, and after an upgrade from a version
                // without it. If it was removed, another process may have a lock on it, as on this
                // one.
                let (_, are_others_new) = file::open_or_create(&self.others)?;
                let is_new = is_new || are_others_new;
                *held = Some(Held::new(true, &self.first, first, is_new)?);
                return Ok(());
            }
            std::thread::sleep(BETWEEN_ATTEMPTS);
        }
        let (others, is_new) = file::open_or_create(&self.others)?;
        others.lock_shared()?;
        *held = Some(Held::new(false, &self.others, others, is_new)?);
        Ok(())
    }

    /// Returns whether other processes can find the lock of this one. `true` as long as there is
    /// none.
    pub(crate) fn is_found(&self) -> bool {
        self.held().as_ref().is_none_or(Held::is_found)
    }

    /// Returns whether no other process follows the file. A process that has been silent for
    /// `silence` does not count.
    pub(crate) fn is_alone(&self, silence: Duration) -> bool {
        match &*self.held() {
            Some(held) if held.is_first => {
                held.is_found() && held.is_settled(silence) && is_free(&self.others)
            }
            // None of the others knows whether it is the only one.
            Some(_) => false,
            None => is_free(&self.first) && is_free(&self.others),
        }
    }

    fn held(&self) -> MutexGuard<'_, Option<Held>> {
        // A panic leaves no inconsistent state.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    fn new(is_first: bool, path: &Path, lock: File, is_new: bool) -> io::Result<Self> {
        Ok(Self {
            is_first,
            path: path.to_owned(),
            identity: Identity::of(&lock.metadata()?),
            created_at: is_new.then(Instant::now),
            lock,
        })
    }
}

/// Returns whether the lock is free. `false` if in doubt.
fn is_free(path: &Path) -> bool {
    // A missing file was removed, maybe while it was locked.
    let opened = OpenOptions::new().write(true).open(path);
    opened.is_ok_and(|file| file.try_lock().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SILENCE: Duration = Duration::from_millis(200);

    fn presences<const N: usize>() -> (tempfile::TempDir, [Presence; N]) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.db");
        let presences = std::array::from_fn(|_| {
            let file = DatabaseFile::new(&path, true).unwrap().unwrap();
            Presence::new(&file)
        });
        (folder, presences)
    }

    #[test]
    fn the_only_process_is_alone() {
        let (_folder, [one, looking]) = presences();
        assert!(one.is_alone(SILENCE));
        one.announce().unwrap();
        one.announce().unwrap();
        assert!(one.is_alone(SILENCE));
        assert!(!looking.is_alone(SILENCE));
        drop(one);
        assert!(looking.is_alone(SILENCE));
    }

    #[test]
    fn of_several_none_is_alone() {
        let (_folder, [first, second, third]) = presences();
        let all = [&first, &second, &third];
        for one in all {
            one.announce().unwrap();
        }
        assert!(all.iter().all(|one| !one.is_alone(SILENCE)));
        drop(second);
        assert!(!first.is_alone(SILENCE));
        drop(third);
        assert!(first.is_alone(SILENCE));
    }

    #[test]
    fn one_that_outlives_the_first_knows_nothing() {
        let (_folder, [first, second, looking]) = presences();
        first.announce().unwrap();
        second.announce().unwrap();
        drop(first);
        assert!(!second.is_alone(SILENCE));
        assert!(!looking.is_alone(SILENCE));
    }

    #[test]
    fn one_whose_lock_was_removed_is_found_again() {
        let (folder, [first, second, looking]) = presences();
        first.announce().unwrap();
        std::fs::remove_file(folder.path().join("keys.db-feed.lock")).unwrap();
        assert!(!first.is_found() && !first.is_alone(SILENCE) && !looking.is_alone(SILENCE));
        second.announce().unwrap();
        // The first may not have noticed yet.
        assert!(!second.is_alone(SILENCE));
        first.announce().unwrap();
        std::thread::sleep(SILENCE + SILENCE / 10);
        assert!(first.is_found() && !first.is_alone(SILENCE) && !second.is_alone(SILENCE));
        drop(first);
        assert!(second.is_alone(SILENCE));
    }

    #[test]
    fn only_process_of_a_restored_file_is_alone_once_it_is_settled() {
        let (folder, [before, after, looking]) = presences();
        before.announce().unwrap();
        drop(before);
        for suffix in [FIRST, OTHERS] {
            std::fs::remove_file(folder.path().join(format!("keys.db{suffix}"))).unwrap();
        }
        after.announce().unwrap();
        assert!(!after.is_alone(SILENCE));
        std::thread::sleep(SILENCE + SILENCE / 10);
        assert!(after.is_alone(SILENCE) && !looking.is_alone(SILENCE));
        drop(after);
        assert!(looking.is_alone(SILENCE));
    }

    #[test]
    fn second_whose_lock_was_removed_is_not_forgotten_by_a_new_first() {
        let (folder, [first, second, next]) = presences();
        first.announce().unwrap();
        second.announce().unwrap();
        std::fs::remove_file(folder.path().join("keys.db-feeds.lock")).unwrap();
        drop(first);
        next.announce().unwrap();
        assert!(!next.is_alone(SILENCE));
        // It notices at its next poll.
        second.announce().unwrap();
        std::thread::sleep(SILENCE + SILENCE / 10);
        assert!(second.is_found() && !next.is_alone(SILENCE));
    }

    #[test]
    fn folder_that_is_gone_is_in_doubt() {
        let (folder, [one]) = presences();
        drop(folder);
        assert!(!one.is_alone(SILENCE));
        assert!(one.announce().is_err());
    }
}
