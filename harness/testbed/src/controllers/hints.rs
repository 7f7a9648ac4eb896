//! Topology hints: which zones, or nodes, an endpoint is meant for
//! ([Service, "Traffic distribution"](https://kubernetes.io/docs/concepts/services-networking/service/#traffic-distribution),
//! [Topology Aware Routing](https://kubernetes.io/docs/concepts/services-networking/topology-aware-routing/)).

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointHints, ForNode, ForZone};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::slice_plan::Wanted;

const ZONE: &str = "topology.kubernetes.io/zone";
const MODE: &str = "service.kubernetes.io/topology-mode";
/// Its name before.
const OLD_MODE: &str = "service.kubernetes.io/topology-aware-hints";
/// Nodes that no zone counts.
const CONTROL_PLANE: [&str; 2] = ["node-role.kubernetes.io/control-plane", "node-role.kubernetes.io/master"];
/// By how much a zone's endpoints may get more than their share of the traffic.
const OVERLOAD: f64 = 0.2;

/// Gives every ready endpoint its hints, as the service asks for.
pub(super) fn give_hints(wanted: &mut Wanted, service: &Service, nodes: &[Arc<Node>]) {
    if is_topology_aware(service) {
        let zones = cpus_of_zones(nodes);
        for family in wanted.families.clone() {
            let mut endpoints: Vec<_> = wanted
                .groups
                .iter_mut()
                .filter(|((of, _), _)| *of == family)
                .flat_map(|(_, endpoints)| endpoints)
                .filter(|endpoint| is_ready(endpoint))
                .collect();
            endpoints.sort_by(|a, b| a.addresses.cmp(&b.addresses));
            spread(&mut endpoints, &zones);
        }
        return;
    }
    let distribution = service.spec.as_ref().and_then(|spec| spec.traffic_distribution.as_deref());
    let with_node = match distribution {
        Some("PreferClose" | "PreferSameZone") => false,
        Some("PreferSameNode") => true,
        _ => return,
    };
    for endpoint in wanted.groups.values_mut().flatten().filter(|endpoint| is_ready(endpoint)) {
        let node = endpoint.node_name.clone().filter(|_| with_node);
        let hints = EndpointHints {
            for_nodes: node.map(|name| vec![ForNode { name }]),
            // Whoever knows nothing of nodes at least stays in the zone.
            for_zones: endpoint.zone.clone().map(for_zone),
        };
        endpoint.hints = Some(hints).filter(|hints| *hints != EndpointHints::default());
    }
}

/// What of a node decides about hints: its zone, and what it contributes there.
pub(super) fn topology(node: &Node) -> (Option<&str>, u64) {
    (zone(node), cpu_millis(node))
}

pub(super) fn zone(node: &Node) -> Option<&str> {
    node.metadata.labels.as_ref()?.get(ZONE).map(String::as_str)
}

fn for_zone(name: String) -> Vec<ForZone> {
    vec![ForZone { name }]
}

fn is_ready(endpoint: &Endpoint) -> bool {
    endpoint.conditions.as_ref().is_none_or(|conditions| conditions.ready != Some(false))
}

/// The annotation wins over `trafficDistribution`.
fn is_topology_aware(service: &Service) -> bool {
    let annotations = service.metadata.annotations.as_ref();
    let mode = annotations.and_then(|all| all.get(MODE).or_else(|| all.get(OLD_MODE)));
    matches!(mode.map(String::as_str), Some("Auto" | "auto"))
}

/// The processors of each zone's nodes, in thousandths; nothing if that is not known of all.
fn cpus_of_zones(nodes: &[Arc<Node>]) -> BTreeMap<String, u64> {
    let mut zones = BTreeMap::<String, u64>::new();
    for node in nodes {
        let labels = node.metadata.labels.as_ref();
        if labels.is_some_and(|labels| CONTROL_PLANE.iter().any(|role| labels.contains_key(*role))) {
            continue;
        }
        match (zone(node), cpu_millis(node)) {
            (Some(zone), cpus) if cpus > 0 => *zones.entry(zone.to_owned()).or_default() += cpus,
            (None, cpus) if cpus > 0 => return BTreeMap::new(),
            _ => {}
        }
    }
    zones
}

