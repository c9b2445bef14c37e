//! TLS to PostgreSQL: the servers that each `sslmode` accepts, and certificates of clients.
#![allow(missing_docs, clippy::unwrap_used, reason = "tests")]

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use keys_service::ports::Maintenance as _;
use keys_store::{OpenError, Store, StoreOptions, TlsError};
use keys_testkit::contract::followed;
use keys_testkit::error::chain;
use keys_testkit::postgres::Cluster;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use tokio_postgres::{Client, NoTls};

/// A server whose certificate is for 127.0.0.1, from an authority that only `authority.pem`
/// contains.
struct Server {
    cluster: Cluster,
    client: Client,
    authority: CertifiedIssuer<'static, KeyPair>,
    folder: tempfile::TempDir,
}

/// The files of `sslcert` and `sslkey`.
struct ClientFiles {
    certificate: PathBuf,
    key: PathBuf,
}

impl ClientFiles {
    fn parameters(&self) -> String {
        let (certificate, key) = (self.certificate.display(), self.key.display());
        format!("sslcert={certificate}&sslkey={key}")
    }
}

impl Server {
    async fn start() -> Self {
        let cluster = tokio::task::spawn_blocking(Cluster::start);
        let cluster = cluster.await.unwrap().unwrap();
        let client = connect(&cluster).await;
        let folder = tempfile::tempdir().unwrap();

        let mut authority = CertificateParams::new(Vec::new()).unwrap();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority =
            CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec!["127.0.0.1".to_owned()])
            .unwrap()
            .signed_by(&key, &authority)
            .unwrap();
        std::fs::write(folder.path().join("authority.pem"), authority.pem()).unwrap();

