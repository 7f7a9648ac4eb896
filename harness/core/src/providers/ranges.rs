//! The ranges of addresses of a cluster, as far as its API tells.

use std::ops::RangeInclusive;

use ipnet::{IpNet, Ipv4Net};
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::networking::v1::ServiceCIDR;
use kube::api::{Api, DeleteParams, ListParams, PostParams};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::bounds::Bounds;

/// The range cluster IPs come from; none if it cannot be learnt, which is no error: less is promised
/// then.
pub(super) async fn services(client: &kube::Client) -> Option<IpNet> {
    match declared(client).await {
        Some(range) => Some(range),
        None => refused(client).await,
    }
}

/// Where ranges are objects (KEP-1880, stable in 1.33). With several of them no one is *the* range.
async fn declared(client: &kube::Client) -> Option<IpNet> {
    let api = Api::<ServiceCIDR>::all(client.clone());
    let list = timeout(Bounds::REAL.request, api.list(&ListParams::default())).await.ok()?.ok()?;
    let ranges = list.items.into_iter().flat_map(|object| object.spec.unwrap_or_default().cidrs);
    let mut ranges = ranges.flatten().filter_map(|range| range.parse::<Ipv4Net>().ok());
    match (ranges.next(), ranges.next()) {
        (Some(range), None) => Some(range.into()),
        _ => None,
    }
}

/// Whoever refuses an address says which ones are valid. Nothing is created, and nothing sent to the
/// address, which is one for documentation (RFC 5737), so no cluster should have given it out.
async fn refused(client: &kube::Client) -> Option<IpNet> {
    let spec = json!({"clusterIP": "192.0.2.1", "ports": [{"port": 80}]});
    match dry_run(client, spec).await? {
        Err(kube::Error::Api(status)) => valid_range(&status.message),
        Ok(_) | Err(_) => None,
    }
}

/// The same in a namespace of ours, of an API server that does not look at addresses when nothing is to be
/// made (1.20 does not): if it takes the address, the service is deleted again.
pub(crate) async fn refused_in(client: &kube::Client, namespace: &str) -> Option<IpNet> {
    let asked = json!({
        "metadata": {"name": "range"}, "spec": {"clusterIP": "192.0.2.1", "ports": [{"port": 80}]},
    });
    let asked: Service = serde_json::from_value(asked).ok()?;
    let api = Api::<Service>::namespaced(client.clone(), namespace);
    let asking = async {
        match api.create(&PostParams::default(), &asked).await {
            Err(kube::Error::Api(status)) => valid_range(&status.message),
            Ok(_) => {
                // The namespace goes soon, and with it the service.
                let _ = api.delete("range", &DeleteParams::default()).await;
                None
            }
            Err(_) => None,
        }
    };
    timeout(Bounds::REAL.request, asking).await.ok().flatten()
}

/// The range node ports come from, said by whoever refuses one outside of it; nothing is created.
pub(super) async fn node_ports(client: &kube::Client) -> Option<RangeInclusive<u16>> {
    let spec = json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 1}]});
    match dry_run(client, spec).await? {
        Err(kube::Error::Api(status)) => valid_ports(&status.message),
        Ok(_) | Err(_) => None,
    }
}

fn valid_ports(message: &str) -> Option<RangeInclusive<u16>> {
    let (_, rest) = message.split_once("The range of valid ports is ")?;
    let range = rest.split_whitespace().next()?.trim_end_matches(['.', ',', '"', ')']);
    let (first, last) = range.split_once('-')?;
    Some(first.parse().ok()?..=last.parse().ok()?)
}

/// Does a Service keep its `internalTrafficPolicy`? API servers drop fields of features that are off.
pub(super) async fn keeps_internal_traffic_policy(client: &kube::Client) -> bool {
    let spec = json!({"internalTrafficPolicy": "Local", "ports": [{"port": 80}]});
    match dry_run(client, spec).await {
        Some(Ok(service)) => service.spec.is_some_and(|spec| spec.internal_traffic_policy.is_some()),
        // Who does not say is held to the defaults of the version.
        Some(Err(_)) | None => true,
    }
}

/// What the API server says to a Service, without having it made; none if it says nothing.
async fn dry_run(client: &kube::Client, spec: Value) -> Option<kube::Result<Service>> {
    let asked = json!({"metadata": {"generateName": "stickler-range-"}, "spec": spec});
    let asked: Service = serde_json::from_value(asked).ok()?;
    let params = PostParams { dry_run: true, ..PostParams::default() };
    let api = Api::<Service>::namespaced(client.clone(), "default");
    timeout(Bounds::REAL.request, api.create(&params, &asked)).await.ok()
}

fn valid_range(message: &str) -> Option<IpNet> {
    let (_, rest) = message.split_once("The range of valid IPs is ")?;
    rest.split_whitespace().next()?.trim_end_matches(['.', ',', '"', ')']).parse().ok()
}

/// The smallest range that has the pods of all nodes, which is part of the one nodes get theirs from;
/// none where nodes have none of their own.
pub(super) fn pods(nodes: &[Node]) -> Option<IpNet> {
    let range = |node: &Node| node.spec.as_ref()?.pod_cidr.as_deref()?.parse::<Ipv4Net>().ok();
    let ranges: Vec<Ipv4Net> = nodes.iter().map(range).collect::<Option<_>>()?;
    let mut all = ranges.first()?.trunc();
    while !ranges.iter().all(|range| all.contains(range)) {
        all = all.supernet()?;
    }
    Some(all.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_valid_range_is_read_off_a_refusal() {
        let refusal = "Service \"x\" is invalid: spec.clusterIPs: Invalid value: [\"192.0.2.1\"]: failed to \
                       allocate IP 192.0.2.1: the provided IP (192.0.2.1) is not in the valid range. The range \
                       of valid IPs is 10.96.0.0/12";
        assert_eq!(valid_range(refusal), Some("10.96.0.0/12".parse().unwrap()));
        assert_eq!(valid_range("services is forbidden"), None);
        assert_eq!(valid_range("The range of valid IPs is unknown"), None);
    }

    #[test]
    fn the_valid_ports_are_read_off_a_refusal() {
        let refusal = "Service \"x\" is invalid: spec.ports[0].nodePort: Invalid value: 1: provided port is not \
                       in the valid range. The range of valid ports is 30000-32767";
        assert_eq!(valid_ports(refusal), Some(30000..=32767));
        assert_eq!(valid_ports("the range of valid ports is unknown"), None);
    }

    #[test]
    fn the_range_of_pods_has_those_of_all_nodes() {
        let node = |range: Option<&str>| -> Node {
            serde_json::from_value(json!({"metadata": {"name": "n"}, "spec": {"podCIDR": range}})).unwrap()
        };
        let of = |ranges: &[Option<&str>]| {
            let nodes: Vec<Node> = ranges.iter().map(|range| node(*range)).collect();
            pods(&nodes).map(|range| range.to_string())
        };
        assert_eq!(of(&[Some("10.244.1.0/24")]).as_deref(), Some("10.244.1.0/24"));
        let three = [Some("10.244.0.0/24"), Some("10.244.1.0/24"), Some("10.244.2.0/24")];
        assert_eq!(of(&three).as_deref(), Some("10.244.0.0/22"));
        assert_eq!(of(&[Some("10.244.0.0/24"), None]), None);
        assert_eq!(of(&[]), None);
    }
}
