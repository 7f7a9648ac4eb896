//! What one node forwards, and how the kernel is brought to it: desired against applied, as changes
//! of set elements.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use crate::kernel::{
    Balance, Change, Conntrack, Element, Field, Flows, Map, Masquerade, Rows, Tables, Value,
};
use crate::namespace::NetNamespace;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    Tcp,
    Udp,
}

impl Protocol {
    fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }
}

/// Where a service is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Frontend {
    pub at: At,
    pub protocol: Protocol,
    pub port: u16,
}

impl Frontend {
    /// The same as an address of the other kind, whose elements have the same keys.
    fn twin(self) -> Option<Self> {
        let at = match self.at {
            At::ClusterIp(ip) => At::ExternalIp(ip),
            At::ExternalIp(ip) => At::ClusterIp(ip),
            At::NodePort => return None,
        };
        Some(Self { at, ..self })
    }
}

/// The address part of a frontend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum At {
    ClusterIp(Ipv4Addr),
    /// An external IP, or a load balancer's.
    ExternalIp(Ipv4Addr),
    /// Every address of the node but loopback.
    NodePort,
}

impl At {
    fn address(self) -> Option<Ipv4Addr> {
        match self {
            Self::ClusterIp(ip) | Self::ExternalIp(ip) => Some(ip),
            Self::NodePort => None,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Endpoint {
    pub ip: Ipv4Addr,
    pub port: u16,
}

/// Who answers at a frontend.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Backends {
    pub all: BTreeSet<Endpoint>,
    /// Those on this node, if the traffic policy keeps traffic there.
    pub local: Option<BTreeSet<Endpoint>>,
    /// For so many seconds after its last call, a client gets the endpoint it had.
    pub affinity: Option<u32>,
    /// Only callers from these networks, if it is said; packets of others vanish. Heeded at external
    /// addresses.
    pub sources: Option<BTreeSet<Ipv4Net>>,
}

impl Backends {
    /// Any endpoint will do.
    pub fn anywhere(endpoints: impl IntoIterator<Item = Endpoint>) -> Self {
        Self { all: endpoints.into_iter().collect(), ..Self::default() }
    }

    /// Everybody who may answer somebody.
    fn anybody(&self) -> BTreeSet<Endpoint> {
        self.all.iter().chain(self.local.iter().flatten()).copied().collect()
    }
}

/// All a node is to forward.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    pub frontends: BTreeMap<Frontend, Backends>,
}

/// Under these the endpoints of node ports are kept, which have no address of their own.
const NODE_PORT_ROWS: Ipv4Addr = Ipv4Addr::new(0, 0, 0, 0);
const LOCAL_NODE_PORT_ROWS: Ipv4Addr = Ipv4Addr::new(0, 0, 0, 1);

impl Desired {
    /// Is there a frontend at this address?
    fn serves(&self, at: At) -> bool {
        let first = Frontend { at, protocol: Protocol::Tcp, port: 0 };
        self.frontends.range(first..).next().is_some_and(|(frontend, _)| frontend.at == at)
    }

    /// The elements that make the kernel do it.
    fn elements(&self) -> BTreeMap<Element, Value> {
        let mut elements = Elements::default();
        for (frontend, backends) in &self.frontends {
            match frontend.at {
                At::ClusterIp(ip) => {
                    elements.0.insert((Map::ClusterIps, vec![Field::Address(ip)]), Value::Member);
                    elements.address(ip, frontend, backends, Masquerade::NotPods);
                }
                At::ExternalIp(ip) => elements.external(ip, frontend, backends),
                At::NodePort => elements.node_port(frontend, backends),
            }
        }
        elements.0
    }
}

#[derive(Default)]
struct Elements(BTreeMap<Element, Value>);

impl Elements {
    fn address(&mut self, ip: Ipv4Addr, frontend: &Frontend, backends: &Backends, masquerade: Masquerade) {
        let key =
            [Field::Address(ip), Field::Protocol(frontend.protocol.number()), Field::Port(frontend.port)];
        let served = backends.local.as_ref().unwrap_or(&backends.all);
        if backends.all.is_empty() {
            self.0.insert((Map::Refused, key.to_vec()), Value::Member);
        } else if served.is_empty() {
            self.0.insert((Map::Dropped, key.to_vec()), Value::Member);
        } else {
            self.rows(ip, frontend.protocol.number(), frontend.port, served, backends.affinity);
            let balance = Balance {
                rows: Rows::Destination,
                masquerade,
                endpoints: served.len() as u32,
                affinity: backends.affinity,
            };
            self.0.insert((Map::Services, key.to_vec()), Value::Balance(balance));
        }
    }

