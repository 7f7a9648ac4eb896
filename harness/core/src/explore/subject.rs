//! The subject: a cluster that carries an exploration's operations out, and is looked at after each.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::runtime::watcher::Config;
use serde_json::Value;
use stickler_model::{Destination, RecordType};
use stickler_reports::{Difference, Event, KnownDifference};
use tokio::time::{Instant, timeout};

use super::form;
use super::operation::{self, Operation, TRAFFIC, UNREADY, WorkloadName};
use super::reference::{Plan, PodPlan};
use super::table::{Called, Differing, Looked, Table};
use super::witness::{Testimony, Witnesses};
use crate::Scene;
use crate::action::{Action, Resource, delete, edit, scale};
use crate::bounds::Bounds;
use crate::check::{Broken, Held};
use crate::image::Image;
use crate::manifest;
use crate::names::resolve_as_promised;
use crate::runner::Session;
use crate::scene::look_again;
use crate::truth::address::{cluster_dns, hairpins};
use crate::vantage::Vantage;
use crate::wait;

/// How long a cluster is waited for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// Until it has carried an operation out.
    pub(crate) carried_out: Duration,
    /// Until everybody sees it.
    pub(crate) convergence: Duration,
}

impl Patience {
    /// What the cluster is held to.
    pub(crate) fn full(bounds: &Bounds) -> Self {
        Self { carried_out: bounds.pods_ready, convergence: bounds.convergence }
    }

    /// While a failure is shrunk: it is only asked whether it is still the same, and what comes of it
    /// is held to the full bounds again.
    pub(crate) fn short(bounds: &Bounds) -> Self {
        Self { carried_out: bounds.pods_ready / 4, convergence: bounds.convergence / 5 }
    }
}

/// One case on a cluster.
pub(crate) struct Subject {
    pub(crate) scene: Scene,
    patience: Patience,
    plan: Plan,
    /// What was done to each pod, by its name; nothing was to those that are not in here.
    pods: BTreeMap<String, PodState>,
    table: Table,
    nodes: Vec<String>,
    witnesses: Option<Witnesses>,
    /// How many looks at how many cells.
    pub(crate) looks: usize,
    known: Arc<[KnownDifference]>,
    /// The cells that differed as known for as long as a change may take. If they go on to, that is no
    /// news, and nobody waits for them again.
    waited_for: BTreeSet<String>,
    /// Where known differences showed: clients that called there meanwhile may have met them too.
    excused: BTreeSet<Destination>,
    /// Of the known differences that showed: the place in the list, and what was seen first.
    pub(crate) showed: BTreeMap<usize, String>,
    /// What kind of difference the case failed by, if it can be said.
    pub(crate) difference: Option<Difference>,
}

/// What was done to a pod.
#[derive(Clone, Copy, Debug, Default)]
struct PodState {
    plan: PodPlan,
    /// How often its container is to have been restarted, at least.
    restarts: i32,
}

impl Subject {
    /// Builds the initial world in a namespace of its own, and looks at it.
    ///
    /// # Errors
    /// If that cannot be done; nothing of an empty world can be broken.
    pub(crate) async fn open(
        session: &Session,
        plan: Plan,
        patience: fn(&Bounds) -> Patience,
        known: Arc<[KnownDifference]>,
    ) -> anyhow::Result<Self> {
        let scene = session.stage("explore").await?;
        let patience = patience(&scene.bounds());
        let mut nodes = scene.vantages().nodes().to_vec();
        nodes.sort();
        let pods = BTreeMap::new();
        let witnesses = Some(Witnesses::open(&scene).await?);
        Ok(Self {
            scene,
            patience,
            plan,
            pods,
            table: Table::default(),
            nodes,
            witnesses,
            looks: 0,
            known,
            waited_for: BTreeSet::new(),
            excused: BTreeSet::new(),
            showed: BTreeMap::new(),
            difference: None,
        })
    }

