//! Endpoints: the addresses of a service's pods, packed into subsets
//! ([Service, "Endpoints"](https://kubernetes.io/docs/concepts/services-networking/service/#endpoints)).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use k8s_openapi::api::core::v1::{
    EndpointAddress, EndpointPort, EndpointSubset, Endpoints, ObjectReference, Pod, Service,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{DeleteParams, PostParams, Preconditions};
use kube::{Api, Client};

use super::caches::Caches;
use super::informer::Key;
use super::pod_state::{is_ready, is_terminating, node_name, target_port};
use super::queue::{Queue, Reconcile};
use super::replicaset::gone_is_fine;
use super::service_selection::{
    address_in, families, hostname, is_headless, mark_services, pods_of, publishes_not_ready, selector,
};
use crate::bugs::Bugs;

const MANAGED_BY: (&str, &str) = ("endpoints.kubernetes.io/managed-by", "endpoint-controller");
const HEADLESS: &str = "service.kubernetes.io/headless";
/// Set when there were more addresses than an Endpoints may have
/// ([Service, "Over-capacity endpoints"](https://kubernetes.io/docs/concepts/services-networking/service/#over-capacity-endpoints)).
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
const MOST_ADDRESSES: usize = 1000;

pub(super) struct EndpointsOfServices {
    client: Client,
    caches: Caches,
    bugs: Bugs,
    /// Services that were seen to go; their Endpoints go with them, whoever made these.
    gone: Arc<Mutex<BTreeSet<Key>>>,
}

impl EndpointsOfServices {
    pub(super) fn new(client: Client, caches: &Caches, bugs: &Bugs, queue: &Arc<Queue<Key>>) -> Self {
        // Before anything marks the service dirty: whoever then looks shall know.
        let gone = Arc::<Mutex<BTreeSet<Key>>>::default();
        let seen = Arc::clone(&gone);
        caches.services.on_change(move |old, new| {
            let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
            match (old, new) {
                (Some(old), None) => seen.insert(Key::of(&old.metadata)),
                (_, Some(new)) => seen.remove(&Key::of(&new.metadata)),
                (None, None) => false,
            };
        });
        mark_services(caches, bugs, queue);
        let dirty = Arc::clone(queue);
        caches.endpoints.on_change(move |old, new| {
            if let Some(endpoints) = new.or(old) {
                dirty.add(Key::of(&endpoints.metadata));
            }
        });
        Self { client, caches: caches.clone(), bugs: bugs.clone(), gone }
    }

