//! What only a kubelet can answer: logs and commands in containers. The request is passed on to the
//! kubelet of the pod's node, and the answer back.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http::header::{CONNECTION, HOST, HeaderName, UPGRADE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use serde_json::Value;

use super::KubeletDial;
use super::json::{list, number, text};
use super::registry::Registry;
use super::request::{Query, encode_percent, header};
use super::resources::{NODES, PODS};
use super::serve::{Context, typed};
use super::status::{Result, Status};
use super::store::Key;

/// How long a kubelet may take to be reached.
const DIAL_LIMIT: Duration = Duration::from_secs(10);

/// How the API server reaches kubelets, and how it proves who it is.
pub(crate) struct Kubelets {
    pub(crate) dial: KubeletDial,
    pub(crate) tls: Arc<ClientConfig>,
}

/// The output of a container
/// ([Pod API, "read log of the specified Pod"](https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/pod-v1/#get-read-log-of-the-specified-pod)).
pub(crate) async fn log(context: &Context, key: &Key, query: &Query) -> Result<Response<Body>> {
    let place = Place::find(&context.shared.registry, key, query.get("container"))?;
    let mut parameters = Vec::new();
    for name in ["follow", "previous", "timestamps"] {
        if query.flag(name) {
            parameters.push((name, "true".to_owned()));
        }
    }
    for name in ["tailLines", "sinceSeconds", "limitBytes"] {
        if let Some(value) = query.number::<u64>(name)? {
            parameters.push((name, value.to_string()));
        }
    }
    if query.has("sinceTime") {
        parameters.push(("sinceTime", query.get("sinceTime").to_owned()));
    }
    let path = place.path("containerLogs", key, &parameters);
    let mut sender = connect(context, &place).await?;
    let request = request(&place, Method::GET, &path)?;
    let response = sender.send_request(request).await.map_err(|error| place.broken(&error))?;
    if !response.status().is_success() {
        return Err(passed_on(response).await);
    }
    // The connection lives as long as somebody holds its sender.
    let body = response.into_body().map_frame(move |frame| {
        let _ = &sender;
        frame
    });
    Ok(typed(StatusCode::OK, "text/plain", Body::new(body)))
}

/// A command in a container, its streams tunnelled through a WebSocket.
pub(crate) async fn exec(
    context: &Context,
    key: &Key,
    action: &str,
    query: &Query,
    mut incoming: Request<Incoming>,
) -> Result<Response<Body>> {
    if action == "attach" {
        let message = "attaching is not supported by this server: use `kubectl logs -f`, or `kubectl exec` to run \
                       a command beside the container's own";
        return Err(Status::bad_request(message));
    }
    let upgrade = header(incoming.headers(), &UPGRADE).to_ascii_lowercase();
    if upgrade != "websocket" {
        let message = if upgrade.contains("spdy") {
            "SPDY is not supported by this server: use a client that speaks WebSocket (kubectl 1.31 or later)"
        } else {
            "unable to upgrade: the request is no WebSocket handshake"
        };
        return Err(Status::bad_request(message));
    }
    let place = Place::find(&context.shared.registry, key, query.get("container"))?;
    let mut parameters: Vec<(&str, String)> =
        query.all("command").map(|word| ("command", word.to_owned())).collect();
    for (ours, kubelets) in [("stdin", "input"), ("stdout", "output"), ("stderr", "error"), ("tty", "tty")] {
        if query.flag(ours) {
            parameters.push((kubelets, "1".to_owned()));
        }
    }
    if action == "exec" && !query.has("command") {
        return Err(Status::bad_request("you must specify at least 1 command for the container"));
    }
    let path = place.path(action, key, &parameters);
    let mut outgoing = request(&place, Method::GET, &path)?;
    for name in [
        "sec-websocket-key",
        "sec-websocket-version",
        "sec-websocket-protocol",
        "sec-websocket-extensions",
        "origin",
    ] {
        let name = HeaderName::from_static(name);
        for value in incoming.headers().get_all(&name) {
            outgoing.headers_mut().append(name.clone(), value.clone());
        }
    }
    outgoing.headers_mut().insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    outgoing.headers_mut().insert(UPGRADE, HeaderValue::from_static("websocket"));
    let mut sender = connect(context, &place).await?;
    let mut response = sender.send_request(outgoing).await.map_err(|error| place.broken(&error))?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Err(passed_on(response).await);
    }
    let kubelet = hyper::upgrade::on(&mut response);
    let client = hyper::upgrade::on(&mut incoming);
    let stop = context.stop.clone();
    context.tasks.spawn(async move {
        let tunnel = async {
            let (kubelet, client) = match tokio::try_join!(kubelet, client) {
                Ok(both) => both,
                Err(error) => return tracing::debug!(%error, "a stream to a container was not established"),
            };
            let (mut kubelet, mut client) = (TokioIo::new(kubelet), TokioIo::new(client));
            if let Err(error) = tokio::io::copy_bidirectional(&mut kubelet, &mut client).await {
                tracing::debug!(%error, "a stream to a container broke");
            }
        };
        tokio::select! {
            () = tunnel => {}
            () = stop.cancelled() => {}
        }
    });
    let mut answer = Response::new(Body::empty());
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    for (name, value) in response.headers() {
        answer.headers_mut().append(name.clone(), value.clone());
    }
    Ok(answer)
}

