//! Endpoints made by hand, mirrored to EndpointSlices so that proxies see them
//! ([EndpointSlices, "EndpointSlice mirroring"](https://kubernetes.io/docs/concepts/services-networking/endpoint-slices/#endpointslice-mirroring)).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Client;

use super::caches::Caches;
use super::endpointslice::{MANAGED_BY, SERVICE_NAME, carry_out, service_of, slices_of};
use super::expectations::{Expectations, LOOK_AGAIN};
use super::informer::Key;
use super::ownership::controlled_by;
use super::queue::{Queue, Reconcile};
use super::service_selection::selector;
use super::slice_plan::{Port, Wanted, plan};
use crate::bugs::{Bug, Bugs};

const MIRRORED_BY: &str = "endpointslicemirroring-controller.k8s.io";
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
/// Endpoints that are really a lock.
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
/// Annotations of the Endpoints that are about themselves.
const NOT_MIRRORED: [&str; 2] =
    ["kubectl.kubernetes.io/last-applied-configuration", "endpoints.kubernetes.io/last-change-trigger-time"];
/// "The control plane mirrors each Endpoints resource to as many EndpointSlices as necessary [..] up to a
/// maximum of 1000 addresses per subset."
const MOST_ADDRESSES: usize = 1000;

pub(super) struct MirroredEndpoints {
    client: Client,
    caches: Caches,
    expectations: Expectations<EndpointSlice>,
    bugs: Bugs,
}

impl MirroredEndpoints {
    pub(super) fn new(client: Client, caches: &Caches, bugs: &Bugs, queue: &Arc<Queue<Key>>) -> Self {
        let dirty = Arc::clone(queue);
        let looks_once = bugs.has(Bug::MirrorNotUpdated);
        caches.endpoints.on_change(move |old, new| {
            if looks_once && old.is_some() && new.is_some() {
                return;
            }
            if let Some(endpoints) = new.or(old) {
                dirty.add(Key::of(&endpoints.metadata));
            }
        });
        let dirty = Arc::clone(queue);
        caches.services.on_change(move |old, new| {
            // What else a service says changes no mirror.
            let selects = |service: &Service| selector(service).is_some();
            if old.map(selects) != new.map(selects)
                && let Some(service) = new.or(old)
            {
                dirty.add(Key::of(&service.metadata));
            }
        });
        let dirty = Arc::clone(queue);
        caches.endpoint_slices.on_change(move |old, new| {
            for slice in [old, new].into_iter().flatten() {
                if let Some(service) = service_of(slice, MIRRORED_BY) {
                    dirty.add(Key::new(slice.metadata.namespace.as_deref().unwrap_or_default(), service));
                }
            }
        });
        Self {
            client,
            caches: caches.clone(),
            expectations: Expectations::new(caches.endpoint_slices.clone()),
            bugs: bugs.clone(),
        }
    }
}

impl Reconcile for MirroredEndpoints {
    type Key = Key;
    const NAME: &'static str = "endpointslice mirroring";

    async fn reconcile(&self, key: Key) -> anyhow::Result<Option<Duration>> {
        let asks =
            |endpoints: &Endpoints| is_to_be_mirrored(endpoints) || self.bugs.has(Bug::SkipMirrorIgnored);
        let endpoints = self.caches.endpoints.get(&key).filter(|endpoints| asks(endpoints));
        let service = self.caches.services.get(&key).filter(|service| selector(service).is_none());
        if !self.expectations.are_met(&key) {
            return Ok(Some(LOOK_AGAIN));
        }
        let existing = slices_of(&self.caches, &key, MIRRORED_BY);
        let wanted = match (&endpoints, service) {
            (Some(endpoints), Some(_)) if self.bugs.has(Bug::OneSubsetMirrored) => {
                let mut first = Endpoints::clone(endpoints);
                first.subsets.iter_mut().for_each(|subsets| subsets.truncate(1));
                wanted(&first)
            }
            (Some(endpoints), Some(_)) => wanted(endpoints),
            _ => Wanted::default(),
        };
        carry_out(&self.client, &self.expectations, &key, plan(&wanted, &existing)).await?;
        Ok(None)
    }
}

/// Mirrored is what no controller made and nobody exempted.
fn is_to_be_mirrored(endpoints: &Endpoints) -> bool {
    let skipped = endpoints.metadata.labels.as_ref().and_then(|labels| labels.get(SKIP));
    let is_lock = endpoints.metadata.annotations.as_ref().is_some_and(|all| all.contains_key(LEADER));
    skipped.map(String::as_str) != Some("true") && !is_lock && endpoints.metadata.deletion_timestamp.is_none()
}

fn wanted(endpoints: &Endpoints) -> Wanted {
    let mut wanted = Wanted {
        families: Vec::new(),
        metadata: metadata(endpoints),
        groups: BTreeMap::new(),
        most: MOST_ADDRESSES,
    };
    let mut seen = BTreeSet::new();
    for subset in endpoints.subsets.iter().flatten() {
        let ports = ports(subset);
        let ready = subset.addresses.iter().flatten().map(|address| (address, true));
        let not_ready = subset.not_ready_addresses.iter().flatten().map(|address| (address, false));
        for (address, ready) in ready.chain(not_ready).take(MOST_ADDRESSES) {
            let family = match address.ip.parse() {
                Ok(IpAddr::V4(_)) => "IPv4",
                Ok(IpAddr::V6(_)) => "IPv6",
                Err(_) => continue,
            };
            // The same address twice with the same ports is one endpoint; what is ready comes first.
            if !seen.insert((family, ports.clone(), address.ip.clone())) {
                continue;
            }
            let group = wanted.groups.entry((family.to_owned(), ports.clone())).or_default();
            group.push(endpoint(address, ready));
        }
    }
    wanted
}

