//! The output of a first start on an embedded database: the first operator key, and commands to
//! try.

use std::fs::{self, File};
use std::io::{self, ErrorKind, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use keys_core::KeyName;
use keys_service::ports::KeyOwner;
use keys_service::{Actor, Issued, KeyService, OPERATOR_PREFIX, OperatorKeyDraft};

use crate::commands::operator_scopes;
use crate::config::Http;
use crate::listen::Endpoint;
use crate::{output, telemetry};

/// Name of the file with the first operator key, beside the database, if standard output is not a
/// terminal.
const KEY_FILE: &str = "first-operator-key";

/// Creates the first operator key and prints it, with commands that work when pasted.
///
/// The key is printed to a terminal only. Other output stays in logs, so there the key is written
/// to a file that only its owner can read.
pub(crate) async fn print(
    service: &KeyService,
    endpoints: &[Endpoint],
    http: &Http,
    database: Option<&Path>,
) -> anyhow::Result<()> {
    let draft =
        OperatorKeyDraft::new(KeyName::from_name("first operator")?).scopes(operator_scopes(&[]));
    let url = reachable(endpoints);
    let curl = curl(endpoints);
    if io::stdout().is_terminal() {
        let issued = service.issue_operator_key(&Actor::system(), draft).await?;
        let key = issued.secret.expose();
        let told = format!("The first operator key. It is shown this once; keep it.\n\n    {key}");
        let told = output::line(&text(&told, key, (&curl, &url), http))
            .context("printing the first operator key");
        return revoke_if_lost(service, &issued, told).await;
    }
    // Created before the key, which would be lost if it could not be written.
    let (mut file, path) = create_key_file(database)?;
    let issued = match service.issue_operator_key(&Actor::system(), draft).await {
        Ok(issued) => issued,
        Err(error) => {
            let _ = fs::remove_file(&path);
            return Err(error.into());
        }
    };
    hand_over(service, &issued, &mut file, &path).await?;
    let shown = path.display().to_string();
    let told = format!(
        "The first operator key is in the file {shown}, which only its owner can read.\nKeep the key in a safe place and delete the file."
    );
    let key = format!("\"$(cat {})\"", shell_quoted(&shown));
    telemetry::say(&format!("the first operator key is in the file {shown}"));
    // On a full disk the commands may be lost.
    let _ = output::line(&text(&told, &key, (&curl, &url), http));
    Ok(())
}

/// Writes the key to its file. If that fails the file is removed and the key revoked.
async fn hand_over(
    service: &KeyService,
    issued: &Issued,
    file: &mut File,
    path: &Path,
) -> anyhow::Result<()> {
    let written = write_key(file, issued.secret.expose())
        .with_context(|| format!("writing the first operator key to {}", path.display()));
    if written.is_err() {
        let _ = fs::remove_file(path);
    }
    revoke_if_lost(service, issued, written).await
}

/// Revokes the key if `told` is a failure, because no operator has it then. A later start says how
/// to create another one, but only if there is no operator key.
async fn revoke_if_lost(
    service: &KeyService,
    issued: &Issued,
    told: anyhow::Result<()>,
) -> anyhow::Result<()> {
    let Err(error) = told else {
        return Ok(());
    };
    let id = issued.key.id;
    let revoked = service.revoke_key(&Actor::system(), None, id).await;
    Err(match revoked {
        Ok(_) => error.context(
            "the first operator key was lost and is revoked; make another one with \
             `keys-server operator-key create --name NAME`",
        ),
        Err(_) => error.context(format!(
            "the first operator key was lost and could not be revoked; make another one with \
             `keys-server operator-key create --name NAME`, and revoke {id} with `keys-server key revoke {id}`"
        )),
    })
}

/// Creates a file with a free name that only its owner can read.
fn create_key_file(database: Option<&Path>) -> anyhow::Result<(File, PathBuf)> {
    const NAMES_MAX: u32 = 100;
    let folder = database.and_then(Path::parent).unwrap_or(Path::new(""));
    // The path may be pasted in another folder.
    let folder = if folder.as_os_str().is_empty() {
        std::env::current_dir()?
    } else {
        std::path::absolute(folder)?
    };
    for number in 1..=NAMES_MAX {
        let path = folder.join(match number {
            1 => KEY_FILE.to_owned(),
            _ => format!("{KEY_FILE}-{number}"),
        });
        let mut options = fs::OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        match options.open(&path) {
            Ok(file) => return Ok((file, path)),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => {
                return Err(error).with_context(|| {
                    format!("creating {} for the first operator key", path.display())
                });
            }
        }
    }
    bail!(
        "there are {NAMES_MAX} files {KEY_FILE} in {}: delete those that are of no use",
        folder.display()
    )
}

fn write_key(file: &mut File, key: &str) -> io::Result<()> {
    writeln!(file, "{key}")?;
    file.sync_all()
}

/// Quotes a text as one word of a shell.
fn shell_quoted(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    if text.chars().all(is_plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

/// Says what to do if there is no operator key yet.
pub(crate) async fn hint(service: &KeyService, embedded: bool) -> anyhow::Result<()> {
    let operators = service.list_keys(KeyOwner::Operators, 0, 1).await?;
    if operators.total == 0 {
        let whose = if embedded {
            ""
        } else {
            ", with the same settings"
        };
        tracing::warn!(
            "there is no {OPERATOR_PREFIX} key: make one with `keys-server operator-key create --name NAME`{whose}"
        );
    }
    Ok(())
}

/// Returns the first address as a client on this machine writes it: localhost for a wildcard
/// address.
fn reachable(endpoints: &[Endpoint]) -> String {
    let Some(address) = endpoints.iter().find_map(Endpoint::tcp) else {
        // Over the Unix socket, where any name will do.
        return "http://localhost".to_owned();
    };
    if address.ip().is_unspecified() {
        format!("http://localhost:{}", address.port())
    } else {
        format!("http://{address}")
    }
}

/// Returns the start of a curl command to the server.
fn curl(endpoints: &[Endpoint]) -> String {
    let is_tcp = endpoints.iter().any(|endpoint| endpoint.tcp().is_some());
    match endpoints.iter().find_map(Endpoint::unix) {
        Some(path) if !is_tcp => {
            format!("curl -s --unix-socket {}", shell_quoted(&path.to_string()))
        }
        _ => "curl -s".to_owned(),
    }
}

fn text(told: &str, operator_key: &str, (curl, url): (&str, &str), http: &Http) -> String {
    let (flat, account) = (&http.flat.path, &http.account.path);
    format!(
        r#"
{told}

To try things out, paste these into a shell.

# Who you are, and where
OPERATOR_KEY={operator_key}
URL={url}

# Create an account on the Pro plan, and its first key
ACCOUNT=$({curl} -X POST $URL/v1/accounts -H "Authorization: Bearer $OPERATOR_KEY" \
  -H "Content-Type: application/json" -d '{{"plan":"pro"}}' | grep -o '"id":"[^"]*' | cut -d'"' -f4)
KEY=$({curl} -X POST $URL/v1/accounts/$ACCOUNT/keys -H "Authorization: Bearer $OPERATOR_KEY" \
  -H "Content-Type: application/json" -d '{{"name":"First key"}}' | grep -o '"key":"[^"]*' | cut -d'"' -f4)
echo "account $ACCOUNT has the key $KEY"

# With that key: create another, list them, through either contract
{curl} -X POST $URL{flat} -H "Authorization: Bearer $KEY" \
  -H "Content-Type: application/json" -d '{{"name":"Production Server"}}'; echo
{curl} $URL{flat} -H "Authorization: Bearer $KEY"; echo
{curl} -X POST "$URL{account}" -H "Authorization: Bearer $KEY" -H "Content-Type: application/json" \
  -d '{{"memo":"Development API Key","allowedIps":["192.168.1.100"],"expiresAt":"2099-12-31T23:59:59Z"}}'; echo
{curl} "$URL{account}?page=1&limit=50" -H "Authorization: Bearer $KEY"; echo

# Revoke the first key; from then on it opens nothing
ID=$({curl} $URL{flat} -H "Authorization: Bearer $KEY" | grep -o '"id":"[^"]*","name":"First key"' | cut -d'"' -f4)
{curl} -X DELETE $URL{flat}/$ID -H "Authorization: Bearer $KEY"; echo
{curl} $URL{flat} -H "Authorization: Bearer $KEY"; echo
"#
    )
}

#[cfg(test)]
mod tests {
    use keys_service::MemoryStore;
    use keys_testkit::data::pepper_ring;

    use super::*;

    async fn service_with_key() -> (KeyService, Issued) {
        let service = KeyService::builder(MemoryStore::new(), pepper_ring("p1")).build();
        let draft = OperatorKeyDraft::new(KeyName::from_name("first operator").unwrap())
            .scopes(operator_scopes(&[]));
        let issued = service.issue_operator_key(&Actor::system(), draft).await;
        let issued = issued.unwrap();
        (service, issued)
    }

    async fn operator_keys(service: &KeyService) -> u64 {
        let listed = service.list_keys(KeyOwner::Operators, 0, 1).await;
        listed.unwrap().total
    }

    #[tokio::test]
    async fn key_that_is_written_is_kept() {
        let (service, issued) = service_with_key().await;
        let folder = tempfile::tempdir().unwrap();
        let (mut file, path) = create_key_file(Some(&folder.path().join("keys.db"))).unwrap();
        hand_over(&service, &issued, &mut file, &path)
            .await
            .unwrap();
        let written = fs::read_to_string(&path).unwrap();
        assert_eq!(written.trim(), issued.secret.expose());
        assert_eq!(operator_keys(&service).await, 1);
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn key_that_cannot_be_written_is_revoked_and_its_file_removed() {
        let (service, issued) = service_with_key().await;
        let folder = tempfile::tempdir().unwrap();
        let (_, path) = create_key_file(Some(&folder.path().join("keys.db"))).unwrap();
        // Simulates a full disk.
        let mut full = File::options().write(true).open("/dev/full").unwrap();
        let error = hand_over(&service, &issued, &mut full, &path)
            .await
            .unwrap_err();
        let message = format!("{error:#}");
        assert!(message.contains("operator-key create"), "{message}");
        assert!(message.contains("first-operator-key"), "{message}");
        assert!(!message.contains(issued.secret.expose()));
        assert!(!path.exists());
        assert_eq!(operator_keys(&service).await, 0);
    }

    #[tokio::test]
    async fn key_that_cannot_be_printed_is_revoked() {
        let (service, issued) = service_with_key().await;
        let gone = Err(io::Error::other("the terminal is gone").into());
        let error = revoke_if_lost(&service, &issued, gone).await.unwrap_err();
        assert!(format!("{error:#}").contains("the terminal is gone"));
        assert_eq!(operator_keys(&service).await, 0);
    }
}
