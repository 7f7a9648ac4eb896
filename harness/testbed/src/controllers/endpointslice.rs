//! EndpointSlices: the endpoints of a service, in portions
//! ([EndpointSlices](https://kubernetes.io/docs/concepts/services-networking/endpoint-slices/)).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{DeleteParams, PostParams};
use kube::{Api, Client};

use super::caches::Caches;
use super::endpoints::target_ref;
use super::expectations::{Expectations, LOOK_AGAIN};
use super::hints::{give_hints, topology, zone};
use super::informer::Key;
use super::ownership::controlled_by;
use super::pod_state::{is_ready, is_terminating, node_name, target_port};
use super::queue::{Queue, Reconcile};
use super::replicaset::gone_is_fine;
use super::service_selection::{
    address_in, families, hostname, is_headless, mark_services, pods_of, publishes_not_ready, selector,
};
use super::slice_plan::{Plan, Wanted, plan};
use crate::bugs::{Bug, Bugs};

pub(super) const SERVICE_NAME: &str = "kubernetes.io/service-name";
pub(super) const MANAGED_BY: (&str, &str) =
    ("endpointslice.kubernetes.io/managed-by", "endpointslice-controller.k8s.io");
const HEADLESS: &str = "service.kubernetes.io/headless";

pub(super) struct SlicesOfServices {
    client: Client,
    caches: Caches,
    expectations: Expectations<EndpointSlice>,
    bugs: Bugs,
}

