//! The node a kubelet stands for: what its pods need of it, its object and its lease in the API.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::Ipv4Net;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::{
    DaemonEndpoint, Node as NodeObject, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeSpec,
    NodeStatus, NodeSystemInfo,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, OwnerReference};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt as _};
use tokio::time::{MissedTickBehavior, interval};

use super::PodNetwork;
use super::address::Addresses;
use super::container::Runtime;
use super::environment::Place;
use super::events::Events;
use super::image::Images;
use super::records::Records;
use super::resolver::Resolver;
use super::sandbox::Sandbox;
use super::services::Services;
use super::status::time;
use crate::bugs::Bugs;
use crate::namespace::NetNamespace;

/// Where a kubelet listens
/// ([Ports and Protocols](https://kubernetes.io/docs/reference/networking/ports-and-protocols/)).
pub(crate) const PORT: u16 = 10250;

/// How often the lease is renewed
/// ([Leases, "Node heartbeats"](https://kubernetes.io/docs/concepts/architecture/leases/#node-heart-beats)).
/// Upstream's default is ten seconds; here a node that died is to be noticed within the few seconds
/// a testbed has for everything.
const RENEWAL: Duration = Duration::from_millis(500);
const LEASE_SECONDS: i32 = 40;
/// Every how many renewals the kubelet looks whether somebody took the node for dead.
const LOOK_EVERY: u64 = 2;
/// Every how many renewals the status is sent though nothing changed: five minutes.
const STATUS_EVERY: u64 = 600;
/// How soon a kubelet that cannot reach the API tries to register again.
const REGISTER_EVERY: Duration = Duration::from_millis(200);
const LEASES: &str = "kube-node-lease";

/// What pods need of their node.
pub(crate) struct Node {
    pub(crate) client: Client,
    pub(crate) name: String,
    pub(crate) ip: Ipv4Addr,
    pub(crate) pod_cidr: Ipv4Net,
    pub(crate) namespace: NetNamespace,
    pub(crate) network: Arc<dyn PodNetwork>,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) control_plane: bool,
    pub(crate) version: String,
    pub(crate) resolver: Resolver,
    pub(crate) images: Images,
    pub(crate) services: Services,
    pub(crate) runtime: Runtime,
    pub(crate) addresses: Addresses,
    pub(crate) records: Records,
    pub(crate) events: Events,
    pub(crate) bugs: Bugs,
}

impl Node {
    /// What a container may want to know about where it runs.
    pub(crate) fn place(&self, sandbox: &Sandbox, pod_ip: Option<Ipv4Addr>) -> Place {
        Place {
            hostname: sandbox.hostname().to_owned(),
            node_name: self.name.clone(),
            host_ip: self.ip,
            pod_ip,
        }
    }

    /// Makes the node known, ready at once, with one request if it is new.
    pub(crate) async fn register(&self) -> Result<NodeObject, kube::Error> {
        let nodes: Api<NodeObject> = Api::all(self.client.clone());
        let object = self.object(Timestamp::now());
        let known = match nodes.create(&PostParams::default(), &object).await {
            Ok(created) if ready(&created) => return Ok(created),
            Ok(created) => created,
            Err(kube::Error::Api(status)) if status.code == 409 => {
                let labels = serde_json::json!({ "metadata": { "labels": object.metadata.labels } });
                nodes.patch(&self.name, &PatchParams::default(), &Patch::Merge(labels)).await?
            }
            Err(error) => return Err(error),
        };
        self.send_status(&known).await
    }

    /// Makes the node known as soon as the API lets it.
    pub(crate) async fn register_patiently(&self) -> NodeObject {
        let mut ticks = interval(REGISTER_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            match self.register().await {
                Ok(object) => return object,
                Err(error) => tracing::debug!(%error, node = self.name, "cannot register, trying again"),
            }
        }
    }

