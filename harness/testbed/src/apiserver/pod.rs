//! Pods: defaults and validation, binding to a node, and the account a pod runs as
//! ([Pod API](https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/pod-v1/)).

use std::collections::BTreeSet;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, Probe};
use serde_json::{Value, json};

use super::admission::Admit;
use super::json::{list, object_mut, text};
use super::names;
use super::registry::{Registry, now};
use super::resources::{NAMESPACES, PODS, SERVICE_ACCOUNTS};
use super::service::PROTOCOLS;
use super::status::{FieldError, Result, Status};
use super::store::Key;
use super::warnings;

pub(crate) const RESTART_POLICIES: &[&str] = &["Always", "OnFailure", "Never"];
const PULL_POLICIES: &[&str] = &["Always", "IfNotPresent", "Never"];
const DNS_POLICIES: &[&str] = &["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"];

/// How long a pod waits for its account, which a controller makes soon after the namespace.
const ACCOUNT_LIMIT: Duration = Duration::from_secs(1);

const IMMUTABLE: &str = "pod updates may not change fields other than `spec.containers[*].image`,\
    `spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing \
    tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

impl Admit for Pod {
    fn fill(&mut self) {
        let spec = self.spec.get_or_insert_default();
        fill_spec(spec);
        spec.enable_service_links.get_or_insert(true);
        if is_empty(spec.service_account_name.as_ref()) {
            let account = spec.service_account.clone().filter(|account| !account.is_empty());
            spec.service_account_name = Some(account.unwrap_or_else(|| "default".to_owned()));
        }
        spec.service_account.clone_from(&spec.service_account_name);
        spec.priority.get_or_insert(0);
        spec.preemption_policy.get_or_insert_with(|| "PreemptLowerPriority".to_owned());
        let qos = qos_class(spec);
        let status = self.status.get_or_insert_default();
        if is_empty(status.phase.as_ref()) {
            status.phase = Some("Pending".to_owned());
        }
        if is_empty(status.qos_class.as_ref()) {
            status.qos_class = Some(qos.to_owned());
        }
    }

    fn check(&self, old: Option<&Self>) -> Vec<FieldError> {
        let spec = self.spec.clone().unwrap_or_default();
        let mut errors = check_spec("spec", &spec);
        if let Some(old) = old.and_then(|old| old.spec.clone())
            && !may_become(old, spec)
        {
            errors.push(FieldError::forbidden("spec", IMMUTABLE));
        }
        errors
    }

    /// A pod that runs is rarely changed by hand.
    fn warn(&self, old: Option<&Self>) -> Vec<String> {
        let spec = self.spec.as_ref().filter(|_| old.is_none());
        spec.map(|spec| warnings::of_pod_spec("spec", spec)).unwrap_or_default()
    }
}

/// The defaults of a pod, and of the template of one.
pub(crate) fn fill_spec(spec: &mut PodSpec) {
    let or = |field: &mut Option<String>, default: &str| {
        if is_empty(field.as_ref()) {
            *field = Some(default.to_owned());
        }
    };
    or(&mut spec.restart_policy, "Always");
    or(&mut spec.dns_policy, "ClusterFirst");
    or(&mut spec.scheduler_name, "default-scheduler");
    spec.termination_grace_period_seconds.get_or_insert(30);
    spec.security_context.get_or_insert_default();
    let host_network = spec.host_network.unwrap_or_default();
    for container in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
        or(&mut container.termination_message_path, "/dev/termination-log");
        or(&mut container.termination_message_policy, "File");
        container.resources.get_or_insert_default();
        let image = container.image.as_deref().unwrap_or_default();
        // What is always new must always be looked for.
        let tag = image.rsplit_once('/').map_or(image, |(_, last)| last).split_once(':');
        let latest = !image.contains('@') && tag.is_none_or(|(_, tag)| tag == "latest");
        or(&mut container.image_pull_policy, if latest { "Always" } else { "IfNotPresent" });
        for port in container.ports.iter_mut().flatten() {
            or(&mut port.protocol, "TCP");
            if host_network && port.host_port.unwrap_or_default() == 0 {
                port.host_port = Some(port.container_port);
            }
        }
        let probes =
            [&mut container.liveness_probe, &mut container.readiness_probe, &mut container.startup_probe];
        for probe in probes.into_iter().flatten() {
            fill_probe(probe);
        }
        for variable in container.env.iter_mut().flatten() {
            let field = variable.value_from.as_mut().and_then(|from| from.field_ref.as_mut());
            if let Some(field) = field {
                or(&mut field.api_version, "v1");
            }
        }
    }
}

