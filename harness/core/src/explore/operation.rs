//! Operations: what an exploration does to a cluster, each shown as the command or manifest a person
//! would apply.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::form::{
    self, CONTAINER_PORT, Distribution, Form, Policy, Ports, Ranges, Reach, Selection, ServiceLabel,
    SliceName, more_port, selector,
};

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
    CreateService(Form),
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
    /// Another set of pods, by the selector, or none.
    SetTarget {
        service: ServiceName,
        of: Selection,
    },
    /// Another type.
    SetReach {
        service: ServiceName,
        reach: Reach,
    },
    /// Other ports, and another number for the first of them.
    SetPort {
        service: ServiceName,
        port: u16,
        #[serde(default)]
        ports: Ports,
    },
    /// `externalTrafficPolicy`.
    SetExternal {
        service: ServiceName,
        policy: Policy,
    },
    /// `internalTrafficPolicy`.
    SetInternal {
        service: ServiceName,
        policy: Policy,
    },
    /// `externalIPs`: the addresses of the first so many nodes.
    SetIps {
        service: ServiceName,
        ips: u8,
    },
    /// `loadBalancerSourceRanges`.
    SetRanges {
        service: ServiceName,
        ranges: Option<Ranges>,
    },
    /// `trafficDistribution`.
    SetDistribution {
        service: ServiceName,
        distribution: Option<Distribution>,
    },
    /// The labels that say that the cluster's own proxy is to leave the service alone.
    SetLabel {
        service: ServiceName,
        label: Option<ServiceLabel>,
    },
    /// Endpoints for a service without selector: the first pods of a workload.
    MakeEndpoints {
        service: ServiceName,
        of: WorkloadName,
        pods: u8,
        ports: Ports,
    },
    RemoveEndpoints {
        service: ServiceName,
    },
    /// A slice for a service without selector, likewise.
    MakeSlice {
        service: ServiceName,
        slice: SliceName,
        of: WorkloadName,
        pods: u8,
        ports: Ports,
        ready: bool,
    },
    RemoveSlice {
        service: ServiceName,
        slice: SliceName,
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

impl Operation {
    /// What kind it is of, for counting.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::CreateService(form) => match form.reach {
                Reach::ClusterIp => "create ClusterIP service",
                Reach::NodePort => "create NodePort service",
                Reach::LoadBalancer => "create LoadBalancer service",
                Reach::Headless => "create headless service",
                Reach::ExternalName => "create ExternalName service",
            },
            Self::DeleteService { .. } => "delete service",
            Self::SetSticky { .. } => "switch session affinity",
            Self::SetPublish { .. } => "switch publishNotReadyAddresses",
            Self::SetTarget { .. } => "change selector",
            Self::SetReach { .. } => "change type",
            Self::SetPort { .. } => "change ports",
            Self::SetExternal { .. } => "switch external traffic policy",
            Self::SetInternal { .. } => "switch internal traffic policy",
            Self::SetIps { .. } => "change external IPs",
            Self::SetRanges { .. } => "change source ranges",
            Self::SetDistribution { .. } => "change traffic distribution",
            Self::SetLabel { .. } => "change proxy label",
            Self::MakeEndpoints { .. } => "make Endpoints by hand",
            Self::RemoveEndpoints { .. } => "remove Endpoints made by hand",
            Self::MakeSlice { .. } => "make EndpointSlice by hand",
            Self::RemoveSlice { .. } => "remove EndpointSlice made by hand",
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

/// The service as an edit leaves it; nothing, if the operation is no edit of a service.
pub(crate) fn edited(form: Form, operation: &Operation) -> Option<Form> {
    Some(match operation {
        Operation::SetSticky { sticky, .. } => Form { sticky: *sticky, ..form },
        Operation::SetPublish { publish, .. } => Form { publish: *publish, ..form },
        Operation::SetTarget { of, .. } => Form { of: *of, ..form },
        Operation::SetReach { reach, .. } => Form { reach: *reach, ..form }.settled(),
        Operation::SetPort { port, ports, .. } => Form { port: *port, ports: *ports, ..form },
        Operation::SetExternal { policy, .. } => Form { external: *policy, ..form },
        Operation::SetInternal { policy, .. } => Form { internal: *policy, ..form },
        Operation::SetIps { ips, .. } => Form { ips: *ips, ..form }.settled(),
        Operation::SetRanges { ranges, .. } => Form { ranges: *ranges, ..form },
        Operation::SetDistribution { distribution, .. } => Form { distribution: *distribution, ..form },
        Operation::SetLabel { label, .. } => Form { label: *label, ..form },
        _ => return None,
    })
}

/// The manifest of a workload. Its pods are ready unless the file that makes them unready is there;
/// gated ones need a condition besides. They run the agent, so that calls can start from them. What
/// they call `more` is another port in each workload, and nobody listens on the other one's.
pub(crate) fn workload(name: WorkloadName, maker: Maker, gated: bool, replicas: u8) -> Value {
    let kind = match maker {
        Maker::ReplicaSet => "ReplicaSet",
        Maker::Deployment => "Deployment",
    };
    let more = more_port(name);
    let mut pod = json!({
        "terminationGracePeriodSeconds": 1,
        "containers": [{
            "name": "web",
            "image": "stickler",
            "command": [
                "agent", "serve", "--goweb", format!("{CONTAINER_PORT},{more}"), "--udp", CONTAINER_PORT.to_string(),
            ],
            "ports": [
                { "name": "http", "containerPort": CONTAINER_PORT },
                { "name": "more", "containerPort": more },
                { "name": "udp", "containerPort": CONTAINER_PORT, "protocol": "UDP" },
            ],
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
        Operation::SetTarget { service, of } => {
            // One with fewer labels has to take the others away.
            let mut selector = of.selector();
            if *of == Selection::Both {
                selector["app"] = Value::Null;
            }
            (*service, json!({ "spec": { "selector": selector } }))
        }
        Operation::SetReach { service, reach } => (*service, json!({ "spec": form::reach(*reach) })),
        Operation::SetPort { service, port, ports } => {
            (*service, json!({ "spec": { "ports": ports.of_service(*port) } }))
        }
        Operation::SetExternal { service, policy } => {
            (*service, json!({ "spec": { "externalTrafficPolicy": policy } }))
        }
        Operation::SetInternal { service, policy } => {
            (*service, json!({ "spec": { "internalTrafficPolicy": policy } }))
        }
        Operation::SetIps { service, ips } => {
            (*service, json!({ "spec": { "externalIPs": form::external_ips(*ips) } }))
        }
        Operation::SetRanges { service, ranges } => {
            (*service, json!({ "spec": { "loadBalancerSourceRanges": form::ranges(*ranges) } }))
        }
        Operation::SetDistribution { service, distribution } => {
            (*service, json!({ "spec": { "trafficDistribution": distribution } }))
        }
        Operation::SetLabel { service, label } => {
            (*service, json!({ "metadata": { "labels": form::labels(*label) } }))
        }
        _ => return None,
    })
}

/// What an operation makes by hand: a manifest for `kubectl apply`.
pub(crate) fn made_by_hand(operation: &Operation) -> Option<Value> {
    Some(match operation {
        Operation::MakeEndpoints { service, of, pods, ports } => {
            form::endpoints(*service, *of, *pods, *ports)
        }
        Operation::MakeSlice { service, slice, of, pods, ports, ready } => {
            form::slice(*service, *slice, *of, *pods, *ports, *ready)
        }
        _ => return None,
    })
}

/// The shell function the commands name pods by.
const POD_FUNCTION: &str = "pod() { kubectl get pods -l app=$1 --sort-by=.metadata.creationTimestamp \
                            -o name | sed -n \"$2p\"; }  # pod WORKLOAD NUMBER\n";

/// The one for their addresses.
const ADDRESS_FUNCTION: &str = "address() { kubectl get \"$(pod $1 $2)\" -o jsonpath='{.status.podIP}'; }  \
                                # address WORKLOAD NUMBER\n";

/// And the one for those of nodes.
const NODE_FUNCTION: &str = "node() { kubectl get nodes --sort-by=.metadata.name \
                             -o jsonpath='{range .items[*]}{.status.addresses[?(@.type==\"InternalIP\")].address}\
                             {\"\\n\"}{end}' | sed -n \"$1p\"; }  # node NUMBER\n";

/// The shell functions that these commands use.
pub(crate) fn functions(commands: &str) -> String {
    let (address, node) = (commands.contains("$(address "), commands.contains("$(node "));
    format!(
        "{POD_FUNCTION}{}{}",
        if address { ADDRESS_FUNCTION } else { "" },
        if node { NODE_FUNCTION } else { "" }
    )
}

/// A command that creates what a manifest describes.
pub(crate) fn create(manifest: &Value) -> String {
    with_manifest("create", manifest)
}

/// One that creates it or puts it in the place of what there is.
pub(crate) fn apply(manifest: &Value) -> String {
    with_manifest("apply", manifest)
}

fn with_manifest(verb: &str, manifest: &Value) -> String {
    let yaml = serde_saphyr::to_string(manifest).unwrap_or_else(|_| manifest.to_string());
    // Between quotes, a shell fills nothing in.
    let end = if yaml.contains("$(") { "END" } else { "'END'" };
    format!("kubectl {verb} -f - <<{end}\n{}\nEND", yaml.trim_end())
}

fn patch(service: ServiceName, patch: &Value) -> String {
    let patch = patch.to_string();
    let quoted = if patch.contains("$(") {
        format!("\"{}\"", patch.replace('"', "\\\""))
    } else {
        format!("'{patch}'")
    };
    format!("kubectl patch service {service} --type merge -p {quoted}")
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((service, fields)) = service_patch(self) {
            return f.write_str(&patch(service, &fields));
        }
        if let Some(manifest) = made_by_hand(self) {
            return f.write_str(&apply(&manifest));
        }
        match self {
            Self::CreateService(form) => f.write_str(&create(&form.manifest())),
            Self::DeleteService { service } => write!(f, "kubectl delete service {service}"),
            Self::RemoveEndpoints { service } => write!(f, "kubectl delete endpoints {service}"),
            Self::RemoveSlice { service, slice } => {
                write!(f, "kubectl delete endpointslice {}", form::slice_name(*service, *slice))
            }
            Self::CreateWorkload { workload: name, maker, gated, replicas } => {
                f.write_str(&create(&workload(*name, *maker, *gated, *replicas)))
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
            | Self::SetPort { .. }
            | Self::SetExternal { .. }
            | Self::SetInternal { .. }
            | Self::SetIps { .. }
            | Self::SetRanges { .. }
            | Self::SetDistribution { .. }
            | Self::SetLabel { .. }
            | Self::MakeEndpoints { .. }
            | Self::MakeSlice { .. } => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_only_the_cluster_knows_a_shell_can_fill_in() {
        let service = ServiceName::One;
        let ips = Operation::SetIps { service, ips: 1 }.to_string();
        assert_eq!(
            ips,
            r#"kubectl patch service one --type merge -p "{\"spec\":{\"externalIPs\":[\"$(node 1)\"]}}""#
        );
        let made =
            Operation::MakeEndpoints { service, of: WorkloadName::Api, pods: 2, ports: Ports::Several };
        let made = made.to_string();
        for words in ["kubectl apply -f - <<END\n", "$(address api 1)", "$(address api 2)", "8011"] {
            assert!(made.contains(words), "`{words}` is missing in {made}");
        }
        let plain = Form::plain(service, Selection::Web, Reach::ClusterIp);
        assert!(create(&plain.manifest()).starts_with("kubectl create -f - <<'END'\n"));
        for (commands, count) in [("", 1), (ips.as_str(), 2), (made.as_str(), 2)] {
            assert_eq!(functions(commands).lines().count(), count, "{commands}");
        }
    }

    #[test]
    fn an_edit_says_what_the_manifest_would() {
        let plain = Form::plain(ServiceName::One, Selection::Web, Reach::LoadBalancer);
        let service = ServiceName::One;
        for edit in [
            Operation::SetSticky { service, sticky: true },
            Operation::SetPublish { service, publish: true },
            Operation::SetTarget { service, of: Selection::Both },
            Operation::SetTarget { service, of: Selection::Nobody },
            Operation::SetPort { service, port: 8085, ports: Ports::Both },
            Operation::SetExternal { service, policy: Policy::Local },
            Operation::SetInternal { service, policy: Policy::Local },
            Operation::SetRanges { service, ranges: Some(Ranges::Everybody) },
            Operation::SetDistribution { service, distribution: Some(Distribution::PreferClose) },
            Operation::SetLabel { service, label: Some(ServiceLabel::ProxyName) },
            Operation::SetReach { service, reach: Reach::NodePort },
            Operation::SetReach { service, reach: Reach::ExternalName },
        ] {
            let form = edited(plain, &edit).expect("it is an edit");
            assert_ne!(form, plain, "{edit}");
            let (of, patch) = service_patch(&edit).expect("it has a patch");
            assert_eq!(of, service);
            let mut object = plain.manifest();
            json_patch::merge(&mut object, &patch);
            assert_eq!(object, form.manifest(), "{edit}");
        }
    }
}
