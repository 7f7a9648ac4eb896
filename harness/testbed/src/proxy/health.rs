//! What a proxy says over HTTP: on each service's health check port whether this node has endpoints
//! of its own, and on a port of its own how the proxy itself is.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt as _;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use super::desired::{is_ours, is_ready};
use crate::bugs::{Bug, Bugs};
use crate::namespace::NetNamespace;

/// Where a proxy says how it is itself; upstream's port.
const OWN_PORT: u16 = 10256;
/// A proxy that could not write its rules for so long is not healthy; upstream's default.
const STUCK: Duration = Duration::from_secs(60);
/// A client that says nothing is hung up on, and no answer takes longer.
const CLIENT: Duration = Duration::from_secs(10);
/// More clients at once than this wait; balancers ask one after the other.
const CLIENTS: usize = 64;
/// Autoscalers put it on nodes they are about to take away
/// ([KEP-3836](https://github.com/kubernetes/enhancements/tree/master/keps/sig-network/3836-kube-proxy-improved-ingress-connectivity-reliability)).
const TO_BE_DELETED: &str = "ToBeDeletedByClusterAutoscaler";

/// What is said on the health check port of one service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HealthCheck {
    namespace: String,
    name: String,
    local_endpoints: usize,
}

/// The health check ports, and how many ready endpoints of the service this node has. Terminating ones
/// do not count, though they still get traffic: new connections are to go elsewhere
/// ([KEP-1669](https://github.com/kubernetes/enhancements/tree/master/keps/sig-network/1669-proxy-terminating-endpoints)).
pub(super) fn health_checks<'a>(
    services: impl IntoIterator<Item = &'a Service>,
    slices: impl IntoIterator<Item = &'a EndpointSlice> + Clone,
    node: &str,
    bugs: &Bugs,
) -> BTreeMap<u16, HealthCheck> {
    let checked = services.into_iter().filter(|service| is_ours(service.labels())).filter_map(|service| {
        let spec = service.spec.as_ref()?;
        let is_local = spec.type_.as_deref() == Some("LoadBalancer")
            && spec.external_traffic_policy.as_deref() == Some("Local");
        let port = spec.health_check_node_port.filter(|_| is_local)?;
        Some((u16::try_from(port).ok().filter(|port| *port != 0)?, service))
    });
    checked
        .map(|(port, service)| {
            let (namespace, name) = (service.namespace().unwrap_or_default(), service.name_any());
            let of_service = slices.clone().into_iter().filter(|slice| {
                slice.namespace().unwrap_or_default() == namespace
                    && slice.labels().get("kubernetes.io/service-name") == Some(&name)
                    && is_ours(slice.labels())
            });
            let ready = of_service.flat_map(|slice| slice.endpoints.iter().flatten()).filter(|endpoint| {
                let here = endpoint.node_name.as_deref() == Some(node);
                is_ready(endpoint) && (here || bugs.has(Bug::HealthCheckAlwaysOk))
            });
            // One endpoint may stand in several slices, once for each set of ports.
            let addresses: BTreeSet<&String> =
                ready.filter_map(|endpoint| endpoint.addresses.first()).collect();
            (port, HealthCheck { namespace, name, local_endpoints: addresses.len() })
        })
        .collect()
}

/// How the proxy itself is.
#[derive(Debug, Default)]
pub(super) struct Health(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Since when there has been something to write that is not written yet.
    waiting: Option<Instant>,
    updated: Option<Timestamp>,
    leaving: bool,
}

impl Health {
    /// Something has to be written.
    pub(super) fn outdated(&self) {
        self.with(|state| {
            state.waiting.get_or_insert_with(Instant::now);
        });
    }

    /// Everything is written.
    pub(super) fn updated(&self) {
        self.with(|state| (state.waiting, state.updated) = (None, Some(Timestamp::now())));
    }

    /// A node that goes away is to get no new connections.
    pub(super) fn node_is(&self, node: Option<&Node>) {
        let leaving = node.is_some_and(|node| {
            let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
            node.metadata.deletion_timestamp.is_some()
                || taints.map(|taint| taint.key.as_str()).any(|key| key == TO_BE_DELETED)
        });
        self.with(|state| state.leaving = leaving);
    }

    fn is_healthy(&self) -> bool {
        self.with(|state| {
            state.updated.is_some() && state.waiting.is_none_or(|since| since.elapsed() < STUCK)
        })
    }

