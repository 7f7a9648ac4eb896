//! Bugs on purpose: the built-in components can be told to be wrong, each in the way a real
//! implementation once was, so that one can measure whether the checks notice.

use std::collections::BTreeSet;

/// One planted bug. The line where it lives asks [`Bugs::has`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Bug {
    /// No service implementation at all: API objects look right, nothing is programmed.
    NoProxy,
    /// The proxy keeps serving an endpoint that became unready or was removed.
    StaleEndpoint,
    /// The node port is open only on nodes that run a ready pod of the service.
    NodePortOnlyWherePodRuns,
    /// An endpoint whose pod was deleted stays until something else happens to the service's pods.
    DeletedEndpointStays,
    /// A container that fails its liveness probe runs on.
    LivenessNeverRestarts,
    /// The proxy does not know session affinity.
    AffinityIgnored,
    /// Cluster DNS answers for headless services with unready pods too.
    HeadlessIncludesUnready,
    /// UDP flows go on to where they went before, whatever became of the endpoint there.
    StaleUdpConntrack,
    /// An endpoint whose pod became unready stays ready until something else happens to the pods.
    UnreadyEndpointStays,
    /// The API server's own Endpoints keep an address nobody serves at any more.
    StaleApiEndpoint,
    /// The API server takes a service with several ports that have no names.
    PortNamesOptional,
    /// A container finds no service of its namespace in its environment.
    ServiceLinksMissing,
    /// Pods search the node's domains only.
    ClusterSearchMissing,
    /// A container that fails its readiness probe is restarted, as if it did not live.
    UnreadyIsKilled,
    /// Exec says that every command succeeded.
    ExecLosesExitCode,
    /// The proxy takes external traffic policy Local for Cluster.
    LocalPolicyIgnored,
    /// With external traffic policy Local, back ends see the node instead of the client.
    LocalSourceLost,
    /// The health check port of a service counts the endpoints of all nodes, not of its own.
    HealthCheckAlwaysOk,
    /// The ingress controller goes on forwarding to the endpoints it knew first.
    IngressStaleUpstreams,
    /// The ingress controller takes a prefix for the beginning of a string.
    IngressPrefixByString,
    /// The ingress controller forwards to the service's cluster IP.
    IngressThroughService,
    /// The ingress controller goes on showing the certificate it was given first.
    IngressStaleCertificate,
}

/// What is to be known about a bug: where it lives, where it was seen, and who must notice.
#[derive(Clone, Copy, Debug)]
pub struct BugCard {
    pub bug: Bug,
    /// The name `--bug` takes.
    pub id: &'static str,
    /// The component that is made wrong.
    pub component: &'static str,
    /// One line that says what goes wrong.
    pub title: &'static str,
    /// A real report of it.
    pub seen_in: &'static str,
    /// Ids of the checks that may fail because of it; at least one of them must.
    pub caught_by: &'static [&'static str],
}

