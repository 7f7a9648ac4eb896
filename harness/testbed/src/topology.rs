//! The machines and wires of the lab: a LAN, nodes on it, the links of their pods, a client host that
//! is not part of the cluster, and a few hosts of the world beyond the router. Every namespace is anonymous, and none is connected to the
//! machine's own network.

use std::net::Ipv4Addr;
use std::sync::Arc;

use anyhow::{Context as _, ensure};
use ipnet::Ipv4Net;

pub use crate::kernel::HostPort;
use crate::kernel::{HostPorts, Links, Mac, Route, Veth, masquerade_egress, set_sysctls, tell_unreachable};
use crate::namespace::NetNamespace;

/// The network all nodes and the client host are on.
pub const LAN: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(192, 168, 199, 0), 24);
/// The network the nodes' pod networks are cut from.
pub const CLUSTER_CIDR: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 244, 0, 0), 16);
/// The network of the cluster IPs; no machine owns one of its addresses.
pub const SERVICE_CIDR: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 96, 0, 0), 12);
/// The machine outside the cluster.
pub const CLIENT_HOST: Ipv4Addr = Ipv4Addr::new(192, 168, 199, 50);
/// The LAN's router. It knows the pod networks and the hosts outside, leads nowhere else, and says so.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 168, 199, 1);
/// Hosts of the world outside, beyond the router.
pub const OUTSIDE_HOSTS: [Ipv4Addr; 2] = [Ipv4Addr::new(11, 11, 11, 11), Ipv4Addr::new(22, 22, 22, 22)];
/// One more of them, which has a name. Its address is from the range that RFC 5737 sets aside.
pub const OUTSIDE_NAMED: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 80);
pub const OUTSIDE_NAME: &str = "www.baidu.com";
/// The load balancer in front of the nodes, if there is one.
pub const LOAD_BALANCER: Ipv4Addr = Ipv4Addr::new(192, 168, 199, 2);
/// Where the addresses come from that it gives to services: .241 to .254.
pub const LOAD_BALANCER_POOL: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(192, 168, 199, 240), 28);

const EVERYWHERE: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0);
const MOST_NODES: usize = 50;
/// The name every machine and pod gives its link.
const ETH0: &str = "eth0";

/// What to build.
#[derive(Clone, Debug)]
pub struct TopologySpec {
    /// How many nodes, one to fifty.
    pub nodes: usize,
    /// Is there a load balancer on the LAN?
    pub load_balancer: bool,
}

impl Default for TopologySpec {
    fn default() -> Self {
        Self { nodes: 3, load_balancer: false }
    }
}

/// The lab. The kernel removes it when it is dropped, or when the process ends in whatever way.
pub struct Topology {
    nodes: Vec<NodeNet>,
    client_host: NetNamespace,
    load_balancer: Option<NetNamespace>,
    outside: NetNamespace,
    lan: NetNamespace,
}

impl Topology {
    /// Builds the LAN, the nodes and the client host. Needs the right to make namespaces and links:
    /// see [`enter`](crate::enter::enter).
    ///
    /// Nodes have a default route to the LAN's router, as any machine has; otherwise a connection
    /// from a node to a cluster IP would fail for want of a route before the proxy sees it. The
    /// router answers whatever is not for the LAN or a pod with "host unreachable", so that what
    /// nobody serves fails at once. The client host has no route but the LAN. Beyond the router are the
    /// hosts outside, which know nothing of pods: these speak to them in the name of their node.
    pub async fn build(spec: &TopologySpec) -> anyhow::Result<Self> {
        ensure!(
            (1..=MOST_NODES).contains(&spec.nodes),
            "a topology has 1 to {MOST_NODES} nodes, not {}",
            spec.nodes
        );
        let lan = NetNamespace::new().context("make a network namespace for the LAN")?;
        let plans: Vec<NodePlan> = (0..spec.nodes).map(NodePlan::new).collect();

        let balanced = spec.load_balancer;
        let bridge = Lan::build(&lan, &plans, balanced).await?;
        let outside = bridge.add_outside().await.context("build the hosts outside")?;
        let mut nodes = Vec::new();
        for plan in &plans {
            let node = bridge.add_node(plan, &plans).await;
            nodes.push(node.with_context(|| format!("build the node `{}`", plan.name))?);
        }
        let client_host = bridge.add_client_host(&plans).await.context("build the client host")?;
        let load_balancer = match balanced {
            true => Some(bridge.add_load_balancer(&plans).await.context("build the load balancer")?),
            false => None,
        };
        Ok(Self { nodes, client_host, load_balancer, outside, lan })
    }