impl SlicesOfServices {
    pub(super) fn new(client: Client, caches: &Caches, bugs: &Bugs, queue: &Arc<Queue<Key>>) -> Self {
        mark_services(caches, bugs, queue);
        let dirty = Arc::clone(queue);
        let looks_on = bugs.has(Bug::SlicesNotPutRight);
        caches.endpoint_slices.on_change(move |old, new| {
            if looks_on {
                return;
            }
            for slice in [old, new].into_iter().flatten() {
                if let Some(service) = service_of(slice, MANAGED_BY.1) {
                    dirty.add(Key::new(slice.metadata.namespace.as_deref().unwrap_or_default(), service));
                }
            }
        });
        let dirty = Arc::clone(queue);
        let services = caches.services.clone();
        caches.nodes.on_change(move |old, new| {
            if old.map(topology) != new.map(topology) {
                for service in services.all() {
                    dirty.add(Key::of(&service.metadata));
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

impl Reconcile for SlicesOfServices {
    type Key = Key;
    const NAME: &'static str = "endpointslice";

    async fn reconcile(&self, key: Key) -> anyhow::Result<Option<Duration>> {
        let Some(service) = self.caches.services.get(&key) else {
            // The garbage collector takes the slices.
            self.expectations.forget(&key);
            return Ok(None);
        };
        let is_external =
            service.spec.as_ref().and_then(|spec| spec.type_.as_deref()) == Some("ExternalName");
        if selector(&service).is_none() || is_external || service.metadata.deletion_timestamp.is_some() {
            return Ok(None);
        }
        if !self.expectations.are_met(&key) {
            return Ok(Some(LOOK_AGAIN));
        }
        let mut existing = slices_of(&self.caches, &key, MANAGED_BY.1);
        if self.bugs.has(Bug::ForeignSlicesTaken) {
            existing = self.caches.endpoint_slices.in_namespace(&key.namespace);
            existing.retain(|slice| is_of(slice, &key.name));
        }
        let nodes = self.caches.nodes.all();
        let wanted =
            self.wrong(wanted(&self.as_read(&service), &pods_of(&self.caches, &self.bugs, &service), &nodes));
        let mut plan = plan(&wanted, &existing);
        if self.bugs.has(Bug::AllSlicesRewritten) && !(plan.create.is_empty() && plan.update.is_empty()) {
            self.rewrite(&mut plan, &existing);
        }
        carry_out(&self.client, &self.expectations, &key, plan).await?;
        Ok(None)
    }
}

/// What the bugs make of it.
impl SlicesOfServices {
    fn as_read(&self, service: &Service) -> Service {
        let mut service = service.clone();
        if let Some(spec) = &mut service.spec {
            if self.bugs.has(Bug::NotReadyUnpublished) {
                spec.publish_not_ready_addresses = None;
            }
            if self.bugs.has(Bug::HintsMissing) {
                spec.traffic_distribution = None;
            }
        }
        service
    }

    fn wrong(&self, mut wanted: Wanted) -> Wanted {
        if self.bugs.has(Bug::SlicesWithoutLimit) {
            wanted.most = usize::MAX;
        }
        if self.bugs.has(Bug::SlicesWithoutOwner) {
            wanted.metadata.owner_references = None;
        }
        if self.bugs.has(Bug::ZoneMissing) {
            let endpoints = wanted.groups.values_mut().flatten();
            endpoints.for_each(|endpoint| (endpoint.zone, endpoint.hints) = (None, None));
        }
        wanted
    }

    /// Writes those slices too that are as they were, with a mark that makes a change of it.
    fn rewrite(&self, plan: &mut Plan, existing: &[Arc<EndpointSlice>]) {
        let planned = |slice: &EndpointSlice, others: &[EndpointSlice]| {
            others.iter().any(|other| other.metadata.name == slice.metadata.name)
        };
        for slice in existing {
            let deleted = plan.delete.iter().any(|gone| gone.metadata.name == slice.metadata.name);
            if deleted || planned(slice, &plan.update) {
                continue;
            }
            let mut slice = (**slice).clone();
            let version = slice.metadata.resource_version.clone().unwrap_or_default();
            let annotations = slice.metadata.annotations.get_or_insert_default();
            annotations.insert("endpoints.kubernetes.io/rewritten".to_owned(), version);
            plan.update.push(slice);
        }
    }
}

fn is_of(slice: &EndpointSlice, service: &str) -> bool {
    let labels = slice.metadata.labels.as_ref();
    labels.and_then(|labels| labels.get(SERVICE_NAME)).map(String::as_str) == Some(service)
}

/// The slices of a service that this controller manages and nobody deletes.
pub(super) fn slices_of(caches: &Caches, service: &Key, manager: &str) -> Vec<Arc<EndpointSlice>> {
    let mut slices = caches.endpoint_slices.in_namespace(&service.namespace);
    slices.retain(|slice| {
        service_of(slice, manager) == Some(&service.name) && slice.metadata.deletion_timestamp.is_none()
    });
    slices
}

/// The service whose slice this is, if this controller manages it.
pub(super) fn service_of<'a>(slice: &'a EndpointSlice, manager: &str) -> Option<&'a str> {
    let labels = slice.metadata.labels.as_ref()?;
    let managed = labels.get(MANAGED_BY.0).map(String::as_str) == Some(manager);
    labels.get(SERVICE_NAME).map(String::as_str).filter(|_| managed)
}

/// First what adds, then what takes away: nobody shall miss an endpoint in between.
pub(super) async fn carry_out(
    client: &Client,
    expectations: &Expectations<EndpointSlice>,
    key: &Key,
    plan: Plan,
) -> anyhow::Result<()> {
    let api: Api<EndpointSlice> = Api::namespaced(client.clone(), &key.namespace);
    let parameters = PostParams::default();
    let create = plan.create.iter().map(|slice| async {
        let made = api.create(&parameters, slice).await?;
        expectations.written(key, &made.metadata);
        anyhow::Ok(())
    });
    futures::future::try_join_all(create).await?;
    let update = plan.update.iter().map(|slice| async {
        let name = slice.metadata.name.as_deref().unwrap_or_default();
        let made = api.replace(name, &parameters, slice).await?;
        expectations.written(key, &made.metadata);
        anyhow::Ok(())
    });
    futures::future::try_join_all(update).await?;
    let delete = plan.delete.iter().map(|slice| async {
        let name = slice.metadata.name.as_deref().unwrap_or_default();
        gone_is_fine(api.delete(name, &DeleteParams::default()).await)?;
        expectations.deleted(key, &slice.metadata);
        anyhow::Ok(())
    });
    futures::future::try_join_all(delete).await?;
    Ok(())
}

fn wanted(service: &Service, pods: &[Arc<Pod>], nodes: &[Arc<Node>]) -> Wanted {
    let zones: BTreeMap<_, _> = nodes
        .iter()
        .filter_map(|node| Some((node.metadata.name.as_deref()?, zone(node)?.to_owned())))
        .collect();
    let mut wanted = Wanted { families: families(service), metadata: metadata(service), ..Wanted::default() };
    let ports = service.spec.as_ref().and_then(|spec| spec.ports.as_deref()).unwrap_or_default();
    for family in &wanted.families {
        for pod in pods {
            let Some(address) = address_in(pod, family) else { continue };
            let mut of_pod: Vec<_> = ports
                .iter()
                .filter_map(|port| {
                    let number = target_port(pod, port)?;
                    let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
                    Some((port.name.clone().unwrap_or_default(), number, protocol, port.app_protocol.clone()))
                })
                .collect();
            of_pod.sort();
            let zone = node_name(pod).and_then(|node| zones.get(node)).cloned();
            let group = (family.clone(), of_pod);
            wanted.groups.entry(group).or_default().push(endpoint(service, pod, address, zone));
        }
    }
    give_hints(&mut wanted, service, nodes);
    wanted
}

/// The conditions follow [KEP-1672](https://github.com/kubernetes/enhancements/issues/1672): what
/// terminates is never ready, and serving is the pod's own word.
fn endpoint(service: &Service, pod: &Pod, address: &str, zone: Option<String>) -> Endpoint {
    let serving = is_ready(pod);
    let terminating = is_terminating(pod);
    let ready = publishes_not_ready(service) || (serving && !terminating);
    Endpoint {
        addresses: vec![address.to_owned()],
        conditions: Some(EndpointConditions {
            ready: Some(ready),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        hostname: hostname(service, pod),
        node_name: node_name(pod).map(str::to_owned),
        target_ref: Some(target_ref(pod)),
        zone,
        ..Endpoint::default()
    }
}

fn metadata(service: &Service) -> ObjectMeta {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(HEADLESS);
    if is_headless(service) {
        labels.insert(HEADLESS.to_owned(), String::new());
    }
    let name = service.metadata.name.clone().unwrap_or_default();
    labels.insert(MANAGED_BY.0.to_owned(), MANAGED_BY.1.to_owned());
    labels.insert(SERVICE_NAME.to_owned(), name.clone());
    ObjectMeta {
        generate_name: Some(format!("{name}-")),
        namespace: service.metadata.namespace.clone(),
        labels: Some(labels),
        owner_references: Some(vec![controlled_by(service)]),
        ..ObjectMeta::default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(name: &str, ready: bool, terminating: bool) -> Arc<Pod> {
        let mut pod: Pod = serde_json::from_value(json!({
            "metadata": {"namespace": "ns", "name": name, "uid": name},
            "spec": {"nodeName": "kube1.vm", "containers": []},
            "status": {"phase": "Running", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}],
                "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}]},
        }))
        .unwrap();
        if terminating {
            let now = jiff::Timestamp::now();
            pod.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(now));
        }
        Arc::new(pod)
    }

    fn service(spec: Value) -> Service {
        let metadata = json!({"namespace": "ns", "name": "web", "uid": "1", "labels": {"team": "a"}});
        serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap()
    }

    #[test]
    fn conditions() {
        // publishes, pod ready, terminating: ready, serving, terminating
        let table = [
            (false, true, false, "true true false"),
            (false, false, false, "false false false"),
            (false, true, true, "false true true"),
            (false, false, true, "false false true"),
            (true, false, false, "true false false"),
            (true, true, true, "true true true"),
        ];
        for (publishes, ready, terminating, expected) in table {
            let service = service(json!({"publishNotReadyAddresses": publishes}));
            let endpoint = endpoint(&service, &pod("a", ready, terminating), "10.0.0.1", None);
            let is = endpoint.conditions.unwrap();
            let seen = format!("{} {} {}", is.ready.unwrap(), is.serving.unwrap(), is.terminating.unwrap());
            assert_eq!(seen, expected, "{publishes} {ready} {terminating}");
        }
    }

    #[test]
    fn a_slice_per_family_with_zone_and_owner() {
        let service =
            service(json!({"ipFamilies": ["IPv4", "IPv6"], "ports": [{"port": 80, "targetPort": 8080}]}));
        let node =
            json!({"metadata": {"name": "kube1.vm", "labels": {"topology.kubernetes.io/zone": "east"}}});
        let node = Arc::new(serde_json::from_value(node).unwrap());
        let made = plan(&wanted(&service, &[pod("a", true, false)], &[node]), &[]).create;
        let slice = |family: &str, address: &str| {
            json!({
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
                "metadata": {"generateName": "web-", "namespace": "ns",
                    "labels": {"team": "a", SERVICE_NAME: "web", MANAGED_BY.0: MANAGED_BY.1},
                    "ownerReferences": [{"apiVersion": "v1", "kind": "Service", "name": "web", "uid": "1",
                        "controller": true, "blockOwnerDeletion": true}]},
                "addressType": family,
                "endpoints": [{"addresses": [address], "nodeName": "kube1.vm", "zone": "east",
                    "conditions": {"ready": true, "serving": true, "terminating": false},
                    "targetRef": {"kind": "Pod", "namespace": "ns", "name": "a", "uid": "a"}}],
                "ports": [{"name": "", "port": 8080, "protocol": "TCP"}],
            })
        };
        let made: Vec<_> = made.iter().map(|slice| serde_json::to_value(slice).unwrap()).collect();
        assert_eq!(made, [slice("IPv4", "10.0.0.1"), slice("IPv6", "fd00::1")]);
    }
}
