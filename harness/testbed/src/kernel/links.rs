//! Links, addresses, routes, neighbours and kernel parameters of a namespace.

use std::io;
use std::net::Ipv4Addr;

use anyhow::Context as _;
use ipnet::Ipv4Net;
use nlink::Connection;
use nlink::netlink::Route as Rtnetlink;
use nlink::netlink::addr::Ipv4Address;
use nlink::netlink::link::{BridgeLink, LinkCreateExt as _, VethLink};
use nlink::netlink::neigh::Neighbor;
use nlink::netlink::route::Ipv4Route;
use nlink::netlink::types::route::{RouteScope, RouteType};

use super::connect;
use crate::namespace::NetNamespace;

/// A link layer address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mac(pub(crate) [u8; 6]);

impl Mac {
    /// A locally administered address that is derived from an IP address, so that neighbours can be
    /// told of it beforehand. `side` tells the ends of one link apart.
    pub(crate) fn of(ip: Ipv4Addr, side: u8) -> Self {
        let [a, b, c, d] = ip.octets();
        Self([0x02, side, a, b, c, d])
    }
}

/// A pair of virtual Ethernet links, both up: one end here, the other named in another namespace.
pub(crate) struct Veth<'a> {
    pub(crate) name: &'a str,
    pub(crate) mac: Mac,
    /// The bridge this end is a port of, by index.
    pub(crate) bridge: Option<u32>,
    pub(crate) peer: &'a NetNamespace,
    pub(crate) peer_name: &'a str,
    pub(crate) peer_mac: Mac,
}

/// Where packets to some addresses go.
#[derive(Debug)]
pub(crate) enum Route {
    /// To a gateway, without asking whether it is on the link.
    Via(Ipv4Net, Ipv4Addr),
    /// Straight out of the link.
    Link(Ipv4Net),
    /// Nowhere: the sender is told so.
    Unreachable(Ipv4Net),
}

/// The links of one namespace.
pub(crate) struct Links(Connection<Rtnetlink>);

impl Links {
    pub(crate) fn open(namespace: &NetNamespace) -> anyhow::Result<Self> {
        connect(namespace).map(Self)
    }

    pub(crate) async fn loopback_up(&self) -> anyhow::Result<()> {
        const LOOPBACK: u32 = 1;
        self.0.set_link_up_by_index(LOOPBACK).await.context("set the loopback link up")
    }

    /// Makes a bridge and answers with its index.
    pub(crate) async fn add_bridge(&self, name: &str, mac: Mac) -> anyhow::Result<u32> {
        self.0
            .add_link(BridgeLink::new(name).address(mac.0).up())
            .await
            .with_context(|| format!("make the bridge `{name}`"))?;
        self.index(name).await
    }

    /// Makes a pair of links and answers with the index of this end. The other end is still down.
    pub(crate) async fn add_veth(&self, veth: Veth<'_>) -> anyhow::Result<u32> {
        let link = VethLink::new(veth.name, veth.peer_name)
            .address(veth.mac.0)
            .peer_address(veth.peer_mac.0)
            .peer_netns_fd(veth.peer);
        match veth.bridge {
            Some(bridge) => self.0.add_link(link.master(bridge).up()).await,
            None => self.0.add_link(link.up()).await,
        }
        .with_context(|| format!("make the link `{}`", veth.name))?;
        self.index(veth.name).await
    }

    /// Removes a link with everything that hangs on it; nothing happens if it is gone already.
    pub(crate) async fn remove(&self, name: &str) -> anyhow::Result<()> {
        self.0.del_link_if_exists(name).await.with_context(|| format!("remove the link `{name}`"))?;
        Ok(())
    }

    pub(crate) async fn index(&self, name: &str) -> anyhow::Result<u32> {
        let link =
            self.0.get_link_by_name(name).await.with_context(|| format!("look for the link `{name}`"))?;
        Ok(link.with_context(|| format!("there is no link `{name}`"))?.ifindex())
    }

    pub(crate) async fn up(&self, link: u32) -> anyhow::Result<()> {
        self.0.set_link_up_by_index(link).await.with_context(|| format!("set link {link} up"))
    }

    /// Takes a link out of use. Its addresses, its routes and those of the other end stay.
    pub(crate) async fn down(&self, link: u32) -> anyhow::Result<()> {
        self.0.set_link_down_by_index(link).await.with_context(|| format!("set link {link} down"))
    }

    /// Gives a link one more address, of which nobody else need know.
    pub(crate) async fn add_address(&self, link: u32, address: Ipv4Net) -> anyhow::Result<()> {
        let address = Ipv4Address::with_index(link, address.addr(), address.prefix_len());
        self.0.add_address(address).await.with_context(|| format!("give link {link} another address"))
    }

    /// Gives a link its address, then its neighbours (for good: they never expire and do not count
    /// towards the kernel's limit, which all namespaces share), then its routes.
    pub(crate) async fn configure(
        &self,
        link: u32,
        address: Ipv4Net,
        neighbours: Vec<(Ipv4Addr, Mac)>,
        routes: Vec<Route>,
    ) -> anyhow::Result<()> {
        let mut batch = self
            .0
            .batch()
            .add_address(Ipv4Address::with_index(link, address.addr(), address.prefix_len()), link);
        for (ip, mac) in neighbours {
            batch = batch.add_neighbor(Neighbor::with_index_v4(link, ip).lladdr(mac.0).permanent(), link);
        }
        batch.execute_all().await.with_context(|| format!("configure link {link} with `{address}`"))?;
        // One by one: the library's batches leave out a route's link.
        for route in routes {
            let added = self.0.add_route(ipv4_route(link, &route)).await;
            added.with_context(|| format!("add the route `{route:?}` on link {link}"))?;
        }
        Ok(())
    }
}

fn ipv4_route(link: u32, route: &Route) -> Ipv4Route {
    let to = |net: &Ipv4Net| Ipv4Route::from_addr(net.network(), net.prefix_len());
    match route {
        Route::Via(net, gateway) => to(net).gateway(*gateway).dev_index(link).onlink(),
        Route::Link(net) => to(net).dev_index(link).scope(RouteScope::Link),
        Route::Unreachable(net) => to(net).route_type(RouteType::Unreachable),
    }
}

/// Sets kernel parameters below `net/` in a namespace. One that this kernel does not have is left
/// out: without IPv6 or bridge filtering there is nothing to switch off.
pub(crate) fn set_sysctls(namespace: &NetNamespace, settings: &[(&str, &str)]) -> anyhow::Result<()> {
    // The files show the namespace of the thread that opens them, wherever /proc was mounted.
    namespace.run(|| {
        for (name, value) in settings {
            match std::fs::write(format!("/proc/sys/net/{name}"), value) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(error).with_context(|| {
                        format!("set `/proc/sys/net/{name}` to `{value}` (is /proc/sys mounted read-only?)")
                    });
                }
                _ => {}
            }
        }
        Ok(())
    })?
}
