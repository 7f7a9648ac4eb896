//! Server-side tables: what `kubectl get` prints, column by column.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::json::{list, members, number, text, texts};

/// The columns of one kind.
pub(crate) struct Columns {
    columns: &'static [Column],
    pub(crate) cells: fn(&Value, Timestamp) -> Vec<Value>,
}

/// A heading: name, type, and whether it is shown only with `-o wide`.
struct Column(&'static str, &'static str, bool);

impl Columns {
    pub(crate) fn headings(&self) -> Value {
        self.columns
            .iter()
            .enumerate()
            .map(|(index, Column(name, kind, wide))| {
                json!({
                    "name": name,
                    "type": kind,
                    "format": if index == 0 { "name" } else { "" },
                    "description": "",
                    "priority": i32::from(*wide),
                })
            })
            .collect()
    }
}

const fn name() -> Column {
    Column("Name", "string", false)
}

const fn narrow(name: &'static str) -> Column {
    Column(name, "string", false)
}

const fn count(name: &'static str) -> Column {
    Column(name, "integer", false)
}

const fn wide(name: &'static str) -> Column {
    Column(name, "string", true)
}

pub(crate) static NAME_AND_AGE: Columns = Columns {
    columns: &[name(), narrow("Age")],
    cells: |object, now| vec![name_of(object), age(object, now)],
};

pub(crate) static CONFIG_MAPS: Columns = Columns {
    columns: &[name(), narrow("Data"), narrow("Age")],
    cells: |object, now| vec![name_of(object), data(object), age(object, now)],
};

pub(crate) static SECRETS: Columns = Columns {
    columns: &[name(), narrow("Type"), narrow("Data"), narrow("Age")],
    cells: |object, now| vec![name_of(object), json!(text(object, "/type")), data(object), age(object, now)],
};

pub(crate) static SERVICE_ACCOUNTS: Columns = Columns {
    columns: &[name(), narrow("Secrets"), narrow("Age")],
    cells: |object, now| vec![name_of(object), json!(list(object, "/secrets").len()), age(object, now)],
};

pub(crate) static LEASES: Columns = Columns {
    columns: &[name(), narrow("Holder"), narrow("Age")],
    cells: |object, now| vec![name_of(object), json!(text(object, "/spec/holderIdentity")), age(object, now)],
};

pub(crate) static ROLES: Columns = Columns {
    columns: &[name(), narrow("Created At")],
    cells: |object, _| vec![name_of(object), json!(text(object, "/metadata/creationTimestamp"))],
};

pub(crate) static ROLE_BINDINGS: Columns = Columns {
    columns: &[name(), narrow("Role"), narrow("Age"), wide("Users"), wide("Groups"), wide("ServiceAccounts")],
    cells: |binding, now| {
        let role = format!("{}/{}", text(binding, "/roleRef/kind"), text(binding, "/roleRef/name"));
        let named = |kind: &str| {
            let subjects = list(binding, "/subjects").iter().filter(|one| text(one, "/kind") == kind);
            let names = subjects.map(|one| match text(one, "/namespace") {
                "" => text(one, "/name").to_owned(),
                namespace => format!("{namespace}/{}", text(one, "/name")),
            });
            json!(names.collect::<Vec<_>>().join(", "))
        };
        let age = age(binding, now);
        vec![name_of(binding), json!(role), age, named("User"), named("Group"), named("ServiceAccount")]
    },
};

