//! Routes: who may answer a connection, and whether what was seen is allowed.

use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;

use crate::citation::{self, Citation};
use crate::endpoints::{Endpoint, Expected, ExpectedPort, is_ready, pod_addresses};
use crate::{Destination, ObjectKey, Promises, Protocol, Vantage, World};
use crate::{clusterip, externalip, nodeport, podip, ports};

/// Says who may answer a connection from `vantage` to `destination`.
///
/// The cases, in this order: a cluster IP, an external or load balancer IP, a node's address, a
/// pod's address, any other address. Service answers assume that containers listen on the ports
/// the service sends to; the model cannot know.
pub fn route(world: &World, promises: &Promises, vantage: &Vantage, destination: &Destination) -> Route {
    let address = destination.address;
    // A node port on the loopback address works in one proxy mode and for one family only.
    if address.is_loopback() || address.is_unspecified() || address.is_multicast() {
        let why = format!("`{address}` is no address of a service, node or pod");
        return Route::NotPromised { why, rule: citation::LOCALHOST_NODE_PORTS };
    }
    let client = match Client::of(world, vantage) {
        Ok(client) => client,
        Err(why) => return Route::NotPromised { why, rule: citation::NETWORK_MODEL },
    };
    let scene = Scene { world, promises, client, destination: *destination };
    clusterip::route(&scene)
        .or_else(|| externalip::route(&scene))
        .or_else(|| nodeport::route(&scene))
        .or_else(|| podip::route(&scene))
        .unwrap_or_else(|| unused_address(&scene))
}

/// Compares an observation with [`route`], and says in one sentence what was seen and what was
/// promised, client first.
pub fn judge(
    world: &World,
    promises: &Promises,
    vantage: &Vantage,
    destination: &Destination,
    seen: &Observed,
) -> Result<(), String> {
    let route = route(world, promises, vantage, destination);
    route.allows(seen).map_err(|why| format!("{vantage} connecting to `{destination}` {why}"))
}

/// Who may answer a connection.
///
/// `why` names the set or the reason in words, `rule` where that is promised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// One of these answers. Each may be chosen; how often is not promised, nor that topology
    /// preferences are followed.
    Answered {
        by: BTreeSet<Backend>,
        source: Source,
        affinity: Option<Affinity>,
        why: String,
        rule: Citation,
    },
    /// Nobody else than these may answer; whether they do is not promised.
    AtMost { by: BTreeSet<Backend>, why: String, rule: Citation },
    /// The connection is refused at once. With UDP it may also stay silent: nothing promises that
    /// an ICMP error arrives.
    Refused { protocol: Protocol, why: String, rule: Citation },
    /// The connection is dropped: no answer and no refusal.
    Dropped { why: String, rule: Citation },
    /// Nobody may answer; in which way the connection fails is not promised.
    Nobody { why: String, rule: Citation },
    /// Anything may happen.
    NotPromised { why: String, rule: Citation },
}

impl Route {
    /// Whether an observation is allowed, and if not, what was seen and what was promised. The
    /// sentence goes on after the client's name.
    pub fn allows(&self, seen: &Observed) -> Result<(), String> {
        let name = match seen {
            Observed::Answered { by } => Some(by.as_str()),
            _ => None,
        };
        let member =
            |by: &BTreeSet<Backend>| by.iter().any(|one| name.is_some_and(|name| one.is_called(name)));
        match self {
            Self::NotPromised { .. } => Ok(()),
            Self::Answered { by, .. } | Self::AtMost { by, .. } if member(by) => Ok(()),
            Self::AtMost { .. } | Self::Nobody { .. } if name.is_none() => Ok(()),
            Self::Dropped { .. } if *seen == Observed::Silent => Ok(()),
            Self::Refused { .. } if *seen == Observed::Refused => Ok(()),
            Self::Refused { protocol: Protocol::Udp, .. } if *seen == Observed::Silent => Ok(()),
            Self::Answered { by, why, .. } => Err(format!("{seen}; {why} are {}", list(by, "and"))),
            Self::AtMost { by, why, .. } => {
                Err(format!("{seen}; nobody but {} may answer: {why}", list(by, "or")))
            }
            Self::Refused { why, .. } => Err(format!("{seen}; the connection must be refused: {why}")),
            Self::Dropped { why, .. } => Err(format!("{seen}; the connection must be dropped: {why}")),
            Self::Nobody { why, .. } => Err(format!("{seen}; nobody may answer: {why}")),
        }
    }