fn ports(subset: &EndpointSubset) -> Vec<Port> {
    let port = |port: &EndpointPort| {
        (
            port.name.clone().unwrap_or_default(),
            port.port,
            port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
            port.app_protocol.clone(),
        )
    };
    let mut ports: Vec<_> = subset.ports.iter().flatten().map(port).collect();
    ports.sort();
    ports
}

/// Endpoints say nothing of serving or terminating, so neither does their mirror.
fn endpoint(address: &EndpointAddress, ready: bool) -> Endpoint {
    Endpoint {
        addresses: vec![address.ip.clone()],
        conditions: Some(EndpointConditions { ready: Some(ready), ..EndpointConditions::default() }),
        hostname: address.hostname.clone().filter(|hostname| !hostname.is_empty()),
        node_name: address.node_name.clone(),
        target_ref: address.target_ref.clone(),
        ..Endpoint::default()
    }
}

fn metadata(endpoints: &Endpoints) -> ObjectMeta {
    let name = endpoints.metadata.name.clone().unwrap_or_default();
    let mut labels = endpoints.metadata.labels.clone().unwrap_or_default();
    labels.insert(MANAGED_BY.0.to_owned(), MIRRORED_BY.to_owned());
    labels.insert(SERVICE_NAME.to_owned(), name.clone());
    let mut annotations = endpoints.metadata.annotations.clone().unwrap_or_default();
    annotations.retain(|name, _| !NOT_MIRRORED.contains(&name.as_str()));
    ObjectMeta {
        generate_name: Some(format!("{name}-")),
        namespace: endpoints.metadata.namespace.clone(),
        labels: Some(labels),
        annotations: Some(annotations),
        owner_references: Some(vec![controlled_by(endpoints)]),
        ..ObjectMeta::default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn endpoints(metadata: Value, subsets: Value) -> Endpoints {
        let mut meta = json!({"namespace": "ns", "name": "external-svc", "uid": "1"});
        json_patch::merge(&mut meta, &metadata);
        serde_json::from_value(json!({"metadata": meta, "subsets": subsets})).unwrap()
    }

    #[test]
    fn locks_and_exempted_endpoints_are_not_mirrored() {
        let is = |metadata| is_to_be_mirrored(&endpoints(metadata, json!([])));
        assert!(is(json!({})));
        assert!(is(json!({"labels": {SKIP: "false"}})));
        assert!(!is(json!({"labels": {SKIP: "true"}})));
        assert!(!is(json!({"annotations": {LEADER: "{}"}})));
    }

    #[test]
    fn the_endpoints_of_the_notes_become_one_slice() {
        let made = endpoints(
            json!({"labels": {"team": "a"}, "annotations": {"a": "b", NOT_MIRRORED[0]: "{}"}}),
            json!([{"addresses": [{"ip": "11.11.11.11"}], "notReadyAddresses": [{"ip": "22.22.22.22", "hostname": "b"}],
                "ports": [{"port": 80}]}]),
        );
        let plan = plan(&wanted(&made), &[]);
        assert_eq!((plan.create.len(), plan.update.len(), plan.delete.len()), (1, 0, 0));
        assert_eq!(
            serde_json::to_value(&plan.create[0]).unwrap(),
            json!({
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
                "metadata": {"generateName": "external-svc-", "namespace": "ns",
                    "labels": {"team": "a", SERVICE_NAME: "external-svc", MANAGED_BY.0: MIRRORED_BY},
                    "annotations": {"a": "b"},
                    "ownerReferences": [{"apiVersion": "v1", "kind": "Endpoints", "name": "external-svc", "uid": "1",
                        "controller": true, "blockOwnerDeletion": true}]},
                "addressType": "IPv4",
                "endpoints": [
                    {"addresses": ["11.11.11.11"], "conditions": {"ready": true}},
                    {"addresses": ["22.22.22.22"], "conditions": {"ready": false}, "hostname": "b"},
                ],
                "ports": [{"name": "", "port": 80, "protocol": "TCP"}],
            })
        );
    }

    #[test]
    fn a_slice_per_port_set_and_family_of_at_most_a_thousand() {
        let many: Vec<_> =
            (0..1200).map(|i| json!({"ip": format!("10.1.{}.{}", i / 200, i % 200)})).collect();
        let made = endpoints(
            json!({}),
            json!([
                {"addresses": many, "ports": [{"port": 80}]},
                {"addresses": [{"ip": "10.1.0.1"}, {"ip": "fd00::1"}], "ports": [{"port": 81}]},
            ]),
        );
        let slices = plan(&wanted(&made), &[]).create;
        let shape = |slice: &EndpointSlice| {
            let port = slice.ports.as_ref().unwrap()[0].port.unwrap();
            format!("{} {port} {}", slice.address_type, slice.endpoints.as_ref().unwrap().len())
        };
        let mut shapes: Vec<_> = slices.iter().map(shape).collect();
        shapes.sort();
        assert_eq!(shapes, ["IPv4 80 1000", "IPv4 81 1", "IPv6 81 1"]);
        assert!(plan(&Wanted::default(), &[]).create.is_empty(), "no Endpoints, no slice");
    }
}
