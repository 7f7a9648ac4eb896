//! The kernel's side of the network: the one module that knows the netlink library, so that it can
//! be replaced without anybody else noticing.

mod balancer;
mod conntrack;
mod egress;
pub(crate) mod features;
mod host_ports;
mod links;
mod tables;
mod unreachable;

pub(crate) use balancer::{Balancer, Handover, SLOTS, Slot};
pub(crate) use conntrack::{Conntrack, Flows};
pub(crate) use egress::masquerade_egress;
pub use host_ports::HostPort;
pub(crate) use host_ports::HostPorts;
pub(crate) use links::{Links, Mac, Route, Veth, set_sysctls};
pub(crate) use tables::{Balance, Change, Element, Field, Map, Masquerade, Rows, Tables, Value};
pub(crate) use unreachable::tell_unreachable;

use anyhow::Context as _;
use nlink::Connection;
use nlink::netlink::construction::SyncConstructible;

use crate::namespace::NetNamespace;

/// A netlink socket inside `namespace`; it keeps the namespace alive.
fn connect<P: SyncConstructible + Default>(namespace: &NetNamespace) -> anyhow::Result<Connection<P>> {
    namespace.run(Connection::<P>::new)?.context("open a netlink socket")
}
