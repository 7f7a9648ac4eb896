//! The ranges of addresses of a cluster, as far as its API tells.

use ipnet::{IpNet, Ipv4Net};
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::networking::v1::ServiceCIDR;
use kube::api::{Api, ListParams, PostParams};
use serde_json::json;

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
    let list = Api::<ServiceCIDR>::all(client.clone()).list(&ListParams::default()).await.ok()?;
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
    let asked: Service = serde_json::from_value(json!({
        "metadata": {"generateName": "stickler-range-"},
        "spec": {"clusterIP": "192.0.2.1", "ports": [{"port": 80}]},
    }))
    .ok()?;
    let dry_run = PostParams { dry_run: true, ..PostParams::default() };
    match Api::<Service>::namespaced(client.clone(), "default").create(&dry_run, &asked).await {
        Err(kube::Error::Api(status)) => valid_range(&status.message),
        Ok(_) | Err(_) => None,
    }
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
