//! Who may do what: roles, and the bindings that give them to users
//! ([Using RBAC Authorization](https://kubernetes.io/docs/reference/access-authn-authz/rbac/)).

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};

use k8s_openapi::api::rbac::v1::{
    ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef, Subject,
};
use kube::core::{Selector, SelectorExt as _};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::admission::Admit;
use super::authn::User;
use super::resources::{CLUSTER_ROLE_BINDINGS, CLUSTER_ROLES, ROLE_BINDINGS, ROLES, Resource};
use super::status::{FieldError, Result, Status};
use super::store::{Store, Transaction};

pub(crate) const GROUP: &str = "rbac.authorization.k8s.io";

/// Who belongs to this group may do everything, whatever the roles say.
const MASTERS: &str = "system:masters";

/// What somebody wants to do to objects.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Action<'a> {
    pub(crate) verb: &'a str,
    pub(crate) group: &'a str,
    pub(crate) resource: &'a str,
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
    pub(crate) subresource: &'a str,
}

/// What somebody wants to do
/// ([Authorization, "Request attributes"](https://kubernetes.io/docs/reference/access-authn-authz/authorization/#request-attributes-used-in-authorization)).
#[derive(Clone, Copy, Debug)]
pub(crate) enum Attributes<'a> {
    Resource(Action<'a>),
    /// A path that leads to no objects, such as `/version`.
    Path {
        verb: &'a str,
        path: &'a str,
    },
}

impl Attributes<'_> {
    fn namespace(&self) -> &str {
        match self {
            Attributes::Resource(action) => action.namespace,
            Attributes::Path { .. } => "",
        }
    }
}

/// May they, and why or why not, if there is anything to say about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    Allowed(String),
    Denied(String),
}

/// Decides by the roles and bindings in the store, which it reads again only after they changed.
pub(crate) struct Authorizer(Mutex<Arc<Policy>>);

impl Authorizer {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(Arc::default()))
    }

    pub(crate) fn authorize(&self, store: &Store, user: &User, attributes: &Attributes<'_>) -> Decision {
        if user.groups.iter().any(|group| group == MASTERS) {
            return Decision::Allowed(String::new());
        }
        self.policy(store).decide(user, attributes)
    }

    /// Refuses what the user may not do.
    pub(crate) fn require(&self, store: &Store, user: &User, attributes: &Attributes<'_>) -> Result<()> {
        match self.authorize(store, user, attributes) {
            Decision::Allowed(_) => Ok(()),
            Decision::Denied(reason) => Err(forbidden(user, attributes, &reason)),
        }
    }

    /// What the user may do in a namespace, in the form of a `SelfSubjectRulesReview`'s status.
    pub(crate) fn rules(&self, store: &Store, user: &User, namespace: &str) -> Value {
        let policy = self.policy(store);
        let (mut resources, mut paths) = (Vec::new(), Vec::new());
        for rules in policy.grants(namespace).filter(|grant| grant.subject(user).is_some()) {
            for rule in rules.rules.iter().flat_map(|rules| rules.iter()) {
                let some = |values: &Option<Vec<String>>| values.clone().unwrap_or_default();
                if !some(&rule.resources).is_empty() {
                    resources.push(json!({
                        "verbs": rule.verbs, "apiGroups": some(&rule.api_groups),
                        "resources": some(&rule.resources), "resourceNames": some(&rule.resource_names),
                    }));
                }
                if !some(&rule.non_resource_urls).is_empty() {
                    paths.push(json!({"verbs": rule.verbs, "nonResourceURLs": rule.non_resource_urls}));
                }
            }
        }
        json!({"resourceRules": resources, "nonResourceRules": paths, "incomplete": false})
    }

    fn policy(&self, store: &Store) -> Arc<Policy> {
        let transaction = store.transaction();
        let versions = KINDS.map(|kind| transaction.newest(kind));
        let mut policy = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if policy.versions != versions {
            *policy = Arc::new(Policy::read(&transaction, versions));
        }
        Arc::clone(&policy)
    }
}

