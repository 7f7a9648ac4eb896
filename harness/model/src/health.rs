//! Health check node ports: what a node says of its own endpoints to those who balance over nodes.

use std::fmt;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::Service;

use crate::citation::{self, Citation};
use crate::clusterip::why_given_away;
use crate::endpoints::proxied;
use crate::nodeport::is_external_local;
use crate::{ObjectKey, Promises, World};

/// What a GET of `/healthz` at a node's health check port must come to. `why` says how it stands with
/// the node's endpoints, `rule` where the answer is promised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// 200.
    Passes { why: String, rule: Citation },
    /// 503; 5xx is all that balancers ask for.
    Fails { why: String, rule: Citation },
    /// Anything may be answered, or nothing.
    NotPromised { why: String, rule: Citation },
}

/// Says what the node at this address answers on the health check port of a service.
///
/// [Using Source IP](https://kubernetes.io/docs/tutorials/services/source-ip/#source-ip-for-services-with-type-loadbalancer):
/// with external traffic policy Local, nodes without endpoints "remove themselves from the list of
/// nodes eligible for loadbalanced traffic by deliberately failing health checks". Endpoints that
/// terminate do not count, though they may be sent to
/// ([KEP-1669](https://github.com/kubernetes/enhancements/tree/master/keps/sig-network/1669-proxy-terminating-endpoints);
/// upstream e2e, "Services should fail health check node port if there are only terminating endpoints").
pub fn health(world: &World, promises: &Promises, key: &ObjectKey, address: IpAddr) -> Health {
    let rule = citation::HEALTH_CHECK;
    let Some(service) = world.services.get(key).filter(|service| is_checked(service)) else {
        return Health::NotPromised { why: format!("`{}` has no health check port", key.name), rule };
    };
    if let Some((why, rule)) = why_given_away(key, service) {
        return Health::NotPromised { why, rule };
    }
    let Some(node) = world.node_at(address) else {
        return Health::NotPromised { why: format!("`{address}` is no node's address"), rule };
    };
    let expected = proxied(world, promises, key);
    let mut all = expected.ports.iter().flat_map(|port| &port.endpoints);
    let is_here = all.any(|one| one.conditions.ready && one.node.as_deref() == Some(node));
    if is_here {
        Health::Passes { why: format!("`{}` has a ready endpoint on node `{node}`", key.name), rule }
    } else {
        Health::Fails { why: format!("`{}` has no ready endpoint on node `{node}`", key.name), rule }
    }
}

/// [ServiceSpec.healthCheckNodePort](https://kubernetes.io/docs/reference/kubernetes-api/service-resources/service-v1/#ServiceSpec):
/// "This only applies when type is set to LoadBalancer and externalTrafficPolicy is set to Local."
fn is_checked(service: &Service) -> bool {
    let spec = service.spec.as_ref();
    let port = spec.and_then(|spec| spec.health_check_node_port).unwrap_or_default();
    spec.and_then(|spec| spec.type_.as_deref()) == Some("LoadBalancer")
        && is_external_local(service)
        && port != 0
}

impl Health {
    /// Whether an answer with this status is allowed, none if there was no answer; if not, what was
    /// promised.
    pub fn allows(&self, status: Option<u16>) -> Result<(), String> {
        let seen = || status.map_or_else(|| "was not answered".to_owned(), |it| format!("was answered {it}"));
        match (self, status) {
            (Self::NotPromised { .. }, _) | (Self::Passes { .. }, Some(200)) => Ok(()),
            (Self::Fails { .. }, Some(500..=599)) => Ok(()),
            (Self::Passes { why, .. }, _) => Err(format!("{}; 200 was promised: {why}", seen())),
            (Self::Fails { why, .. }, _) => Err(format!("{}; 503 was promised: {why}", seen())),
        }
    }

    /// Where the answer is promised.
    pub fn rule(&self) -> Citation {
        match self {
            Self::Passes { rule, .. } | Self::Fails { rule, .. } | Self::NotPromised { rule, .. } => *rule,
        }
    }
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Passes { why, .. } => write!(f, "200: {why}"),
            Self::Fails { why, .. } => write!(f, "503: {why}"),
            Self::NotPromised { why, .. } => write!(f, "not promised: {why}"),
        }
    }
}