pub(crate) static EVENTS: Columns = Columns {
    columns: &[
        narrow("Last Seen"),
        narrow("Type"),
        narrow("Reason"),
        narrow("Object"),
        wide("Subobject"),
        wide("Source"),
        narrow("Message"),
        wide("First Seen"),
        wide("Count"),
        Column("Name", "string", true),
    ],
    cells: |event, now| {
        let seen = |fields: &[&str]| {
            let found = fields.iter().map(|field| text(event, field)).find(|time| !time.is_empty());
            json!(since(found.unwrap_or_default(), now))
        };
        let kind = text(event, "/involvedObject/kind").to_lowercase();
        let source = [text(event, "/source/component"), text(event, "/reportingComponent")];
        let host = text(event, "/source/host");
        let source = source.into_iter().find(|source| !source.is_empty()).unwrap_or_default();
        let source = if host.is_empty() { source.to_owned() } else { format!("{source}, {host}") };
        let object = format!("{kind}/{}", text(event, "/involvedObject/name"));
        vec![
            seen(&["/series/lastObservedTime", "/lastTimestamp", "/eventTime", "/firstTimestamp"]),
            json!(text(event, "/type")),
            json!(text(event, "/reason")),
            json!(object),
            json!(text(event, "/involvedObject/fieldPath")),
            json!(source),
            json!(text(event, "/message").trim()),
            seen(&["/firstTimestamp", "/eventTime"]),
            json!(number(event, "/count").unwrap_or(1).to_string()),
            name_of(event),
        ]
    },
};

pub(crate) static NAMESPACES: Columns = Columns {
    columns: &[name(), narrow("Status"), narrow("Age")],
    cells: |object, now| vec![name_of(object), json!(text(object, "/status/phase")), age(object, now)],
};

pub(crate) static ENDPOINTS: Columns = Columns {
    columns: &[name(), narrow("Endpoints"), narrow("Age")],
    cells: |object, now| vec![name_of(object), json!(endpoints(object)), age(object, now)],
};

pub(crate) static ENDPOINT_SLICES: Columns = Columns {
    columns: &[name(), narrow("AddressType"), narrow("Ports"), narrow("Endpoints"), narrow("Age")],
    cells: |slice, now| {
        let ports = list(slice, "/ports").iter().map(|port| match number(port, "/port") {
            Some(number) => number.to_string(),
            None => "*".to_owned(),
        });
        let addresses = list(slice, "/endpoints").iter().flat_map(|endpoint| texts(endpoint, "/addresses"));
        vec![
            name_of(slice),
            json!(text(slice, "/addressType")),
            json!(some_of(ports.collect(), "<unset>")),
            json!(some_of(addresses.map(str::to_owned).collect(), "<unset>")),
            age(slice, now),
        ]
    },
};

pub(crate) static SERVICES: Columns = Columns {
    columns: &[
        name(),
        narrow("Type"),
        narrow("Cluster-IP"),
        narrow("External-IP"),
        narrow("Port(s)"),
        narrow("Age"),
        wide("Selector"),
    ],
    cells: |service, now| {
        let addresses = texts(service, "/spec/clusterIPs");
        let cluster_ip = addresses.first().copied().unwrap_or_else(|| text(service, "/spec/clusterIP"));
        vec![
            name_of(service),
            json!(text(service, "/spec/type")),
            json!(or_none(cluster_ip)),
            json!(external_ip(service)),
            json!(or_none(&service_ports(service))),
            age(service, now),
            json!(or_none(&labels(service, "/spec/selector"))),
        ]
    },
};

pub(crate) static NODES: Columns = Columns {
    columns: &[
        name(),
        narrow("Status"),
        narrow("Roles"),
        narrow("Age"),
        narrow("Version"),
        wide("Internal-IP"),
        wide("External-IP"),
        wide("OS-Image"),
        wide("Kernel-Version"),
        wide("Container-Runtime"),
    ],
    cells: |node, now| {
        let info = |field: &str| match text(node, &format!("/status/nodeInfo/{field}")) {
            "" => json!("<unknown>"),
            value => json!(value),
        };
        let address = |kind: &str| {
            let found = list(node, "/status/addresses").iter().find(|address| text(address, "/type") == kind);
            json!(or_none(found.map(|address| text(address, "/address")).unwrap_or_default()))
        };
        vec![
            name_of(node),
            json!(node_status(node)),
            json!(or_none(&node_roles(node))),
            age(node, now),
            json!(text(node, "/status/nodeInfo/kubeletVersion")),
            address("InternalIP"),
            address("ExternalIP"),
            info("osImage"),
            info("kernelVersion"),
            info("containerRuntimeVersion"),
        ]
    },
};

