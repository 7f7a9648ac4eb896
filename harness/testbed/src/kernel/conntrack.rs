//! The kernel's memory of connections, where an old address translation outlives the rule it came
//! from.

use std::net::Ipv4Addr;

use anyhow::Context as _;
use nlink::Connection;
use nlink::netlink::Netfilter;
use nlink::netlink::netfilter::{ConntrackFilter, IpProtocol};
use nlink::netlink::types::AddressFamily;

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
    ///
    /// The kernel looks through the connections of the whole machine for every request, so several kinds of
    /// flows are looked for together.
    pub(crate) async fn forget(&self, flows: &[Flows]) -> anyhow::Result<()> {
        let what = || format!("forget the UDP flows {flows:?}");
        let filters: Vec<ConntrackFilter> = flows.iter().map(Flows::filter).collect();
        match &*filters {
            [] => Ok(()),
            [filter] => self.0.flush_conntrack_matching(filter).await.with_context(what),
            filters => {
                for entry in self.0.get_conntrack_matching(&of_udp()).await.with_context(what)? {
                    if filters.iter().any(|filter| filter.matches(&entry)) {
                        match self.0.del_conntrack_entry(&entry).await {
                            Err(error) if error.is_not_found() => {}
                            deleted => deleted.with_context(what)?,
                        }
                    }
                }
                Ok(())
            }
        }
    }
}

impl Flows {
    fn filter(&self) -> ConntrackFilter {
        let mut filter = of_udp().orig_dst_port(self.port);
        if let Some(to) = self.to {
            filter = filter.orig_dst(to);
        }
        if let Some(pod) = self.answered_by {
            filter = filter.reply_src(pod);
        }
        filter
    }
}

fn of_udp() -> ConntrackFilter {
    ConntrackFilter::new().proto(IpProtocol::Udp).family(AddressFamily::Inet)
}
