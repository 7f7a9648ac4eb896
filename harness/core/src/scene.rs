//! The scene of one check: a namespace of its own, and the verbs *given*, *when*, *eventually*,
//! *always*, *exactly*.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Endpoints, Event as ApiEvent, Namespace, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{Ingress, IngressClass};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status as ExecStatus;
use kube::api::{
    Api, AttachParams, DynamicObject, ListParams, Patch, PatchParams, PostParams, Resource as _,
    ResourceExt as _,
};
use kube::core::Status;
use kube::runtime::watcher::Config;
use serde::de::DeserializeOwned;
use serde_json::json;
use stickler_model::{Part, World};
use stickler_reports::{Event, Finding};
use tokio::io::AsyncReadExt as _;
use tokio::time::{Instant, timeout};

use crate::action::{Action, Local};
use crate::bounds::Bounds;
use crate::check::{Broken, Held};
use crate::claim::{RUN_LABEL, create_namespace};
use crate::cluster::{Capability, Cluster, Terminal};
use crate::controller::InUse;
use crate::engine::{Container, Engine};
use crate::image::Image;
use crate::invariant::{Invariant, Judgement};
use crate::journal::Sink;
use crate::manifest::{Fixture, Manifest, parse};
use crate::vantage::{Vantage, Vantages};
use crate::wait;

/// Between two looks of an `eventually`: short beside every bound, long beside one look.
const LOOK_AGAIN: Duration = Duration::from_millis(15);

/// How many of the last calls are kept as evidence.
const CALLS_KEPT: usize = 200;

/// What a check acts on and looks at.
pub struct Scene {
    pub(crate) check: &'static str,
    pub(crate) namespace: String,
    pub(crate) cluster: Arc<dyn Cluster>,
    pub(crate) vantages: Arc<Vantages>,
    pub(crate) sink: Sink,
    /// What the check is waiting for just now, for the message if its time is up.
    pub(crate) waiting_for: Arc<Mutex<String>>,
    pub(crate) calls: Mutex<VecDeque<String>>,
    /// Vantages whose controls were seen to hold in this check.
    pub(crate) controlled: Mutex<Vec<Vantage>>,
    pub(crate) ingress: InUse,
}

/// What a command in a pod gave back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecOutput {
    pub stdout: String,
    pub stderr: String,
    pub code: i32,
}

impl Scene {
    /// The namespace of the check.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The places calls can start from.
    pub fn vantages(&self) -> &Vantages {
        &self.vantages
    }

    /// The cluster's bounds.
    pub fn bounds(&self) -> Bounds {
        self.cluster.bounds()
    }

    /// Is this something the cluster can do, or promises?
    pub fn has(&self, capability: Capability) -> bool {
        capability.is_met(self.cluster.capabilities(), self.cluster.promises())
    }

    /// The domain of the cluster's names.
    pub fn cluster_domain(&self) -> &str {
        &self.cluster.promises().cluster_domain
    }

    /// A client with the rights of an administrator.
    pub fn client(&self) -> kube::Client {
        self.cluster.client()
    }

    /// Where commands can be typed.
    ///
    /// # Errors
    /// If there is nowhere: the check's needs do not say that it is the notes' lab.
    pub fn terminal(&self) -> anyhow::Result<&dyn Terminal> {
        self.cluster.terminal().context("nothing can be typed on this cluster")
    }

    /// A further namespace, which belongs to the check's own and goes with it.
    ///
    /// # Errors
    /// If the API server refuses or does not answer.
    pub async fn another_namespace(&self, suffix: &str) -> anyhow::Result<String> {
        let namespace = format!("{}-{suffix}", self.namespace);
        let (namespaces, bound) = (Api::<Namespace>::all(self.client()), self.bounds().request);
        let own = wait::within(bound, "read the check's namespace", namespaces.get(&self.namespace)).await?;
        let run = own.labels().get(RUN_LABEL).cloned().unwrap_or_default();
        create_namespace(&self.client(), &namespace, &run, self.cluster.promises().minor, bound).await?;
        let owner = Patch::Merge(json!({"metadata": {"ownerReferences": [own.owner_ref(&())]}}));
        let parameters = PatchParams::default();
        let owned = namespaces.patch(&namespace, &parameters, &owner);
        wait::within(bound, "give the namespace its owner", owned).await?;
        Ok(namespace)
    }

