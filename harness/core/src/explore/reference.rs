//! The reference machine: an abstract plan of the world, and which operations make sense in it.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proptest::sample::select;
use proptest::strategy::{Strategy, Union};
use proptest_state_machine::{ReferenceStateMachine, Sequential};

use super::form::{
    Distribution, Form, PORTS, Policy, Ports, Ranges, Reach, Selection, ServiceLabel, SliceName,
};
use super::operation::{Maker, Operation, ServiceName, WorkloadName, edited};

/// What a world of an exploration is meant to look like. Pods stand for themselves by their place,
/// the oldest first; which of several that were made at once is the older one is left to the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) ground: Ground,
    pub(crate) services: BTreeMap<ServiceName, Form>,
    pub(crate) workloads: BTreeMap<WorkloadName, WorkloadPlan>,
    /// The services somebody made Endpoints for.
    pub(crate) endpoints: BTreeSet<ServiceName>,
    pub(crate) slices: BTreeSet<(ServiceName, SliceName)>,
    /// The node whose kubelet is stopped.
    pub(crate) stopped: Option<u8>,
}

/// What of a cluster decides which operations make sense there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ground {
    pub(crate) nodes: u8,
    /// How many nodes have a kubelet that may be stopped.
    pub(crate) kubelets: u8,
    /// The minor version of its Kubernetes.
    pub(crate) minor: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WorkloadPlan {
    pub(crate) maker: Maker,
    pub(crate) gated: bool,
    pub(crate) pods: Vec<PodPlan>,
}

/// How one pod differs from a fresh one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct PodPlan {
    pub(crate) unlabelled: bool,
    pub(crate) unready: bool,
    pub(crate) gate_open: bool,
    /// A container that ends twice waits before it is started again; once is enough.
    pub(crate) killed: bool,
}

/// The most pods of one workload.
const MOST_PODS: u8 = 3;

/// From this minor version on, `trafficDistribution` knows more than `PreferClose`
/// ([KEP-3015](https://github.com/kubernetes/enhancements/tree/master/keps/sig-network/3015-prefer-same-node)).
const PREFER_SAME: u32 = 34;

/// From this minor version on, a service of type `LoadBalancer` may have ports of several protocols
/// ([KEP-1435](https://github.com/kubernetes/enhancements/tree/master/keps/sig-network/1435-mixed-protocol-lb):
/// on by default).
const MIXED_PROTOCOLS: u32 = 24;

/// From this minor version on, a service of type `ClusterIP` that has external IPs may have an external
/// traffic policy ([kubernetes/kubernetes#119150](https://github.com/kubernetes/kubernetes/pull/119150)).
const EXTERNAL_IP_POLICY: u32 = 29;

impl Plan {
    /// What every case begins with: two pods that are ready, and no service.
    pub(crate) fn initial(ground: Ground) -> Self {
        let web = WorkloadPlan { maker: Maker::ReplicaSet, gated: false, pods: vec![PodPlan::default(); 2] };
        Self {
            ground,
            services: BTreeMap::new(),
            workloads: BTreeMap::from([(WorkloadName::Web, web)]),
            endpoints: BTreeSet::new(),
            slices: BTreeSet::new(),
            stopped: None,
        }
    }

