//! The services a container finds in its environment
//! ([Accessing Services, "Environment Variables"](https://kubernetes.io/docs/tutorials/services/connect-applications-service/#environment-variables)).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Service;
use kube::runtime::reflector::{Store, store};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client, ResourceExt as _};
use tokio::time::timeout;

use crate::bugs::{Bug, Bugs};
use crate::proxy::Patience;

/// How long a container waits for the first list before it is tried again.
const FIRST_LIST: Duration = Duration::from_secs(1);

/// The service through which pods find the API server is in every pod's environment.
const API_SERVICE: (&str, &str) = ("default", "kubernetes");

/// What the kubelet knows about services.
pub(crate) struct Services {
    known: Store<Service>,
    bugs: Bugs,
}

impl Services {
    /// The second half keeps the first up to date while it is run.
    pub(crate) fn follow(client: &Client, bugs: Bugs) -> (Self, impl Future<Output = ()> + use<>) {
        let (known, writer) = store();
        let changes = watcher(Api::<Service>::all(client.clone()), watcher::Config::default());
        let follow = changes.backoff(Patience::default()).reflect(writer).for_each(|change| async move {
            if let Err(error) = change {
                tracing::debug!(%error, "cannot watch services, trying again");
            }
        });
        (Self { known, bugs }, follow)
    }

    /// The variables of a container that starts now in this namespace; none before the first list.
    pub(crate) async fn environment(&self, namespace: &str, links: bool) -> Option<Vec<(String, String)>> {
        timeout(FIRST_LIST, self.known.wait_until_ready()).await.ok()?.ok()?;
        let links = links && !self.bugs.has(Bug::ServiceLinksMissing);
        Some(variables(&self.known.state(), namespace, links))
    }
}

fn variables(services: &[Arc<Service>], namespace: &str, links: bool) -> Vec<(String, String)> {
    let mut chosen = BTreeMap::new();
    for service in services {
        let (home, name) = (service.namespace().unwrap_or_default(), service.name_any());
        if links && home == namespace {
            // A service of the pod's own namespace hides the one that all have.
            chosen.insert(name, service);
        } else if (home.as_str(), name.as_str()) == API_SERVICE {
            chosen.entry(name).or_insert(service);
        }
    }
    chosen.into_iter().flat_map(|(name, service)| of_service(&name, service)).collect()
}

/// A service without an address has no variables.
fn of_service(name: &str, service: &Service) -> Vec<(String, String)> {
    let spec = service.spec.clone().unwrap_or_default();
    let address = spec.cluster_ip.filter(|address| !address.is_empty() && address != "None");
    let ports = spec.ports.unwrap_or_default();
    let (Some(address), Some(first)) = (address, ports.first()) else { return Vec::new() };
    let prefix = shell_name(name);
    let host = if address.contains(':') { format!("[{address}]") } else { address.clone() };
    let mut found = vec![
        (format!("{prefix}_SERVICE_HOST"), address.clone()),
        (format!("{prefix}_SERVICE_PORT"), first.port.to_string()),
    ];
    for port in &ports {
        if let Some(name) = port.name.as_deref().filter(|name| !name.is_empty()) {
            found.push((format!("{prefix}_SERVICE_PORT_{}", shell_name(name)), port.port.to_string()));
        }
    }
    for (index, port) in ports.iter().enumerate() {
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        let (number, scheme) = (port.port, protocol.to_lowercase());
        let url = format!("{scheme}://{host}:{number}");
        if index == 0 {
            found.push((format!("{prefix}_PORT"), url.clone()));
        }
        let link = format!("{prefix}_PORT_{number}_{}", protocol.to_uppercase());
        found.push((link.clone(), url));
        found.push((format!("{link}_PROTO"), scheme));
        found.push((format!("{link}_PORT"), number.to_string()));
        found.push((format!("{link}_ADDR"), address.clone()));
    }
    found
}

fn shell_name(name: &str) -> String {
    name.to_uppercase().replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(namespace: &str, name: &str, spec: serde_json::Value) -> Arc<Service> {
        let object = serde_json::json!({"metadata": {"namespace": namespace, "name": name}, "spec": spec});
        Arc::new(serde_json::from_value(object).expect("a service"))
    }

    #[test]
    fn variables_are_named_as_docker_named_them() {
        let ports = serde_json::json!([
            {"name": "http-alt", "port": 80}, {"name": "dns", "port": 53, "protocol": "UDP"}
        ]);
        let web = service("shop", "web-front", serde_json::json!({"clusterIP": "10.96.0.7", "ports": ports}));
        let found: Vec<_> = variables(&[web], "shop", true);
        let text: Vec<_> = found.iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(
            text,
            [
                "WEB_FRONT_SERVICE_HOST=10.96.0.7",
                "WEB_FRONT_SERVICE_PORT=80",
                "WEB_FRONT_SERVICE_PORT_HTTP_ALT=80",
                "WEB_FRONT_SERVICE_PORT_DNS=53",
                "WEB_FRONT_PORT=tcp://10.96.0.7:80",
                "WEB_FRONT_PORT_80_TCP=tcp://10.96.0.7:80",
                "WEB_FRONT_PORT_80_TCP_PROTO=tcp",
                "WEB_FRONT_PORT_80_TCP_PORT=80",
                "WEB_FRONT_PORT_80_TCP_ADDR=10.96.0.7",
                "WEB_FRONT_PORT_53_UDP=udp://10.96.0.7:53",
                "WEB_FRONT_PORT_53_UDP_PROTO=udp",
                "WEB_FRONT_PORT_53_UDP_PORT=53",
                "WEB_FRONT_PORT_53_UDP_ADDR=10.96.0.7",
            ]
        );
    }

    #[test]
    fn the_namespace_and_the_switch_decide() {
        let ports = serde_json::json!([{"port": 443}]);
        let of = |ip: &str| serde_json::json!({"clusterIP": ip, "ports": ports});
        let services = [
            service("default", "kubernetes", of("10.96.0.1")),
            service("shop", "web", of("10.96.0.2")),
            service("shop", "headless", of("None")),
            service("shop", "elsewhere", serde_json::json!({"type": "ExternalName", "ports": ports})),
            service("other", "secret", of("10.96.0.3")),
            service("own", "kubernetes", of("10.96.0.4")),
        ];
        let hosts = |namespace: &str, links: bool| {
            let found = variables(&services, namespace, links).into_iter();
            let hosts = found.filter(|(name, _)| name.ends_with("_SERVICE_HOST"));
            hosts.map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>()
        };
        let api = "KUBERNETES_SERVICE_HOST=10.96.0.1";
        assert_eq!(hosts("shop", true), [api, "WEB_SERVICE_HOST=10.96.0.2"]);
        assert_eq!(hosts("shop", false), [api]);
        assert_eq!(hosts("own", true), ["KUBERNETES_SERVICE_HOST=10.96.0.4"]);
        assert_eq!(hosts("own", false), [api]);
    }
}
