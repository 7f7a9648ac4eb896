//! Laws that hold for every world: small random worlds, and what [`route`] and [`endpoints`] say of them.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use k8s_openapi::api::core::v1::{Endpoints, Pod};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use proptest::prelude::*;
use stickler_model::{
    Destination, ObjectKey, Observed, Part, Promises, Protocol, Route, Vantage, World, endpoint_slices_match,
    endpoints, endpoints_object_matches, route,
};

/// The plan of one pod: node, labels, readiness, deletion, end. Its place in the list gives its address.
#[derive(Clone, Debug)]
struct PodPlan {
    node: usize,
    app: &'static str,
    ready: bool,
    terminating: bool,
    finished: bool,
    port: u16,
}

impl PodPlan {
    fn address(index: usize) -> String {
        format!("10.244.{}.{}", index / 200, index % 200 + 2)
    }

    fn yaml(&self, index: usize) -> String {
        let deletion = if self.terminating { ", deletionTimestamp: \"2026-01-01T00:00:00Z\"" } else { "" };
        let ready = if self.ready { "True" } else { "False" };
        let phase = if self.finished { "Failed" } else { "Running" };
        format!(
            "apiVersion: v1
kind: Pod
metadata: {{name: pod-{index}, labels: {{app: {}}}{deletion}}}
spec: {{nodeName: kube{}.vm, containers: [{{name: c, ports: [{{name: http, containerPort: {}}}]}}]}}
status: {{phase: {phase}, podIP: {}, conditions: [{{type: Ready, status: \"{ready}\"}}]}}
",
            self.app,
            self.node,
            self.port,
            Self::address(index),
        )
    }
}

fn pod_plan() -> impl Strategy<Value = PodPlan> {
    let often = || prop::bool::weighted(0.7);
    let seldom = || prop::bool::weighted(0.2);
    (0..3_usize, prop::sample::select(vec!["web", "other"]), often(), seldom(), seldom(), 8000..8003_u16)
        .prop_map(|(node, app, ready, terminating, finished, port)| PodPlan {
            node,
            app,
            ready,
            terminating,
            finished,
            port,
        })
}

/// The fields of the one service.
#[derive(Clone, Debug)]
struct ServicePlan {
    selector: &'static str,
    target: &'static str,
    external: &'static str,
    internal: &'static str,
    publish: bool,
    protocol: Protocol,
}

impl ServicePlan {
    fn yaml(&self) -> String {
        let Self { selector, target, external, internal, publish, protocol } = self;
        format!(
            "apiVersion: v1
kind: Service
metadata: {{name: web}}
spec:
  type: NodePort
  clusterIP: {CLUSTER_IP}
  selector: {{{selector}}}
  externalTrafficPolicy: {external}
  internalTrafficPolicy: {internal}
  publishNotReadyAddresses: {publish}
  ports: [{{port: 80, targetPort: {target}, protocol: {protocol}, nodePort: 30080}}]
"
        )
    }
}

fn service_plan() -> impl Strategy<Value = ServicePlan> {
    let policy = || prop::sample::select(vec!["Cluster", "Cluster", "Local"]);
    (
        prop::sample::select(vec!["app: web", "app: web", "app: web", "app: nothing"]),
        prop::sample::select(vec!["http", "8000"]),
        policy(),
        policy(),
        prop::bool::weighted(0.2),
        prop::sample::select(vec![Protocol::Tcp, Protocol::Tcp, Protocol::Udp]),
    )
        .prop_map(|(selector, target, external, internal, publish, protocol)| ServicePlan {
            selector,
            target,
            external,
            internal,
            publish,
            protocol,
        })
}

#[derive(Clone, Debug)]
struct Plan {
    pods: Vec<PodPlan>,
    service: ServicePlan,
    minor: u32,
}

impl Plan {
    fn world(&self) -> World {
        let mut documents: Vec<String> =
            NODES.iter().map(|(name, address)| node_yaml(name, address)).collect();
        documents.extend(self.pods.iter().enumerate().map(|(index, pod)| pod.yaml(index)));
        documents.push(self.service.yaml());
        World::from_yaml(&documents.join("---\n")).unwrap()
    }

    fn promises(&self) -> Promises {
        Promises::of_minor(self.minor)
            .with_service_cidr("10.96.0.0/12".parse().unwrap())
            .with_cluster_cidr("10.244.0.0/16".parse().unwrap())
    }

    /// Every vantage of the world.
    fn vantages(&self) -> Vec<Vantage> {
        let pods = (0..self.pods.len()).map(|index| Vantage::Pod(key(&format!("pod-{index}"))));
        let nodes = NODES.iter().map(|(name, _)| Vantage::Node((*name).to_owned()));
        pods.chain(nodes).chain([Vantage::Outside]).collect()
    }

    /// Every destination of interest: the service's, the nodes', the pods', and unused ones.
    fn destinations(&self) -> Vec<Destination> {
        let mut all = vec![self.cluster_ip(), self.at(CLUSTER_IP, 81), self.at("10.96.0.99", 80)];
        for (_, address) in NODES {
            all.extend([self.at(address, 30080), self.at(address, 30081)]);
        }
        all.extend((0..self.pods.len()).map(|index| self.at(&PodPlan::address(index), 8000)));
        all
    }

    fn cluster_ip(&self) -> Destination {
        self.at(CLUSTER_IP, 80)
    }

    fn at(&self, address: &str, port: u16) -> Destination {
        Destination::new(address.parse().unwrap(), port, self.service.protocol)
    }

    /// Everything the model says of the service: every vantage to every destination of the service and the nodes.
    fn truth_table(&self, world: &World) -> Vec<Route> {
        let (promises, destinations) = (self.promises(), self.destinations());
        self.vantages()
            .iter()
            .flat_map(|from| {
                destinations.iter().map(|to| route(world, &promises, from, to)).collect::<Vec<_>>()
            })
            .collect()
    }
}

fn plan() -> impl Strategy<Value = Plan> {
    (prop::collection::vec(pod_plan(), 0..6), service_plan(), prop::sample::select(vec![20, 22, 26, 37]))
        .prop_map(|(pods, service, minor)| Plan { pods, service, minor })
}

const CLUSTER_IP: &str = "10.96.0.20";

const NODES: [(&str, &str); 3] =
    [("kube0.vm", "192.168.199.117"), ("kube1.vm", "192.168.199.231"), ("kube2.vm", "192.168.199.212")];

fn node_yaml(name: &str, address: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Node\nmetadata: {{name: {name}}}\n\
         status: {{addresses: [{{type: InternalIP, address: {address}}}]}}\n"
    )
}

fn key(name: &str) -> ObjectKey {
    ObjectKey::new("default", name)
}

fn sockets(route: &Route) -> BTreeSet<SocketAddr> {
    route.backends().iter().flat_map(|by| by.iter()).map(|backend| backend.address).collect()
}

/// Puts one more pod into a world.
fn add_pod(world: &mut World, plan: &PodPlan, index: usize) {
    world.extend(World::from_yaml(&plan.yaml(index)).unwrap().pods.into_values());
}

/// A service without selector whose endpoints are made by hand, in one way or another.
fn made_by_hand(objects: &str) -> World {
    let nodes: Vec<String> = NODES.iter().map(|(name, address)| node_yaml(name, address)).collect();
    let service = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: web}}\n\
         spec: {{clusterIP: {CLUSTER_IP}, ports: [{{port: 80}}]}}\n"
    );
    World::from_yaml(&format!("{}---\n{service}---\n{objects}", nodes.join("---\n"))).unwrap()
}

fn slices_yaml(groups: &[Vec<(u8, bool)>]) -> String {
    let slice = |(index, group): (usize, &Vec<(u8, bool)>)| {
        let endpoints: Vec<String> = group
            .iter()
            .map(|(host, ready)| format!("{{addresses: [11.11.11.{host}], conditions: {{ready: {ready}}}}}"))
            .collect();
        format!(
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
             metadata: {{name: web-{index}, labels: {{kubernetes.io/service-name: web}}}}\n\
             addressType: IPv4\nports: [{{name: '', port: 8000}}]\nendpoints: [{}]\n",
            endpoints.join(", ")
        )
    };
    groups.iter().enumerate().map(slice).collect::<Vec<_>>().join("---\n")
}

proptest! {
    // Seconds in a debug build; the rare cases come up over many runs.
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// A service's backends are its ready endpoints, or, with nobody ready within the policy's
    /// scope, serving ones that terminate; never anybody else.
    #[test]
    fn backends_are_usable_endpoints(plan in plan()) {
        let (world, promises) = (plan.world(), plan.promises());
        let expected = endpoints(&world, &promises, &key("web"));
        let port = expected.port("", plan.service.protocol).unwrap();
        let (ready, fallback) = (port.ready(), port.serving_terminating());
        for from in plan.vantages() {
            let node_ports = NODES.iter().map(|(_, address)| plan.at(address, 30080));
            for to in node_ports.chain([plan.cluster_ip()]) {
                let by = sockets(&route(&world, &promises, &from, &to));
                prop_assert!(by.iter().all(|one| ready.contains(one) || fallback.contains(one)), "{from} to {to}");
                if !promises.terminating_fallback {
                    prop_assert!(by.is_subset(&ready), "{from} to {to}: no fallback in 1.{}", plan.minor);
                }
            }
        }
    }

    /// With policy Cluster it is exactly the ready endpoints, if there are any.
    #[test]
    fn a_cluster_ip_reaches_all_ready_endpoints(mut plan in plan()) {
        plan.service.internal = "Cluster";
        let (world, promises) = (plan.world(), plan.promises());
        let expected = endpoints(&world, &promises, &key("web"));
        let ready = expected.port("", plan.service.protocol).unwrap().ready();
        for from in plan.vantages().iter().filter(|from| **from != Vantage::Outside) {
            let said = route(&world, &promises, from, &plan.cluster_ip());
            if !ready.is_empty() {
                prop_assert_eq!(sockets(&said), ready.clone(), "{}", from);
            }
        }
    }

    /// A cluster IP with policy Cluster refuses if and only if nobody is usable.
    #[test]
    fn no_endpoints_means_refused(mut plan in plan()) {
        plan.service.internal = "Cluster";
        let (world, promises) = (plan.world(), plan.promises());
        let expected = endpoints(&world, &promises, &key("web"));
        let port = expected.port("", plan.service.protocol).unwrap();
        let nobody = port.ready().is_empty()
            && (!promises.terminating_fallback || port.serving_terminating().is_empty());
        for from in plan.vantages().iter().filter(|from| **from != Vantage::Outside) {
            let said = route(&world, &promises, from, &plan.cluster_ip());
            prop_assert_eq!(matches!(said, Route::Refused { .. }), nobody, "{}: {}", from, said);
        }
    }

    /// An address is ready or not, never both, and a finished or unselected pod is neither.
    #[test]
    fn ready_and_not_ready_are_disjoint(plan in plan()) {
        let expected = endpoints(&plan.world(), &plan.promises(), &key("web"));
        for port in &expected.ports {
            prop_assert!(port.ready().is_disjoint(&port.not_ready()));
            let listed: BTreeSet<IpAddr> = port.endpoints.iter().map(|endpoint| endpoint.address).collect();
            for (index, pod) in plan.pods.iter().enumerate() {
                let belongs = plan.service.selector == "app: web" && pod.app == "web" && !pod.finished
                    && !(plan.service.protocol == Protocol::Udp && plan.service.target == "http");
                prop_assert_eq!(listed.contains(&PodPlan::address(index).parse().unwrap()), belongs, "pod-{}", index);
            }
        }
    }

    /// A pod that is not ready takes no traffic of a service, so adding one changes no route.
    #[test]
    fn an_unready_pod_changes_no_route(mut plan in plan(), more in pod_plan()) {
        plan.service.publish = false;
        let mut world = plan.world();
        let before = plan.truth_table(&world);
        add_pod(&mut world, &PodPlan { ready: false, ..more }, plan.pods.len());
        prop_assert_eq!(plan.truth_table(&world), before);
    }

    /// Pods of another label take no traffic, however ready.
    #[test]
    fn a_pod_not_selected_changes_no_route(plan in plan(), more in pod_plan()) {
        let mut world = plan.world();
        let before = plan.truth_table(&world);
        add_pod(&mut world, &PodPlan { app: "other", ..more }, plan.pods.len());
        prop_assert_eq!(plan.truth_table(&world), before);
    }

    /// Neither the order in which objects come nor what a pod is called decides where traffic may go.
    #[test]
    fn order_and_names_do_not_matter(plan in plan()) {
        let (world, promises) = (plan.world(), plan.promises());
        let reversed: Vec<Pod> = world.pods.values().rev().cloned().collect();
        let reordered = World { pods: Default::default(), ..world.clone() }.with(reversed);
        prop_assert_eq!(&reordered, &world);

        let mut renamed = World { pods: Default::default(), ..world.clone() };
        for mut pod in world.pods.values().cloned() {
            // Reversed, the names sort in another order.
            pod.metadata.name = pod.metadata.name.map(|name| name.chars().rev().collect());
            pod.put(&mut renamed);
        }
        for from in NODES.iter().map(|(name, _)| Vantage::Node((*name).to_owned())).chain([Vantage::Outside]) {
            for to in plan.destinations() {
                let (one, other) = (route(&world, &promises, &from, &to), route(&renamed, &promises, &from, &to));
                prop_assert_eq!(std::mem::discriminant(&one), std::mem::discriminant(&other), "{} to {}", from, to);
                prop_assert_eq!(sockets(&one), sockets(&other), "{} to {}", from, to);
            }
        }
    }

    /// With policy Cluster, every node answers at the node port with the same set, whoever asks.
    #[test]
    fn a_node_port_answers_the_same_from_every_node(mut plan in plan()) {
        plan.service.external = "Cluster";
        let (world, promises) = (plan.world(), plan.promises());
        let first = route(&world, &promises, &Vantage::Outside, &plan.at(NODES[0].1, 30080));
        for from in plan.vantages() {
            for (_, address) in NODES {
                prop_assert_eq!(&route(&world, &promises, &from, &plan.at(address, 30080)), &first);
            }
        }
    }

    /// With policy Local, a node answers outside clients from its own pods only, with their address
    /// kept; and all nodes together reach every ready endpoint.
    #[test]
    fn local_policy_stays_on_the_node(mut plan in plan()) {
        plan.service.external = "Local";
        let (world, promises) = (plan.world(), plan.promises());
        let expected = endpoints(&world, &promises, &key("web"));
        let mut reached = BTreeSet::new();
        for (node, address) in NODES {
            let said = route(&world, &promises, &Vantage::Outside, &plan.at(address, 30080));
            let refused = matches!(said, Route::Refused { .. });
            prop_assert!(!refused, "{}", said);
            for backend in said.backends().into_iter().flatten() {
                prop_assert_eq!(backend.node.as_deref(), Some(node));
            }
            reached.extend(sockets(&said));
        }
        prop_assert!(reached.is_superset(&expected.port("", plan.service.protocol).unwrap().ready()));
    }

    /// What a route names is allowed, and a stranger's answer is allowed only where nothing is promised.
    #[test]
    fn a_route_allows_what_it_names(plan in plan()) {
        let world = plan.world();
        for said in plan.truth_table(&world) {
            for backend in said.backends().into_iter().flatten() {
                let by = backend.hostname.clone().unwrap();
                prop_assert_eq!(said.allows(&Observed::Answered { by }), Ok(()));
            }
            let stranger = said.allows(&Observed::Answered { by: "stranger".to_owned() });
            prop_assert_eq!(stranger.is_ok(), matches!(said, Route::NotPromised { .. }), "{}", said);
            prop_assert_eq!(said.allows(&Observed::Silent).is_ok(), match &said {
                Route::Answered { .. } => false,
                Route::Refused { protocol, .. } => *protocol == Protocol::Udp,
                _ => true,
            }, "{}", said);
        }
    }

    /// Removing the service leaves an address that nobody may answer at, and closes the node port.
    #[test]
    fn a_removed_service_is_answered_by_nobody(plan in plan()) {
        let mut world = plan.world();
        world.services.clear();
        for from in plan.vantages() {
            let nobody = |to: Destination| matches!(route(&world, &plan.promises(), &from, &to), Route::Nobody { .. });
            prop_assert!(from == Vantage::Outside || nobody(plan.cluster_ip()), "{}", from);
            prop_assert!(NODES.iter().all(|(_, address)| nobody(plan.at(address, 30080))), "{}", from);
        }
    }

    /// How hand-made endpoints are written down changes nothing: in one slice or several, in any
    /// order, some twice, or as an Endpoints object.
    #[test]
    fn slicing_changes_nothing(
        made in prop::collection::btree_map(1..=20_u8, any::<bool>(), 0..8),
        parts in 1..4_usize,
        twice in any::<bool>(),
    ) {
        let all: Vec<(u8, bool)> = made.into_iter().collect();
        let whole = made_by_hand(&slices_yaml(std::slice::from_ref(&all)));
        let mut groups = vec![Vec::new(); parts];
        for (index, one) in all.iter().rev().enumerate() {
            groups[index % parts].push(*one);
            if twice {
                groups[(index + 1) % parts].push(*one);
            }
        }
        let parted = made_by_hand(&slices_yaml(&groups));
        let addresses = |ready: bool| -> Vec<String> {
            let chosen = all.iter().filter(|one| one.1 == ready);
            chosen.map(|(host, _)| format!("{{ip: 11.11.11.{host}}}")).collect()
        };
        let object = made_by_hand(&format!(
            "apiVersion: v1\nkind: Endpoints\nmetadata: {{name: web}}\n\
             subsets: [{{addresses: [{}], notReadyAddresses: [{}], ports: [{{port: 8000}}]}}]\n",
            addresses(true).join(", "), addresses(false).join(", ")
        ));
        let promises = Promises::of_minor(37);
        let to = Destination::tcp(CLUSTER_IP.parse().unwrap(), 80);
        let from = Vantage::Node("kube0.vm".to_owned());
        let of = |world: &World| (endpoints(world, &promises, &key("web")), route(world, &promises, &from, &to));
        prop_assert_eq!(of(&parted), of(&whole));
        prop_assert_eq!(of(&object), of(&whole));
        let expected = of(&object).0;
        prop_assert_eq!(endpoint_slices_match(&expected, parted.endpoint_slices.values()), Vec::<String>::new());
        prop_assert_eq!(endpoints_object_matches(&expected, object.endpoints.get(&key("web"))), Vec::<String>::new());
    }

    /// An Endpoints object and slices that show exactly what is expected have no difference; without
    /// one of the endpoints they have one.
    #[test]
    fn a_listing_of_what_is_expected_matches(plan in plan(), left_out in any::<prop::sample::Index>()) {
        let expected = endpoints(&plan.world(), &plan.promises(), &key("web"));
        let slices = slices_of(&expected);
        prop_assert_eq!(endpoint_slices_match(&expected, &slices), Vec::<String>::new());
        prop_assert_eq!(endpoints_object_matches(&expected, Some(&object_of(&expected))), Vec::<String>::new());
        if !slices.is_empty() {
            let mut fewer = slices.clone();
            let lost = fewer.remove(left_out.index(slices.len()));
            let conditions = lost.endpoints.unwrap().remove(0).conditions.unwrap();
            // Before 1.22 who terminates may be left out.
            let is_free = plan.minor < 22 && conditions.terminating == Some(true) && !plan.service.publish;
            prop_assert_eq!(endpoint_slices_match(&expected, &fewer).len(), usize::from(!is_free));
        }
    }
}

/// One slice for each endpoint, as a controller might write them.
fn slices_of(expected: &stickler_model::Expected) -> Vec<EndpointSlice> {
    let mut texts = Vec::new();
    for port in &expected.ports {
        for endpoint in &port.endpoints {
            let stickler_model::Conditions { ready, serving, terminating } = endpoint.conditions;
            texts.push(format!(
                "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
                 metadata: {{name: web-{}, labels: {{kubernetes.io/service-name: web, \
                 endpointslice.kubernetes.io/managed-by: endpointslice-controller.k8s.io}}}}\n\
                 addressType: IPv4\nports: [{{name: '{}', protocol: {}, port: {}}}]\n\
                 endpoints: [{{addresses: [{}], conditions: {{ready: {ready}, serving: {serving}, terminating: {terminating}}}, \
                 targetRef: {{kind: Pod, name: {}}}, nodeName: {}}}]\n",
                texts.len(),
                port.name,
                port.protocol,
                endpoint.port.unwrap(),
                endpoint.address,
                endpoint.pod.as_ref().unwrap().name,
                endpoint.node.as_ref().unwrap(),
            ));
        }
    }
    World::from_yaml(&texts.join("---\n")).unwrap().endpoint_slices.into_values().collect()
}

/// The Endpoints object of what is expected, one subset for each endpoint.
fn object_of(expected: &stickler_model::Expected) -> Endpoints {
    let mut subsets = Vec::new();
    for port in &expected.ports {
        for endpoint in &port.endpoints {
            if endpoint.conditions.terminating && !expected.publish_not_ready {
                continue;
            }
            let list = if endpoint.conditions.ready { "addresses" } else { "notReadyAddresses" };
            subsets.push(format!(
                "{{{list}: [{{ip: {}, targetRef: {{kind: Pod, name: {}}}}}], ports: [{{name: '{}', protocol: {}, port: {}}}]}}",
                endpoint.address,
                endpoint.pod.as_ref().unwrap().name,
                port.name,
                port.protocol,
                endpoint.port.unwrap(),
            ));
        }
    }
    let text = format!(
        "apiVersion: v1\nkind: Endpoints\nmetadata: {{name: web}}\nsubsets: [{}]\n",
        subsets.join(", ")
    );
    World::from_yaml(&text).unwrap().endpoints.remove(&key("web")).unwrap()
}
