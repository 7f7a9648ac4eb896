//! What a run holds of a cluster: namespaces, and what it made for the whole cluster. All of it bears
//! the run's label, so that it can be given back at the end, however the run ends, and be found when
//! a run was killed. A Lease says that the run is alive.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail};
use futures::TryStreamExt as _;
use k8s_openapi::Resource as _;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::api::networking::v1::{Ingress, IngressClass};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::ResourceExt as _;
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::runtime::watcher::{self, Config, Event};
use serde_json::json;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::task::AbortOnDropHandle;

use crate::bounds::Bounds;
use crate::cluster::Cluster;
use crate::wait;

/// The label everything of a run bears: which run.
pub(crate) const RUN_LABEL: &str = "stickler.dev/run";
/// The label that says who made an object, and its value.
const MANAGED_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "stickler");

/// The name of a run's Lease, in its agents' namespace.
const LEASE: &str = "stickler";
/// How often it is renewed.
const RENEWED_EVERY: Duration = Duration::from_secs(5);
/// A Lease that was not renewed for this long is a dead run's. Clocks are not compared: who wants to
/// know watches for as long.
const ALIVE_WITHIN: Duration = Duration::from_secs(15);

/// The labels of everything a run makes outside its namespaces, and of these.
pub(crate) fn labels(run: &str) -> BTreeMap<String, String> {
    [(MANAGED_BY.0, MANAGED_BY.1), (RUN_LABEL, run)]
        .map(|(label, value)| (label.to_owned(), value.to_owned()))
        .into()
}

/// What one run holds of a cluster.
pub(crate) struct Claim {
    client: kube::Client,
    run: String,
    /// The cluster's version: 1.`minor`.
    minor: u32,
    bounds: Bounds,
    /// The cluster goes away with the run: nobody needs to know whether it is alive.
    is_ephemeral: bool,
    renewing: Mutex<Option<AbortOnDropHandle<()>>>,
}

impl Claim {
    /// Nothing yet, for a run with a number of its own; not from the seed, which may be the same.
    pub(crate) fn new(cluster: &dyn Cluster) -> Self {
        let run = format!("{:06x}", rand::random::<u32>() & 0x00ff_ffff);
        Self {
            client: cluster.client(),
            run,
            minor: cluster.promises().minor,
            bounds: cluster.bounds(),
            is_ephemeral: cluster.is_ephemeral(),
            renewing: Mutex::default(),
        }
    }

    /// What tells this run from others.
    pub(crate) fn run(&self) -> &str {
        &self.run
    }

    /// The namespace of the run's agents.
    pub(crate) fn agents(&self) -> String {
        agents(&self.run)
    }

    /// Creates the agents' namespace, and there the Lease, which is renewed from then on.
    pub(crate) async fn open(&self) -> anyhow::Result<()> {
        let namespace = self.agents();
        self.create_namespace(&namespace).await?;
        if self.is_ephemeral {
            return Ok(());
        }
        let api = Api::<Lease>::namespaced(self.client.clone(), &namespace);
        let lease: Lease = serde_json::from_value(json!({
            "metadata": { "name": LEASE, "labels": labels(&self.run) },
            "spec": {
                "holderIdentity": format!("stickler {} (process {})", self.run, std::process::id()),
                "leaseDurationSeconds": ALIVE_WITHIN.as_secs(),
                "renewTime": now(),
            },
        }))?;
        let params = PostParams::default();
        wait::within(self.bounds.request, "create the run's Lease", api.create(&params, &lease)).await?;
        let bound = self.bounds.request;
        let renewing = AbortOnDropHandle::new(tokio::spawn(async move {
            let mut ticks = interval(RENEWED_EVERY);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                let patch = Patch::Merge(json!({ "spec": { "renewTime": now() } }));
                let params = PatchParams::default();
                let renewed = wait::within(bound, "renew the Lease", api.patch(LEASE, &params, &patch)).await;
                // The API server may be away; the next renewal may be heard.
                if let Err(error) = renewed {
                    tracing::debug!("{error:#}");
                }
            }
        }));
        *self.renewing.lock().unwrap_or_else(PoisonError::into_inner) = Some(renewing);
        Ok(())
    }

    /// Creates a namespace of the run, and waits until pods may be created in it.
    pub(crate) async fn create_namespace(&self, name: &str) -> anyhow::Result<()> {
        create_namespace(&self.client, name, &self.run, self.minor, self.bounds.request).await
    }

    /// Deletes one of the run's namespaces, and does not wait until it is gone.
    pub(crate) async fn delete_namespace(&self, name: &str) -> anyhow::Result<()> {
        // A host belongs to its oldest Ingress, and a namespace may take long to go: who comes next may want it.
        let ingresses: Api<Ingress> = Api::namespaced(self.client.clone(), name);
        let (how, which) = (DeleteParams::default(), ListParams::default());
        let all = ingresses.delete_collection(&how, &which);
        let what = format!("delete the Ingresses of namespace `{name}`");
        let emptied = wait::within(self.bounds.request, &what, all).await;
        delete(&self.client, &ApiResource::erase::<Namespace>(&()), name).await?;
        emptied.map(drop)
    }

    /// Deletes everything the run made but what is spared, and waits until it is gone.
    ///
    /// # Errors
    /// What could not be deleted, or is still there.
    pub(crate) async fn give_back(&self, spared: &Spared) -> anyhow::Result<()> {
        // Who looks for leftovers from now on may help.
        drop(self.renewing.lock().unwrap_or_else(PoisonError::into_inner).take());
        give_back(&self.client, &self.run, self.bounds, spared, &mut |_| {})
            .await
            .with_context(|| format!("`stickler heal` removes what is left of run {}", self.run))
    }
}