    /// Renews the lease, and now and then the status, until the task is ended.
    pub(crate) async fn beat(self: Arc<Self>, mut object: NodeObject) {
        let mut ticks = interval(RENEWAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for tick in 0_u64.. {
            ticks.tick().await;
            if let Err(error) = self.renew(&object).await {
                tracing::debug!(%error, node = self.name, "cannot renew the lease of the node");
            }
            // Whoever missed the heartbeats may have declared the node dead: it is not.
            let known = if tick % LOOK_EVERY == 1 { self.known().await } else { None };
            let contradicted = known.filter(|known| !ready(known));
            if contradicted.is_some() || tick % STATUS_EVERY == STATUS_EVERY - 1 {
                object = contradicted.unwrap_or(object);
                let sent = match self.send_status(&object).await {
                    // Somebody deleted the node: a kubelet that still runs registers again.
                    Err(kube::Error::Api(status)) if status.code == 404 => self.register().await,
                    sent => sent,
                };
                match sent {
                    Ok(sent) => object = sent,
                    Err(error) => tracing::warn!(%error, node = self.name, "cannot report the node's status"),
                }
            }
        }
    }

    /// The node as the API shows it, if it can be asked.
    async fn known(&self) -> Option<NodeObject> {
        let nodes: Api<NodeObject> = Api::all(self.client.clone());
        nodes.get_opt(&self.name).await.ok().flatten()
    }

    async fn renew(&self, owner: &NodeObject) -> Result<(), kube::Error> {
        let leases: Api<Lease> = Api::namespaced(self.client.clone(), LEASES);
        let now = MicroTime(Timestamp::now());
        let renewed = serde_json::json!({ "spec": {
            "holderIdentity": self.name, "leaseDurationSeconds": LEASE_SECONDS, "renewTime": now,
        }});
        match leases.patch(&self.name, &PatchParams::default(), &Patch::Merge(renewed)).await {
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            renewed => return renewed.map(drop),
        }
        let mut lease = Lease {
            spec: Some(LeaseSpec {
                holder_identity: Some(self.name.clone()),
                lease_duration_seconds: Some(LEASE_SECONDS),
                renew_time: Some(now),
                ..LeaseSpec::default()
            }),
            ..Lease::default()
        };
        lease.metadata.name = Some(self.name.clone());
        lease.metadata.namespace = Some(LEASES.to_owned());
        lease.metadata.owner_references = owner.uid().map(|uid| {
            vec![OwnerReference {
                api_version: "v1".into(),
                kind: "Node".into(),
                name: self.name.clone(),
                uid,
                ..OwnerReference::default()
            }]
        });
        leases.create(&PostParams::default(), &lease).await.map(drop)
    }

    async fn send_status(&self, known: &NodeObject) -> Result<NodeObject, kube::Error> {
        let mut status = self.status(Timestamp::now());
        let before = known.status.iter().flat_map(|status| status.conditions.iter().flatten());
        for condition in status.conditions.iter_mut().flatten() {
            let same = |old: &&NodeCondition| old.type_ == condition.type_ && old.status == condition.status;
            if let Some(old) = before.clone().find(same) {
                condition.last_transition_time = old.last_transition_time.clone();
            }
        }
        let patch = Patch::Strategic(serde_json::json!({ "status": status }));
        Api::all(self.client.clone()).patch_status(&self.name, &PatchParams::default(), &patch).await
    }

    fn object(&self, now: Timestamp) -> NodeObject {
        let mut object = NodeObject::default();
        object.metadata.name = Some(self.name.clone());
        let mut labels = self.labels.clone();
        for (key, value) in [
            ("kubernetes.io/hostname", self.name.as_str()),
            ("kubernetes.io/os", "linux"),
            ("kubernetes.io/arch", architecture()),
            ("beta.kubernetes.io/os", "linux"),
            ("beta.kubernetes.io/arch", architecture()),
        ] {
            labels.insert(key.into(), value.into());
        }
        if self.control_plane {
            labels.insert("node-role.kubernetes.io/control-plane".into(), String::new());
        }
        object.metadata.labels = Some(labels);
        object.spec = Some(NodeSpec {
            pod_cidr: Some(self.pod_cidr.to_string()),
            pod_cidrs: Some(vec![self.pod_cidr.to_string()]),
            ..NodeSpec::default()
        });
        object.status = Some(self.status(now));
        object
    }

    fn status(&self, now: Timestamp) -> NodeStatus {
        let address = |type_: &str, address: String| NodeAddress { type_: type_.into(), address };
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let resources: BTreeMap<_, _> = [
            ("cpu", cpus.to_string()),
            ("memory", format!("{}Ki", memory_kib())),
            ("pods", "110".to_owned()),
            ("ephemeral-storage", "0".to_owned()),
        ]
        .into_iter()
        .map(|(name, amount)| (name.to_owned(), Quantity(amount)))
        .collect();
        let condition = |kind: &str, status: &str, reason: &str, message: &str| NodeCondition {
            type_: kind.into(),
            status: status.into(),
            reason: Some(reason.into()),
            message: Some(message.into()),
            last_heartbeat_time: Some(time(now)),
            last_transition_time: Some(time(now)),
        };
        NodeStatus {
            addresses: Some(vec![
                address("InternalIP", self.ip.to_string()),
                address("Hostname", self.name.clone()),
            ]),
            allocatable: Some(resources.clone()),
            capacity: Some(resources),
            conditions: Some(vec![
                condition(
                    "MemoryPressure",
                    "False",
                    "KubeletHasSufficientMemory",
                    "kubelet has sufficient memory available",
                ),
                condition(
                    "DiskPressure",
                    "False",
                    "KubeletHasNoDiskPressure",
                    "kubelet has no disk pressure",
                ),
                condition(
                    "PIDPressure",
                    "False",
                    "KubeletHasSufficientPID",
                    "kubelet has sufficient PID available",
                ),
                condition("Ready", "True", "KubeletReady", "kubelet is posting ready status"),
            ]),
            daemon_endpoints: Some(NodeDaemonEndpoints {
                kubelet_endpoint: Some(DaemonEndpoint { port: i32::from(PORT) }),
            }),
            node_info: Some(self.system()),
            ..NodeStatus::default()
        }
    }

    fn system(&self) -> NodeSystemInfo {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        let release = read("/etc/os-release");
        let name = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
        NodeSystemInfo {
            architecture: architecture().to_owned(),
            boot_id: read("/proc/sys/kernel/random/boot_id"),
            container_runtime_version: concat!("stickler://", env!("CARGO_PKG_VERSION")).to_owned(),
            kernel_version: read("/proc/sys/kernel/osrelease"),
            kubelet_version: self.version.clone(),
            kube_proxy_version: String::new(),
            machine_id: self.name.clone(),
            operating_system: "linux".to_owned(),
            os_image: name.unwrap_or("Linux").trim_matches('"').to_owned(),
            system_uuid: self.name.clone(),
            ..NodeSystemInfo::default()
        }
    }
}

fn ready(node: &NodeObject) -> bool {
    let mut conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// As Go names it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn memory_kib() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    total.and_then(|line| line.trim().trim_end_matches("kB").trim().parse().ok()).unwrap_or_default()
}
