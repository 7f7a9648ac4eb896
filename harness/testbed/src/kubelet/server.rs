//! What a kubelet serves on port 10250: its health, the logs of its containers, and processes in them.
//!
//! Only clients with a certificate of the cluster's authority get in
//! ([Kubelet authentication/authorization](https://kubernetes.io/docs/reference/access-authn-authz/kubelet-authn-authz/)).

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Query, State, WebSocketUpgrade};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{any, get};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::exec;
use super::node::{Node, PORT};
use super::output::{self, Wish};
use super::records::Missing;
use crate::namespace::Listening;
use crate::pki::Credentials;

/// A client that never finishes its handshake is dropped after this long.
const HANDSHAKE_BOUND: Duration = Duration::from_secs(10);

/// A server that listens already, so that whoever sees the node can reach it.
pub(crate) struct Server {
    listener: Listening,
    tls: tokio_rustls::TlsAcceptor,
}

impl Server {
    /// Listens on the node's address, inside the node.
    pub(crate) fn listen(node: &Node, serving: &Credentials, ca_pem: &str) -> anyhow::Result<Self> {
        let address = SocketAddr::from((node.ip, PORT));
        let listen = || -> std::io::Result<TcpListener> {
            let listener = node.namespace.listen(address)?;
            listener.set_nonblocking(true)?;
            Ok(listener)
        };
        let listener =
            listen().with_context(|| format!("kubelet of `{}` cannot listen on {address}", node.name))?;
        Ok(Self {
            listener: Listening::new(tokio::net::TcpListener::from_std(listener)?),
            tls: tls(serving, ca_pem).context("kubelet cannot use its certificates")?,
        })
    }

    /// Serves until the task is ended; streams to processes end when `cut` is cancelled.
    pub(crate) async fn serve(self, node: Arc<Node>, cut: CancellationToken) {
        let router = router(node, cut);
        // Connections end with the server.
        let mut connections = tokio::task::JoinSet::new();
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                Some(_) = connections.join_next() => continue,
            };
            let Ok((stream, _)) = accepted else {
                // Too many open files, for one: give others time to close some.
                let _ = timeout(Duration::from_millis(50), connections.join_next()).await;
                continue;
            };
            let (tls, router) = (self.tls.clone(), router.clone());
            connections.spawn(async move {
                let _ = stream.set_nodelay(true);
                let Ok(Ok(stream)) = timeout(HANDSHAKE_BOUND, tls.accept(stream)).await else { return };
                let service = hyper_util::service::TowerToHyperService::new(router);
                let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                // A broken connection is the client's affair.
                let _ = server.serve_connection_with_upgrades(TokioIo::new(stream), service).await;
            });
        }
    }
}

fn tls(serving: &Credentials, ca_pem: &str) -> anyhow::Result<tokio_rustls::TlsAcceptor> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca_pem.as_bytes()) {
        roots.add(certificate?)?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let clients =
        rustls::server::WebPkiClientVerifier::builder_with_provider(roots.into(), Arc::clone(&provider))
            .build()?;
    let chain =
        CertificateDer::pem_slice_iter(serving.certificate_pem.as_bytes()).collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(serving.key_pem.as_bytes())?;
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(clients)
        .with_single_cert(chain, key)?;
    // WebSockets are spoken over HTTP/1.1.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(tokio_rustls::TlsAcceptor::from(Arc::new(config)))
}

/// What is served, to whoever got in.
pub(crate) fn router(node: Arc<Node>, cut: CancellationToken) -> Router {
    Router::new()
        .route("/healthz", get(async || "ok"))
        .route("/containerLogs/{namespace}/{pod}/{container}", get(logs))
        .route("/exec/{namespace}/{pod}/{container}", any(start))
        .with_state(Serving { node, cut })
}

#[derive(Clone)]
struct Serving {
    node: Arc<Node>,
    /// Streams outlive the request that asked for them, but not the server.
    cut: CancellationToken,
}

type Which = Path<(String, String, String)>;
type Parameters = Query<Vec<(String, String)>>;

async fn logs(
    State(Serving { node, .. }): State<Serving>,
    Path(which): Which,
    Query(query): Parameters,
) -> Response {
    let (namespace, pod, container) = which;
    let wish = match Wish::parse(&query) {
        Ok(wish) => wish,
        Err(message) => return plain(StatusCode::BAD_REQUEST, message),
    };
    let record = match node.records.find(&namespace, &pod, &container) {
        Ok(record) => record,
        Err(Missing::Pod) => return plain(StatusCode::NOT_FOUND, format!("pod \"{pod}\" does not exist\n")),
        Err(Missing::Container) => {
            let message = format!("container \"{container}\" not found in pod \"{pod}\"\n");
            return plain(StatusCode::NOT_FOUND, message);
        }
    };
    let log = if wish.previous { record.previous } else { record.log };
    let Some(log) = log else {
        let message = if wish.previous {
            format!("previous terminated container \"{container}\" in pod \"{pod}\" not found")
        } else {
            format!("container \"{container}\" in pod \"{pod}\" is waiting to start: ContainerCreating")
        };
        return plain(StatusCode::BAD_REQUEST, message);
    };
    Response::new(Body::from_stream(output::stream(log, wish)))
}

async fn start(
    State(Serving { node, cut }): State<Serving>,
    Path(which): Which,
    Query(query): Parameters,
    upgrade: Result<WebSocketUpgrade, axum::extract::ws::rejection::WebSocketUpgradeRejection>,
) -> Response {
    let (namespace, pod, container) = which;
    let record = match node.records.find(&namespace, &pod, &container) {
        Ok(record) => record,
        Err(Missing::Pod) => return plain(StatusCode::NOT_FOUND, "pod does not exist".to_owned()),
        Err(Missing::Container) => {
            return plain(StatusCode::NOT_FOUND, format!("container not found (\"{container}\")"));
        }
    };
    let Some(running) = record.running else {
        return plain(StatusCode::INTERNAL_SERVER_ERROR, format!("container not found (\"{container}\")"));
    };
    let spec = match exec::parse(&query) {
        Ok(spec) => spec,
        Err(message) => return plain(StatusCode::BAD_REQUEST, message),
    };
    match upgrade {
        Ok(upgrade) => upgrade
            .protocols(exec::PROTOCOLS.iter().copied())
            .on_upgrade(move |socket| exec::run(node, running, spec, socket, cut)),
        Err(rejection) => rejection.into_response(),
    }
}

fn plain(status: StatusCode, message: String) -> Response {
    (status, message).into_response()
}
