//! The kinds this server knows: one row each. Adding a kind is adding a row.

use std::borrow::Cow;

use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, Deployment, ReplicaSet};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{
    ConfigMap, Endpoints, Event, Namespace, Node, Pod, ReplicationController, Secret, Service, ServiceAccount,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{Ingress, IngressClass, ServiceCIDR};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use k8s_openapi::api::storage::v1::CSINode;
use serde_json::{Value, json};

use super::admission::Rules;
use super::names::NameRule;
use super::tables::{self, Columns};
use super::versions::{self, Stored};

/// One kind, and everything that differs from other kinds.
pub(crate) struct Resource {
    pub(crate) group: &'static str,
    pub(crate) version: &'static str,
    pub(crate) plural: &'static str,
    pub(crate) singular: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) short_names: &'static [&'static str],
    pub(crate) categories: &'static [&'static str],
    pub(crate) namespaced: bool,
    pub(crate) subresources: &'static [Subresource],
    /// What field selectors may ask for besides name and namespace.
    pub(crate) field_labels: &'static [&'static str],
    pub(crate) name_rule: NameRule,
    /// Does `metadata.generation` count changes of the specification?
    pub(crate) generation: bool,
    /// Does a deletion answer with the object rather than with a `Status`?
    pub(crate) returns_deleted: bool,
    pub(crate) rules: Rules,
    pub(crate) columns: &'static Columns,
    /// Why to use another kind or version, if that is so; told with every answer.
    pub(crate) deprecated: Option<&'static str>,
    /// What this kind is kept as, if it is another form of a kind.
    pub(crate) stored: Option<&'static Stored>,
    /// Nobody here does anything with objects of this kind, so there are none, and none can be made; but
    /// there are programs that do not begin before they have seen that.
    pub(crate) is_void: bool,
}

/// A part of an object with a path and verbs of its own.
pub(crate) struct Subresource {
    pub(crate) name: &'static str,
    /// Group, version and kind of what is exchanged.
    pub(crate) exchanges: (&'static str, &'static str, &'static str),
    pub(crate) verbs: &'static [&'static str],
}

impl Resource {
    /// What tells this resource from all others; all forms of a kind are one.
    pub(crate) fn id(&self) -> (&'static str, &'static str) {
        self.stored.map_or((self.group, self.plural), |stored| stored.resource.id())
    }

    /// Turns an object of this form into the one that is stored.
    pub(crate) fn read(&self, object: &mut Value) {
        if let Some(stored) = self.stored {
            (stored.read)(object);
            object["apiVersion"] = json!(stored.resource.api_version());
        }
    }

    /// What is stored, in this form.
    pub(crate) fn shown<'a>(&self, object: &'a Value) -> Cow<'a, Value> {
        let Some(stored) = self.stored else { return Cow::Borrowed(object) };
        let mut object = object.clone();
        (stored.show)(&mut object);
        object["apiVersion"] = json!(self.api_version());
        Cow::Owned(object)
    }

    /// `services`, or `replicasets.apps`: how messages name it.
    pub(crate) fn qualified(&self) -> String {
        if self.group.is_empty() { self.plural.to_owned() } else { format!("{}.{}", self.plural, self.group) }
    }

    pub(crate) fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_owned()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    pub(crate) fn subresource(&self, name: &str) -> Option<&'static Subresource> {
        self.subresources.iter().find(|subresource| subresource.name == name)
    }

    pub(crate) fn has_status(&self) -> bool {
        self.subresource("status").is_some()
    }

    pub(crate) fn verbs(&self) -> &'static [&'static str] {
        if self.is_void {
            return &["get", "list", "watch"];
        }
        // A namespace takes its content with it: nobody deletes all of them by accident.
        if self.kind == "Namespace" {
            &["create", "delete", "get", "list", "patch", "update", "watch"]
        } else {
            &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]
        }
    }
}