    fn with<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// `/livez` asks for the proxy alone, anything else whether the node may get connections too.
    fn answer(&self, path: &str) -> Response<Full<Bytes>> {
        let healthy = self.is_healthy();
        let (eligible, updated) = self.with(|state| (!state.leaving, state.updated));
        let body = json!({
            "lastUpdated": updated.map(|time| time.to_string()),
            "currentTime": Timestamp::now().to_string(),
            "nodeEligible": eligible,
        });
        response(healthy && (eligible || path == "/livez"), &body, None)
    }
}

/// The servers of one node; dropping this ends them.
pub(super) struct HealthServers {
    node: NetNamespace,
    health: Arc<Health>,
    running: BTreeMap<u16, Running>,
    /// Ports that no service has any more are served on; for [`Bug::HealthCheckPortStays`] only.
    pub(super) keeps_ports: bool,
    _own: AbortOnDropHandle<()>,
}

struct Running {
    said: Arc<Mutex<HealthCheck>>,
    _task: AbortOnDropHandle<()>,
}

impl HealthServers {
    pub(super) fn start(node: &NetNamespace, health: &Arc<Health>) -> anyhow::Result<Self> {
        let own = Arc::clone(health);
        let task = serve(node, OWN_PORT, move |path| own.answer(path))?;
        Ok(Self {
            node: node.clone(),
            health: Arc::clone(health),
            running: BTreeMap::new(),
            keeps_ports: false,
            _own: AbortOnDropHandle::new(task),
        })
    }

    /// Listens on exactly these ports and says this there.
    ///
    /// # Errors
    /// If somebody else has a port; the others are served, and it may be tried again.
    pub(super) fn apply(&mut self, wanted: BTreeMap<u16, HealthCheck>) -> anyhow::Result<()> {
        self.running.retain(|port, _| self.keeps_ports || wanted.contains_key(port));
        let mut failed = None;
        for (port, check) in wanted {
            if let Some(running) = self.running.get(&port) {
                *running.said.lock().unwrap_or_else(PoisonError::into_inner) = check;
                continue;
            }
            let said = Arc::new(Mutex::new(check));
            let (saying, health) = (Arc::clone(&said), Arc::clone(&self.health));
            let answer = move |_: &str| {
                saying.lock().unwrap_or_else(PoisonError::into_inner).answer(health.is_healthy())
            };
            match serve(&self.node, port, answer) {
                Ok(task) => {
                    self.running.insert(port, Running { said, _task: AbortOnDropHandle::new(task) });
                }
                Err(error) => failed = Some(error),
            }
        }
        failed.map_or(Ok(()), Err)
    }
}

impl HealthCheck {
    fn answer(&self, proxy_is_healthy: bool) -> Response<Full<Bytes>> {
        let body = json!({
            "service": { "namespace": self.namespace, "name": self.name },
            "localEndpoints": self.local_endpoints,
            "serviceProxyHealthy": proxy_is_healthy,
        });
        response(self.local_endpoints != 0 && proxy_is_healthy, &body, Some(self.local_endpoints))
    }
}

fn response(ok: bool, body: &serde_json::Value, weight: Option<usize>) -> Response<Full<Bytes>> {
    let status = if ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let mut response = Response::new(Full::new(Bytes::from(body.to_string())));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert("content-type", http::HeaderValue::from_static("application/json"));
    headers.insert("x-content-type-options", http::HeaderValue::from_static("nosniff"));
    if let Some(weight) = weight {
        headers.insert("x-load-balancing-endpoint-weight", weight.into());
    }
    response
}