/// The kinds that decide.
const KINDS: [&Resource; 4] = [&ROLES, &ROLE_BINDINGS, &CLUSTER_ROLES, &CLUSTER_ROLE_BINDINGS];

/// All bindings with the rules they lead to.
#[derive(Default)]
struct Policy {
    /// The newest change of each kind that is in here.
    versions: [u64; 4],
    cluster: Vec<Grant>,
    namespaces: BTreeMap<String, Vec<Grant>>,
}

/// One binding.
struct Grant {
    /// How reasons name it.
    name: String,
    namespace: String,
    subjects: Vec<Subject>,
    /// The rules of its role, or which role is missing.
    rules: std::result::Result<Arc<[PolicyRule]>, String>,
}

type Rules = Arc<[PolicyRule]>;

impl Policy {
    fn read(transaction: &Transaction<'_>, versions: [u64; 4]) -> Self {
        let of_cluster = cluster_roles(&all::<ClusterRole>(transaction, &CLUSTER_ROLES));
        let mut of_namespaces = BTreeMap::<(String, String), Rules>::new();
        for role in all::<Role>(transaction, &ROLES) {
            let key = (role.metadata.namespace.unwrap_or_default(), role.metadata.name.unwrap_or_default());
            of_namespaces.insert(key, role.rules.unwrap_or_default().into());
        }
        let rules = |namespace: &str, role: &RoleRef| {
            let found = match role.kind.as_str() {
                "Role" => of_namespaces.get(&(namespace.to_owned(), role.name.clone())),
                _ => of_cluster.get(&role.name),
            };
            let kind = role.kind.to_lowercase();
            found.cloned().ok_or_else(|| format!("{kind}.{GROUP} {:?} not found", role.name))
        };
        let mut policy = Self { versions, ..Self::default() };
        for binding in all::<ClusterRoleBinding>(transaction, &CLUSTER_ROLE_BINDINGS) {
            let name = binding.metadata.name.unwrap_or_default();
            let RoleRef { kind, name: role, .. } = &binding.role_ref;
            policy.cluster.push(Grant {
                name: format!("ClusterRoleBinding {name:?} of {kind} {role:?}"),
                namespace: String::new(),
                subjects: binding.subjects.unwrap_or_default(),
                rules: rules("", &binding.role_ref),
            });
        }
        for binding in all::<RoleBinding>(transaction, &ROLE_BINDINGS) {
            let namespace = binding.metadata.namespace.unwrap_or_default();
            let name = format!("{}/{namespace}", binding.metadata.name.unwrap_or_default());
            let RoleRef { kind, name: role, .. } = &binding.role_ref;
            policy.namespaces.entry(namespace.clone()).or_default().push(Grant {
                name: format!("RoleBinding {name:?} of {kind} {role:?}"),
                rules: rules(&namespace, &binding.role_ref),
                namespace,
                subjects: binding.subjects.unwrap_or_default(),
            });
        }
        policy
    }

    /// The bindings that count in a namespace, or outside of all if it is empty.
    fn grants(&self, namespace: &str) -> impl Iterator<Item = &Grant> {
        let local = if namespace.is_empty() { None } else { self.namespaces.get(namespace) };
        self.cluster.iter().chain(local.into_iter().flatten())
    }

    fn decide(&self, user: &User, attributes: &Attributes<'_>) -> Decision {
        let mut missing = Vec::new();
        for grant in self.grants(attributes.namespace()) {
            let Some(subject) = grant.subject(user) else { continue };
            match &grant.rules {
                Ok(rules) if rules.iter().any(|rule| allows(rule, attributes)) => {
                    let to = describe(subject);
                    return Decision::Allowed(format!("RBAC: allowed by {} to {to}", grant.name));
                }
                Ok(_) => {}
                Err(why) => missing.push(why.as_str()),
            }
        }
        Decision::Denied(match missing.as_slice() {
            [] => String::new(),
            [only] => format!("RBAC: {only}"),
            _ => format!("RBAC: [{}]", missing.join(", ")),
        })
    }
}