    /// Makes the plan's workloads, and waits until their pods are ready.
    pub(crate) async fn begin(&mut self) -> Held {
        let workloads: Vec<Value> = self
            .plan
            .workloads
            .iter()
            .map(|(name, plan)| {
                let replicas = u8::try_from(plan.pods.len()).unwrap_or(u8::MAX);
                operation::workload(*name, plan.maker, plan.gated, replicas)
            })
            .collect();
        let standing = self.standing();
        let (created, controlled) = tokio::join!(
            async {
                for manifest in workloads {
                    self.create(manifest).await?;
                }
                Ok::<_, Broken>(())
            },
            self.scene.control(&standing),
        );
        created?;
        controlled?;
        self.carried_out().await?;
        self.names_are_answered().await
    }

    /// The cluster's DNS may just have been started, or be on its way from a node whose kubelet the last
    /// case stopped.
    async fn names_are_answered(&self) -> Held {
        let world = self.scene.whole_world().await?;
        if !world.services.contains_key(&cluster_dns()) {
            return Ok(());
        }
        let domain = &self.scene.cluster.promises().cluster_domain;
        let names = vec![format!("kubernetes.default.svc.{domain}.")];
        let pods = self.standing().into_iter().filter(|from| matches!(from, Vantage::PodOn(_))).collect();
        self.scene.eventually(resolve_as_promised(pods, RecordType::A, names)).await
    }

    /// Carries an operation out, waits until the cluster has done its part, and compares the whole
    /// table with what is promised then.
    pub(crate) async fn step(&mut self, operation: &Operation, after: Plan) -> Held {
        self.perform(operation).await?;
        self.plan = after;
        self.carried_out().await?;
        self.agrees().await
    }

    /// Undoes what would stay when the namespace goes.
    pub(crate) async fn heal(&self) -> anyhow::Result<()> {
        let Some((node, disruption)) = self.stopped().zip(self.scene.cluster.disruption()) else {
            return Ok(());
        };
        let bound = self.scene.bounds().request;
        let started = timeout(bound, disruption.start_kubelet(node)).await;
        started
            .map_err(|_| anyhow::anyhow!("it took longer than {bound:?}"))?
            .with_context(|| format!("could not start the kubelet of {node} again"))
    }

    /// Ends the clients that called all the time, and says what they saw that was never allowed.
    ///
    /// # Errors
    /// If what they saw is not known.
    pub(crate) async fn testify(&mut self) -> anyhow::Result<Option<Testimony>> {
        match self.witnesses.take() {
            Some(witnesses) => {
                let bound = self.scene.bounds().convergence;
                witnesses.testify(&self.scene, bound, &self.excused).await
            }
            None => Ok(None),
        }
    }

