//! The controllers and the scheduler against a real API server, with a kubelet that only pretends.

mod slices;
mod workloads;

use std::fmt::Debug;
use std::future::Future;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use futures::{FutureExt, StreamExt};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{ConfigMap, Endpoints, Namespace, Node, Pod, Service, ServiceAccount};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::pod_state::{is_terminating, node_name};
use super::{Controllers, ControllersConfig, NodePatience};
use crate::apiserver::{ApiServer, ApiServerConfig};
use crate::bugs::Bugs;
use crate::pki::Pki;
use crate::scheduler::Scheduler;

/// The most any of these may take; in practice it is milliseconds.
const PATIENCE: Duration = Duration::from_secs(20);

struct Lab {
    client: Client,
    _kubelet: JoinSet<()>,
    _scheduler: Scheduler,
    _controllers: Controllers,
    _api: ApiServer,
}

impl Lab {
    async fn start() -> Self {
        // Nobody's heart beats in most of these tests.
        let silence = Duration::from_secs(3600);
        Self::with_patience(NodePatience { silence, ..NodePatience::default() }).await
    }

    async fn with_patience(patience: NodePatience) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let pki = Pki::new().unwrap();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let api = ApiServer::start(ApiServerConfig {
            pki: &pki,
            listeners: vec![listener],
            advertise: "192.168.199.10:6443".parse().unwrap(),
            names: Vec::new(),
            service_cidr: "10.96.0.0/16".parse().unwrap(),
            node_port_range: 30000..=32767,
            kubelet_dial: Arc::new(|_| {
                async { Err(std::io::Error::other("there is no kubelet here")) }.boxed()
            }),
            version: "v1.37.0".to_owned(),
            bugs: Bugs::default(),
        })
        .unwrap();
        let client = client(&pki, &format!("https://{address}"));
        let lab = Self {
            _kubelet: kubelet(client.clone()),
            _scheduler: Scheduler::start(client.clone(), Bugs::default()),
            _controllers: Controllers::start(ControllersConfig {
                client: client.clone(),
                ca_pem: pki.ca_pem(),
                bugs: Bugs::default(),
                patience,
                load_balancer: None,
            }),
            _api: api,
            client,
        };
        for name in ["kube0.vm", "kube1.vm", "kube2.vm"] {
            let nodes: Api<Node> = Api::all(lab.client.clone());
            let status = json!({"conditions": [{"type": "Ready", "status": "True"}]});
            let node = serde_json::from_value(json!({"metadata": {"name": name}})).unwrap();
            nodes.create(&PostParams::default(), &node).await.unwrap();
            let patch = Patch::Merge(json!({"status": status}));
            nodes.patch_status(name, &PatchParams::default(), &patch).await.unwrap();
        }
        lab.create::<Namespace>(json!({"metadata": {"name": "ns"}})).await;
        lab
    }

    fn api<K: Object>(&self) -> Api<K> {
        Api::namespaced(self.client.clone(), "ns")
    }

    async fn create<K>(&self, object: Value)
    where
        K: kube::Resource<DynamicType = ()> + Clone + DeserializeOwned + serde::Serialize + Debug,
    {
        let object: K = serde_json::from_value(object).unwrap();
        let url = K::url_path(&(), object.meta().namespace.as_deref());
        let body = serde_json::to_vec(&object).unwrap();
        let request = http::Request::post(url).header("content-type", "application/json").body(body).unwrap();
        self.client.request::<Value>(request).await.unwrap();
    }

    async fn patch<K: Object>(&self, name: &str, patch: Value) {
        self.api::<K>().patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    }

    async fn list<K: Object>(&self) -> Vec<K> {
        self.api::<K>().list(&ListParams::default()).await.unwrap().items
    }

    /// Waits until `look` finds nothing wrong; what was wrong last is the failure's message.
    async fn eventually<F: Future<Output = Result<(), String>>>(&self, look: impl Fn() -> F) {
        let mut wrong = String::new();
        let done = tokio::time::timeout(PATIENCE, async {
            let mut often = tokio::time::interval(Duration::from_millis(2));
            loop {
                often.tick().await;
                match look().await {
                    Ok(()) => return,
                    Err(why) => wrong = why,
                }
            }
        });
        if done.await.is_err() {
            panic!("it never came: {wrong}");
        }
    }

    /// Pods labelled `app=web` are as many, and Endpoints and EndpointSlices of `web` show just them.
    async fn serves(&self, count: usize) {
        self.eventually(|| async move {
            let mut pods: Vec<_> = self.list::<Pod>().await;
            pods.retain(|pod| !is_terminating(pod) && label(pod) == Some("web"));
            let mut ips: Vec<_> = pods
                .iter()
                .filter_map(|pod| pod.status.as_ref().and_then(|status| status.pod_ip.clone()))
                .collect();
            ips.sort();
            let endpoints = self.api::<Endpoints>().get_opt("web").await.unwrap();
            let subsets = endpoints.and_then(|endpoints| endpoints.subsets).unwrap_or_default();
            let ready = subsets.iter().flat_map(|subset| subset.addresses.iter().flatten());
            let mut shown: Vec<_> = ready.map(|address| address.ip.clone()).collect();
            shown.sort();
            let slices: Vec<EndpointSlice> = self.list().await;
            let mine = slices.iter().filter(|slice| {
                slice.metadata.labels.as_ref().and_then(|labels| labels.get("kubernetes.io/service-name"))
                    == Some(&"web".to_owned())
            });
            let mut sliced: Vec<_> = mine
                .flat_map(|slice| slice.endpoints.iter().flatten())
                .filter(|endpoint| {
                    endpoint.conditions.as_ref().and_then(|conditions| conditions.ready) == Some(true)
                })
                .flat_map(|endpoint| endpoint.addresses.clone())
                .collect();
            sliced.sort();
            (ips.len() == count && shown == ips && sliced == ips).then_some(()).ok_or_else(|| {
                format!("{count} pods wanted; pods {ips:?}, Endpoints {shown:?}, slices {sliced:?}")
            })
        })
        .await;
    }
}