fn fill_probe(probe: &mut Probe) {
    probe.timeout_seconds.get_or_insert(1);
    probe.period_seconds.get_or_insert(10);
    probe.success_threshold.get_or_insert(1);
    probe.failure_threshold.get_or_insert(3);
    if let Some(get) = &mut probe.http_get {
        get.path.get_or_insert_with(|| "/".to_owned());
        get.scheme.get_or_insert_with(|| "HTTP".to_owned());
    }
}

/// Everything that is wrong with a pod's specification at `path`.
pub(crate) fn check_spec(path: &str, spec: &PodSpec) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut check_one_of = |field: &str, value: Option<&String>, supported: &[&str]| {
        let value = value.map(String::as_str).unwrap_or_default();
        if !supported.contains(&value) {
            errors.push(FieldError::not_supported(format!("{path}.{field}"), value, supported));
        }
    };
    check_one_of("restartPolicy", spec.restart_policy.as_ref(), RESTART_POLICIES);
    check_one_of("dnsPolicy", spec.dns_policy.as_ref(), DNS_POLICIES);
    if spec.containers.is_empty() {
        errors.push(FieldError::required(format!("{path}.containers"), ""));
    }
    if spec.termination_grace_period_seconds.is_some_and(|seconds| seconds < 0) {
        errors.push(FieldError::invalid(
            format!("{path}.terminationGracePeriodSeconds"),
            spec.termination_grace_period_seconds.unwrap_or_default(),
            "must be greater than or equal to 0",
        ));
    }
    let mut volumes = BTreeSet::new();
    for (index, volume) in spec.volumes.iter().flatten().enumerate() {
        let path = format!("{path}.volumes[{index}].name");
        check_name(&path, &volume.name, &mut errors);
        if !volumes.insert(volume.name.as_str()) {
            errors.push(FieldError::duplicate(path, volume.name.as_str()));
        }
    }
    for (field, value) in [("hostname", &spec.hostname), ("subdomain", &spec.subdomain)] {
        if let Some(value) = value.as_deref().filter(|value| !value.is_empty()) {
            for problem in names::label(value) {
                errors.push(FieldError::invalid(format!("{path}.{field}"), value, &problem));
            }
        }
    }
    let mut seen = BTreeSet::new();
    let init = spec.init_containers.iter().flatten().enumerate().map(|entry| ("initContainers", entry));
    let main = spec.containers.iter().enumerate().map(|entry| ("containers", entry));
    for (field, (index, container)) in main.chain(init) {
        let path = format!("{path}.{field}[{index}]");
        check_name(&format!("{path}.name"), &container.name, &mut errors);
        if !container.name.is_empty() && !seen.insert(container.name.clone()) {
            errors.push(FieldError::duplicate(format!("{path}.name"), container.name.as_str()));
        }
        check_container(&path, container, spec.host_network == Some(true), &volumes, &mut errors);
    }
    errors
}