    /// The backends that may answer, where the answer says who they are.
    pub fn backends(&self) -> Option<&BTreeSet<Backend>> {
        match self {
            Self::Answered { by, .. } | Self::AtMost { by, .. } => Some(by),
            _ => None,
        }
    }

    /// Where the answer is promised.
    pub fn rule(&self) -> Citation {
        match self {
            Self::Answered { rule, .. }
            | Self::AtMost { rule, .. }
            | Self::Refused { rule, .. }
            | Self::Dropped { rule, .. }
            | Self::Nobody { rule, .. }
            | Self::NotPromised { rule, .. } => *rule,
        }
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answered { by, source, affinity, why, .. } => {
                write!(f, "answered by {} ({why}); {source}", list(by, "or"))?;
                affinity.iter().try_for_each(|affinity| write!(f, "; {affinity}"))
            }
            Self::AtMost { by, why, .. } => {
                write!(f, "answered by nobody but {}, and whether is not promised: {why}", list(by, "or"))
            }
            Self::Refused { why, .. } => write!(f, "refused: {why}"),
            Self::Dropped { why, .. } => write!(f, "dropped: {why}"),
            Self::Nobody { why, .. } => write!(f, "answered by nobody: {why}"),
            Self::NotPromised { why, .. } => write!(f, "not promised: {why}"),
        }
    }
}

/// One who may answer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Backend {
    pub pod: Option<ObjectKey>,
    pub address: SocketAddr,
    pub node: Option<String>,
    /// The host name the backend's process sees: the pod's, or in the host network the node's
    /// ([DNS for Services and Pods, "Pod's hostname and subdomain fields"](https://kubernetes.io/docs/concepts/services-networking/dns-pod-service/#pod-hostname-and-subdomain-field)).
    /// None for an address that is neither a pod's nor a node's.
    pub hostname: Option<String>,
}

impl Backend {
    /// Whether an answer that names itself so is this backend's: by host name, by the pod's name, by
    /// IP address, or by address and port.
    pub fn is_called(&self, name: &str) -> bool {
        self.hostname.as_deref() == Some(name)
            || self.pod.as_ref().is_some_and(|pod| pod.name == name)
            || self.address.ip().to_string() == name
            || self.address.to_string() == name
    }

    pub(crate) fn of(world: &World, endpoint: &Endpoint) -> Option<Self> {
        let address = endpoint.socket()?;
        // Endpoints made by hand may leave out whose address it is, or go on naming who had it once.
        let has_it = |key: &&ObjectKey| {
            world.pods.get(*key).is_some_and(|pod| pod_addresses(pod).contains(&address.ip()))
        };
        let named = endpoint.pod.as_ref().filter(has_it).or_else(|| pod_at(world, address));
        let pod = named.or(endpoint.pod.as_ref()).cloned();
        let object = pod.as_ref().and_then(|pod| world.pods.get(pod));
        let spec = object.and_then(|pod| pod.spec.as_ref());
        let node_of_pod = spec.and_then(|spec| spec.node_name.clone());
        let node = endpoint.node.clone().or(node_of_pod);
        let node = node.or_else(|| world.node_at(address.ip()).map(str::to_owned));
        let in_host_network = spec.is_some_and(|spec| spec.host_network == Some(true));
        let hostname = match &pod {
            Some(pod) if !in_host_network => {
                Some(spec.and_then(|spec| spec.hostname.clone()).unwrap_or_else(|| pod.name.clone()))
            }
            Some(_) => node.clone(),
            None => world.node_at(address.ip()).map(str::to_owned),
        };
        Some(Self { pod, address, node, hostname })
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.hostname {
            Some(hostname) => write!(f, "`{hostname}`"),
            None => write!(f, "`{}`", self.address),
        }
    }
}

/// Which client address the backend sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The client's own.
    Kept,
    /// The client's own, unless the client is answered by itself: then it may be its own, the
    /// node's or the service's.
    KeptUnlessItself,
    NotPromised,
}

impl Source {
    /// Whether a backend must see this client's own address.
    pub fn is_kept(self, client: &Vantage, backend: &Backend) -> bool {
        match self {
            Self::Kept => true,
            Self::KeptUnlessItself => {
                !matches!(client, Vantage::Pod(pod) if backend.pod.as_ref() == Some(pod))
            }
            Self::NotPromised => false,
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kept => "source kept",
            Self::KeptUnlessItself => "source kept, unless the client answers itself",
            Self::NotPromised => "source not promised",
        })
    }
}

