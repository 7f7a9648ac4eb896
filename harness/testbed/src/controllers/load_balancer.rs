//! Services of type `LoadBalancer`: they get an address of the load balancer, and give it back
//! ([Service, "type: LoadBalancer"](https://kubernetes.io/docs/concepts/services-networking/service/#loadbalancer)).

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use futures::future::join_all;
use k8s_openapi::api::core::v1::{LoadBalancerIngress, Node, Service};
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;

use super::caches::Caches;
use super::events::Recorder;
use super::expectations::{Expectations, LOOK_AGAIN};
use super::informer::Key;
use super::queue::{Queue, Reconcile};
use super::replicaset::gone_is_fine;
use crate::bugs::{Bug, Bugs};
use crate::load_balancer::{BalancedPort, Frontend, IpMode, LoadBalancer};
use crate::topology::LOAD_BALANCER_POOL;

/// Keeps a service until its address is given back
/// ([Create an External Load Balancer, "Garbage collecting load balancers"](https://kubernetes.io/docs/tasks/access-application-cluster/create-external-load-balancer/#garbage-collecting-load-balancers)).
const FINALIZER: &str = "service.kubernetes.io/load-balancer-cleanup";
/// Nodes that are to get nothing
/// ([well-known labels](https://kubernetes.io/docs/reference/labels-annotations-taints/#node-kubernetes-io-exclude-from-external-load-balancers)).
const EXCLUDED: &str = "node.kubernetes.io/exclude-from-external-load-balancers";
/// What this provider understands on a service: `VIP`, which is the default, or `Proxy`.
const IP_MODE: &str = "load-balancer.stickler.io/ip-mode";
/// How often nodes are asked whether they have endpoints.
const HEALTH_CHECK: Duration = Duration::from_millis(500);

pub(super) struct LoadBalancers {
    client: Client,
    caches: Caches,
    recorder: Recorder,
    balancer: LoadBalancer,
    expectations: Expectations<Service>,
    /// Who has which address, or is about to.
    taken: Mutex<BTreeMap<Key, Ipv4Addr>>,
    bugs: Bugs,
}

impl LoadBalancers {
    pub(super) fn new(
        client: Client,
        caches: &Caches,
        recorder: Recorder,
        balancer: LoadBalancer,
        bugs: &Bugs,
        queue: &Arc<Queue<Key>>,
    ) -> Self {
        let dirty = Arc::clone(queue);
        let any_class = bugs.has(Bug::BalancerIgnoresClass);
        caches.services.on_change(move |old, new| {
            // Others have nothing to do with it.
            let concerns = |service: &Service| is_wanted(service) || is_held(service) || any_class;
            if [old, new].into_iter().flatten().any(concerns)
                && let Some(service) = new.or(old)
            {
                dirty.add(Key::of(&service.metadata));
            }
        });
        let dirty = Arc::clone(queue);
        let services = caches.services.clone();
        caches.nodes.on_change(move |old, new| {
            if old.and_then(target) != new.and_then(target) {
                for service in services.all().iter().filter(|service| is_wanted(service)) {
                    dirty.add(Key::of(&service.metadata));
                }
            }
        });
        Self {
            client,
            caches: caches.clone(),
            recorder,
            balancer,
            expectations: Expectations::new(caches.services.clone()),
            taken: Mutex::default(),
            bugs: bugs.clone(),
        }
    }

