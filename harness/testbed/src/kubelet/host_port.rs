//! Which ports of its node a pod asks for
//! ([Configuration Best Practices, "Services"](https://kubernetes.io/docs/concepts/configuration/overview/#services)).

use k8s_openapi::api::core::v1::{ContainerPort, Pod};

use super::preparation::host_network;
use crate::kernel::HostPort;

/// None for a pod in its node's network, where every port of it is the node's already. A protocol that
/// nobody forwards here is left out, as is an address that is none.
pub(crate) fn host_ports(pod: &Pod) -> Vec<HostPort> {
    if host_network(pod) {
        return Vec::new();
    }
    let spec = pod.spec.iter();
    let sidecars = spec.clone().flat_map(|spec| spec.init_containers.iter().flatten());
    let containers = spec.flat_map(|spec| &spec.containers).chain(sidecars);
    let mut ports: Vec<_> =
        containers.flat_map(|container| container.ports.iter().flatten()).filter_map(host_port).collect();
    ports.sort();
    ports.dedup_by_key(|port| (port.at, port.protocol, port.port));
    ports
}

fn host_port(port: &ContainerPort) -> Option<HostPort> {
    let address = port.host_ip.as_deref().filter(|address| !address.is_empty());
    let at = match address.map(str::parse::<std::net::Ipv4Addr>) {
        None => None,
        Some(Ok(every)) if every.is_unspecified() => None,
        Some(Ok(address)) => Some(address),
        Some(Err(_)) => return None,
    };
    let protocol = match port.protocol.as_deref() {
        None | Some("TCP") => 6,
        Some("UDP") => 17,
        _ => return None,
    };
    let number = |number: i32| u16::try_from(number).ok().filter(|number| *number > 0);
    Some(HostPort { at, protocol, port: number(port.host_port?)?, pod_port: number(port.container_port)? })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn ports_are_read_from_the_containers() {
        let mut pod = json!({"spec": {"containers": [
            {"name": "a", "ports": [
                {"containerPort": 80, "hostPort": 8080},
                {"containerPort": 80, "hostPort": 8080},
                {"containerPort": 53, "hostPort": 53, "protocol": "UDP", "hostIP": "192.0.2.1"},
                {"containerPort": 81},
            ]},
            {"name": "b", "ports": [
                {"containerPort": 9, "hostPort": 9, "hostIP": "0.0.0.0"},
                {"containerPort": 7, "hostPort": 7, "protocol": "SCTP"},
                {"containerPort": 6, "hostPort": 6, "hostIP": "::1"},
            ]},
        ]}});
        let read = |pod: &serde_json::Value| host_ports(&serde_json::from_value(pod.clone()).unwrap());
        let port = |at: Option<&str>, protocol, port, pod_port| HostPort {
            at: at.map(|at| at.parse().unwrap()),
            protocol,
            port,
            pod_port,
        };
        let expected = [port(None, 6, 9, 9), port(None, 6, 8080, 80), port(Some("192.0.2.1"), 17, 53, 53)];
        assert_eq!(read(&pod), expected);
        pod["spec"]["hostNetwork"] = json!(true);
        assert_eq!(read(&pod), []);
    }
}
