//! The roles and bindings every cluster is born with, named as upstream names them
//! ([Using RBAC Authorization, "Default roles and role bindings"](https://kubernetes.io/docs/reference/access-authn-authz/rbac/#default-roles-and-role-bindings)).

use serde_json::{Value, json};

use super::rbac::GROUP;
use super::registry::{Registry, WriteOptions};
use super::resources::{CLUSTER_ROLE_BINDINGS, CLUSTER_ROLES};
use super::status::Result;

const READ: &[&str] = &["get", "list", "watch"];
const WATCH: &[&str] = &["list", "watch"];
const WRITE: &[&str] = &["create", "delete", "deletecollection", "patch", "update"];
const REPORT: &[&str] = &["patch", "update"];
const RECORD: &[&str] = &["create", "patch", "update"];
const CREATE: &[&str] = &["create"];

/// What a namespace's viewers see of the core group: everything but secrets.
const VISIBLE: &[&str] = &[
    "bindings",
    "configmaps",
    "endpoints",
    "events",
    "namespaces",
    "namespaces/status",
    "persistentvolumeclaims",
    "pods",
    "pods/log",
    "pods/status",
    "replicationcontrollers",
    "replicationcontrollers/scale",
    "replicationcontrollers/status",
    "resourcequotas",
    "serviceaccounts",
    "services",
    "services/status",
];
/// What its editors write there.
const EDITABLE: &[&str] = &[
    "configmaps",
    "events",
    "persistentvolumeclaims",
    "pods",
    "pods/attach",
    "pods/eviction",
    "pods/exec",
    "pods/portforward",
    "pods/proxy",
    "replicationcontrollers",
    "replicationcontrollers/scale",
    "secrets",
    "serviceaccounts",
    "services",
    "services/proxy",
];
/// And of other groups.
const WORKLOADS: &[&str] = &[
    "daemonsets",
    "deployments",
    "deployments/rollback",
    "deployments/scale",
    "replicasets",
    "replicasets/scale",
    "statefulsets",
    "statefulsets/scale",
];

pub(crate) fn bootstrap(registry: &Registry) -> Result<()> {
    for (name, rules, subjects) in table() {
        let labels = json!({"kubernetes.io/bootstrapping": "rbac-defaults"});
        let metadata = json!({"name": name, "labels": labels,
            "annotations": {"rbac.authorization.kubernetes.io/autoupdate": "true"}});
        let role = json!({"metadata": metadata, "rules": rules});
        registry.create(&CLUSTER_ROLES, "", role, WriteOptions::default())?;
        if subjects.is_empty() {
            continue;
        }
        let subjects: Vec<Value> = subjects.into_iter().map(Who::subject).collect();
        let binding = json!({
            "metadata": metadata,
            "roleRef": {"apiGroup": GROUP, "kind": "ClusterRole", "name": name},
            "subjects": subjects,
        });
        registry.create(&CLUSTER_ROLE_BINDINGS, "", binding, WriteOptions::default())?;
    }
    Ok(())
}