trait Object:
    kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
    + Clone
    + DeserializeOwned
    + Debug
    + Send
    + 'static
{
}

impl<K> Object for K where
    K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
        + Clone
        + DeserializeOwned
        + Debug
        + Send
        + 'static
{
}

fn client(pki: &Pki, url: &str) -> Client {
    use base64::Engine as _;
    let encode = |pem: String| base64::engine::general_purpose::STANDARD.encode(pem);
    let admin = pki.client("admin", &["system:masters"]).unwrap();
    let mut config = kube::Config::new(url.parse().unwrap());
    let ca = pki.ca_pem();
    config.root_cert = Some(
        <rustls_pki_types::CertificateDer<'_> as rustls_pki_types::pem::PemObject>::pem_slice_iter(
            ca.as_bytes(),
        )
        .map(|one| one.unwrap().to_vec())
        .collect(),
    );
    config.auth_info.client_certificate_data = Some(encode(admin.certificate_pem));
    config.auth_info.client_key_data = Some(encode(admin.key_pem).into());
    Client::try_from(config).unwrap()
}

/// Every pod with a node runs and is ready at once, and is gone at once when it is to go.
fn kubelet(client: Client) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let events = watcher(Api::<Pod>::all(client.clone()), watcher::Config::default());
        // Without a pause between failures it would spin, unstoppable, once the server is gone.
        let mut events = Box::pin(events.default_backoff());
        let mut next_ip = 1_u32;
        while let Some(event) = events.next().await {
            let Ok(watcher::Event::Apply(pod) | watcher::Event::InitApply(pod)) = event else { continue };
            let namespace = pod.metadata.namespace.clone().unwrap();
            let name = pod.metadata.name.clone().unwrap();
            let api: Api<Pod> = Api::namespaced(client.clone(), &namespace);
            if node_name(&pod).is_none() {
                continue;
            }
            if is_terminating(&pod) {
                let _ = api.delete(&name, &DeleteParams::default().grace_period(0)).await;
            } else if super::pod_state::phase(&pod) != "Running" {
                let ip = Ipv4Addr::from_bits(Ipv4Addr::new(10, 244, 0, 0).to_bits() + next_ip).to_string();
                next_ip += 1;
                let status = json!({"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}],
                    "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]});
                let patch = Patch::Merge(json!({"status": status}));
                let _ = api.patch_status(&name, &PatchParams::default(), &patch).await;
            }
        }
    });
    tasks
}

