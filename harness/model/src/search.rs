//! Search paths: which full name a pod's short name stands for.

use crate::citation;
use crate::dns::normal;
use crate::{ObjectKey, Promises, RecordType, Resolution, World, resolve};

/// Says what a pod's resolver finds under a name that may be short.
///
/// A name with fewer dots than `ndots` is tried below each search domain, then as it is; one with
/// as many or more first as it is; one with a dot at its end only so. A pod with the policy
/// `ClusterFirst` searches its namespace, `svc` and the cluster's domain with 5 `ndots`
/// ([DNS for Services and Pods](https://kubernetes.io/docs/concepts/services-networking/dns-pod-service/#namespaces-of-services)),
/// then what its DNS config adds. The search domains of the host come in between; the model does
/// not know them, and takes it that they have none of the names.
pub fn resolve_from(
    world: &World,
    promises: &Promises,
    pod: &ObjectKey,
    name: &str,
    kind: RecordType,
) -> Lookup {
    let mut tried = Vec::new();
    for candidate in match candidates(world, promises, pod, name) {
        Ok(candidates) => candidates,
        Err(why) => {
            let resolution = Resolution::NotPromised { why, rule: citation::DNS_POLICY };
            return Lookup { passed: tried, name: normal(name), resolution };
        }
    } {
        let resolution = resolve(world, promises, &candidate, kind);
        let goes_on = matches!(resolution, Resolution::Nothing { .. } | Resolution::NoData { .. });
        tried.push((candidate, resolution));
        if !goes_on {
            break;
        }
    }
    match tried.pop() {
        Some((name, resolution)) => Lookup { passed: tried, name, resolution },
        None => {
            let why = "the name is empty".to_owned();
            let resolution = Resolution::NotPromised { why, rule: citation::DNS_SEARCH };
            Lookup { passed: tried, name: String::new(), resolution }
        }
    }
}

/// What becomes of a name on its way through the search path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lookup {
    /// The full names that were tried before and have no such record.
    pub passed: Vec<(String, Resolution)>,
    /// The full name that decides: the first that answers, or the last one.
    pub name: String,
    pub resolution: Resolution,
}

fn candidates(
    world: &World,
    promises: &Promises,
    key: &ObjectKey,
    name: &str,
) -> Result<Vec<String>, String> {
    let spec = world.pods.get(key).and_then(|pod| pod.spec.as_ref());
    let spec = spec.ok_or_else(|| format!("there is no pod `{key}`"))?;
    let in_host_network = spec.host_network == Some(true);
    match spec.dns_policy.as_deref().unwrap_or("ClusterFirst") {
        "ClusterFirst" if in_host_network => {
            return Err(format!("pod `{}` is in the host network: it asks as its node does", key.name));
        }
        "ClusterFirst" | "ClusterFirstWithHostNet" => {}
        policy => return Err(format!("pod `{}` has the DNS policy {policy}", key.name)),
    }
    if name.ends_with('.') {
        return Ok(vec![normal(name)]);
    }
    let name = normal(name);
    let domain = &promises.cluster_domain;
    let mut domains =
        vec![format!("{}.svc.{domain}", key.namespace), format!("svc.{domain}"), domain.clone()];
    let mut ndots = 5;
    if let Some(config) = &spec.dns_config {
        domains.extend(config.searches.iter().flatten().map(|domain| normal(domain)));
        let given = config.options.iter().flatten().filter(|option| option.name.as_deref() == Some("ndots"));
        ndots = given.filter_map(|option| option.value.as_deref()?.parse().ok()).next_back().unwrap_or(ndots);
    }
    let mut seen = std::collections::BTreeSet::new();
    domains.retain(|domain| seen.insert(domain.clone()));
    let mut candidates: Vec<String> = domains.iter().map(|domain| format!("{name}.{domain}")).collect();
    if name.matches('.').count() >= ndots {
        candidates.insert(0, name);
    } else {
        candidates.push(name);
    }
    Ok(candidates)
}