/// None for a node that is not ready: it does not count.
fn cpu_millis(node: &Node) -> u64 {
    let Some(status) = &node.status else { return 0 };
    let mut conditions = status.conditions.iter().flatten();
    if !conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True") {
        return 0;
    }
    let Some(Quantity(cpu)) = status.allocatable.as_ref().and_then(|all| all.get("cpu")) else { return 0 };
    match cpu.strip_suffix('m') {
        Some(millis) => millis.parse().unwrap_or_default(),
        None => cpu.parse::<u64>().unwrap_or_default() * 1000,
    }
}

/// Each zone gets endpoints by its share of the processors, its own ones first. Where that would load
/// some by much more than others, and where a zone is not known, nobody gets a hint
/// ([Topology Aware Routing, "Safeguards"](https://kubernetes.io/docs/concepts/services-networking/topology-aware-routing/#safeguards)).
fn spread(endpoints: &mut [&mut Endpoint], zones: &BTreeMap<String, u64>) {
    let Some(mut left) = shares(endpoints.len(), zones) else { return };
    if endpoints.iter().any(|endpoint| endpoint.zone.as_ref().is_none_or(|zone| !zones.contains_key(zone))) {
        return;
    }
    let mut without = Vec::new();
    for endpoint in endpoints {
        let zone = endpoint.zone.clone().unwrap_or_default();
        match left.get_mut(&zone) {
            Some(left) if *left > 0 => {
                *left -= 1;
                endpoint.hints = Some(EndpointHints { for_zones: Some(for_zone(zone)), for_nodes: None });
            }
            _ => without.push(endpoint),
        }
    }
    let lacking = left.into_iter().flat_map(|(zone, left)| std::iter::repeat_n(zone, left));
    for (endpoint, zone) in without.into_iter().zip(lacking) {
        endpoint.hints = Some(EndpointHints { for_zones: Some(for_zone(zone)), for_nodes: None });
    }
}