    /// With policy Local, callers from outside get local endpoints with their source kept; pods and
    /// the node itself get any, in the node's name: a pod of another node would be answered past this
    /// one otherwise, by somebody it never called.
    fn external(&mut self, ip: Ipv4Addr, frontend: &Frontend, backends: &Backends) {
        let (protocol, port) = (frontend.protocol.number(), frontend.port);
        let key = [Field::Address(ip), Field::Protocol(protocol), Field::Port(port)];
        if let Some(sources) = &backends.sources {
            self.0.insert((Map::Firewalled, key.to_vec()), Value::Member);
            for source in sources {
                let network =
                    [Field::Address(source.network()), Field::Index(u32::from(source.prefix_len()))];
                let key = network.into_iter().chain(key).collect();
                self.0.insert((Map::Admitted, key), Value::Member);
            }
        }
        let Backends { all, local, affinity, .. } = backends;
        let Some(local) = local.as_ref().filter(|_| !all.is_empty()) else {
            let backends = Backends { local: None, ..backends.clone() };
            return self.address(ip, frontend, &backends, Masquerade::Everybody);
        };
        let balance = |rows, masquerade, endpoints: &BTreeSet<Endpoint>| {
            let endpoints = endpoints.len() as u32;
            Value::Balance(Balance { rows, masquerade, endpoints, affinity: *affinity })
        };
        self.rows(ip, protocol, port, all, *affinity);
        let any = balance(Rows::Destination, Masquerade::Everybody, all);
        self.0.insert((Map::ExternalInside, key.to_vec()), any);
        if local.is_empty() {
            self.0.insert((Map::Dropped, key.to_vec()), Value::Member);
        } else {
            let kept_under = Rows::local_protocol(protocol);
            self.rows(ip, kept_under, port, local, *affinity);
            let near = balance(Rows::LocalOfDestination(kept_under), Masquerade::Nobody, local);
            self.0.insert((Map::ExternalOutside, key.to_vec()), near);
        }
    }

    /// With policy Local, callers from outside get local endpoints with their source kept; pods and
    /// the node itself get any, in the node's name: a pod of another node would be answered past this
    /// one otherwise, by somebody it never called.
    fn node_port(&mut self, frontend: &Frontend, backends: &Backends) {
        let (protocol, port) = (frontend.protocol.number(), frontend.port);
        let key = [Field::Protocol(protocol), Field::Port(port)];
        let Backends { all, local, affinity, .. } = backends;
        if all.is_empty() {
            self.0.insert((Map::NodePortsRefused, key.to_vec()), Value::Member);
            return;
        }
        self.rows(NODE_PORT_ROWS, protocol, port, all, *affinity);
        let balance = |rows, masquerade, endpoints: &BTreeSet<Endpoint>| {
            Value::Balance(Balance {
                rows: Rows::Fixed(rows),
                masquerade,
                endpoints: endpoints.len() as u32,
                affinity: *affinity,
            })
        };
        let Some(local) = local else {
            let any = balance(NODE_PORT_ROWS, Masquerade::Everybody, all);
            self.0.insert((Map::NodePortsInside, key.to_vec()), any);
            self.0.insert((Map::NodePortsOutside, key.to_vec()), any);
            return;
        };
        let any = balance(NODE_PORT_ROWS, Masquerade::Everybody, all);
        self.0.insert((Map::NodePortsInside, key.to_vec()), any);
        if local.is_empty() {
            self.0.insert((Map::NodePortsDropped, key.to_vec()), Value::Member);
        } else {
            self.rows(LOCAL_NODE_PORT_ROWS, protocol, port, local, *affinity);
            let near = balance(LOCAL_NODE_PORT_ROWS, Masquerade::Nobody, local);
            self.0.insert((Map::NodePortsOutside, key.to_vec()), near);
        }
    }

