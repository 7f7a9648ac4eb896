//! A load balancer on the LAN: it owns addresses and spreads connections to them over nodes. It knows
//! nothing of the cluster's API; somebody tells it what to do.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::kernel::{Balancer, Handover, Links, SLOTS, Slot};
use crate::namespace::NetNamespace;

const DEVICE: &str = "eth0";
/// The longest a node may take to say how it is.
const PROBE: Duration = Duration::from_millis(500);

/// How the balancer hands connections over
/// ([KEP-1860](https://github.com/kubernetes/enhancements/tree/master/keps/sig-network/1860-kube-proxy-IP-node-binding)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IpMode {
    /// Packets arrive at nodes addressed to the balancer's address.
    Vip,
    /// They arrive at a node port, and come from the balancer.
    Proxy,
}

impl IpMode {
    /// As it stands in a service's status.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Vip => "VIP",
            Self::Proxy => "Proxy",
        }
    }
}

/// What is balanced at one address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frontend {
    pub(crate) address: Ipv4Addr,
    pub(crate) mode: IpMode,
    pub(crate) ports: Vec<BalancedPort>,
    /// Among whom; none means that connections are refused.
    pub(crate) nodes: BTreeSet<Ipv4Addr>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BalancedPort {
    /// Its number (IANA).
    pub(crate) protocol: u8,
    pub(crate) port: u16,
    /// Needed in mode [`IpMode::Proxy`].
    pub(crate) node_port: Option<u16>,
}

/// The machine that balances.
pub(crate) struct LoadBalancer {
    machine: NetNamespace,
    state: Mutex<State>,
}

struct State {
    balancer: Balancer,
    frontends: BTreeMap<String, (Frontend, Vec<Ipv4Addr>)>,
}

impl LoadBalancer {
    pub(crate) async fn prepare(machine: &NetNamespace) -> anyhow::Result<Self> {
        let link = Links::open(machine)?.index(DEVICE).await?;
        let balancer = Balancer::prepare(machine, DEVICE, link).await?;
        let state = State { balancer, frontends: BTreeMap::new() };
        Ok(Self { machine: machine.clone(), state: Mutex::new(state) })
    }

    /// Balances this from now on under that name, or no more. Connections that were handed to a node
    /// which is still among them stay with it, as far as the shares allow.
    pub(crate) async fn set(&self, name: &str, frontend: Option<Frontend>) -> anyhow::Result<()> {
        let mut state = self.state.lock().await;
        match frontend {
            None => state.frontends.remove(name),
            Some(frontend) => {
                let before = state.frontends.get(name).map(|(_, owners)| owners.as_slice());
                let owners = assign(before.unwrap_or_default(), &frontend.nodes);
                state.frontends.insert(name.to_owned(), (frontend, owners))
            }
        };
        let wanted =
            state.frontends.values().flat_map(|(frontend, owners)| slots(frontend, owners)).collect();
        state.balancer.apply(wanted).await
    }

    /// What is balanced under that name.
    pub(crate) async fn get(&self, name: &str) -> Option<Frontend> {
        self.state.lock().await.frontends.get(name).map(|(frontend, _)| frontend.clone())
    }