    /// Whether an operation makes sense now; if not, why not. One that changes nothing does: else what
    /// is left of a sequence would often be none.
    pub(crate) fn permits(&self, operation: &Operation) -> Result<(), String> {
        let service = |name: &ServiceName| {
            self.services.get(name).ok_or_else(|| format!("there is no service `{name}`"))
        };
        let workload = |name: &WorkloadName| {
            self.workloads.get(name).ok_or_else(|| format!("there is no workload `{name}`"))
        };
        let pod = |name: &WorkloadName, number: &u8| {
            let pods = &workload(name)?.pods;
            let index = number.checked_sub(1).map(usize::from);
            index
                .and_then(|index| pods.get(index))
                .ok_or_else(|| format!("`{name}` has no pod {number}, it has {}", pods.len()))
        };
        let in_reach = || match self.stopped {
            Some(node) => Err(format!("the kubelet of node {node} is stopped, and the pod may be there")),
            None => Ok(()),
        };
        let changes = |is: bool, what: &str| if is { Err(format!("{what} already")) } else { Ok(()) };
        match operation {
            Operation::CreateService(form) => {
                let name = form.service;
                changes(self.services.contains_key(&name), &format!("there is a service `{name}`"))?;
                self.fits(form)
            }
            Operation::DeleteService { service: name } => service(name).map(drop),
            Operation::SetTarget { service: name, of } => {
                let form = service(name)?;
                if form.reach == Reach::Headless && form.of == Selection::Nobody && form.of != *of {
                    return Err(format!(
                        "`{name}` was made without a selector, so its address families may be any"
                    ));
                }
                self.fits(&Form { of: *of, ..*form })
            }
            Operation::SetReach { service: name, reach } => {
                let form = service(name)?;
                let ends = [form.reach, *reach];
                let headless = ends.iter().filter(|reach| **reach == Reach::Headless).count();
                if headless == 1 && !ends.contains(&Reach::ExternalName) {
                    return Err(format!("`{name}` cannot become headless, or cease to be"));
                }
                self.fits(&Form { reach: *reach, ..*form }.settled())
            }
            Operation::SetSticky { service: name, .. }
            | Operation::SetPublish { service: name, .. }
            | Operation::SetPort { service: name, .. }
            | Operation::SetExternal { service: name, .. }
            | Operation::SetInternal { service: name, .. }
            | Operation::SetIps { service: name, .. }
            | Operation::SetRanges { service: name, .. }
            | Operation::SetDistribution { service: name, .. }
            | Operation::SetLabel { service: name, .. } => {
                let form = *service(name)?;
                self.fits(&edited(form, operation).unwrap_or(form))
            }
            Operation::MakeEndpoints { service: name, of, pods, .. } => {
                if service(name)?.of != Selection::Nobody {
                    return Err(format!("`{name}` has a selector, so its Endpoints are made for it"));
                }
                in_reach()?;
                pod(of, pods).map(drop)
            }
            Operation::RemoveEndpoints { service: name } => {
                let by_hand = service(name)?.of == Selection::Nobody && self.endpoints.contains(name);
                if by_hand { Ok(()) } else { Err(format!("nobody made Endpoints for `{name}`")) }
            }
            Operation::MakeSlice { service: name, of, pods, .. } => {
                if service(name)?.of != Selection::Nobody {
                    return Err(format!("`{name}` has a selector, so its slices are made for it"));
                }
                in_reach()?;
                pod(of, pods).map(drop)
            }
            Operation::RemoveSlice { service: name, slice } => {
                let by_hand = self.slices.contains(&(*name, *slice));
                if by_hand { Ok(()) } else { Err(format!("nobody made a slice `{slice}` for `{name}`")) }
            }
            Operation::CreateWorkload { workload: name, replicas, .. } => {
                within(*replicas)?;
                changes(self.workloads.contains_key(name), &format!("there is a workload `{name}`"))
            }
            Operation::Scale { workload: name, maker, replicas } => {
                within(*replicas)?;
                let plan = workload(name)?;
                if plan.maker != *maker {
                    return Err(format!("`{name}` is no {maker}"));
                }
                Ok(())
            }
            Operation::DeletePod { workload: name, pod: number } => pod(name, number).map(drop),
            Operation::Relabel { workload: name, pod: number, .. } => pod(name, number).map(drop),
            Operation::Probe { workload: name, pod: number, .. } => {
                in_reach()?;
                pod(name, number).map(drop)
            }
            Operation::Gate { workload: name, pod: number, .. } => {
                if !workload(name)?.gated {
                    return Err(format!("the pods of `{name}` have no readiness gate"));
                }
                pod(name, number).map(drop)
            }
            Operation::Kill { workload: name, pod: number } => {
                in_reach()?;
                changes(pod(name, number)?.killed, &format!("pod {number} of `{name}` was killed"))
            }
            Operation::StopKubelet { node } => {
                if *node == 0 || *node > self.ground.kubelets {
                    return Err(format!("there is no node {node} whose kubelet can be stopped"));
                }
                changes(self.stopped.is_some(), "a kubelet is stopped")
            }
            Operation::StartKubelet { node } if self.stopped == Some(*node) => Ok(()),
            Operation::StartKubelet { node } => Err(format!("the kubelet of node {node} was not stopped")),
        }
    }