/// Which backend a returning client gets
/// ([Virtual IPs, "Session affinity"](https://kubernetes.io/docs/reference/networking/virtual-ips/#session-affinity):
/// "connections from a particular client are passed to the same Pod each time"). Promised for one
/// destination and, at node ports, one node; never across them. It does not outlive the backend's
/// place among those that may answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Affinity {
    ClientIp { timeout_seconds: u32 },
}

impl fmt::Display for Affinity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::ClientIp { timeout_seconds } = self;
        write!(f, "the same one for {timeout_seconds} s")
    }
}

/// What a client saw of one connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Observed {
    /// Answered by the backend that calls itself so: its host name, or where the client only
    /// knows that, its address.
    Answered {
        by: String,
    },
    Refused,
    /// No answer within the client's bound.
    Silent,
    Unreachable,
    Reset,
}

impl fmt::Display for Observed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answered { by } => write!(f, "was answered by `{by}`"),
            Self::Refused => f.write_str("was refused"),
            Self::Silent => f.write_str("got no answer"),
            Self::Unreachable => f.write_str("was told that the destination is unreachable"),
            Self::Reset => f.write_str("was reset"),
        }
    }
}

/// One question, as the rules see it.
pub(crate) struct Scene<'a> {
    pub(crate) world: &'a World,
    pub(crate) promises: &'a Promises,
    pub(crate) client: Client<'a>,
    pub(crate) destination: Destination,
}

impl Scene<'_> {
    /// The endpoints a proxy may choose from, all or those of one node; and what they are in words.
    ///
    /// Ready ones; where there is none, the serving ones that terminate
    /// ([Virtual IPs, "Traffic to terminating endpoints"](https://kubernetes.io/docs/reference/networking/virtual-ips/#traffic-to-terminating-endpoints),
    /// KEP-1669: the fallback applies within the scope of the traffic policy).
    pub(crate) fn usable(
        &self,
        service: &ObjectKey,
        expected: &Expected,
        port: Option<&ExpectedPort>,
        node: Option<&str>,
    ) -> Usable {
        let within = |endpoint: &&Endpoint| node.is_none_or(|node| endpoint.node.as_deref() == Some(node));
        let choose = |wanted: fn(&Endpoint) -> bool| {
            let (mut backends, mut doubt) = (BTreeSet::new(), None);
            for port in port.iter() {
                for endpoint in port.endpoints.iter().filter(within).filter(|endpoint| wanted(endpoint)) {
                    backends.extend(Backend::of(self.world, endpoint));
                    if expected.is_by_hand(port, endpoint) {
                        doubt = doubt.or_else(|| self.why_nobody_answers(endpoint, port.protocol));
                    }
                }
            }
            (backends, doubt)
        };
        let place = node.map(|node| format!(" on node `{node}`")).unwrap_or_default();
        let name = &service.name;
        let (ready, doubt) = choose(|endpoint| endpoint.conditions.ready);
        if ready.is_empty() && self.promises.terminating_fallback {
            let (terminating, doubt) =
                choose(|endpoint| endpoint.conditions.serving && endpoint.conditions.terminating);
            if !terminating.is_empty() {
                let why = format!(
                    "no endpoint of `{name}`{place} is ready, and those serving while they terminate"
                );
                return Usable { backends: terminating, why, rule: Some(citation::TERMINATING), doubt };
            }
        }
        Usable { backends: ready, why: format!("ready endpoints of `{name}`{place}"), rule: None, doubt }
    }

    /// Why an address that somebody wrote down may not answer: it is a pod's no more, or of a pod that
    /// is not known to listen there. Of addresses beyond the pods' only who wrote them down knows.
    fn why_nobody_answers(&self, endpoint: &Endpoint, protocol: Protocol) -> Option<String> {
        let socket = endpoint.socket()?;
        let Some((key, pod)) = pod_at(self.world, socket).and_then(|key| self.world.pods.get_key_value(key))
        else {
            let is_of_pods = self.promises.cluster_cidr.is_some_and(|cidr| cidr.contains(&socket.ip()));
            return is_of_pods.then(|| format!("no pod has the address `{}`", socket.ip()));
        };
        let why = if pod.metadata.deletion_timestamp.is_some() {
            "is being deleted".to_owned()
        } else if !is_ready(pod) {
            "is not ready".to_owned()
        } else if !ports::declares(pod, socket.port(), protocol) {
            format!("names no port {}/{protocol}", socket.port())
        } else {
            return None;
        };
        Some(format!("pod `{}` {why}", key.name))
    }
}