    /// Asks a node whether it has endpoints of its own
    /// ([Create an External Load Balancer, "Caveats and limitations when preserving source IPs"](https://kubernetes.io/docs/tasks/access-application-cluster/create-external-load-balancer/#caveats-and-limitations-when-preserving-source-ips)).
    pub(crate) async fn is_healthy(&self, node: Ipv4Addr, health_check_port: u16) -> bool {
        let address = SocketAddr::from((node, health_check_port));
        let asked = timeout(PROBE, async {
            let mut stream = self.machine.connect(address).await?;
            let request = format!("GET /healthz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await?;
            let mut answer = [0; "HTTP/1.1 200".len()];
            stream.read_exact(&mut answer).await?;
            std::io::Result::Ok(answer)
        });
        matches!(asked.await, Ok(Ok(answer)) if answer.ends_with(b" 200"))
    }
}

fn slots(frontend: &Frontend, owners: &[Ipv4Addr]) -> Vec<(Slot, Handover)> {
    let mut slots = Vec::new();
    for port in &frontend.ports {
        for (slot, node) in (0..).zip(owners) {
            let to = match (frontend.mode, port.node_port) {
                (IpMode::Vip, _) => Handover::Forwarded(*node),
                (IpMode::Proxy, Some(node_port)) => Handover::Proxied(*node, node_port),
                // No way leads to the node.
                (IpMode::Proxy, None) => continue,
            };
            let BalancedPort { protocol, port, .. } = *port;
            slots.push((Slot { address: frontend.address, protocol, port, slot }, to));
        }
    }
    slots
}

/// Divides the slots evenly among the nodes, and moves no more of them than that takes.
fn assign(before: &[Ipv4Addr], nodes: &BTreeSet<Ipv4Addr>) -> Vec<Ipv4Addr> {
    if nodes.is_empty() {
        return Vec::new();
    }
    let mut load: BTreeMap<Ipv4Addr, u32> = nodes.iter().map(|node| (*node, 0)).collect();
    // Each may keep its share; the first few one more, where it does not come out even.
    let count = u32::try_from(nodes.len()).unwrap_or(u32::MAX);
    let (share, mut spare) = (SLOTS / count, SLOTS % count);
    let mut owners: Vec<Option<Ipv4Addr>> =
        (0..SLOTS as usize).map(|slot| before.get(slot).copied()).collect();
    for owner in &mut owners {
        let Some(load) = owner.and_then(|node| load.get_mut(&node)) else {
            *owner = None;
            continue;
        };
        if *load < share {
            *load += 1;
        } else if *load == share && spare > 0 {
            *load += 1;
            spare -= 1;
        } else {
            *owner = None;
        }
    }
    let next = |load: &mut BTreeMap<Ipv4Addr, u32>| {
        let least = load.iter_mut().min_by_key(|(_, load)| **load)?;
        *least.1 += 1;
        Some(*least.0)
    };
    owners.into_iter().filter_map(|owner| owner.or_else(|| next(&mut load))).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn nodes(numbers: &BTreeSet<u8>) -> BTreeSet<Ipv4Addr> {
        numbers.iter().map(|number| Ipv4Addr::new(192, 168, 199, *number)).collect()
    }

    proptest! {
        #[test]
        fn slots_are_shared_evenly_and_move_little(
            before in prop::collection::btree_set(1..60_u8, 1..50),
            after in prop::collection::btree_set(1..60_u8, 1..50),
        ) {
            let (before, after) = (nodes(&before), nodes(&after));
            let first = assign(&[], &before);
            let second = assign(&first, &after);
            prop_assert_eq!(assign(&second, &after), second.clone(), "no change, no move");
            for (owners, nodes) in [(&first, &before), (&second, &after)] {
                prop_assert_eq!(owners.len(), SLOTS as usize);
                let load = |node: &Ipv4Addr| owners.iter().filter(|owner| *owner == node).count();
                let loads: Vec<_> = nodes.iter().map(load).collect();
                prop_assert_eq!(loads.iter().sum::<usize>(), SLOTS as usize, "only nodes own slots");
                prop_assert!(loads.iter().max().unwrap() - loads.iter().min().unwrap() <= 1, "{:?}", loads);
            }
            // A node that stays keeps what it had, up to its new share.
            let share = SLOTS as usize / after.len();
            for node in before.intersection(&after) {
                let had = first.iter().filter(|owner| *owner == node).count();
                let kept = first.iter().zip(&second).filter(|(a, b)| a == b && *a == node).count();
                prop_assert!(kept >= had.min(share), "{} kept {} of {}, share {}", node, kept, had, share);
            }
        }
    }

    #[test]
    fn without_nodes_nobody_owns_anything() {
        assert!(assign(&[Ipv4Addr::LOCALHOST], &BTreeSet::new()).is_empty());
    }
}
