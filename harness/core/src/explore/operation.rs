//! Operations: what an exploration does to a cluster, each shown as the command or manifest a person
//! would apply.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// A workload of an explored world; the name is its pods' label `app` too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WorkloadName {
    Web,
    Api,
}

impl WorkloadName {
    pub(crate) const ALL: [Self; 2] = [Self::Web, Self::Api];
}

impl fmt::Display for WorkloadName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Web => "web",
            Self::Api => "api",
        })
    }
}

/// A service of an explored world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ServiceName {
    One,
    Two,
    Three,
}

impl ServiceName {
    pub(crate) const ALL: [Self; 3] = [Self::One, Self::Two, Self::Three];
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::One => "one",
            Self::Two => "two",
            Self::Three => "three",
        })
    }
}

/// How a service is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reach {
    #[serde(rename = "ClusterIP")]
    ClusterIp,
    NodePort,
    Headless,
}

/// What makes the pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Maker {
    ReplicaSet,
    Deployment,
}

impl fmt::Display for Maker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ReplicaSet => "replicaset",
            Self::Deployment => "deployment",
        })
    }
}

/// One step of an exploration. Pods are counted from 1, the oldest first, those that are being
/// deleted left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Operation {
    CreateService {
        service: ServiceName,
        of: WorkloadName,
        reach: Reach,
        sticky: bool,
        publish: bool,
    },
    DeleteService {
        service: ServiceName,
    },
    /// Session affinity ClientIP, or none.
    SetSticky {
        service: ServiceName,
        sticky: bool,
    },
    /// `publishNotReadyAddresses`.
    SetPublish {
        service: ServiceName,
        publish: bool,
    },
    /// Another set of pods, by the selector.
    SetTarget {
        service: ServiceName,
        of: WorkloadName,
    },
    /// From ClusterIP to NodePort, or back.
    SetReach {
        service: ServiceName,
        reach: Reach,
    },
    SetPort {
        service: ServiceName,
        port: u16,
    },
    CreateWorkload {
        workload: WorkloadName,
        maker: Maker,
        gated: bool,
        replicas: u8,
    },
    Scale {
        workload: WorkloadName,
        maker: Maker,
        replicas: u8,
    },
    DeletePod {
        workload: WorkloadName,
        pod: u8,
    },
    /// The label that services select by, beside the workload's own: the pod leaves or joins them.
    Relabel {
        workload: WorkloadName,
        pod: u8,
        on: bool,
    },
    /// By the file its readiness probe looks for.
    Probe {
        workload: WorkloadName,
        pod: u8,
        ready: bool,
    },
    /// By the condition its readiness gate asks for.
    Gate {
        workload: WorkloadName,
        pod: u8,
        ready: bool,
    },
    /// End the container's main process; the kubelet is to start it again.
    Kill {
        workload: WorkloadName,
        pod: u8,
    },
    /// Nodes are counted from 1, by name.
    StopKubelet {
        node: u8,
    },
    StartKubelet {
        node: u8,
    },
}

/// The label services select by, beside `app`.
pub(crate) const TRAFFIC: &str = "traffic";

/// The file that makes a pod unready. One that made it ready would race with the first probe.
pub(crate) const UNREADY: &str = "/var/unready";

/// The port the pods' containers listen on.
pub(crate) const CONTAINER_PORT: u16 = 8000;

impl Operation {
    /// What kind it is of, for counting.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::CreateService { reach: Reach::ClusterIp, .. } => "create ClusterIP service",
            Self::CreateService { reach: Reach::NodePort, .. } => "create NodePort service",
            Self::CreateService { reach: Reach::Headless, .. } => "create headless service",
            Self::DeleteService { .. } => "delete service",
            Self::SetSticky { .. } => "switch session affinity",
            Self::SetPublish { .. } => "switch publishNotReadyAddresses",
            Self::SetTarget { .. } => "change selector",
            Self::SetReach { .. } => "change type",
            Self::SetPort { .. } => "change port",
            Self::CreateWorkload { .. } => "create workload",
            Self::Scale { .. } => "scale",
            Self::DeletePod { .. } => "delete pod",
            Self::Relabel { .. } => "relabel pod",
            Self::Probe { .. } => "flip readiness by probe",
            Self::Gate { .. } => "flip readiness by gate",
            Self::Kill { .. } => "kill container",
            Self::StopKubelet { .. } => "stop kubelet",
            Self::StartKubelet { .. } => "start kubelet",
        }
    }
}

/// The manifest of a service.
pub(crate) fn service(
    name: ServiceName,
    of: WorkloadName,
    reach: Reach,
    sticky: bool,
    publish: bool,
) -> Value {
    let mut spec = json!({
        "selector": selector(of),
        "ports": [{ "name": "http", "port": 80, "targetPort": CONTAINER_PORT }],
    });
    match reach {
        Reach::ClusterIp => {}
        Reach::NodePort => spec["type"] = json!("NodePort"),
        Reach::Headless => spec["clusterIP"] = json!("None"),
    }
    if sticky {
        spec["sessionAffinity"] = json!("ClientIP");
    }
    if publish {
        spec["publishNotReadyAddresses"] = json!(true);
    }
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": { "name": name.to_string() },
        "spec": spec,
    })
}

/// What a service selects by.
pub(crate) fn selector(of: WorkloadName) -> Value {
    json!({ "app": of.to_string(), TRAFFIC: "on" })
}