fn label(pod: &Pod) -> Option<&str> {
    pod.metadata.labels.as_ref()?.get("app").map(String::as_str)
}

fn workload(kind: &str, replicas: i32) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": kind,
        "metadata": {"namespace": "ns", "name": "web"},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}}, "template": {
            "metadata": {"labels": {"app": "web"}},
            "spec": {"containers": [{"name": "goweb", "image": "goweb:1"}]},
        }},
    })
}

fn service() -> Value {
    json!({"metadata": {"namespace": "ns", "name": "web"},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]}})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_set_is_scheduled_served_scaled_relabelled_and_collected() {
    let lab = Lab::start().await;
    lab.create::<Service>(service()).await;
    lab.serves(0).await;
    lab.create::<ReplicaSet>(workload("ReplicaSet", 6)).await;
    lab.serves(6).await;
    let pods: Vec<Pod> = lab.list().await;
    assert_eq!(pods.len(), 6, "no pod was made twice");
    for node in ["kube0.vm", "kube1.vm", "kube2.vm"] {
        assert_eq!(pods.iter().filter(|pod| node_name(pod) == Some(node)).count(), 2, "{node}");
    }
    lab.patch::<ReplicaSet>("web", json!({"spec": {"replicas": 3}})).await;
    lab.serves(3).await;
    lab.eventually(async || {
        let status = lab.api::<ReplicaSet>().get("web").await.unwrap().status.unwrap_or_default();
        let is =
            (status.replicas, status.ready_replicas, status.available_replicas, status.observed_generation);
        (is == (3, Some(3), Some(3), Some(2))).then_some(()).ok_or_else(|| format!("{status:?}"))
    })
    .await;
    let pods = lab.list::<Pod>().await;
    let strayed = pods.iter().find(|pod| !is_terminating(pod)).unwrap().metadata.name.clone().unwrap();
    lab.patch::<Pod>(&strayed, json!({"metadata": {"labels": {"app": "stray"}}})).await;
    lab.eventually(async || {
        let owners = lab.api::<Pod>().get(&strayed).await.unwrap().metadata.owner_references;
        owners.unwrap_or_default().is_empty().then_some(()).ok_or_else(|| "it is still owned".to_owned())
    })
    .await;
    lab.serves(3).await;
    lab.patch::<Pod>(&strayed, json!({"metadata": {"labels": {"app": "web"}}})).await;
    lab.serves(3).await;
    lab.api::<ReplicaSet>().delete("web", &DeleteParams::background()).await.unwrap();
    lab.serves(0).await;
    lab.api::<Service>().delete("web", &DeleteParams::default()).await.unwrap();
    lab.eventually(async || {
        let (endpoints, slices) = (lab.list::<Endpoints>().await, lab.list::<EndpointSlice>().await);
        let pods: Vec<_> = lab.list::<Pod>().await;
        let left = (pods.len(), endpoints.len(), slices.len());
        (left == (0, 0, 0)).then_some(()).ok_or_else(|| format!("left: {left:?}"))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_rolls_and_rolls_back() {
    let lab = Lab::start().await;
    lab.create::<Service>(service()).await;
    let replica_sets = async || {
        let mut all: Vec<_> = lab
            .list::<ReplicaSet>()
            .await
            .into_iter()
            .map(|one| {
                let revision = one
                    .metadata
                    .annotations
                    .as_ref()
                    .and_then(|all| all.get("deployment.kubernetes.io/revision").cloned());
                (revision.unwrap_or_default(), one.spec.replicas.unwrap_or_default())
            })
            .collect();
        all.sort();
        all
    };
    let rolled_out = async |generation: i64| {
        lab.eventually(async || {
            let status = lab.api::<Deployment>().get("web").await.unwrap().status.unwrap_or_default();
            let counts = (status.replicas, status.updated_replicas, status.available_replicas);
            let reasons: Vec<_> =
                status.conditions.iter().flatten().filter_map(|one| one.reason.clone()).collect();
            let is_done = counts == (Some(4), Some(4), Some(4))
                && status.observed_generation == Some(generation)
                && reasons.contains(&"NewReplicaSetAvailable".to_owned())
                && reasons.contains(&"MinimumReplicasAvailable".to_owned());
            is_done.then_some(()).ok_or_else(|| format!("{status:?}"))
        })
        .await;
        lab.serves(4).await;
    };
    let text = |text: &str| text.to_owned();
    lab.create::<Deployment>(workload("Deployment", 4)).await;
    rolled_out(1).await;
    assert_eq!(replica_sets().await, [(text("1"), 4)]);
    let image = |image: &str| json!({"spec": {"template": {"spec": {"containers": [{"name": "goweb", "image": image}]}}}});
    lab.patch::<Deployment>("web", image("goweb:2")).await;
    rolled_out(2).await;
    assert_eq!(replica_sets().await, [(text("1"), 0), (text("2"), 4)]);
    lab.patch::<Deployment>("web", image("goweb:1")).await;
    rolled_out(3).await;
    assert_eq!(replica_sets().await, [(text("2"), 0), (text("3"), 4)], "the old one is taken again");
    let mut recreate = image("goweb:3");
    recreate["spec"]["strategy"] = json!({"type": "Recreate", "rollingUpdate": null});
    lab.patch::<Deployment>("web", recreate).await;
    rolled_out(4).await;
    lab.api::<Deployment>().delete("web", &DeleteParams::foreground()).await.unwrap();
    lab.eventually(async || {
        let left =
            (lab.list::<Deployment>().await.len(), replica_sets().await.len(), lab.list::<Pod>().await.len());
        (left == (0, 0, 0)).then_some(()).ok_or_else(|| format!("left: {left:?}"))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn orphans_stay_and_are_adopted() {
    let lab = Lab::start().await;
    lab.create::<Service>(service()).await;
    lab.create::<ReplicaSet>(workload("ReplicaSet", 2)).await;
    lab.serves(2).await;
    let names = async || {
        let pods = lab.list::<Pod>().await;
        pods.into_iter().filter_map(|pod| pod.metadata.name).collect::<std::collections::BTreeSet<_>>()
    };
    let before = names().await;
    let orphan = DeleteParams {
        propagation_policy: Some(kube::api::PropagationPolicy::Orphan),
        ..DeleteParams::default()
    };
    lab.api::<ReplicaSet>().delete("web", &orphan).await.unwrap();
    lab.eventually(async || {
        let left = lab.list::<ReplicaSet>().await.len();
        (left == 0).then_some(()).ok_or_else(|| "the ReplicaSet is still there".to_owned())
    })
    .await;
    assert_eq!(names().await, before);
    lab.create::<ReplicaSet>(workload("ReplicaSet", 3)).await;
    lab.serves(3).await;
    assert!(names().await.is_superset(&before), "they were adopted, not replaced");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_is_born_furnished_and_ends() {
    let lab = Lab::start().await;
    lab.eventually(async || {
        let account = lab.api::<ServiceAccount>().get_opt("default").await.unwrap();
        let root_ca = lab.api::<ConfigMap>().get_opt("kube-root-ca.crt").await.unwrap();
        let is_there =
            account.is_some() && root_ca.is_some_and(|map| map.data.unwrap().contains_key("ca.crt"));
        is_there.then_some(()).ok_or_else(|| "something is missing".to_owned())
    })
    .await;
    lab.create::<Service>(service()).await;
    lab.create::<Deployment>(workload("Deployment", 3)).await;
    lab.serves(3).await;
    let namespaces: Api<Namespace> = Api::all(lab.client.clone());
    namespaces.delete("ns", &DeleteParams::default()).await.unwrap();
    lab.eventually(async || {
        let left = namespaces.get_opt("ns").await.unwrap();
        left.is_none().then_some(()).ok_or_else(|| "the namespace is still there".to_owned())
    })
    .await;
    assert_eq!(lab.list::<Pod>().await.len() + lab.list::<EndpointSlice>().await.len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_fits_nowhere_says_so_and_starts_once_it_does() {
    let lab = Lab::start().await;
    let spec = json!({"nodeSelector": {"disk": "ssd"}, "containers": [{"name": "goweb", "image": "goweb"}]});
    lab.create::<Pod>(json!({"metadata": {"namespace": "ns", "name": "picky"}, "spec": spec})).await;
    let scheduled = async || {
        let pod = lab.api::<Pod>().get("picky").await.unwrap();
        let told = super::pod_state::condition(&pod, "PodScheduled").and_then(|told| told.message.clone());
        (node_name(&pod).map(str::to_owned), told.unwrap_or_default())
    };
    lab.eventually(async || {
        let (_, told) = scheduled().await;
        let expected = "0/3 nodes are available: 3 node(s) didn't match Pod's node affinity/selector.";
        told.starts_with(expected).then_some(()).ok_or(told)
    })
    .await;
    let patch = Patch::Merge(json!({"metadata": {"labels": {"disk": "ssd"}}}));
    let nodes: Api<Node> = Api::all(lab.client.clone());
    nodes.patch("kube2.vm", &PatchParams::default(), &patch).await.unwrap();
    lab.eventually(async || {
        let (node, _) = scheduled().await;
        (node.as_deref() == Some("kube2.vm")).then_some(()).ok_or_else(|| format!("{node:?}"))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_node_loses_its_endpoints_and_then_its_pods() {
    let lab = Lab::with_patience(NodePatience {
        silence: Duration::from_secs(2),
        eviction: Duration::from_millis(300),
        quarantine: Duration::from_millis(50),
    })
    .await;
    let nodes: Api<Node> = Api::all(lab.client.clone());
    let leases = http::Request::post("/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases");
    let lease = json!({"metadata": {"name": "kube1.vm"}, "spec": {"holderIdentity": "kube1.vm"}});
    let lease = leases.header("content-type", "application/json").body(lease.to_string().into_bytes());
    lab.client.request::<Value>(lease.unwrap()).await.unwrap();
    let api: Api<k8s_openapi::api::coordination::v1::Lease> =
        Api::namespaced(lab.client.clone(), "kube-node-lease");
    let beating = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let (beats, still) = (nodes.clone(), Arc::clone(&beating));
    let heart = tokio::spawn(async move {
        let mut ticks = tokio::time::interval(Duration::from_millis(50));
        loop {
            ticks.tick().await;
            let now = jiff::Timestamp::now();
            for name in ["kube0.vm", "kube2.vm"] {
                let alive = json!({"type": "Ready", "status": "True", "lastHeartbeatTime": now});
                let patch = Patch::Strategic(json!({"status": {"conditions": [alive]}}));
                let _ = beats.patch_status(name, &PatchParams::default(), &patch).await;
            }
            if still.load(std::sync::atomic::Ordering::SeqCst) {
                let now = k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime(now);
                let patch = Patch::Merge(json!({"spec": {"renewTime": now}}));
                let _ = api.patch("kube1.vm", &PatchParams::default(), &patch).await;
            }
        }
    });
    lab.create::<Service>(service()).await;
    lab.create::<ReplicaSet>(workload("ReplicaSet", 3)).await;
    lab.serves(3).await;
    beating.store(false, std::sync::atomic::Ordering::SeqCst);
    lab.eventually(async || {
        let node = nodes.get("kube1.vm").await.unwrap();
        let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
        let mut ready = conditions.filter(|one| one.type_ == "Ready");
        let is_unknown = ready.any(|one| {
            one.status == "Unknown"
                && one.reason.as_deref() == Some("NodeStatusUnknown")
                && one.message.as_deref() == Some("Kubelet stopped posting node status.")
        });
        let taints = node.spec.and_then(|spec| spec.taints).unwrap_or_default();
        let taints: Vec<_> = taints.iter().map(|taint| (taint.key.as_str(), taint.effect.as_str())).collect();
        let key = "node.kubernetes.io/unreachable";
        let is_tainted = taints == [(key, "NoSchedule"), (key, "NoExecute")];
        (is_unknown && is_tainted).then_some(()).ok_or_else(|| format!("{taints:?}"))
    })
    .await;
    let on = async |node: &str| {
        let pods = lab.list::<Pod>().await;
        pods.into_iter().filter(|pod| node_name(pod) == Some(node)).collect::<Vec<_>>()
    };
    // The pod is marked, and after its toleration replaced on another node.
    lab.eventually(async || {
        let left = on("kube1.vm").await.len();
        (left == 0).then_some(()).ok_or_else(|| "the pod is still there".to_owned())
    })
    .await;
    lab.serves(3).await;
    beating.store(true, std::sync::atomic::Ordering::SeqCst);
    let now = jiff::Timestamp::now();
    let back = json!({"type": "Ready", "status": "True", "lastHeartbeatTime": now});
    let back = Patch::Strategic(json!({"status": {"conditions": [back]}}));
    nodes.patch_status("kube1.vm", &PatchParams::default(), &back).await.unwrap();
    lab.eventually(async || {
        let node = nodes.get("kube1.vm").await.unwrap();
        let taints = node.spec.and_then(|spec| spec.taints).unwrap_or_default();
        taints.is_empty().then_some(()).ok_or_else(|| format!("{taints:?}"))
    })
    .await;
    let pods = on("kube2.vm").await.len();
    assert!(pods > 0, "the scheduler used the nodes that were left");
    let before = on("kube2.vm").await;
    // The kubelet's part must not hide whether the collector does it.
    nodes.delete("kube2.vm", &DeleteParams::default()).await.unwrap();
    lab.eventually(async || {
        let names: Vec<_> = on("kube2.vm").await.into_iter().map(|pod| pod.metadata.uid).collect();
        let is_left = before.iter().any(|pod| names.contains(&pod.metadata.uid));
        (!is_left).then_some(()).ok_or_else(|| "pods of a node that is gone".to_owned())
    })
    .await;
    heart.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_of_a_node_that_is_not_ready_leave_the_endpoints() {
    let lab = Lab::start().await;
    lab.create::<Service>(service()).await;
    lab.create::<ReplicaSet>(workload("ReplicaSet", 3)).await;
    lab.serves(3).await;
    let nodes: Api<Node> = Api::all(lab.client.clone());
    let down = Patch::Strategic(json!({"status": {"conditions": [{"type": "Ready", "status": "False"}]}}));
    nodes.patch_status("kube1.vm", &PatchParams::default(), &down).await.unwrap();
    lab.eventually(async || {
        let pods = lab.list::<Pod>().await;
        let mut mine = pods.iter().filter(|pod| node_name(pod) == Some("kube1.vm"));
        let told = mine.next().and_then(|pod| super::pod_state::condition(pod, "Ready").cloned());
        let told = told.map(|told| (told.status, told.reason.unwrap_or_default()));
        let endpoints = lab.api::<Endpoints>().get("web").await.unwrap();
        let subsets = endpoints.subsets.unwrap_or_default();
        let count = |addresses: &Option<Vec<_>>| addresses.as_ref().map_or(0, Vec::len);
        let ready: usize = subsets.iter().map(|subset| count(&subset.addresses)).sum();
        let not_ready: usize = subsets.iter().map(|subset| count(&subset.not_ready_addresses)).sum();
        let expected = Some(("False".to_owned(), "NodeNotReady".to_owned()));
        (told == expected && (ready, not_ready) == (2, 1))
            .then_some(())
            .ok_or_else(|| format!("{told:?} {ready} {not_ready}"))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_done_is_told_in_events() {
    let lab = Lab::start().await;
    lab.create::<Service>(service()).await;
    lab.create::<Deployment>(workload("Deployment", 2)).await;
    lab.serves(2).await;
    lab.patch::<Deployment>("web", json!({"spec": {"replicas": 1}})).await;
    lab.serves(1).await;
    lab.eventually(async || {
        let events: Vec<k8s_openapi::api::core::v1::Event> = lab.list().await;
        let mut told: Vec<_> = events
            .into_iter()
            .map(|event| {
                let kind = event.involved_object.kind.unwrap_or_default();
                format!("{kind} {}", event.reason.unwrap_or_default())
            })
            .collect();
        told.sort();
        let expected = [
            "Deployment ScalingReplicaSet",
            "Deployment ScalingReplicaSet",
            "Pod Scheduled",
            "Pod Scheduled",
            "ReplicaSet SuccessfulCreate",
            "ReplicaSet SuccessfulCreate",
            "ReplicaSet SuccessfulDelete",
        ];
        (told == expected).then_some(()).ok_or_else(|| format!("{told:?}"))
    })
    .await;
}