/// Every resource, in the order discovery shows them.
pub(crate) static RESOURCES: &[&Resource] = &[
    &CONFIG_MAPS,
    &ENDPOINTS,
    &EVENTS,
    &NAMESPACES,
    &NODES,
    &PODS,
    &REPLICATION_CONTROLLERS,
    &SECRETS,
    &SERVICE_ACCOUNTS,
    &SERVICES,
    &CONTROLLER_REVISIONS,
    &DAEMON_SETS,
    &DEPLOYMENTS,
    &REPLICA_SETS,
    &NEW_EVENTS,
    &INGRESS_CLASSES,
    &INGRESSES,
    &SERVICE_CIDRS,
    &OLD_INGRESS_CLASSES,
    &OLD_INGRESSES,
    &LEASES,
    &ENDPOINT_SLICES,
    &OLD_ENDPOINT_SLICES,
    &CLUSTER_ROLE_BINDINGS,
    &CLUSTER_ROLES,
    &ROLE_BINDINGS,
    &ROLES,
    // Last, so that nobody who says `ingress` means this one.
    &OLDEST_INGRESSES,
    &VOID[0],
    &VOID[1],
    &VOID[2],
    &VOID[3],
    &VOID[4],
    &CSI_NODES,
    &VOID[5],
    &VOID[6],
    &VOID[7],
    &VOID[8],
    &VOID[9],
    &VOID[10],
    &VOID[11],
    &VOID[12],
];

/// What kube-scheduler and kubelets follow beside pods and nodes.
static VOID: [Resource; 13] = [
    void("node.k8s.io", "v1", "runtimeclasses", "RuntimeClass", false),
    void("", "v1", "persistentvolumes", "PersistentVolume", false),
    void("", "v1", "persistentvolumeclaims", "PersistentVolumeClaim", true),
    void("apps", "v1", "statefulsets", "StatefulSet", true),
    void("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget", true),
    void("policy", "v1beta1", "poddisruptionbudgets", "PodDisruptionBudget", true),
    void("resource.k8s.io", "v1", "deviceclasses", "DeviceClass", false),
    void("resource.k8s.io", "v1", "resourceclaims", "ResourceClaim", true),
    void("resource.k8s.io", "v1", "resourceslices", "ResourceSlice", false),
    void("storage.k8s.io", "v1", "csidrivers", "CSIDriver", false),
    void("storage.k8s.io", "v1", "csistoragecapacities", "CSIStorageCapacity", true),
    void("storage.k8s.io", "v1", "storageclasses", "StorageClass", false),
    void("storage.k8s.io", "v1", "volumeattachments", "VolumeAttachment", false),
];

/// A kubelet is not ready before it has made its own.
pub(crate) static CSI_NODES: Resource = Resource {
    group: "storage.k8s.io",
    plural: "csinodes",
    singular: "csinode",
    kind: "CSINode",
    namespaced: false,
    rules: Rules::of::<CSINode>(),
    ..CORE
};

const fn void(
    group: &'static str,
    version: &'static str,
    plural: &'static str,
    kind: &'static str,
    namespaced: bool,
) -> Resource {
    let rules = CORE.rules.without_schema();
    Resource { group, version, plural, kind, namespaced, rules, is_void: true, ..CORE }
}

pub(crate) fn find(group: &str, version: &str, plural: &str) -> Option<&'static Resource> {
    RESOURCES
        .iter()
        .find(|resource| resource.group == group && resource.version == version && resource.plural == plural)
        .copied()
}

/// The groups, and the versions of each, in order of preference.
pub(crate) fn groups() -> Vec<(&'static str, Vec<&'static str>)> {
    let mut groups: Vec<(&str, Vec<&str>)> = Vec::new();
    for resource in RESOURCES {
        match groups.iter_mut().find(|(group, _)| *group == resource.group) {
            None => groups.push((resource.group, vec![resource.version])),
            Some((_, versions)) if !versions.contains(&resource.version) => versions.push(resource.version),
            Some(_) => {}
        }
    }
    groups
}

pub(crate) const CORE: Resource = Resource {
    group: "",
    version: "v1",
    plural: "",
    singular: "",
    kind: "",
    short_names: &[],
    categories: &[],
    namespaced: true,
    subresources: &[],
    field_labels: &[],
    name_rule: NameRule::Subdomain,
    generation: false,
    returns_deleted: false,
    rules: Rules::of::<ConfigMap>(),
    columns: &tables::NAME_AND_AGE,
    deprecated: None,
    stored: None,
    is_void: false,
};

const READ_WRITE: &[&str] = &["get", "patch", "update"];

const fn status(group: &'static str, kind: &'static str) -> Subresource {
    Subresource { name: "status", exchanges: (group, "v1", kind), verbs: READ_WRITE }
}

const SCALE: Subresource =
    Subresource { name: "scale", exchanges: ("autoscaling", "v1", "Scale"), verbs: READ_WRITE };

