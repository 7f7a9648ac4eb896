//! The objects a cluster is born with.

use std::net::{Ipv4Addr, SocketAddr};

use serde_json::{Value, json};

use super::registry::{Part, Registry, WriteOptions, now};
use super::resources::{ENDPOINT_SLICES, ENDPOINTS, NAMESPACES, Resource, SERVICE_CIDRS, SERVICES};
use super::roles;
use super::status::Result;
use super::store::Key;
use crate::bugs::Bug;

/// Makes the namespaces every cluster has, and the service by which pods find the API server
/// ([Accessing the API from a Pod](https://kubernetes.io/docs/tasks/run-application/access-api-from-pod/#directly-accessing-the-rest-api)).
pub(crate) fn bootstrap(registry: &Registry, service_ip: Ipv4Addr, advertise: SocketAddr) -> Result<()> {
    for name in ["default", "kube-system", "kube-public", "kube-node-lease"] {
        create(registry, &NAMESPACES, "", json!({"metadata": {"name": name}}))?;
    }
    roles::bootstrap(registry)?;
    let metadata = json!({"name": "kubernetes", "finalizers": ["networking.k8s.io/service-cidr-finalizer"]});
    let range = json!({
        "metadata": metadata,
        "spec": {"cidrs": [registry.ranges.service_cidr.trunc().to_string()]},
    });
    create(registry, &SERVICE_CIDRS, "", range)?;
    let ready = json!({
        "type": "Ready",
        "status": "True",
        "lastTransitionTime": now(),
        "reason": "",
        "message": "Kubernetes default Service CIDR is ready",
    });
    let key = Key::new("", "kubernetes");
    registry.update(&SERVICE_CIDRS, &key, Part::Status, WriteOptions::default(), |range| {
        let mut range = range.clone();
        range["status"] = json!({"conditions": [ready]});
        Ok(range)
    })?;
    let (ip, port) = (advertise.ip().to_string(), advertise.port());
    let ports = json!([{"name": "https", "port": port, "protocol": "TCP"}]);
    create(
        registry,
        &SERVICES,
        "default",
        json!({
            "metadata": {
                "name": "kubernetes",
                "labels": {"component": "apiserver", "provider": "kubernetes"},
            },
            "spec": {
                "type": "ClusterIP",
                "clusterIP": service_ip.to_string(),
                "ports": [{"name": "https", "port": 443, "targetPort": port, "protocol": "TCP"}],
            },
        }),
    )?;
    let mut addresses = vec![json!({"ip": ip})];
    // Where an API server was before, and nobody is now.
    let before = ip.rsplit_once('.').map(|(network, _)| json!({"ip": format!("{network}.254")}));
    addresses.extend(before.filter(|_| registry.bugs.has(Bug::StaleApiEndpoint)));
    create(
        registry,
        &ENDPOINTS,
        "default",
        json!({
            "metadata": {
                "name": "kubernetes",
                "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"},
            },
            "subsets": [{"addresses": addresses, "ports": ports}],
        }),
    )?;
    create(
        registry,
        &ENDPOINT_SLICES,
        "default",
        json!({
            "metadata": {"name": "kubernetes", "labels": {"kubernetes.io/service-name": "kubernetes"}},
            "addressType": "IPv4",
            "endpoints": [{"addresses": [ip], "conditions": {"ready": true}}],
            "ports": ports,
        }),
    )
}

fn create(registry: &Registry, resource: &Resource, namespace: &str, object: Value) -> Result<()> {
    registry.create(resource, namespace, object, WriteOptions::default()).map(|_| ())
}