pub(crate) static REPLICA_SETS: Columns = Columns {
    columns: &[
        name(),
        count("Desired"),
        count("Current"),
        count("Ready"),
        narrow("Age"),
        wide("Containers"),
        wide("Images"),
        wide("Selector"),
    ],
    cells: |object, now| {
        let number = |path: &str| json!(number(object, path).unwrap_or_default());
        let (containers, images) = containers(object);
        vec![
            name_of(object),
            number("/spec/replicas"),
            number("/status/replicas"),
            number("/status/readyReplicas"),
            age(object, now),
            json!(containers),
            json!(images),
            json!(or_none(&selector(object))),
        ]
    },
};

pub(crate) static DAEMON_SETS: Columns = Columns {
    columns: &[
        name(),
        count("Desired"),
        count("Current"),
        count("Ready"),
        count("Up-to-date"),
        count("Available"),
        narrow("Node Selector"),
        narrow("Age"),
        wide("Containers"),
        wide("Images"),
        wide("Selector"),
    ],
    cells: |object, now| {
        let number = |field: &str| json!(number(object, &format!("/status/{field}")).unwrap_or_default());
        let (containers, images) = containers(object);
        vec![
            name_of(object),
            number("desiredNumberScheduled"),
            number("currentNumberScheduled"),
            number("numberReady"),
            number("updatedNumberScheduled"),
            number("numberAvailable"),
            json!(or_none(&labels(object, "/spec/template/spec/nodeSelector"))),
            age(object, now),
            json!(containers),
            json!(images),
            json!(or_none(&selector(object))),
        ]
    },
};

pub(crate) static CONTROLLER_REVISIONS: Columns = Columns {
    columns: &[name(), narrow("Controller"), count("Revision"), narrow("Age")],
    cells: |object, now| {
        let owners = list(object, "/metadata/ownerReferences");
        let owner = owners.iter().find(|owner| owner["controller"] == true).map(|owner| {
            let group = text(owner, "/apiVersion").split_once('/').map_or("", |(group, _)| group);
            let kind = text(owner, "/kind").to_lowercase();
            let kind = if group.is_empty() { kind } else { format!("{kind}.{group}") };
            format!("{kind}/{}", text(owner, "/name"))
        });
        let revision = number(object, "/revision").unwrap_or_default();
        let owner = owner.unwrap_or_default();
        vec![name_of(object), json!(or_none(&owner)), json!(revision), age(object, now)]
    },
};

pub(crate) static INGRESSES: Columns = Columns {
    columns: &[name(), narrow("Class"), narrow("Hosts"), narrow("Address"), narrow("Ports"), narrow("Age")],
    cells: |ingress, now| {
        let hosts = texts_of(list(ingress, "/spec/rules"), "/host");
        let hosts = some_of(hosts.into_iter().map(str::to_owned).collect(), "*");
        let tls = !list(ingress, "/spec/tls").is_empty();
        vec![
            name_of(ingress),
            json!(or_none(text(ingress, "/spec/ingressClassName"))),
            json!(hosts),
            json!(balancer_addresses(ingress)),
            json!(if tls { "80, 443" } else { "80" }),
            age(ingress, now),
        ]
    },
};

pub(crate) static INGRESS_CLASSES: Columns = Columns {
    columns: &[name(), narrow("Controller"), narrow("Parameters"), narrow("Age")],
    cells: |class, now| {
        let (kind, group) = (text(class, "/spec/parameters/kind"), text(class, "/spec/parameters/apiGroup"));
        let parameters = match (kind, group) {
            ("", _) => "<none>".to_owned(),
            (kind, "") => format!("{kind}/{}", text(class, "/spec/parameters/name")),
            (kind, group) => format!("{kind}.{group}/{}", text(class, "/spec/parameters/name")),
        };
        vec![name_of(class), json!(text(class, "/spec/controller")), json!(parameters), age(class, now)]
    },
};

pub(crate) static SERVICE_CIDRS: Columns = Columns {
    columns: &[name(), narrow("CIDRs"), narrow("Age")],
    cells: |object, now| {
        vec![name_of(object), json!(texts(object, "/spec/cidrs").join(",")), age(object, now)]
    },
};

