//! Taking a truth table on a cluster: a world is made, the cluster follows, and everybody looks.

use std::sync::Arc;

use anyhow::{Context as _, bail};
use k8s_openapi::api::core::v1::Pod;
use kube::discovery::Scope;
use kube::runtime::watcher::Config;
use stickler_reports::{Event, TableReport, Timing, Verdict};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::Truth;
use crate::Scene;
use crate::action::use_class;
use crate::check::{Broken, Held};
use crate::cluster::Cluster;
use crate::guard::Guard;
use crate::image::Image;
use crate::journal::Sink;
use crate::manifest::{self, Manifest};
use crate::runner::Session;
use crate::wait;

/// How to take a truth table.
pub struct Taking {
    /// Cancelled when it is to end early: the report is still written.
    pub cancel: CancellationToken,
}

impl Taking {
    /// Makes a world in a namespace of its own, waits until the cluster has followed, or for as long as it
    /// may take to, takes the table and tells it. The cluster is left running, and the world is given back.
    ///
    /// # Errors
    /// If the world cannot be made as it was asked for, which is nothing that can be held against the cluster.
    pub async fn on(
        self,
        cluster: &Arc<dyn Cluster>,
        sink: &Sink,
        world: impl AsyncFnOnce(&Scene, &mut Truth) -> anyhow::Result<Held>,
    ) -> anyhow::Result<()> {
        let started = Instant::now();
        let guard = Arc::new(Guard::over(cluster, sink, &self.cancel));
        let mut timings = Vec::new();
        let taken = self.perform(cluster, sink, &guard, world, &mut timings).await;
        // One that went unnoticed until now is told here.
        guard.lost();
        sink.tell(Event::RunFinished {
            duration_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
            interrupted: guard.was_asked(),
            timings,
        });
        taken
    }

    async fn perform(
        &self,
        cluster: &Arc<dyn Cluster>,
        sink: &Sink,
        guard: &Arc<Guard>,
        world: impl AsyncFnOnce(&Scene, &mut Truth) -> anyhow::Result<Held>,
        timings: &mut Vec<Timing>,
    ) -> anyhow::Result<()> {
        let trouble = |message: String| {
            if !guard.token().is_cancelled() {
                sink.tell(Event::Trouble { message });
            }
            Ok(())
        };
        let opened = Session::guarded(Arc::clone(cluster), sink.clone(), Arc::clone(guard)).await;
        let session = match opened {
            Ok(session) => session,
            Err(error) => return trouble(format!("no vantage could be opened: {error:#}")),
        };
        let scene = match session.stage("table").await {
            Ok(scene) => scene,
            Err(error) => {
                session.close().await;
                return trouble(format!("there is no namespace for the table: {error:#}"));
            }
        };
        let took = tokio::select! {
            took = take(&scene, world, timings) => took,
            () = guard.token().cancelled() => Ok(Err(Broken::CouldNotTell(guard.why()))),
        };
        session.clear(scene).await;
        session.close().await;
        match took? {
            Ok(table) => {
                sink.tell(Event::Tabulated { table: Box::new(table) });
                Ok(())
            }
            Err(Broken::CouldNotTell(why)) => trouble(why),
            Err(Broken::Promise(finding)) => {
                trouble(format!("{}, but {}", finding.promised, finding.observed))
            }
        }
    }
}

