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
}

impl Backends {
    /// Any endpoint will do.
    pub fn anywhere(endpoints: impl IntoIterator<Item = Endpoint>) -> Self {
        Self { all: endpoints.into_iter().collect(), local: None, affinity: None }
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
    /// The elements that make the kernel do it.
    fn elements(&self) -> BTreeMap<Element, Value> {
        let mut elements = Elements::default();
        for (frontend, backends) in &self.frontends {
            match frontend.at {
                At::ClusterIp(ip) => {
                    elements.0.insert((Map::ClusterIps, vec![Field::Address(ip)]), Value::Member);
                    elements.address(ip, frontend, backends, Masquerade::NotPods);
                }
                At::ExternalIp(ip) if backends.local.is_some() => {
                    elements.address(ip, frontend, backends, Masquerade::Nobody);
                }
                At::ExternalIp(ip) => elements.address(ip, frontend, backends, Masquerade::Everybody),
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
            self.rows(ip, frontend, served, backends.affinity);
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
    /// the node itself get any, as at the cluster IP.
    fn node_port(&mut self, frontend: &Frontend, backends: &Backends) {
        let key = [Field::Protocol(frontend.protocol.number()), Field::Port(frontend.port)];
        let Backends { all, local, affinity } = backends;
        if all.is_empty() {
            self.0.insert((Map::NodePortsRefused, key.to_vec()), Value::Member);
            return;
        }
        self.rows(NODE_PORT_ROWS, frontend, all, *affinity);
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
        let any = balance(NODE_PORT_ROWS, Masquerade::NobodyButSelf, all);
        self.0.insert((Map::NodePortsInside, key.to_vec()), any);
        if local.is_empty() {
            self.0.insert((Map::NodePortsDropped, key.to_vec()), Value::Member);
        } else {
            self.rows(LOCAL_NODE_PORT_ROWS, frontend, local, *affinity);
            let near = balance(LOCAL_NODE_PORT_ROWS, Masquerade::Nobody, local);
            self.0.insert((Map::NodePortsOutside, key.to_vec()), near);
        }
    }

    fn rows(
        &mut self,
        row: Ipv4Addr,
        frontend: &Frontend,
        endpoints: &BTreeSet<Endpoint>,
        affinity: Option<u32>,
    ) {
        let asked =
            [Field::Address(row), Field::Protocol(frontend.protocol.number()), Field::Port(frontend.port)];
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
    /// UDP flows go on as they were when the rules change; for [`Bug::StaleUdpConntrack`] only.
    ///
    /// [`Bug::StaleUdpConntrack`]: crate::bugs::Bug::StaleUdpConntrack
    pub(super) keeps_flows: bool,
}

#[derive(Default)]
struct Applied {
    desired: Desired,
    elements: BTreeMap<Element, Value>,
}

impl Dataplane {
    /// Callers from `pods` keep their source address at cluster IPs.
    pub fn open(node: &NetNamespace, pods: Ipv4Net) -> anyhow::Result<Self> {
        let (tables, conntrack) = (Tables::open(node, pods)?, Conntrack::open(node)?);
        Ok(Self { tables, conntrack, applied: None, keeps_flows: false })
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
        let before = match self.applied.take() {
            Some(applied) => applied,
            None => {
                self.tables.reset().await?;
                Applied::default()
            }
        };
        let mut elements = desired.elements();
        // A call to oneself may have its destination already and its source not yet. Such a pair says
        // nothing wrong when its endpoint has left, and there are no more of them than pod addresses.
        let hairpins = before.elements.iter().filter(|((map, _), _)| *map == Map::Hairpin);
        elements.extend(hairpins.map(|(element, value)| (element.clone(), *value)));
        self.tables.change(&changes(&before.elements, &elements)).await?;
        // Only now: flows that are forgotten earlier could be learnt again from the old rules.
        let outdated = outdated_flows(&before.desired, desired);
        for flows in outdated.into_iter().filter(|_| !self.keeps_flows) {
            self.conntrack.forget(&flows).await?;
        }
        self.applied = Some(Applied { desired: desired.clone(), elements });
        Ok(())
    }
}

fn changes(before: &BTreeMap<Element, Value>, after: &BTreeMap<Element, Value>) -> Vec<Change> {
    let gone = before
        .iter()
        .filter(|(element, _)| !after.contains_key(element))
        .map(|(element, value)| Change { element: element.clone(), before: Some(*value), after: None });
    let come = after.iter().filter_map(|(element, value)| {
        let old = before.get(element);
        (old != Some(value)).then(|| Change {
            element: element.clone(),
            before: old.copied(),
            after: Some(*value),
        })
    });
    gone.chain(come).collect()
}

/// UDP flows that would go on as the rules were: to endpoints that left, and untranslated ones from
/// before there was any endpoint.
fn outdated_flows(before: &Desired, after: &Desired) -> BTreeSet<Flows> {
    let nobody = Backends::default();
    let udp = |desired: &Desired| -> Vec<Frontend> {
        desired.frontends.keys().filter(|frontend| frontend.protocol == Protocol::Udp).copied().collect()
    };
    let mut outdated = BTreeSet::new();
    for frontend in udp(before).into_iter().chain(udp(after)) {
        let was = before.frontends.get(&frontend).unwrap_or(&nobody);
        let is = after.frontends.get(&frontend).unwrap_or(&nobody);
        let flows = |answered_by| Flows { to: frontend.at.address(), port: frontend.port, answered_by };
        if was.all.is_empty() && !is.all.is_empty() {
            // Untranslated, they are answered by whom they were sent to. Others went by the new rules
            // already, and their answers may be on the way.
            outdated.insert(flows(frontend.at.address()));
        }
        // An endpoint that only changed its port is asked at the wrong one as well.
        let left = was.all.difference(&is.all);
        outdated.extend(left.map(|endpoint| flows(Some(endpoint.ip))));
    }
    outdated
}

#[cfg(test)]
mod tests {
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

    #[test]
    fn nothing_changes_when_nothing_changed() {
        let desired = one(web(Protocol::Tcp), &[2, 3]).elements();
        assert_eq!(changes(&desired, &desired), []);
    }

    #[test]
    fn one_endpoint_more_touches_only_its_service() {
        let mut few = one(web(Protocol::Tcp), &[2, 3]);
        let other = Frontend { port: 81, ..web(Protocol::Tcp) };
        few.frontends.extend(one(other, &[7, 8, 9]).frontends);
        let mut more = few.clone();
        more.frontends.extend(one(web(Protocol::Tcp), &[2, 3, 4]).frontends);
        let changed = changes(&few.elements(), &more.elements());
        let maps: Vec<Map> = changed.iter().map(|change| change.element.0).collect();
        assert_eq!(maps, [Map::Endpoints, Map::Hairpin, Map::Services]);
        assert!(changed.iter().all(|change| change.after.is_some()));
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
    fn only_udp_flows_to_endpoints_that_left_are_forgotten() {
        let address = Some(Ipv4Addr::new(10, 96, 0, 10));
        let forgotten = |before: &[u8], after: &[u8], protocol| {
            outdated_flows(&one(web(protocol), before), &one(web(protocol), after))
        };
        let left = Flows { to: address, port: 80, answered_by: Some(endpoint(2).ip) };
        assert_eq!(forgotten(&[2, 3], &[3, 4], Protocol::Udp), [left].into());
        assert_eq!(forgotten(&[2], &[], Protocol::Udp), [left].into());
        let untranslated = Flows { to: address, port: 80, answered_by: address };
        assert_eq!(forgotten(&[], &[2], Protocol::Udp), [untranslated].into());
        assert_eq!(forgotten(&[2, 3], &[3, 4], Protocol::Tcp), [].into());
    }
}
