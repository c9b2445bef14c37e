//! A locked file beside the database for each process that reserves idempotent answers.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use uuid::Uuid;

use super::file::{self, DatabaseFile};

/// Parts of the file name, after that of the database: before and after the identifier.
const BEFORE: &str = "-life-";
const AFTER: &str = ".lock";

/// The lock of one store.
pub(crate) struct LifeFile {
    /// The path of any such file, up to the identifier.
    stem: String,
    held: Mutex<Option<(String, File)>>,
}

impl LifeFile {
    pub(crate) fn new(database: &DatabaseFile) -> Self {
        Self {
            stem: format!("{}{BEFORE}", database.name()),
            held: Mutex::new(None),
        }
    }

    /// Returns the identifier of the lock, and takes it first if needed. `None` if that is not
    /// possible: a reservation then waits until its time is over.
    pub(crate) fn holder(&self) -> Option<String> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if held.is_none() {
            *held = self.take().ok();
        }
        held.as_ref().map(|(id, _)| id.clone())
    }

    fn take(&self) -> io::Result<(String, File)> {
        let id = Uuid::from_u128(random()).simple().to_string();
        let path = self.path(&id);
        let (file, _) = file::open_or_create(&path)?;
        file.lock()?;
        // A sweep may have found the file before it was locked, and removed it.
        if file::identity(&path)? == file::Identity::of(&file.metadata()?) {
            Ok((id, file))
        } else {
            Err(io::Error::other("the file was removed"))
        }
    }

    /// Returns whether the lock is free. `false` if the file is missing, because an operator may
    /// have removed it.
    pub(crate) fn has_ended(&self, id: &str) -> bool {
        is_id(id) && self.ended(id).is_some()
    }

    /// Returns the file of a process that has ended, locked.
    fn ended(&self, id: &str) -> Option<File> {
        let opened = OpenOptions::new().write(true).open(self.path(id)).ok()?;
        opened.try_lock().ok()?;
        Some(opened)
    }

    /// Returns the identifiers of the ended processes whose files are left.
    pub(crate) fn left_over(&self) -> Vec<String> {
        let path = PathBuf::from(&self.stem);
        let (Some(folder), Some(prefix)) = (path.parent(), path.file_name()) else {
            return Vec::new();
        };
        let prefix = prefix.to_string_lossy();
        let Ok(entries) = fs::read_dir(folder) else {
            return Vec::new();
        };
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let ids = names.filter_map(|name| {
            let id = name.strip_prefix(&*prefix)?.strip_suffix(AFTER)?;
            Some(id.to_owned())
        });
        ids.filter(|id| self.has_ended(id)).collect()
    }

    /// Removes the file of a process that has ended and has no reservations left.
    pub(crate) fn remove(&self, id: &str) {
        if is_id(id)
            && let Some(_locked) = self.ended(id)
        {
            // The next sweep examines a file that stays.
            let _ = fs::remove_file(self.path(id));
        }
    }

    fn path(&self, id: &str) -> PathBuf {
        format!("{}{id}{AFTER}", self.stem).into()
    }
}

impl Drop for LifeFile {
    fn drop(&mut self) {
        let held = self.held.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some((id, locked)) = held.take() {
            let path = self.path(&id);
            // Another database may have a file of this name by now.
            if let (Ok(now), Ok(own)) = (file::identity(&path), locked.metadata())
                && now == file::Identity::of(&own)
            {
                let _ = fs::remove_file(path);
            }
        }
    }
}

/// Returns whether this is an identifier as [`LifeFile`] writes it, which cannot lead to another
/// file.
fn is_id(text: &str) -> bool {
    text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// The seeds of hash maps are random enough for names that only have to differ.
fn random() -> u128 {
    use std::hash::{BuildHasher as _, RandomState};
    let [high, low] = [0, 1].map(|half: u64| RandomState::new().hash_one(half));
    u128::from(high) << 64 | u128::from(low)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lock_tells_whether_its_process_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let database = DatabaseFile::new(&folder.path().join("keys.db"), true);
        let database = database.unwrap().unwrap();
        let [one, other] = [LifeFile::new(&database), LifeFile::new(&database)];
        let id = one.holder().unwrap();
        assert_eq!(one.holder().as_ref(), Some(&id));
        assert!(!other.has_ended(&id) && !one.has_ended(&id));

        // As a killed process leaves it.
        let killed = Uuid::from_u128(7).simple().to_string();
        fs::write(one.path(&killed), "").unwrap();
        assert!(other.has_ended(&killed));
        assert_eq!(other.left_over(), std::slice::from_ref(&killed));
        other.remove(&killed);
        other.remove(&id);
        assert!(other.left_over().is_empty() && !other.has_ended(&killed));
        assert!(one.path(&id).exists());
        drop(one);
        assert!(!other.path(&id).exists());
        // A text that is not an identifier is not used as a path either.
        fs::write(folder.path().join("else.lock"), "").unwrap();
        assert!(!other.has_ended("/../else") && !other.has_ended(""));
    }
}