pub(crate) static CONFIG_MAPS: Resource = Resource {
    plural: "configmaps",
    singular: "configmap",
    kind: "ConfigMap",
    short_names: &["cm"],
    rules: Rules::of::<ConfigMap>(),
    columns: &tables::CONFIG_MAPS,
    ..CORE
};

pub(crate) static ENDPOINTS: Resource = Resource {
    plural: "endpoints",
    singular: "endpoints",
    kind: "Endpoints",
    short_names: &["ep"],
    rules: Rules::of::<Endpoints>(),
    columns: &tables::ENDPOINTS,
    deprecated: Some("v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice"),
    ..CORE
};

const EVENT: Resource = Resource {
    plural: "events",
    singular: "event",
    kind: "Event",
    short_names: &["ev"],
    field_labels: &[
        "involvedObject.kind",
        "involvedObject.namespace",
        "involvedObject.name",
        "involvedObject.uid",
        "involvedObject.apiVersion",
        "involvedObject.resourceVersion",
        "involvedObject.fieldPath",
        "reason",
        "reportingComponent",
        "type",
    ],
    rules: Rules::of::<Event>(),
    columns: &tables::EVENTS,
    ..CORE
};

pub(crate) static EVENTS: Resource = EVENT;

/// Events as their own group shows them.
pub(crate) static NEW_EVENTS: Resource = Resource {
    group: "events.k8s.io",
    field_labels: &[
        "regarding.kind",
        "regarding.namespace",
        "regarding.name",
        "regarding.uid",
        "regarding.apiVersion",
        "regarding.resourceVersion",
        "regarding.fieldPath",
        "reason",
        "reportingController",
        "type",
    ],
    rules: EVENT.rules.described_by::<k8s_openapi::api::events::v1::Event>(),
    stored: Some(&Stored {
        resource: &EVENTS,
        read: versions::read_new_event,
        show: versions::show_new_event,
    }),
    ..EVENT
};

pub(crate) static NAMESPACES: Resource = Resource {
    plural: "namespaces",
    singular: "namespace",
    kind: "Namespace",
    short_names: &["ns"],
    namespaced: false,
    subresources: &[
        Subresource { name: "finalize", exchanges: ("", "v1", "Namespace"), verbs: &["update"] },
        status("", "Namespace"),
    ],
    field_labels: &["status.phase"],
    name_rule: NameRule::Label,
    rules: Rules::of::<Namespace>(),
    columns: &tables::NAMESPACES,
    ..CORE
};

pub(crate) static NODES: Resource = Resource {
    plural: "nodes",
    singular: "node",
    kind: "Node",
    short_names: &["no"],
    namespaced: false,
    subresources: &[status("", "Node")],
    field_labels: &["spec.unschedulable"],
    rules: Rules::of::<Node>(),
    columns: &tables::NODES,
    ..CORE
};

pub(crate) static PODS: Resource = Resource {
    plural: "pods",
    singular: "pod",
    kind: "Pod",
    short_names: &["po"],
    categories: &["all"],
    subresources: &[
        Subresource { name: "attach", exchanges: ("", "v1", "PodAttachOptions"), verbs: &["create", "get"] },
        Subresource { name: "binding", exchanges: ("", "v1", "Binding"), verbs: &["create"] },
        Subresource { name: "eviction", exchanges: ("policy", "v1", "Eviction"), verbs: &["create"] },
        Subresource { name: "exec", exchanges: ("", "v1", "PodExecOptions"), verbs: &["create", "get"] },
        Subresource { name: "log", exchanges: ("", "v1", "Pod"), verbs: &["get"] },
        Subresource {
            name: "portforward",
            exchanges: ("", "v1", "PodPortForwardOptions"),
            verbs: &["create", "get"],
        },
        status("", "Pod"),
    ],
    field_labels: &[
        "spec.nodeName",
        "spec.restartPolicy",
        "spec.schedulerName",
        "spec.serviceAccountName",
        "spec.hostNetwork",
        "status.phase",
        "status.podIP",
        "status.nominatedNodeName",
    ],
    generation: true,
    returns_deleted: true,
    rules: Rules::of::<Pod>(),
    columns: &tables::PODS,
    ..CORE
};