    fn rows(
        &mut self,
        row: Ipv4Addr,
        protocol: u8,
        port: u16,
        endpoints: &BTreeSet<Endpoint>,
        affinity: Option<u32>,
    ) {
        let asked = [Field::Address(row), Field::Protocol(protocol), Field::Port(port)];
        for (index, endpoint) in (0..).zip(endpoints) {
            let key = asked.into_iter().chain([Field::Index(index)]).collect();
            self.0.insert((Map::Endpoints, key), Value::Endpoint(endpoint.ip, endpoint.port));
            if affinity.is_some() {
                let serving = [Field::Address(endpoint.ip), Field::Port(endpoint.port)];
                let key = asked.into_iter().chain(serving).collect();
                self.0.insert((Map::Serving, key), Value::Member);
            }
            let itself = vec![Field::Address(endpoint.ip), Field::Address(endpoint.ip)];
            self.0.insert((Map::Hairpin, itself), Value::Member);
        }
    }
}

/// One node's forwarding. What it was last told stays in the kernel when it is dropped.
pub struct Dataplane {
    tables: Tables,
    conntrack: Conntrack,
    /// What the kernel holds, if that is known.
    applied: Option<Applied>,
    pub(super) wrong: Wrong,
}

/// What bugs make of it; nothing by default.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Wrong {
    /// UDP flows go on as they were when the rules change; for [`Bug::StaleUdpConntrack`] only.
    ///
    /// [`Bug::StaleUdpConntrack`]: crate::bugs::Bug::StaleUdpConntrack
    pub(super) keeps_flows: bool,
    /// UDP flows to frontends that are gone go on as they were; for [`Bug::UdpDeletedServiceStays`] only.
    ///
    /// [`Bug::UdpDeletedServiceStays`]: crate::bugs::Bug::UdpDeletedServiceStays
    pub(super) keeps_flows_of_deleted: bool,
    /// Nobody's source is kept where only local endpoints answer; for [`Bug::LocalSourceLost`] only.
    ///
    /// [`Bug::LocalSourceLost`]: crate::bugs::Bug::LocalSourceLost
    pub(super) loses_sources: bool,
    /// Clients return to endpoints that left; for [`Bug::AffinityToUnready`] only.
    ///
    /// [`Bug::AffinityToUnready`]: crate::bugs::Bug::AffinityToUnready
    pub(super) returns_to_gone: bool,
    /// Those who are led back to themselves are not helped; for [`Bug::HairpinBroken`] only.
    ///
    /// [`Bug::HairpinBroken`]: crate::bugs::Bug::HairpinBroken
    pub(super) forgets_hairpins: bool,
}

/// What the kernel holds.
#[derive(Default)]
struct Applied {
    desired: Desired,
    elements: BTreeMap<Element, Value>,
}

impl Applied {
    /// The frontends that are to be served otherwise, or were, or are to be for the first time; nothing
    /// else is looked at when a change is made.
    fn touched(&self, desired: &Desired) -> BTreeSet<Frontend> {
        let (before, after) = (&self.desired.frontends, &desired.frontends);
        let gone = before.keys().filter(|frontend| !after.contains_key(frontend));
        let come = after.iter().filter(|(frontend, backends)| before.get(frontend) != Some(backends));
        let mut touched: BTreeSet<Frontend> =
            gone.copied().chain(come.map(|(frontend, _)| *frontend)).collect();
        // An address of both kinds has its elements once.
        let twins: Vec<Frontend> = touched.iter().filter_map(|frontend| frontend.twin()).collect();
        touched
            .extend(twins.into_iter().filter(|twin| before.contains_key(twin) || after.contains_key(twin)));
        touched
    }