pub(crate) static DEPLOYMENTS: Columns = Columns {
    columns: &[
        name(),
        narrow("Ready"),
        count("Up-to-date"),
        count("Available"),
        narrow("Age"),
        wide("Containers"),
        wide("Images"),
        wide("Selector"),
    ],
    cells: |object, now| {
        let of = |path: &str| number(object, path).unwrap_or_default();
        let (containers, images) = containers(object);
        vec![
            name_of(object),
            json!(format!("{}/{}", of("/status/readyReplicas"), of("/spec/replicas"))),
            json!(of("/status/updatedReplicas")),
            json!(of("/status/availableReplicas")),
            age(object, now),
            json!(containers),
            json!(images),
            json!(or_none(&selector(object))),
        ]
    },
};

pub(crate) static PODS: Columns = Columns {
    columns: &[
        name(),
        narrow("Ready"),
        narrow("Status"),
        narrow("Restarts"),
        narrow("Age"),
        wide("IP"),
        wide("Node"),
        wide("Nominated Node"),
        wide("Readiness Gates"),
    ],
    cells: |pod, now| {
        let summary = Summary::of(pod, now);
        let ip = texts_of(list(pod, "/status/podIPs"), "/ip");
        let ip = ip.first().copied().unwrap_or_else(|| text(pod, "/status/podIP"));
        vec![
            name_of(pod),
            json!(format!("{}/{}", summary.ready, summary.total)),
            json!(summary.status),
            json!(summary.restarts),
            age(pod, now),
            json!(or_none(ip)),
            json!(or_none(text(pod, "/spec/nodeName"))),
            json!(or_none(text(pod, "/status/nominatedNodeName"))),
            json!(readiness_gates(pod)),
        ]
    },
};

/// What one line says about a pod.
struct Summary {
    ready: usize,
    total: usize,
    status: String,
    restarts: String,
}

impl Summary {
    fn of(pod: &Value, now: Timestamp) -> Self {
        let reason = text(pod, "/status/reason");
        let phase = text(pod, "/status/phase");
        let mut status = if reason.is_empty() { phase } else { reason }.to_owned();
        if list(pod, "/status/conditions").iter().any(|condition| {
            text(condition, "/type") == "PodScheduled" && text(condition, "/reason") == "SchedulingGated"
        }) {
            "SchedulingGated".clone_into(&mut status);
        }
        let (mut restarts, mut last_restart) = (0, "");
        let mut initializing = false;
        let total_init = list(pod, "/spec/initContainers").len();
        for (index, container) in list(pod, "/status/initContainerStatuses").iter().enumerate() {
            restarts += container_restarts(container);
            let terminated = container.pointer("/state/terminated");
            let exit_code = number(container, "/state/terminated/exitCode");
            if exit_code == Some(0) {
                continue;
            }
            status = if terminated.is_some() {
                match text(container, "/state/terminated/reason") {
                    "" => format!("Init:{}", ended(container)),
                    reason => format!("Init:{reason}"),
                }
            } else {
                match text(container, "/state/waiting/reason") {
                    "" | "PodInitializing" => format!("Init:{index}/{total_init}"),
                    reason => format!("Init:{reason}"),
                }
            };
            initializing = true;
            break;
        }
        let mut ready = 0;
        if !initializing {
            restarts = 0;
            let mut running = false;
            for container in list(pod, "/status/containerStatuses").iter().rev() {
                restarts += container_restarts(container);
                last_restart = last_restart.max(text(container, "/lastState/terminated/finishedAt"));
                let waiting = text(container, "/state/waiting/reason");
                if !waiting.is_empty() {
                    waiting.clone_into(&mut status);
                } else if container.pointer("/state/terminated").is_some() {
                    status = match text(container, "/state/terminated/reason") {
                        "" => ended(container),
                        reason => reason.to_owned(),
                    };
                } else if container["ready"] == true && container.pointer("/state/running").is_some() {
                    running = true;
                    ready += 1;
                }
            }
            // Some ended well and the rest goes on: the pod as a whole runs.
            if status == "Completed" && running {
                let is_ready = list(pod, "/status/conditions").iter().any(|condition| {
                    text(condition, "/type") == "Ready" && text(condition, "/status") == "True"
                });
                if is_ready { "Running" } else { "NotReady" }.clone_into(&mut status);
            }
        }
        if pod.pointer("/metadata/deletionTimestamp").is_some() {
            if reason == "NodeLost" {
                "Unknown".clone_into(&mut status);
            } else if !["Succeeded", "Failed"].contains(&phase) {
                "Terminating".clone_into(&mut status);
            }
        }
        let mut shown = restarts.to_string();
        if restarts != 0 && !last_restart.is_empty() {
            shown = format!("{restarts} ({} ago)", since(last_restart, now));
        }
        Self { ready, total: list(pod, "/spec/containers").len(), status, restarts: shown }
    }
}

