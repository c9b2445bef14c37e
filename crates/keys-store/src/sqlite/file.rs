//! The identity of a database file: device and inode, under any path.
//!
//! SQLite keeps its write-ahead log and its locks in files beside the name it was given, with
//! symbolic links resolved. Two names of one file in two places would therefore have two logs, and
//! damage it. So links are resolved once, files with a second name that cannot be resolved are
//! refused, and a file that is no longer the one that was opened is not used.

use std::fs::{self, DirBuilder, File, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
#[cfg(unix)]
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use keys_service::ports::StoreError;
use tokio::sync::watch;

/// Time for which a reader may rely on the last check of the file. A change is acknowledged only
/// after a check of its own.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// Suffixes of SQLite for the write-ahead log, and for the index of that log.
const LOG: &str = "-wal";
const INDEX: &str = "-shm";

/// Suffix of the file that records which write-ahead log belongs to which database.
const NOTE: &str = "-log.note";

/// Maximum number of symbolic links that are followed to a file that does not exist yet, as in
/// Linux (`MAXSYMLINKS`).
const LINKS_MAX: usize = 40;

/// The reason why a SQLite file is not opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UnsafeFile {
    /// The file has several names, each of which would have a write-ahead log of its own.
    #[error(
        "{} has {links} hard links; SQLite keeps a write-ahead log for each name, which damages the file: \
         remove the other names (find them with `find -samefile`), or copy the file instead of linking it",
        path.display()
    )]
    HardLinks {
        /// The file, with symbolic links resolved.
        path: PathBuf,
        /// The number of its names.
        links: u64,
    },
    /// Only the file is mounted, without the folder that has its write-ahead log.
    #[error(
        "{} is a mount point; SQLite keeps a write-ahead log beside the file, which would be in another place \
         for each mount: mount its folder instead",
        path.display()
    )]
    MountPoint {
        /// The file, with symbolic links resolved.
        path: PathBuf,
    },
    /// The file does not exist, and [`StoreOptions::create`](crate::StoreOptions::create) is off.
    #[error("{} does not exist", path.display())]
    Missing {
        /// The file, with symbolic links resolved.
        path: PathBuf,
    },
    /// The write-ahead log beside the file was written for another file with the same name.
    #[error(
        "{} belongs to the database file that was here before, and would damage this one: \
         if you restored a backup, remove {0} and {1}, and start again",
        log.display(), index.display()
    )]
    LogOfAnotherFile {
        /// The write-ahead log.
        log: PathBuf,
        /// The index of the write-ahead log.
        index: PathBuf,
    },
}

/// Error of a store whose SQLite file is no longer the one that it opened.
///
/// It is the source of the [`StoreError::Unavailable`] that every operation of such a store returns
/// permanently, because changes that were not acknowledged are not in the new file. Open another
/// store once the file is in place.
#[derive(Debug, Clone, thiserror::Error)]
#[error(
    "{} was {what} while it was in use: nothing more is read from it or acknowledged; \
     see that the right file is in place, and start again",
    path.display()
)]
pub struct FileLost {
    path: PathBuf,
    what: &'static str,
}

impl FileLost {
    /// Returns the file that was lost: the database, or the write-ahead log or its index beside it.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Error returned when it is unknown whether the file is still the same one.
#[derive(Debug, thiserror::Error)]
#[error("{} cannot be looked at", path.display())]
struct FileUnknown {
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// A file of the file system, under any name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Identity {
    device: u64,
    inode: u64,
}

impl Identity {
    #[cfg(unix)]
    pub(crate) fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
        }
    }

    /// On other systems an open file can be neither replaced nor removed.
    #[cfg(not(unix))]
    pub(crate) fn of(_: &Metadata) -> Self {
        Self {
            device: 0,
            inode: 0,
        }
    }
}

/// An identity that later files do not share: numbers of inodes are reused, but not together with a
/// time of birth.
struct Birth {
    inode: u64,
    born: Duration,
}

impl Birth {
    /// Returns `None` also if the file system does not record creation times.
    fn of(path: &Path) -> Option<Self> {
        let metadata = fs::metadata(path).ok()?;
        let born = metadata.created().ok()?;
        Some(Self {
            inode: Identity::of(&metadata).inode,
            born: born.duration_since(std::time::UNIX_EPOCH).ok()?,
        })
    }