    /// What is to be changed for these frontends.
    fn changes(&self, touched: &BTreeSet<Frontend>, desired: &Desired, wrong: Wrong) -> Vec<Change> {
        let elements = |of: &Desired| {
            let part =
                touched.iter().filter_map(|frontend| Some((*frontend, of.frontends.get(frontend)?.clone())));
            let mut elements = Desired { frontends: part.collect() }.elements();
            if wrong.loses_sources {
                elements.values_mut().for_each(lose_source);
            }
            elements.retain(|(map, _), _| !(wrong.forgets_hairpins && *map == Map::Hairpin));
            elements
        };
        let (before, after) = (elements(&self.desired), elements(desired));
        let is_needed = |(map, key): &Element| match (map, key.as_slice()) {
            // A call to oneself may have its destination already and its source not yet. Such a pair says
            // nothing wrong when its endpoint has left, and there are no more of them than pod addresses.
            (Map::Hairpin, _) => true,
            (Map::Serving, _) => wrong.returns_to_gone,
            // All ports of a service share it.
            (Map::ClusterIps, [Field::Address(ip)]) => desired.serves(At::ClusterIp(*ip)),
            _ => false,
        };
        let gone = before.into_keys().filter(|element| !after.contains_key(element) && !is_needed(element));
        let gone: Vec<Change> = gone
            .map(|element| Change { before: self.elements.get(&element).copied(), element, after: None })
            .collect();
        let come = after.into_iter().filter_map(|(element, value)| {
            let before = self.elements.get(&element).copied();
            (before != Some(value)).then_some(Change { element, before, after: Some(value) })
        });
        gone.into_iter().chain(come).collect()
    }

    /// The changes were made.
    fn change(&mut self, touched: &BTreeSet<Frontend>, desired: &Desired, changes: Vec<Change>) {
        for Change { element, after, .. } in changes {
            match after {
                Some(value) => self.elements.insert(element, value),
                None => self.elements.remove(&element),
            };
        }
        for frontend in touched {
            match desired.frontends.get(frontend) {
                Some(backends) => self.desired.frontends.insert(*frontend, backends.clone()),
                None => self.desired.frontends.remove(frontend),
            };
        }
    }
}

impl Dataplane {
    /// Callers from `pods` keep their source address at cluster IPs.
    pub fn open(node: &NetNamespace, pods: Ipv4Net) -> anyhow::Result<Self> {
        let (tables, conntrack) = (Tables::open(node, pods)?, Conntrack::open(node)?);
        Ok(Self { tables, conntrack, applied: None, wrong: Wrong::default() })
    }

    /// Writes the rules of a node without services, unless an earlier proxy left its own: those go
    /// on until this one knows better.
    pub async fn prepare(&mut self) -> anyhow::Result<()> {
        if self.tables.exist().await? {
            return Ok(());
        }
        self.apply(&Desired::default()).await
    }

    /// Brings the kernel to forward exactly this. After a failure the kernel's state is unknown, and
    /// the next call starts anew.
    pub async fn apply(&mut self, desired: &Desired) -> anyhow::Result<()> {
        let mut applied = match self.applied.take() {
            Some(applied) => applied,
            None => {
                self.tables.reset().await?;
                Applied::default()
            }
        };
        let touched = applied.touched(desired);
        let changes = applied.changes(&touched, desired, self.wrong);
        self.tables.change(&changes).await?;
        // Only now: flows that are forgotten earlier could be learnt again from the old rules.
        let keeps = self.wrong.keeps_flows_of_deleted;
        let known = touched.iter().filter(|frontend| !keeps || desired.frontends.contains_key(frontend));
        let outdated = outdated_flows(known, &applied.desired, desired);
        if !self.wrong.keeps_flows {
            self.conntrack.forget(&Vec::from_iter(outdated)).await?;
        }
        applied.change(&touched, desired, changes);
        self.applied = Some(applied);
        Ok(())
    }
}

