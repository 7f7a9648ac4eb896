//! Chaos: faults strike by a plan while clients call from everywhere, and every answer is held
//! against what was promised at some instant within the staleness bound.
//!
//! Which faults strike when, and on what, is drawn from a seed ([`Plan`]); each is healed, also when
//! it went wrong or the run is cancelled. Afterwards everything must converge, and every vantage must
//! see what the model promises.
//!
//! What may fail meanwhile, and what not. A pod that is deleted goes on serving for longer than an
//! answer may be old, as one is asked to see to
//! ([Explore Termination Behavior for Pods And Their Endpoints](https://kubernetes.io/docs/tutorials/services/pods-and-endpoint-termination-flow/)),
//! so a call that fails because pods are deleted, scaled down or replaced was sent to a pod that
//! had left for too long: a violation. A container that is killed takes its connections with it, and
//! nobody is promised otherwise: see [`chronicle`](crate::chronicle) for when such failures are
//! excused. An affine client may move only if its back end was not ready at some instant since its
//! last answer, or within the bound before it.

mod judgement;
mod plan;
mod strike;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use k8s_openapi::api::core::v1::Service;
use kube::api::{Api, PostParams};
use stickler_model::{Destination, RecordType};
use stickler_reports::{Call, ChaosReport, Event, Verdict};
use tokio_util::sync::CancellationToken;

use crate::bounds::Bounds;
use crate::calls::in_words;
use crate::check::Broken;
use crate::chronicle::{Change, Object, Recording, What};
use crate::clients::{Aim, Client, Clients, Harvests};
use crate::cluster::Cluster;
use crate::destination::To;
use crate::guard::Guard;
use crate::image::Image;
use crate::invariant::as_promised;
use crate::journal::Sink;
use crate::manifest::parse;
use crate::names::resolve_as_promised;
use crate::stay::Stay;
use crate::vantage::Vantage;
use crate::{Scene, wait};

pub use plan::{Act, Fault, Plan, Step, Strike, UnknownFault};

/// What a run's clients call, and faults strike.
const WORLD: &str = include_str!("../../../fixtures/chaos/world.yaml");

/// A chaos run.
pub struct Chaos {
    /// Decides which faults strike when, and on what.
    pub seed: u64,
    /// How long faults strike; each strikes once however short it is.
    pub duration: Duration,
    pub faults: Vec<Fault>,
    /// Calls each client begins per second.
    pub rate: u32,
    /// Cancelled when the run is to end early: what was struck is healed, the report is still written.
    pub cancel: CancellationToken,
}

impl Chaos {
    /// What will strike when, on a cluster with these bounds.
    pub fn plan(&self, bounds: &Bounds) -> Plan {
        Plan::draw(self.seed, &self.faults, self.duration, bounds)
    }

    /// Runs on a cluster and tells what happened. The cluster is left running.
    pub async fn on(self, cluster: &Arc<dyn Cluster>, sink: &Sink) {
        let started = Instant::now();
        let guard = Guard::over(cluster, sink, &self.cancel);
        let chaos = Self { cancel: guard.token().clone(), ..self };
        match chaos.perform(cluster, sink).await {
            Ok(Some(mut found)) => {
                // Whatever was seen may be due to what is missing.
                if let Some(lost) = guard.lost() {
                    found.verdict = Verdict::Inconclusive;
                    found.reason = joined(found.reason, lost);
                }
                sink.tell(Event::ChaosFinished { chaos: Box::new(found) });
            }
            Ok(None) => {}
            Err(error) => sink.tell(Event::Trouble { message: format!("{error:#}") }),
        }
        sink.tell(Event::RunFinished {
            duration_ms: millis(started.elapsed()),
            interrupted: guard.was_asked(),
            timings: Vec::new(),
        });
    }

    /// None if it was cancelled before anything could be seen.
    async fn perform(&self, cluster: &Arc<dyn Cluster>, sink: &Sink) -> anyhow::Result<Option<ChaosReport>> {
        let begun = Stay::begin(Arc::clone(cluster), sink, &self.cancel).await;
        let stay = match begun {
            Ok(stay) => stay,
            Err(_) if self.cancel.is_cancelled() => return Ok(None),
            Err(error) => return Err(error.context("no vantage could be opened")),
        };
        let scene = stay.scene("chaos", format!("stickler-{}-chaos", stay.run()));
        let report = self.in_scene(&scene, &stay).await;
        stay.end().await;
        report
    }