    fn note(&self, what: &str) -> String {
        format!("{what} {} {}\n", self.inode, self.born.as_nanos())
    }
}

/// The database file of a store.
pub(crate) struct DatabaseFile {
    /// The requested path: absolute, with links.
    asked_for: PathBuf,
    /// The path without links.
    path: PathBuf,
    /// The same as text.
    name: String,
    /// Whether this process created it.
    is_new: bool,
    /// The file that was found before anything was opened.
    found: Identity,
    /// The database, its write-ahead log, and the index of that log, once a connection has opened
    /// them.
    opened: OnceLock<[(PathBuf, Identity); 3]>,
    began: Instant,
    /// Time of the last check, in milliseconds since `began`.
    looked_at: AtomicU64,
    has_links: AtomicBool,
    lost: watch::Sender<Option<FileLost>>,
}

impl DatabaseFile {
    /// Resolves the path, and creates the file and its folder if they are missing, accessible only
    /// to their owner.
    pub(crate) fn new(path: &Path, create: bool) -> io::Result<Result<Self, UnsafeFile>> {
        // An absolute path is never mistaken for one of SQLite's special names or URIs.
        let asked_for = std::path::absolute(path)?;
        let path = resolve(&asked_for)?;
        let name = path
            .to_str()
            .ok_or_else(|| io::Error::new(ErrorKind::InvalidInput, "the path is not UTF-8"))?
            .to_owned();
        let is_new = if create {
            create_file(&path)?
        } else {
            match fs::metadata(&path) {
                Ok(_) => false,
                Err(error) if is_missing(&error) => return Ok(Err(UnsafeFile::Missing { path })),
                Err(error) => return Err(error),
            }
        };
        let file = Self {
            found: identity(&path)?,
            asked_for,
            path,
            name,
            is_new,
            opened: OnceLock::new(),
            began: Instant::now(),
            looked_at: AtomicU64::new(0),
            has_links: AtomicBool::new(false),
            lost: watch::Sender::new(None),
        };
        Ok(file
            .check_alone()?
            .and_then(|()| file.check_log())
            .map(|()| file))
    }

    /// Returns the path with links resolved.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Returns whether this process created the file.
    pub(crate) fn is_new(&self) -> bool {
        self.is_new
    }

    /// Returns the path of a file beside the database: the database's name and `suffix`.
    pub(crate) fn beside(&self, suffix: &str) -> PathBuf {
        format!("{}{suffix}", self.name).into()
    }

    /// Refuses a file that another process may use under a name that does not lead here.
    fn check_alone(&self) -> io::Result<Result<(), UnsafeFile>> {
        let path = self.path.clone();
        let links = links(&fs::metadata(&path)?);
        if links > 1 {
            return Ok(Err(UnsafeFile::HardLinks { path, links }));
        }
        if is_mount_point(&path) {
            return Ok(Err(UnsafeFile::MountPoint { path }));
        }
        Ok(Ok(()))
    }

    /// Refuses a write-ahead log that was left by another file with the same name, because SQLite
    /// would copy it into this one.
    fn check_log(&self) -> Result<(), UnsafeFile> {
        let log = self.beside(LOG);
        let Ok(noted) = fs::read_to_string(self.beside(NOTE)) else {
            return Ok(());
        };
        let (Some(database_now), Some(log_now)) = (Birth::of(&self.path), Birth::of(&log)) else {
            return Ok(());
        };
        let is_log_noted = noted.contains(&log_now.note("log"));
        if is_log_noted && !noted.contains(&database_now.note("database")) {
            let index = self.beside(INDEX);
            return Err(UnsafeFile::LogOfAnotherFile { log, index });
        }
        Ok(())
    }

    /// Records which log belongs to which database, for [`check_log`](Self::check_log). Failing to
    /// write it is not an error, because it only detects mistakes.
    fn note_log(&self) {
        let (Some(database), Some(log)) = (Birth::of(&self.path), Birth::of(&self.beside(LOG)))
        else {
            return;
        };
        let note = format!("{}{}", database.note("database"), log.note("log"));
        let path = self.beside(NOTE);
        if fs::read_to_string(&path).is_ok_and(|noted| noted == note) {
            return;
        }
        let written = open_or_create(&path).and_then(|(mut file, _)| {
            file.set_len(0)?;
            file.write_all(note.as_bytes())
        });
        if let Err(error) = written {
            tracing::debug!(%error, "{} cannot be written", path.display());
        }
    }

