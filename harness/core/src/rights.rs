//! What a run must be allowed on a cluster, and what for: the rules of `fixtures/rbac/stickler.yaml`, asked
//! for one by one before anything is created.

use std::fmt;

use anyhow::{Context as _, bail};
use futures::future::BoxFuture;
use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::authorization::v1::SelfSubjectAccessReview;
use kube::api::{Api, PostParams};
use serde_json::json;

use crate::bounds::Bounds;
use crate::wait;

/// Verbs on a resource, in every namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Right {
    pub group: &'static str,
    /// With its subresource, if it is about one: `pods/exec`.
    pub resource: &'static str,
    pub verbs: &'static [&'static str],
    /// What a run does with it.
    pub needed_for: &'static str,
}

/// A verb of a right that was not given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    pub right: Right,
    pub verb: &'static str,
    /// What the API server says to it, if it says something.
    pub reason: Option<String>,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Right { group, resource, needed_for, .. } = self.right;
        let group = if group.is_empty() { "the core group" } else { group };
        write!(f, "`{}` on `{resource}` of {group} (needed for: {needed_for})", self.verb)
    }
}

const fn right(
    group: &'static str,
    resource: &'static str,
    verbs: &'static [&'static str],
    needed_for: &'static str,
) -> Right {
    Right { group, resource, verbs, needed_for }
}

const ALL: &[&str] = &["create", "delete", "get", "list", "patch", "watch"];
const ALL_AT_ONCE: &[&str] = &["create", "delete", "deletecollection", "get", "list", "patch", "watch"];
const RBAC: &str = "rbac.authorization.k8s.io";

/// Everything a run needs. A test compares it with the manifest.
pub const RIGHTS: &[Right] = &[
    right(
        "",
        "namespaces",
        &["create", "delete", "get", "list", "patch", "watch"],
        "a namespace for each check",
    ),
    right("", "nodes", &["list", "watch"], "an agent on every node, and their addresses"),
    right("", "pods", ALL_AT_ONCE, "agents, and the servers behind services"),
    right(
        "",
        "pods/exec",
        &["create", "get"],
        "speaking with agents; which verb it is depends on the version",
    ),
    right("", "pods/status", &["patch"], "readiness gates"),
    right("", "services", ALL, "what is checked"),
    right("", "endpoints", ALL, "endpoints made by hand"),
    right("", "events", &["list", "watch"], "seeing probes fail, and evidence"),
    right("", "configmaps", &["create", "delete", "patch"], "dating changes of objects"),
    right("", "secrets", &["create", "list", "patch", "watch"], "certificates of Ingresses"),
    right("", "serviceaccounts", &["create", "list", "watch"], "waiting until pods may be created"),
    right("", "replicationcontrollers", &["create"], "pods that are replaced"),
    right("", "replicationcontrollers/scale", &["patch"], "scaling"),
    right("apps", "daemonsets", &["create"], "a pod on every node"),
    right("apps", "deployments", ALL, "rolling updates"),
    right("apps", "deployments/scale", &["patch"], "scaling"),
    right("apps", "replicasets", ALL, "pods that are replaced"),
    right("apps", "replicasets/scale", &["patch"], "scaling"),
    right("discovery.k8s.io", "endpointslices", ALL, "slices made by hand, and comparing others with pods"),
    right("networking.k8s.io", "ingresses", ALL_AT_ONCE, "what is checked of Ingress"),
    right("networking.k8s.io", "ingresses/status", &["patch"], "the run's ingress controller"),
    right("networking.k8s.io", "ingressclasses", &["create", "delete", "list", "watch"], "its class"),
    right("networking.k8s.io", "servicecidrs", &["list"], "knowing which addresses are services'"),
    right(
        "extensions",
        "ingresses",
        &["create", "get"],
        "Ingresses of the notes' time, where they are served",
    ),
    right(RBAC, "clusterroles", &["create", "delete", "list"], "what the ingress controller may do"),
    right(RBAC, "clusterrolebindings", &["create", "delete", "list"], "that it may"),
    right(RBAC, "roles", &["create"], "what it may do in its namespace"),
    right(RBAC, "rolebindings", &["create"], "that it may there"),
    right(
        "coordination.k8s.io",
        "leases",
        &["create", "list", "patch", "watch"],
        "telling live runs from dead",
    ),
];