fn check_container(
    path: &str,
    container: &Container,
    host_network: bool,
    volumes: &BTreeSet<&str>,
    errors: &mut Vec<FieldError>,
) {
    let image = container.image.as_deref().unwrap_or_default();
    if image.is_empty() {
        errors.push(FieldError::required(format!("{path}.image"), ""));
    } else if image.trim() != image {
        let why = "must not have leading or trailing whitespace";
        errors.push(FieldError::invalid(format!("{path}.image"), image, why));
    }
    let policy = container.image_pull_policy.as_deref().unwrap_or_default();
    if !PULL_POLICIES.contains(&policy) {
        errors.push(FieldError::not_supported(format!("{path}.imagePullPolicy"), policy, PULL_POLICIES));
    }
    let mut names_seen = BTreeSet::new();
    for (index, port) in container.ports.iter().flatten().enumerate() {
        let path = format!("{path}.ports[{index}]");
        if let Some(name) = port.name.as_deref().filter(|name| !name.is_empty()) {
            for problem in names::port_name(name) {
                errors.push(FieldError::invalid(format!("{path}.name"), name, &problem));
            }
            if !names_seen.insert(name) {
                errors.push(FieldError::duplicate(format!("{path}.name"), name));
            }
        }
        for problem in names::port_number(port.container_port.into()) {
            errors.push(FieldError::invalid(format!("{path}.containerPort"), port.container_port, &problem));
        }
        if let Some(host_port) = port.host_port.filter(|port| *port != 0) {
            for problem in names::port_number(host_port.into()) {
                errors.push(FieldError::invalid(format!("{path}.hostPort"), host_port, &problem));
            }
            if host_network && host_port != port.container_port {
                let why = "must match `containerPort` when `hostNetwork` is true";
                errors.push(FieldError::invalid(format!("{path}.hostPort"), host_port, why));
            }
        }
        let protocol = port.protocol.as_deref().unwrap_or_default();
        if !PROTOCOLS.contains(&protocol) {
            errors.push(FieldError::not_supported(format!("{path}.protocol"), protocol, PROTOCOLS));
        }
    }
    for (index, variable) in container.env.iter().flatten().enumerate() {
        if variable.name.is_empty() {
            errors.push(FieldError::required(format!("{path}.env[{index}].name"), ""));
        }
    }
    for (index, mount) in container.volume_mounts.iter().flatten().enumerate() {
        let path = format!("{path}.volumeMounts[{index}]");
        if !volumes.contains(mount.name.as_str()) {
            errors.push(FieldError::not_found(format!("{path}.name"), mount.name.as_str()));
        }
        if mount.mount_path.is_empty() {
            errors.push(FieldError::required(format!("{path}.mountPath"), ""));
        }
    }
    let probes = [
        ("livenessProbe", &container.liveness_probe),
        ("readinessProbe", &container.readiness_probe),
        ("startupProbe", &container.startup_probe),
    ];
    for (field, probe) in probes {
        let Some(probe) = probe else { continue };
        let handlers = [
            probe.exec.is_some(),
            probe.http_get.is_some(),
            probe.tcp_socket.is_some(),
            probe.grpc.is_some(),
        ];
        match handlers.iter().filter(|set| **set).count() {
            0 => {
                let why = "must specify a handler type";
                errors.push(FieldError::required(format!("{path}.{field}"), why));
            }
            1 => {}
            _ => {
                let why = "may not specify more than 1 handler type";
                errors.push(FieldError::forbidden(format!("{path}.{field}"), why));
            }
        }
    }
}

fn check_name(path: &str, name: &str, errors: &mut Vec<FieldError>) {
    if name.is_empty() {
        errors.push(FieldError::required(path, ""));
        return;
    }
    for problem in names::label(name) {
        errors.push(FieldError::invalid(path, name, &problem));
    }
}

/// Is the change of the specification one that a running pod can follow?
fn may_become(old: PodSpec, mut new: PodSpec) -> bool {
    let pairs = |old: &[Container], new: &mut [Container]| {
        for (old, new) in old.iter().zip(new) {
            new.image.clone_from(&old.image);
        }
    };
    pairs(&old.containers, &mut new.containers);
    pairs(
        old.init_containers.as_deref().unwrap_or_default(),
        new.init_containers.as_deref_mut().unwrap_or_default(),
    );
    new.active_deadline_seconds = old.active_deadline_seconds;
    let tolerated = old
        .tolerations
        .iter()
        .flatten()
        .all(|toleration| new.tolerations.iter().flatten().any(|other| other == toleration));
    new.tolerations.clone_from(&old.tolerations);
    tolerated && new == old
}

/// [Pod Quality of Service Classes](https://kubernetes.io/docs/concepts/workloads/pods/pod-qos/#quality-of-service-classes)
fn qos_class(spec: &PodSpec) -> &'static str {
    let mut guaranteed = true;
    let mut best_effort = true;
    for container in spec.containers.iter().chain(spec.init_containers.iter().flatten()) {
        let resources = container.resources.clone().unwrap_or_default();
        let (limits, requests) =
            (resources.limits.unwrap_or_default(), resources.requests.unwrap_or_default());
        for name in ["cpu", "memory"] {
            let (limit, request) = (limits.get(name), requests.get(name));
            best_effort &= limit.is_none() && request.is_none();
            guaranteed &= limit.is_some() && request.is_none_or(|request| Some(request) == limit);
        }
    }
    match (best_effort, guaranteed) {
        (true, _) => "BestEffort",
        (_, true) => "Guaranteed",
        _ => "Burstable",
    }
}

fn is_empty(text: Option<&String>) -> bool {
    text.is_none_or(String::is_empty)
}