/// What stays when a run gives back the rest, so that somebody may look at it; by default nothing.
#[derive(Clone, Debug, Default)]
pub(crate) struct Spared {
    pub(crate) namespaces: BTreeSet<String>,
    /// What the run made outside of namespaces, too: something in these needs it.
    pub(crate) is_cluster_wide: bool,
}

impl Spared {
    fn has(&self, kind: &ApiResource, name: &str) -> bool {
        if kind.kind == Namespace::KIND { self.namespaces.contains(name) } else { self.is_cluster_wide }
    }
}

/// Creates a namespace of a run, and waits until pods may be created in it.
pub(crate) async fn create_namespace(
    client: &kube::Client,
    name: &str,
    run: &str,
    minor: u32,
    bound: Duration,
) -> anyhow::Result<()> {
    let mut labels = labels(run);
    // Agents on nodes use the host's network, which the baseline standard forbids.
    labels.insert("pod-security.kubernetes.io/enforce".to_owned(), "privileged".to_owned());
    let namespace = serde_json::from_value(json!({ "metadata": { "name": name, "labels": labels } }))?;
    let api = Api::<Namespace>::all(client.clone());
    let params = PostParams::default();
    let what = format!("create the namespace `{name}`");
    wait::within(bound, &what, api.create(&params, &namespace)).await?;
    wait::for_service_account(client, name, minor, bound).await
}

fn agents(run: &str) -> String {
    format!("stickler-{run}-agents")
}

fn now() -> MicroTime {
    MicroTime(jiff::Timestamp::now())
}

/// What became of the runs that had left something behind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Healed {
    /// The runs of which nothing is left.
    pub healed: Vec<String>,
    /// The runs that are alive, and were left alone.
    pub alive: Vec<String>,
}

/// Removes what killed runs left behind on a cluster, and nothing else. Runs that seem to be alive are
/// left alone, unless `force` says otherwise. What is done is told line by line.
///
/// # Errors
/// If the API server does not answer, or something does not go away.
pub async fn heal(
    client: &kube::Client,
    force: bool,
    tell: &mut (dyn FnMut(String) + Send),
) -> anyhow::Result<Healed> {
    let mut runs = BTreeSet::new();
    for kind in held() {
        let labels = format!("{}={},{RUN_LABEL}", MANAGED_BY.0, MANAGED_BY.1);
        let objects = list(client, &kind, &labels).await?;
        runs.extend(objects.into_iter().filter_map(|object| object.metadata.labels?.remove(RUN_LABEL)));
    }
    let mut healed = Healed::default();
    if runs.is_empty() {
        return Ok(healed);
    }
    if !force {
        tell(format!(
            "runs that left something: {}; watching for {ALIVE_WITHIN:?} whether they are alive",
            runs.iter().cloned().collect::<Vec<_>>().join(", ")
        ));
        for run in renewed(client, &runs).await? {
            tell(format!(
                "run {run} is alive: its Lease in namespace `{}` was renewed just now",
                agents(&run)
            ));
            runs.remove(&run);
            healed.alive.push(run);
        }
    }
    for run in runs {
        give_back(client, &run, Bounds::REAL, &Spared::default(), tell).await?;
        healed.healed.push(run);
    }
    Ok(healed)
}