    async fn perform(&mut self, operation: &Operation) -> Held {
        if let Some((service, patch)) = operation::service_patch(operation) {
            let patch = self.filled_in(patch).await?;
            return self.scene.when(edit(Resource::Service, &service.to_string(), patch)).await;
        }
        if let Some(manifest) = operation::made_by_hand(operation) {
            return self.apply(manifest).await;
        }
        match operation {
            Operation::CreateService(form) => self.create(form.manifest()).await?,
            Operation::RemoveEndpoints { service } => {
                self.scene.when(delete(Resource::Endpoints, &service.to_string())).await?;
            }
            Operation::RemoveSlice { service, slice } => {
                let name = form::slice_name(*service, *slice);
                self.scene.when(delete(Resource::EndpointSlice, &name)).await?;
            }
            Operation::DeleteService { service } => {
                self.scene.when(delete(Resource::Service, &service.to_string())).await?;
            }
            Operation::CreateWorkload { workload, maker, gated, replicas } => {
                self.create(operation::workload(*workload, *maker, *gated, *replicas)).await?;
            }
            Operation::Scale { workload, maker, replicas } => {
                let resource = match maker {
                    operation::Maker::ReplicaSet => Resource::ReplicaSet,
                    operation::Maker::Deployment => Resource::Deployment,
                };
                self.scene.when(scale(resource, &workload.to_string(), u32::from(*replicas))).await?;
            }
            Operation::DeletePod { workload, pod } => {
                let name = self.pod(*workload, *pod).await?;
                self.scene.when(delete(Resource::Pod, &name)).await?;
                self.pods.remove(&name);
            }
            Operation::Relabel { workload, pod, on } => {
                let name = self.pod(*workload, *pod).await?;
                let value = Some(if *on { "on" } else { "off" });
                self.scene.when(Action::Label { pod: name, key: TRAFFIC, value }).await?;
            }
            Operation::Probe { workload, pod, ready } => {
                let name = self.pod(*workload, *pod).await?;
                // Of pods made at once any may be the first, so the file need not be there.
                let command: &[&str] = if *ready { &["rm", "-f", UNREADY] } else { &["touch", UNREADY] };
                self.exec(&name, command).await?;
                self.pods.entry(name).or_default().plan.unready = !*ready;
            }
            Operation::Gate { workload, pod, ready } => {
                let name = self.pod(*workload, *pod).await?;
                self.scene.set_gate(&name, *ready).await?;
                self.pods.entry(name).or_default().plan.gate_open = *ready;
            }
            Operation::Kill { workload, pod } => self.kill(*workload, *pod).await?,
            Operation::StopKubelet { node } | Operation::StartKubelet { node } => {
                if let Some(witnesses) = &mut self.witnesses {
                    witnesses.lost_a_kubelet();
                }
                self.kubelet(*node, matches!(operation, Operation::StartKubelet { .. })).await?;
            }
            // Performed above.
            Operation::SetSticky { .. }
            | Operation::SetPublish { .. }
            | Operation::SetTarget { .. }
            | Operation::SetReach { .. }
            | Operation::SetPort { .. }
            | Operation::SetExternal { .. }
            | Operation::SetInternal { .. }
            | Operation::SetIps { .. }
            | Operation::SetRanges { .. }
            | Operation::SetDistribution { .. }
            | Operation::SetLabel { .. }
            | Operation::MakeEndpoints { .. }
            | Operation::MakeSlice { .. } => {}
        }
        Ok(())
    }

    async fn create(&self, manifest: Value) -> Held {
        let words = operation::create(&manifest);
        self.tell(&words);
        let mut manifest = manifest::object(self.filled_in(manifest).await?)?;
        Image::of(self.scene.cluster.as_ref()).put_in_object(&mut manifest.object)?;
        let api: Api<DynamicObject> =
            Api::namespaced_with(self.scene.client(), self.scene.namespace(), &manifest.resource);
        let (params, bound) = (PostParams::default(), self.scene.bounds().request);
        wait::within(bound, &format!("do `{words}`"), api.create(&params, &manifest.object)).await?;
        Ok(())
    }

    /// Creates what a manifest describes, or changes what there is to be so.
    async fn apply(&self, manifest: Value) -> Held {
        let words = operation::apply(&manifest);
        self.tell(&words);
        let manifest = manifest::object(self.filled_in(manifest).await?)?;
        let api: Api<DynamicObject> =
            Api::namespaced_with(self.scene.client(), self.scene.namespace(), &manifest.resource);
        let name = manifest.object.metadata.name.clone().context("a manifest without a name")?;
        let bound = self.scene.bounds().request;
        let applied = async {
            match api.create(&PostParams::default(), &manifest.object).await {
                Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => {
                    api.patch(&name, &PatchParams::default(), &Patch::Merge(&manifest.object)).await
                }
                created => created,
            }
        };
        wait::within(bound, &format!("do `{words}`"), applied).await?;
        Ok(())
    }

