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
    /// An endpoint that terminates is sent new connections as if it were ready, beside those that are.
    TerminatingStillServed,
    /// Endpoints that serve while they terminate are left out, also when there are no others.
    TerminatingNeverServes,
    /// InternalTrafficPolicy Local is stored and not heeded: the cluster IP leads to any node.
    InternalPolicyIgnored,
    /// Services whose labels give them to another proxy, or to none, are served all the same.
    ProxyNameIgnored,
    /// Of a service with several slices only one is read.
    OneSliceOnly,
    /// An endpoint that stands in two slices is forgotten when it leaves one of them.
    SameAddressForgotten,
    /// An address is taken from one slice only, so that the ports it has in another are lost.
    AddressOfOneSlice,
    /// A port number that a service has for TCP and for UDP is taken for one and the same.
    ProtocolsMerged,
    /// A port that a service has no more is still served at its cluster IP.
    RemovedPortServed,
    /// A node port stays open when its service is no NodePort any more.
    NodePortStays,
    /// UDP flows of a service that was deleted go on to its pods.
    UdpDeletedServiceStays,
    /// LoadBalancerSourceRanges are stored and not heeded.
    SourceRangesIgnored,
    /// Slices that somebody edits or deletes stay so until a pod of the service changes.
    SlicesNotPutRight,
    /// All endpoints of a service are in one slice, however many there are.
    SlicesWithoutLimit,
    /// Whenever a pod changes, every slice of its services is written.
    AllSlicesRewritten,
    /// Slices that somebody else manages are taken for its own, and changed or deleted.
    ForeignSlicesTaken,
    /// Slices do not name the service that owns them.
    SlicesWithoutOwner,
    /// Endpoints do not say in which zone their node is.
    ZoneMissing,
    /// TrafficDistribution is stored and no endpoint says for whom it is meant.
    HintsMissing,
    /// PublishNotReadyAddresses is stored and not heeded.
    NotReadyUnpublished,
    /// Edits of Endpoints made by hand do not reach their mirror.
    MirrorNotUpdated,
    /// Of Endpoints with several subsets only one is mirrored.
    OneSubsetMirrored,
    /// Endpoints that ask not to be mirrored are mirrored.
    SkipMirrorIgnored,
    /// Connections are spread over all nodes, whatever their health check ports say.
    BalancerIgnoresHealth,
    /// Services of another loadBalancerClass get an address as well.
    BalancerIgnoresClass,
    /// A service that was deleted waits for ever for its load balancer to be cleaned up.
    BalancerKeepsService,
    /// Cluster IPs and node ports are not given back.
    AllocationsLeak,
    /// A cluster IP or a node port that is asked for is given, though another service has it.
    AllocatedTwice,
    /// A cluster IP or a node port that is asked for is given, though it is outside of the range.
    AllocatedOutOfRange,
    /// AllocateLoadBalancerNodePorts is stored and not heeded.
    NodePortsForced,
    /// Services are taken as they are, whatever they say.
    ServicesUnchecked,
    /// An Ingress without class gets none, though there is a default one.
    DefaultClassIgnored,
    /// A host port is taken at every address of the node, whatever its hostIP says.
    HostPortEverywhere,
    /// A pod is put on a node whose host port another pod has.
    HostPortsUncounted,
    /// An answer is kept back until it has come as a whole.
    IngressBuffers,
    /// The wish for another protocol is not passed on.
    IngressDropsUpgrade,
    /// Each request takes a connection of its own.
    IngressClosesConnections,
    /// While the configuration changes, requests are refused.
    IngressReloads,
    /// Session affinity is heeded at cluster IPs only.
    AffinityAtClusterIpOnly,
    /// A client with affinity goes on to its endpoint, whatever became of that.
    AffinityToUnready,
    /// A pod that is led back to itself is not answered.
    HairpinBroken,
    /// The health check port of a service is served on when the service has none any more.
    HealthCheckPortStays,
    /// ExternalIPs are stored and not served.
    ExternalIpsIgnored,
    /// Of several endpoints one is never chosen.
    EndpointNeverChosen,
    /// A UDP endpoint in the node's own network is not served on that node.
    OwnHostEndpointLost,
    /// Pods that have ended stay among the endpoints.
    FinishedPodsStay,
    /// Named ports of sidecars are not found.
    SidecarPortsMissing,
    /// What a pod's dnsConfig says is not written anywhere.
    DnsConfigIgnored,
    /// Cluster DNS knows no name of an address.
    PointersMissing,
    /// Cluster DNS does not say where an alias of one of its own names leads.
    AliasNotFollowed,
    /// Of several endpoints with one host name cluster DNS knows one.
    OneAddressPerHostname,
    /// The service of cluster DNS has no port for its metrics.
    DnsMetricsPortMissing,
    /// A service that asks for no cluster IP gets one all the same.
    HeadlessGetsAddress,
    /// Of every kind a table shows names and ages only.
    TablesBare,
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
            "service/terminating-gets-none",
            "service/publish-not-ready",
            "service/other-proxy",
            "service/headless-label",
            "service/daemon-set",
            "service/replication-controller",
            "udp/deleted-service-stops",
            "udp/target-port-changes",
            "udp/port-renumbered",
            "udp/node-port-endpoint-replaced",
            "udp/node-port-closed",
            "udp/internal-local-endpoint-replaced",
            "ports/added-and-removed",
            "ports/renumbered",
            "node-port/same-number-tcp-udp",
            "allocation/cluster-ip-again",
            "allocation/node-port-given-back",
            "service-type/to-external-name-and-back",
            "service-type/external-name-to-node-port",
            "service-type/node-port-and-back",
            "service-type/load-balancer-and-back",
            "load-balancer/reached",
            "load-balancer/source-ranges",
            "load-balancer/nodes-with-pods",
            "load-balancer/given-back",
            "load-balancer/other-class",
            "endpoints/mirrored-in-step",
            "endpoints/several-subsets",
            "endpoints/skip-mirror",
            "endpoint-slices/put-right",
            "endpoint-slices/several-by-hand",
            "endpoint-slices/a-port-each",
            "endpoint-slices/same-address-twice",
            "endpoint-slices/own-manager",
            "endpoint-slices/conditions",
            "endpoint-slices/same-zone-hints",
            "endpoint-slices/same-node-hints",
            "ingress/changes-drop-nothing",
            "ingress/keep-alive",
            "ingress/streaming",
            "ingress/websocket",
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
            "service/host-network-endpoints",
            "service/finished-pods-leave",
            "service/finished-pods-unpublished",
            "service/same-selector",
            "service/hairpin-everywhere",
            "service/publish-not-ready-terminating",
            "affinity/node-port",
            "affinity/leaves-unready",
            "ports/one-protocol-removed",
            "ports/sidecar",
            "ports/one-each",
            "dns/ptr",
            "headless/srv",
            "headless/pod-hostname",
            "headless/ptr",
            "external-name/followed",
            "traffic-policy/internal-local-terminating",
            "traffic-policy/cluster-terminating",
            "traffic-policy/internal-local-host-network",
            "traffic-policy/health-check-port-closes",
            "udp/unready-becomes-ready",
            "udp/node-port-target-changes",
            "udp/address-reused",
            "node-port/spreads",
            "load-balancer/rolling-update",
            "load-balancer/rolling-update-local",
            "load-balancer/port-changes",
            "external-ips/foreign-address",
            "endpoints/kubernetes",
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
            "affinity/leaves-unready",
            "service/headless-label",
            "service/publish-not-ready-terminating",
            "udp/node-port-target-changes",
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
            "node-port/spreads",
            "ports/one-protocol-removed",
            "service/hairpin-everywhere",
            "traffic-policy/cluster-terminating",
            "udp/node-port-target-changes",
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
            "traffic-policy/cluster-terminating",
            "traffic-policy/internal-local-terminating",
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
        caught_by: &[
            "affinity/client-ip",
            "affinity/layer-4",
            "affinity/leaves-unready",
            "affinity/node-port",
        ],
    },
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
        bug: Bug::StaleUdpConntrack,
        id: "stale-udp-conntrack",
        component: "proxy",
        title: "a UDP flow goes on to the endpoint it had, though that was removed or replaced",
        seen_in: "https://github.com/kubernetes/kubernetes/issues/125467",
        // Where a client takes any port, it may take one it had before.
        caught_by: &[
            "service/udp-endpoint-replaced",
            "service/udp-endpoint-appears",
            "service/udp",
            "udp/address-reused",
            "udp/node-port-target-changes",
        ],
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
            "affinity/leaves-unready",
            "headless/pod-hostname",
            "headless/srv",
            "service/finished-pods-leave",
            "service/finished-pods-unpublished",
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
    BugCard {
        bug: Bug::TerminatingStillServed,
        id: "terminating-still-served",
        component: "proxy",
        title: "an endpoint that terminates is sent new connections as if it were ready, beside those that are",
        seen_in: "https://github.com/ovn-kubernetes/ovn-kubernetes/pull/4072",
        caught_by: &[
            "service/terminating-gets-none",
            "endpoint-slices/conditions",
            "service/publish-not-ready-terminating",
        ],
    },
    BugCard {
        bug: Bug::TerminatingNeverServes,
        id: "terminating-never-serves",
        component: "proxy",
        title: "endpoints that serve while they terminate are left out, also when there are no others",
        seen_in: "https://github.com/kubernetes/kubernetes/issues/113841",
        caught_by: &[
            "traffic-policy/terminating-serve",
            "endpoint-slices/conditions",
            "traffic-policy/cluster-terminating",
            "traffic-policy/internal-local-terminating",
        ],
    },
    BugCard {
        bug: Bug::InternalPolicyIgnored,
        id: "internal-policy-ignored",
        component: "proxy",
        title: "internalTrafficPolicy Local is stored and not heeded: the cluster IP leads to any node",
        seen_in: "https://github.com/istio/istio/issues/42377",
        caught_by: &[
            "traffic-policy/internal-local",
            "udp/internal-local-endpoint-replaced",
            "traffic-policy/internal-local-host-network",
            "traffic-policy/internal-local-terminating",
        ],
    },
    BugCard {
        bug: Bug::ProxyNameIgnored,
        id: "proxy-name-ignored",
        component: "proxy",
        title: "services whose labels give them to another proxy, or to none, are served all the same",
        seen_in: "https://github.com/cloudnativelabs/kube-router/issues/979",
        caught_by: &["service/other-proxy", "service/headless-label", "ingress/straight-to-pods"],
    },
    BugCard {
        bug: Bug::OneSliceOnly,
        id: "one-slice-only",
        component: "proxy",
        title: "of a service with several slices only one is read",
        seen_in: "https://github.com/cilium/cilium/issues/23823",
        caught_by: &[
            "endpoint-slices/several-by-hand",
            "endpoint-slices/a-port-each",
            "endpoints/several-subsets",
            "ports/renumber-freely",
            "ports/one-each",
        ],
    },
    BugCard {
        bug: Bug::SameAddressForgotten,
        id: "same-address-forgotten",
        component: "proxy",
        title: "an endpoint that stands in two slices is forgotten when it leaves one of them",
        seen_in: "https://github.com/cilium/cilium/issues/22446",
        caught_by: &["endpoint-slices/same-address-twice", "service/same-selector"],
    },
    BugCard {
        bug: Bug::AddressOfOneSlice,
        id: "address-of-one-slice",
        component: "proxy",
        title: "an address is taken from one slice only, so that the ports it has in another are lost",
        seen_in: "https://github.com/kubernetes/kubernetes/pull/101935",
        caught_by: &["endpoint-slices/a-port-each", "endpoints/several-subsets"],
    },
    BugCard {
        bug: Bug::ProtocolsMerged,
        id: "protocols-merged",
        component: "proxy",
        title: "a port number that a service has for TCP and for UDP is taken for one and the same",
        seen_in: "https://github.com/kubernetes/kubernetes/issues/39188",
        caught_by: &[
            "ports/same-number-tcp-udp",
            "node-port/same-number-tcp-udp",
            "service/udp",
            "dns/fqdn",
            "dns/ptr",
            "external-name/followed",
            "headless/pod-hostname",
            "headless/ptr",
            "headless/srv",
            "node-port/spreads",
            "ports/one-protocol-removed",
            "service/hairpin-everywhere",
            "service/host-network-endpoints",
            "traffic-policy/internal-local-host-network",
        ],
    },
    BugCard {
        bug: Bug::RemovedPortServed,
        id: "removed-port-served",
        component: "proxy",
        title: "a port that a service has no more is still served at its cluster IP",
        seen_in: "https://github.com/rancher/rancher/issues/8257",
        caught_by: &[
            "ports/added-and-removed",
            "ports/renumbered",
            "udp/port-renumbered",
            "traffic-policy/changes-live",
            "ports/one-protocol-removed",
            "load-balancer/port-changes",
        ],
    },
    BugCard {
        bug: Bug::NodePortStays,
        id: "node-port-stays",
        component: "proxy",
        title: "a node port stays open when its service is no NodePort any more",
        seen_in: "https://github.com/kubernetes/kubernetes/pull/98305",
        caught_by: &[
            "service-type/node-port-and-back",
            "service-type/load-balancer-and-back",
            "udp/node-port-closed",
            "ports/one-protocol-removed",
        ],
    },
    BugCard {
        bug: Bug::UdpDeletedServiceStays,
        id: "udp-deleted-service-stays",
        component: "proxy",
        title: "UDP flows of a service that was deleted go on to its pods",
        seen_in: "https://github.com/kubernetes/kubernetes/issues/141275",
        caught_by: &[
            "udp/deleted-service-stops",
            "udp/port-renumbered",
            "udp/node-port-closed",
            "udp/address-reused",
        ],
    },
    BugCard {
        bug: Bug::SourceRangesIgnored,
        id: "source-ranges-ignored",
        component: "proxy",
        title: "loadBalancerSourceRanges are stored and not heeded",
        seen_in: "https://github.com/cilium/cilium/issues/34903",
        caught_by: &["load-balancer/source-ranges"],
    },
    BugCard {
        bug: Bug::SlicesNotPutRight,
        id: "slices-not-put-right",
        component: "endpointslice controller",
        title: "slices that somebody edits or deletes stay so until a pod of the service changes",
        seen_in: "https://github.com/kubernetes/kubernetes/issues/85353",
        caught_by: &["endpoint-slices/put-right"],
    },
    BugCard {
        bug: Bug::SlicesWithoutLimit,
        id: "slices-without-limit",
        component: "endpointslice controller",
        title: "all endpoints of a service are in one slice, however many there are",
        seen_in: "https://github.com/aws/aws-cloud-map-mcs-controller-for-k8s/pull/91",
        caught_by: &["endpoint-slices/at-most-100"],
    },
    BugCard {
        bug: Bug::AllSlicesRewritten,
        id: "all-slices-rewritten",
        component: "endpointslice controller",
        title: "whenever a pod changes, every slice of its services is written",
        seen_in: "https://github.com/kubernetes/kubernetes/issues/108231",
        caught_by: &["endpoint-slices/few-change"],
    },
    BugCard {
        bug: Bug::ForeignSlicesTaken,
        id: "foreign-slices-taken",
        component: "endpointslice controller",
        title: "slices that somebody else manages are taken for its own, and changed or deleted",
        seen_in: "https://github.com/kubernetes/kubernetes/pull/83965",
        caught_by: &["endpoint-slices/own-manager"],
    },
    BugCard {
        bug: Bug::SlicesWithoutOwner,
        id: "slices-without-owner",
        component: "endpointslice controller",
        title: "slices do not name the service that owns them",
        seen_in: "https://github.com/kubernetes/kubernetes/pull/94730",
        caught_by: &["endpoint-slices/managed-by", "endpoint-slices/gone-with-service"],
    },
    BugCard {
        bug: Bug::ZoneMissing,
        id: "zone-missing",
        component: "endpointslice controller",
        title: "endpoints do not say in which zone their node is",
        seen_in: "https://github.com/kubernetes/kubernetes/pull/106507",
        caught_by: &["endpoint-slices/topology", "endpoint-slices/same-zone-hints"],
    },
    BugCard {
        bug: Bug::HintsMissing,
        id: "hints-missing",
        component: "endpointslice controller",
        title: "trafficDistribution is stored and no endpoint says for whom it is meant",
        seen_in: "https://github.com/ovn-kubernetes/ovn-kubernetes/pull/6888",
        caught_by: &["endpoint-slices/same-zone-hints", "endpoint-slices/same-node-hints"],
    },
    BugCard {
        bug: Bug::NotReadyUnpublished,
        id: "not-ready-unpublished",
        component: "endpointslice controller",
        title: "publishNotReadyAddresses is stored and not heeded",
        seen_in: "https://github.com/kubernetes/kubernetes/issues/58662",
        caught_by: &[
            "service/publish-not-ready",
            "headless/publish-not-ready",
            "service/publish-not-ready-terminating",
        ],
    },
    BugCard {
        bug: Bug::MirrorNotUpdated,
        id: "mirror-not-updated",
        component: "endpointslice mirroring controller",
        title: "edits of Endpoints made by hand do not reach their mirror",
        seen_in: "https://github.com/kubernetes/kubernetes/pull/98116",
        caught_by: &["endpoints/mirrored-in-step"],
    },
    BugCard {
        bug: Bug::OneSubsetMirrored,
        id: "one-subset-mirrored",
        component: "endpointslice mirroring controller",
        title: "of Endpoints with several subsets only one is mirrored",
        seen_in: "https://github.com/kubernetes/kubernetes/issues/92928",
        caught_by: &["endpoints/several-subsets"],
    },
    BugCard {
        bug: Bug::SkipMirrorIgnored,
        id: "skip-mirror-ignored",
        component: "endpointslice mirroring controller",
        title: "Endpoints that ask not to be mirrored are mirrored",
        seen_in: "https://github.com/kubernetes/enhancements/pull/1713",
        caught_by: &["endpoints/skip-mirror"],
    },
    BugCard {
        bug: Bug::BalancerIgnoresHealth,
        id: "balancer-ignores-health",
        component: "load balancer",
        title: "connections are spread over all nodes, whatever their health check ports say",
        seen_in: "https://github.com/kubernetes/cloud-provider-openstack/pull/1720",
        caught_by: &["load-balancer/nodes-with-pods"],
    },
    BugCard {
        bug: Bug::BalancerIgnoresClass,
        id: "balancer-ignores-class",
        component: "load balancer",
        title: "services of another loadBalancerClass get an address as well",
        seen_in: "https://github.com/projectcalico/calico/issues/10544",
        caught_by: &["load-balancer/other-class"],
    },
    BugCard {
        bug: Bug::BalancerKeepsService,
        id: "balancer-keeps-service",
        component: "load balancer",
        title: "a service that was deleted waits for ever for its load balancer to be cleaned up",
        seen_in: "https://github.com/kubernetes/kubernetes/issues/104618",
        caught_by: &["load-balancer/given-back"],
    },
    BugCard {
        bug: Bug::AllocationsLeak,
        id: "allocations-leak",
        component: "API server",
        title: "cluster IPs and node ports are not given back",
        seen_in: "https://github.com/kubernetes/kubernetes/issues/89042",
        caught_by: &[
            "allocation/cluster-ip-again",
            "allocation/node-port-given-back",
            "traffic-policy/health-check-port-closes",
        ],
    },
    BugCard {
        bug: Bug::AllocatedTwice,
        id: "allocated-twice",
        component: "API server",
        title: "a cluster IP or a node port that is asked for is given, though another service has it",
        seen_in: "https://github.com/kubernetes/kubernetes/issues/109927",
        caught_by: &["allocation/cluster-ip-in-use", "allocation/node-port-in-use"],
    },
    BugCard {
        bug: Bug::AllocatedOutOfRange,
        id: "allocated-out-of-range",
        component: "API server",
        title: "a cluster IP or a node port that is asked for is given, though it is outside of the range",
        seen_in: "https://github.com/kubernetes/kubernetes/issues/109927",
        caught_by: &["allocation/cluster-ip-out-of-range", "allocation/node-port-out-of-range"],
    },
    BugCard {
        bug: Bug::NodePortsForced,
        id: "node-ports-forced",
        component: "API server",
        title: "allocateLoadBalancerNodePorts is stored and not heeded",
        seen_in: "https://github.com/openelb/openelb/issues/324",
        caught_by: &["load-balancer/no-node-ports"],
    },
    BugCard {
        bug: Bug::ServicesUnchecked,
        id: "services-unchecked",
        component: "API server",
        title: "services are taken as they are, whatever they say",
        seen_in: "https://github.com/antrea-io/antrea/issues/1578",
        caught_by: &[
            "allocation/cluster-ip-stays",
            "allocation/families",
            "affinity/timeout",
            "affinity/only-two-kinds",
            "load-balancer/other-class",
            "ports/names-required",
        ],
    },
    BugCard {
        bug: Bug::DefaultClassIgnored,
        id: "default-class-ignored",
        component: "API server",
        title: "an Ingress without class gets none, though there is a default one",
        seen_in: "https://github.com/istio/istio/issues/31720",
        caught_by: &["ingress/default-class"],
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
        bug: Bug::HostPortsUncounted,
        id: "host-ports-uncounted",
        component: "scheduler",
        title: "a pod is put on a node whose host port another pod has",
        seen_in: "https://github.com/kubernetes/kubernetes/issues/4623",
        caught_by: &["host-port/one-pod-at-a-time"],
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
    BugCard {
        bug: Bug::AffinityAtClusterIpOnly,
        id: "affinity-at-cluster-ip-only",
        component: "proxy",
        title: "sessionAffinity ClientIP is heeded at the cluster IP, and not at node ports",
        seen_in: "https://github.com/kubernetes/kubernetes/issues/52626",
        caught_by: &["affinity/node-port"],
    },
    BugCard {
        bug: Bug::AffinityToUnready,
        id: "affinity-to-unready",
        component: "proxy",
        title: "a client with affinity goes on to the endpoint it had, though that is not ready any more",
        seen_in: "https://github.com/kubernetes/kubernetes/issues/110302",
        caught_by: &["affinity/leaves-unready"],
    },
    BugCard {
        bug: Bug::HairpinBroken,
        id: "hairpin-broken",
        component: "proxy",
        title: "a pod that calls its own service and is led back to itself is not answered",
        seen_in: "https://github.com/kubernetes/kubernetes/issues/20475",
        caught_by: &["service/from-pod", "service/hairpin-everywhere"],
    },
    BugCard {
        bug: Bug::HealthCheckPortStays,
        id: "health-check-port-stays",
        component: "proxy",
        title: "the health check port of a service is served on when its policy or type has changed",
        seen_in: "https://github.com/cilium/cilium/pull/11952",
        caught_by: &["traffic-policy/health-check-port-closes"],
    },
    BugCard {
        bug: Bug::ExternalIpsIgnored,
        id: "external-ips-ignored",
        component: "proxy",
        title: "externalIPs are stored and not served",
        seen_in: "https://github.com/antrea-io/antrea/issues/1627",
        caught_by: &["external-ips/served", "external-ips/foreign-address"],
    },
    BugCard {
        bug: Bug::EndpointNeverChosen,
        id: "endpoint-never-chosen",
        component: "proxy",
        title: "of several endpoints that may be chosen one never is",
        seen_in: "https://github.com/projectcalico/calico/issues/13279",
        caught_by: &[
            "service/spreads-connections",
            "node-port/spreads",
            "affinity/default-none",
            "affinity/client-ip",
            "ports/renumber-freely",
            "service/daemon-set",
            "service/publish-not-ready",
            "endpoints/manual",
            "affinity/node-port",
            "service/hairpin-everywhere",
            "service/host-network-endpoints",
            "service/same-selector",
            "service/publish-not-ready-terminating",
            "traffic-policy/internal-local-host-network",
        ],
    },
    BugCard {
        bug: Bug::OwnHostEndpointLost,
        id: "own-host-endpoint-lost",
        component: "proxy",
        title: "a UDP endpoint in its node's network is served on other nodes, and not on its own",
        seen_in: "https://github.com/kubernetes/kubernetes/issues/95565",
        caught_by: &["service/host-network-endpoints"],
    },
    BugCard {
        bug: Bug::FinishedPodsStay,
        id: "finished-pods-stay",
        component: "endpoints controllers",
        title: "pods that have ended stay among the endpoints, and ready if the service publishes all",
        seen_in: "https://github.com/kubernetes/kubernetes/issues/109414",
        caught_by: &["service/finished-pods-leave", "service/finished-pods-unpublished"],
    },
    BugCard {
        bug: Bug::SidecarPortsMissing,
        id: "sidecar-ports-missing",
        component: "endpoints controllers",
        title: "a port of a sidecar is not found by its name",
        seen_in: "https://github.com/kubernetes/kubernetes/issues/127958",
        caught_by: &["ports/sidecar"],
    },
    BugCard {
        bug: Bug::DnsConfigIgnored,
        id: "dns-config-ignored",
        component: "kubelet",
        title: "a pod's dnsConfig is stored and not heeded",
        seen_in: "https://github.com/rancher/k3k/issues/341",
        caught_by: &["dns/policy-none"],
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
    BugCard {
        bug: Bug::HeadlessGetsAddress,
        id: "headless-gets-address",
        component: "API server",
        title: "a service with clusterIP None gets a cluster IP all the same",
        seen_in: "https://github.com/kubernetes/kubernetes/issues/14630",
        caught_by: &["headless/no-cluster-ip"],
    },
    BugCard {
        bug: Bug::TablesBare,
        id: "tables-bare",
        component: "API server",
        title: "tables, which kubectl prints, show names and ages only",
        seen_in: "https://github.com/replicatedhq/sbctl/pull/40",
        caught_by: &[
            "service/listed",
            "external-name/no-cluster-ip",
            "ingress/address-published",
            "load-balancer/extends-node-port",
            "kubectl/transcript",
        ],
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
        let of_dns: &[(Bug, &str)] = &[
            (Bug::HeadlessIncludesUnready, "unready-too"),
            (Bug::PointersMissing, "no-pointers"),
            (Bug::AliasNotFollowed, "aliases-end"),
            (Bug::OneAddressPerHostname, "one-address-per-host"),
        ];
        let of_ingress: &[(Bug, &str)] = &[
            (Bug::IngressStaleUpstreams, "stale-upstreams"),
            (Bug::IngressPrefixByString, "prefix-by-string"),
            (Bug::IngressThroughService, "through-service"),
            (Bug::IngressStaleCertificate, "stale-certificates"),
            (Bug::IngressBuffers, "buffers"),
            (Bug::IngressDropsUpgrade, "drops-upgrade"),
            (Bug::IngressClosesConnections, "closes-connections"),
            (Bug::IngressReloads, "reloads"),
        ];
        let all = match program.rsplit('/').next() {
            Some("dns") => of_dns,
            Some("ingress") => of_ingress,
            _ => return Vec::new(),
        };
        let own = all.iter().filter(|(bug, _)| self.has(*bug));
        own.map(|(_, argument)| format!("--wrong={argument}")).collect()
    }
}

impl FromIterator<Bug> for Bugs {
    fn from_iter<T: IntoIterator<Item = Bug>>(bugs: T) -> Self {
        Self(bugs.into_iter().collect())
    }
}