    /// There is no such service. What this controller made goes, and what anybody made for a service
    /// that was there before; Endpoints that came before their service wait for it.
    async fn remove(&self, key: &Key) -> anyhow::Result<()> {
        let seen_to_go = self.gone.lock().unwrap_or_else(PoisonError::into_inner).contains(key);
        let Some(endpoints) = self.caches.endpoints.get(key) else {
            self.forget(key);
            return Ok(());
        };
        let was_a_service = endpoints
            .metadata
            .labels
            .as_ref()
            .is_some_and(|labels| labels.get(MANAGED_BY.0).map(String::as_str) == Some(MANAGED_BY.1));
        if !was_a_service && !seen_to_go {
            return Ok(());
        }
        let api: Api<Endpoints> = Api::namespaced(self.client.clone(), &key.namespace);
        let parameters = DeleteParams {
            preconditions: Some(Preconditions {
                uid: endpoints.metadata.uid.clone(),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        gone_is_fine(api.delete(&key.name, &parameters).await)?;
        self.forget(key);
        Ok(())
    }

    fn forget(&self, key: &Key) {
        self.gone.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }
}

impl Reconcile for EndpointsOfServices {
    type Key = Key;
    const NAME: &'static str = "endpoints";

    async fn reconcile(&self, key: Key) -> anyhow::Result<Option<Duration>> {
        let Some(service) = self.caches.services.get(&key) else {
            self.remove(&key).await?;
            return Ok(None);
        };
        let is_external =
            service.spec.as_ref().and_then(|spec| spec.type_.as_deref()) == Some("ExternalName");
        if selector(&service).is_none() || is_external {
            return Ok(None);
        }
        let current = self.caches.endpoints.get(&key);
        let wanted = wanted(&service, &pods_of(&self.caches, &self.bugs, &service), current.as_deref());
        if current.as_deref() == Some(&wanted) {
            return Ok(None);
        }
        let api: Api<Endpoints> = Api::namespaced(self.client.clone(), &key.namespace);
        match current {
            Some(_) => api.replace(&key.name, &PostParams::default(), &wanted).await,
            None => api.create(&PostParams::default(), &wanted).await,
        }
        .with_context(|| format!("Endpoints `{key}` could not be written"))?;
        Ok(None)
    }
}

/// The Endpoints as they should be; whatever else was written on them is kept.
fn wanted(service: &Service, pods: &[Arc<Pod>], current: Option<&Endpoints>) -> Endpoints {
    let mut metadata = current.map(|current| current.metadata.clone()).unwrap_or_else(|| ObjectMeta {
        name: service.metadata.name.clone(),
        namespace: service.metadata.namespace.clone(),
        ..ObjectMeta::default()
    });
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(HEADLESS);
    if is_headless(service) {
        labels.insert(HEADLESS.to_owned(), String::new());
    }
    labels.insert(MANAGED_BY.0.to_owned(), MANAGED_BY.1.to_owned());
    metadata.labels = Some(labels);
    let mut subsets = subsets(service, pods);
    let mut annotations = metadata.annotations.take().unwrap_or_default();
    annotations.remove(OVER_CAPACITY);
    if truncate(&mut subsets) {
        annotations.insert(OVER_CAPACITY.to_owned(), "truncated".to_owned());
    }
    metadata.annotations = Some(annotations).filter(|annotations| !annotations.is_empty());
    Endpoints { metadata, subsets: Some(subsets).filter(|subsets| !subsets.is_empty()) }
}

/// Name, number, protocol, application protocol; unnamed ports have an empty name.
type Port = (String, i32, String, Option<String>);

/// An address and the pod behind it: two pods may have the same address for a moment.
type AddressKey = (Option<IpAddr>, String, String);

type Addresses = BTreeMap<AddressKey, (bool, EndpointAddress)>;

/// Packs pods into subsets: ports that have exactly the same addresses, equally ready, share one.
fn subsets(service: &Service, pods: &[Arc<Pod>]) -> Vec<EndpointSubset> {
    let mut by_port = BTreeMap::<Option<Port>, Addresses>::new();
    let family = families(service).into_iter().next().unwrap_or_default();
    let tolerant = publishes_not_ready(service);
    let ports = service.spec.as_ref().and_then(|spec| spec.ports.as_deref()).unwrap_or_default();
    for pod in pods.iter().filter(|pod| tolerant || !is_terminating(pod)) {
        let Some(ip) = address_in(pod, &family) else { continue };
        let ready = tolerant || is_ready(pod);
        let address = EndpointAddress {
            ip: ip.to_owned(),
            hostname: hostname(service, pod),
            node_name: node_name(pod).map(str::to_owned),
            target_ref: Some(target_ref(pod)),
        };
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let key = (ip.parse().ok(), ip.to_owned(), uid);
        let mut put = |port: Option<Port>| {
            by_port.entry(port).or_default().insert(key.clone(), (ready, address.clone()));
        };
        if ports.is_empty() && is_headless(service) {
            put(None);
        }
        for port in ports {
            if let Some(number) = target_port(pod, port) {
                put(Some((
                    port.name.clone().unwrap_or_default(),
                    number,
                    port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
                    port.app_protocol.clone(),
                )));
            }
        }
    }
    let mut by_addresses = BTreeMap::<Vec<(AddressKey, bool)>, (Vec<Port>, Addresses)>::new();
    for (port, addresses) in by_port {
        let same = addresses.iter().map(|(key, (ready, _))| (key.clone(), *ready)).collect();
        by_addresses.entry(same).or_insert_with(|| (Vec::new(), addresses)).0.extend(port);
    }
    by_addresses.into_values().map(|(ports, addresses)| subset(ports, addresses)).collect()
}

fn subset(ports: Vec<Port>, addresses: Addresses) -> EndpointSubset {
    let (ready, not_ready): (Vec<_>, Vec<_>) = addresses.into_values().partition(|(ready, _)| *ready);
    let some = |addresses: Vec<(bool, EndpointAddress)>| {
        Some(addresses.into_iter().map(|(_, address)| address).collect::<Vec<_>>())
            .filter(|addresses| !addresses.is_empty())
    };
    let port = |(name, port, protocol, app_protocol): Port| EndpointPort {
        name: Some(name).filter(|name| !name.is_empty()),
        port,
        protocol: Some(protocol),
        app_protocol,
    };
    EndpointSubset {
        addresses: some(ready),
        not_ready_addresses: some(not_ready),
        ports: Some(ports.into_iter().map(port).collect::<Vec<_>>()).filter(|ports| !ports.is_empty()),
    }
}

/// Keeps the first thousand addresses, ready ones before others; says whether any was left out.
fn truncate(subsets: &mut Vec<EndpointSubset>) -> bool {
    let mut left = MOST_ADDRESSES;
    let mut cut = false;
    let mut keep = |addresses: &mut Option<Vec<EndpointAddress>>| {
        let Some(list) = addresses else { return };
        cut |= list.len() > left;
        list.truncate(left);
        left -= list.len();
        if list.is_empty() {
            *addresses = None;
        }
    };
    subsets.iter_mut().for_each(|subset| keep(&mut subset.addresses));
    subsets.iter_mut().for_each(|subset| keep(&mut subset.not_ready_addresses));
    subsets.retain(|subset| subset.addresses.is_some() || subset.not_ready_addresses.is_some());
    cut
}

pub(super) fn target_ref(pod: &Pod) -> ObjectReference {
    ObjectReference {
        kind: Some("Pod".to_owned()),
        namespace: pod.metadata.namespace.clone(),
        name: pod.metadata.name.clone(),
        uid: pod.metadata.uid.clone(),
        ..ObjectReference::default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn service(spec: Value) -> Service {
        serde_json::from_value(json!({
            "metadata": {"namespace": "ns", "name": "web", "labels": {"team": "a"}}, "spec": spec,
        }))
        .unwrap()
    }

    fn pod(ip: &str, ready: bool, http: i32) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"namespace": "ns", "name": ip, "uid": format!("uid-{ip}")},
            "spec": {"nodeName": "kube1.vm", "hostname": "first", "subdomain": "web", "containers": [
                {"name": "c", "ports": [{"name": "http", "containerPort": http}]},
            ]},
            "status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "conditions": [
                {"type": "Ready", "status": if ready { "True" } else { "False" }},
            ]},
        }))
        .unwrap()
    }

    /// `ready | not ready : ports`, one per subset.
    fn packed(spec: Value, pods: Vec<Pod>) -> Vec<String> {
        let pods: Vec<_> = pods.into_iter().map(Arc::new).collect();
        let ips = |addresses: &Option<Vec<EndpointAddress>>| {
            let ips: Vec<_> = addresses.iter().flatten().map(|address| address.ip.clone()).collect();
            ips.join(" ")
        };
        let ports = |ports: &Option<Vec<EndpointPort>>| {
            let ports = ports.iter().flatten();
            let ports: Vec<_> = ports
                .map(|port| format!("{}={}", port.name.as_deref().unwrap_or_default(), port.port))
                .collect();
            ports.join(" ")
        };
        let line = |subset: &EndpointSubset| {
            let EndpointSubset { addresses, not_ready_addresses, ports: all } = subset;
            format!("{} | {} : {}", ips(addresses), ips(not_ready_addresses), ports(all))
        };
        subsets(&service(spec), &pods).iter().map(line).collect()
    }

    #[test]
    fn packing() {
        let one = json!({"ports": [{"port": 80, "targetPort": 8080}]});
        let two = json!({"ports": [
            {"name": "http", "port": 80, "targetPort": "http"}, {"name": "admin", "port": 9, "targetPort": 9},
        ]});
        let pods = || vec![pod("10.0.0.10", true, 80), pod("10.0.0.9", true, 80), pod("10.0.0.1", false, 80)];
        assert_eq!(packed(one.clone(), vec![]), [""; 0]);
        assert_eq!(packed(one.clone(), pods()), ["10.0.0.9 10.0.0.10 | 10.0.0.1 : =8080"]);
        assert_eq!(packed(two.clone(), pods()), ["10.0.0.9 10.0.0.10 | 10.0.0.1 : admin=9 http=80"]);
        // The same name, different numbers: the shared port stands with both, the others apart.
        assert_eq!(
            packed(two, vec![pod("10.0.0.1", true, 80), pod("10.0.0.2", true, 81)]),
            ["10.0.0.1 |  : http=80", "10.0.0.1 10.0.0.2 |  : admin=9", "10.0.0.2 |  : http=81"]
        );
        let headless = json!({"clusterIP": "None"});
        assert_eq!(packed(headless, pods()), ["10.0.0.9 10.0.0.10 | 10.0.0.1 : "]);
        let mut terminating = pod("10.0.0.2", true, 80);
        terminating.metadata.deletion_timestamp =
            Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(jiff::Timestamp::now()));
        let both = || vec![pod("10.0.0.1", false, 80), terminating.clone()];
        assert_eq!(packed(one.clone(), both()), [" | 10.0.0.1 : =8080"]);
        let mut tolerant = one;
        tolerant["publishNotReadyAddresses"] = json!(true);
        assert_eq!(packed(tolerant, both()), ["10.0.0.1 10.0.0.2 |  : =8080"]);
    }

    #[test]
    fn what_is_written() {
        let service = service(json!({"clusterIP": "None", "ports": [{"port": 80}]}));
        let wanted = wanted(&service, &[Arc::new(pod("10.0.0.1", true, 80))], None);
        assert_eq!(
            serde_json::to_value(&wanted).unwrap(),
            json!({
                "apiVersion": "v1", "kind": "Endpoints",
                "metadata": {"namespace": "ns", "name": "web", "labels": {
                    "team": "a", "service.kubernetes.io/headless": "",
                    "endpoints.kubernetes.io/managed-by": "endpoint-controller",
                }},
                "subsets": [{
                    "addresses": [{"ip": "10.0.0.1", "hostname": "first", "nodeName": "kube1.vm", "targetRef":
                        {"kind": "Pod", "namespace": "ns", "name": "10.0.0.1", "uid": "uid-10.0.0.1"}}],
                    "ports": [{"port": 80, "protocol": "TCP"}],
                }],
            })
        );
    }

    #[test]
    fn no_more_than_a_thousand_and_ready_ones_first() {
        let pods: Vec<_> = (0..1100)
            .map(|i| Arc::new(pod(&format!("10.0.{}.{}", i / 250, i % 250), i >= 600, 80)))
            .collect();
        let wanted = wanted(&service(json!({"ports": [{"port": 80}]})), &pods, None);
        let subset = &wanted.subsets.unwrap()[0];
        assert_eq!(subset.addresses.as_ref().unwrap().len(), 500);
        assert_eq!(subset.not_ready_addresses.as_ref().unwrap().len(), 500);
        assert!(wanted.metadata.annotations.unwrap().contains_key(OVER_CAPACITY));
    }
}