    /// With the addresses that a shell would fill in.
    async fn filled_in(&self, mut value: Value) -> anyhow::Result<Value> {
        self.fill_in(&mut value).await?;
        Ok(value)
    }

    async fn fill_in(&self, value: &mut Value) -> anyhow::Result<()> {
        let mut open = vec![value];
        while let Some(value) = open.pop() {
            match value {
                Value::Object(fields) => open.extend(fields.values_mut()),
                Value::Array(items) => open.extend(items),
                Value::String(text) => {
                    if let Some(call) = text.strip_prefix("$(").and_then(|rest| rest.strip_suffix(')')) {
                        *text = self.call(call).await?;
                    }
                }
                Value::Null | Value::Bool(_) | Value::Number(_) => {}
            }
        }
        Ok(())
    }

    /// What one of the shell functions says.
    async fn call(&self, call: &str) -> anyhow::Result<String> {
        let words: Vec<&str> = call.split(' ').collect();
        match words[..] {
            ["address", workload, number] => {
                let workload = WorkloadName::ALL.into_iter().find(|name| name.to_string() == workload);
                let workload = workload.with_context(|| format!("`{call}` names no workload"))?;
                let name = self.pod(workload, number.parse()?).await?;
                let pod = self.scene.api::<Pod>().get(&name).await?;
                let ip = pod.status.and_then(|status| status.pod_ip);
                ip.with_context(|| format!("pod `{name}` has no address"))
            }
            ["node", number] => {
                let name =
                    self.node(number.parse()?).with_context(|| format!("there is no node {number}"))?;
                let addresses = self.scene.node_addresses().await?;
                let ip = addresses.into_iter().find(|(node, _)| node == name).map(|(_, ip)| ip.to_string());
                ip.with_context(|| format!("node `{name}` has no address"))
            }
            _ => bail!("nobody knows what `{call}` is"),
        }
    }

    async fn exec(&self, pod: &str, command: &[&str]) -> Held {
        let words = format!("kubectl exec {pod} -- {}", command.join(" "));
        self.tell(&words);
        let output = self.scene.exec(pod, command).await?;
        if output.code != 0 {
            return Err(
                anyhow::anyhow!("`{words}` ended with {}: {}", output.code, output.stderr.trim()).into()
            );
        }
        Ok(())
    }

    /// Ends a container's main process; with it goes what was written in it.
    async fn kill(&mut self, workload: WorkloadName, number: u8) -> Held {
        let name = self.pod(workload, number).await?;
        let api = self.scene.api::<Pod>();
        let bound = self.scene.bounds().request;
        let pod = wait::within(bound, &format!("get pod `{name}`"), api.get(&name)).await?;
        let state = self.pods.entry(name.clone()).or_default();
        (state.plan.unready, state.restarts) = (false, restarts(&pod) + 1);
        self.tell(&format!("kubectl exec {name} -- kill 1"));
        if let Some(witnesses) = &self.witnesses {
            witnesses.crashed(&self.scene, &name);
        }
        // The command may go down with the container it ends.
        if let Ok(output) = self.scene.exec(&name, &["kill", "1"]).await
            && output.code != 0
            && !output.stderr.is_empty()
        {
            let (code, why) = (output.code, output.stderr.trim());
            return Err(anyhow::anyhow!("`kill 1` in pod `{name}` ended with {code}: {why}").into());
        }
        Ok(())
    }

    async fn kubelet(&self, node: u8, start: bool) -> Held {
        let name = self.node(node).with_context(|| format!("there is no node {node}"))?;
        let disruption =
            self.scene.cluster.disruption().context("this cluster's kubelets cannot be stopped")?;
        let (word, done) = if start {
            ("start", disruption.start_kubelet(name))
        } else {
            ("stop", disruption.stop_kubelet(name))
        };
        self.tell(&format!("systemctl {word} kubelet  # on {name}"));
        let bound = self.scene.bounds().request;
        let done = timeout(bound, done).await;
        let what = || format!("could not {word} the kubelet of {name}");
        done.map_err(|_| anyhow::anyhow!("it took longer than {bound:?}"))
            .with_context(what)?
            .with_context(what)?;
        Ok(())
    }