    async fn in_scene(&self, scene: &Scene, stay: &Stay) -> anyhow::Result<Option<ChaosReport>> {
        let bounds = scene.bounds();
        let preparing = async {
            stay.create_namespace(scene.namespace()).await?;
            let followed = [scene.namespace(), scene.vantages().namespace()];
            let recording = Recording::open(&scene.client(), &followed, bounds.request).await?;
            create_world(scene).await?;
            strike::mend(scene).await?;
            // What is wrong already would be put down to the faults.
            is_as_promised(scene).await?;
            Ok::<_, Broken>(recording)
        };
        let prepared = tokio::select! {
            prepared = preparing => prepared,
            () = self.cancel.cancelled() => return Ok(None),
        };
        let recording = match prepared {
            Ok(recording) => recording,
            Err(Broken::CouldNotTell(why)) => anyhow::bail!("the world of the run could not be made: {why}"),
            Err(broken) => {
                let why = format!("before any fault: {}", strike::in_words(broken));
                return Ok(Some(self.without_calls(&bounds, why)));
            }
        };

        let plan = self.plan(&bounds);
        scene.sink.tell(Event::ChaosPlanned { seed: self.seed, plan: plan.cards() });
        let clients = self.clients(scene).await?;
        scene.sink.tell(Event::ClientsStarted { clients: clients.count(), rate: self.rate });
        let struck = strike::all(scene, &plan, &recording, &self.cancel).await;
        let converged = self.converged(scene).await;
        let harvests = clients.stop(bounds.agent + bounds.call).await;
        self.tell_calls(scene, &harvests);
        let chronicle = recording.chronicle().await.context("the changes of the objects are not known")?;
        for change in &chronicle.changes {
            let (earliest_us, latest_us) = (change.earliest_us, change.latest_us);
            scene.sink.tell(Event::Changed { earliest_us, latest_us, change: told(change) });
        }
        let shown = judgement::Shown {
            chronicle: &chronicle,
            harvests: &harvests,
            struck: &struck,
            vantages: scene.vantages(),
            promises: scene.cluster.promises(),
            bounds,
            seed: self.seed,
            rate: self.rate,
        };
        // It may take a while, and agents say something once a second.
        let mut report = tokio::task::block_in_place(|| shown.judge());
        match converged {
            Ok(took) => report.converged_ms = Some(millis(took)),
            Err(Broken::CouldNotTell(why)) => {
                report.verdict = report.verdict.max(Verdict::Inconclusive);
                report.reason = joined(report.reason, format!("after the last fault: {why}"));
            }
            Err(broken) => {
                report.verdict = Verdict::Failed;
                let why = strike::in_words(broken);
                report.reason = joined(report.reason, format!("after the last fault was healed: {why}"));
            }
        }
        if let Err(error) = recording.close().await {
            scene.sink.tell(Event::Trouble { message: format!("{error:#}") });
        }
        Ok(Some(report))
    }

    /// Everything is mended, all pods are ready, and every vantage sees what is promised: how long
    /// the last of it took. A run that
    /// is cancelled is mended, and no more.
    async fn converged(&self, scene: &Scene) -> Result<Duration, Broken> {
        strike::mend(scene).await?;
        let mended = Instant::now();
        tokio::select! {
            seen = is_as_promised(scene) => seen.map(|()| mended.elapsed()),
            () = self.cancel.cancelled() => Err(Broken::CouldNotTell("the run was interrupted".to_owned())),
        }
    }

    async fn clients(&self, scene: &Scene) -> anyhow::Result<Clients> {
        let interval = Duration::from_secs(1) / self.rate.max(1);
        let clients = standing(scene).await?;
        Clients::begin(scene.vantages(), clients, interval, scene.bounds().call)
    }

    /// What clients saw goes to the journal in lots, one for each of them.
    fn tell_calls(&self, scene: &Scene, harvests: &Harvests) {
        for harvest in &harvests.of {
            let times = harvest.outcomes.iter();
            let mut call = Call {
                vantage: harvest.client.from.to_string(),
                destination: harvest.client.label.clone(),
                started_us: times.clone().map(|outcome| outcome.started_us).min().unwrap_or_default(),
                finished_us: times.map(|outcome| outcome.finished_us).max().unwrap_or_default(),
                outcomes: std::collections::BTreeMap::new(),
            };
            for outcome in &harvest.outcomes {
                *call.outcomes.entry(in_words(&outcome.seen)).or_default() += 1;
            }
            scene.sink.tell(Event::Called { check: scene.check.to_owned(), call });
        }
    }

    /// The report of a run that found something wrong before its clients began.
    fn without_calls(&self, bounds: &Bounds, why: String) -> ChaosReport {
        ChaosReport {
            verdict: Verdict::Failed,
            reason: Some(why),
            seed: self.seed,
            rate: self.rate,
            staleness_bound_ms: millis(bounds.staleness),
            name_staleness_bound_ms: millis(bounds.name_staleness),
            convergence_bound_ms: millis(bounds.convergence),
            ..ChaosReport::default()
        }
    }
}

