//! The reference machine: an abstract plan of the world, and which operations make sense in it.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::sample::select;
use proptest::strategy::{Strategy, Union};
use proptest_state_machine::{ReferenceStateMachine, Sequential};

use super::operation::{Maker, Operation, Reach, ServiceName, WorkloadName};

/// What a world of an exploration is meant to look like. Pods stand for themselves by their place,
/// the oldest first; which of several that were made at once is the older one is left to the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// How many nodes have a kubelet that may be stopped.
    pub(crate) kubelets: u8,
    pub(crate) services: BTreeMap<ServiceName, ServicePlan>,
    pub(crate) workloads: BTreeMap<WorkloadName, WorkloadPlan>,
    /// The node whose kubelet is stopped.
    pub(crate) stopped: Option<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ServicePlan {
    pub(crate) of: WorkloadName,
    pub(crate) reach: Reach,
    pub(crate) sticky: bool,
    pub(crate) publish: bool,
    pub(crate) port: u16,
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

/// The ports a service may have.
const PORTS: [u16; 2] = [80, 8080];

impl Plan {
    /// What every case begins with: two pods that are ready, and no service.
    pub(crate) fn initial(kubelets: u8) -> Self {
        let web = WorkloadPlan { maker: Maker::ReplicaSet, gated: false, pods: vec![PodPlan::default(); 2] };
        Self {
            kubelets,
            services: BTreeMap::new(),
            workloads: BTreeMap::from([(WorkloadName::Web, web)]),
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
            Operation::CreateService { service: name, of, reach, sticky, .. } => {
                workload(of)?;
                if *sticky && *reach == Reach::Headless {
                    return Err(format!("`{name}` is headless, so there is nothing that could be sticky"));
                }
                changes(self.services.contains_key(name), &format!("there is a service `{name}`"))
            }
            Operation::DeleteService { service: name } => service(name).map(drop),
            Operation::SetSticky { service: name, .. } => {
                let plan = service(name)?;
                if plan.reach == Reach::Headless {
                    return Err(format!("`{name}` is headless, so there is nothing that could be sticky"));
                }
                Ok(())
            }
            Operation::SetPublish { service: name, .. } => service(name).map(drop),
            Operation::SetTarget { service: name, of } => {
                workload(of)?;
                service(name).map(drop)
            }
            Operation::SetReach { service: name, reach } => {
                let plan = service(name)?;
                if plan.reach == Reach::Headless || *reach == Reach::Headless {
                    return Err(format!("`{name}` cannot become headless, or cease to be"));
                }
                Ok(())
            }
            Operation::SetPort { service: name, port } => {
                if *port == 0 {
                    return Err("0 is no port".to_owned());
                }
                service(name).map(drop)
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
                if *node == 0 || *node > self.kubelets {
                    return Err(format!("there is no node {node} whose kubelet can be stopped"));
                }
                changes(self.stopped.is_some(), "a kubelet is stopped")
            }
            Operation::StartKubelet { node } if self.stopped == Some(*node) => Ok(()),
            Operation::StartKubelet { node } => Err(format!("the kubelet of node {node} was not stopped")),
        }
    }

    /// The plan after an operation it permits.
    pub(crate) fn after(mut self, operation: &Operation) -> Self {
        match operation {
            Operation::CreateService { service, of, reach, sticky, publish } => {
                let plan = ServicePlan {
                    of: *of,
                    reach: *reach,
                    sticky: *sticky,
                    publish: *publish,
                    port: PORTS[0],
                };
                self.services.insert(*service, plan);
            }
            Operation::DeleteService { service } => {
                self.services.remove(service);
            }
            Operation::SetSticky { service, sticky } => self.service(*service, |plan| plan.sticky = *sticky),
            Operation::SetPublish { service, publish } => {
                self.service(*service, |plan| plan.publish = *publish);
            }
            Operation::SetTarget { service, of } => self.service(*service, |plan| plan.of = *of),
            Operation::SetReach { service, reach } => self.service(*service, |plan| plan.reach = *reach),
            Operation::SetPort { service, port } => self.service(*service, |plan| plan.port = *port),
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

    fn service(&mut self, name: ServiceName, change: impl FnOnce(&mut ServicePlan)) {
        if let Some(plan) = self.services.get_mut(&name) {
            change(plan);
        }
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
        Just(Plan::initial(3)).boxed()
    }

    fn transitions(plan: &Plan) -> BoxedStrategy<Operation> {
        // Every one that changes something, those first that a failure is better shown by.
        let mut kinds: Vec<(u32, BoxedStrategy<Operation>)> = Vec::new();
        services(plan, &mut kinds);
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

/// Sequences of operations for a cluster with this many kubelets that can be stopped.
pub(crate) fn sequences(
    kubelets: u8,
    steps: usize,
) -> Sequential<Plan, Operation, BoxedStrategy<Plan>, BoxedStrategy<Operation>> {
    Sequential::new(
        (steps..=steps).into(),
        move || Just(Plan::initial(kubelets)).boxed(),
        Reference::preconditions,
        Reference::transitions,
        Reference::apply,
    )
}

fn services(plan: &Plan, kinds: &mut Vec<(u32, BoxedStrategy<Operation>)>) {
    let of: Vec<WorkloadName> = plan.workloads.keys().copied().collect();
    let free: Vec<ServiceName> =
        ServiceName::ALL.into_iter().filter(|name| !plan.services.contains_key(name)).collect();
    if let Some(service) = free.first().copied() {
        let reach = select(vec![Reach::ClusterIp, Reach::NodePort, Reach::Headless]);
        let create = (select(of.clone()), reach, any::<bool>(), prop::bool::weighted(0.2));
        let create = create.prop_map(move |(of, reach, sticky, publish)| {
            let sticky = sticky && reach != Reach::Headless;
            Operation::CreateService { service, of, reach, sticky, publish }
        });
        // A world without services has nothing to look at.
        kinds.push((if plan.services.is_empty() { 40 } else { 4 }, create.boxed()));
    }
    let edits: Vec<Operation> = plan
        .services
        .iter()
        .flat_map(|(name, plan)| {
            let service = *name;
            let mut edits = vec![Operation::SetPublish { service, publish: !plan.publish }];
            edits.extend(
                of.iter()
                    .filter(|other| **other != plan.of)
                    .map(|other| Operation::SetTarget { service, of: *other }),
            );
            if plan.reach != Reach::Headless {
                edits.push(Operation::SetSticky { service, sticky: !plan.sticky });
                let reach = if plan.reach == Reach::NodePort { Reach::ClusterIp } else { Reach::NodePort };
                edits.push(Operation::SetReach { service, reach });
            }
            let port = if plan.port == PORTS[0] { PORTS[1] } else { PORTS[0] };
            edits.push(Operation::SetPort { service, port });
            edits
        })
        .collect();
    if !edits.is_empty() {
        kinds.push((4, select(edits).boxed()));
        let names: Vec<ServiceName> = plan.services.keys().copied().collect();
        kinds.push((2, select(names).prop_map(|service| Operation::DeleteService { service }).boxed()));
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
        None if plan.kubelets > 0 => {
            kinds.push((1, (1..=plan.kubelets).prop_map(|node| Operation::StopKubelet { node }).boxed()));
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

    fn permitted(mut plan: Plan, operations: &[Operation]) -> Plan {
        for operation in operations {
            assert_eq!(plan.permits(operation), Ok(()), "{operation:?} in {operations:?}");
            plan = plan.after(operation);
        }
        plan
    }

    #[test]
    fn every_operation_of_a_sequence_is_permitted_when_its_turn_comes() {
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..60 {
            let tree = sequences(3, 12).new_tree(&mut runner(seed)).expect("a sequence");
            let (plan, operations, _) = tree.current();
            assert_eq!(operations.len(), 12);
            seen.extend(operations.iter().map(Operation::kind));
            permitted(plan, &operations);
        }
        assert_eq!(seen.len(), 18, "some kinds of operations never come: {seen:?}");
    }

    #[test]
    fn what_a_sequence_shrinks_to_is_permitted_too() {
        for seed in 0..20 {
            let mut tree = sequences(3, 8).new_tree(&mut runner(seed)).expect("a sequence");
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
        let draw = |seed| sequences(3, 8).new_tree(&mut runner(seed)).expect("a sequence").current().1;
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
    }

    #[test]
    fn without_disruption_no_kubelet_is_stopped() {
        for seed in 0..20 {
            let (_, operations, _) =
                sequences(0, 20).new_tree(&mut runner(seed)).expect("a sequence").current();
            assert!(!operations.iter().any(|operation| matches!(operation, Operation::StopKubelet { .. })));
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_the_reason() {
        let plan = Plan::initial(1);
        for (operation, told) in [
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
