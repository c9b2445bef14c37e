//! Secret settings: the value itself, or `file:PATH`.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use anyhow::{Context as _, bail};
use zeroize::Zeroizing;

/// Prefix of the path of a file that holds the secret.
const FILE_SCHEME: &str = "file:";

/// Maximum size of such a file in bytes: more than the longest pepper or URL.
const FILE_MAX_LEN: usize = 4_096;

/// A secret, and a warning about its source.
pub(crate) struct Resolved {
    pub value: Zeroizing<String>,
    /// Contains no part of the secret.
    pub warning: Option<String>,
}

/// Reads a secret setting. Blanks and line ends around it are dropped.
///
/// Errors name the setting and the path of the file, never the content.
pub(crate) fn resolve(setting: &str, configured: &str) -> anyhow::Result<Resolved> {
    let configured = configured.trim();
    let (value, warning) = match configured.strip_prefix(FILE_SCHEME) {
        Some(path) => {
            let path = Path::new(path);
            let shown = path.display();
            let (text, warning) =
                read(path).with_context(|| format!("setting `{setting}`: file {shown}"))?;
            let warning =
                warning.map(|warning| format!("setting `{setting}`: file {shown} {warning}"));
            (Zeroizing::new(text.trim().to_owned()), warning)
        }
        None => (Zeroizing::new(configured.to_owned()), None),
    };
    if value.chars().any(char::is_control) {
        bail!("setting `{setting}` contains a line end or another control character within it");
    }
    Ok(Resolved { value, warning })
}

/// Reads a file of limited length. The second part of the result is a warning about its mode.
fn read(path: &Path) -> anyhow::Result<(Zeroizing<String>, Option<&'static str>)> {
    let file = File::open(path).context("cannot be opened")?;
    let warning = readable_by_others(&file).then_some(
        "can be read or written by every user: take the rights of others away (chmod o=)",
    );
    let mut bytes = Zeroizing::new(Vec::with_capacity(FILE_MAX_LEN + 1));
    let limit = u64::try_from(FILE_MAX_LEN + 1).unwrap_or(u64::MAX);
    file.take(limit)
        .read_to_end(&mut bytes)
        .context("cannot be read")?;
    if bytes.len() > FILE_MAX_LEN {
        bail!("is longer than {FILE_MAX_LEN} bytes");
    }
    let Ok(text) = std::str::from_utf8(&bytes) else {
        bail!("is not UTF-8");
    };
    if text.trim().is_empty() {
        bail!("is empty");
    }
    Ok((Zeroizing::new(text.to_owned()), warning))
}

#[cfg(unix)]
fn readable_by_others(file: &File) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    const OTHERS: u32 = 0o007;
    file.metadata()
        .is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & OTHERS != 0)
}

#[cfg(not(unix))]
fn readable_by_others(_: &File) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(configured: &str) -> String {
        match resolve("database.url", configured) {
            Ok(_) => panic!("{configured:?} must be refused"),
            Err(error) => format!("{error:#}"),
        }
    }

    #[test]
    fn secret_is_taken_as_it_is_or_from_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        let configured = format!("file:{}", path.display());
        for content in [
            "postgres://h/d",
            "postgres://h/d\n",
            " postgres://h/d\r\n\n",
        ] {
            std::fs::write(&path, content).unwrap();
            for configured in [content, &configured] {
                let resolved = resolve("database.url", configured).unwrap();
                assert_eq!(resolved.value.as_str(), "postgres://h/d");
            }
        }
    }

    #[test]
    fn faults_name_the_setting_and_the_file_and_not_its_content() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        let configured = format!("file:{}", path.display());
        let missing = refusal(&configured);
        assert!(missing.contains("cannot be opened"), "{missing}");
        for content in [
            b"".as_slice(),
            b" \n",
            b"hunter2\nhunter2",
            b"hunter2\0",
            b"hunter2\xff",
            &b"hunter2".repeat(FILE_MAX_LEN),
        ] {
            std::fs::write(&path, content).unwrap();
            let message = refusal(&configured);
            assert!(message.contains("database.url"), "{message}");
            assert!(!message.contains("hunter2"), "{message}");
        }
        assert!(!refusal("hunter2\rhunter2").contains("hunter2"));
    }

    #[cfg(unix)]
    #[test]
    fn file_that_every_user_can_read_is_warned_of() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        std::fs::write(&path, "hunter2").unwrap();
        let configured = format!("file:{}", path.display());
        for (mode, warned) in [(0o600, false), (0o640, false), (0o644, true)] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            let warning = resolve("limits.redis_url", &configured).unwrap().warning;
            assert_eq!(warning.is_some(), warned, "{mode:o}");
            assert!(warning.is_none_or(|warning| {
                warning.contains("limits.redis_url") && !warning.contains("hunter2")
            }));
        }
    }
}