/// Creates what clients call. Pods go on serving for longer than an answer may be old.
async fn create_world(scene: &Scene) -> Result<(), Broken> {
    let gracefully = scene.bounds().staleness.as_secs() + 1;
    let yaml = WORLD
        .replace("GRACEFULLY", &gracefully.to_string())
        .replace("PATIENTLY", &(gracefully + 3).to_string());
    for manifest in parse("chaos/world.yaml", &yaml)? {
        let api = Api::namespaced_with(scene.client(), scene.namespace(), &manifest.resource);
        let mut object = manifest.object;
        Image::of(scene.cluster.as_ref()).put_in_object(&mut object)?;
        let params = PostParams::default();
        let creating = api.create(&params, &object);
        wait::within(scene.bounds().request, "create an object of `chaos/world.yaml`", creating).await?;
    }
    Ok(())
}

/// Every vantage sees what the model promises, at every destination and by every name.
async fn is_as_promised(scene: &Scene) -> Result<(), Broken> {
    let everywhere = scene.vantages().everywhere();
    let to = vec![To::ClusterIp("web"), To::NodePort("web"), To::ClusterIp("sticky"), To::ClusterIp("udp")];
    scene.eventually(as_promised(everywhere, to)).await?;
    if dns(scene).await?.is_some() {
        let names = vec![head(scene)];
        scene.eventually(resolve_as_promised(scene.vantages().pods(), RecordType::A, names)).await?;
    }
    Ok(())
}

/// The whole name of the headless service.
fn head(scene: &Scene) -> String {
    format!("head.{}.svc.{}.", scene.namespace(), scene.cluster.promises().cluster_domain)
}

/// The address of the cluster's DNS, if it has one under the usual name.
async fn dns(scene: &Scene) -> anyhow::Result<Option<SocketAddr>> {
    let api = Api::<Service>::namespaced(scene.client(), "kube-system");
    let getting = api.get_opt("kube-dns");
    let service = wait::within(scene.bounds().request, "get the service `kube-dns`", getting).await?;
    let Some(service) = service else { return Ok(None) };
    let ip = crate::destination::service_ip("kube-dns", &service).map_err(anyhow::Error::msg)?;
    Ok(Some(SocketAddr::new(ip, 53)))
}

/// A client at every vantage for every destination, as far as something is promised there.
async fn standing(scene: &Scene) -> anyhow::Result<Vec<Client>> {
    let world = scene.world().await?;
    let vantages = scene.vantages();
    let mut clients = Vec::new();
    for to in [To::ClusterIp("web"), To::NodePort("web"), To::ClusterIp("sticky"), To::ClusterIp("udp")] {
        for target in to.resolve(&world, scene.namespace()).map_err(anyhow::Error::msg)? {
            for from in vantages.everywhere() {
                if is_promised(scene, &world, &from, &target.destination) {
                    let (label, to) = (target.label.clone(), Aim::Address(target.destination));
                    clients.push(Client { from, label, to });
                }
            }
        }
    }
    if let Some(server) = dns(scene).await? {
        let (whole, short) = (head(scene), format!("head.{}", scene.namespace()));
        let asked = |name: &str, server: Option<SocketAddr>, from: Vantage| Client {
            from,
            label: format!("A of `{name}`"),
            to: Aim::Name { name: name.to_owned(), kind: RecordType::A, server },
        };
        clients.extend(vantages.pods().into_iter().map(|from| asked(&short, None, from)));
        clients.extend(vantages.hosts().into_iter().map(|from| asked(&whole, Some(server), from)));
    }
    Ok(clients)
}

fn is_promised(scene: &Scene, world: &stickler_model::World, from: &Vantage, to: &Destination) -> bool {
    let client = scene.vantages().to_model(from);
    let route = stickler_model::route(world, scene.cluster.promises(), &client, to);
    !matches!(route, stickler_model::Route::NotPromised { .. })
}

/// A change in words.
fn told(change: &Change) -> String {
    let (object, is_gone) = match &change.what {
        What::Put(object) => (object, false),
        What::Gone(object) => (object, true),
        What::Crashed(pod) => return format!("the container of pod `{pod}` is killed"),
    };
    let kind = match object {
        Object::Node(_) => "node",
        Object::Pod(_) => "pod",
        Object::Service(_) => "service",
        Object::Endpoints(_) => "endpoints",
        Object::EndpointSlice(_) => "endpointslice",
    };
    let state = match object {
        _ if is_gone => "is gone".to_owned(),
        Object::Pod(pod) => match wait::pod_ready(pod) {
            Ok(()) => "is ready".to_owned(),
            Err(why) => format!("is not ready: {why}"),
        },
        Object::EndpointSlice(slice) => {
            let endpoints = slice.endpoints.iter().flatten();
            let ready = endpoints
                .filter(|endpoint| endpoint.conditions.as_ref().is_some_and(|all| all.ready == Some(true)))
                .count();
            format!("has {ready} ready endpoints")
        }
        _ => "changed".to_owned(),
    };
    format!("{kind} `{}` {state}", object.key())
}

fn joined(first: Option<String>, then: String) -> Option<String> {
    Some(first.map_or_else(|| then.clone(), |first| format!("{first}; {then}")))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
