//! A file with passwords, in the format of libpq's `.pgpass`.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

/// Maximum size of the file.
const BYTES_MAX: u64 = 1 << 20;

/// Error returned when a password file cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PassfileError {
    #[error("the password file {} cannot be read", path.display())]
    Unreadable {
        path: PathBuf,
        #[source]
        error: io::Error,
    },
    #[error(
        "the password file {} may be read by others than its owner (mode {mode:03o}); run `chmod 600` on it",
        path.display()
    )]
    Open { path: PathBuf, mode: u32 },
}

/// Returns the password of the first line that matches, `None` if there is none. `*` as a whole
/// field matches everything; a backslash keeps the character after it.
pub(crate) fn password(
    path: &Path,
    host: &str,
    port: u16,
    database: &str,
    user: &str,
) -> Result<Option<Zeroizing<Vec<u8>>>, PassfileError> {
    let text = read(path)?;
    let port = port.to_string();
    let wanted = [host, port.as_str(), database, user];
    Ok(text
        .split(|byte| *byte == b'\n')
        .find_map(|line| password_of(line, wanted)))
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, PassfileError> {
    let unreadable = |error| PassfileError::Unreadable {
        path: path.to_owned(),
        error,
    };
    let file = File::open(path).map_err(unreadable)?;
    if let Some(mode) = mode_for_others(&file).map_err(unreadable)? {
        return Err(PassfileError::Open {
            path: path.to_owned(),
            mode,
        });
    }
    let mut text = Zeroizing::new(Vec::new());
    file.take(BYTES_MAX)
        .read_to_end(&mut text)
        .map_err(unreadable)?;
    Ok(text)
}

/// Returns the mode of the file if users other than its owner can access it. A file of root that
/// its group may read is accepted, as in libpq for keys, because secrets are mounted that way.
pub(crate) fn mode_for_others(file: &File) -> io::Result<Option<u32>> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt as _;
        const ROOT: u32 = 0;
        let metadata = file.metadata()?;
        let mode = metadata.mode() & 0o777;
        let forbidden = if metadata.uid() == ROOT { 0o037 } else { 0o077 };
        Ok((mode & forbidden != 0).then_some(mode))
    }
    #[cfg(not(unix))]
    {
        let _ = file;
        Ok(None)
    }
}

fn password_of(line: &[u8], wanted: [&str; 4]) -> Option<Zeroizing<Vec<u8>>> {
    let mut rest = line.strip_suffix(b"\r").unwrap_or(line);
    if rest.starts_with(b"#") {
        return None;
    }
    for wanted in wanted {
        let (value, after) = field(rest);
        if !(rest.starts_with(b"*:") || *value == wanted.as_bytes()) {
            return None;
        }
        rest = after?;
    }
    // As in libpq a colon ends the password, too, unless it is escaped.
    Some(field(rest).0)
}

/// Returns the text up to the first colon that is not escaped, and the text after that colon.
fn field(text: &[u8]) -> (Zeroizing<Vec<u8>>, Option<&[u8]>) {
    let mut field = Zeroizing::new(Vec::with_capacity(text.len()));
    let mut bytes = text.iter();
    while let Some(byte) = bytes.next() {
        let byte = match byte {
            b':' => return (field, Some(bytes.as_slice())),
            b'\\' => bytes.next().unwrap_or(byte),
            _ => byte,
        };
        field.push(*byte);
    }
    (field, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(text: &str, mode: u32) -> (tempfile::TempDir, PathBuf) {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pgpass");
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        (folder, path)
    }

    fn find(text: &str, host: &str, port: u16, database: &str, user: &str) -> Option<String> {
        let (_folder, path) = write(text, 0o600);
        let found = password(&path, host, port, database, user).unwrap();
        found.map(|found| String::from_utf8(found.to_vec()).unwrap())
    }

    #[test]
    fn the_first_line_that_matches_counts() {
        const TEXT: &str = "# host:port:database:user:commented\n\
                            other:5432:keys:app:wrong\n\
                            db:5432:keys:app:right\r\n\
                            db:5432:keys:app:later\n\
                            *:5433:*:app:any host\n\
                            a\\:b:1:d\\\\d:u:p\\:a\\\\ss\n\
                            short:line\n\
                            db:2:d:u:p\\:a:comment\n\
                            *:*:*:*:last\\";
        assert_eq!(find(TEXT, "db", 5432, "keys", "app").unwrap(), "right");
        assert_eq!(find(TEXT, "x", 5433, "y", "app").unwrap(), "any host");
        assert_eq!(find(TEXT, "a:b", 1, "d\\d", "u").unwrap(), "p:a\\ss");
        // The password ends at a colon, as with libpq.
        assert_eq!(find(TEXT, "db", 2, "d", "u").unwrap(), "p:a");
        assert_eq!(find(TEXT, "x", 1, "y", "z").unwrap(), "last\\");
        assert_eq!(find("db:1:d:u:p", "db", 2, "d", "u"), None);
        // Only a single asterisk that is not escaped matches everything.
        assert_eq!(find("\\*:1:d:u:p", "db", 1, "d", "u"), None);
        assert_eq!(find("d*:1:d:u:p", "db", 1, "d", "u"), None);
    }

    #[test]
    fn a_file_that_others_may_read_is_refused() {
        for mode in [0o644, 0o604, 0o666] {
            let (_folder, path) = write("*:*:*:*:hunter2", mode);
            let refused = password(&path, "h", 1, "d", "u").unwrap_err();
            assert!(matches!(refused, PassfileError::Open { .. }), "{mode:o}");
            assert!(!refused.to_string().contains("hunter2"));
        }
        let missing = password(Path::new("/nowhere/pgpass"), "h", 1, "d", "u");
        assert!(missing.unwrap_err().to_string().contains("/nowhere/pgpass"));
    }
}