    pub fn nodes(&self) -> &[NodeNet] {
        &self.nodes
    }

    /// The machine on the LAN that is not part of the cluster.
    pub fn client_host(&self) -> &NetNamespace {
        &self.client_host
    }

    /// The LAN's router.
    pub(crate) fn router(&self) -> &NetNamespace {
        &self.lan
    }

    /// Where the hosts outside are, all in one.
    pub fn outside(&self) -> &NetNamespace {
        &self.outside
    }

    /// The machine that owns the addresses of [`LOAD_BALANCER_POOL`].
    pub(crate) fn load_balancer(&self) -> Option<&NetNamespace> {
        self.load_balancer.as_ref()
    }

    /// Cuts a node off from everybody else: whatever is sent on its wire is lost without a word. The wire
    /// is down on the LAN's side, so that the node keeps its routes.
    pub async fn cut_off(&self, node: &NodeNet) -> anyhow::Result<()> {
        let links = Links::open(&self.lan)?;
        let cut = async { links.down(links.index(&node.port).await?).await };
        cut.await.with_context(|| format!("cut node `{}` off", node.name))
    }

    /// Mends the wire.
    pub async fn reconnect(&self, node: &NodeNet) -> anyhow::Result<()> {
        let links = Links::open(&self.lan)?;
        let mended = async { links.up(links.index(&node.port).await?).await };
        mended.await.with_context(|| format!("connect node `{}` again", node.name))
    }
}

/// A node's place in the network. Clones are the same node.
#[derive(Clone)]
pub struct NodeNet {
    pub name: String,
    /// The node's address on the LAN.
    pub ip: Ipv4Addr,
    /// Where the addresses of the node's pods come from; the first one is their gateway.
    pub pod_cidr: Ipv4Net,
    pub namespace: NetNamespace,
    /// The name of its port on the LAN.
    port: String,
    links: Arc<Links>,
    host_ports: Arc<HostPorts>,
}

impl NodeNet {
    /// The address pods of this node send everything to, and the source a pod sees when its own
    /// node speaks to it.
    pub fn pod_gateway(&self) -> Ipv4Addr {
        gateway_of(self.pod_cidr)
    }

    /// Connects a pod's namespace to the node and gives it `ip`: afterwards the pod is reachable
    /// from every node and pod. Fails if the address is not of this node or still attached.
    pub async fn attach_pod(&self, pod: &NetNamespace, ip: Ipv4Addr) -> anyhow::Result<()> {
        let gateway = self.pod_gateway();
        ensure!(
            self.pod_cidr.contains(&ip)
                && ![self.pod_cidr.network(), gateway, self.pod_cidr.broadcast()].contains(&ip),
            "`{ip}` is no pod address of node `{}`, whose pod network is `{}`",
            self.name,
            self.pod_cidr
        );
        self.wire_pod(pod, ip, gateway)
            .await
            .with_context(|| format!("attach a pod with address `{ip}` to node `{}`", self.name))
    }

    /// Takes the pod with this address off the network; nothing happens if there is none.
    pub async fn detach_pod(&self, ip: Ipv4Addr) -> anyhow::Result<()> {
        self.links
            .remove(&veth_name(ip))
            .await
            .with_context(|| format!("detach the pod with address `{ip}` from node `{}`", self.name))
    }

    /// Lets ports of the node lead to a pod. Only ports that nobody has may be taken.
    pub async fn map_ports(&self, ip: Ipv4Addr, ports: &[HostPort]) -> anyhow::Result<()> {
        let mapped = self.host_ports.add(ip, ports).await;
        mapped.with_context(|| format!("map ports of node `{}`", self.name))
    }

    /// Takes back what [`Self::map_ports`] gave.
    pub async fn unmap_ports(&self, ip: Ipv4Addr, ports: &[HostPort]) -> anyhow::Result<()> {
        let unmapped = self.host_ports.remove(ip, ports).await;
        unmapped.with_context(|| format!("unmap ports of node `{}`", self.name))
    }