impl Grant {
    /// Which of its subjects is the user.
    fn subject(&self, user: &User) -> Option<&Subject> {
        self.subjects.iter().find(|subject| match subject.kind.as_str() {
            "User" => subject.name == user.name,
            "Group" => user.groups.contains(&subject.name),
            "ServiceAccount" => {
                let namespace = subject.namespace.as_deref().unwrap_or(&self.namespace);
                let rest = user.name.strip_prefix("system:serviceaccount:");
                rest.and_then(|rest| rest.split_once(':')) == Some((namespace, subject.name.as_str()))
            }
            _ => false,
        })
    }
}

fn all<T: DeserializeOwned>(transaction: &Transaction<'_>, resource: &Resource) -> Vec<T> {
    transaction.list(resource, None).filter_map(|object| T::deserialize(&object.value).ok()).collect()
}

/// The rules of every cluster role, those of aggregated ones gathered from the roles they select
/// ([Using RBAC Authorization, "Aggregated ClusterRoles"](https://kubernetes.io/docs/reference/access-authn-authz/rbac/#aggregated-clusterroles)).
fn cluster_roles(roles: &[ClusterRole]) -> BTreeMap<String, Rules> {
    let gathered = |role: &ClusterRole| {
        let mut rules = role.rules.clone().unwrap_or_default();
        let selectors = role.aggregation_rule.iter().flat_map(|rule| rule.cluster_role_selectors.iter());
        for selector in selectors.flatten() {
            let Ok(selector) = Selector::try_from(selector.clone()) else { continue };
            let is_other = |other: &&ClusterRole| {
                let labels = other.metadata.labels.clone().unwrap_or_default();
                other.metadata.name != role.metadata.name && selector.matches(&labels)
            };
            rules.extend(
                roles.iter().filter(is_other).flat_map(|other| other.rules.clone().unwrap_or_default()),
            );
        }
        rules
    };
    roles.iter().map(|role| (role.metadata.name.clone().unwrap_or_default(), gathered(role).into())).collect()
}

fn allows(rule: &PolicyRule, attributes: &Attributes<'_>) -> bool {
    let has = |values: &[String], wanted: &str| values.iter().any(|value| value == "*" || value == wanted);
    match attributes {
        Attributes::Path { verb, path } => {
            let urls = rule.non_resource_urls.as_deref().unwrap_or_default();
            let matches = |url: &String| match url.strip_suffix('*') {
                Some(prefix) => path.starts_with(prefix),
                None => url == path,
            };
            has(&rule.verbs, verb) && urls.iter().any(matches)
        }
        Attributes::Resource(action) => {
            let names = rule.resource_names.as_deref().unwrap_or_default();
            has(&rule.verbs, action.verb)
                && has(rule.api_groups.as_deref().unwrap_or_default(), action.group)
                && rule.resources.iter().flatten().any(|resource| covers(resource, action))
                && (names.is_empty() || names.iter().any(|name| name == action.name))
        }
    }
}

/// `pods` are pods alone, `pods/exec` that part of them, `*/scale` that part of everything.
fn covers(resource: &str, action: &Action<'_>) -> bool {
    match resource.split_once('/') {
        None => resource == "*" || (action.subresource.is_empty() && resource == action.resource),
        Some((of, part)) => {
            !action.subresource.is_empty()
                && part == action.subresource
                && (of == "*" || of == action.resource)
        }
    }
}

fn describe(subject: &Subject) -> String {
    match &subject.namespace {
        Some(namespace) if subject.kind == "ServiceAccount" => {
            format!("{} {:?}", subject.kind, format!("{}/{namespace}", subject.name))
        }
        _ => format!("{} {:?}", subject.kind, subject.name),
    }
}

fn forbidden(user: &User, attributes: &Attributes<'_>, reason: &str) -> Status {
    let (mut why, action) = match attributes {
        Attributes::Path { verb, path } => {
            (format!("User {:?} cannot {verb} path {path:?}", user.name), Action::default())
        }
        Attributes::Resource(action) => {
            let resource = match action.subresource {
                "" => action.resource.to_owned(),
                part => format!("{}/{part}", action.resource),
            };
            let place = match action.namespace {
                "" => "at the cluster scope".to_owned(),
                namespace => format!("in the namespace {namespace:?}"),
            };
            let (verb, group) = (action.verb, action.group);
            let why = format!(
                "User {:?} cannot {verb} resource {resource:?} in API group {group:?} {place}",
                user.name
            );
            (why, *action)
        }
    };
    if !reason.is_empty() {
        // Writing into a string cannot fail.
        let _ = write!(why, ": {reason}");
    }
    Status::not_allowed(action.group, action.resource, action.name, &why)
}