/// How many of so many endpoints each zone gets.
fn shares(endpoints: usize, zones: &BTreeMap<String, u64>) -> Option<BTreeMap<String, usize>> {
    if zones.len() < 2 || zones.len() > endpoints {
        return None;
    }
    let total: u64 = zones.values().sum();
    #[expect(clippy::cast_precision_loss, reason = "numbers of endpoints and processors are small")]
    let desired = |cpus: u64| cpus as f64 / total as f64 * endpoints as f64;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a share of a number of endpoints is not negative, and fits"
    )]
    let least = |cpus: u64| (desired(cpus) / (1.0 + OVERLOAD)).ceil() as usize;
    let mut shares: BTreeMap<_, _> = zones.iter().map(|(zone, cpus)| (zone.clone(), least(*cpus))).collect();
    let mut left = endpoints.checked_sub(shares.values().sum())?;
    // Whoever lacks most of its share is next.
    while left > 0 {
        #[expect(clippy::cast_precision_loss, reason = "numbers of endpoints are small")]
        let lack = |zone: &String, share: usize| desired(zones[zone]) - share as f64;
        let next = shares.iter().max_by(|a, b| lack(a.0, *a.1).total_cmp(&lack(b.0, *b.1)));
        let zone = next.map(|(zone, _)| zone.clone())?;
        *shares.entry(zone).or_default() += 1;
        left -= 1;
    }
    Some(shares)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn node(name: &str, zone: &str, cpu: &str) -> Arc<Node> {
        Arc::new(
            serde_json::from_value(json!({
                "metadata": {"name": name, "labels": {ZONE: zone}},
                "status": {"conditions": [{"type": "Ready", "status": "True"}], "allocatable": {"cpu": cpu}},
            }))
            .unwrap(),
        )
    }

    fn wanted(zones: &[&str]) -> Wanted {
        let endpoint = |(index, zone): (usize, &&str)| -> Endpoint {
            serde_json::from_value(
                json!({"addresses": [format!("10.0.0.{index}")], "zone": zone, "nodeName": "n",
                "conditions": {"ready": *zone != "down"}}),
            )
            .unwrap()
        };
        let endpoints: Vec<_> = zones.iter().enumerate().map(endpoint).collect();
        let group = ("IPv4".to_owned(), Vec::new());
        Wanted { families: vec!["IPv4".to_owned()], groups: [(group, endpoints)].into(), ..Wanted::default() }
    }

    fn hints(service: Value, zones: &[&str], nodes: &[Arc<Node>]) -> Vec<String> {
        let mut wanted = wanted(zones);
        give_hints(&mut wanted, &serde_json::from_value(service).unwrap(), nodes);
        let text = |endpoint: &Endpoint| {
            let hints = endpoint.hints.clone().unwrap_or_default();
            let zones = hints.for_zones.into_iter().flatten().map(|zone| zone.name);
            let nodes = hints.for_nodes.into_iter().flatten().map(|node| format!("@{}", node.name));
            zones.chain(nodes).collect::<Vec<_>>().join(" ")
        };
        wanted.groups.values().flatten().map(text).collect()
    }

    #[test]
    fn traffic_distribution() {
        let of = |distribution: Value| {
            hints(json!({"spec": {"trafficDistribution": distribution}}), &["a", "down", "b"], &[])
        };
        assert_eq!(of(json!(null)), ["", "", ""]);
        assert_eq!(of(json!("PreferClose")), ["a", "", "b"]);
        assert_eq!(of(json!("PreferSameZone")), ["a", "", "b"]);
        assert_eq!(of(json!("PreferSameNode")), ["a @n", "", "b @n"]);
    }

    #[test]
    fn topology_mode_spreads_evenly_or_not_at_all() {
        let auto = || json!({"metadata": {"annotations": {MODE: "Auto"}}, "spec": {"trafficDistribution": "PreferSameNode"}});
        let even = [node("1", "a", "2"), node("2", "b", "2"), node("3", "c", "2000m")];
        assert_eq!(hints(auto(), &["a", "b", "c"], &even), ["a", "b", "c"]);
        assert_eq!(hints(auto(), &["a", "b"], &even), ["", ""], "fewer endpoints than zones");
        assert_eq!(hints(auto(), &["a", "b", "elsewhere"], &even), ["", "", ""]);
        assert_eq!(hints(auto(), &["a", "b", "a"], &even[..1]), ["", "", ""], "one zone is none");
        // Those that a zone has too many of serve the zone that lacks some.
        assert_eq!(hints(auto(), &["a", "a", "a", "a", "b", "c"], &even), ["a", "a", "b", "c", "b", "c"]);
        let uneven = [node("1", "a", "6"), node("2", "b", "2")];
        assert_eq!(hints(auto(), &["a", "a", "b", "b"], &uneven), ["a", "a", "b", "a"]);
    }

    #[test]
    fn nodes_of_the_control_plane_and_silent_ones_do_not_count() {
        let mut master = (*node("0", "a", "4")).clone();
        master.metadata.labels.as_mut().unwrap().insert(CONTROL_PLANE[0].to_owned(), String::new());
        let mut silent = (*node("1", "b", "4")).clone();
        silent.status.as_mut().unwrap().conditions.as_mut().unwrap()[0].status = "Unknown".to_owned();
        let nodes = [Arc::new(master), Arc::new(silent), node("2", "c", "4")];
        assert_eq!(cpus_of_zones(&nodes), [("c".to_owned(), 4000)].into());
        assert_eq!(topology(&nodes[1]), (Some("b"), 0));
    }
}