    /// Point to point and not over a bridge, where either a pod's calls to itself through a service
    /// or calls between pods of one node break, depending on whether bridged packets are filtered.
    async fn wire_pod(&self, pod: &NetNamespace, ip: Ipv4Addr, gateway: Ipv4Addr) -> anyhow::Result<()> {
        let (node_mac, pod_mac) = (Mac::of(ip, NODE_SIDE), Mac::of(ip, POD_SIDE));
        be_host(pod)?;
        let inside = Links::open(pod)?;
        inside.loopback_up().await?;
        let name = veth_name(ip);
        let veth =
            Veth { name: &name, mac: node_mac, bridge: None, peer: pod, peer_name: ETH0, peer_mac: pod_mac };
        let outer = self.links.add_veth(veth).await?;
        let wired = async {
            let inner = inside.index(ETH0).await?;
            inside.up(inner).await?;
            let out = [Route::Via(EVERYWHERE, gateway)];
            inside.configure(inner, host(ip), vec![(gateway, node_mac)], out.into()).await?;
            self.links.configure(outer, host(gateway), vec![(ip, pod_mac)], vec![Route::Link(host(ip))]).await
        };
        let wired = wired.await;
        if wired.is_err() {
            // The link would keep the address taken for whoever tries again.
            let _ = self.links.remove(&name).await;
        }
        wired
    }
}

/// What is known of a node before it exists.
struct NodePlan {
    name: String,
    /// The name of its port on the LAN.
    port: String,
    ip: Ipv4Addr,
    pod_cidr: Ipv4Net,
}

impl NodePlan {
    fn new(number: usize) -> Self {
        // At most fifty nodes, so that every number fits.
        let small = number as u8;
        let last = match number {
            0 => 117,
            1 => 231,
            2 => 212,
            // The client host has .50.
            _ if small + 10 >= 50 => small + 11,
            _ => small + 10,
        };
        Self {
            name: format!("kube{number}.vm"),
            port: format!("kube{number}"),
            ip: Ipv4Addr::new(192, 168, 199, last),
            pod_cidr: Ipv4Net::new_assert(Ipv4Addr::new(10, 244, small, 0), 24),
        }
    }

    fn neighbour(&self) -> (Ipv4Addr, Mac) {
        (self.ip, Mac::of(self.ip, POD_SIDE))
    }

    /// The way to this node's pods from anywhere on the LAN.
    fn route(&self) -> Route {
        Route::Via(self.pod_cidr, self.ip)
    }
}

/// The bridge everything on the LAN is plugged into; its own address is the router's.
struct Lan {
    links: Links,
    bridge: u32,
    /// Is there a load balancer?
    balanced: bool,
}

impl Lan {
    async fn build(namespace: &NetNamespace, plans: &[NodePlan], balanced: bool) -> anyhow::Result<Self> {
        be_router(namespace).await?;
        let links = Links::open(namespace)?;
        links.loopback_up().await?;
        let bridge = links.add_bridge("lan0", Mac::of(GATEWAY, POD_SIDE)).await?;
        let neighbours = plans.iter().map(NodePlan::neighbour).chain([client_host_neighbour()]);
        let neighbours = neighbours.chain(load_balancer_neighbours(balanced)).collect();
        let routes = plans.iter().map(NodePlan::route).chain([Route::Unreachable(EVERYWHERE)]).collect();
        links.configure(bridge, on_lan(GATEWAY), neighbours, routes).await?;
        Ok(Self { links, bridge, balanced })
    }

    /// The hosts outside hang on the router by one wire of their own.
    async fn add_outside(&self) -> anyhow::Result<NetNamespace> {
        let namespace = NetNamespace::new().context("make a network namespace")?;
        be_host(&namespace)?;
        let inside = Links::open(&namespace)?;
        inside.loopback_up().await?;
        let hosts = OUTSIDE_HOSTS.iter().copied().chain([OUTSIDE_NAMED]);
        let (router_mac, outside_mac) = (Mac::of(OUTSIDE_NAMED, NODE_SIDE), Mac::of(OUTSIDE_NAMED, POD_SIDE));
        let veth = Veth {
            name: "world",
            mac: router_mac,
            bridge: None,
            peer: &namespace,
            peer_name: ETH0,
            peer_mac: outside_mac,
        };
        let outer = self.links.add_veth(veth).await?;
        let inner = inside.index(ETH0).await?;
        inside.up(inner).await?;
        let home = [Route::Via(EVERYWHERE, GATEWAY)];
        inside.configure(inner, host(OUTSIDE_NAMED), vec![(GATEWAY, router_mac)], home.into()).await?;
        for ip in OUTSIDE_HOSTS {
            inside.add_address(inner, host(ip)).await?;
        }
        let neighbours = hosts.clone().map(|ip| (ip, outside_mac)).collect();
        let routes = hosts.map(|ip| Route::Link(host(ip))).collect();
        self.links.configure(outer, host(GATEWAY), neighbours, routes).await?;
        Ok(namespace)
    }