async fn take(
    scene: &Scene,
    world: impl AsyncFnOnce(&Scene, &mut Truth) -> anyhow::Result<Held>,
    timings: &mut Vec<Timing>,
) -> anyhow::Result<Result<TableReport, Broken>> {
    let mut truth = Truth::default();
    let mut since = Instant::now();
    let mut timing = |step: &str| {
        let us = u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX);
        timings.push(Timing { step: step.to_owned(), us });
        since = Instant::now();
    };
    if let Err(broken) = world(scene, &mut truth).await? {
        return Ok(Err(broken));
    }
    timing("the world made");
    let made = Instant::now();
    let deadline = made + scene.bounds().convergence;
    let mut open = None;
    let table = loop {
        if let Err(error) = truth.follow(scene, open, deadline).await {
            return Ok(Err(error.into()));
        }
        let began = Instant::now();
        match truth.look_at_all(scene).await {
            Err(error) => return Ok(Err(error.into())),
            Ok((table, _)) if table.verdict() == Verdict::Passed || began >= deadline => {
                let waited_ms = u64::try_from((began - made).as_millis()).unwrap_or(u64::MAX);
                break TableReport { waited_ms, ..table };
            }
            Ok((_, differing)) => open = Some(differing),
        }
    };
    timing("the cluster followed, and the table taken");
    timings.push(Timing { step: "the table alone".to_owned(), us: table.duration_us });
    Ok(Ok(table))
}

/// Creates the objects of somebody's manifests in the scene's namespace, and waits until their pods are ready.
/// Pods that do not become ready in time are in the table as they are.
///
/// # Errors
/// If an object is refused, or does not belong into a namespace that is made for the table.
pub async fn given_manifests(
    scene: &Scene,
    truth: &mut Truth,
    files: Vec<(String, Vec<Manifest>)>,
) -> anyhow::Result<Held> {
    let client = scene.client();
    let has_ingress = files.iter().flat_map(|(_, objects)| objects).any(|one| one.resource.kind == "Ingress");
    let class = match has_ingress {
        true => match scene.given_controller().await {
            Ok(controller) => Some(controller.class.clone()),
            Err(Broken::CouldNotTell(why)) => {
                truth.remark(format!("no hosts and paths: {why}"));
                None
            }
            Err(broken) => return Ok(Err(broken)),
        },
        false => None,
    };
    let bound = scene.bounds().request;
    let mut pods = 0;
    for (file, mut objects) in files {
        pods += scene.pods_asked_for(&objects);
        for manifest in &mut objects {
            let kind = manifest.resource.kind.clone();
            let name = manifest.object.metadata.name.clone().unwrap_or_default();
            let what = || format!("{kind} `{name}` of `{file}`");
            if let Some(namespace) = &manifest.object.metadata.namespace {
                bail!(
                    "{} names the namespace `{namespace}`, but a table has a namespace of its own: leave it out",
                    what()
                );
            }
            let found = timeout(bound, manifest::find(&client, &manifest.resource)).await;
            let found = found.with_context(|| format!("no answer from the API server within {bound:?}"))?;
            let (_, scope) = found.with_context(|| format!("{} cannot be created", what()))?;
            if scope == Scope::Cluster {
                bail!("{} belongs to no namespace, and a table makes nothing outside of its own", what());
            }
            Image::of(scene.cluster.as_ref()).put_in_object(&mut manifest.object)?;
            if let Some(class) = class.as_ref().filter(|_| kind == "Ingress") {
                use_class(&mut manifest.object, class);
            }
            let action = format!("kubectl -n {} create -f {file}  # {kind} {name}", scene.namespace());
            scene.note(&action);
            scene.sink.tell(Event::Acted { check: scene.check.to_owned(), action });
            let created = timeout(bound, manifest::create(&client, scene.namespace(), manifest)).await;
            let created =
                created.with_context(|| format!("no answer from the API server within {bound:?}"))?;
            created.with_context(|| format!("{} was refused", what()))?;
        }
    }
    let what = format!("{pods} ready pods");
    scene.is_waiting_for(&what);
    let ready = |there: &[Pod]| match there.iter().find_map(|pod| wait::pod_ready(pod).err()) {
        Some(why) => Err(why),
        None if there.len() < pods => Err(format!("{} of {pods} pods", there.len())),
        None => Ok(()),
    };
    let bound = scene.bounds().pods_ready;
    if let Err(error) = wait::until(scene.api::<Pod>(), Config::default(), &what, bound, ready).await {
        truth.remark(format!("not every pod became ready: {error:#}"));
    }
    Ok(Ok(()))
}
