//! TLS to PostgreSQL.

use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

/// TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// The file of `sslrootcert` cannot be read, or is no PEM.
    #[error("the file with trusted certificates cannot be read")]
    RootCertificates(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Nothing to check the server's certificate with.
    #[error("there is no trusted certificate; name a file of them with `sslrootcert`")]
    NoRootCertificates,
}

/// TLS with a server whose certificate must be for its name, from an authority in the file at `roots` or, without
/// one, of the system.
pub(crate) fn verified(roots: Option<&Path>) -> Result<ClientConfig, TlsError> {
    let mut store = RootCertStore::empty();
    if let Some(path) = roots {
        let unreadable = |error| TlsError::RootCertificates(Box::new(error));
        for certificate in CertificateDer::pem_file_iter(path).map_err(unreadable)? {
            store
                .add(certificate.map_err(unreadable)?)
                .map_err(|error| TlsError::RootCertificates(Box::new(error)))?;
        }
    } else {
        // Single certificates of the system that cannot be read are no reason to do without the others.
        store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    }
    if store.is_empty() {
        return Err(TlsError::NoRootCertificates);
    }
    Ok(builder()
        .with_root_certificates(store)
        .with_no_client_auth())
}

/// TLS with whoever answers, for connections that would be made without TLS too.
pub(crate) fn opportunistic() -> ClientConfig {
    builder()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyServer(provider())))
        .with_no_client_auth()
}

/// The one place that decides on the implementation of cryptography: two crates that switch on different ones in
/// rustls would otherwise make it panic when it has to choose.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn builder() -> rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier> {
    ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("ring implements every protocol version")
}

/// Takes any certificate.
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
