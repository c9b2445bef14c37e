//! TLS to PostgreSQL.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use rustls::client::WantsClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, ConfigBuilder, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    version,
};

use crate::url::{TlsFiles, TlsRoots, mode_for_others};

/// Error returned when TLS to PostgreSQL cannot be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// The file of `sslrootcert` cannot be read, or is not PEM.
    #[error("the file with trusted certificates (sslrootcert) cannot be read")]
    RootCertificates(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// There are no certificates to verify that of the server with.
    #[error("there is no trusted certificate; name a file of them with `sslrootcert`")]
    NoRootCertificates,
    /// The file of `sslcert` cannot be read, or is not PEM.
    #[error("the file with the certificate of the client (sslcert) cannot be read")]
    ClientCertificate(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The file of `sslkey` cannot be read, or is not PEM.
    #[error("the file with the private key of the client (sslkey) cannot be read")]
    ClientKey(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Users other than its owner can access the file of `sslkey`.
    #[error(
        "the file with the private key of the client (sslkey) may be read by others than its owner \
         (mode {mode:03o}); run `chmod 600` on it"
    )]
    ClientKeyMode {
        /// The permissions of the file.
        mode: u32,
    },
    /// The key does not belong to the certificate, or is of an unknown kind.
    #[error(
        "the private key (sslkey) and the certificate (sslcert) of the client do not fit together"
    )]
    ClientPair(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Returns a configuration that verifies the certificate of the server and its name.
pub(crate) fn verified(files: &TlsFiles) -> Result<ClientConfig, TlsError> {
    let mut store = RootCertStore::empty();
    match &files.roots {
        TlsRoots::File(path) => {
            let unreadable = |error| TlsError::RootCertificates(Box::new(error));
            for certificate in CertificateDer::pem_file_iter(path).map_err(unreadable)? {
                store
                    .add(certificate.map_err(unreadable)?)
                    .map_err(|error| TlsError::RootCertificates(Box::new(error)))?;
            }
        }
        // If single certificates of the system cannot be read, the others are still used.
        TlsRoots::System => {
            store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    if store.is_empty() {
        return Err(TlsError::NoRootCertificates);
    }
    with_client(builder(files).with_root_certificates(store), files)
}

/// Returns a configuration that accepts any server, for connections that would otherwise be made
/// without TLS.
pub(crate) fn opportunistic(files: &TlsFiles) -> Result<ClientConfig, TlsError> {
    let builder = builder(files)
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyServer(provider())));
    with_client(builder, files)
}

/// Adds the certificate of the client, if there is one.
fn with_client(
    builder: ConfigBuilder<ClientConfig, WantsClientCert>,
    files: &TlsFiles,
) -> Result<ClientConfig, TlsError> {
    let Some((certificate, key)) = &files.client else {
        return Ok(builder.with_no_client_auth());
    };
    let unreadable = |error| TlsError::ClientCertificate(Box::new(error));
    let chain = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(unreadable)?;
    if chain.is_empty() {
        return Err(unreadable(pem::Error::NoItemsFound));
    }
    let key = client_key(key)?;
    builder
        .with_client_auth_cert(chain, key)
        .map_err(|error| TlsError::ClientPair(Box::new(error)))
}

fn client_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let file = File::open(path).map_err(|error| TlsError::ClientKey(Box::new(error)))?;
    let mode = mode_for_others(&file).map_err(|error| TlsError::ClientKey(Box::new(error)))?;
    if let Some(mode) = mode {
        return Err(TlsError::ClientKeyMode { mode });
    }
    PrivateKeyDer::from_pem_reader(file).map_err(|error| TlsError::ClientKey(Box::new(error)))
}

/// The only place that chooses the implementation of cryptography. If two crates enable different
/// ones in rustls, it would otherwise panic when it has to choose.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn builder(files: &TlsFiles) -> ConfigBuilder<ClientConfig, rustls::WantsVerifier> {
    let versions: &[_] = if files.is_1_3_only {
        &[&version::TLS13]
    } else {
        &[&version::TLS13, &version::TLS12]
    };
    ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(versions)
        .expect("ring implements every protocol version")
}

/// Accepts any certificate.
#[derive(Debug)]
struct AnyServer(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(
            message,
            cert,
            dss,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(
            message,
            cert,
            dss,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