fn lose_source(value: &mut Value) {
    if let Value::Balance(Balance { masquerade: masquerade @ Masquerade::Nobody, .. }) = value {
        *masquerade = Masquerade::Everybody;
    }
}

/// UDP flows that would go on as the rules were: to endpoints that left, and untranslated ones from
/// before there was any endpoint.
fn outdated_flows<'a>(
    touched: impl Iterator<Item = &'a Frontend>,
    before: &Desired,
    after: &Desired,
) -> BTreeSet<Flows> {
    let nobody = Backends::default();
    let mut outdated = BTreeSet::new();
    for frontend in touched.filter(|frontend| frontend.protocol == Protocol::Udp) {
        let was = before.frontends.get(frontend).unwrap_or(&nobody);
        let is = after.frontends.get(frontend).unwrap_or(&nobody);
        let flows = |answered_by| Flows { to: frontend.at.address(), port: frontend.port, answered_by };
        if was.all.is_empty() && !is.all.is_empty() {
            // Untranslated, they are answered by whom they were sent to. Others went by the new rules
            // already, and their answers may be on the way.
            outdated.insert(flows(frontend.at.address()));
        }
        // An endpoint that only changed its port is asked at the wrong one as well.
        let left = &was.anybody() - &is.anybody();
        outdated.extend(left.iter().map(|endpoint| flows(Some(endpoint.ip))));
    }
    outdated
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng as _, SeedableRng as _};

    use super::*;

    fn endpoint(last: u8) -> Endpoint {
        Endpoint { ip: Ipv4Addr::new(10, 244, 0, last), port: 8000 }
    }

    fn web(protocol: Protocol) -> Frontend {
        Frontend { at: At::ClusterIp(Ipv4Addr::new(10, 96, 0, 10)), protocol, port: 80 }
    }

    fn one(frontend: Frontend, endpoints: &[u8]) -> Desired {
        let backends = Backends::anywhere(endpoints.iter().copied().map(endpoint));
        Desired { frontends: [(frontend, backends)].into() }
    }

    impl Applied {
        /// What is done when this is desired.
        fn becomes(&mut self, desired: &Desired) -> Vec<Change> {
            let touched = self.touched(desired);
            let changes = self.changes(&touched, desired, Wrong::default());
            self.change(&touched, desired, changes.clone());
            changes
        }
    }

    #[test]
    fn nothing_changes_when_nothing_changed() {
        let mut applied = Applied::default();
        let desired = one(web(Protocol::Tcp), &[2, 3]);
        assert!(!applied.becomes(&desired).is_empty());
        assert_eq!(applied.becomes(&desired), []);
    }

    #[test]
    fn one_endpoint_more_touches_only_its_service() {
        let mut few = one(web(Protocol::Tcp), &[2, 3]);
        let other = Frontend { port: 81, ..web(Protocol::Tcp) };
        few.frontends.extend(one(other, &[7, 8, 9]).frontends);
        let mut more = few.clone();
        more.frontends.extend(one(web(Protocol::Tcp), &[2, 3, 4]).frontends);
        let mut applied = Applied::default();
        applied.becomes(&few);
        let changed = applied.becomes(&more);
        let maps: Vec<Map> = changed.iter().map(|change| change.element.0).collect();
        assert_eq!(maps, [Map::Endpoints, Map::Hairpin, Map::Services]);
        assert!(changed.iter().all(|change| change.after.is_some()));
    }

    #[test]
    fn an_address_stays_while_one_of_its_ports_does() {
        let address =
            |desired: &Desired| desired.elements().keys().filter(|(map, _)| *map == Map::ClusterIps).count();
        let mut both = one(web(Protocol::Tcp), &[2]);
        let other = Frontend { port: 81, ..web(Protocol::Tcp) };
        both.frontends.extend(one(other, &[2]).frontends);
        let mut applied = Applied::default();
        applied.becomes(&both);
        applied.becomes(&one(other, &[2]));
        assert_eq!((address(&both), address(&applied.desired)), (1, 1));
        assert!(applied.elements.keys().any(|(map, _)| *map == Map::ClusterIps));
        applied.becomes(&Desired::default());
        assert!(applied.elements.keys().all(|(map, _)| *map == Map::Hairpin), "{:?}", applied.elements);
    }

    /// Changes one after the other lead to where everything at once would have led.
    #[test]
    fn changes_add_up() {
        let mut random = StdRng::seed_from_u64(1);
        let mut applied = Applied::default();
        let mut hairpins = BTreeMap::new();
        for round in 0..2000 {
            let mut desired = applied.desired.clone();
            for _ in 0..random.random_range(0..4) {
                let ip = Ipv4Addr::new(10, 96, 0, random.random_range(1..4));
                let at = [At::ClusterIp(ip), At::ExternalIp(ip), At::NodePort][random.random_range(0..3)];
                let protocol = [Protocol::Tcp, Protocol::Udp][random.random_range(0..2)];
                let frontend = Frontend { at, protocol, port: random.random_range(80..82) };
                if random.random_bool(0.3) {
                    desired.frontends.remove(&frontend);
                    continue;
                }
                let mut some = || -> BTreeSet<Endpoint> {
                    (0..random.random_range(0..3)).map(|_| endpoint(random.random_range(2..6))).collect()
                };
                let (all, local) = (some(), some());
                let local = random.random_bool(0.4).then_some(local);
                let affinity = random.random_bool(0.3).then_some(60);
                let sources = random.random_bool(0.2).then(|| ["10.0.0.0/8".parse().unwrap()].into());
                desired.frontends.insert(frontend, Backends { all, local, affinity, sources });
            }
            applied.becomes(&desired);
            assert_eq!(applied.desired, desired, "round {round}");
            let mut elements = desired.elements();
            hairpins.extend(elements.clone().into_iter().filter(|((map, _), _)| *map == Map::Hairpin));
            elements.extend(hairpins.clone());
            assert_eq!(applied.elements, elements, "round {round}");
        }
    }

    #[test]
    fn without_endpoints_a_service_is_refused_and_without_local_ones_dropped() {
        let refused = one(web(Protocol::Tcp), &[]).elements();
        assert!(refused.keys().any(|(map, _)| *map == Map::Refused));
        let mut far = one(web(Protocol::Tcp), &[2]);
        far.frontends.values_mut().for_each(|backends| backends.local = Some(BTreeSet::new()));
        let dropped = far.elements();
        assert!(dropped.keys().any(|(map, _)| *map == Map::Dropped));
        assert!(!dropped.keys().any(|(map, _)| *map == Map::Services));
    }

    #[test]
    fn with_policy_local_an_external_address_is_two() {
        let ip = Ipv4Addr::new(192, 0, 2, 7);
        let at = Frontend { at: At::ExternalIp(ip), ..web(Protocol::Udp) };
        let mut desired = one(at, &[2, 3]);
        let ends = |desired: &Desired, wanted: Map| -> Vec<(u32, Masquerade)> {
            let elements = desired.elements().into_iter().filter(|((map, _), _)| *map == wanted);
            elements
                .filter_map(|(_, value)| match value {
                    Value::Balance(balance) => Some((balance.endpoints, balance.masquerade)),
                    _ => None,
                })
                .collect()
        };
        assert_eq!(ends(&desired, Map::Services), [(2, Masquerade::Everybody)]);
        desired.frontends.values_mut().for_each(|backends| backends.local = Some([endpoint(3)].into()));
        assert_eq!(ends(&desired, Map::Services), []);
        assert_eq!(ends(&desired, Map::ExternalInside), [(2, Masquerade::Everybody)]);
        assert_eq!(ends(&desired, Map::ExternalOutside), [(1, Masquerade::Nobody)]);
        // At a node port the caller may be a pod of another node, and so may the endpoint.
        let port = Frontend { at: At::NodePort, ..at };
        let backends = desired.frontends[&at].clone();
        let node_port = Desired { frontends: [(port, backends)].into() };
        assert_eq!(ends(&node_port, Map::NodePortsInside), [(2, Masquerade::Everybody)]);
        assert_eq!(ends(&node_port, Map::NodePortsOutside), [(1, Masquerade::Nobody)]);
        // The local endpoint is the second of all, and the first of its own rows.
        let first = |protocol| {
            let key = [Field::Address(ip), Field::Protocol(protocol), Field::Port(80), Field::Index(0)];
            desired.elements().get(&(Map::Endpoints, key.to_vec())).copied()
        };
        let value = |endpoint: Endpoint| Some(Value::Endpoint(endpoint.ip, endpoint.port));
        assert_eq!((first(17), first(0x91)), (value(endpoint(2)), value(endpoint(3))));
    }

    #[test]
    fn only_admitted_networks_may_call_a_firewalled_address() {
        let at = Frontend { at: At::ExternalIp(Ipv4Addr::new(192, 0, 2, 7)), ..web(Protocol::Tcp) };
        let mut desired = one(at, &[2]);
        let of = |desired: &Desired, wanted: Map| -> Vec<Vec<Field>> {
            let elements = desired.elements().into_keys().filter(|(map, _)| *map == wanted);
            elements.map(|(_, key)| key[..2].to_vec()).collect()
        };
        assert!(of(&desired, Map::Firewalled).is_empty());
        let network: Ipv4Net = "10.1.0.0/16".parse().unwrap();
        desired.frontends.values_mut().for_each(|backends| backends.sources = Some([network].into()));
        assert_eq!(of(&desired, Map::Firewalled).len(), 1);
        let admitted = vec![Field::Address(network.network()), Field::Index(16)];
        assert_eq!(of(&desired, Map::Admitted), [admitted]);
    }

    #[test]
    fn only_udp_flows_to_endpoints_that_left_are_forgotten() {
        let address = Some(Ipv4Addr::new(10, 96, 0, 10));
        let outdated = |before: &Desired, after: &Desired| {
            let touched = Applied { desired: before.clone(), ..Applied::default() }.touched(after);
            outdated_flows(touched.iter(), before, after)
        };
        let forgotten = |before: &[u8], after: &[u8], protocol| {
            outdated(&one(web(protocol), before), &one(web(protocol), after))
        };
        let left = Flows { to: address, port: 80, answered_by: Some(endpoint(2).ip) };
        assert_eq!(forgotten(&[2, 3], &[3, 4], Protocol::Udp), [left].into());
        assert_eq!(forgotten(&[2], &[], Protocol::Udp), [left].into());
        // One that only served locally, while it ended, is gone as well.
        let mut ending = one(web(Protocol::Udp), &[3]);
        ending.frontends.values_mut().for_each(|backends| backends.local = Some([endpoint(2)].into()));
        assert_eq!(outdated(&ending, &one(web(Protocol::Udp), &[3])), [left].into());
        // So are those to a port or an address the service does not have any more.
        let elsewhere = Frontend { port: 81, ..web(Protocol::Udp) };
        assert_eq!(outdated(&one(web(Protocol::Udp), &[2]), &one(elsewhere, &[2])).first(), Some(&left));
        let untranslated = Flows { to: address, port: 80, answered_by: address };
        assert_eq!(forgotten(&[], &[2], Protocol::Udp), [untranslated].into());
        assert_eq!(forgotten(&[2, 3], &[3, 4], Protocol::Tcp), [].into());
    }
}