    async fn add_load_balancer(&self, plans: &[NodePlan]) -> anyhow::Result<NetNamespace> {
        let namespace = NetNamespace::new().context("make a network namespace")?;
        be_router(&namespace).await?;
        let machines = [client_host_neighbour(), router_neighbour()];
        let neighbours = plans.iter().map(NodePlan::neighbour).chain(machines).collect();
        // What no service has is refused, and answers find their way to pods.
        let unused = Route::Unreachable(LOAD_BALANCER_POOL);
        let routes = plans.iter().map(NodePlan::route).chain([unused]).collect();
        self.plug(&namespace, "balancer", LOAD_BALANCER, neighbours, routes).await?;
        Ok(namespace)
    }

    async fn add_node(&self, plan: &NodePlan, plans: &[NodePlan]) -> anyhow::Result<NodeNet> {
        let namespace = NetNamespace::new().context("make a network namespace")?;
        be_router(&namespace).await?;
        let others = || plans.iter().filter(|other| other.ip != plan.ip);
        let neighbours = others()
            .map(NodePlan::neighbour)
            .chain([client_host_neighbour(), router_neighbour()])
            .chain(load_balancer_neighbours(self.balanced))
            .collect();
        // A pod address nobody has must not go back to the router, which would return it.
        let own = [Route::Via(EVERYWHERE, GATEWAY), Route::Unreachable(plan.pod_cidr)];
        let routes = others().map(NodePlan::route).chain(own).collect();
        let links = self.plug(&namespace, &plan.port, plan.ip, neighbours, routes).await?;
        masquerade_egress(&namespace, plan.pod_cidr, &[CLUSTER_CIDR, SERVICE_CIDR, LAN]).await?;
        Ok(NodeNet {
            name: plan.name.clone(),
            port: plan.port.clone(),
            ip: plan.ip,
            pod_cidr: plan.pod_cidr,
            host_ports: Arc::new(HostPorts::new(&namespace)),
            namespace,
            links: Arc::new(links),
        })
    }

    async fn add_client_host(&self, plans: &[NodePlan]) -> anyhow::Result<NetNamespace> {
        let namespace = NetNamespace::new().context("make a network namespace")?;
        be_host(&namespace)?;
        let neighbours = plans.iter().map(NodePlan::neighbour).chain([router_neighbour()]);
        let neighbours = neighbours.chain(load_balancer_neighbours(self.balanced)).collect();
        self.plug(&namespace, "client", CLIENT_HOST, neighbours, Vec::new()).await?;
        Ok(namespace)
    }

    async fn plug(
        &self,
        namespace: &NetNamespace,
        port: &str,
        ip: Ipv4Addr,
        neighbours: Vec<(Ipv4Addr, Mac)>,
        routes: Vec<Route>,
    ) -> anyhow::Result<Links> {
        let links = Links::open(namespace)?;
        links.loopback_up().await?;
        let veth = Veth {
            name: port,
            mac: Mac::of(ip, NODE_SIDE),
            bridge: Some(self.bridge),
            peer: namespace,
            peer_name: ETH0,
            peer_mac: Mac::of(ip, POD_SIDE),
        };
        self.links.add_veth(veth).await?;
        let eth0 = links.index(ETH0).await?;
        links.up(eth0).await?;
        links.configure(eth0, on_lan(ip), neighbours, routes).await?;
        Ok(links)
    }
}

/// The end of a link where the address is.
const POD_SIDE: u8 = 0;
/// The end of a link at the bridge, or at the node.
const NODE_SIDE: u8 = 1;

/// Prepares a namespace to be a machine or a pod.
fn be_host(namespace: &NetNamespace) -> anyhow::Result<()> {
    set_sysctls(namespace, HOST_SYSCTLS)?;
    // Anybody may ping, as in containers; in a user namespace only mapped groups can be named.
    let allow_ping = |groups| set_sysctls(namespace, &[("ipv4/ping_group_range", groups)]);
    allow_ping("0 2147483647").or_else(|_| allow_ping("0 0"))
}