    /// The address a service has, or gets now.
    fn address(&self, key: &Key, service: &Service) -> Result<Ipv4Addr, String> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let others: BTreeSet<Ipv4Addr> = taken
            .iter()
            .filter(|(other, _)| *other != key)
            .map(|(_, ip)| *ip)
            // What was given away before this controller began stays given.
            .chain(
                self.caches.services.all().iter().filter(|other| Key::of(&other.metadata) != *key).flat_map(
                    |other| published(other).iter().filter_map(ingress_address).collect::<Vec<_>>(),
                ),
            )
            .collect();
        let usable =
            |ip: &Ipv4Addr| LOAD_BALANCER_POOL.hosts().any(|host| host == *ip) && !others.contains(ip);
        let spec = service.spec.as_ref();
        let asked = spec.and_then(|spec| spec.load_balancer_ip.as_deref()).filter(|ip| !ip.is_empty());
        let chosen = match asked {
            Some(text) => {
                let ip = text.parse().ok().filter(usable);
                ip.ok_or_else(|| {
                    format!("the address `{text}` is taken, or not one of `{LOAD_BALANCER_POOL}`")
                })?
            }
            None => {
                let before = taken.get(key).copied();
                let before = before.or_else(|| published(service).iter().find_map(ingress_address));
                let mut free = LOAD_BALANCER_POOL.hosts().filter(usable);
                let chosen = before.filter(usable).or_else(|| free.next());
                chosen.ok_or_else(|| format!("all addresses of `{LOAD_BALANCER_POOL}` are taken"))?
            }
        };
        taken.insert(key.clone(), chosen);
        Ok(chosen)
    }

    async fn give_back(&self, key: &Key) -> anyhow::Result<()> {
        self.balancer.set(&key.to_string(), None).await?;
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
        Ok(())
    }

    /// The nodes to spread over. With policy Local only those that say they have endpoints.
    async fn targets(&self, service: &Service) -> BTreeSet<Ipv4Addr> {
        let nodes: Vec<Ipv4Addr> = self.caches.nodes.all().iter().filter_map(|node| target(node)).collect();
        let port = health_check_port(service).filter(|_| !self.bugs.has(Bug::BalancerIgnoresHealth));
        let Some(port) = port else { return nodes.into_iter().collect() };
        let asked =
            nodes.iter().map(|node| async move { (*node, self.balancer.is_healthy(*node, port).await) });
        join_all(asked).await.into_iter().filter(|(_, healthy)| *healthy).map(|(node, _)| node).collect()
    }

    fn takes_another_class(&self, service: &Service) -> bool {
        let mut classless = service.clone();
        classless.spec.iter_mut().for_each(|spec| spec.load_balancer_class = None);
        self.bugs.has(Bug::BalancerIgnoresClass) && is_wanted(&classless)
    }

    async fn ensure(&self, key: &Key, service: &Service) -> anyhow::Result<()> {
        let name = key.to_string();
        let address = match self.address(key, service) {
            Ok(address) => address,
            Err(why) => {
                let message = format!("Error syncing load balancer: {why}");
                self.recorder.warning(service, "SyncLoadBalancerFailed", message);
                // Others may give theirs back: nobody tells.
                anyhow::bail!("service `{key}` gets no load balancer: {why}");
            }
        };
        let frontend = Frontend {
            address,
            mode: ip_mode(service),
            ports: ports(service),
            nodes: self.targets(service).await,
        };
        let wanted = LoadBalancerIngress {
            ip: Some(address.to_string()),
            ip_mode: Some(frontend.mode.name().to_owned()),
            ..LoadBalancerIngress::default()
        };
        let before = self.balancer.get(&name).await;
        let without_nodes = |frontend: &Frontend| Frontend { nodes: BTreeSet::new(), ..frontend.clone() };
        let is_published = published(service) == [wanted.clone()];
        let is_new =
            !is_published || before.as_ref().map(without_nodes).as_ref() != Some(&without_nodes(&frontend));
        if is_new {
            self.recorder.normal(service, "EnsuringLoadBalancer", "Ensuring load balancer".to_owned());
        }
        if !is_held(service) {
            self.set_finalizer(service, true).await?;
        }
        if before.as_ref() != Some(&frontend) {
            self.balancer.set(&name, Some(frontend)).await?;
        }
        if !is_published {
            self.publish(service, &[wanted]).await?;
        }
        if is_new {
            self.recorder.normal(service, "EnsuredLoadBalancer", "Ensured load balancer".to_owned());
        }
        Ok(())
    }

    async fn clean_up(&self, key: &Key, service: &Service) -> anyhow::Result<()> {
        self.recorder.normal(service, "DeletingLoadBalancer", "Deleting load balancer".to_owned());
        self.give_back(key).await?;
        if !published(service).is_empty() {
            self.publish(service, &[]).await?;
        }
        if !self.bugs.has(Bug::BalancerKeepsService) {
            self.set_finalizer(service, false).await?;
        }
        self.recorder.normal(service, "DeletedLoadBalancer", "Deleted load balancer".to_owned());
        Ok(())
    }

    async fn publish(&self, service: &Service, ingress: &[LoadBalancerIngress]) -> anyhow::Result<()> {
        let ingress = Some(ingress).filter(|ingress| !ingress.is_empty());
        let patch = json!({"metadata": {"uid": service.metadata.uid}, "status": {"loadBalancer": {"ingress": ingress}}});
        let name = service.metadata.name.as_deref().unwrap_or_default();
        let patched =
            self.api(service).patch_status(name, &PatchParams::default(), &Patch::Merge(patch)).await;
        let patched = gone_is_fine(patched)
            .with_context(|| format!("the address of service `{name}` could not be published"))?;
        self.expect(patched);
        Ok(())
    }

    async fn set_finalizer(&self, service: &Service, held: bool) -> anyhow::Result<()> {
        let mut finalizers = service.metadata.finalizers.clone().unwrap_or_default();
        finalizers.retain(|finalizer| finalizer != FINALIZER);
        if held {
            finalizers.push(FINALIZER.to_owned());
        }
        // The list is replaced as a whole; `publish` above changes nothing of it, so that the version
        // would only refuse what is right.
        let patch = json!({"metadata": {"uid": service.metadata.uid, "finalizers": finalizers}});
        let name = service.metadata.name.as_deref().unwrap_or_default();
        let patched = self.api(service).patch(name, &PatchParams::default(), &Patch::Merge(patch)).await;
        let patched = gone_is_fine(patched).with_context(|| {
            format!("the finalizer `{FINALIZER}` of service `{name}` could not be changed")
        })?;
        self.expect(patched);
        Ok(())
    }

    /// Waits for the cache to show what was written, before anything is decided anew.
    fn expect(&self, written: Option<Service>) {
        if let Some(service) = written {
            self.expectations.written(&Key::of(&service.metadata), &service.metadata);
        }
    }

    fn api(&self, service: &Service) -> Api<Service> {
        let namespace = service.metadata.namespace.as_deref().unwrap_or_default();
        Api::namespaced(self.client.clone(), namespace)
    }
}