    /// The name of a workload's pod, by its place.
    async fn pod(&self, workload: WorkloadName, number: u8) -> anyhow::Result<String> {
        let mut pods = self.scene.pods(&format!("app={workload}")).await?;
        pods.retain(|pod| pod.metadata.deletion_timestamp.is_none());
        pods.sort_by_key(|pod| {
            let created = pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
            (created, pod.metadata.name.clone())
        });
        let index = usize::from(number).wrapping_sub(1);
        let pod = pods.get(index).with_context(|| format!("`{workload}` has no pod {number} any more"))?;
        pod.metadata.name.clone().context("a pod without a name")
    }

    fn node(&self, number: u8) -> Option<&str> {
        self.nodes.get(usize::from(number).checked_sub(1)?).map(String::as_str)
    }

    fn stopped(&self) -> Option<&str> {
        self.plan.stopped.and_then(|number| self.node(number))
    }

    fn tell(&self, action: &str) {
        self.scene.note(action);
        self.scene.sink.tell(Event::Acted { check: self.scene.check.to_owned(), action: action.to_owned() });
    }

    /// Waits until there are as many pods as planned, each of them as ready as planned.
    async fn carried_out(&mut self) -> Held {
        let what = "the plan to be carried out";
        let done = |pods: &[Pod]| self.differs(pods).map_or(Ok(()), Err);
        let api = self.scene.api::<Pod>();
        let bound = self.patience.carried_out;
        let Err(error) = wait::until(api.clone(), Config::default(), what, bound, done).await else {
            return Ok(());
        };
        // Is it so, or could it only not be seen?
        let all = ListParams::default();
        let now = wait::within(self.scene.bounds().request, "list the pods", api.list(&all));
        let observed = match now.await {
            Err(gone) => return Err(error.context(format!("{gone:#}")).into()),
            Ok(pods) => match self.differs(&pods.items) {
                None => return Ok(()),
                Some(observed) => observed,
            },
        };
        Err(Broken::promise(
            format!("within {bound:?} the cluster does what it was asked for: {}", self.wanted()),
            observed,
        ))
    }

    fn wanted(&self) -> String {
        let words = |(name, plan): (&WorkloadName, &super::reference::WorkloadPlan)| {
            format!("{} `{name}` with {} pods", plan.maker, plan.pods.len())
        };
        self.plan.workloads.iter().map(words).collect::<Vec<_>>().join(", ")
    }

    /// What is not as planned yet. A node without a kubelet does nothing, so nothing is expected of it.
    fn differs(&self, pods: &[Pod]) -> Option<String> {
        let stopped = self.stopped();
        let is_of = |pod: &&Pod, name: &WorkloadName| {
            let labels = pod.metadata.labels.as_ref();
            labels.and_then(|labels| labels.get("app")).is_some_and(|app| *app == name.to_string())
        };
        for (workload, plan) in &self.plan.workloads {
            let mut count = 0;
            for pod in pods.iter().filter(|pod| is_of(pod, workload)) {
                let name = pod.metadata.name.as_deref().unwrap_or_default();
                let goes = pod.metadata.deletion_timestamp.is_some();
                count += usize::from(!goes);
                let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
                if node.is_some() && node == stopped {
                    continue;
                }
                if goes {
                    return Some(format!("pod `{name}` is terminating"));
                }
                let state = self.pods.get(name).copied().unwrap_or_default();
                if restarts(pod) < state.restarts {
                    return Some(format!("the container of pod `{name}` ended and was not started again"));
                }
                let ready = !state.plan.unready && (!plan.gated || state.plan.gate_open);
                match (wait::pod_ready(pod), ready) {
                    (Ok(()), false) => {
                        return Some(format!("pod `{name}` is ready, though it should not be"));
                    }
                    (Err(why), true) => return Some(why),
                    (Err(_), false) => {
                        // Unready by what was done to it, not because it does not run yet.
                        if let Err(why) = wait::pod_running(pod) {
                            return Some(why);
                        }
                    }
                    (Ok(()), true) => {}
                }
            }
            if count != plan.pods.len() {
                return Some(format!("`{workload}` has {count} pods instead of {}", plan.pods.len()));
            }
        }
        None
    }