/// Prepares a namespace to pass packets on as well.
async fn be_router(namespace: &NetNamespace) -> anyhow::Result<()> {
    be_host(namespace)?;
    set_sysctls(namespace, ROUTER_SYSCTLS)?;
    tell_unreachable(namespace).await;
    Ok(())
}

/// Time stamps without random offsets: one client that calls one pod through several addresses would
/// otherwise hit the pod's TIME_WAIT sockets with stamps that seem to run backwards, and lose a
/// second each time. ICMP errors are not rationed: every refused call must learn of its refusal, not
/// only the first few of a second.
const HOST_SYSCTLS: &[(&str, &str)] = &[
    ("ipv6/conf/all/disable_ipv6", "1"),
    ("ipv6/conf/default/disable_ipv6", "1"),
    ("ipv4/ip_unprivileged_port_start", "0"),
    ("ipv4/tcp_timestamps", "2"),
    ("ipv4/icmp_ratemask", "0"),
];

const ROUTER_SYSCTLS: &[(&str, &str)] = &[
    ("ipv4/ip_forward", "1"),
    ("ipv4/conf/all/rp_filter", "0"),
    ("ipv4/conf/default/rp_filter", "0"),
    ("ipv4/conf/all/send_redirects", "0"),
    ("ipv4/conf/default/send_redirects", "0"),
    ("bridge/bridge-nf-call-iptables", "0"),
];

fn host(ip: Ipv4Addr) -> Ipv4Net {
    Ipv4Net::new_assert(ip, 32)
}

fn on_lan(ip: Ipv4Addr) -> Ipv4Net {
    Ipv4Net::new_assert(ip, LAN.prefix_len())
}

fn gateway_of(pod_cidr: Ipv4Net) -> Ipv4Addr {
    Ipv4Addr::from_bits(pod_cidr.network().to_bits() + 1)
}

fn client_host_neighbour() -> (Ipv4Addr, Mac) {
    (CLIENT_HOST, Mac::of(CLIENT_HOST, POD_SIDE))
}

fn router_neighbour() -> (Ipv4Addr, Mac) {
    (GATEWAY, Mac::of(GATEWAY, POD_SIDE))
}

/// All addresses of the load balancer lead to the one machine, so nobody needs to ask for them.
fn load_balancer_neighbours(balanced: bool) -> impl Iterator<Item = (Ipv4Addr, Mac)> {
    let addresses = std::iter::once(LOAD_BALANCER).chain(LOAD_BALANCER_POOL.hosts());
    addresses.filter(move |_| balanced).map(|ip| (ip, Mac::of(LOAD_BALANCER, POD_SIDE)))
}

/// One name per pod address, so that the kernel refuses an address that is still attached.
fn veth_name(ip: Ipv4Addr) -> String {
    let [_, _, node, pod] = ip.octets();
    format!("veth{node}-{pod}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_first_nodes_are_the_labs_and_no_two_machines_share_an_address() {
        let plans: Vec<NodePlan> = (0..MOST_NODES).map(NodePlan::new).collect();
        assert_eq!(plans[0].name, "kube0.vm");
        assert_eq!(plans[0].ip.to_string(), "192.168.199.117");
        assert_eq!(plans[1].ip.to_string(), "192.168.199.231");
        assert_eq!(plans[2].ip.to_string(), "192.168.199.212");
        let mut addresses: BTreeSet<Ipv4Addr> = plans.iter().map(|plan| plan.ip).collect();
        addresses.extend([CLIENT_HOST, GATEWAY, LOAD_BALANCER]);
        addresses.extend(LOAD_BALANCER_POOL.hosts());
        assert_eq!(addresses.len(), MOST_NODES + 3 + LOAD_BALANCER_POOL.hosts().count());
        assert!(addresses.iter().all(|ip| LAN.contains(ip)));
        let pods: BTreeSet<Ipv4Net> = plans.iter().map(|plan| plan.pod_cidr).collect();
        assert_eq!(pods.len(), MOST_NODES);
        assert!(pods.iter().all(|net| CLUSTER_CIDR.contains(net)));
    }

    #[tokio::test]
    async fn a_topology_without_nodes_is_refused() {
        let refused = Topology::build(&TopologySpec { nodes: 0, ..TopologySpec::default() })
            .await
            .err()
            .map(|error| error.to_string());
        assert_eq!(refused.as_deref(), Some("a topology has 1 to 50 nodes, not 0"));
    }
}
