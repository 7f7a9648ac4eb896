//! Ports: protocols, and which number a service port means at a pod.

use std::fmt;
use std::str::FromStr;

use k8s_openapi::api::core::v1::{Container, ContainerPort, Pod, Service, ServicePort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// The transport of a port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    #[default]
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    /// The protocol of a port field, where nothing means TCP
    /// ([Protocols for Services](https://kubernetes.io/docs/reference/networking/service-protocols/):
    /// "the default network protocol"). A name no Kubernetes knows is no protocol.
    pub(crate) fn of_field(field: Option<&str>) -> Option<Self> {
        field.map_or(Some(Self::Tcp), |name| name.parse().ok())
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        })
    }
}

impl FromStr for Protocol {
    type Err = UnknownProtocol;

    fn from_str(text: &str) -> Result<Self, UnknownProtocol> {
        match text {
            "TCP" => Ok(Self::Tcp),
            "UDP" => Ok(Self::Udp),
            "SCTP" => Ok(Self::Sctp),
            _ => Err(UnknownProtocol(text.to_owned())),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a protocol; services know TCP, UDP and SCTP")]
pub struct UnknownProtocol(String);

/// The ports of a service.
pub(crate) fn service_ports(service: &Service) -> impl Iterator<Item = &ServicePort> {
    service.spec.iter().flat_map(|spec| spec.ports.iter().flatten())
}

/// The number a service port means at one pod, if the pod has it.
///
/// [Service, "Defining a Service"](https://kubernetes.io/docs/concepts/services-networking/service/#field-spec-ports):
/// "By default and for convenience, the `targetPort` is set to the same value as the `port`
/// field"; port definitions in pods have names, and a name may stand for another number in each
/// pod. Name and protocol must both match.
pub(crate) fn target_port(pod: &Pod, port: &ServicePort) -> Option<u16> {
    match &port.target_port {
        None | Some(IntOrString::Int(0)) => number(port.port),
        Some(IntOrString::Int(target)) => number(*target),
        Some(IntOrString::String(name)) if name.is_empty() => number(port.port),
        Some(IntOrString::String(name)) => {
            let protocol = Protocol::of_field(port.protocol.as_deref())?;
            container_ports(pod)
                .find(|declared| {
                    declared.name.as_ref() == Some(name)
                        && Protocol::of_field(declared.protocol.as_deref()) == Some(protocol)
                })
                .and_then(|declared| number(declared.container_port))
        }
    }
}

/// Whether some container of the pod names the port. Without it the container may listen all
/// the same: container ports are "primarily informational".
pub(crate) fn declares(pod: &Pod, port: u16, protocol: Protocol) -> bool {
    container_ports(pod).any(|declared| {
        number(declared.container_port) == Some(port)
            && Protocol::of_field(declared.protocol.as_deref()) == Some(protocol)
    })
}

pub(crate) fn number(port: i32) -> Option<u16> {
    u16::try_from(port).ok().filter(|port| *port != 0)
}

/// The ports of the containers that run as long as the pod does: containers, and init
/// containers that restart always (KEP-753, sidecar containers).
fn container_ports(pod: &Pod) -> impl Iterator<Item = &ContainerPort> {
    pod.spec.iter().flat_map(|spec| {
        let sidecars = spec.init_containers.iter().flatten().filter(|init| is_sidecar(init));
        spec.containers.iter().chain(sidecars).flat_map(|container| container.ports.iter().flatten())
    })
}

fn is_sidecar(init: &Container) -> bool {
    init.restart_policy.as_deref() == Some("Always")
}
