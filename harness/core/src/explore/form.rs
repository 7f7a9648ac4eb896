//! Forms: what a service of an explored world looks like, and the endpoints somebody makes for one.
//!
//! What only the cluster knows stands in manifests and patches as a shell would fill it in:
//! `$(address WORKLOAD NUMBER)` is a pod's address, `$(node NUMBER)` a node's.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::operation::{ServiceName, TRAFFIC, WorkloadName};

/// A service: everything about it that is explored. What a file does not say is as it is by default.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Form {
    pub service: ServiceName,
    pub of: Selection,
    pub reach: Reach,
    /// Session affinity ClientIP.
    pub sticky: bool,
    /// `publishNotReadyAddresses`.
    pub publish: bool,
    #[serde(default, skip_serializing_if = "is_default")]
    pub ports: Ports,
    /// The number of its first port.
    #[serde(default = "first_port", skip_serializing_if = "is_first_port")]
    pub port: u16,
    /// `externalTrafficPolicy`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub external: Policy,
    /// `internalTrafficPolicy`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub internal: Policy,
    /// `externalIPs`: the addresses of the first so many nodes, by name.
    #[serde(default, skip_serializing_if = "is_default")]
    pub ips: u8,
    #[serde(default, skip_serializing_if = "is_default")]
    pub ranges: Option<Ranges>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub distribution: Option<Distribution>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub label: Option<ServiceLabel>,
}

/// Which pods a service selects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Selection {
    Web,
    Api,
    /// The pods of every workload.
    Both,
    /// It has no selector: somebody makes its endpoints by hand, or nobody does.
    Nobody,
}

impl From<WorkloadName> for Selection {
    fn from(workload: WorkloadName) -> Self {
        match workload {
            WorkloadName::Web => Self::Web,
            WorkloadName::Api => Self::Api,
        }
    }
}

impl Selection {
    /// The workload it is about, if it is one.
    pub(crate) fn workload(self) -> Option<WorkloadName> {
        match self {
            Self::Web => Some(WorkloadName::Web),
            Self::Api => Some(WorkloadName::Api),
            Self::Both | Self::Nobody => None,
        }
    }

    /// The selector; null where there is none, which in a patch takes it away.
    pub(crate) fn selector(self) -> Value {
        match self {
            Self::Web => selector(WorkloadName::Web),
            Self::Api => selector(WorkloadName::Api),
            Self::Both => json!({ TRAFFIC: "on" }),
            Self::Nobody => Value::Null,
        }
    }
}

/// What the pods of a workload are selected by.
pub(crate) fn selector(of: WorkloadName) -> Value {
    json!({ "app": of.to_string(), TRAFFIC: "on" })
}

/// How a service is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reach {
    #[serde(rename = "ClusterIP")]
    ClusterIp,
    NodePort,
    LoadBalancer,
    Headless,
    ExternalName,
}

/// Which ports a service has. Their targets are 8000 in every pod, but that of `more`: it is a name,
/// which means another number in the pods of each workload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ports {
    /// `http`.
    #[default]
    Http,
    /// `http`, whose target is the name `more`.
    Named,
    /// `udp`, over UDP.
    Udp,
    /// `http` and `udp`, both with the same number.
    Both,
    /// `http`, and `more` with the next number.
    Several,
}

/// A traffic policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Policy {
    #[default]
    Cluster,
    Local,
}

/// `trafficDistribution`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Distribution {
    PreferClose,
    PreferSameZone,
    PreferSameNode,
}

/// `loadBalancerSourceRanges`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ranges {
    /// All there are.
    Everybody,
    /// A range for documentation, which nobody calls from.
    Nobody,
}

/// A label by which a service is not for the cluster's own proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ServiceLabel {
    /// `service.kubernetes.io/service-proxy-name`.
    ProxyName,
    /// `service.kubernetes.io/headless`.
    Headless,
}

/// A slice made by hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SliceName {
    A,
    B,
}

impl fmt::Display for SliceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::A => "a",
            Self::B => "b",
        })
    }
}

/// The ports a service may have first. The other one is free on nodes, as far as one can know.
pub(crate) const PORTS: [u16; 2] = [80, 8085];

