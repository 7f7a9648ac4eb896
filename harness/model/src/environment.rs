//! Environment: the variables by which a container finds the services of its namespace.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Container, Service};

use crate::citation::{self, Citation};
use crate::endpoints::cluster_ips;
use crate::ports::{self, Protocol};
use crate::selector::is_external_name;
use crate::{ObjectKey, World};

/// Says which service variables a container has, given the world *at the time it was started*: a
/// container keeps its environment, whatever comes later.
///
/// [Service, "Environment variables"](https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables):
/// the kubelet "adds a set of environment variables for each active Service"; `enableServiceLinks:
/// false` keeps those of the pod's namespace away, not those of the API server. A container's own
/// variables come before them.
pub fn environment(started: &World, pod: &ObjectKey, container: &str) -> Result<Environment, String> {
    let spec = started.pods.get(pod).and_then(|pod| pod.spec.as_ref());
    let spec = spec.ok_or_else(|| format!("there is no pod `{pod}`"))?;
    let all = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let own = all.into_iter().find(|one| one.name == container);
    let own = own.ok_or_else(|| format!("pod `{pod}` has no container `{container}`"))?;
    let links = spec.enable_service_links.unwrap_or(true);

    let mut environment =
        Environment { set: BTreeMap::new(), unset: BTreeMap::new(), rule: citation::ENVIRONMENT };
    let mut free = BTreeSet::new();
    let api_server = ObjectKey::new("default", "kubernetes");
    for (key, service) in &started.services {
        let in_namespace = key.namespace == pod.namespace;
        if !in_namespace && *key != api_server {
            continue;
        }
        for (name, value) in service_variables(key, service) {
            if *key != api_server && !links {
                environment.unset.insert(name, format!("`{}` has enableServiceLinks: false", pod.name));
            } else if environment.set.get(&name).is_some_and(|other| *other != value) {
                // Two services may mean one variable: `web` its port, `web-service` its address.
                free.insert(name);
            } else {
                environment.set.insert(name, value);
            }
        }
    }
    let is_own =
        |name: &str| own.env.iter().flatten().any(|variable| variable.name == name) || names_many(own);
    let is_free = |name: &String| free.contains(name) || is_own(name);
    environment.set.retain(|name, _| !is_free(name));
    let set = &environment.set;
    environment.unset.retain(|name, _| !is_own(name) && !set.contains_key(name));
    Ok(environment)
}

/// The service variables a container must have and must not have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Environment {
    pub set: BTreeMap<String, String>,
    /// Variables that must be missing, and why.
    pub unset: BTreeMap<String, String>,
    /// Where they are promised.
    pub rule: Citation,
}

impl Environment {
    /// Compares a container's environment with what it must be; every difference is one readable
    /// sentence, none means that it is right. Variables that nobody promised are passed over.
    pub fn differences(&self, seen: &BTreeMap<String, String>) -> Vec<String> {
        let wrong = self.set.iter().filter_map(|(name, value)| match seen.get(name) {
            Some(other) if other == value => None,
            Some(other) => Some(format!("`{name}` is `{other}`; it must be `{value}`")),
            None => Some(format!("`{name}` is missing; it must be `{value}`")),
        });
        let surplus = self.unset.iter().filter_map(|(name, why)| {
            let other = seen.get(name)?;
            Some(format!("`{name}` is `{other}`; it must not be set: {why}"))
        });
        wrong.chain(surplus).collect()
    }
}

/// The variables that stand for one service; none if it has no cluster IP. Of several cluster IPs
/// it is the first. Variables for each named port, and those in the manner of Docker's links, are
/// among them.
pub fn service_variables(key: &ObjectKey, service: &Service) -> BTreeMap<String, String> {
    let mut variables = BTreeMap::new();
    let Some(address) = cluster_ips(service).into_iter().next().filter(|_| !is_external_name(service)) else {
        return variables;
    };
    let prefix = as_variable(&key.name);
    for (index, port) in ports::service_ports(service).enumerate() {
        let Some(protocol) = Protocol::of_field(port.protocol.as_deref()) else {
            continue;
        };
        let number = port.port.to_string();
        let lower = protocol.to_string().to_lowercase();
        let url = match address {
            IpAddr::V4(address) => format!("{lower}://{address}:{number}"),
            IpAddr::V6(address) => format!("{lower}://[{address}]:{number}"),
        };
        if index == 0 {
            variables.insert(format!("{prefix}_SERVICE_HOST"), address.to_string());
            variables.insert(format!("{prefix}_SERVICE_PORT"), number.clone());
            variables.insert(format!("{prefix}_PORT"), url.clone());
        }
        if let Some(name) = port.name.as_deref().filter(|name| !name.is_empty()) {
            variables.insert(format!("{prefix}_SERVICE_PORT_{}", as_variable(name)), number.clone());
        }
        let link = format!("{prefix}_PORT_{number}_{protocol}");
        variables.insert(format!("{link}_PROTO"), lower);
        variables.insert(format!("{link}_PORT"), number);
        variables.insert(format!("{link}_ADDR"), address.to_string());
        variables.insert(link, url);
    }
    variables
}

/// "the Service name is upper-cased and dashes are converted to underscores"
fn as_variable(name: &str) -> String {
    name.to_uppercase().replace('-', "_")
}

/// Whether the container takes variables from objects that the model does not know.
fn names_many(container: &Container) -> bool {
    container.env_from.as_ref().is_some_and(|sources| !sources.is_empty())
}