    /// Remembers the files that SQLite has open now. Call it while a connection holds them open, so
    /// that no other process can create them again.
    pub(crate) fn opened(&self) -> io::Result<()> {
        let database = (self.path.clone(), identity(&self.path)?);
        if database.1 != self.found {
            return Err(io::Error::other(
                "the file was replaced while it was opened",
            ));
        }
        let [log, index] = [LOG, INDEX].map(|suffix| self.beside(suffix));
        let (log_now, index_now) = (identity(&log)?, identity(&index)?);
        // A store opens its file once.
        let _ = self
            .opened
            .set([database, (log, log_now), (index, index_now)]);
        self.note_log();
        Ok(())
    }

    /// Checks that the files are still those that were opened. Costs four system calls.
    pub(crate) fn check(&self) -> Result<(), StoreError> {
        self.check_known()?;
        let Some(opened) = self.opened.get() else {
            return Ok(());
        };
        let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        for (path, known) in opened {
            self.compare(path, *known)?;
        }
        if self.asked_for != self.path {
            self.compare(&self.asked_for, opened[0].1)?;
        }
        self.looked_at.store(now, Ordering::Relaxed);
        Ok(())
    }

    /// Like [`check`](Self::check), unless that was done a moment ago.
    pub(crate) fn check_now_and_then(&self) -> Result<(), StoreError> {
        let looked_at = Duration::from_millis(self.looked_at.load(Ordering::Relaxed));
        if self.began.elapsed().saturating_sub(looked_at) < LOOK_INTERVAL {
            self.check_known()
        } else {
            self.check()
        }
    }

    /// Returns an error if the file was lost before.
    fn check_known(&self) -> Result<(), StoreError> {
        match &*self.lost.borrow() {
            Some(lost) => Err(StoreError::Unavailable(Box::new(lost.clone()))),
            None => Ok(()),
        }
    }

    fn compare(&self, path: &Path, known: Identity) -> Result<(), StoreError> {
        let what = match fs::metadata(path) {
            Ok(now) if Identity::of(&now) == known => {
                if path == self.path {
                    self.note_links(&now);
                }
                return Ok(());
            }
            Ok(_) => "replaced",
            Err(error) if is_missing(&error) => "removed",
            // A folder that cannot be searched for a while does not mean that the file is lost. If
            // in doubt nothing is acknowledged.
            Err(source) => {
                let path = path.to_owned();
                return Err(StoreError::Unavailable(Box::new(FileUnknown {
                    path,
                    source,
                })));
            }
        };
        let lost = FileLost {
            path: path.to_owned(),
            what,
        };
        self.lost.send_if_modified(|known| {
            let is_first = known.is_none();
            known.get_or_insert_with(|| lost.clone());
            is_first
        });
        Err(StoreError::Unavailable(Box::new(lost)))
    }

    /// A second name is harmless until SQLite gets it, and no store uses it. But this one could not
    /// start again.
    fn note_links(&self, metadata: &Metadata) {
        let has_links = links(metadata) > 1;
        if self.has_links.swap(has_links, Ordering::Relaxed) != has_links && has_links {
            tracing::error!(
                "{} was given a second name by a hard link: SQLite would damage the file if it was opened by that name, \
                 and the next start is refused. Remove the link",
                self.path.display()
            );
        }
    }

    /// Resolves when the file is found lost.
    pub(crate) async fn lost(&self) -> FileLost {
        let mut lost = self.lost.subscribe();
        match lost.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(lost)) => lost.clone(),
            // The sender lives as long as this.
            _ => std::future::pending().await,
        }
    }
}

pub(crate) fn identity(path: &Path) -> io::Result<Identity> {
    Ok(Identity::of(&fs::metadata(path)?))
}