    /// The objects of one kind in the check's namespace.
    pub fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client(), &self.namespace)
    }

    /// Creates the objects of a manifest and waits until every pod they ask for is Ready.
    ///
    /// # Errors
    /// What was refused, or which pod is not Ready and why.
    pub async fn given(&self, fixture: Fixture) -> Result<(), Broken> {
        self.when(Action::Create(fixture)).await?;
        self.pods_are(fixture, "ready", wait::pod_ready).await
    }

    /// Like [`Scene::given`], for pods that are not to become Ready by themselves: waits until
    /// their containers run.
    ///
    /// # Errors
    /// What was refused, or which pod does not run and why.
    pub async fn given_running(&self, fixture: Fixture) -> Result<(), Broken> {
        self.when(Action::Create(fixture)).await?;
        self.pods_are(fixture, "running", wait::pod_running).await
    }

    /// Like [`Scene::given`], for pods whose containers never start: waits until they have addresses.
    ///
    /// # Errors
    /// What was refused, or which pod has none.
    pub async fn given_addressed(&self, fixture: Fixture) -> Result<(), Broken> {
        self.when(Action::Create(fixture)).await?;
        self.pods_are(fixture, "addressed", wait::pod_addressed).await
    }

    /// Does something to the cluster.
    ///
    /// # Errors
    /// If the API server refuses or does not answer.
    pub async fn when(&self, action: Action) -> Result<(), Broken> {
        Ok(self.perform(&action).await?)
    }

    async fn perform(&self, action: &Action) -> anyhow::Result<()> {
        let words = format!("{action}").replacen("kubectl ", &format!("kubectl -n {} ", self.namespace), 1);
        self.sink.tell(Event::Acted { check: self.check.to_owned(), action: words.clone() });
        self.note(&words);
        let bound = self.bounds().request;
        let performed = async {
            let class = self.ingress.controller().map(|controller| controller.class.as_str());
            let local = Local { image: Image::of(self.cluster.as_ref()), class, run: self.ingress.run() };
            timeout(bound, action.perform(&self.client(), &self.namespace, local))
                .await
                .with_context(|| format!("no answer from the API server within {bound:?}"))?
        };
        for remark in performed.await.with_context(|| format!("`{words}` failed"))? {
            self.note(&remark);
            self.sink.tell(Event::Acted { check: self.check.to_owned(), action: format!("# {remark}") });
        }
        Ok(())
    }

    /// Holds at some time within the convergence bound, and from then on is true at least once.
    pub async fn eventually(&self, invariant: impl Invariant) -> Held {
        let bound = self.bounds().convergence;
        let deadline = Instant::now() + bound;
        loop {
            let began = Instant::now();
            match self.look(&invariant).await? {
                Judgement::Holds => return Ok(()),
                // A look that began earlier may have taken long, and tells of the time before.
                Judgement::Broken(finding) if began >= deadline => {
                    let observed = format!("{} (still so after {bound:?})", finding.observed);
                    return Err(Broken::promise(finding.promised, observed));
                }
                Judgement::Overtaken(finding) if began >= deadline => {
                    return Err(never_still(bound, finding));
                }
                Judgement::Broken(_) | Judgement::Overtaken(_) => {}
            }
            look_again().await;
        }
    }

    /// Holds at every look during the stability window, however often it is looked at.
    pub async fn always(&self, invariant: impl Invariant) -> Held {
        let deadline = Instant::now() + self.bounds().stability;
        loop {
            self.exactly(&invariant).await?;
            if Instant::now() >= deadline {
                return Ok(());
            }
            look_again().await;
        }
    }

    /// Holds now.
    pub async fn exactly(&self, invariant: impl Invariant) -> Held {
        let bound = self.bounds().convergence;
        let deadline = Instant::now() + bound;
        loop {
            match self.look(&invariant).await? {
                Judgement::Holds => return Ok(()),
                Judgement::Broken(finding) => return Err(Broken::Promise(Box::new(finding))),
                Judgement::Overtaken(finding) if Instant::now() >= deadline => {
                    return Err(never_still(bound, finding));
                }
                Judgement::Overtaken(_) => {}
            }
            look_again().await;
        }
    }

    async fn look(&self, invariant: &impl Invariant) -> Result<Judgement, Broken> {
        let promise = invariant.promise();
        self.is_waiting_for(&promise);
        let judgement =
            invariant.look(self).await.with_context(|| format!("could not look whether {promise}"))?;
        if let Judgement::Broken(finding) | Judgement::Overtaken(finding) = &judgement {
            self.is_waiting_for(&format!("{promise}; last seen: {}", finding.observed));
        }
        Ok(judgement)
    }

    /// Tries to create an object and returns what the API server says to it.
    ///
    /// # Errors
    /// If the answer is neither the object nor a refusal.
    pub async fn try_create(&self, fixture: Fixture) -> anyhow::Result<Result<DynamicObject, Status>> {
        self.sink.tell(Event::Acted {
            check: self.check.to_owned(),
            action: format!("kubectl -n {} create -f fixtures/{}", self.namespace, fixture.path),
        });
        let mut answer = None;
        for manifest in parse(fixture.path, fixture.yaml)? {
            let api = Api::namespaced_with(self.client(), &self.namespace, &manifest.resource);
            answer = Some(match api.create(&PostParams::default(), &manifest.object).await {
                Ok(created) => Ok(created),
                Err(kube::Error::Api(status)) => return Ok(Err(*status)),
                Err(error) => return Err(error).context("the API server gave no answer"),
            });
        }
        answer.context("the manifest is empty")
    }

    /// An object is refused as upstream refuses it: with this code, and a cause with this reason at
    /// this field.
    ///
    /// # Errors
    /// If it was accepted, or refused for something else.
    pub async fn refused(&self, fixture: Fixture, code: u16, reason: &str, field: &str) -> Held {
        let promised = format!("`{}` is refused with {code} and `{reason}` at `{field}`", fixture.path);
        let Err(status) = self.try_create(fixture).await? else {
            return Err(Broken::promise(promised, "it was accepted"));
        };
        is_refusal(&status, promised, code, reason, field)
    }

    /// An action is refused as upstream refuses it: with this code, and a cause with this reason at
    /// this field.
    ///
    /// # Errors
    /// If it was done, or refused for something else.
    pub async fn refuses(&self, action: Action, code: u16, reason: &str, field: &str) -> Held {
        let promised = format!("`{action}` is refused with {code} and `{reason}` at `{field}`");
        let Err(error) = self.perform(&action).await else {
            return Err(Broken::promise(promised, "it was done"));
        };
        let Some(status) = refusal(&error) else { return Err(error.into()) };
        is_refusal(&status, promised, code, reason, field)
    }

    /// An action is not refused.
    ///
    /// # Errors
    /// If it was, or could not be asked for.
    pub async fn takes(&self, action: Action) -> Held {
        let Err(error) = self.perform(&action).await else { return Ok(()) };
        let Some(status) = refusal(&error) else { return Err(error.into()) };
        let observed = format!("it was refused with {}: {}", status.code, status.message);
        Err(Broken::promise(format!("`{action}` is done"), observed))
    }

    /// What was seen is what was promised, to the letter.
    ///
    /// # Errors
    /// With both, if it is not.
    pub fn same<P: PartialEq<S> + std::fmt::Debug + ?Sized, S: std::fmt::Debug + ?Sized>(
        &self,
        promise: &str,
        promised: &P,
        seen: &S,
    ) -> Held {
        if promised == seen {
            return Ok(());
        }
        Err(Broken::promise(format!("{promise}: {promised:?}"), format!("{seen:?}")))
    }

    /// Every node with its internal address.
    ///
    /// # Errors
    /// If the API server does not answer.
    pub async fn node_addresses(&self) -> anyhow::Result<Vec<(String, IpAddr)>> {
        let world = self.world().await?;
        Ok(crate::destination::nodes(&world).map(|(node, ip)| (node.to_owned(), ip)).collect())
    }

    /// The cluster IP of a service of the check's namespace.
    ///
    /// # Errors
    /// If there is no such service, or it has none.
    pub async fn cluster_ip(&self, service: &str) -> anyhow::Result<IpAddr> {
        crate::destination::service_ip(service, &self.service(service).await?).map_err(anyhow::Error::msg)
    }

    /// Every place inside the cluster: a pod on each node, and each node.
    pub fn inside(&self) -> Vec<Vantage> {
        self.vantages.pods().into_iter().chain(self.vantages.hosts()).collect()
    }

    /// Sets the readiness gate `stickler.dev/ready` of a pod, which makes it ready or unready at
    /// once.
    ///
    /// # Errors
    /// If the API server refuses.
    pub async fn set_gate(&self, pod: &str, ready: bool) -> Result<(), Broken> {
        self.when(Action::SetGate { pod: pod.to_owned(), ready }).await
    }

    /// Runs one of the programs of pods in a container of this machine's engine, with one of its ports
    /// published on the machine. It is gone when what is returned is dropped.
    ///
    /// # Errors
    /// If there is no engine, or what it refuses.
    pub async fn docker_run(&self, program: &str, published: u16, port: u16) -> Result<Container, Broken> {
        let words = format!("docker run -p 127.0.0.1:{published}:{port} stickler-pods {program}");
        self.sink.tell(Event::Acted { check: self.check.to_owned(), action: words.clone() });
        self.note(&words);
        self.is_waiting_for("a container to start");
        let container = Engine::find().await?.run(program, published, port).await?;
        self.note(&format!("container {} at {}", container.hostname(), container.address()));
        Ok(container)
    }

    /// One row of a table as the API server prints it for `kubectl get`, these columns of it; of one that
    /// is missing, that.
    ///
    /// # Errors
    /// If there is no such row.
    pub async fn table_row(&self, plural: &str, name: &str, columns: &[&str]) -> anyhow::Result<Vec<String>> {
        let group = match plural {
            "ingresses" => "apis/networking.k8s.io/v1",
            _ => "api/v1",
        };
        let path = format!("/{group}/namespaces/{}/{plural}/{name}", self.namespace);
        let request = http::Request::get(path)
            .header("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io")
            .body(Vec::new())?;
        let client = self.client();
        let what = format!("get the table of {plural}");
        let table: serde_json::Value =
            wait::within(self.bounds().request, &what, client.request(request)).await?;
        let definitions = table["columnDefinitions"].as_array().context("the answer is no table")?;
        let cells = table["rows"][0]["cells"].as_array().context("the table has no row")?;
        let cell = |column: &&str| {
            let place = definitions.iter().position(|definition| definition["name"] == **column);
            match place.and_then(|place| cells.get(place)) {
                Some(cell) => cell.as_str().map_or_else(|| cell.to_string(), str::to_owned),
                None => format!("(no column {column})"),
            }
        };
        Ok(columns.iter().map(cell).collect())
    }

    /// Waits until a pod is Ready, or is not.
    ///
    /// # Errors
    /// What it is instead, within the bound.
    pub async fn becomes(&self, pod: &str, ready: bool) -> Result<(), Broken> {
        let what = format!("pod `{pod}` to become {}", if ready { "ready" } else { "unready" });
        self.is_waiting_for(&what);
        let config = Config::default().fields(&format!("metadata.name={pod}"));
        let done = |pods: &[Pod]| {
            let pod = pods.first().ok_or_else(|| "no such pod".to_owned())?;
            match (wait::pod_ready(pod), ready) {
                (Ok(()), true) | (Err(_), false) => Ok(()),
                (Err(why), true) => Err(why),
                (Ok(()), false) => Err("it is ready".to_owned()),
            }
        };
        Ok(wait::until(self.api::<Pod>(), config, &what, self.bounds().pods_ready, done).await?)
    }

    /// Waits until a probe of a pod whose name begins so was seen to fail, by its event.
    ///
    /// # Errors
    /// If no such event comes within the bound.
    pub async fn probed(&self, pod: &str) -> Result<(), Broken> {
        let what = format!("an event `Unhealthy` of a pod `{pod}`");
        self.is_waiting_for(&what);
        let done = |events: &[ApiEvent]| {
            let about = |event: &&ApiEvent| {
                event.reason.as_deref() == Some("Unhealthy")
                    && event.involved_object.name.as_deref().is_some_and(|name| name.starts_with(pod))
            };
            if events.iter().any(|event| about(&event)) {
                Ok(())
            } else {
                Err(format!("{} other events", events.len()))
            }
        };
        Ok(wait::until(self.api::<ApiEvent>(), Config::default(), &what, self.bounds().pods_ready, done)
            .await?)
    }

    /// Waits until a Deployment has rolled out what it asks for, as `kubectl rollout status` does.
    ///
    /// # Errors
    /// How far it came within the bound.
    pub async fn rolled_out(&self, deployment: &str) -> Result<(), Broken> {
        self.rolled_out_within(deployment, self.bounds().pods_ready).await
    }

    /// As [`Scene::rolled_out`], with a bound for Deployments that replace one pod after the other.
    pub(crate) async fn rolled_out_within(&self, deployment: &str, bound: Duration) -> Result<(), Broken> {
        let what = format!("deployment `{deployment}` to be rolled out");
        self.is_waiting_for(&what);
        let config = Config::default().fields(&format!("metadata.name={deployment}"));
        let done = |deployments: &[Deployment]| {
            let deployment = deployments.first().ok_or_else(|| "no such deployment".to_owned())?;
            let wanted = deployment.spec.replicas.unwrap_or(1);
            let status = deployment.status.clone().unwrap_or_default();
            let (updated, available) =
                (status.updated_replicas.unwrap_or(0), status.available_replicas.unwrap_or(0));
            let replicas = status.replicas.unwrap_or(0);
            let observed = status.observed_generation >= deployment.metadata.generation;
            if observed && updated == wanted && available == wanted && replicas == wanted {
                return Ok(());
            }
            Err(format!("{updated} of {wanted} updated, {available} available, {replicas} in all"))
        };
        Ok(wait::until(self.api(), config, &what, bound, done).await?)
    }

    /// A service of the check's namespace.
    pub async fn service(&self, name: &str) -> anyhow::Result<Service> {
        let api = self.api::<Service>();
        wait::within(self.bounds().request, &format!("get service `{name}`"), api.get(name)).await
    }

    /// The pods of the check's namespace that a selector finds, by name.
    pub async fn pods(&self, selector: &str) -> anyhow::Result<Vec<Pod>> {
        let api = self.api::<Pod>();
        let list = api.list(&ListParams::default().labels(selector)).await;
        Ok(list.with_context(|| format!("could not list the pods `{selector}`"))?.items)
    }

    /// Waits until exactly `count` pods that a selector finds are there, all of them Ready.
    pub async fn pods_become(&self, selector: &str, count: usize) -> Result<Vec<Pod>, Broken> {
        let what = format!("{count} ready pods `{selector}`");
        self.is_waiting_for(&what);
        let config = Config::default().labels(selector);
        let ready = |pods: &[Pod]| {
            for pod in pods {
                wait::pod_ready(pod)?;
            }
            if pods.len() == count { Ok(pods.to_vec()) } else { Err(format!("{} pods", pods.len())) }
        };
        Ok(wait::until(self.api::<Pod>(), config, &what, self.bounds().pods_ready, ready).await?)
    }

    /// Runs a command in a pod of the check.
    ///
    /// # Errors
    /// If it could not be run; that it failed is an output.
    pub async fn exec(&self, pod: &str, command: &[&str]) -> anyhow::Result<ExecOutput> {
        let what = format!("exec `{}` in pod `{pod}`", command.join(" "));
        self.note(&what);
        let run = async {
            let params = AttachParams::default().stdout(true).stderr(true);
            let mut process = self.api::<Pod>().exec(pod, command.iter().copied(), &params).await?;
            let mut stdout = process.stdout().context("no standard output")?;
            let mut stderr = process.stderr().context("no standard error")?;
            let status = process.take_status().context("no status")?;
            let reading = async {
                let (mut out, mut err) = (String::new(), String::new());
                tokio::try_join!(stdout.read_to_string(&mut out), stderr.read_to_string(&mut err))?;
                Ok::<_, std::io::Error>((out, err))
            };
            let (mut reading, mut status) = (std::pin::pin!(reading), std::pin::pin!(status));
            // When the stream is cut, there is no status, and the outputs do not end.
            let cut = "the stream was cut before the command ended";
            let ((stdout, stderr), status) = tokio::select! {
                read = &mut reading => (read?, status.await.context(cut)?),
                status = &mut status => {
                    let status = status.context(cut)?;
                    (reading.await?, status)
                }
            };
            Ok::<_, anyhow::Error>(ExecOutput { stdout, stderr, code: exit_code(&status)? })
        };
        match timeout(self.bounds().request, run).await {
            Ok(output) => output.with_context(|| format!("could not {what}")),
            Err(_) => Err(anyhow::anyhow!("could not {what} within {:?}", self.bounds().request)),
        }
    }

    /// The objects that decide what is promised here, as they are now.
    pub async fn world(&self) -> anyhow::Result<World> {
        let client = self.client();
        let listing = async {
            let mut world = World::new();
            let all = ListParams::default();
            let nodes = Api::<Node>::all(client.clone()).list(&all).await?;
            world.extend(nodes.items);
            for namespace in [self.namespace.as_str(), self.vantages.namespace(), "default"] {
                let (pods, services, endpoints, slices) = tokio::try_join!(
                    list::<Pod>(&client, namespace),
                    list::<Service>(&client, namespace),
                    list::<Endpoints>(&client, namespace),
                    list::<EndpointSlice>(&client, namespace),
                )?;
                world.extend(pods);
                world.extend(services);
                world.extend(endpoints);
                world.extend(slices);
            }
            if self.ingress.controller().is_some() {
                world.extend(list::<Ingress>(&client, &self.namespace).await?);
                world.extend(Api::<IngressClass>::all(client.clone()).list(&all).await?.items);
            }
            Ok::<_, kube::Error>(world)
        };
        wait::within(self.bounds().request, "list the objects of the check", listing).await
    }

    /// The objects of the whole cluster that decide what is promised: an address that was given back
    /// may belong to anybody now.
    pub(crate) async fn whole_world(&self) -> anyhow::Result<World> {
        let client = self.client();
        let all = ListParams::default();
        let (nodes, pods) = (Api::<Node>::all(client.clone()), Api::<Pod>::all(client.clone()));
        let (services, made) = (Api::<Service>::all(client.clone()), Api::<Endpoints>::all(client.clone()));
        let slices = Api::<EndpointSlice>::all(client.clone());
        let listing = async {
            let (nodes, pods, services, made, slices) = tokio::try_join!(
                nodes.list(&all),
                pods.list(&all),
                services.list(&all),
                made.list(&all),
                slices.list(&all)
            )?;
            let mut world = World::new().with(nodes.items).with(pods.items).with(services.items);
            world.extend(made.items);
            world.extend(slices.items);
            if self.ingress.controller().is_some() {
                world.extend(list::<Ingress>(&client, &self.namespace).await?);
                world.extend(Api::<IngressClass>::all(client).list(&all).await?.items);
            }
            Ok::<_, kube::Error>(world)
        };
        let world = wait::within(self.bounds().request, "list the objects of the cluster", listing).await?;
        anyhow::ensure!(!world.nodes.is_empty(), "the cluster has no nodes");
        Ok(world)
    }

    /// A load balancer that has no address yet, where somebody gives them theirs
    /// ([Service, "type: LoadBalancer"](https://kubernetes.io/docs/concepts/services-networking/service/#loadbalancer)).
    pub(crate) fn unbalanced(&self, world: &World) -> Option<Finding> {
        if !self.cluster.capabilities().contains(&Capability::LoadBalancer) {
            return None;
        }
        let waits = |service: &Service| {
            let kind = service.spec.as_ref().and_then(|spec| spec.type_.as_deref());
            let balancer = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
            let ingress = balancer.and_then(|balancer| balancer.ingress.as_ref());
            kind == Some("LoadBalancer")
                && service.metadata.deletion_timestamp.is_none()
                && ingress.is_none_or(Vec::is_empty)
        };
        let mut own = world.services.iter().filter(|(key, _)| key.namespace == self.namespace);
        let (key, _) = own.find(|(_, service)| waits(service))?;
        Some(Finding {
            promised: format!("the provider of load balancers gives `{}` an address", key.name),
            observed: format!("`{}` has none", key.name),
        })
    }

    async fn pods_are(
        &self,
        fixture: Fixture,
        state: &str,
        is: fn(&Pod) -> Result<(), String>,
    ) -> Result<(), Broken> {
        let manifests = parse(fixture.path, fixture.yaml)?;
        let wanted = self.pods_asked_for(&manifests);
        if wanted == 0 {
            return Ok(());
        }
        let what = format!("{wanted} {state} pods of `{}`", fixture.path);
        self.is_waiting_for(&what);
        let ready = |pods: &[Pod]| {
            let ready = pods.iter().filter(|pod| is(pod).is_ok()).count();
            if ready >= wanted {
                return Ok(());
            }
            let why = pods.iter().find_map(|pod| is(pod).err());
            Err(why.unwrap_or_else(|| format!("{} pods", pods.len())))
        };
        Ok(wait::until(self.api::<Pod>(), Config::default(), &what, self.bounds().pods_ready, ready).await?)
    }

    /// How many pods these objects ask for.
    pub(crate) fn pods_asked_for(&self, manifests: &[Manifest]) -> usize {
        let asked = |manifest: &Manifest| match manifest.resource.kind.as_str() {
            "Pod" => 1,
            // Those of the fixtures tolerate everything.
            "DaemonSet" => self.vantages.nodes().len(),
            "ReplicaSet" | "Deployment" | "ReplicationController" => {
                let replicas = manifest.object.data["spec"]["replicas"].as_u64();
                replicas.map_or(1, |count| usize::try_from(count).unwrap_or(0))
            }
            _ => 0,
        };
        manifests.iter().map(asked).sum()
    }

    pub(crate) fn is_waiting_for(&self, what: &str) {
        what.clone_into(&mut self.waiting_for.lock().unwrap_or_else(PoisonError::into_inner));
    }

    pub(crate) fn note(&self, line: &str) {
        let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        if calls.len() == CALLS_KEPT {
            calls.pop_front();
        }
        calls.push_back(line.to_owned());
    }
}