/// Answers on a port of every address of the node.
fn serve<F>(node: &NetNamespace, port: u16, answer: F) -> anyhow::Result<tokio::task::JoinHandle<()>>
where
    F: Fn(&str) -> Response<Full<Bytes>> + Send + Sync + 'static,
{
    let at = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
    let listen = || {
        let listener = node.listen(at)?;
        listener.set_nonblocking(true)?;
        TcpListener::from_std(listener)
    };
    let listener = listen().with_context(|| format!("the proxy cannot listen on {at} to say how it is"))?;
    let answer = Arc::new(answer);
    Ok(tokio::spawn(async move {
        let mut clients = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept(), if clients.len() < CLIENTS => accepted,
                Some(_) = clients.join_next() => continue,
            };
            // One that hung up while it waited.
            let Ok((stream, _)) = accepted else { continue };
            let answer = Arc::clone(&answer);
            clients.spawn(async move {
                let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
                    let response = answer(request.uri().path());
                    async move { Ok::<_, Infallible>(response) }
                });
                let connection = http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(CLIENT)
                    .keep_alive(false)
                    .serve_connection(TokioIo::new(stream), service);
                // Whatever ends it, the client notices.
                let _ = timeout(CLIENT, connection).await;
            });
        }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt as _;
    use serde_json::Value;

    fn service(spec: Value) -> Service {
        serde_json::from_value(json!({"metadata": {"name": "web", "namespace": "default"}, "spec": spec}))
            .expect("a service")
    }

    fn slice(name: &str, endpoints: &[(&str, &str, Value)]) -> EndpointSlice {
        let endpoints: Vec<Value> = endpoints
            .iter()
            .map(|(ip, node, conditions)| {
                json!({"addresses": [ip], "nodeName": node, "conditions": conditions})
            })
            .collect();
        serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": "default",
                "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": "IPv4", "endpoints": endpoints,
        }))
        .expect("an endpoint slice")
    }

    #[test]
    fn ready_endpoints_of_the_node_count_once_each() {
        let local =
            json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 30999});
        let ending = json!({"ready": false, "serving": true, "terminating": true});
        let slices = [
            slice("a", &[("10.244.0.2", "kube0.vm", json!({})), ("10.244.1.2", "kube1.vm", json!({}))]),
            // The same pod with another port, and one that ends.
            slice("b", &[("10.244.0.2", "kube0.vm", json!({})), ("10.244.0.3", "kube0.vm", ending)]),
        ];
        let count = |spec: &Value, node| {
            let services = [service(spec.clone())];
            let checks = health_checks(&services, &slices, node, &Bugs::default());
            checks.get(&30999).map(|check| check.local_endpoints)
        };
        assert_eq!(count(&local, "kube0.vm"), Some(1));
        assert_eq!(count(&local, "kube2.vm"), Some(0));
        for other in [json!({"externalTrafficPolicy": "Cluster"}), json!({"type": "NodePort"})] {
            let mut spec = local.clone();
            for (field, value) in other.as_object().expect("an object") {
                spec[field] = value.clone();
            }
            assert_eq!(count(&spec, "kube0.vm"), None, "{spec}");
        }
    }

    #[tokio::test]
    async fn an_answer_says_what_upstream_says() {
        let answer = |local_endpoints, healthy| {
            let (namespace, name) = ("default".to_owned(), "web".to_owned());
            HealthCheck { namespace, name, local_endpoints }.answer(healthy)
        };
        let good = answer(2, true);
        assert_eq!(good.status(), StatusCode::OK);
        assert_eq!(good.headers()["x-load-balancing-endpoint-weight"], "2");
        let body = good.into_body().collect().await.expect("a body").to_bytes();
        let body: Value = serde_json::from_slice(&body).expect("JSON");
        let promised = json!({
            "service": {"namespace": "default", "name": "web"},
            "localEndpoints": 2, "serviceProxyHealthy": true,
        });
        assert_eq!(body, promised);
        for (count, healthy) in [(0, true), (2, false)] {
            assert_eq!(answer(count, healthy).status(), StatusCode::SERVICE_UNAVAILABLE);
        }
    }

    #[test]
    fn a_proxy_is_healthy_once_its_rules_are_written_and_its_node_stays() {
        let health = Health::default();
        assert_eq!(health.answer("/healthz").status(), StatusCode::SERVICE_UNAVAILABLE);
        health.outdated();
        health.updated();
        assert_eq!(health.answer("/healthz").status(), StatusCode::OK);
        health.outdated();
        assert_eq!(health.answer("/healthz").status(), StatusCode::OK, "it has only just begun to wait");
        let taint = json!([{"key": TO_BE_DELETED, "effect": "NoSchedule"}]);
        let node = serde_json::from_value(json!({"metadata": {}, "spec": {"taints": taint}}));
        health.node_is(Some(&node.expect("a node")));
        assert_eq!(health.answer("/healthz").status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(health.answer("/livez").status(), StatusCode::OK);
    }
}
