//! TLS to PostgreSQL: what each `sslmode` accepts of a server.
#![allow(missing_docs, clippy::unwrap_used, reason = "tests")]

use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use keys_service::KeyStore as _;
use keys_store::{OpenError, Store, StoreOptions};
use keys_testkit::contract::followed;
use keys_testkit::postgres::Cluster;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio_postgres::{Client, NoTls};

/// A server whose certificate is for 127.0.0.1 and comes from an authority that only `authority.pem` knows.
struct Server {
    cluster: Cluster,
    client: Client,
    folder: tempfile::TempDir,
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
        client
            .batch_execute("alter system set ssl = on")
            .await
            .unwrap();
        client
            .batch_execute("select pg_reload_conf()")
            .await
            .unwrap();
        let server = Self {
            cluster,
            client,
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

    /// Whether the store's connections are encrypted, the one that follows changes included.
    async fn is_encrypted(&self, url: &str) -> Result<bool, OpenError> {
        // Connections of earlier calls may take a moment to go away: each call has a name of its own.
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let name = format!("keys-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let url = format!("{url}&application_name={name}");
        let store = Store::connect(&url.parse().unwrap(), StoreOptions::default()).await?;
        // The store keeps the connection that this needs.
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
    // Without a mode, and with the one that means the same, there is TLS with whoever answers.
    for url in [server.url(""), server.url("sslmode=prefer")] {
        assert!(server.is_encrypted(&url).await.unwrap(), "{url}");
    }
    for mode in ["require", "verify-ca", "verify-full"] {
        let trusted = server.url(&format!("sslmode={mode}&sslrootcert={authority}"));
        assert!(server.is_encrypted(&trusted).await.unwrap(), "{mode}");

        // An authority the system does not know.
        let untrusted = server.url(&format!("sslmode={mode}"));
        let refused = server.is_encrypted(&untrusted).await;
        assert!(
            matches!(refused, Err(OpenError::Connect(_) | OpenError::Tls(_))),
            "{mode}: {refused:?}"
        );
        // The right authority, for another name.
        let misnamed = trusted.replace("127.0.0.1", "localhost");
        let refused = server.is_encrypted(&misnamed).await;
        assert!(matches!(refused, Err(OpenError::Connect(_))), "{mode}");
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