/// The container asked for, and the kubelet that runs it.
struct Place {
    node: String,
    kubelet: SocketAddr,
    container: String,
}

impl Place {
    fn find(registry: &Registry, key: &Key, container: &str) -> Result<Self> {
        let pod = registry.get(&PODS, key)?;
        let container = choose_container(key, &pod.value, container)?;
        let node = text(&pod.value, "/spec/nodeName").to_owned();
        if node.is_empty() {
            return Err(Status::bad_request(format!("pod {} does not have a host assigned", key.name)));
        }
        let found = registry.get(&NODES, &Key::new("", &node))?;
        let address = list(&found.value, "/status/addresses")
            .iter()
            .find(|address| text(address, "/type") == "InternalIP")
            .map(|address| text(address, "/address"))
            .unwrap_or_default();
        let address = address.parse().map_err(|_| {
            Status::internal(format!("no preferred addresses found; known addresses: [] (node {node:?})"))
        })?;
        let port = number(&found.value, "/status/daemonEndpoints/kubeletEndpoint/Port").unwrap_or(10250);
        let port =
            u16::try_from(port).map_err(|_| Status::internal(format!("{port} is no kubelet's port")))?;
        Ok(Self { node, kubelet: SocketAddr::new(address, port), container })
    }

    fn path(&self, action: &str, key: &Key, parameters: &[(&str, String)]) -> String {
        let Key { namespace, name } = key;
        let mut path = format!("/{action}/{namespace}/{name}/{}", self.container);
        for (index, (name, value)) in parameters.iter().enumerate() {
            path.push(if index == 0 { '?' } else { '&' });
            path.push_str(&format!("{name}={}", encode_percent(value)));
        }
        path
    }

    fn broken(&self, error: &dyn std::fmt::Display) -> Status {
        let Self { node, kubelet, .. } = self;
        Status::internal(format!("error dialing backend: kubelet of node {node:?} at {kubelet}: {error}"))
    }
}

fn choose_container(key: &Key, pod: &Value, wanted: &str) -> Result<String> {
    let names = |field: &str| -> Vec<&str> {
        list(pod, &format!("/spec/{field}")).iter().map(|container| text(container, "/name")).collect()
    };
    let (main, init) = (names("containers"), names("initContainers"));
    if wanted.is_empty() {
        let preferred = pod
            .pointer("/metadata/annotations")
            .and_then(|annotations| annotations.get("kubectl.kubernetes.io/default-container"))
            .and_then(Value::as_str)
            .filter(|preferred| main.contains(preferred));
        let chosen = preferred.or_else(|| main.first().copied());
        return chosen
            .map(str::to_owned)
            .ok_or_else(|| Status::bad_request(format!("pod {} has no containers", key.name)));
    }
    if main.contains(&wanted) || init.contains(&wanted) || names("ephemeralContainers").contains(&wanted) {
        return Ok(wanted.to_owned());
    }
    Err(Status::bad_request(format!("container {wanted} is not valid for pod {}", key.name)))
}

async fn connect(context: &Context, place: &Place) -> Result<SendRequest<Empty<Bytes>>> {
    let kubelets = &context.shared.kubelets;
    let dial = async {
        let stream = (kubelets.dial)(place.kubelet).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::IpAddress(place.kubelet.ip().into());
        tokio_rustls::TlsConnector::from(Arc::clone(&kubelets.tls)).connect(name, stream).await
    };
    let stream = match tokio::time::timeout(DIAL_LIMIT, dial).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Err(place.broken(&error)),
        Err(_) => return Err(place.broken(&"no connection within 10 seconds")),
    };
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (sender, connection) = handshake.map_err(|error| place.broken(&error))?;
    let stop = context.stop.clone();
    context.tasks.spawn(async move {
        tokio::select! {
            result = connection.with_upgrades() => {
                if let Err(error) = result {
                    tracing::debug!(%error, "a connection to a kubelet broke");
                }
            }
            () = stop.cancelled() => {}
        }
    });
    Ok(sender)
}

fn request(place: &Place, method: Method, path: &str) -> Result<Request<Empty<Bytes>>> {
    Request::builder()
        .method(method)
        .uri(path)
        .header(HOST, place.kubelet.to_string())
        .body(Empty::new())
        .map_err(Status::internal)
}

/// What the kubelet had to say instead.
async fn passed_on(response: Response<Incoming>) -> Status {
    let code = response.status().as_u16();
    let body = Limited::new(response.into_body(), 64 * 1024).collect().await;
    let text = body.map(|body| String::from_utf8_lossy(&body.to_bytes()).trim().to_owned());
    let message = match text {
        // A kubelet may answer with a `Status` of its own.
        Ok(text) => match serde_json::from_str::<Value>(&text) {
            Ok(status) if status["kind"] == "Status" => super::json::text(&status, "/message").to_owned(),
            _ => text,
        },
        Err(error) => format!("the kubelet's answer cannot be read: {error}"),
    };
    Status::passed_on(code, message)
}
