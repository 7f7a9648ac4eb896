//! How a component reaches the API server: as a Kubernetes client, from its own network
//! namespace, with its own identity. There is no other way in.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::Uri;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::{TokioExecutor, TokioIo};
use kube::client::{ClientBuilder, ConfigExt};
use kube::config::AuthInfo;
use socket2::{SockRef, TcpKeepalive};
use stickler_pods::connection::{ASKED_EVERY, DIAL, SILENCE};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tower::Service;

use crate::namespace::NetNamespace;
use crate::pki::Credentials;

/// Where the API server is, and who vouches for it.
#[derive(Clone, Debug)]
pub(crate) struct ApiEndpoint {
    /// An address the API server listens on, as seen from the client's namespace.
    pub(crate) address: SocketAddr,
    pub(crate) ca_pem: String,
}

/// A client that dials from inside `from` and presents `credentials`.
pub(crate) fn client(
    from: &NetNamespace,
    api: &ApiEndpoint,
    credentials: &Credentials,
) -> anyhow::Result<kube::Client> {
    use base64::Engine as _;
    let encode = |pem: &str| base64::engine::general_purpose::STANDARD.encode(pem);
    let mut config = kube::Config::new(format!("https://{}", api.address).parse()?);
    config.root_cert = Some(
        rustls_pki_types::pem::PemObject::pem_slice_iter(api.ca_pem.as_bytes())
            .map(der)
            .collect::<Result<_, _>>()?,
    );
    config.auth_info = AuthInfo {
        client_certificate_data: Some(encode(&credentials.certificate_pem)),
        client_key_data: Some(encode(&credentials.key_pem).into()),
        ..AuthInfo::default()
    };
    config.disable_compression = true;
    let connector = NamespaceConnector { from: from.clone(), to: api.address };
    let https = config.rustls_https_connector_with_connector(connector)?;
    let http = hyper_util::client::legacy::Client::builder(TokioExecutor::new()).build(https);
    let service = tower::ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .map_err(tower::BoxError::from)
        .service(http);
    Ok(ClientBuilder::new(service, config.default_namespace).build())
}

fn der(
    certificate: Result<rustls_pki_types::CertificateDer<'static>, rustls_pki_types::pem::Error>,
) -> anyhow::Result<Vec<u8>> {
    Ok(certificate?.to_vec())
}

/// Dials one fixed address from inside a namespace, whatever the URI says.
#[derive(Clone)]
struct NamespaceConnector {
    from: NetNamespace,
    to: SocketAddr,
}

impl Service<Uri> for NamespaceConnector {
    type Response = NamespaceStream;
    type Error = std::io::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let Self { from, to } = self.clone();
        Box::pin(async move {
            let stream = timeout(DIAL, from.connect(to)).await??;
            stream.set_nodelay(true)?;
            // No wire leads to one's own machine that could be cut.
            if !to.ip().is_loopback() {
                give_up_in_silence(&stream)?;
            }
            Ok(NamespaceStream(TokioIo::new(stream)))
        })
    }
}

/// Lets the kernel end the connection when nothing comes from the other machine any more, neither what it
/// sends nor word that it received what was sent.
fn give_up_in_silence(stream: &TcpStream) -> std::io::Result<()> {
    let socket = SockRef::from(stream);
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(ASKED_EVERY).with_interval(ASKED_EVERY))?;
    socket.set_tcp_user_timeout(Some(SILENCE))
}

/// A connection made inside a namespace.
struct NamespaceStream(TokioIo<TcpStream>);

impl Connection for NamespaceStream {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl hyper::rt::Read for NamespaceStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl hyper::rt::Write for NamespaceStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
