//! Unix sockets that the server listens on: the file, and its owner.

use std::fmt;
use std::fs::{self, File, Metadata, OpenOptions, Permissions, TryLockError};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{
    FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _,
};
use std::os::unix::net::UnixListener;
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::net::{bind, connect, listen, socket_with};

/// Maximum length of a path on Linux: `sun_path` has 108 bytes, and the last one is zero.
const PATH_BYTES_MAX: usize = 107;

/// Time limit for another server to start or stop listening on the same path.
const LOCKED_WITHIN: Duration = Duration::from_secs(2);

/// The path of a Unix socket: absolute, and short enough.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SocketPath(PathBuf);

impl FromStr for SocketPath {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let path = Path::new(text);
        if !path.is_absolute() {
            return Err(format!(
                "must have an absolute path after `unix:`, such as unix:/run/keys/keys.sock, not {text:?}"
            ));
        }
        let is_folder = text.ends_with('/')
            || !matches!(path.components().next_back(), Some(Component::Normal(_)));
        if is_folder {
            return Err(format!(
                "must name a file after `unix:`, such as unix:/run/keys/keys.sock, not the folder {text:?}"
            ));
        }
        // Without repeated slashes, so that the same path in two spellings is noticed.
        let path: PathBuf = path.components().collect();
        let length = path.as_os_str().len();
        if length > PATH_BYTES_MAX {
            return Err(format!(
                "has a path of {length} bytes after `unix:`, and the system takes at most {PATH_BYTES_MAX}: \
                 choose a shorter one, such as /run/keys/keys.sock, instead of {text:?}"
            ));
        }
        Ok(Self(path))
    }
}

impl fmt::Display for SocketPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.display().fmt(f)
    }
}

/// Permissions of the file of a socket. Connecting needs the permission to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct UnixMode(u32);

impl FromStr for UnixMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // An octal number of TOML never passes: 0o600 to 0o777 are 384 to 511.
        let mode = match text.len() {
            3 | 4 if text.bytes().all(|byte| byte.is_ascii_digit()) => {
                u32::from_str_radix(text, 8).ok()
            }
            _ => None,
        };
        match mode {
            Some(mode @ 0o600..=0o777) => Ok(Self(mode)),
            _ => Err(format!(
                "must be octal digits in quotes, from \"0600\" to \"0777\", not {text:?}"
            )),
        }
    }
}

/// A socket that is bound to its path and does not listen yet. Its file is removed with it. It
/// holds the lock of the path, because until it listens other servers would mistake it for a dead
/// one.
#[derive(Debug)]
pub(crate) struct Bound {
    socket: OwnedFd,
    file: SocketFile,
}

/// A non-blocking listening Unix socket.
#[derive(Debug)]
pub(crate) struct Listening {
    pub(crate) socket: UnixListener,
    file: SocketFile,
}

impl Bound {
    /// Reserves the path, with these permissions. Replaces only the socket of a process that has
    /// ended.
    pub(crate) fn new(path: &SocketPath, mode: UnixMode) -> io::Result<Self> {
        let path = &path.0;
        let lock = Lock::take(path)?;
        remove_dead(path)?;
        let socket = socket()?;
        bind(&socket, &SocketAddrUnix::new(path)?)?;
        // No client can connect before it listens, so none does while other permissions are in
        // force.
        let file = SocketFile::of(path, lock)?;
        fs::set_permissions(path, Permissions::from_mode(mode.0))?;
        Ok(Self { socket, file })
    }

    /// Listens, with at most `backlog` connections that wait to be accepted.
    pub(crate) fn listen(mut self, backlog: u32) -> io::Result<Listening> {
        listen(&self.socket, i32::try_from(backlog).unwrap_or(i32::MAX))?;
        self.file.lock = None;
        Ok(Listening {
            socket: self.socket.into(),
            file: self.file,
        })
    }
}

impl Listening {
    pub(crate) fn path(&self) -> SocketPath {
        SocketPath(self.file.path.clone())
    }

    /// Removes the file, so that no further client finds the socket. Connected clients stay.
    pub(crate) fn withdraw(&self) {
        self.file.remove();
    }
}

/// The file of a socket. Removed with this value if it is still the same file.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
    /// Held until the socket listens.
    lock: Option<Lock>,
}

impl SocketFile {
    fn of(path: &Path, lock: Lock) -> io::Result<Self> {
        let found = fs::symlink_metadata(path)?;
        Ok(Self {
            path: path.to_owned(),
            device: found.dev(),
            inode: found.ino(),
            lock: Some(lock),
        })
    }