/// Every bug there is.
pub const BUGS: &[BugCard] = &[
    BugCard {
        bug: Bug::NoProxy,
        id: "no-proxy",
        component: "proxy",
        title: "no proxy at all: API objects look right, no packet is ever translated",
        seen_in: "https://github.com/kubernetes/kubernetes/issues/101446",
        caught_by: &[
            "service/selects-by-label",
            "service/address-never-changes",
            "service/pods-come-and-go",
            "service/spreads-connections",
            "service/port-maps-to-target-port",
            "service/target-port-defaults",
            "service/from-node",
            "service/from-pod",
            "service/only-ready-pods-answer",
            "service/refused-without-endpoints",
            "service/deleted-is-gone",
            "service/udp",
            "service/udp-endpoint-replaced",
            "service/udp-endpoint-appears",
            "affinity/default-none",
            "affinity/client-ip",
            "affinity/layer-4",
            "ports/several",
            "ports/named-target",
            "ports/renumber-freely",
            "ports/same-number-tcp-udp",
            "dns/fqdn",
            "dns/short-names",
            "dns/srv",
            "vip/no-ping",
            "vip/unused-port-reaches-nobody",
            "node-port/every-node",
            "node-port/from-outside",
            "node-port/cluster-ip-too",
            "node-port/refused-without-endpoints",
            "readiness/unready-not-in-endpoints",
            "readiness/touch-makes-ready",
            "readiness/probe-kinds",
            "headless/pod-ips",
            "headless/none-ready",
            "headless/follows-readiness",
            "headless/publish-not-ready",
            "traffic-policy/local-only-local",
            "traffic-policy/local-drops",
            "traffic-policy/local-keeps-source",
            "traffic-policy/snat",
            "traffic-policy/internal-local",
            "traffic-policy/health-check-node-port",
            "traffic-policy/changes-live",
            "external-name/cname",
            "external-ips/served",
            "load-balancer/extends-node-port",
            "endpoints/none-without-selector",
            "endpoints/manual",
            "endpoints/manual-same-name",
            "traffic-policy/terminating-serve",
            // The controller needs the API server, and clients the controller.
            "ingress/controller-needed",
            "ingress/address-published",
            "ingress/routes-host",
            "ingress/several-paths",
            "ingress/several-hosts",
            "ingress/wildcard-host",
            "ingress/default-backend",
            "ingress/straight-to-pods",
            "ingress/old-api-version",
            "ingress/tls",
            "ingress/follows-readiness",
            "ingress/pods-come-and-go",
            "ingress/nobody-without-endpoints",
            "ingress/deleted-is-gone",
            "kubectl/transcript",
        ],
    },
    BugCard {
        bug: Bug::StaleEndpoint,
        id: "stale-endpoint",
        component: "proxy",
        title: "an endpoint that became unready or was removed is still served",
        seen_in: "https://github.com/kubernetes/kubernetes/issues/67592",
        caught_by: &[
            "service/selects-by-label",
            "service/address-never-changes",
            "service/pods-come-and-go",
            "service/only-ready-pods-answer",
            "service/refused-without-endpoints",
            "service/udp",
            "service/udp-endpoint-replaced",
            "service/udp-endpoint-appears",
            "node-port/from-outside",
            "node-port/refused-without-endpoints",
            "readiness/touch-makes-ready",
            "traffic-policy/local-only-local",
            "traffic-policy/local-drops",
            "traffic-policy/internal-local",
            "endpoints/manual",
        ],
    },
    BugCard {
        bug: Bug::NodePortOnlyWherePodRuns,
        id: "node-port-only-where-pod-runs",
        component: "proxy",
        title: "a node port answers only on nodes that run a pod of the service",
        seen_in: "https://github.com/kubernetes/kubernetes/issues/95216",
        caught_by: &[
            "node-port/every-node",
            "node-port/from-outside",
            "node-port/cluster-ip-too",
            "node-port/refused-without-endpoints",
            "traffic-policy/local-only-local",
            "traffic-policy/local-drops",
            "traffic-policy/local-keeps-source",
            "traffic-policy/snat",
            "traffic-policy/internal-local",
            "traffic-policy/changes-live",
            "load-balancer/extends-node-port",
            "traffic-policy/terminating-serve",
            "ingress/address-published",
        ],
    },
    BugCard {
        bug: Bug::DeletedEndpointStays,
        id: "deleted-endpoint-stays",
        component: "endpointslice controller",
        title: "an endpoint whose pod was deleted stays until another pod of the service changes",
        seen_in: "https://github.com/siderolabs/talos/issues/12802",
        // Where pods are replaced, it depends on what comes last: the end of an old pod, which is
        // missed, or the start of a new one.
        caught_by: &[
            "endpoints/mirror-ready-pods",
            "node-port/from-outside",
            "node-port/refused-without-endpoints",
            "service/address-never-changes",
            "service/pods-come-and-go",
            "service/refused-without-endpoints",
            "service/udp",
            "service/udp-endpoint-replaced",
            "traffic-policy/local-only-local",
            "traffic-policy/local-drops",
            "traffic-policy/internal-local",
            "traffic-policy/health-check-node-port",
            "traffic-policy/terminating-serve",
            "ingress/pods-come-and-go",
            "ingress/nobody-without-endpoints",
        ],
    },
    BugCard {
        bug: Bug::LivenessNeverRestarts,
        id: "liveness-never-restarts",
        component: "kubelet",
        title: "a container that fails its liveness probe is never restarted",
        seen_in: "https://github.com/kubernetes/kubernetes/issues/106682",
        caught_by: &["liveness/restarts"],
    },
    BugCard {
        bug: Bug::AffinityIgnored,
        id: "affinity-ignored",
        component: "proxy",
        title: "sessionAffinity ClientIP is stored and not heeded: each connection goes anywhere",
        seen_in: "https://github.com/cilium/cilium/issues/35254",
        caught_by: &["affinity/client-ip", "affinity/layer-4"],
    },
    BugCard {
        bug: Bug::HeadlessIncludesUnready,
        id: "headless-includes-unready",
        component: "cluster DNS",
        title: "the name of a headless service leads to pods that are not ready as well",
        seen_in: "https://github.com/kubernetes/dns/issues/472",
        caught_by: &["headless/none-ready", "headless/follows-readiness", "headless/publish-not-ready"],
    },
    BugCard {
        bug: Bug::StaleUdpConntrack,
        id: "stale-udp-conntrack",
        component: "proxy",
        title: "a UDP flow goes on to the endpoint it had, though that was removed or replaced",
        seen_in: "https://github.com/kubernetes/kubernetes/issues/125467",
        // Where a client takes any port, it may take one it had before.
        caught_by: &["service/udp-endpoint-replaced", "service/udp-endpoint-appears", "service/udp"],
    },
    BugCard {
        bug: Bug::UnreadyEndpointStays,
        id: "unready-endpoint-stays",
        component: "endpoints controllers",
        title: "an endpoint whose pod became unready stays ready until another pod of the service changes",
        seen_in: "https://github.com/kubernetes/kubernetes/issues/75889",
        caught_by: &[
            "endpoints/follow-readiness",
            "service/only-ready-pods-answer",
            "readiness/touch-makes-ready",
            "headless/follows-readiness",
            "ingress/follows-readiness",
        ],
    },
    BugCard {
        bug: Bug::StaleApiEndpoint,
        id: "stale-api-endpoint",
        component: "API server",
        title: "the Endpoints of `kubernetes` keep an address at which no API server is any more",
        seen_in: "https://github.com/k3s-io/k3s/issues/14594",
        caught_by: &["endpoints/kubernetes"],
    },
    BugCard {
        bug: Bug::PortNamesOptional,
        id: "port-names-optional",
        component: "API server",
        title: "a service with several ports is taken though one of them has no name",
        seen_in: "https://github.com/kubernetes/kubernetes/pull/7786",
        caught_by: &["ports/names-required"],
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
        caught_by: &["dns/resolv-conf", "dns/short-names"],
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
        bug: Bug::LocalPolicyIgnored,
        id: "local-policy-ignored",
        component: "proxy",
        title: "externalTrafficPolicy Local is stored and not heeded: any node forwards to any pod",
        seen_in: "https://github.com/kubernetes/kubernetes/issues/97073",
        caught_by: &[
            "traffic-policy/local-only-local",
            "traffic-policy/local-drops",
            "traffic-policy/local-keeps-source",
            "traffic-policy/changes-live",
            "traffic-policy/terminating-serve",
        ],
    },
    BugCard {
        bug: Bug::LocalSourceLost,
        id: "local-source-lost",
        component: "proxy",
        title: "with externalTrafficPolicy Local the pod sees its node's address instead of the client's",
        seen_in: "https://github.com/kubernetes/kubernetes/issues/62537",
        caught_by: &[
            "traffic-policy/local-keeps-source",
            "traffic-policy/local-only-local",
            "traffic-policy/local-drops",
            "traffic-policy/changes-live",
            "traffic-policy/terminating-serve",
        ],
    },
    BugCard {
        bug: Bug::HealthCheckAlwaysOk,
        id: "health-check-always-ok",
        component: "proxy",
        title: "the health check node port says that all is well on nodes without a pod of the service",
        seen_in: "https://github.com/cilium/cilium/issues/11043",
        caught_by: &["traffic-policy/health-check-node-port"],
    },
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
];

/// The bugs a testbed is started with; none by default.
#[derive(Clone, Debug, Default)]
pub struct Bugs(BTreeSet<Bug>);

impl Bugs {
    /// Is this bug switched on?
    pub fn has(&self, bug: Bug) -> bool {
        self.0.contains(&bug)
    }
}

impl Bugs {
    /// What a program that runs in pods is told beyond its own arguments, so that it has those of
    /// the bugs that are its own.
    pub(crate) fn arguments(&self, program: &str) -> Vec<String> {
        if program.rsplit('/').next() != Some("ingress") {
            return Vec::new();
        }
        [
            (Bug::IngressStaleUpstreams, "stale-upstreams"),
            (Bug::IngressPrefixByString, "prefix-by-string"),
            (Bug::IngressThroughService, "through-service"),
            (Bug::IngressStaleCertificate, "stale-certificates"),
        ]
        .iter()
        .filter(|(bug, _)| self.has(*bug))
        .map(|(_, argument)| format!("--wrong={argument}"))
        .collect()
    }
}

impl FromIterator<Bug> for Bugs {
    fn from_iter<T: IntoIterator<Item = Bug>>(bugs: T) -> Self {
        Self(bugs.into_iter().collect())
    }
}