impl Admit for Role {
    fn check(&self, _old: Option<&Self>) -> Vec<FieldError> {
        check_rules(self.rules.as_deref().unwrap_or_default(), true)
    }
}

impl Admit for ClusterRole {
    fn check(&self, _old: Option<&Self>) -> Vec<FieldError> {
        check_rules(self.rules.as_deref().unwrap_or_default(), false)
    }
}

impl Admit for RoleBinding {
    fn fill(&mut self) {
        fill_binding(&mut self.role_ref, self.subjects.as_deref_mut().unwrap_or_default());
    }

    fn check(&self, old: Option<&Self>) -> Vec<FieldError> {
        let subjects = self.subjects.as_deref().unwrap_or_default();
        check_binding(&self.role_ref, old.map(|old| &old.role_ref), &["Role", "ClusterRole"], subjects)
    }
}

impl Admit for ClusterRoleBinding {
    fn fill(&mut self) {
        fill_binding(&mut self.role_ref, self.subjects.as_deref_mut().unwrap_or_default());
    }

    fn check(&self, old: Option<&Self>) -> Vec<FieldError> {
        let subjects = self.subjects.as_deref().unwrap_or_default();
        let mut errors =
            check_binding(&self.role_ref, old.map(|old| &old.role_ref), &["ClusterRole"], subjects);
        for (index, subject) in subjects.iter().enumerate() {
            if subject.kind == "ServiceAccount" && subject.namespace.as_deref().unwrap_or_default().is_empty()
            {
                errors.push(FieldError::required(format!("subjects[{index}].namespace"), ""));
            }
        }
        errors
    }
}

fn check_rules(rules: &[PolicyRule], namespaced: bool) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (index, rule) in rules.iter().enumerate() {
        let path = |field: &str| format!("rules[{index}].{field}");
        let is_empty = |values: &Option<Vec<String>>| values.as_ref().is_none_or(Vec::is_empty);
        if rule.verbs.is_empty() {
            errors.push(FieldError::required(path("verbs"), "verbs must contain at least one value"));
        }
        if !is_empty(&rule.non_resource_urls) {
            let urls = json!(rule.non_resource_urls);
            if namespaced {
                let why = "namespaced rules cannot apply to non-resource URLs";
                errors.push(FieldError::invalid(path("nonResourceURLs"), urls, why));
            } else if !(is_empty(&rule.api_groups) && is_empty(&rule.resources)) {
                let why = "rules cannot apply to both regular resources and non-resource URLs";
                errors.push(FieldError::invalid(path("nonResourceURLs"), urls, why));
            }
            continue;
        }
        if is_empty(&rule.api_groups) {
            let why = "resource rules must supply at least one api group";
            errors.push(FieldError::required(path("apiGroups"), why));
        }
        if is_empty(&rule.resources) {
            let why = "resource rules must supply at least one resource";
            errors.push(FieldError::required(path("resources"), why));
        }
    }
    errors
}

fn fill_binding(role: &mut RoleRef, subjects: &mut [Subject]) {
    if role.api_group.as_deref().unwrap_or_default().is_empty() {
        role.api_group = Some(GROUP.to_owned());
    }
    for subject in subjects {
        let group = subject.api_group.take().filter(|group| !group.is_empty());
        let default = ["User", "Group"].contains(&subject.kind.as_str()).then(|| GROUP.to_owned());
        subject.api_group = group.or(default);
    }
}