    /// Whether a service may be so, beside the others there are.
    fn fits(&self, form: &Form) -> Result<(), String> {
        if let Some(why) = form.contradiction() {
            return Err(why);
        }
        let missing = form.of.workload().filter(|workload| !self.workloads.contains_key(workload));
        if let Some(workload) = missing {
            return Err(format!("there is no workload `{workload}`"));
        }
        if form.ips > self.ground.nodes {
            return Err(format!("there are no {} nodes", form.ips));
        }
        // Who is to be answered where two have the same address and port, nobody promises.
        let other = self.services.values().find(|other| other.service != form.service && other.ips > 0);
        if let (true, Some(other)) = (form.ips > 0, other) {
            return Err(format!("the nodes' addresses are external IPs of `{}`", other.service));
        }
        if form.reach == Reach::LoadBalancer
            && form.ports == Ports::Both
            && self.ground.minor < MIXED_PROTOCOLS
        {
            let minor = self.ground.minor;
            return Err(format!(
                "Kubernetes 1.{minor} has no load balancers with ports of several protocols"
            ));
        }
        if form.external == Policy::Local
            && !matches!(form.reach, Reach::NodePort | Reach::LoadBalancer)
            && self.ground.minor < EXTERNAL_IP_POLICY
        {
            let minor = self.ground.minor;
            return Err(format!(
                "Kubernetes 1.{minor} has no external traffic policy for external IPs alone"
            ));
        }
        match form.distribution {
            Some(Distribution::PreferSameZone | Distribution::PreferSameNode)
                if self.ground.minor < PREFER_SAME =>
            {
                Err(format!("Kubernetes 1.{} knows no such traffic distribution", self.ground.minor))
            }
            _ => Ok(()),
        }
    }

    /// A form that fits, as much like this one as can be.
    fn fitting(&self, mut form: Form) -> Form {
        form.sticky &= form.reach != Reach::Headless;
        form = form.settled();
        let cluster = Form { external: Policy::Cluster, ..form };
        if self.fits(&form).is_err() && self.fits(&cluster).is_ok() {
            form = cluster;
        }
        if self.fits(&form).is_err() {
            form = Form { ips: 0, ..form }.settled();
        }
        if self.fits(&form).is_err() {
            form.distribution = None;
        }
        if self.fits(&form).is_err() {
            form.ports = Ports::Http;
        }
        form
    }

    /// The plan after an operation it permits.
    pub(crate) fn after(mut self, operation: &Operation) -> Self {
        match operation {
            Operation::CreateService(form) => {
                self.services.insert(form.service, *form);
            }
            Operation::DeleteService { service } => {
                self.services.remove(service);
                // Its Endpoints go with it, whoever made them; slices do not.
                self.endpoints.remove(service);
            }
            Operation::SetSticky { service, .. }
            | Operation::SetPublish { service, .. }
            | Operation::SetTarget { service, .. }
            | Operation::SetReach { service, .. }
            | Operation::SetPort { service, .. }
            | Operation::SetExternal { service, .. }
            | Operation::SetInternal { service, .. }
            | Operation::SetIps { service, .. }
            | Operation::SetRanges { service, .. }
            | Operation::SetDistribution { service, .. }
            | Operation::SetLabel { service, .. } => {
                if let Some(form) = self.services.get_mut(service) {
                    *form = edited(*form, operation).unwrap_or(*form);
                    if form.of != Selection::Nobody {
                        // They are the controller's from now on.
                        self.endpoints.remove(service);
                    }
                }
            }
            Operation::MakeEndpoints { service, .. } => {
                self.endpoints.insert(*service);
            }
            Operation::RemoveEndpoints { service } => {
                self.endpoints.remove(service);
            }
            Operation::MakeSlice { service, slice, .. } => {
                self.slices.insert((*service, *slice));
            }
            Operation::RemoveSlice { service, slice } => {
                self.slices.remove(&(*service, *slice));
            }
            Operation::CreateWorkload { workload, maker, gated, replicas } => {
                let pods = vec![PodPlan::default(); usize::from(*replicas)];
                self.workloads.insert(*workload, WorkloadPlan { maker: *maker, gated: *gated, pods });
            }
            Operation::Scale { workload, replicas, .. } => {
                if let Some(plan) = self.workloads.get_mut(workload) {
                    plan.pods.resize(usize::from(*replicas), PodPlan::default());
                }
            }
            Operation::DeletePod { workload, pod } => {
                if let Some(plan) = self.workloads.get_mut(workload)
                    && (1..=plan.pods.len()).contains(&usize::from(*pod))
                {
                    plan.pods.remove(usize::from(*pod) - 1);
                    plan.pods.push(PodPlan::default());
                }
            }
            Operation::Relabel { workload, pod, on } => {
                self.pod(*workload, *pod, |plan| plan.unlabelled = !*on);
            }
            Operation::Probe { workload, pod, ready } => {
                self.pod(*workload, *pod, |plan| plan.unready = !*ready);
            }
            Operation::Gate { workload, pod, ready } => {
                self.pod(*workload, *pod, |plan| plan.gate_open = *ready);
            }
            Operation::Kill { workload, pod } => {
                // What was written is gone with the container.
                self.pod(*workload, *pod, |plan| (plan.killed, plan.unready) = (true, false));
            }
            Operation::StopKubelet { node } => self.stopped = Some(*node),
            Operation::StartKubelet { .. } => self.stopped = None,
        }
        self
    }