fn container_restarts(container: &Value) -> i64 {
    number(container, "/restartCount").unwrap_or_default()
}

fn ended(container: &Value) -> String {
    match number(container, "/state/terminated/signal") {
        Some(signal) if signal != 0 => format!("Signal:{signal}"),
        _ => format!("ExitCode:{}", number(container, "/state/terminated/exitCode").unwrap_or_default()),
    }
}

fn readiness_gates(pod: &Value) -> String {
    let gates = list(pod, "/spec/readinessGates");
    if gates.is_empty() {
        return "<none>".to_owned();
    }
    let held = gates.iter().filter(|gate| {
        list(pod, "/status/conditions").iter().any(|condition| {
            text(condition, "/type") == text(gate, "/conditionType") && text(condition, "/status") == "True"
        })
    });
    format!("{}/{}", held.count(), gates.len())
}

fn external_ip(service: &Value) -> String {
    let external = texts(service, "/spec/externalIPs").join(",");
    match text(service, "/spec/type") {
        "ExternalName" => or_none(text(service, "/spec/externalName")).to_owned(),
        "LoadBalancer" => {
            let ingress = balancer_addresses(service);
            match (ingress.is_empty(), external.is_empty()) {
                (false, false) => format!("{ingress},{external}"),
                (false, true) => ingress,
                (true, false) => external,
                (true, true) => "<pending>".to_owned(),
            }
        }
        _ => or_none(&external).to_owned(),
    }
}

/// Where a load balancer or an ingress controller can be reached.
fn balancer_addresses(object: &Value) -> String {
    let addresses: BTreeSet<&str> = list(object, "/status/loadBalancer/ingress")
        .iter()
        .map(|ingress| match text(ingress, "/ip") {
            "" => text(ingress, "/hostname"),
            ip => ip,
        })
        .filter(|address| !address.is_empty())
        .collect();
    addresses.into_iter().collect::<Vec<_>>().join(",")
}

fn service_ports(service: &Value) -> String {
    let ports: Vec<_> = list(service, "/spec/ports")
        .iter()
        .map(|port| {
            let (protocol, target) = (text(port, "/protocol"), number(port, "/port").unwrap_or_default());
            match number(port, "/nodePort").filter(|port| *port != 0) {
                Some(node_port) => format!("{target}:{node_port}/{protocol}"),
                None => format!("{target}/{protocol}"),
            }
        })
        .collect();
    ports.join(",")
}

/// At most three, as `kubectl get endpoints` has always shown them.
fn endpoints(object: &Value) -> String {
    let mut shown = Vec::new();
    let mut total = 0;
    for subset in list(object, "/subsets") {
        let addresses = texts_of(list(subset, "/addresses"), "/ip");
        let ports = list(subset, "/ports");
        let mut add = |entry: String| {
            total += 1;
            if shown.len() < 3 {
                shown.push(entry);
            }
        };
        if ports.is_empty() {
            for address in addresses {
                add(address.to_owned());
            }
        } else {
            for port in ports {
                let port = number(port, "/port").unwrap_or_default();
                for address in &addresses {
                    add(if address.contains(':') {
                        format!("[{address}]:{port}")
                    } else {
                        format!("{address}:{port}")
                    });
                }
            }
        }
    }
    more(&shown, total, "<none>")
}

fn some_of(mut all: Vec<String>, none: &str) -> String {
    let total = all.len();
    all.truncate(3);
    more(&all, total, none)
}

