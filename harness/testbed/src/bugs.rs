//! Bugs on purpose: the built-in components can be told to be wrong, each in the way a real
//! implementation once was, so that one can measure whether the checks notice.

mod apiserver;
mod controllers;
mod dns;
mod ingress;
mod kubelet;
mod load_balancer;
mod proxy;

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

/// Every bug there is, by component.
pub fn all() -> impl Iterator<Item = &'static BugCard> {
    let components = [
        proxy::CARDS,
        controllers::CARDS,
        dns::CARDS,
        ingress::CARDS,
        load_balancer::CARDS,
        kubelet::CARDS,
        apiserver::CARDS,
    ];
    components.into_iter().flatten()
}

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