    fn pod(&mut self, workload: WorkloadName, number: u8, change: impl FnOnce(&mut PodPlan)) {
        let index = usize::from(number).wrapping_sub(1);
        if let Some(plan) = self.workloads.get_mut(&workload).and_then(|plan| plan.pods.get_mut(index)) {
            change(plan);
        }
    }
}

fn within(replicas: u8) -> Result<(), String> {
    if replicas <= MOST_PODS { Ok(()) } else { Err(format!("{replicas} replicas are more than {MOST_PODS}")) }
}

/// The machine proptest draws sequences of operations from.
pub(crate) struct Reference;

impl ReferenceStateMachine for Reference {
    type State = Plan;
    type Transition = Operation;

    fn init_state() -> BoxedStrategy<Plan> {
        Just(Plan::initial(Ground { nodes: 3, kubelets: 3, minor: u32::MAX })).boxed()
    }

    fn transitions(plan: &Plan) -> BoxedStrategy<Operation> {
        // Every one that changes something, those first that a failure is better shown by.
        let mut kinds: Vec<(u32, BoxedStrategy<Operation>)> = Vec::new();
        services(plan, &mut kinds);
        made_by_hand(plan, &mut kinds);
        workloads(plan, &mut kinds);
        kubelets(plan, &mut kinds);
        Union::new_weighted(kinds).boxed()
    }

    fn apply(plan: Plan, operation: &Operation) -> Plan {
        plan.after(operation)
    }

    fn preconditions(plan: &Plan, operation: &Operation) -> bool {
        plan.permits(operation).is_ok()
    }
}

/// Sequences of operations for such a cluster.
pub(crate) fn sequences(
    ground: Ground,
    steps: usize,
) -> Sequential<Plan, Operation, BoxedStrategy<Plan>, BoxedStrategy<Operation>> {
    Sequential::new(
        (steps..=steps).into(),
        move || Just(Plan::initial(ground)).boxed(),
        Reference::preconditions,
        Reference::transitions,
        Reference::apply,
    )
}

/// One of these, each as often as its weight says; the first one is the simplest.
fn one_of<T: Clone + std::fmt::Debug + 'static>(values: Vec<(u32, T)>) -> BoxedStrategy<T> {
    Union::new_weighted(values.into_iter().map(|(weight, value)| (weight, Just(value).boxed())).collect())
        .boxed()
}