fn more(shown: &[String], total: usize, none: &str) -> String {
    match (shown, total - shown.len()) {
        ([], _) => none.to_owned(),
        (shown, 0) => shown.join(","),
        (shown, hidden) => format!("{} + {hidden} more...", shown.join(",")),
    }
}

fn node_status(node: &Value) -> String {
    let ready = list(node, "/status/conditions").iter().find(|condition| text(condition, "/type") == "Ready");
    let mut status = match ready.map(|condition| text(condition, "/status")) {
        Some("True") => "Ready".to_owned(),
        Some(_) => "NotReady".to_owned(),
        None => "Unknown".to_owned(),
    };
    if node.pointer("/spec/unschedulable") == Some(&Value::Bool(true)) {
        status.push_str(",SchedulingDisabled");
    }
    status
}

fn node_roles(node: &Value) -> String {
    let mut roles = BTreeSet::new();
    for (key, value) in members(node, "/metadata/labels") {
        if let Some(role) = key.strip_prefix("node-role.kubernetes.io/").filter(|role| !role.is_empty()) {
            roles.insert(role);
        } else if key == "kubernetes.io/role" {
            roles.extend(value.as_str().filter(|role| !role.is_empty()));
        }
    }
    roles.into_iter().collect::<Vec<_>>().join(",")
}

fn containers(workload: &Value) -> (String, String) {
    let containers = list(workload, "/spec/template/spec/containers");
    (texts_of(containers, "/name").join(","), texts_of(containers, "/image").join(","))
}

/// A workload's selector in one line; that of a replication controller is nothing but labels.
pub(crate) fn selector(workload: &Value) -> String {
    if text(workload, "/kind") == "ReplicationController" {
        return labels(workload, "/spec/selector");
    }
    let mut parts = vec![labels(workload, "/spec/selector/matchLabels")];
    for expression in list(workload, "/spec/selector/matchExpressions") {
        let (key, values) = (text(expression, "/key"), texts(expression, "/values").join(","));
        parts.push(match text(expression, "/operator") {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "Exists" => key.to_owned(),
            _ => format!("!{key}"),
        });
    }
    parts.retain(|part| !part.is_empty());
    parts.join(",")
}

fn labels(object: &Value, pointer: &str) -> String {
    let labels = members(object, pointer)
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect::<BTreeSet<_>>();
    labels.into_iter().collect::<Vec<_>>().join(",")
}

fn texts_of<'a>(items: &'a [Value], pointer: &str) -> Vec<&'a str> {
    items.iter().map(|item| text(item, pointer)).filter(|text| !text.is_empty()).collect()
}

fn or_none(text: &str) -> &str {
    if text.is_empty() { "<none>" } else { text }
}

fn name_of(object: &Value) -> Value {
    json!(text(object, "/metadata/name"))
}

fn data(object: &Value) -> Value {
    json!(members(object, "/data").count() + members(object, "/binaryData").count())
}

fn age(object: &Value, now: Timestamp) -> Value {
    json!(since(text(object, "/metadata/creationTimestamp"), now))
}

fn since(time: &str, now: Timestamp) -> String {
    match time.parse::<Timestamp>() {
        Ok(time) => human_duration(now.as_second() - time.as_second()),
        Err(_) => "<unknown>".to_owned(),
    }
}