/// The manifest of a workload. Its pods are ready unless the file that makes them unready is there;
/// gated ones need a condition besides. They run the agent, so that calls can start from them.
pub(crate) fn workload(name: WorkloadName, maker: Maker, gated: bool, replicas: u8) -> Value {
    let kind = match maker {
        Maker::ReplicaSet => "ReplicaSet",
        Maker::Deployment => "Deployment",
    };
    let mut pod = json!({
        "terminationGracePeriodSeconds": 1,
        "containers": [{
            "name": "web",
            "image": "stickler",
            "command": ["agent", "serve", "--goweb", CONTAINER_PORT.to_string()],
            "ports": [{ "name": "http", "containerPort": CONTAINER_PORT }],
            "readinessProbe": {
                "exec": { "command": ["sh", "-c", format!(": < {UNREADY} && exit 1 || exit 0")] },
                "periodSeconds": 1,
                "failureThreshold": 1,
            },
        }],
    });
    if gated {
        pod["readinessGates"] = json!([{ "conditionType": "stickler.dev/ready" }]);
    }
    json!({
        "apiVersion": "apps/v1",
        "kind": kind,
        "metadata": { "name": name.to_string() },
        "spec": {
            "replicas": replicas,
            "selector": { "matchLabels": { "app": name.to_string() } },
            "template": {
                "metadata": { "labels": selector(name) },
                "spec": pod,
            },
        },
    })
}

/// The merge patch of an operation that edits a service.
pub(crate) fn service_patch(operation: &Operation) -> Option<(ServiceName, Value)> {
    Some(match operation {
        Operation::SetSticky { service, sticky } => {
            let affinity = if *sticky { "ClientIP" } else { "None" };
            (*service, json!({ "spec": { "sessionAffinity": affinity } }))
        }
        Operation::SetPublish { service, publish } => {
            (*service, json!({ "spec": { "publishNotReadyAddresses": publish } }))
        }
        Operation::SetTarget { service, of } => (*service, json!({ "spec": { "selector": selector(*of) } })),
        Operation::SetReach { service, reach } => {
            let kind = if *reach == Reach::NodePort { "NodePort" } else { "ClusterIP" };
            (*service, json!({ "spec": { "type": kind } }))
        }
        Operation::SetPort { service, port } => {
            let port = json!({ "name": "http", "port": port, "targetPort": CONTAINER_PORT });
            (*service, json!({ "spec": { "ports": [port] } }))
        }
        _ => return None,
    })
}

/// The shell function the commands name pods by.
pub(crate) const POD_FUNCTION: &str = "pod() { kubectl get pods -l app=$1 --sort-by=.metadata.creationTimestamp \
                                       -o name | sed -n \"$2p\"; }  # pod WORKLOAD NUMBER";

/// A command that applies a manifest.
pub(crate) fn apply(manifest: &Value) -> String {
    let yaml = serde_saphyr::to_string(manifest).unwrap_or_else(|_| manifest.to_string());
    format!("kubectl create -f - <<'END'\n{}\nEND", yaml.trim_end())
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((service, patch)) = service_patch(self) {
            return write!(f, "kubectl patch service {service} --type merge -p '{patch}'");
        }
        match self {
            Self::CreateService { service: name, of, reach, sticky, publish } => {
                f.write_str(&apply(&service(*name, *of, *reach, *sticky, *publish)))
            }
            Self::DeleteService { service } => write!(f, "kubectl delete service {service}"),
            Self::CreateWorkload { workload: name, maker, gated, replicas } => {
                f.write_str(&apply(&workload(*name, *maker, *gated, *replicas)))
            }
            Self::Scale { workload, maker, replicas } => {
                write!(f, "kubectl scale {maker} {workload} --replicas={replicas}")
            }
            Self::DeletePod { workload, pod } => {
                write!(f, "kubectl delete --wait=false \"$(pod {workload} {pod})\"")
            }
            Self::Relabel { workload, pod, on } => {
                let value = if *on { "on" } else { "off" };
                write!(f, "kubectl label --overwrite \"$(pod {workload} {pod})\" {TRAFFIC}={value}")
            }
            Self::Probe { workload, pod, ready } => {
                let command = if *ready { "rm -f" } else { "touch" };
                write!(f, "kubectl exec \"$(pod {workload} {pod})\" -- {command} {UNREADY}")
            }
            Self::Gate { workload, pod, ready } => {
                let status = if *ready { "True" } else { "False" };
                let condition = json!({ "type": "stickler.dev/ready", "status": status });
                let patch = json!({ "status": { "conditions": [condition] } });
                write!(f, "kubectl patch \"$(pod {workload} {pod})\" --subresource status -p '{patch}'")
            }
            Self::Kill { workload, pod } => {
                write!(f, "kubectl exec \"$(pod {workload} {pod})\" -- kill 1")
            }
            Self::StopKubelet { node } => write!(f, "systemctl stop kubelet  # on node {node}"),
            Self::StartKubelet { node } => write!(f, "systemctl start kubelet  # on node {node}"),
            // Told above.
            Self::SetSticky { .. }
            | Self::SetPublish { .. }
            | Self::SetTarget { .. }
            | Self::SetReach { .. }
            | Self::SetPort { .. } => Ok(()),
        }
    }
}