/// Returns the path of a file without links in it, whether or not the file exists.
pub(crate) fn resolve(path: &Path) -> io::Result<PathBuf> {
    let mut path = std::path::absolute(path)?;
    for _ in 0..LINKS_MAX {
        match fs::canonicalize(&path) {
            Err(error) if is_missing(&error) => {}
            resolved => return resolved,
        }
        let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(no_file());
        };
        let Ok(target) = fs::read_link(&path) else {
            // The folder may be missing as well.
            return Ok(resolve_folder(folder)?.join(name));
        };
        path = folder.join(target);
    }
    Err(io::Error::new(
        ErrorKind::InvalidInput,
        "too many symbolic links",
    ))
}

fn resolve_folder(folder: &Path) -> io::Result<PathBuf> {
    match fs::canonicalize(folder) {
        Err(error) if is_missing(&error) => match (folder.parent(), folder.file_name()) {
            (Some(above), Some(name)) => Ok(resolve_folder(above)?.join(name)),
            _ => Err(no_file()),
        },
        resolved => resolved,
    }
}

fn no_file() -> io::Error {
    io::Error::new(ErrorKind::InvalidInput, "the path does not name a file")
}

fn is_missing(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

#[cfg(unix)]
fn links(metadata: &Metadata) -> u64 {
    // A folder has a link from each folder in it. SQLite refuses it by itself.
    if metadata.is_file() {
        metadata.nlink()
    } else {
        1
    }
}

#[cfg(not(unix))]
fn links(_: &Metadata) -> u64 {
    1
}

/// Returns whether the file itself is mounted, as `docker run -v ./keys.db:/data/keys.db` does.
/// `false` if the system cannot tell.
#[cfg(target_os = "linux")]
fn is_mount_point(path: &Path) -> bool {
    use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags, statx};
    statx(CWD, path, AtFlags::empty(), StatxFlags::empty())
        .is_ok_and(|found| found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

#[cfg(not(target_os = "linux"))]
fn is_mount_point(_: &Path) -> bool {
    false
}

/// Opens a file that only its owner can access, without changing its contents. Also returns whether
/// it was missing.
pub(crate) fn open_or_create(path: &Path) -> io::Result<(File, bool)> {
    match create_new(path)? {
        Some(created) => Ok((created, true)),
        None => Ok((OpenOptions::new().write(true).open(path)?, false)),
    }
}

/// Creates a file that only its owner can access. `None` if it exists already.
fn create_new(path: &Path) -> io::Result<Option<File>> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    options.mode(0o600);
    match options.open(path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(None),
        created => created.map(Some),
    }
}

/// Returns whether the file was missing.
fn create_file(path: &Path) -> io::Result<bool> {
    if let Some(folder) = path.parent() {
        let mut builder = DirBuilder::new();
        builder.recursive(true);
        #[cfg(unix)]
        builder.mode(0o700);
        builder.create(folder)?;
    }
    // SQLite gives its -wal and -shm files the mode of the database.
    Ok(create_new(path)?.is_some())
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_told_from_files_and_folders() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("keys.db");
        fs::write(&file, "").unwrap();
        // A mount on every Linux. Mounting a single file takes privileges that tests may not have.
        assert!(is_mount_point(Path::new("/proc")));
        assert!(!is_mount_point(&file) && !is_mount_point(folder.path()));
        assert!(!is_mount_point(Path::new("/nonexistent")));
    }

    #[test]
    fn path_is_resolved_whether_or_not_there_is_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let at = |path: &str| folder.path().canonicalize().unwrap().join(path);
        fs::create_dir(at("real")).unwrap();
        std::os::unix::fs::symlink(at("real"), at("link")).unwrap();
        std::os::unix::fs::symlink("../real/keys.db", at("real/by-name.db")).unwrap();
        std::os::unix::fs::symlink("loop.db", at("loop.db")).unwrap();
        for exists in [false, true] {
            if exists {
                fs::write(at("real/keys.db"), "").unwrap();
            }
            for name in [
                "real/keys.db",
                "link/keys.db",
                "real/../link/./keys.db",
                "link/by-name.db",
            ] {
                assert_eq!(resolve(&at(name)).unwrap(), at("real/keys.db"), "{name}");
            }
        }
        assert_eq!(
            resolve(&at("link/new/er.db")).unwrap(),
            at("real/new/er.db")
        );
        for name in ["loop.db", "nowhere/.."] {
            assert!(resolve(&at(name)).is_err(), "{name}");
        }
    }
}