/// Every look was overtaken.
fn never_still(bound: Duration, finding: Finding) -> Broken {
    let Finding { promised, observed } = finding;
    Broken::CouldNotTell(format!(
        "what is promised did not stay the same during any look for {bound:?}; last: {promised}; {observed}"
    ))
}

/// What the API server said when it refused something.
fn refusal(error: &anyhow::Error) -> Option<Status> {
    error.chain().find_map(|cause| match cause.downcast_ref::<kube::Error>() {
        Some(kube::Error::Api(status)) => Some((**status).clone()),
        _ => None,
    })
}

/// Is this the refusal that was promised?
fn is_refusal(status: &Status, promised: String, code: u16, reason: &str, field: &str) -> Held {
    let causes = status.details.iter().flat_map(|details| &details.causes);
    let mut named = causes.filter(|cause| cause.field == field && cause.reason.contains(reason));
    if status.code == code && named.next().is_some() {
        return Ok(());
    }
    Err(Broken::promise(promised, format!("it was refused with {}: {}", status.code, status.message)))
}

async fn list<K>(client: &kube::Client, namespace: &str) -> kube::Result<Vec<K>>
where
    K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope>
        + Clone
        + DeserializeOwned
        + std::fmt::Debug
        + Part,
    K::DynamicType: Default,
{
    Ok(Api::<K>::namespaced(client.clone(), namespace).list(&ListParams::default()).await?.items)
}

/// The exit code a status tells: 0 for success, else the cause named `ExitCode`.
pub(crate) fn exit_code(status: &ExecStatus) -> anyhow::Result<i32> {
    if status.status.as_deref() == Some("Success") {
        return Ok(0);
    }
    let causes = status.details.iter().flat_map(|details| details.causes.iter().flatten());
    let code = causes.into_iter().find(|cause| cause.reason.as_deref() == Some("ExitCode"));
    let code = code.and_then(|cause| cause.message.as_deref()).with_context(|| {
        format!("the command did not run: {}", status.message.as_deref().unwrap_or("no message"))
    })?;
    code.parse().with_context(|| format!("`{code}` is no exit code"))
}

#[expect(
    clippy::disallowed_methods,
    reason = "looks are repeated until a state is seen, and `eventually` bounds them"
)]
pub(crate) async fn look_again() {
    tokio::time::sleep(LOOK_AGAIN).await;
}