/// The port the pods' containers listen on, over HTTP and with datagrams.
pub(crate) const CONTAINER_PORT: u16 = 8000;

/// What a name that leads nowhere ends in ([RFC 6761](https://www.rfc-editor.org/rfc/rfc6761#section-6.4)).
const ELSEWHERE: &str = "elsewhere.invalid";

/// The number behind the port name `more` in the pods of a workload.
pub(crate) fn more_port(workload: WorkloadName) -> u16 {
    match workload {
        WorkloadName::Web => 8010,
        WorkloadName::Api => 8011,
    }
}

fn first_port() -> u16 {
    PORTS[0]
}

fn is_first_port(port: &u16) -> bool {
    *port == first_port()
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl Ports {
    /// The ports of a service whose first one has this number.
    pub(crate) fn of_service(self, port: u16) -> Value {
        let http = json!({ "name": "http", "port": port, "targetPort": CONTAINER_PORT });
        let udp = json!({ "name": "udp", "protocol": "UDP", "port": port, "targetPort": CONTAINER_PORT });
        match self {
            Self::Http => json!([http]),
            Self::Named => json!([{ "name": "http", "port": port, "targetPort": "more" }]),
            Self::Udp => json!([udp]),
            Self::Both => json!([http, udp]),
            Self::Several => {
                json!([http, { "name": "more", "port": port.saturating_add(1), "targetPort": "more" }])
            }
        }
    }

    /// The same ports at pods of a workload, as endpoints have them.
    fn of_endpoints(self, workload: WorkloadName) -> Value {
        let http = json!({ "name": "http", "port": CONTAINER_PORT });
        let udp = json!({ "name": "udp", "protocol": "UDP", "port": CONTAINER_PORT });
        let more = more_port(workload);
        match self {
            Self::Http => json!([http]),
            Self::Named => json!([{ "name": "http", "port": more }]),
            Self::Udp => json!([udp]),
            Self::Both => json!([http, udp]),
            Self::Several => json!([http, { "name": "more", "port": more }]),
        }
    }
}

impl Ranges {
    fn list(self) -> Value {
        match self {
            Self::Everybody => json!(["0.0.0.0/0"]),
            Self::Nobody => json!(["192.0.2.0/24"]),
        }
    }
}

/// `loadBalancerSourceRanges`; null where there are none.
pub(crate) fn ranges(ranges: Option<Ranges>) -> Value {
    ranges.map_or(Value::Null, Ranges::list)
}

/// `externalIPs`; null where there are none.
pub(crate) fn external_ips(nodes: u8) -> Value {
    if nodes == 0 {
        return Value::Null;
    }
    (1..=nodes).map(|node| json!(format!("$(node {node})"))).collect()
}

/// The labels of a service; null for each it does not have.
pub(crate) fn labels(label: Option<ServiceLabel>) -> Value {
    json!({
        "service.kubernetes.io/service-proxy-name":
            (label == Some(ServiceLabel::ProxyName)).then_some("stickler"),
        "service.kubernetes.io/headless": (label == Some(ServiceLabel::Headless)).then_some(""),
    })
}

/// The fields that make a service be reached so; null for those it must not have then.
pub(crate) fn reach(reach: Reach) -> Value {
    match reach {
        Reach::ClusterIp => {
            json!({ "type": "ClusterIP", "externalName": null, "loadBalancerSourceRanges": null })
        }
        Reach::NodePort => {
            json!({ "type": "NodePort", "externalName": null, "loadBalancerSourceRanges": null })
        }
        Reach::LoadBalancer => json!({ "type": "LoadBalancer", "externalName": null }),
        Reach::Headless => json!({ "type": "ClusterIP", "clusterIP": "None", "externalName": null }),
        Reach::ExternalName => {
            json!({ "type": "ExternalName", "externalName": ELSEWHERE, "loadBalancerSourceRanges": null })
        }
    }
}

impl Form {
    /// A service about which nothing is special.
    #[cfg(test)]
    pub(crate) fn plain(service: ServiceName, of: Selection, reach: Reach) -> Self {
        Self {
            service,
            of,
            reach,
            sticky: false,
            publish: false,
            ports: Ports::default(),
            port: first_port(),
            external: Policy::default(),
            internal: Policy::default(),
            ips: 0,
            ranges: None,
            distribution: None,
            label: None,
        }
    }

    /// Whether somebody outside may reach it, so that it has an external traffic policy.
    pub(crate) fn is_external(&self) -> bool {
        match self.reach {
            Reach::NodePort | Reach::LoadBalancer => true,
            Reach::ClusterIp | Reach::Headless => self.ips > 0,
            Reach::ExternalName => false,
        }
    }

    /// Without what the API server forgets when a service is no more of the type that needs it.
    #[must_use]
    pub(crate) fn settled(mut self) -> Self {
        if !self.is_external() {
            self.external = Policy::Cluster;
        }
        if self.reach != Reach::LoadBalancer {
            self.ranges = None;
        }
        if self.reach == Reach::ExternalName {
            self.internal = Policy::Cluster;
        }
        self
    }

    /// Why there can be no such service.
    pub(crate) fn contradiction(&self) -> Option<String> {
        let name = self.service;
        if self.port == 0 {
            return Some("0 is no port".to_owned());
        }
        if self.ports == Ports::Several && self.port == u16::MAX {
            return Some(format!("there is no port after {}", self.port));
        }
        if self.sticky && self.reach == Reach::Headless {
            return Some(format!("`{name}` is headless, so there is nothing that could be sticky"));
        }
        if self.external == Policy::Local && !self.is_external() {
            return Some(format!("nobody outside reaches `{name}`, so it has no external traffic policy"));
        }
        if self.internal == Policy::Local && self.reach == Reach::ExternalName {
            return Some(format!("`{name}` is only a name, so it has no internal traffic policy"));
        }
        if self.ranges.is_some() && self.reach != Reach::LoadBalancer {
            return Some(format!("`{name}` has no load balancer that could admit anybody"));
        }
        if self.ips > 0 && self.port < 1024 {
            return Some(format!("port {} of nodes is for their own programs", self.port));
        }
        None
    }

    /// The manifest.
    pub(crate) fn manifest(&self) -> Value {
        let mut spec = json!({ "ports": self.ports.of_service(self.port) });
        let mut set = |field: &str, value: Value| {
            if !value.is_null() {
                spec[field] = value;
            }
        };
        set("selector", self.of.selector());
        match self.reach {
            Reach::ClusterIp => {}
            Reach::NodePort => set("type", json!("NodePort")),
            Reach::LoadBalancer => set("type", json!("LoadBalancer")),
            Reach::Headless => set("clusterIP", json!("None")),
            Reach::ExternalName => {
                set("type", json!("ExternalName"));
                set("externalName", json!(ELSEWHERE));
            }
        }
        if self.sticky {
            set("sessionAffinity", json!("ClientIP"));
        }
        if self.publish {
            set("publishNotReadyAddresses", json!(true));
        }
        if self.external != Policy::default() {
            set("externalTrafficPolicy", json!(self.external));
        }
        if self.internal != Policy::default() {
            set("internalTrafficPolicy", json!(self.internal));
        }
        set("externalIPs", external_ips(self.ips));
        set("loadBalancerSourceRanges", ranges(self.ranges));
        set("trafficDistribution", json!(self.distribution));
        let mut metadata = json!({ "name": self.service.to_string() });
        if self.label.is_some() {
            let mut labels = labels(self.label);
            if let Some(labels) = labels.as_object_mut() {
                labels.retain(|_, value| !value.is_null());
            }
            metadata["labels"] = labels;
        }
        json!({ "apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec })
    }
}

/// Endpoints made by hand: the first pods of a workload, with these ports.
pub(crate) fn endpoints(service: ServiceName, of: WorkloadName, pods: u8, ports: Ports) -> Value {
    let addresses: Vec<Value> = (1..=pods).map(|pod| json!({ "ip": address(of, pod) })).collect();
    json!({
        "apiVersion": "v1",
        "kind": "Endpoints",
        "metadata": { "name": service.to_string() },
        "subsets": [{ "addresses": addresses, "ports": ports.of_endpoints(of) }],
    })
}

/// A slice made by hand, likewise.
pub(crate) fn slice(
    service: ServiceName,
    name: SliceName,
    of: WorkloadName,
    pods: u8,
    ports: Ports,
    ready: bool,
) -> Value {
    let endpoint = |pod| json!({ "addresses": [address(of, pod)], "conditions": { "ready": ready } });
    let endpoints: Vec<Value> = (1..=pods).map(endpoint).collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": slice_name(service, name),
            "labels": {
                "kubernetes.io/service-name": service.to_string(),
                "endpointslice.kubernetes.io/managed-by": "stickler.dev",
            },
        },
        "addressType": "IPv4",
        "endpoints": endpoints,
        "ports": ports.of_endpoints(of),
    })
}