fn check_binding(
    role: &RoleRef,
    old: Option<&RoleRef>,
    kinds: &[&str],
    subjects: &[Subject],
) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let group = role.api_group.as_deref().unwrap_or_default();
    if group != GROUP {
        errors.push(FieldError::not_supported("roleRef.apiGroup", group, &[GROUP]));
    }
    if !kinds.contains(&role.kind.as_str()) {
        errors.push(FieldError::not_supported("roleRef.kind", &role.kind, kinds));
    }
    if role.name.is_empty() {
        errors.push(FieldError::required("roleRef.name", ""));
    }
    for (index, subject) in subjects.iter().enumerate() {
        if subject.name.is_empty() {
            errors.push(FieldError::required(format!("subjects[{index}].name"), ""));
        }
        let known = ["ServiceAccount", "User", "Group"];
        if !known.contains(&subject.kind.as_str()) {
            errors.push(FieldError::not_supported(format!("subjects[{index}].kind"), &subject.kind, &known));
        }
    }
    if old.is_some_and(|old| old != role) {
        errors.push(FieldError::invalid("roleRef", json!(role), "cannot change roleRef"));
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(value: Value) -> PolicyRule {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn rules_cover_what_they_name() {
        let on = |verb, resource, subresource, name| {
            Attributes::Resource(Action { verb, resource, subresource, name, ..Action::default() })
        };
        let pods = json!({"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]});
        let parts = json!({"apiGroups": [""], "resources": ["pods/exec", "*/scale"], "verbs": ["*"]});
        let named = json!({"apiGroups": ["*"], "resources": ["*"], "verbs": ["get"], "resourceNames": ["a"]});
        let other = json!({"apiGroups": ["apps"], "resources": ["pods"], "verbs": ["get"]});
        for (rule_of, wanted, expected) in [
            (&pods, on("get", "pods", "", "a"), true),
            (&pods, on("create", "pods", "", ""), false),
            (&pods, on("get", "services", "", "a"), false),
            (&pods, on("get", "pods", "log", "a"), false),
            (&parts, on("create", "pods", "exec", "a"), true),
            (&parts, on("get", "pods", "", "a"), false),
            (&parts, on("patch", "deployments", "scale", "a"), true),
            (&parts, on("patch", "deployments", "status", "a"), false),
            (&named, on("get", "secrets", "", "a"), true),
            (&named, on("get", "pods", "log", "a"), true),
            (&named, on("get", "secrets", "", "b"), false),
            (&named, on("list", "secrets", "", ""), false),
            (&other, on("get", "pods", "", "a"), false),
        ] {
            assert_eq!(allows(&rule(rule_of.clone()), &wanted), expected, "{rule_of} {wanted:?}");
        }
    }

    #[test]
    fn paths_may_end_in_a_star() {
        let rule = rule(json!({"nonResourceURLs": ["/version", "/apis/*"], "verbs": ["get"]}));
        for (verb, path, expected) in [
            ("get", "/version", true),
            ("get", "/version/x", false),
            ("get", "/apis/apps/v1", true),
            ("get", "/api", false),
            ("post", "/version", false),
        ] {
            assert_eq!(allows(&rule, &Attributes::Path { verb, path }), expected, "{verb} {path}");
        }
    }

    #[test]
    fn refusals_read_as_upstream_writes_them() {
        let user = User { name: "system:serviceaccount:default:default".to_owned(), groups: Vec::new() };
        let action = Action { verb: "list", resource: "services", namespace: "default", ..Action::default() };
        let status = forbidden(&user, &Attributes::Resource(action), "");
        assert_eq!(
            status.message,
            "services is forbidden: User \"system:serviceaccount:default:default\" cannot list resource \
             \"services\" in API group \"\" in the namespace \"default\""
        );
        let action =
            Action { verb: "create", resource: "pods", subresource: "exec", name: "a", ..Action::default() };
        let status = forbidden(&user, &Attributes::Resource(action), "");
        assert_eq!(
            status.message,
            "pods \"a\" is forbidden: User \"system:serviceaccount:default:default\" cannot create resource \
             \"pods/exec\" in API group \"\" at the cluster scope"
        );
        let status = forbidden(&user, &Attributes::Path { verb: "get", path: "/metrics" }, "RBAC: x");
        assert_eq!(
            status.message,
            "forbidden: User \"system:serviceaccount:default:default\" cannot get path \"/metrics\": RBAC: x"
        );
    }
}