    /// Every standing place that can be looked from now.
    fn standing(&self) -> Vec<Vantage> {
        let mut all = self.scene.vantages().everywhere();
        let stopped = self.stopped();
        all.retain(|from| match from {
            Vantage::PodOn(node) | Vantage::Node(node) => Some(node.as_str()) != stopped,
            Vantage::Outside | Vantage::Backend(_) => true,
        });
        all
    }

    /// At some time within the bound, everything everybody sees is as promised, or differs as is known.
    ///
    /// A case goes on after a known difference. What is promised is made of the objects as they are, which it
    /// leaves as they should be, and of every other cell it says nothing, so all of those mean what they
    /// always do. The one that differs may stay so, as a conntrack entry does; as long as it differs in the
    /// same way, that is known too, and if it comes to differ in another, that is not. Only clients that call
    /// there all the time are not judged, for what they saw may be what is known.
    async fn agrees(&mut self) -> Held {
        let deadline = Instant::now() + self.patience.convergence;
        loop {
            let began = Instant::now();
            let world = self.scene.whole_world().await?;
            let domain = &self.scene.cluster.promises().cluster_domain;
            self.table.learn(&world, self.scene.namespace(), domain);
            let mut from = self.standing();
            from.extend(hairpins(&world, self.scene.namespace(), self.stopped()));
            self.looks += self.table.cells(from.len());
            let looked = match self.scene.unbalanced(&world) {
                Some(finding) => Ok(Looked { looks: 1, differing: vec![Differing::unknown(finding)] }),
                None => self.table.look(&self.scene, &world, &from).await,
            };
            let is_over = began >= deadline;
            match looked.map(|looked| Sorted::of(looked, &self.known)) {
                Ok(sorted) => match sorted.unknown.first() {
                    None if is_over || sorted.is_old(&self.waited_for) => {
                        self.note(&sorted);
                        self.waited_for = sorted.cells().map(str::to_owned).collect();
                        let standing = self.standing();
                        if let Some(witnesses) = &mut self.witnesses {
                            witnesses.attend(&self.scene, &self.table, &standing)?;
                        }
                        return Ok(());
                    }
                    Some(first) if is_over => {
                        self.note(&sorted);
                        self.difference = first.called.as_ref().map(|called| called.difference.clone());
                        let bound = self.patience.convergence;
                        let observed = format!("{} (still so after {bound:?})", sorted.observed(first));
                        let promised = first.finding.promised.clone();
                        return Err(Broken::promise(promised, observed));
                    }
                    None | Some(_) => look_again().await,
                },
                Err(error) if is_over => return Err(error.into()),
                // A pod that calls start from may have ended meanwhile.
                Err(_) => look_again().await,
            }
        }
    }

    /// Keeps in mind which known differences showed.
    fn note(&mut self, sorted: &Sorted) {
        for (place, known) in &sorted.known {
            self.showed.entry(*place).or_insert_with(|| known.finding.observed.clone());
            self.excused.extend(known.called.as_ref().map(|called| called.to));
        }
    }
}

/// What came of a look, what is known apart from what is not.
struct Sorted {
    looks: usize,
    /// With the place of what is known in the list.
    known: Vec<(usize, Differing)>,
    unknown: Vec<Differing>,
}