/// The backends a rule may send to.
pub(crate) struct Usable {
    pub(crate) backends: BTreeSet<Backend>,
    pub(crate) why: String,
    /// Set where another promise than the frontend's decided.
    pub(crate) rule: Option<Citation>,
    /// Why one of them, written down by hand, may not answer.
    pub(crate) doubt: Option<String>,
}

impl Usable {
    /// One of them answers, by this rule unless another one decided; at most, where one of them may
    /// not be there. There must be some.
    ///
    /// [Services without selectors](https://kubernetes.io/docs/concepts/services-networking/service/#services-without-selectors):
    /// "you can manually map the Service to the network address and port where it's running"; who
    /// does that sees to it that something runs there.
    pub(crate) fn answered(self, source: Source, affinity: Option<Affinity>, rule: Citation) -> Route {
        let Self { backends: by, why, rule: decided, doubt } = self;
        match doubt {
            Some(doubt) => {
                Route::AtMost { by, why: format!("{why}, and {doubt}"), rule: citation::WITHOUT_SELECTOR }
            }
            None => Route::Answered { by, source, affinity, why, rule: decided.unwrap_or(rule) },
        }
    }
}

/// Who connects, as the rules see it.
pub(crate) struct Client<'a> {
    /// The pod, if it has a network of its own.
    pub(crate) pod: Option<&'a ObjectKey>,
    /// The node the traffic starts on; none outside of the cluster.
    pub(crate) node: Option<&'a str>,
}

impl<'a> Client<'a> {
    fn of(world: &'a World, vantage: &'a Vantage) -> Result<Self, String> {
        match vantage {
            Vantage::Outside => Ok(Self { pod: None, node: None }),
            Vantage::Node(name) if world.nodes.contains_key(name) => Ok(Self { pod: None, node: Some(name) }),
            Vantage::Node(name) => Err(format!("there is no node `{name}`")),
            Vantage::Pod(key) => {
                let pod = world.pods.get(key).ok_or_else(|| format!("there is no pod `{key}`"))?;
                let spec = pod.spec.as_ref();
                let node = spec.and_then(|spec| spec.node_name.as_deref());
                let node = node.ok_or_else(|| format!("pod `{key}` is on no node"))?;
                let in_host_network = spec.is_some_and(|spec| spec.host_network == Some(true));
                Ok(Self { pod: (!in_host_network).then_some(key), node: Some(node) })
            }
        }
    }

    pub(crate) fn is_outside(&self) -> bool {
        self.node.is_none()
    }
}

/// Addresses that belong to nobody in the world. One of the service or pod range has been given
/// back or was never given out: nobody may answer, and how the connection fails is free (dropped,
/// refused, or routed away). Any other address is none of Kubernetes' business.
fn unused_address(scene: &Scene<'_>) -> Route {
    let address = scene.destination.address;
    let within = |cidr: &Option<ipnet::IpNet>| cidr.is_some_and(|cidr| cidr.contains(&address));
    if scene.client.is_outside() {
        let why = format!("`{address}` means something within the cluster only");
        return Route::NotPromised { why, rule: citation::CLUSTER_IP };
    }
    if within(&scene.promises.service_cidr) {
        let why = format!("no service has the cluster IP `{address}`");
        return Route::Nobody { why, rule: citation::SERVICE_IPS };
    }
    if within(&scene.promises.cluster_cidr) {
        let why = format!("no pod has the address `{address}`");
        return Route::Nobody { why, rule: citation::NETWORK_MODEL };
    }
    let why = format!("`{address}` belongs to no service, node or pod");
    Route::NotPromised { why, rule: citation::NETWORK_MODEL }
}

/// The pod in a network of its own that has the address now.
pub(crate) fn pod_at(world: &World, address: SocketAddr) -> Option<&ObjectKey> {
    let lives_at = |pod: &k8s_openapi::api::core::v1::Pod| {
        let in_host_network = pod.spec.as_ref().is_some_and(|spec| spec.host_network == Some(true));
        !in_host_network
            && crate::endpoints::finished_phase(pod).is_none()
            && pod_addresses(pod).contains(&address.ip())
    };
    world.pods.iter().find(|(_, pod)| lives_at(pod)).map(|(key, _)| key)
}

fn list(by: &BTreeSet<Backend>, last: &str) -> String {
    let names: Vec<String> = by.iter().map(Backend::to_string).collect();
    match names.split_last() {
        None => "nobody".to_owned(),
        Some((only, [])) => only.clone(),
        Some((end, rest)) => format!("{} {last} {end}", rest.join(", ")),
    }
}
