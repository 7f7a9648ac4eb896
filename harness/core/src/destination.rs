//! Destinations by their role: a check says "the node port of `web`", the world says which
//! addresses and ports that is.

use std::fmt;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Service, ServicePort};
use stickler_model::{Destination, ObjectKey, Protocol, World};

/// Where calls go, named by its role in the check's namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum To {
    /// Every port of a service at its cluster IP.
    ClusterIp(&'static str),
    /// A port number, used or not, at a service's cluster IP.
    ClusterIpPort(&'static str, u16),
    /// Every node port of a service, on every node.
    NodePort(&'static str),
    /// Every port of a service at every address of its load balancer.
    LoadBalancer(&'static str),
    /// An address that was resolved before, for instance one of an object that is gone by now.
    Address(String, Destination),
}

impl fmt::Display for To {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ClusterIp(service) => write!(f, "`{service}`"),
            Self::ClusterIpPort(service, port) => write!(f, "port {port} of `{service}`"),
            Self::NodePort(service) => write!(f, "the node ports of `{service}`"),
            Self::LoadBalancer(service) => write!(f, "the load balancer of `{service}`"),
            Self::Address(label, _) => f.write_str(label),
        }
    }
}

/// Every port of a service at its cluster IP.
pub fn cluster_ip(service: &'static str) -> To {
    To::ClusterIp(service)
}

/// Every node port of a service, on every node.
pub fn node_port(service: &'static str) -> To {
    To::NodePort(service)
}

/// Every port of a service at every address of its load balancer.
pub fn load_balancer(service: &'static str) -> To {
    To::LoadBalancer(service)
}

/// A destination with the words for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) label: String,
    pub(crate) destination: Destination,
}

impl To {
    /// The addresses behind the role, in this world; an error says what is not there yet.
    pub(crate) fn resolve(&self, world: &World, namespace: &str) -> Result<Vec<Target>, String> {
        let service = |name: &str| {
            let key = ObjectKey { namespace: namespace.to_owned(), name: name.to_owned() };
            world.services.get(&key).ok_or_else(|| format!("there is no service `{name}`"))
        };
        match self {
            Self::ClusterIp(name) => {
                let service = service(name)?;
                let ip = service_ip(name, service)?;
                let target = |port: &ServicePort| -> Result<Target, String> {
                    let destination = Destination::new(ip, number(port.port)?, protocol(port)?);
                    Ok(Target { label: format!("`{name}` ({destination})"), destination })
                };
                ports(service).map(target).collect()
            }
            Self::ClusterIpPort(name, port) => {
                let destination = Destination::tcp(service_ip(name, service(name)?)?, *port);
                Ok(vec![Target { label: format!("port {port} of `{name}` ({destination})"), destination }])
            }
            Self::NodePort(name) => {
                let mut targets = Vec::new();
                for (node, ip) in nodes(world) {
                    for port in ports(service(name)?) {
                        let node_port =
                            port.node_port.ok_or_else(|| format!("service `{name}` has no node port"))?;
                        let destination = Destination::new(ip, number(node_port)?, protocol(port)?);
                        targets.push(Target {
                            label: format!("`{name}` at {node} ({destination})"),
                            destination,
                        });
                    }
                }
                Ok(targets)
            }
            Self::LoadBalancer(name) => {
                let service = service(name)?;
                let addresses = balancer_addresses(service);
                if addresses.is_empty() {
                    return Err(format!("service `{name}` has no address of a load balancer"));
                }
                let mut targets = Vec::new();
                for ip in addresses {
                    for port in ports(service) {
                        let destination = Destination::new(ip, number(port.port)?, protocol(port)?);
                        let label = format!("the load balancer of `{name}` ({destination})");
                        targets.push(Target { label, destination });
                    }
                }
                Ok(targets)
            }
            Self::Address(label, destination) => {
                Ok(vec![Target { label: format!("{label} ({destination})"), destination: *destination }])
            }
        }
    }
}

/// The cluster IP of a service.
pub(crate) fn service_ip(name: &str, service: &Service) -> Result<IpAddr, String> {
    let ip = service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref()).unwrap_or_default();
    ip.parse().map_err(|_| format!("service `{name}` has no cluster IP (it is `{ip}`)"))
}

/// The addresses that a load balancer published in the status of a service.
pub(crate) fn balancer_addresses(service: &Service) -> Vec<IpAddr> {
    let balancer = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let points = balancer.into_iter().flat_map(|balancer| balancer.ingress.iter().flatten());
    points.filter_map(|point| point.ip.as_deref()?.parse().ok()).collect()
}

fn ports(service: &Service) -> impl Iterator<Item = &ServicePort> {
    service.spec.iter().flat_map(|spec| spec.ports.iter().flatten())
}

fn number(port: i32) -> Result<u16, String> {
    u16::try_from(port).map_err(|_| format!("{port} is no port"))
}

fn protocol(port: &ServicePort) -> Result<Protocol, String> {
    port.protocol.as_deref().unwrap_or("TCP").parse().map_err(|error| format!("{error}"))
}

/// Every node with its internal address.
pub(crate) fn nodes(world: &World) -> impl Iterator<Item = (&str, IpAddr)> {
    world.nodes.iter().filter_map(|(name, node)| {
        let addresses = node.status.as_ref()?.addresses.as_ref()?;
        let internal = addresses.iter().find(|address| address.type_ == "InternalIP")?;
        Some((name.as_str(), internal.address.parse().ok()?))
    })
}