/// How many questions are asked at once.
const AT_ONCE: usize = 8;

/// Asks the API server, by SelfSubjectAccessReview, for each verb of each right; returns those that are
/// missing.
///
/// # Errors
/// If it does not answer.
pub async fn missing(client: &kube::Client) -> anyhow::Result<Vec<Missing>> {
    let mut asked: Vec<BoxFuture<'_, anyhow::Result<Option<Missing>>>> = Vec::new();
    for right in RIGHTS {
        for verb in right.verbs {
            asked.push(Box::pin(async move {
                let refused = ask(client, right, verb).await?;
                Ok(refused.map(|reason| Missing { right: *right, verb, reason }))
            }));
        }
    }
    let answers = futures::stream::iter(asked).buffered(AT_ONCE).try_collect::<Vec<_>>().await?;
    Ok(answers.into_iter().flatten().collect())
}

/// Whether it is refused, and the reason if there is one.
async fn ask(client: &kube::Client, right: &Right, verb: &str) -> anyhow::Result<Option<Option<String>>> {
    let (resource, subresource) = right.resource.split_once('/').unwrap_or((right.resource, ""));
    let review: SelfSubjectAccessReview = serde_json::from_value(json!({
        "metadata": {},
        "spec": { "resourceAttributes": {
            "verb": verb, "group": right.group, "resource": resource, "subresource": subresource,
        } },
    }))?;
    let api = Api::<SelfSubjectAccessReview>::all(client.clone());
    let params = PostParams::default();
    let what = format!("ask whether `{verb}` on `{}` is allowed", right.resource);
    let answer = wait::within(Bounds::REAL.request, &what, api.create(&params, &review)).await?;
    let status = answer.status.context("a review without a status")?;
    Ok((!status.allowed).then_some(status.reason.filter(|reason| !reason.is_empty())))
}

/// Fails if a right is missing.
///
/// # Errors
/// Each rule that is missing, what it is needed for, and what to do.
pub(crate) async fn insist(client: &kube::Client) -> anyhow::Result<()> {
    let missing = missing(client).await?;
    if missing.is_empty() {
        return Ok(());
    }
    let rules: Vec<String> = missing.iter().map(ToString::to_string).collect();
    bail!("the user of the kubeconfig may not {}; {REMEDY}", rules.join(", "))
}

/// What to do about a right that is missing.
pub const REMEDY: &str = "`kubectl apply -f fixtures/rbac/stickler.yaml` creates the service account \
                          `stickler/stickler`, which may do all a run needs";

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::manifest::parse;

    const MANIFEST: &str =
        include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/rbac/stickler.yaml"));

    #[test]
    fn the_manifest_gives_what_is_asked_for_and_no_more() {
        let objects = parse("rbac/stickler.yaml", MANIFEST).expect("manifests");
        let role = objects.iter().find(|manifest| manifest.resource.kind == "ClusterRole").expect("a role");
        let mut given = Vec::new();
        for rule in role.object.data["rules"].as_array().expect("rules") {
            let texts = |field: &str| -> Vec<String> {
                let list = rule[field].as_array().unwrap_or_else(|| panic!("{field} of {rule}"));
                list.iter().map(|text| text.as_str().expect("a text").to_owned()).collect()
            };
            let (groups, resources) = (texts("apiGroups"), texts("resources"));
            assert_eq!(
                (groups.len(), resources.len()),
                (1, 1),
                "one resource a rule, so that it can be named"
            );
            given.push((groups[0].clone(), resources[0].clone(), texts("verbs")));
        }
        let asked: Vec<_> = RIGHTS
            .iter()
            .map(|right| {
                let verbs = right.verbs.iter().map(|verb| (*verb).to_owned()).collect::<Vec<_>>();
                (right.group.to_owned(), right.resource.to_owned(), verbs)
            })
            .collect();
        assert_eq!(given, asked);
        for right in RIGHTS {
            assert!(
                MANIFEST.contains(&format!("# {}", right.needed_for)),
                "the manifest does not say what `{}` is for: {}",
                right.resource,
                right.needed_for
            );
        }
    }

    #[test]
    fn no_resource_is_asked_for_twice() {
        let mut seen = BTreeMap::new();
        for right in RIGHTS {
            assert!(seen.insert((right.group, right.resource), right.verbs).is_none(), "{right:?}");
        }
    }
}
