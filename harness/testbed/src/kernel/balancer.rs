//! The packet rules of a load balancer in front of the nodes: connections to its addresses are handed
//! to nodes, either as they are or translated to a node port
//! ([KEP-1860](https://github.com/kubernetes/enhancements/tree/master/keps/sig-network/1860-kube-proxy-IP-node-binding)).

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use anyhow::Context as _;
use nlink::Connection;
use nlink::netlink::Nftables;
use nlink::netlink::nftables::{
    BaseChain, Chain, ChainType, CtStatus, Expr, Family, HashKind, Hook, LookupExpr, NatHook, PayloadBase,
    Priority, Register, Rule, Set, SetDataType, SetElement, SetKeyType,
};

use super::connect;
use super::tables::{Rows, by_address, translate_to_looked_up};
use crate::namespace::NetNamespace;

const TABLE: &str = "load-balancer";
const NFPROTO_IPV4: u8 = 2;
const ELEMENTS_PER_MESSAGE: usize = 400;

/// Into how many parts the connections to one frontend are divided; each part belongs to a node.
pub(crate) const SLOTS: u32 = 64;

/// An address and port of the balancer, and one part of the connections to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Slot {
    pub(crate) address: Ipv4Addr,
    pub(crate) protocol: u8,
    pub(crate) port: u16,
    pub(crate) slot: u32,
}

/// Which node gets it, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Handover {
    /// As it is, addressed to the balancer's address: the node knows that one and answers the client
    /// itself.
    Forwarded(Ipv4Addr),
    /// Translated to a node port, in the balancer's name.
    Proxied(Ipv4Addr, u16),
}

/// The rules in the balancer's namespace, and what they hold.
pub(crate) struct Balancer {
    connection: Connection<Nftables>,
    applied: BTreeMap<Slot, Handover>,
}

impl Balancer {
    /// Writes rules without any element; `device`, with index `link`, is where packets come and go.
    pub(crate) async fn prepare(namespace: &NetNamespace, device: &str, link: u32) -> anyhow::Result<Self> {
        let connection: Connection<Nftables> = connect(namespace)?;
        let forwarded = || Rule::new(TABLE, "ingress").family(Family::Netdev);
        let translated = |chain: &str| Rule::new(TABLE, chain).family(Family::Ip);
        let ingress = BaseChain::try_new(ChainType::Filter, Hook::Ingress, Priority::Filter, [device])
            .context("a chain on a link")?;
        let nat = |name: &str, hook, priority| {
            anyhow::Ok(Chain::new(TABLE, name)?.family(Family::Ip).base(BaseChain::nat(hook, priority)))
        };
        let source =
            |rule: Rule, offset, dreg, base, len| rule.expr(Expr::Payload { dreg, base, offset, len });
        // A client's connections are told apart by its address and port. The result depends on nothing
        // else, so that no memory of connections is needed, which would see one direction only.
        let draw = |rule: Rule| {
            let rule = source(rule, 12, Register::Reg32_08, PayloadBase::Network, 4);
            let rule = source(rule, 0, Register::Reg32_09, PayloadBase::Transport, 2);
            by_address(rule, Rows::Destination).expr(Expr::Hash {
                dreg: Register::Reg32_03,
                kind: HashKind::Jenkins,
                sreg: Some(Register::Reg32_08),
                len: 8,
                modulus: SLOTS,
                seed: Some(1),
                offset: 0,
            })
        };
        let forward = draw(forwarded())
            .expr(LookupExpr::new("nodes", Register::R0).dreg(Register::R1))
            .expr(Expr::Immediate { dreg: Register::R3, data: link.to_ne_bytes().to_vec() })
            .expr(Expr::Fwd { sreg_dev: Register::R3, sreg_addr: Some((Register::R1, NFPROTO_IPV4)) });
        let translate = draw(translated("nat-prerouting"))
            .expr(LookupExpr::new("node-ports", Register::R0).dreg(Register::R2))
            .expr(translate_to_looked_up());
        connection
            .transaction()
            .add_table(TABLE, Family::Netdev)
            .add_set(nodes())
            .add_chain(Chain::new(TABLE, "ingress")?.family(Family::Netdev).base(ingress))
            .add_rule(forward)
            .add_table(TABLE, Family::Ip)
            .add_set(node_ports())
            .add_chain(nat("nat-prerouting", NatHook::Prerouting, Priority::DstNat)?)
            .add_chain(nat("nat-postrouting", NatHook::Postrouting, Priority::SrcNat)?)
            .add_rule(translate)
            .add_rule(translated("nat-postrouting").match_ct_status(CtStatus::DST_NAT).masquerade())
            .commit(&connection)
            .await
            .with_context(|| format!("write the nftables tables `{TABLE}`"))?;
        Ok(Self { connection, applied: BTreeMap::new() })
    }

    /// Makes the rules do just this.
    pub(crate) async fn apply(&mut self, wanted: BTreeMap<Slot, Handover>) -> anyhow::Result<()> {
        let gone = self.applied.iter().filter(|(slot, to)| wanted.get(slot) != Some(to));
        let come = wanted.iter().filter(|(slot, to)| self.applied.get(slot) != Some(to));
        let (gone, come): (Vec<_>, Vec<_>) = (gone.collect(), come.collect());
        if gone.is_empty() && come.is_empty() {
            return Ok(());
        }
        let mut transaction = self.connection.transaction();
        for (set, is_forwarded) in [(nodes(), true), (node_ports(), false)] {
            let here = |to: &Handover| matches!(to, Handover::Forwarded(_)) == is_forwarded;
            let gone: Vec<_> = gone.iter().filter(|(_, to)| here(to)).map(|(slot, _)| key(slot)).collect();
            for some in gone.chunks(ELEMENTS_PER_MESSAGE) {
                transaction = transaction.del_set_elements(&set, some);
            }
            let come: Vec<_> =
                come.iter().filter(|(_, to)| here(to)).map(|(slot, to)| key(slot).value(value(to))).collect();
            for some in come.chunks(ELEMENTS_PER_MESSAGE) {
                transaction = transaction.add_set_elements(&set, some);
            }
        }
        transaction.commit(&self.connection).await.context("change the elements of the load balancer")?;
        self.applied = wanted;
        Ok(())
    }
}

fn key(slot: &Slot) -> SetElement {
    SetElement::concat([
        SetElement::ipv4(slot.address),
        SetElement::inet_proto(slot.protocol),
        SetElement::port(slot.port),
        SetElement::mark(slot.slot),
    ])
}

fn value(to: &Handover) -> SetElement {
    match *to {
        Handover::Forwarded(node) => SetElement::ipv4(node),
        Handover::Proxied(node, port) => SetElement::concat([SetElement::ipv4(node), SetElement::port(port)]),
    }
}

fn slots(name: &str, family: Family) -> Set {
    use SetKeyType::{InetProto, InetService, Ipv4Addr, Mark};
    let key = SetKeyType::Concat(vec![Ipv4Addr, InetProto, InetService, Mark]);
    Set::new(TABLE, name).family(family).key_type(key)
}

fn nodes() -> Set {
    slots("nodes", Family::Netdev).map(SetDataType::Value(SetKeyType::Ipv4Addr))
}

fn node_ports() -> Set {
    use SetKeyType::{InetService, Ipv4Addr};
    let to = SetDataType::Value(SetKeyType::Concat(vec![Ipv4Addr, InetService]));
    slots("node-ports", Family::Ip).map(to)
}