/// A new service. Most of what may be special about it is not, so that what is can be told apart.
fn creation(plan: &Plan, service: ServiceName) -> BoxedStrategy<Operation> {
    let mut of: Vec<(u32, Selection)> = plan.workloads.keys().map(|name| (4, (*name).into())).collect();
    if plan.workloads.len() > 1 {
        of.push((2, Selection::Both));
    }
    of.push((1, Selection::Nobody));
    let reach = one_of(vec![
        (3, Reach::ClusterIp),
        (3, Reach::NodePort),
        (3, Reach::LoadBalancer),
        (3, Reach::Headless),
        (1, Reach::ExternalName),
    ]);
    let basics = (one_of(of), reach, prop::bool::weighted(0.4), prop::bool::weighted(0.2));
    let ports = one_of(vec![
        (5, Ports::Http),
        (2, Ports::Named),
        (2, Ports::Udp),
        (2, Ports::Both),
        (2, Ports::Several),
    ]);
    let policy = |weight| one_of(vec![(10 - weight, Policy::Cluster), (weight, Policy::Local)]);
    let policies = (policy(4), policy(2));
    let addresses = (
        one_of(vec![(6, 0), (1, 1), (1, 2)]),
        one_of(vec![(4, None), (1, Some(Ranges::Everybody)), (1, Some(Ranges::Nobody))]),
    );
    let distribution = one_of(vec![
        (9, None),
        (1, Some(Distribution::PreferClose)),
        (1, Some(Distribution::PreferSameZone)),
        (1, Some(Distribution::PreferSameNode)),
    ]);
    let label =
        one_of(vec![(18, None), (1, Some(ServiceLabel::ProxyName)), (1, Some(ServiceLabel::Headless))]);
    let plan = plan.clone();
    (basics, (ports, select(PORTS.to_vec())), policies, addresses, distribution, label)
        .prop_map(move |(basics, (ports, port), (external, internal), (ips, ranges), distribution, label)| {
            let (of, reach, sticky, publish) = basics;
            let form = Form {
                service,
                of,
                reach,
                sticky,
                publish,
                ports,
                port,
                external,
                internal,
                ips,
                ranges,
                distribution,
                label,
            };
            Operation::CreateService(plan.fitting(form))
        })
        .boxed()
}

fn services(plan: &Plan, kinds: &mut Vec<(u32, BoxedStrategy<Operation>)>) {
    let free = ServiceName::ALL.into_iter().find(|name| !plan.services.contains_key(name));
    if let Some(service) = free {
        // A world without services has nothing to look at.
        kinds.push((if plan.services.is_empty() { 40 } else { 4 }, creation(plan, service)));
    }
    let mut edits: BTreeMap<&str, Vec<Operation>> = BTreeMap::new();
    for form in plan.services.values() {
        for edit in edits_of(form) {
            if edited(*form, &edit).is_some_and(|after| after != *form) && plan.permits(&edit).is_ok() {
                edits.entry(edit.kind()).or_default().push(edit);
            }
        }
    }
    for (kind, edits) in edits {
        let weight = match kind {
            "change type" | "switch external traffic policy" | "change ports" => 2,
            _ => 1,
        };
        kinds.push((weight, select(edits).boxed()));
    }
    if !plan.services.is_empty() {
        let names: Vec<ServiceName> = plan.services.keys().copied().collect();
        kinds.push((2, select(names).prop_map(|service| Operation::DeleteService { service }).boxed()));
    }
}

/// Every edit of a service there may be, whether it makes sense or not.
fn edits_of(form: &Form) -> Vec<Operation> {
    let service = form.service;
    let other = |policy| if policy == Policy::Local { Policy::Cluster } else { Policy::Local };
    let mut edits = vec![
        Operation::SetPublish { service, publish: !form.publish },
        Operation::SetSticky { service, sticky: !form.sticky },
        Operation::SetExternal { service, policy: other(form.external) },
        Operation::SetInternal { service, policy: other(form.internal) },
    ];
    let all = [Selection::Web, Selection::Api, Selection::Both, Selection::Nobody];
    edits.extend(all.map(|of| Operation::SetTarget { service, of }));
    let all = [Reach::ClusterIp, Reach::NodePort, Reach::LoadBalancer, Reach::Headless, Reach::ExternalName];
    edits.extend(all.map(|reach| Operation::SetReach { service, reach }));
    for ports in [Ports::Http, Ports::Named, Ports::Udp, Ports::Both, Ports::Several] {
        edits.extend(PORTS.map(|port| Operation::SetPort { service, port, ports }));
    }
    edits.extend([0, 1, 2].map(|ips| Operation::SetIps { service, ips }));
    let all = [None, Some(Ranges::Everybody), Some(Ranges::Nobody)];
    edits.extend(all.map(|ranges| Operation::SetRanges { service, ranges }));
    let all = [
        None,
        Some(Distribution::PreferClose),
        Some(Distribution::PreferSameZone),
        Some(Distribution::PreferSameNode),
    ];
    edits.extend(all.map(|distribution| Operation::SetDistribution { service, distribution }));
    let all = [None, Some(ServiceLabel::ProxyName), Some(ServiceLabel::Headless)];
    edits.extend(all.map(|label| Operation::SetLabel { service, label }));
    edits
}

