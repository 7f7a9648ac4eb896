//! Bugs of cluster DNS.

use super::{Bug, BugCard};

pub(super) const CARDS: &[BugCard] = &[
    BugCard {
        bug: Bug::HeadlessIncludesUnready,
        id: "headless-includes-unready",
        component: "cluster DNS",
        title: "the name of a headless service leads to pods that are not ready as well",
        seen_in: "https://github.com/kubernetes/dns/issues/472",
        caught_by: &[
            "headless/none-ready",
            "headless/follows-readiness",
            "headless/publish-not-ready",
            "headless/pod-hostname",
            "headless/srv",
        ],
    },
    BugCard {
        bug: Bug::PointersMissing,
        id: "pointers-missing",
        component: "cluster DNS",
        title: "addresses of the cluster have no name: the question is somebody else's",
        seen_in: "https://github.com/coredns/coredns/issues/503",
        caught_by: &["dns/ptr", "headless/ptr"],
    },
    BugCard {
        bug: Bug::AliasNotFollowed,
        id: "alias-not-followed",
        component: "cluster DNS",
        title: "an alias of a service of the cluster is answered without the address it leads to",
        seen_in: "https://github.com/kubernetes/kubernetes/issues/67962",
        caught_by: &["external-name/followed"],
    },
    BugCard {
        bug: Bug::OneAddressPerHostname,
        id: "one-address-per-hostname",
        component: "cluster DNS",
        title: "of several pods with one host name and subdomain one has an address",
        seen_in: "https://github.com/kubernetes/dns/issues/116",
        caught_by: &["headless/pod-hostname"],
    },
    BugCard {
        bug: Bug::DnsMetricsPortMissing,
        id: "dns-metrics-port-missing",
        component: "cluster DNS",
        title: "the service kube-dns has no port for metrics",
        seen_in: "https://github.com/kubernetes/kubeadm/issues/1360",
        caught_by: &["dns/kube-dns-service"],
    },
];