/// Those of these runs whose Lease is renewed while it is watched.
async fn renewed(client: &kube::Client, runs: &BTreeSet<String>) -> anyhow::Result<BTreeSet<String>> {
    let config = Config::default().labels(&format!("{}={}", MANAGED_BY.0, MANAGED_BY.1));
    let mut events = Box::pin(watcher::watcher(Api::<Lease>::all(client.clone()), config));
    let mut alive = BTreeSet::new();
    let watching = async {
        while alive.len() < runs.len() {
            let event = events.try_next().await.context("could not watch the Leases of runs")?;
            // What the first list has may be old; what changes after it is not.
            let Some(Event::Apply(lease)) = event else { continue };
            let run = lease.metadata.labels.iter().flatten().find(|(label, _)| *label == RUN_LABEL);
            alive.extend(run.map(|(_, run)| run.clone()).filter(|run| runs.contains(run)));
        }
        Ok::<_, anyhow::Error>(())
    };
    // Silence until then is the answer for those that are left.
    match timeout(ALIVE_WITHIN, watching).await {
        Ok(Err(error)) => Err(error),
        Ok(Ok(())) | Err(_) => Ok(alive),
    }
}

async fn give_back(
    client: &kube::Client,
    run: &str,
    bounds: Bounds,
    spared: &Spared,
    tell: &mut (dyn FnMut(String) + Send),
) -> anyhow::Result<()> {
    let labels = format!("{}={},{RUN_LABEL}={run}", MANAGED_BY.0, MANAGED_BY.1);
    let mut left = Vec::new();
    // All are tried: what cannot be deleted must not keep the rest.
    for kind in held() {
        let objects = list(client, &kind, &labels).await.unwrap_or_else(|error| {
            left.push(format!("{error:#}"));
            Vec::new()
        });
        for object in objects {
            let name = object.metadata.name.unwrap_or_default();
            if spared.has(&kind, &name) {
                continue;
            }
            match delete(client, &kind, &name).await {
                Ok(()) => tell(format!("{} `{name}` deleted", kind.kind.to_lowercase())),
                Err(error) => left.push(format!("{error:#}")),
            }
        }
    }
    let namespaces = Api::<Namespace>::all(client.clone());
    let what = format!("the namespaces of run {run} to be gone");
    let gone = |namespaces: &[Namespace]| {
        let is_left = |namespace: &&Namespace| !spared.namespaces.contains(&namespace.name_any());
        let left: Vec<_> = namespaces.iter().filter(is_left).collect();
        match left.first() {
            None => Ok(()),
            Some(namespace) => Err(format!("{} of them, such as {}", left.len(), remains(namespace))),
        }
    };
    let config = Config::default().labels(&labels);
    if let Err(error) = wait::until(namespaces, config, &what, bounds.pods_ready, gone).await {
        left.push(format!("{error:#}"));
    }
    if !left.is_empty() {
        bail!("not all of run {run} could be removed: {}", left.join("; "));
    }
    Ok(())
}

/// A namespace that is still there, with what the API server says about it.
fn remains(namespace: &Namespace) -> String {
    let name = namespace.metadata.name.as_deref().unwrap_or_default();
    let conditions = namespace.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let told: Vec<&str> = conditions
        .filter(|condition| condition.status == "True")
        .filter_map(|condition| condition.message.as_deref())
        .collect();
    if told.is_empty() { format!("`{name}`") } else { format!("`{name}` ({})", told.join("; ")) }
}

/// Every kind a run makes outside of namespaces, in the order in which they may go: what works in a
/// namespace stops before what it was allowed is taken away.
fn held() -> [ApiResource; 4] {
    [
        ApiResource::erase::<Namespace>(&()),
        ApiResource::erase::<IngressClass>(&()),
        ApiResource::erase::<ClusterRoleBinding>(&()),
        ApiResource::erase::<ClusterRole>(&()),
    ]
}

async fn list(client: &kube::Client, kind: &ApiResource, labels: &str) -> anyhow::Result<Vec<DynamicObject>> {
    let api = Api::<DynamicObject>::all_with(client.clone(), kind);
    let params = ListParams::default().labels(labels);
    let listed =
        wait::within(Bounds::REAL.request, &format!("list {}", kind.plural), api.list(&params)).await;
    Ok(listed?.items)
}

/// Deletes an object; somebody may be faster.
async fn delete(client: &kube::Client, kind: &ApiResource, name: &str) -> anyhow::Result<()> {
    let api = Api::<DynamicObject>::all_with(client.clone(), kind);
    let params = DeleteParams::default();
    let deleting = async {
        match api.delete(name, &params).await {
            Err(kube::Error::Api(status)) if !matches!(status.code, 404 | 409) => {
                Err(kube::Error::Api(status))
            }
            Err(error) if !matches!(error, kube::Error::Api(_)) => Err(error),
            _ => Ok(()),
        }
    };
    let what = format!("delete {} `{name}`", kind.kind.to_lowercase());
    wait::within(Bounds::REAL.request, &what, deleting).await
}