impl Reconcile for LoadBalancers {
    type Key = Key;
    const NAME: &'static str = "load balancer";

    async fn reconcile(&self, key: Key) -> anyhow::Result<Option<Duration>> {
        let caught_up = self.expectations.are_met(&key);
        let Some(service) = self.caches.services.get(&key) else {
            self.expectations.forget(&key);
            self.give_back(&key).await?;
            return Ok(None);
        };
        if !caught_up {
            return Ok(Some(LOOK_AGAIN));
        }
        if !(is_wanted(&service) || self.takes_another_class(&service)) {
            if is_held(&service) {
                self.clean_up(&key, &service).await?;
            }
            return Ok(None);
        }
        self.ensure(&key, &service).await?;
        Ok(health_check_port(&service).map(|_| HEALTH_CHECK))
    }
}

/// Is it for the default provider to serve it? One with a class of its own is somebody else's.
fn is_wanted(service: &Service) -> bool {
    let Some(spec) = &service.spec else { return false };
    spec.type_.as_deref() == Some("LoadBalancer")
        && spec.load_balancer_class.is_none()
        && service.metadata.deletion_timestamp.is_none()
}

fn is_held(service: &Service) -> bool {
    service.metadata.finalizers.iter().flatten().any(|finalizer| finalizer == FINALIZER)
}

fn published(service: &Service) -> Vec<LoadBalancerIngress> {
    let balancer = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    balancer.and_then(|balancer| balancer.ingress.clone()).unwrap_or_default()
}

fn ingress_address(ingress: &LoadBalancerIngress) -> Option<Ipv4Addr> {
    ingress.ip.as_deref()?.parse().ok()
}

fn ip_mode(service: &Service) -> IpMode {
    let asked = service.metadata.annotations.as_ref().and_then(|all| all.get(IP_MODE));
    match asked.map(String::as_str) {
        Some("Proxy") => IpMode::Proxy,
        _ => IpMode::Vip,
    }
}

fn ports(service: &Service) -> Vec<BalancedPort> {
    let ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
    let number = |number: i32| u16::try_from(number).ok().filter(|number| *number > 0);
    ports
        .filter_map(|port| {
            let protocol = match port.protocol.as_deref() {
                None | Some("TCP") => 6,
                Some("UDP") => 17,
                _ => return None,
            };
            Some(BalancedPort {
                protocol,
                port: number(port.port)?,
                node_port: port.node_port.and_then(number),
            })
        })
        .collect()
}

/// Where nodes say whether they have endpoints, if only those that have any are to be asked.
fn health_check_port(service: &Service) -> Option<u16> {
    let spec = service.spec.as_ref()?;
    let is_local = spec.external_traffic_policy.as_deref() == Some("Local");
    spec.health_check_node_port.filter(|port| is_local && *port > 0).and_then(|port| port.try_into().ok())
}

/// The address of a node that may get connections.
fn target(node: &Node) -> Option<Ipv4Addr> {
    if node.metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(EXCLUDED)) {
        return None;
    }
    let status = node.status.as_ref()?;
    let ready = status.conditions.iter().flatten().find(|condition| condition.type_ == "Ready")?;
    let internal = status.addresses.iter().flatten().find(|address| address.type_ == "InternalIP")?;
    internal.address.parse().ok().filter(|_| ready.status == "True")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(spec: serde_json::Value) -> Service {
        serde_json::from_value(json!({"metadata": {"name": "web"}, "spec": spec})).unwrap()
    }

    #[test]
    fn whose_service_it_is() {
        assert!(is_wanted(&service(json!({"type": "LoadBalancer"}))));
        assert!(!is_wanted(&service(json!({"type": "NodePort"}))));
        assert!(!is_wanted(&service(json!({"type": "LoadBalancer", "loadBalancerClass": "example.com/lb"}))));
    }

    #[test]
    fn health_is_asked_for_with_policy_local_only() {
        let port = |policy: &str| {
            health_check_port(&service(
                json!({"externalTrafficPolicy": policy, "healthCheckNodePort": 30100}),
            ))
        };
        assert_eq!((port("Local"), port("Cluster")), (Some(30100), None));
    }

    #[test]
    fn nodes_that_are_excluded_or_silent_get_nothing() {
        let node = |label: &str, ready: &str| {
            let node = json!({"metadata": {"name": "a", "labels": {label: ""}}, "status": {
                "addresses": [{"type": "InternalIP", "address": "192.0.2.1"}],
                "conditions": [{"type": "Ready", "status": ready}]}});
            target(&serde_json::from_value(node).unwrap())
        };
        assert_eq!(node("a", "True"), Some(Ipv4Addr::new(192, 0, 2, 1)));
        assert_eq!(node("a", "Unknown"), None);
        assert_eq!(node(EXCLUDED, "True"), None);
    }
}