/// Seconds in the two units a person cares about, as kubectl writes ages.
fn human_duration(seconds: i64) -> String {
    let two = |large: i64, large_unit: &str, small: i64, small_unit: &str| match small {
        0 => format!("{large}{large_unit}"),
        _ => format!("{large}{large_unit}{small}{small_unit}"),
    };
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    let days = hours / 24;
    match seconds {
        ..-1 => "<invalid>".to_owned(),
        -1..0 => "0s".to_owned(),
        0..120 => format!("{seconds}s"),
        _ if minutes < 10 => two(minutes, "m", seconds % 60, "s"),
        _ if minutes < 180 => format!("{minutes}m"),
        _ if hours < 8 => two(hours, "h", minutes % 60, "m"),
        _ if hours < 48 => format!("{hours}h"),
        _ if hours < 24 * 8 => two(days, "d", hours % 24, "h"),
        _ if days < 365 * 2 => format!("{days}d"),
        _ if days < 365 * 8 => two(days / 365, "y", days % 365, "d"),
        _ => format!("{}y", days / 365),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        "2026-01-01T01:00:00Z".parse().unwrap()
    }

    #[test]
    fn ages_read_as_kubectl_prints_them() {
        for (seconds, expected) in [
            (-5, "<invalid>"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (125, "2m5s"),
            (600, "10m"),
            (3 * 3600, "3h"),
            (3 * 3600 + 60, "3h1m"),
            (8 * 3600 + 60, "8h"),
            (47 * 3600, "47h"),
            (49 * 3600, "2d1h"),
            (9 * 86400, "9d"),
            (800 * 86400, "2y70d"),
            (9 * 365 * 86400, "9y"),
        ] {
            assert_eq!(human_duration(seconds), expected, "{seconds}");
        }
    }

    #[test]
    fn the_state_of_a_pod_is_one_word() {
        let status = |status: Value| json!({"spec": {"containers": [{"name": "a"}]}, "status": status});
        let waiting = |reason: &str| json!({"phase": "Pending", "containerStatuses": [{"state": {"waiting": {"reason": reason}}}]});
        let mut terminating = status(json!({"phase": "Running"}));
        terminating["metadata"] = json!({"deletionTimestamp": "2026-01-01T00:00:00Z"});
        let initializing = json!({
            "spec": {"initContainers": [{}, {}], "containers": [{}]},
            "status": {"phase": "Pending", "initContainerStatuses": [
                {"state": {"terminated": {"exitCode": 0}}}, {"state": {"running": {}}}]},
        });
        let ended = |code: i64, reason: &str| {
            json!({"phase": "Running", "containerStatuses": [
                {"restartCount": 3, "state": {"terminated": {"exitCode": code, "reason": reason}}}]})
        };
        for (pod, expected) in [
            (status(json!({"phase": "Pending"})), "Pending"),
            (status(waiting("ContainerCreating")), "ContainerCreating"),
            (status(waiting("CrashLoopBackOff")), "CrashLoopBackOff"),
            (status(waiting("ErrImagePull")), "ErrImagePull"),
            (status(ended(0, "Completed")), "Completed"),
            (status(ended(2, "")), "ExitCode:2"),
            (initializing, "Init:1/2"),
            (terminating, "Terminating"),
        ] {
            assert_eq!(Summary::of(&pod, now()).status, expected);
        }
    }

    #[test]
    fn restarts_tell_when_the_last_one_was() {
        let pod = json!({"spec": {"containers": [{}]}, "status": {"phase": "Running", "containerStatuses": [{
            "ready": true, "restartCount": 2, "state": {"running": {}},
            "lastState": {"terminated": {"finishedAt": "2026-01-01T00:58:30Z"}}}]}});
        let cells = (PODS.cells)(&pod, now());
        assert_eq!(cells[1..4], [json!("1/1"), json!("Running"), json!("2 (90s ago)")]);
    }

    #[test]
    fn services_and_endpoints_read_as_kubectl_prints_them() {
        let service = json!({"metadata": {"name": "a", "creationTimestamp": "2026-01-01T00:59:00Z"}, "spec": {
            "type": "NodePort", "clusterIP": "10.96.1.1", "clusterIPs": ["10.96.1.1"], "selector": {"b": "2", "a": "1"},
            "ports": [{"port": 80, "nodePort": 31234, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}]}});
        let expected = ["a", "NodePort", "10.96.1.1", "<none>", "80:31234/TCP,53/UDP", "60s", "a=1,b=2"];
        assert_eq!((SERVICES.cells)(&service, now()), expected);
        let addresses: Vec<_> = (1..=5).map(|last| json!({"ip": format!("10.0.0.{last}")})).collect();
        let object = json!({"subsets": [{"addresses": addresses, "ports": [{"port": 80}]}]});
        assert_eq!(endpoints(&object), "10.0.0.1:80,10.0.0.2:80,10.0.0.3:80 + 2 more...");
        assert_eq!(endpoints(&json!({})), "<none>");
        let pending = json!({"spec": {"type": "LoadBalancer"}});
        assert_eq!(external_ip(&pending), "<pending>");
    }
}
