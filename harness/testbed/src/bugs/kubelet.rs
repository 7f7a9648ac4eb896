//! Bugs of the kubelet.

use super::{Bug, BugCard};

pub(super) const CARDS: &[BugCard] = &[
    BugCard {
        bug: Bug::LivenessNeverRestarts,
        id: "liveness-never-restarts",
        component: "kubelet",
        title: "a container that fails its liveness probe is never restarted",
        seen_in: "https://github.com/kubernetes/kubernetes/issues/106682",
        caught_by: &["liveness/restarts"],
    },
    BugCard {
        bug: Bug::ServiceLinksMissing,
        id: "service-links-missing",
        component: "kubelet",
        title: "a container starts without the variables of the services that were there before it",
        seen_in: "https://github.com/kubernetes/kubernetes/issues/127463",
        caught_by: &["env/service-host-and-port"],
    },
    BugCard {
        bug: Bug::ClusterSearchMissing,
        id: "cluster-search-missing",
        component: "kubelet",
        title: "the search path of pods lacks the domains of the cluster",
        seen_in: "https://github.com/siderolabs/talos/issues/6825",
        caught_by: &["dns/resolv-conf", "dns/short-names", "dns/host-network"],
    },
    BugCard {
        bug: Bug::UnreadyIsKilled,
        id: "unready-is-killed",
        component: "kubelet",
        title: "a container that fails its readiness probe is killed and started anew",
        seen_in: "https://github.com/kubernetes/kubernetes/issues/9649",
        caught_by: &["readiness/never-restarts", "readiness/touch-makes-ready"],
    },
    BugCard {
        bug: Bug::ExecLosesExitCode,
        id: "exec-loses-exit-code",
        component: "kubelet",
        title: "exec ends with success whatever the command's exit code was",
        seen_in: "https://github.com/kubernetes/kubernetes/issues/73056",
        // Whether a file of the container before is still there is asked with `ls`.
        caught_by: &["exec/runs-a-command", "liveness/restarts"],
    },
    BugCard {
        bug: Bug::HostPortEverywhere,
        id: "host-port-everywhere",
        component: "kubelet",
        title: "a host port is taken at every address of the node, whatever its hostIP says",
        seen_in: "https://github.com/kubernetes/kubernetes/issues/73702",
        caught_by: &["host-port/leads-to-its-pod"],
    },
    BugCard {
        bug: Bug::DnsConfigIgnored,
        id: "dns-config-ignored",
        component: "kubelet",
        title: "a pod's dnsConfig is stored and not heeded",
        seen_in: "https://github.com/rancher/k3k/issues/341",
        caught_by: &["dns/policy-none"],
    },
];