impl Sorted {
    fn of(looked: Looked, all: &[KnownDifference]) -> Self {
        let mut sorted = Self { looks: looked.looks, known: Vec::new(), unknown: Vec::new() };
        for differing in looked.differing {
            let covers = |called: &Called| all.iter().position(|known| known.covers(&called.difference));
            let place = differing.called.as_ref().and_then(covers);
            match place {
                Some(place) => sorted.known.push((place, differing)),
                None => sorted.unknown.push(differing),
            }
        }
        sorted
    }

    /// What was seen of one that is not known, and how many others there are.
    fn observed(&self, first: &Differing) -> String {
        let mut observed = first.finding.observed.clone();
        if self.unknown.len() > 1 {
            let _ = write!(observed, "; {} of {} looks differ", self.unknown.len(), self.looks);
        }
        if !self.known.is_empty() {
            let _ = write!(observed, "; {} differ as known", self.known.len());
        }
        observed
    }

    /// The cells that differ as known.
    fn cells(&self) -> impl Iterator<Item = &str> {
        self.known.iter().filter_map(|(_, known)| known.called.as_ref()).map(|called| called.cell.as_str())
    }

    /// Were all cells that differ as known waited for?
    fn is_old(&self, waited_for: &BTreeSet<String>) -> bool {
        self.cells().all(|cell| waited_for.contains(cell))
    }
}

/// How often a pod's containers were started again.
fn restarts(pod: &Pod) -> i32 {
    let statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    statuses.map(|status| status.restart_count).sum()
}

#[cfg(test)]
mod tests {
    use stickler_reports::{Finding, Flow, Place, Promised, Saw, Slices, Transport};

    use super::*;

    fn silent(at: Place) -> Difference {
        let (protocol, flow, promised) = (Transport::Udp, Flow::Known, Promised::Answered);
        let (slices, by) = (Slices::Plain, Some("somebody".to_owned()));
        Difference { at, protocol, flow, slices, promised, seen: Saw::Silent, by }
    }

    fn differing(cell: &str, difference: Option<Difference>) -> Differing {
        let finding = Finding { promised: "an answer".to_owned(), observed: format!("{cell} got none") };
        let to = Destination::new([10, 0, 0, 1].into(), 80, stickler_model::Protocol::Udp);
        let called = difference.map(|difference| Called { cell: cell.to_owned(), to, difference });
        Differing { finding, called }
    }

    #[test]
    fn what_is_known_hides_nothing_else() {
        let known = KnownDifference {
            explore: vec![silent(Place::Pod), Difference { by: None, ..silent(Place::NodePort) }],
            reason: "it forgets".to_owned(),
            source: "https://example.org/1".to_owned(),
        };
        let all = [
            differing("a", Some(silent(Place::NodePort))),
            differing("b", Some(silent(Place::ClusterIp))),
            differing("c", None),
            differing("d", Some(silent(Place::NodePort))),
        ];
        let looked = Looked { looks: 9, differing: all.to_vec() };
        let sorted = Sorted::of(looked.clone(), std::slice::from_ref(&known));
        let first = sorted.unknown.first().expect("one is not known");
        assert_eq!(sorted.observed(first), "b got none; 2 of 9 looks differ; 2 differ as known");
        assert!(!sorted.is_old(&BTreeSet::from(["a".to_owned()])), "`d` is new");
        assert!(sorted.is_old(&BTreeSet::from(["a".to_owned(), "d".to_owned()])));

        let sorted = Sorted::of(looked.clone(), &[]);
        assert_eq!(
            (sorted.known.len(), sorted.unknown.len()),
            (0, 4),
            "nothing is known to who was not told"
        );
        // The place is that of the entry that covers it.
        let other = KnownDifference { explore: vec![silent(Place::Pod)], ..known.clone() };
        let sorted = Sorted::of(looked, &[other, known]);
        assert_eq!(sorted.known.iter().map(|(place, _)| *place).collect::<Vec<_>>(), [1, 1]);
    }
}