/// A pod's account must exist
/// ([Admission controllers, "ServiceAccount"](https://kubernetes.io/docs/reference/access-authn-authz/admission-controllers/#serviceaccount)).
pub(crate) async fn wait_for_account(registry: &Registry, namespace: &str, pod: &Value) -> Result<()> {
    let account = [text(pod, "/spec/serviceAccountName"), text(pod, "/spec/serviceAccount"), "default"];
    let account = account.into_iter().find(|account| !account.is_empty()).unwrap_or("default");
    let key = Key::new(namespace, account);
    let mut news = {
        let mut transaction = registry.store.transaction();
        if transaction.get(&SERVICE_ACCOUNTS, &key).is_some() {
            return Ok(());
        }
        if transaction.get(&NAMESPACES, &Key::new("", namespace)).is_none() {
            return Err(Status::not_found(&NAMESPACES, namespace));
        }
        transaction.subscribe(&SERVICE_ACCOUNTS)
    };
    let appeared = async {
        while registry.get(&SERVICE_ACCOUNTS, &key).is_err() {
            if news.changed().await.is_err() {
                return;
            }
        }
    };
    if tokio::time::timeout(ACCOUNT_LIMIT, appeared).await.is_ok() {
        return Ok(());
    }
    let why = format!(
        "error looking up service account {namespace}/{account}: serviceaccount {account:?} not found"
    );
    Err(Status::forbidden(&PODS, text(pod, "/metadata/name"), &why))
}

/// Where a pod finds the token of its account, the certificate of the API server and its namespace.
const TOKEN_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// Gives every container the account's token, unless the pod or the account does not want it
/// ([Managing Service Accounts, "Bound service account token volume mechanism"](https://kubernetes.io/docs/reference/access-authn-authz/service-accounts-admin/#bound-service-account-token-volume)).
pub(crate) fn mount_token(registry: &Registry, namespace: &str, pod: &mut Value) {
    let account = [text(pod, "/spec/serviceAccountName"), text(pod, "/spec/serviceAccount"), "default"];
    let account = account.into_iter().find(|account| !account.is_empty()).unwrap_or("default");
    let account = registry.get(&SERVICE_ACCOUNTS, &Key::new(namespace, account)).ok();
    let of_account = account.as_ref().and_then(|found| found.value["automountServiceAccountToken"].as_bool());
    let of_pod = pod["spec"]["automountServiceAccountToken"].as_bool();
    if !of_pod.or(of_account).unwrap_or(true) {
        return;
    }
    let name = format!("kube-api-access-{}", &names::uid()[..5]);
    let mut mounted = false;
    for list in ["containers", "initContainers"] {
        for container in pod["spec"].get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            let taken = super::json::list(container, "/volumeMounts");
            if !container.is_object() || taken.iter().any(|mount| text(mount, "/mountPath") == TOKEN_PATH) {
                continue;
            }
            let mount = json!({"name": name, "mountPath": TOKEN_PATH, "readOnly": true});
            container["volumeMounts"] = taken.iter().cloned().chain([mount]).collect();
            mounted = true;
        }
    }
    if mounted {
        let namespace = json!({"path": "namespace",
            "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}});
        let volume = json!({"name": name, "projected": {"defaultMode": 0o644, "sources": [
            {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
            {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [namespace]}},
        ]}});
        let volumes = list(pod, "/spec/volumes").iter().cloned().chain([volume]).collect();
        pod["spec"]["volumes"] = volumes;
    }
}

/// The pod, assigned to the node that the binding names.
pub(crate) fn bind(key: &Key, pod: &Value, binding: &Value) -> Result<Value> {
    let node = text(binding, "/target/name");
    if node.is_empty() {
        let error = FieldError::required("target.name", "");
        return Err(Status::invalid(&PODS, &key.name, &[error]));
    }
    let kind = text(binding, "/target/kind");
    if !["", "Node"].contains(&kind) {
        let error = FieldError::not_supported("target.kind", kind, &["Node", "<empty>"]);
        return Err(Status::invalid(&PODS, &key.name, &[error]));
    }
    let uid = text(binding, "/metadata/uid");
    if !uid.is_empty() && uid != text(pod, "/metadata/uid") {
        return Err(Status::modified(&PODS, &key.name));
    }
    if pod.pointer("/metadata/deletionTimestamp").is_some() {
        let why = format!("pod {} is being deleted, cannot be assigned to a host", key.name);
        return Err(Status::conflict(&PODS, &key.name, &why));
    }
    let before = text(pod, "/spec/nodeName");
    if !before.is_empty() {
        let why = format!("pod {} is already assigned to node {before:?}", key.name);
        return Err(Status::conflict(&PODS, &key.name, &why));
    }
    let mut pod = pod.clone();
    object_mut(&mut pod, "spec").insert("nodeName".to_owned(), json!(node));
    let mut conditions: Vec<Value> = list(&pod, "/status/conditions")
        .iter()
        .filter(|condition| text(condition, "/type") != "PodScheduled")
        .cloned()
        .collect();
    conditions.push(json!({"type": "PodScheduled", "status": "True", "lastTransitionTime": now()}));
    object_mut(&mut pod, "status").insert("conditions".to_owned(), json!(conditions));
    Ok(pod)
}
