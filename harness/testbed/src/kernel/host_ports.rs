//! Ports of a node that lead to one of its pods, as the portmap plugin of CNI makes them.

use std::net::Ipv4Addr;

use anyhow::Context as _;
use nlink::Connection;
use nlink::netlink::Nftables;
use nlink::netlink::nftables::{
    BaseChain, Chain, CtStatus, Family, LookupExpr, NatHook, PacketField, Priority, Register, Rule, Set,
    SetDataType, SetElement, SetKeyType,
};
use tokio::sync::OnceCell;

use super::connect;
use super::conntrack::{Conntrack, Flows};
use super::tables::{Rows, by_address, by_port, to_node, translate_to_looked_up};
use crate::namespace::NetNamespace;

const TABLE: &str = "host-ports";
/// protocol . port -> pod address . port, at every address of the node.
const EVERYWHERE: &str = "everywhere";
/// address . protocol . port -> pod address . port
const SOMEWHERE: &str = "somewhere";
/// pod . pod: calls to itself need a rewritten source to come back.
const HAIRPIN: &str = "hairpin";
const TRANSLATE: &str = "translate";

/// One port of the node, and where it leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostPort {
    /// Only this address of the node.
    pub at: Option<Ipv4Addr>,
    /// Its number (IANA): TCP is 6, UDP 17.
    pub protocol: u8,
    pub port: u16,
    pub pod_port: u16,
}

/// The host ports of one node.
pub(crate) struct HostPorts {
    namespace: NetNamespace,
    /// Most nodes never need them: written when the first one comes.
    connection: OnceCell<Connection<Nftables>>,
}

impl HostPorts {
    pub(crate) fn new(namespace: &NetNamespace) -> Self {
        Self { namespace: namespace.clone(), connection: OnceCell::new() }
    }

    pub(crate) async fn add(&self, pod: Ipv4Addr, ports: &[HostPort]) -> anyhow::Result<()> {
        let connection = self.connection.get_or_try_init(|| prepare(&self.namespace)).await?;
        let mut transaction = connection.transaction();
        transaction = transaction.add_set_elements(&hairpin(), &[itself(pod)]);
        for port in ports {
            let (set, key) = element(port);
            let to = SetElement::concat([SetElement::ipv4(pod), SetElement::port(port.pod_port)]);
            transaction = transaction.add_set_elements(&set, &[key.value(to)]);
        }
        let mapped = transaction.commit(connection).await;
        mapped.with_context(|| format!("map ports of the node to pod `{pod}`"))?;
        self.forget(ports, None).await
    }

    /// Only what was added may be removed.
    pub(crate) async fn remove(&self, pod: Ipv4Addr, ports: &[HostPort]) -> anyhow::Result<()> {
        let Some(connection) = self.connection.get() else { return Ok(()) };
        let mut transaction = connection.transaction().del_set_elements(&hairpin(), &[itself(pod)]);
        for port in ports {
            let (set, key) = element(port);
            transaction = transaction.del_set_elements(&set, &[key]);
        }
        let unmapped = transaction.commit(connection).await;
        unmapped.with_context(|| format!("unmap the node's ports of pod `{pod}`"))?;
        self.forget(ports, Some(pod)).await
    }

    /// UDP flows that went elsewhere, or to a pod that is gone, are to be translated anew.
    async fn forget(&self, ports: &[HostPort], answered_by: Option<Ipv4Addr>) -> anyhow::Result<()> {
        const UDP: u8 = 17;
        let of_udp = ports.iter().filter(|port| port.protocol == UDP);
        let flows: Vec<Flows> =
            of_udp.map(|port| Flows { to: port.at, port: port.port, answered_by }).collect();
        Conntrack::open(&self.namespace)?.forget(&flows).await
    }
}

fn element(port: &HostPort) -> (Set, SetElement) {
    let rest = [SetElement::inet_proto(port.protocol), SetElement::port(port.port)];
    match port.at {
        None => (everywhere(), SetElement::concat(rest)),
        Some(at) => {
            let [protocol, number] = rest;
            (somewhere(), SetElement::concat([SetElement::ipv4(at), protocol, number]))
        }
    }
}

fn itself(pod: Ipv4Addr) -> SetElement {
    SetElement::concat([SetElement::ipv4(pod), SetElement::ipv4(pod)])
}

fn everywhere() -> Set {
    use SetKeyType::{InetProto, InetService};
    to_pod(Set::new(TABLE, EVERYWHERE).key_type(SetKeyType::Concat(vec![InetProto, InetService])))
}

fn somewhere() -> Set {
    use SetKeyType::{InetProto, InetService, Ipv4Addr};
    to_pod(Set::new(TABLE, SOMEWHERE).key_type(SetKeyType::Concat(vec![Ipv4Addr, InetProto, InetService])))
}

fn to_pod(set: Set) -> Set {
    use SetKeyType::{InetService, Ipv4Addr};
    set.family(Family::Ip).map(SetDataType::Value(SetKeyType::Concat(vec![Ipv4Addr, InetService])))
}

fn hairpin() -> Set {
    use SetKeyType::Ipv4Addr;
    Set::new(TABLE, HAIRPIN).family(Family::Ip).key_type(SetKeyType::Concat(vec![Ipv4Addr, Ipv4Addr]))
}

async fn prepare(namespace: &NetNamespace) -> anyhow::Result<Connection<Nftables>> {
    let connection: Connection<Nftables> = connect(namespace)?;
    let chain = |name: &str| anyhow::Ok(Chain::new(TABLE, name)?.family(Family::Ip));
    let rule = |chain: &str| Rule::new(TABLE, chain).family(Family::Ip);
    let mapped = |rule: Rule, map: &str| {
        rule.expr(LookupExpr::new(map, Register::R0).dreg(Register::R2)).expr(translate_to_looked_up())
    };
    let hooks = [("nat-prerouting", NatHook::Prerouting), ("nat-output", NatHook::Output)];
    let mut transaction = connection
        .transaction()
        .add_table(TABLE, Family::Ip)
        .add_set(everywhere())
        .add_set(somewhere())
        .add_set(hairpin())
        .add_chain(chain(TRANSLATE)?)
        .add_rule(mapped(by_address(to_node(rule(TRANSLATE)), Rows::Destination), SOMEWHERE))
        .add_rule(mapped(by_port(to_node(rule(TRANSLATE))), EVERYWHERE));
    for (name, hook) in hooks {
        transaction = transaction
            .add_chain(chain(name)?.base(BaseChain::nat(hook, Priority::DstNat)))
            .add_rule(rule(name).try_jump(TRANSLATE)?);
    }
    let after = "nat-postrouting";
    transaction
        .add_chain(chain(after)?.base(BaseChain::nat(NatHook::Postrouting, Priority::SrcNat)))
        .add_rule(
            rule(after)
                .match_ct_status(CtStatus::DST_NAT)
                .match_concat_in_set(&[PacketField::Ip4Saddr, PacketField::Ip4Daddr], HAIRPIN)
                .masquerade(),
        )
        .commit(&connection)
        .await
        .with_context(|| format!("write the nftables table `{TABLE}`"))?;
    Ok(connection)
}
