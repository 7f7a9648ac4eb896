//! Bugs of the Ingress controller.

use super::{Bug, BugCard};

pub(super) const CARDS: &[BugCard] = &[
    BugCard {
        bug: Bug::IngressStaleUpstreams,
        id: "ingress-stale-upstreams",
        component: "ingress controller",
        title: "a backend's endpoints are looked up once, so that replaced pods are still sent requests",
        seen_in: "https://github.com/nginx/nginx-gateway-fabric/issues/5550",
        caught_by: &[
            "ingress/follows-readiness",
            "ingress/pods-come-and-go",
            "ingress/nobody-without-endpoints",
        ],
    },
    BugCard {
        bug: Bug::IngressPrefixByString,
        id: "ingress-prefix-by-string",
        component: "ingress controller",
        title: "a path of type Prefix takes every path that begins with the same letters",
        seen_in: "https://github.com/traefik/traefik/issues/11200",
        caught_by: &["ingress/several-paths"],
    },
    BugCard {
        bug: Bug::IngressThroughService,
        id: "ingress-through-service",
        component: "ingress controller",
        title: "requests are forwarded to the service's cluster IP instead of its endpoints",
        seen_in: "https://github.com/kubernetes/ingress-nginx/issues/257",
        // A connection that is kept goes on to where the proxy led it first.
        caught_by: &["ingress/straight-to-pods", "ingress/follows-readiness"],
    },
    BugCard {
        bug: Bug::IngressStaleCertificate,
        id: "ingress-stale-certificate",
        component: "ingress controller",
        title: "the certificate of a Secret that was replaced is shown for ever",
        seen_in: "https://github.com/haproxytech/kubernetes-ingress/issues/68",
        caught_by: &["ingress/tls"],
    },
    BugCard {
        bug: Bug::IngressBuffers,
        id: "ingress-buffers",
        component: "ingress controller",
        title: "an answer is kept back until it has come as a whole",
        seen_in: "https://github.com/volcano-sh/kthena/issues/79",
        caught_by: &["ingress/streaming"],
    },
    BugCard {
        bug: Bug::IngressDropsUpgrade,
        id: "ingress-drops-upgrade",
        component: "ingress controller",
        title: "the wish for another protocol is not passed on",
        seen_in: "https://github.com/kubernetes/ingress-nginx/issues/3746",
        caught_by: &["ingress/websocket"],
    },
    BugCard {
        bug: Bug::IngressClosesConnections,
        id: "ingress-closes-connections",
        component: "ingress controller",
        title: "each request takes a connection of its own",
        seen_in: "https://github.com/jupyterhub/configurable-http-proxy/pull/492",
        caught_by: &["ingress/keep-alive"],
    },
    BugCard {
        bug: Bug::IngressReloads,
        id: "ingress-reloads",
        component: "ingress controller",
        title: "while the configuration changes, requests are refused",
        seen_in: "https://github.com/kubernetes/ingress-nginx/issues/4469",
        caught_by: &["ingress/changes-drop-nothing", "ingress/pods-come-and-go"],
    },
];