pub(crate) fn slice_name(service: ServiceName, slice: SliceName) -> String {
    format!("{service}-by-hand-{slice}")
}

fn address(of: WorkloadName, pod: u8) -> String {
    format!("$(address {of} {pod})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_service_says_nothing_it_need_not() {
        let form = Form::plain(ServiceName::One, Selection::Web, Reach::ClusterIp);
        assert_eq!(
            form.manifest(),
            json!({
                "apiVersion": "v1", "kind": "Service", "metadata": { "name": "one" },
                "spec": {
                    "selector": { "app": "web", "traffic": "on" },
                    "ports": [{ "name": "http", "port": 80, "targetPort": 8000 }],
                },
            })
        );
    }

    #[test]
    fn everything_that_is_said_of_a_service_is_in_its_manifest() {
        let form = Form {
            sticky: true,
            publish: true,
            ports: Ports::Both,
            port: 8085,
            external: Policy::Local,
            internal: Policy::Local,
            ips: 2,
            ranges: Some(Ranges::Nobody),
            distribution: Some(Distribution::PreferClose),
            label: Some(ServiceLabel::Headless),
            ..Form::plain(ServiceName::Two, Selection::Nobody, Reach::LoadBalancer)
        };
        assert_eq!(form.contradiction(), None);
        let manifest = form.manifest();
        assert_eq!(manifest["metadata"]["labels"], json!({ "service.kubernetes.io/headless": "" }));
        assert_eq!(
            manifest["spec"],
            json!({
                "type": "LoadBalancer",
                "sessionAffinity": "ClientIP",
                "publishNotReadyAddresses": true,
                "externalTrafficPolicy": "Local",
                "internalTrafficPolicy": "Local",
                "externalIPs": ["$(node 1)", "$(node 2)"],
                "loadBalancerSourceRanges": ["192.0.2.0/24"],
                "trafficDistribution": "PreferClose",
                "ports": [
                    { "name": "http", "port": 8085, "targetPort": 8000 },
                    { "name": "udp", "protocol": "UDP", "port": 8085, "targetPort": 8000 },
                ],
            })
        );
    }

    #[test]
    fn contradictions_are_told() {
        let plain = |reach| Form::plain(ServiceName::One, Selection::Web, reach);
        for (form, told) in [
            (Form { sticky: true, ..plain(Reach::Headless) }, "is headless"),
            (Form { external: Policy::Local, ..plain(Reach::ClusterIp) }, "nobody outside reaches `one`"),
            (Form { internal: Policy::Local, ..plain(Reach::ExternalName) }, "is only a name"),
            (Form { ranges: Some(Ranges::Nobody), ..plain(Reach::NodePort) }, "has no load balancer"),
            (Form { ips: 1, ..plain(Reach::ClusterIp) }, "port 80 of nodes is for their own programs"),
            (Form { port: 0, ..plain(Reach::ClusterIp) }, "0 is no port"),
        ] {
            let why = form.contradiction().expect(told);
            assert!(why.contains(told), "`{told}` is missing in: {why}");
        }
        let external = Form { external: Policy::Local, ips: 1, port: 8085, ..plain(Reach::ClusterIp) };
        assert_eq!(external.contradiction(), None);
        assert_eq!(Form { ips: 0, ..external }.settled().external, Policy::Cluster);
    }
}