/// Endpoints for those who have no selector.
fn made_by_hand(plan: &Plan, kinds: &mut Vec<(u32, BoxedStrategy<Operation>)>) {
    let mut by_kind: BTreeMap<&str, Vec<Operation>> = BTreeMap::new();
    for form in plan.services.values() {
        let service = form.service;
        let mut all = vec![Operation::RemoveEndpoints { service }];
        for slice in [SliceName::A, SliceName::B] {
            all.push(Operation::RemoveSlice { service, slice });
        }
        for (of, pods) in plan.workloads.keys().flat_map(|of| (1..=MOST_PODS).map(move |pods| (*of, pods))) {
            let ports = form.ports;
            all.push(Operation::MakeEndpoints { service, of, pods, ports });
            for (slice, ready) in
                [(SliceName::A, true), (SliceName::A, true), (SliceName::B, true), (SliceName::A, false)]
            {
                all.push(Operation::MakeSlice { service, slice, of, pods, ports, ready });
            }
        }
        for operation in all.into_iter().filter(|operation| plan.permits(operation).is_ok()) {
            by_kind.entry(operation.kind()).or_default().push(operation);
        }
    }
    for (kind, all) in by_kind {
        kinds.push((if kind.starts_with("make") { 5 } else { 2 }, select(all).boxed()));
    }
}

fn workloads(plan: &Plan, kinds: &mut Vec<(u32, BoxedStrategy<Operation>)>) {
    let pods: Vec<(WorkloadName, bool, u8, PodPlan)> = plan
        .workloads
        .iter()
        .flat_map(|(name, plan)| {
            (1..).zip(&plan.pods).map(move |(number, pod)| (*name, plan.gated, number, *pod))
        })
        .collect();
    let mut add = |weight: u32, operations: Vec<Operation>| {
        if !operations.is_empty() {
            kinds.push((weight, select(operations).boxed()));
        }
    };
    add(
        4,
        pods.iter()
            .map(|(workload, _, pod, _)| Operation::DeletePod { workload: *workload, pod: *pod })
            .collect(),
    );
    add(
        4,
        plan.workloads
            .iter()
            .flat_map(|(name, plan)| {
                let (workload, maker, now) = (*name, plan.maker, plan.pods.len());
                (0..=MOST_PODS)
                    .filter(move |replicas| usize::from(*replicas) != now)
                    .map(move |replicas| Operation::Scale { workload, maker, replicas })
            })
            .collect(),
    );
    add(
        3,
        pods.iter()
            .map(|(workload, _, pod, plan)| Operation::Relabel {
                workload: *workload,
                pod: *pod,
                on: plan.unlabelled,
            })
            .collect(),
    );
    add(
        6,
        pods.iter()
            .filter(|(_, gated, _, _)| *gated)
            .map(|(workload, _, pod, plan)| Operation::Gate {
                workload: *workload,
                pod: *pod,
                ready: !plan.gate_open,
            })
            .collect(),
    );
    if plan.stopped.is_none() {
        add(
            2,
            pods.iter()
                .map(|(workload, _, pod, plan)| Operation::Probe {
                    workload: *workload,
                    pod: *pod,
                    ready: plan.unready,
                })
                .collect(),
        );
        add(
            2,
            pods.iter()
                .filter(|(_, _, _, plan)| !plan.killed)
                .map(|(workload, _, pod, _)| Operation::Kill { workload: *workload, pod: *pod })
                .collect(),
        );
    }
    let free: Vec<WorkloadName> =
        WorkloadName::ALL.into_iter().filter(|name| !plan.workloads.contains_key(name)).collect();
    if let Some(workload) = free.first().copied() {
        let maker = select(vec![Maker::ReplicaSet, Maker::Deployment]);
        let create = (maker, any::<bool>(), 1..=MOST_PODS).prop_map(move |(maker, gated, replicas)| {
            Operation::CreateWorkload { workload, maker, gated, replicas }
        });
        kinds.push((3, create.boxed()));
    }
}