pub(crate) static REPLICATION_CONTROLLERS: Resource = Resource {
    plural: "replicationcontrollers",
    singular: "replicationcontroller",
    kind: "ReplicationController",
    short_names: &["rc"],
    categories: &["all"],
    subresources: &[SCALE, status("", "ReplicationController")],
    field_labels: &["status.replicas"],
    generation: true,
    rules: Rules::of::<ReplicationController>(),
    columns: &tables::REPLICA_SETS,
    ..CORE
};

pub(crate) static SECRETS: Resource = Resource {
    plural: "secrets",
    singular: "secret",
    kind: "Secret",
    field_labels: &["type"],
    rules: Rules::of::<Secret>(),
    columns: &tables::SECRETS,
    ..CORE
};

pub(crate) static SERVICE_ACCOUNTS: Resource = Resource {
    plural: "serviceaccounts",
    singular: "serviceaccount",
    kind: "ServiceAccount",
    short_names: &["sa"],
    subresources: &[Subresource {
        name: "token",
        exchanges: ("authentication.k8s.io", "v1", "TokenRequest"),
        verbs: &["create"],
    }],
    returns_deleted: true,
    rules: Rules::of::<ServiceAccount>(),
    columns: &tables::SERVICE_ACCOUNTS,
    ..CORE
};

pub(crate) static SERVICES: Resource = Resource {
    plural: "services",
    singular: "service",
    kind: "Service",
    short_names: &["svc"],
    categories: &["all"],
    subresources: &[status("", "Service")],
    field_labels: &["spec.clusterIP", "spec.type"],
    name_rule: NameRule::Dns1035,
    returns_deleted: true,
    rules: Rules::of::<Service>(),
    columns: &tables::SERVICES,
    ..CORE
};

pub(crate) static CONTROLLER_REVISIONS: Resource = Resource {
    group: "apps",
    plural: "controllerrevisions",
    singular: "controllerrevision",
    kind: "ControllerRevision",
    rules: Rules::of::<ControllerRevision>(),
    columns: &tables::CONTROLLER_REVISIONS,
    ..CORE
};

pub(crate) static DAEMON_SETS: Resource = Resource {
    group: "apps",
    plural: "daemonsets",
    singular: "daemonset",
    kind: "DaemonSet",
    short_names: &["ds"],
    categories: &["all"],
    subresources: &[status("apps", "DaemonSet")],
    generation: true,
    rules: Rules::of::<DaemonSet>(),
    columns: &tables::DAEMON_SETS,
    ..CORE
};

pub(crate) static DEPLOYMENTS: Resource = Resource {
    group: "apps",
    plural: "deployments",
    singular: "deployment",
    kind: "Deployment",
    short_names: &["deploy"],
    categories: &["all"],
    subresources: &[SCALE, status("apps", "Deployment")],
    generation: true,
    rules: Rules::of::<Deployment>(),
    columns: &tables::DEPLOYMENTS,
    ..CORE
};

pub(crate) static REPLICA_SETS: Resource = Resource {
    group: "apps",
    plural: "replicasets",
    singular: "replicaset",
    kind: "ReplicaSet",
    short_names: &["rs"],
    categories: &["all"],
    subresources: &[SCALE, status("apps", "ReplicaSet")],
    field_labels: &["status.replicas"],
    generation: true,
    rules: Rules::of::<ReplicaSet>(),
    columns: &tables::REPLICA_SETS,
    ..CORE
};

pub(crate) static LEASES: Resource = Resource {
    group: "coordination.k8s.io",
    plural: "leases",
    singular: "lease",
    kind: "Lease",
    rules: Rules::of::<Lease>(),
    columns: &tables::LEASES,
    ..CORE
};

const ENDPOINT_SLICE: Resource = Resource {
    group: "discovery.k8s.io",
    plural: "endpointslices",
    singular: "endpointslice",
    kind: "EndpointSlice",
    generation: true,
    rules: Rules::of::<EndpointSlice>(),
    columns: &tables::ENDPOINT_SLICES,
    ..CORE
};

pub(crate) static ENDPOINT_SLICES: Resource = ENDPOINT_SLICE;

/// The only version that Kubernetes before 1.21 knows.
pub(crate) static OLD_ENDPOINT_SLICES: Resource = Resource {
    version: "v1beta1",
    rules: ENDPOINT_SLICE.rules.without_schema(),
    stored: Some(&Stored {
        resource: &ENDPOINT_SLICES,
        read: versions::read_old_slice,
        show: versions::show_old_slice,
    }),
    ..ENDPOINT_SLICE
};

