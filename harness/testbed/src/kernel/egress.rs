//! The way out of the cluster: pods speak to the world with their node's address, as nobody out there
//! knows theirs.

use anyhow::Context as _;
use ipnet::Ipv4Net;
use nlink::Connection;
use nlink::netlink::Nftables;
use nlink::netlink::nftables::{BaseChain, Chain, Family, NatHook, Priority, Rule};

use super::connect;
use crate::namespace::NetNamespace;

const TABLE: &str = "egress";
const CHAIN: &str = "nat-postrouting";

/// Rewrites the source of what `pods` send to anywhere but `inside`.
pub(crate) async fn masquerade_egress(
    namespace: &NetNamespace,
    pods: Ipv4Net,
    inside: &[Ipv4Net],
) -> anyhow::Result<()> {
    let connection: Connection<Nftables> = connect(namespace)?;
    let base = BaseChain::nat(NatHook::Postrouting, Priority::SrcNat);
    let rule = Rule::new(TABLE, CHAIN).family(Family::Ip).match_saddr_v4(pods.network(), pods.prefix_len());
    let rule = inside
        .iter()
        .fold(rule, |rule, net| rule.match_daddr_v4_not(net.network(), net.prefix_len()))
        .masquerade();
    connection
        .transaction()
        .add_table(TABLE, Family::Ip)
        .add_chain(Chain::new(TABLE, CHAIN)?.family(Family::Ip).base(base))
        .add_rule(rule)
        .commit(&connection)
        .await
        .with_context(|| format!("write the nftables table `{TABLE}`"))
}
