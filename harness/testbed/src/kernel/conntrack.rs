//! The kernel's memory of connections, where an old address translation outlives the rule it came
//! from.

use std::net::Ipv4Addr;

use anyhow::Context as _;
use nlink::Connection;
use nlink::netlink::Netfilter;
use nlink::netlink::netfilter::{ConntrackFilter, IpProtocol};

use super::connect;
use crate::namespace::NetNamespace;

/// UDP flows to forget. What is not given matches anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Flows {
    /// Where the client sent to.
    pub(crate) to: Option<Ipv4Addr>,
    pub(crate) port: u16,
    /// Who answers.
    pub(crate) answered_by: Option<Ipv4Addr>,
}

/// The connection tracking of one namespace.
pub(crate) struct Conntrack(Connection<Netfilter>);

impl Conntrack {
    pub(crate) fn open(namespace: &NetNamespace) -> anyhow::Result<Self> {
        connect(namespace).map(Self)
    }

    /// Forgets these UDP flows: their next datagram is translated anew.
    pub(crate) async fn forget(&self, flows: &Flows) -> anyhow::Result<()> {
        let mut filter = ConntrackFilter::new().proto(IpProtocol::Udp).orig_dst_port(flows.port);
        if let Some(to) = flows.to {
            filter = filter.orig_dst(to);
        }
        if let Some(pod) = flows.answered_by {
            filter = filter.reply_src(pod);
        }
        self.0
            .flush_conntrack_matching(&filter)
            .await
            .with_context(|| format!("forget the UDP flows {flows:?}"))
    }
}