    fn is_ours(&self, found: &Metadata) -> bool {
        (found.dev(), found.ino()) == (self.device, self.inode)
    }

    fn remove(&self) {
        // Without the lock, a server that replaces the file at this moment may go unnoticed.
        let _lock = self.lock.is_none().then(|| Lock::take(&self.path));
        let found = fs::symlink_metadata(&self.path);
        if found.is_ok_and(|found| self.is_ours(&found)) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        self.remove();
    }
}

fn socket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    Ok(socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        flags,
        None,
    )?)
}

/// Keeps other servers from changing the socket at a path. Other users cannot hold it, because they
/// cannot open its file.
#[derive(Debug)]
struct Lock {
    path: PathBuf,
    _file: File,
}

impl Lock {
    /// Locks `path`, with a file beside it.
    fn take(path: &Path) -> io::Result<Self> {
        const PAUSE: Duration = Duration::from_millis(10);
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(".lock");
        let path = path.with_file_name(name);
        let start = Instant::now();
        loop {
            let file = open_lock(&path)?;
            match file.try_lock() {
                // If its last owner has removed the file meanwhile, the lock protects nothing.
                Ok(()) if is_at(&file, &path)? => return Ok(Self { path, _file: file }),
                Ok(()) => {}
                Err(TryLockError::WouldBlock) if start.elapsed() < LOCKED_WITHIN => {
                    thread::sleep(PAUSE);
                }
                Err(TryLockError::WouldBlock) => {
                    return Err(io::Error::new(
                        io::ErrorKind::WouldBlock,
                        format!("{} is locked by another process", path.display()),
                    ));
                }
                Err(TryLockError::Error(error)) => return Err(error),
            }
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

fn open_lock(path: &Path) -> io::Result<File> {
    let opened = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
        .open(path);
    opened.map_err(|error| {
        let text = match error.kind() {
            io::ErrorKind::NotFound => format!(
                "the folder {} does not exist: create it, or let systemd do it with RuntimeDirectory=",
                path.parent().unwrap_or(Path::new("/")).display()
            ),
            _ => format!("{} cannot be opened: {error}", path.display()),
        };
        io::Error::new(error.kind(), text)
    })
}

/// Returns whether the open file is the one at the path.
fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let file = file.metadata()?;
    let found = fs::symlink_metadata(path);
    Ok(found.is_ok_and(|found| (found.dev(), found.ino()) == (file.dev(), file.ino())))
}

/// Removes the socket of a process that has ended. Any other file there is an error.
fn remove_dead(path: &Path) -> io::Result<()> {
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let shown = path.display();
    let refused = |what: &str| {
        let text = format!("{shown} {what}");
        Err(io::Error::new(io::ErrorKind::AddrInUse, text))
    };
    if !found.file_type().is_socket() {
        return refused("exists and is not a socket: remove it or choose another path");
    }
    match connect(socket()?.as_fd(), &SocketAddrUnix::new(path)?) {
        Err(Errno::CONNREFUSED) => fs::remove_file(path),
        // A listener whose queue is full is alive, too.
        Ok(()) | Err(Errno::AGAIN | Errno::INPROGRESS) => refused(
            "belongs to a process that listens on it: stop that process or choose another path",
        ),
        Err(Errno::PROTOTYPE) => {
            refused("belongs to a process that uses it for something else: choose another path")
        }
        Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(io::Error::new(
            error.kind(),
            format!(
                "{shown} exists, and whether a process listens on it cannot be found out: {error}"
            ),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn socket_that_does_not_listen_yet_is_not_taken_for_a_dead_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = SocketPath(folder.path().join("keys.sock"));
        let mode = UnixMode(0o660);
        let first = Bound::new(&path, mode).unwrap();
        let lock = folder.path().join("keys.sock.lock");
        let permissions = fs::metadata(&lock).unwrap().permissions();
        assert_eq!(permissions.mode() & 0o7777, 0o600);
        let second = thread::spawn({
            let path = path.clone();
            move || Bound::new(&path, mode)
        });
        thread::sleep(Duration::from_millis(100));
        let first = first.listen(1).unwrap();
        let refused = second.join().unwrap().unwrap_err().to_string();
        assert!(refused.contains("process that listens on it"), "{refused}");
        drop(first);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        // One that never listens leaves no file, and does not make others wait.
        drop(Bound::new(&path, mode).unwrap());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