        // The server may run as another user, so it writes its files itself.
        write_as_server(&client, "server.crt", &certificate.pem()).await;
        write_as_server(&client, "server.key", &key.serialize_pem()).await;
        write_as_server(&client, "authority.crt", &authority.pem()).await;
        for statement in [
            "alter system set ssl_ca_file = 'authority.crt'",
            "alter system set ssl = on",
            "select pg_reload_conf()",
        ] {
            client.batch_execute(statement).await.unwrap();
        }
        let server = Self {
            cluster,
            client,
            authority,
            folder,
        };
        server.wait_for_tls().await;
        server
    }

    async fn wait_for_tls(&self) {
        for _ in 0..100 {
            let row = self.client.query_one("show ssl", &[]).await.unwrap();
            if row.get::<_, &str>(0) == "on" {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("the server does not switch TLS on");
    }

    /// From now on, only clients with a certificate for their role are accepted.
    async fn require_client_certificates(&self) {
        let rules = "hostssl all all 127.0.0.1/32 cert\n";
        write_as_server(&self.client, "pg_hba.conf", rules).await;
        let reload = "select pg_reload_conf()";
        self.client.batch_execute(reload).await.unwrap();
        for _ in 0..100 {
            let url = self.url("sslmode=disable");
            if tokio_postgres::connect(&url, NoTls).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("the server lets every client in");
    }

    /// A certificate for this role, from the authority that the server trusts.
    fn client_files(&self, role: &str) -> ClientFiles {
        let at = |ending: &str| self.folder.path().join(format!("{role}.{ending}"));
        let files = ClientFiles {
            certificate: at("crt"),
            key: at("key"),
        };
        let mut certificate = CertificateParams::new(Vec::new()).unwrap();
        certificate
            .distinguished_name
            .push(DnType::CommonName, role);
        let key = KeyPair::generate().unwrap();
        let certificate = certificate.signed_by(&key, &self.authority).unwrap();
        fs::write(&files.certificate, certificate.pem()).unwrap();
        fs::write(&files.key, key.serialize_pem()).unwrap();
        fs::set_permissions(&files.key, Permissions::from_mode(0o600)).unwrap();
        files
    }

    fn url(&self, parameters: &str) -> String {
        format!("{}/postgres?{parameters}", self.cluster.url())
    }

    fn authority(&self) -> String {
        self.folder
            .path()
            .join("authority.pem")
            .display()
            .to_string()
    }

    /// Returns whether the store's connections are encrypted, the one that follows changes
    /// included.
    async fn is_encrypted(&self, url: &str) -> Result<bool, OpenError> {
        // Connections of earlier calls may take a moment to close, so each call has a name of its
        // own.
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let name = format!("keys-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let url = format!("{url}&application_name={name}");
        let store = Store::connect(&url.parse().unwrap(), StoreOptions::default()).await?;
        // The store keeps the connection for this.
        store.migrate().await.unwrap();
        store.ready().await.unwrap();
        let _feed = followed(&store).await;
        let row = self
            .client
            .query_one(
                "select bool_and(ssl), bool_or(ssl), count(distinct application_name) \
                 from pg_stat_ssl join pg_stat_activity using (pid) \
                 where application_name in ($1, $1 || ' feed')",
                &[&name],
            )
            .await
            .unwrap();
        let (all, any, names): (bool, bool, i64) = (row.get(0), row.get(1), row.get(2));
        assert_eq!((all, names), (any, 2));
        Ok(all)
    }
}

async fn connect(cluster: &Cluster) -> Client {
    let url = format!("{}/postgres", cluster.url());
    let (client, connection) = tokio_postgres::connect(&url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

async fn write_as_server(client: &Client, name: &str, text: &str) {
    let row = client.query_one("show data_directory", &[]).await.unwrap();
    let path = Path::new(row.get::<_, &str>(0)).join(name);
    let path = path.display();
    let made = client
        .query_one("select lo_from_bytea(0, $1)", &[&text.as_bytes()])
        .await;
    let object: u32 = made.unwrap().get(0);
    client
        .batch_execute(&format!(
            "select lo_export({object}, '{path}'); \
             copy (select 1) to program 'cat > /dev/null; chmod 600 {path}'"
        ))
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn each_sslmode_accepts_what_it_says() {
    let server = Server::start().await;
    let authority = server.authority();

    let plain = server.url("sslmode=disable");
    assert!(!server.is_encrypted(&plain).await.unwrap());
    // Without a mode, and with the equivalent one, there is TLS without verification.
    for url in [server.url(""), server.url("sslmode=prefer")] {
        assert!(server.is_encrypted(&url).await.unwrap(), "{url}");
    }
    for mode in ["require", "verify-ca", "verify-full"] {
        let trusted = server.url(&format!("sslmode={mode}&sslrootcert={authority}"));
        assert!(server.is_encrypted(&trusted).await.unwrap(), "{mode}");

        // An authority that the system does not trust.
        let untrusted = server.url(&format!("sslmode={mode}"));
        let refused = server.is_encrypted(&untrusted).await;
        assert!(
            matches!(refused, Err(OpenError::Connect(_) | OpenError::Tls(_))),
            "{mode}: {refused:?}"
        );
        // Naming the authorities of the system requires the same, also without a mode.
        for parameters in [
            "sslrootcert=system".to_owned(),
            format!("sslrootcert=system&sslmode={mode}"),
        ] {
            let refused = server.is_encrypted(&server.url(&parameters)).await;
            assert!(
                matches!(refused, Err(OpenError::Connect(_) | OpenError::Tls(_))),
                "{parameters}: {refused:?}"
            );
        }
        // The right authority, for another name.
        let misnamed = trusted.replace("127.0.0.1", "localhost");
        let refused = server.is_encrypted(&misnamed).await;
        assert!(matches!(refused, Err(OpenError::Connect(_))), "{mode}");
        // The folder of a socket is not a host name, and with an address it is not a socket.
        let located = format!(
            "{}&hostaddr=127.0.0.1",
            trusted.replace("127.0.0.1", "%2Fnowhere")
        );
        assert!(server.is_encrypted(&located).await.unwrap(), "{mode}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn unusable_root_certificates_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let empty = folder.path().join("empty.pem");
    std::fs::write(&empty, "").unwrap();
    let missing = folder.path().join("missing.pem");
    for path in [empty, missing] {
        let url = format!(
            "postgres://127.0.0.1:1/x?sslmode=require&sslrootcert={}",
            path.display()
        );
        let refused = Store::connect(&url.parse().unwrap(), StoreOptions::default()).await;
        assert!(matches!(refused, Err(OpenError::Tls(_))), "{url}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn client_certificate_is_presented_and_its_absence_says_what_to_set() {
    let server = Server::start().await;
    server.require_client_certificates().await;
    let verified = format!("sslmode=verify-full&sslrootcert={}", server.authority());
    let files = server.client_files("postgres");
    let parameters = files.parameters();
    // The first verifies the server, the second does not.
    for mode in [&*verified, "sslmode=prefer"] {
        let url = server.url(&format!("{mode}&{parameters}"));
        assert!(server.is_encrypted(&url).await.unwrap(), "{mode}");
    }

    let refused = server.is_encrypted(&server.url(&verified)).await;
    let said = chain(&refused.unwrap_err());
    for word in ["client certificate", "`sslcert`", "`sslkey`"] {
        assert!(said.contains(word), "{word}: {said}");
    }
    // A client certificate for another role must not set them.
    let other = server.client_files("other").parameters();
    let url = server.url(&format!("{verified}&{other}"));
    let said = chain(&server.is_encrypted(&url).await.unwrap_err());
    assert!(said.contains("\"postgres\""), "{said}");
    assert!(!said.contains("sslcert"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn client_key_must_be_private_and_belong_to_its_certificate() {
    let server = Server::start().await;
    server.require_client_certificates().await;
    let files = server.client_files("postgres");
    let verified = format!("sslmode=verify-full&sslrootcert={}", server.authority());
    let open = async |files: &ClientFiles| {
        let url = server.url(&format!("{verified}&{}", files.parameters()));
        server.is_encrypted(&url).await
    };
    for mode in [0o644, 0o604, 0o660] {
        fs::set_permissions(&files.key, Permissions::from_mode(mode)).unwrap();
        let refused = open(&files).await.unwrap_err();
        assert!(
            matches!(refused, OpenError::Tls(TlsError::ClientKeyMode { mode: told }) if told == mode),
            "{refused:?}"
        );
        let said = chain(&refused);
        for word in [&*format!("{mode:03o}"), "sslkey", "chmod 600"] {
            assert!(said.contains(word), "{word}: {said}");
        }
    }
    fs::set_permissions(&files.key, Permissions::from_mode(0o400)).unwrap();
    assert!(open(&files).await.unwrap());

    let mixed = ClientFiles {
        certificate: files.certificate.clone(),
        key: server.client_files("other").key,
    };
    let refused = open(&mixed).await.unwrap_err();
    assert!(
        matches!(refused, OpenError::Tls(TlsError::ClientPair(_))),
        "{refused:?}"
    );
    // An empty file, and one that does not exist.
    let empty = server.folder.path().join("empty.pem");
    fs::write(&empty, "").unwrap();
    fs::set_permissions(&empty, Permissions::from_mode(0o600)).unwrap();
    for path in [empty, server.folder.path().join("missing.pem")] {
        let of_certificate = ClientFiles {
            certificate: path.clone(),
            key: files.key.clone(),
        };
        let refused = open(&of_certificate).await.unwrap_err();
        assert!(
            matches!(refused, OpenError::Tls(TlsError::ClientCertificate(_))),
            "{refused:?}"
        );
        let of_key = ClientFiles {
            certificate: files.certificate.clone(),
            key: path,
        };
        let refused = open(&of_key).await.unwrap_err();
        assert!(
            matches!(refused, OpenError::Tls(TlsError::ClientKey(_))),
            "{refused:?}"
        );
    }
}