enum Who {
    User(&'static str),
    Group(&'static str),
    /// An account in `kube-system`.
    Account(&'static str),
}

impl Who {
    fn subject(self) -> Value {
        match self {
            Self::User(name) => json!({"apiGroup": GROUP, "kind": "User", "name": name}),
            Self::Group(name) => json!({"apiGroup": GROUP, "kind": "Group", "name": name}),
            Self::Account(name) => {
                json!({"kind": "ServiceAccount", "name": name, "namespace": "kube-system"})
            }
        }
    }
}

fn rule(groups: &[&str], resources: &[&str], verbs: &[&str]) -> Value {
    json!({"apiGroups": groups, "resources": resources, "verbs": verbs})
}

fn paths(paths: &[&str], verbs: &[&str]) -> Value {
    json!({"nonResourceURLs": paths, "verbs": verbs})
}

/// Each role, its rules, and who is bound to it by a binding of the same name.
fn table() -> Vec<(&'static str, Vec<Value>, Vec<Who>)> {
    let everybody = || vec![Who::Group("system:authenticated")];
    let events = || rule(&["", "events.k8s.io"], &["events"], RECORD);
    let public = ["/healthz", "/livez", "/readyz", "/version", "/version/"];
    let discovery = [&public[..], &["/api", "/api/*", "/apis", "/apis/*", "/openapi", "/openapi/*"]].concat();
    let leases =
        || rule(&["coordination.k8s.io"], &["leases"], &["create", "delete", "get", "patch", "update"]);
    vec![
        (
            "cluster-admin",
            vec![rule(&["*"], &["*"], &["*"]), paths(&["*"], &["*"])],
            vec![Who::Group("system:masters")],
        ),
        ("admin", [editing(), administering()].concat(), Vec::new()),
        ("edit", editing(), Vec::new()),
        ("view", viewing(), Vec::new()),
        ("system:discovery", vec![paths(&discovery, &["get"])], everybody()),
        (
            "system:public-info-viewer",
            vec![paths(&public, &["get"])],
            vec![Who::Group("system:authenticated"), Who::Group("system:unauthenticated")],
        ),
        (
            "system:basic-user",
            vec![
                rule(
                    &["authorization.k8s.io"],
                    &["selfsubjectaccessreviews", "selfsubjectrulesreviews"],
                    CREATE,
                ),
                rule(&["authentication.k8s.io"], &["selfsubjectreviews"], CREATE),
            ],
            everybody(),
        ),
        (
            "system:auth-delegator",
            vec![
                rule(&["authentication.k8s.io"], &["tokenreviews"], CREATE),
                rule(&["authorization.k8s.io"], &["subjectaccessreviews"], CREATE),
            ],
            Vec::new(),
        ),
        (
            "system:kube-controller-manager",
            vec![
                // The garbage collector and the namespace controller deal with every kind.
                rule(
                    &["*"],
                    &["*"],
                    &["delete", "deletecollection", "get", "list", "patch", "update", "watch"],
                ),
                rule(&[""], &["configmaps", "endpoints", "pods", "secrets", "serviceaccounts"], CREATE),
                rule(&[""], &["endpoints/restricted", "pods/eviction", "serviceaccounts/token"], CREATE),
                rule(&["apps"], &["controllerrevisions", "replicasets"], CREATE),
                rule(&["coordination.k8s.io"], &["leases"], CREATE),
                rule(&["discovery.k8s.io"], &["endpointslices", "endpointslices/restricted"], CREATE),
                rule(&["authentication.k8s.io"], &["tokenreviews"], CREATE),
                rule(&["authorization.k8s.io"], &["subjectaccessreviews"], CREATE),
                events(),
            ],
            vec![Who::User("system:kube-controller-manager")],
        ),
        (
            "system:kube-scheduler",
            vec![
                events(),
                leases(),
                rule(&[""], &["nodes"], READ),
                rule(&[""], &["pods"], &["delete", "get", "list", "watch"]),
                rule(&[""], &["bindings", "pods/binding"], CREATE),
                rule(&[""], &["pods/status"], REPORT),
                rule(&[""], &["namespaces", "replicationcontrollers", "services"], READ),
                rule(&["apps"], &["replicasets", "statefulsets"], READ),
                rule(&[""], &["persistentvolumes", "persistentvolumeclaims"], READ),
                rule(&["policy"], &["poddisruptionbudgets"], READ),
                rule(&["resource.k8s.io", "storage.k8s.io"], &["*"], READ),
            ],
            vec![Who::User("system:kube-scheduler")],
        ),
        (
            // Upstream's node authorizer narrows these to what concerns the node's own pods.
            "system:node",
            vec![
                events(),
                leases(),
                rule(&[""], &["nodes"], &["create", "get", "list", "patch", "update", "watch"]),
                rule(&[""], &["nodes/status", "pods/status"], REPORT),
                rule(&[""], &["pods"], &["create", "delete", "get", "list", "watch"]),
                rule(&[""], &["pods/eviction", "serviceaccounts/token"], CREATE),
                rule(&[""], &["configmaps", "secrets", "serviceaccounts", "services"], READ),
                rule(&["node.k8s.io"], &["runtimeclasses"], READ),
                rule(&["storage.k8s.io"], &["csidrivers"], READ),
                rule(&["storage.k8s.io"], &["csinodes"], &["create", "delete", "get", "patch", "update"]),
                rule(&["authentication.k8s.io"], &["tokenreviews"], CREATE),
                rule(&["authorization.k8s.io"], &["subjectaccessreviews"], CREATE),
            ],
            vec![Who::Group("system:nodes")],
        ),
        (
            "system:node-proxier",
            vec![
                events(),
                rule(&[""], &["endpoints", "services"], WATCH),
                rule(&[""], &["nodes"], READ),
                rule(&["discovery.k8s.io"], &["endpointslices"], WATCH),
                rule(&["networking.k8s.io"], &["servicecidrs"], WATCH),
            ],
            vec![Who::User("system:kube-proxy")],
        ),
        (
            "system:kube-dns",
            vec![rule(&[""], &["endpoints", "services"], WATCH)],
            vec![Who::Account("kube-dns")],
        ),
        (
            // The add-on's own role; it looks at namespaces and pods too.
            "system:coredns",
            vec![
                rule(&[""], &["endpoints", "namespaces", "pods", "services"], WATCH),
                rule(&["discovery.k8s.io"], &["endpointslices"], WATCH),
            ],
            vec![Who::Account("coredns")],
        ),
    ]
}

fn viewing() -> Vec<Value> {
    vec![
        rule(&[""], VISIBLE, READ),
        rule(&["apps"], WORKLOADS, READ),
        rule(&["apps"], &["controllerrevisions"], READ),
        rule(&["extensions", "networking.k8s.io"], &["ingresses", "ingresses/status"], READ),
        rule(&["discovery.k8s.io"], &["endpointslices"], READ),
    ]
}

fn editing() -> Vec<Value> {
    let mut rules = viewing();
    rules.extend([
        rule(&[""], EDITABLE, READ),
        rule(&[""], EDITABLE, WRITE),
        rule(&[""], &["serviceaccounts/token"], CREATE),
        rule(&[""], &["serviceaccounts"], &["impersonate"]),
        rule(&["apps"], WORKLOADS, WRITE),
        rule(&["extensions", "networking.k8s.io"], &["ingresses"], WRITE),
    ]);
    rules
}

fn administering() -> Vec<Value> {
    vec![
        rule(&["authorization.k8s.io"], &["localsubjectaccessreviews"], CREATE),
        rule(&[GROUP], &["rolebindings", "roles"], READ),
        rule(&[GROUP], &["rolebindings", "roles"], WRITE),
    ]
}
