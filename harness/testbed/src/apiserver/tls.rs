//! TLS: the serving certificate, and certificates of clients, which may but need not be shown.

use std::sync::Arc;

use anyhow::Context as _;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ServerConfig, WebPkiClientVerifier};
use rustls::{ClientConfig, DigitallySignedStruct, DistinguishedName, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};

use crate::pki::Credentials;

/// What the server needs to accept connections.
pub(crate) struct Tls {
    pub(crate) server: Arc<ServerConfig>,
    /// Is the certificate of the cluster's authority?
    verifier: Arc<dyn ClientCertVerifier>,
}

impl Tls {
    pub(crate) fn new(ca_pem: &str, serving: &Credentials) -> anyhow::Result<Self> {
        let verifier = WebPkiClientVerifier::builder(Arc::new(roots(ca_pem)?))
            .build()
            .context("cannot verify clients by the cluster's authority")?;
        let (chain, key) = parse(serving)?;
        let mut server = ServerConfig::builder()
            .with_client_cert_verifier(Arc::new(AskAnybody(Arc::clone(&verifier))))
            .with_single_cert(chain, key)
            .context("cannot serve with this certificate")?;
        server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Self { server: Arc::new(server), verifier })
    }

    /// The first of these certificates, if the cluster's authority vouches for it.
    pub(crate) fn verified<'a>(&self, chain: &'a [CertificateDer<'a>]) -> Option<&'a CertificateDer<'a>> {
        let (first, rest) = chain.split_first()?;
        self.verifier.verify_client_cert(first, rest, UnixTime::now()).ok().map(|_| first)
    }
}

#[cfg(test)]
impl Tls {
    /// The same, for a server that speaks HTTP/1.1 only, as a kubelet in a test does.
    pub(crate) fn http1_only(&self) -> Arc<ServerConfig> {
        let mut server = (*self.server).clone();
        server.alpn_protocols = vec![b"http/1.1".to_vec()];
        Arc::new(server)
    }
}

/// How the API server talks to kubelets: as itself, and only to servers of its own cluster.
pub(crate) fn kubelet_client(ca_pem: &str, credentials: &Credentials) -> anyhow::Result<Arc<ClientConfig>> {
    let (chain, key) = parse(credentials)?;
    let config = ClientConfig::builder()
        .with_root_certificates(roots(ca_pem)?)
        .with_client_auth_cert(chain, key)
        .context("cannot present this certificate to kubelets")?;
    Ok(Arc::new(config))
}

fn roots(ca_pem: &str) -> anyhow::Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca_pem.as_bytes()) {
        roots.add(certificate.context("the authority's certificate cannot be read")?)?;
    }
    Ok(roots)
}

fn parse(
    credentials: &Credentials,
) -> anyhow::Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
    let chain = CertificateDer::pem_slice_iter(credentials.certificate_pem.as_bytes())
        .collect::<Result<_, _>>()
        .context("the certificate cannot be read")?;
    let key =
        PrivateKeyDer::from_pem_slice(credentials.key_pem.as_bytes()).context("the key cannot be read")?;
    Ok((chain, key))
}

/// Takes any certificate in the handshake, as upstream does: a stranger gets a `Status` with 401
/// rather than a broken connection. That the client has the key is verified here and now.
#[derive(Debug)]
struct AskAnybody(Arc<dyn ClientCertVerifier>);

impl ClientCertVerifier for AskAnybody {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}
