//! The objects a cluster is born with.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

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
    Own { service_ip, advertise }.put_back(registry)
}

/// What the API server keeps for itself: the service by which pods find it, and where that leads.
#[derive(Clone, Copy)]
pub(crate) struct Own {
    pub(crate) service_ip: Ipv4Addr,
    pub(crate) advertise: SocketAddr,
}

impl Own {
    /// Puts back what somebody deletes, until told to stop.
    pub(crate) async fn keep(self, registry: Arc<Registry>, stop: CancellationToken) {
        let mut news = {
            let mut transaction = registry.store.transaction();
            [&SERVICES, &ENDPOINTS, &ENDPOINT_SLICES].map(|resource| transaction.subscribe(resource))
        };
        loop {
            if let Err(status) = self.put_back(&registry) {
                tracing::warn!(%status, "the service `kubernetes` cannot be put back");
            }
            let [services, endpoints, slices] = &mut news;
            tokio::select! {
                Ok(()) = services.changed() => {}
                Ok(()) = endpoints.changed() => {}
                Ok(()) = slices.changed() => {}
                () = stop.cancelled() => return,
            }
        }
    }

    fn put_back(self, registry: &Registry) -> Result<()> {
        let (ip, port) = (self.advertise.ip().to_string(), self.advertise.port());
        let ports = json!([{"name": "https", "port": port, "protocol": "TCP"}]);
        let service = || {
            json!({
                "metadata": {
                    "name": "kubernetes",
                    "labels": {"component": "apiserver", "provider": "kubernetes"},
                },
                "spec": {
                    "type": "ClusterIP",
                    "clusterIP": self.service_ip.to_string(),
                    "ports": [{"name": "https", "port": 443, "targetPort": port, "protocol": "TCP"}],
                },
            })
        };
        let mut addresses = vec![json!({"ip": ip})];
        // Where an API server was before, and nobody is now.
        let before = ip.rsplit_once('.').map(|(network, _)| json!({"ip": format!("{network}.254")}));
        addresses.extend(before.filter(|_| registry.bugs.has(Bug::StaleApiEndpoint)));
        let endpoints = || {
            json!({
                "metadata": {
                    "name": "kubernetes",
                    "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"},
                },
                "subsets": [{"addresses": addresses, "ports": ports}],
            })
        };
        let slice = || {
            json!({
                "metadata": {"name": "kubernetes", "labels": {"kubernetes.io/service-name": "kubernetes"}},
                "addressType": "IPv4",
                "endpoints": [{"addresses": [ip], "conditions": {"ready": true}}],
                "ports": ports,
            })
        };
        let key = Key::new("default", "kubernetes");
        let own: [(&Resource, &dyn Fn() -> Value); 3] =
            [(&SERVICES, &service), (&ENDPOINTS, &endpoints), (&ENDPOINT_SLICES, &slice)];
        for (resource, object) in own {
            if registry.get(resource, &key).is_ok() {
                continue;
            }
            match create(registry, resource, "default", object()) {
                // Somebody else was faster.
                Err(status) if status.code == 409 => {}
                other => other?,
            }
        }
        Ok(())
    }
}

fn create(registry: &Registry, resource: &Resource, namespace: &str, object: Value) -> Result<()> {
    registry.create(resource, namespace, object, WriteOptions::default()).map(|_| ())
}