fn kubelets(plan: &Plan, kinds: &mut Vec<(u32, BoxedStrategy<Operation>)>) {
    match plan.stopped {
        Some(node) => kinds.push((4, Just(Operation::StartKubelet { node }).boxed())),
        None if plan.ground.kubelets > 0 => {
            kinds.push((
                1,
                (1..=plan.ground.kubelets).prop_map(|node| Operation::StopKubelet { node }).boxed(),
            ));
        }
        None => {}
    }
}

#[cfg(test)]
mod tests {
    use proptest::strategy::ValueTree as _;
    use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

    use super::*;

    fn runner(seed: u8) -> TestRunner {
        let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[seed; 32]);
        TestRunner::new_with_rng(Config::default(), rng)
    }

    fn ground(kubelets: u8) -> Ground {
        Ground { nodes: 3, kubelets, minor: 37 }
    }

    fn permitted(mut plan: Plan, operations: &[Operation]) -> Plan {
        for operation in operations {
            assert_eq!(plan.permits(operation), Ok(()), "{operation:?} in {operations:?}");
            plan = plan.after(operation);
        }
        plan
    }

    #[test]
    fn every_operation_of_a_sequence_is_permitted_when_its_turn_comes() {
        let mut seen = BTreeSet::new();
        for seed in 0..250 {
            let tree = sequences(ground(3), 12).new_tree(&mut runner(seed)).expect("a sequence");
            let (plan, operations, _) = tree.current();
            assert_eq!(operations.len(), 12);
            seen.extend(operations.iter().map(Operation::kind));
            permitted(plan, &operations);
        }
        assert_eq!(seen.len(), 30, "some kinds of operations never come: {seen:?}");
    }

    #[test]
    fn what_a_sequence_shrinks_to_is_permitted_too() {
        for seed in 0..20 {
            let mut tree = sequences(ground(3), 8).new_tree(&mut runner(seed)).expect("a sequence");
            let (_, drawn, seen) = tree.current();
            // All of them were performed.
            seen.expect("a count").store(drawn.len(), std::sync::atomic::Ordering::SeqCst);
            let wanted = drawn.last().map(Operation::kind);
            // Fails as long as an operation of the last one's kind is in it.
            let mut fewest = drawn.len();
            let mut simpler = tree.simplify();
            for _ in 0..500 {
                if !simpler {
                    break;
                }
                let (plan, operations, _) = tree.current();
                permitted(plan, &operations);
                if operations.iter().any(|operation| Some(operation.kind()) == wanted) {
                    fewest = fewest.min(operations.len());
                    simpler = tree.simplify();
                } else {
                    simpler = tree.complicate();
                }
            }
            assert!(fewest <= 6, "{wanted:?} shrank to {fewest} operations: {drawn:?}");
        }
    }

    #[test]
    fn one_seed_draws_one_sequence() {
        let draw =
            |seed| sequences(ground(3), 8).new_tree(&mut runner(seed)).expect("a sequence").current().1;
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
    }

    #[test]
    fn without_disruption_no_kubelet_is_stopped() {
        for seed in 0..20 {
            let (_, operations, _) =
                sequences(ground(0), 20).new_tree(&mut runner(seed)).expect("a sequence").current();
            assert!(!operations.iter().any(|operation| matches!(operation, Operation::StopKubelet { .. })));
        }
    }

    #[test]
    fn old_load_balancers_have_one_protocol() {
        let mixed =
            Form { ports: Ports::Both, ..Form::plain(ServiceName::One, Selection::Web, Reach::LoadBalancer) };
        let plan = |minor| Plan::initial(Ground { nodes: 3, kubelets: 0, minor });
        assert_eq!(plan(24).permits(&Operation::CreateService(mixed)), Ok(()));
        let told = plan(23).permits(&Operation::CreateService(mixed)).expect_err("two protocols");
        assert_eq!(told, "Kubernetes 1.23 has no load balancers with ports of several protocols");
        assert_eq!(plan(23).fitting(mixed).ports, Ports::Http);
    }

    #[test]
    fn old_external_ips_have_no_policy_of_their_own() {
        let plain = |reach| Form::plain(ServiceName::One, Selection::Web, reach);
        let local = |reach| Form { external: Policy::Local, ips: 1, port: 8085, ..plain(reach) };
        let plan = |minor| Plan::initial(Ground { nodes: 3, kubelets: 0, minor });
        let create = |reach| Operation::CreateService(local(reach));
        assert_eq!(plan(29).permits(&create(Reach::ClusterIp)), Ok(()));
        assert_eq!(plan(28).permits(&create(Reach::NodePort)), Ok(()));
        let told = plan(28).permits(&create(Reach::ClusterIp)).expect_err("the API refuses it");
        assert_eq!(told, "Kubernetes 1.28 has no external traffic policy for external IPs alone");
        // What fits best gives up the addresses first, and with them the policy.
        assert_eq!(
            plan(28).permits(&Operation::CreateService(plan(28).fitting(local(Reach::ClusterIp)))),
            Ok(())
        );
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_the_reason() {
        let (one, two) = (ServiceName::One, ServiceName::Two);
        let plain = |service, of, reach| Form::plain(service, of, reach);
        let plan = Plan::initial(Ground { nodes: 1, kubelets: 1, minor: 33 })
            .after(&Operation::CreateService(Form {
                ips: 1,
                port: 8085,
                ..plain(two, Selection::Web, Reach::ClusterIp)
            }))
            .after(&Operation::CreateService(plain(ServiceName::Three, Selection::Nobody, Reach::Headless)));
        let three = ServiceName::Three;
        let made = Operation::MakeEndpoints {
            service: three,
            of: WorkloadName::Web,
            pods: 3,
            ports: Ports::default(),
        };
        for (operation, told) in [
            (
                Operation::CreateService(plain(one, Selection::Api, Reach::NodePort)),
                "there is no workload `api`",
            ),
            (
                Operation::CreateService(Form {
                    ips: 1,
                    port: 8085,
                    ..plain(one, Selection::Web, Reach::NodePort)
                }),
                "the nodes' addresses are external IPs of `two`",
            ),
            (Operation::SetIps { service: two, ips: 2 }, "there are no 2 nodes"),
            (
                Operation::SetPort { service: two, port: 80, ports: Ports::default() },
                "port 80 of nodes is for their own programs",
            ),
            (
                Operation::SetDistribution { service: two, distribution: Some(Distribution::PreferSameNode) },
                "Kubernetes 1.33 knows no such traffic distribution",
            ),
            (
                Operation::SetReach { service: two, reach: Reach::Headless },
                "`two` cannot become headless, or cease to be",
            ),
            (
                Operation::SetTarget { service: three, of: Selection::Web },
                "`three` was made without a selector, so its address families may be any",
            ),
            (made, "`web` has no pod 3, it has 2"),
            (Operation::RemoveEndpoints { service: three }, "nobody made Endpoints for `three`"),
            (
                Operation::RemoveSlice { service: three, slice: SliceName::A },
                "nobody made a slice `a` for `three`",
            ),
            (
                Operation::MakeSlice {
                    service: two,
                    slice: SliceName::A,
                    of: WorkloadName::Web,
                    pods: 1,
                    ports: Ports::default(),
                    ready: true,
                },
                "`two` has a selector, so its slices are made for it",
            ),
            (Operation::DeleteService { service: ServiceName::One }, "there is no service `one`"),
            (Operation::DeletePod { workload: WorkloadName::Web, pod: 3 }, "`web` has no pod 3, it has 2"),
            (Operation::DeletePod { workload: WorkloadName::Web, pod: 0 }, "`web` has no pod 0, it has 2"),
            (Operation::StopKubelet { node: 2 }, "there is no node 2 whose kubelet can be stopped"),
            (Operation::StartKubelet { node: 1 }, "the kubelet of node 1 was not stopped"),
        ] {
            assert_eq!(plan.permits(&operation), Err(told.to_owned()));
        }
    }
}