const INGRESS: Resource = Resource {
    group: "networking.k8s.io",
    plural: "ingresses",
    singular: "ingress",
    kind: "Ingress",
    short_names: &["ing"],
    subresources: &[status("networking.k8s.io", "Ingress")],
    generation: true,
    rules: Rules::of::<Ingress>(),
    columns: &tables::INGRESSES,
    ..CORE
};

pub(crate) static INGRESSES: Resource = INGRESS;

static OLD_INGRESS: Stored =
    Stored { resource: &INGRESSES, read: versions::read_old_ingress, show: versions::show_old_ingress };

pub(crate) static OLD_INGRESSES: Resource = Resource {
    version: "v1beta1",
    subresources: &[OLD_INGRESS_STATUS],
    rules: INGRESS.rules.without_schema(),
    deprecated: Some(
        "networking.k8s.io/v1beta1 Ingress is deprecated in v1.19+, unavailable in v1.22+; use networking.k8s.io/v1 \
         Ingress",
    ),
    stored: Some(&OLD_INGRESS),
    ..INGRESS
};

/// As the first manifests had it. Without the short name, which is taken.
pub(crate) static OLDEST_INGRESSES: Resource = Resource {
    group: "extensions",
    short_names: &[],
    version: "v1beta1",
    rules: INGRESS.rules.without_schema(),
    deprecated: Some(
        "extensions/v1beta1 Ingress is deprecated in v1.14+, unavailable in v1.22+; use networking.k8s.io/v1 Ingress",
    ),
    subresources: &[Subresource { exchanges: ("extensions", "v1beta1", "Ingress"), ..OLD_INGRESS_STATUS }],
    stored: Some(&OLD_INGRESS),
    ..INGRESS
};

const OLD_INGRESS_STATUS: Subresource =
    Subresource { name: "status", exchanges: ("networking.k8s.io", "v1beta1", "Ingress"), verbs: READ_WRITE };

const INGRESS_CLASS: Resource = Resource {
    group: "networking.k8s.io",
    plural: "ingressclasses",
    singular: "ingressclass",
    kind: "IngressClass",
    namespaced: false,
    generation: true,
    rules: Rules::of::<IngressClass>(),
    columns: &tables::INGRESS_CLASSES,
    ..CORE
};

pub(crate) static INGRESS_CLASSES: Resource = INGRESS_CLASS;

pub(crate) static OLD_INGRESS_CLASSES: Resource = Resource {
    version: "v1beta1",
    stored: Some(&Stored { resource: &INGRESS_CLASSES, read: versions::same, show: versions::same }),
    ..INGRESS_CLASS
};

pub(crate) static SERVICE_CIDRS: Resource = Resource {
    group: "networking.k8s.io",
    plural: "servicecidrs",
    singular: "servicecidr",
    kind: "ServiceCIDR",
    namespaced: false,
    subresources: &[status("networking.k8s.io", "ServiceCIDR")],
    rules: Rules::of::<ServiceCIDR>(),
    columns: &tables::SERVICE_CIDRS,
    ..CORE
};

const RBAC: Resource =
    Resource { group: super::rbac::GROUP, name_rule: NameRule::Segment, columns: &tables::ROLES, ..CORE };

pub(crate) static ROLES: Resource =
    Resource { plural: "roles", singular: "role", kind: "Role", rules: Rules::of::<Role>(), ..RBAC };

pub(crate) static CLUSTER_ROLES: Resource = Resource {
    plural: "clusterroles",
    singular: "clusterrole",
    kind: "ClusterRole",
    namespaced: false,
    rules: Rules::of::<ClusterRole>(),
    ..RBAC
};

pub(crate) static ROLE_BINDINGS: Resource = Resource {
    plural: "rolebindings",
    singular: "rolebinding",
    kind: "RoleBinding",
    rules: Rules::of::<RoleBinding>(),
    columns: &tables::ROLE_BINDINGS,
    ..RBAC
};

pub(crate) static CLUSTER_ROLE_BINDINGS: Resource = Resource {
    plural: "clusterrolebindings",
    singular: "clusterrolebinding",
    kind: "ClusterRoleBinding",
    namespaced: false,
    rules: Rules::of::<ClusterRoleBinding>(),
    columns: &tables::ROLE_BINDINGS,
    ..RBAC
};
