//! DNS: which records a name has, and whether a reply is allowed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use k8s_openapi::api::core::v1::{Pod, Service};

use crate::citation::{self, Citation};
use crate::endpoints::{cluster_ips, endpoints, finished_phase, is_ready, pod_addresses, slice_is_of};
use crate::ports::{self, Protocol};
use crate::reply::{Promised, Record, Reply, Target};
use crate::selector::{has_selector, is_external_name, selects};
use crate::{Expected, ObjectKey, Promises, World};

/// Says what the cluster's DNS must answer to a full name, with or without the dot at its end.
/// Who asks makes no difference; what a pod makes of a short name, [`resolve_from`](crate::resolve_from) says.
///
/// The promises are those of the
/// [DNS-based service discovery](https://github.com/kubernetes/dns/blob/master/docs/specification.md)
/// specification, whose records an implementation may add to (section 3): names it may use for that
/// are not judged.
pub fn resolve(world: &World, promises: &Promises, name: &str, kind: RecordType) -> Resolution {
    let name = normal(name);
    let zone = Zone { world, promises, kind };
    if let Some(address) = reversed(&name) {
        return zone.pointers(address);
    }
    let Some(rest) = name.strip_suffix(&promises.cluster_domain) else {
        return not_promised(format!("`{name}` is no name of the cluster"), citation::DNS_POLICY);
    };
    let labels: Vec<&str> = rest.split('.').filter(|label| !label.is_empty()).collect();
    if !(rest.is_empty() || rest.ends_with('.')) {
        return not_promised(format!("`{name}` is no name of the cluster"), citation::DNS_POLICY);
    }
    match labels[..] {
        ["dns-version"] => zone.schema_version(),
        [service, namespace, "svc"] => zone.service(&ObjectKey::new(namespace, service)),
        [host, service, namespace, "svc"] => zone.host(host, &ObjectKey::new(namespace, service)),
        [port, protocol, service, namespace, "svc"] if port.starts_with('_') && protocol.starts_with('_') => {
            zone.port(&port[1..], &protocol[1..], &ObjectKey::new(namespace, service))
        }
        [address, _, "pod"] => deprecated(address, kind),
        // Servers keep their own names here.
        [] | ["dns"] | [_, "dns"] => {
            not_promised(format!("nothing is said of `{name}`"), citation::DNS_EXTENSIONS)
        }
        _ => Resolution::Nothing {
            why: format!("no record of a service or pod is called `{name}`"),
            rule: citation::DNS_EXTENSIONS,
        },
    }
}

/// The types of records the model knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RecordType {
    A,
    Aaaa,
    Cname,
    Ptr,
    Srv,
    Txt,
}

impl RecordType {
    fn is_of(self, address: IpAddr) -> bool {
        match self {
            Self::A => address.is_ipv4(),
            Self::Aaaa => address.is_ipv6(),
            _ => false,
        }
    }
}

impl fmt::Display for RecordType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::A => "A",
            Self::Aaaa => "AAAA",
            Self::Cname => "CNAME",
            Self::Ptr => "PTR",
            Self::Srv => "SRV",
            Self::Txt => "TXT",
        })
    }
}

/// What must be answered to one question. `why` names the set or the reason in words, `rule` where
/// that is promised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resolution {
    /// All of `exactly`, perhaps some of `perhaps`, and nothing else. The order is not promised.
    Records { exactly: Vec<Promised>, perhaps: Vec<Promised>, why: String, rule: Citation },
    /// No others than these; whether they are there is not promised.
    AtMost { perhaps: Vec<Promised>, why: String, rule: Citation },
    /// A CNAME, and behind it what the target leads to. That is promised of names of the cluster
    /// only, by the same server; none here if the target is somebody else's, or has no such records.
    Alias { target: String, leads_to: Vec<Promised>, why: String, rule: Citation },
    /// One text: the version of the schema.
    SchemaVersion { why: String, rule: Citation },
    /// The name exists and has no record of this type: an empty answer, no name error.
    NoData { why: String, rule: Citation },
    /// No records; whether by NXDOMAIN or by an empty answer is free.
    Nothing { why: String, rule: Citation },
    /// Anything may be answered.
    NotPromised { why: String, rule: Citation },
}

impl Resolution {
    /// Whether a reply is allowed, and if not, what was seen and what was promised. The sentence
    /// goes on after the question.
    pub fn allows(&self, reply: &Reply) -> Result<(), String> {
        let wrong = |promised: String| Err(format!("{reply}; {promised}"));
        let why = self.why();
        match self {
            Self::NotPromised { .. } => Ok(()),
            Self::Records { exactly, perhaps, .. } => {
                let unlike = reply.differs(exactly, perhaps);
                unlike.map_or(Ok(()), |unlike| wrong(format!("{unlike}: {why}")))
            }
            Self::AtMost { perhaps, .. } => {
                if reply.is_empty() {
                    return Ok(());
                }
                let unlike = reply.differs(&[], perhaps);
                unlike.map_or(Ok(()), |unlike| wrong(format!("{unlike}: {why}")))
            }
            Self::Alias { target, leads_to, .. } => {
                let alias = Record::Alias(target.clone());
                if !reply.records().any(|record| record.normal() == alias) {
                    return wrong(format!("a CNAME to `{target}` is missing: {why}"));
                }
                match leads_to.iter().find(|promised| !reply.records().any(|seen| promised.is(seen))) {
                    None => Ok(()),
                    Some(missing) => wrong(format!("{missing}, which is `{target}`, is missing: {why}")),
                }
            }
            Self::SchemaVersion { .. } => {
                let texts: Vec<&Record> = reply.records().collect();
                match texts[..] {
                    [Record::Text(text)] if is_version(text) => Ok(()),
                    _ => wrong(format!("one text, a semantic version, was promised: {why}")),
                }
            }
            Self::NoData { .. } if reply.is_no_data() => Ok(()),
            Self::NoData { .. } => wrong(format!("an answer without records was promised: {why}")),
            Self::Nothing { .. } if reply.is_empty() => Ok(()),
            Self::Nothing { .. } => wrong(format!("there must be no records: {why}")),
        }
    }

    /// The addresses that must be in the answer.
    pub fn addresses(&self) -> BTreeSet<IpAddr> {
        let Self::Records { exactly, .. } = self else {
            return BTreeSet::new();
        };
        exactly
            .iter()
            .filter_map(|record| match record {
                Promised::Address(address) => Some(*address),
                _ => None,
            })
            .collect()
    }

    pub fn why(&self) -> &str {
        match self {
            Self::Records { why, .. }
            | Self::AtMost { why, .. }
            | Self::Alias { why, .. }
            | Self::SchemaVersion { why, .. }
            | Self::NoData { why, .. }
            | Self::Nothing { why, .. }
            | Self::NotPromised { why, .. } => why,
        }
    }

    /// Where the answer is promised.
    pub fn rule(&self) -> Citation {
        match self {
            Self::Records { rule, .. }
            | Self::AtMost { rule, .. }
            | Self::Alias { rule, .. }
            | Self::SchemaVersion { rule, .. }
            | Self::NoData { rule, .. }
            | Self::Nothing { rule, .. }
            | Self::NotPromised { rule, .. } => *rule,
        }
    }
}

impl fmt::Display for Resolution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list =
            |records: &[Promised]| records.iter().map(Promised::to_string).collect::<Vec<_>>().join(", ");
        let why = self.why();
        match self {
            Self::Records { exactly, .. } => write!(f, "{} ({why})", list(exactly)),
            Self::AtMost { perhaps, .. } => write!(f, "nothing but {}: {why}", list(perhaps)),
            Self::Alias { target, leads_to, .. } if leads_to.is_empty() => {
                write!(f, "CNAME `{target}` ({why})")
            }
            Self::Alias { target, leads_to, .. } => {
                write!(f, "CNAME `{target}`, which is {} ({why})", list(leads_to))
            }
            Self::SchemaVersion { .. } => write!(f, "a semantic version ({why})"),
            Self::NoData { .. } => write!(f, "no data: {why}"),
            Self::Nothing { .. } => write!(f, "nothing: {why}"),
            Self::NotPromised { .. } => write!(f, "not promised: {why}"),
        }
    }
}

/// One question to the cluster's zone.
struct Zone<'a> {
    world: &'a World,
    promises: &'a Promises,
    kind: RecordType,
}

/// The addresses of a headless service that must be answered, and those that may be.
struct Headless {
    expected: Expected,
    ready: BTreeSet<IpAddr>,
    /// Ready pods that lack a port the service names.
    perhaps: BTreeSet<IpAddr>,
    hostnames: BTreeMap<IpAddr, BTreeSet<String>>,
}

impl Zone<'_> {
    fn schema_version(&self) -> Resolution {
        let why = "the version of the DNS schema".to_owned();
        match self.kind {
            RecordType::Txt => Resolution::SchemaVersion { why, rule: citation::DNS_VERSION },
            _ => no_data("dns-version"),
        }
    }

    fn service(&self, key: &ObjectKey) -> Resolution {
        let Some(service) = self.world.services.get(key) else {
            return no_service(key);
        };
        if is_external_name(service) {
            return self.external_name(key, service);
        }
        match self.kind {
            RecordType::A | RecordType::Aaaa => {}
            RecordType::Srv => {
                let why = format!("SRV records of `{}` have the names of its ports", key.name);
                return not_promised(why, citation::DNS_EXTENSIONS);
            }
            _ if is_headless(service) => {
                let why = format!("`{}` has addresses only", key.name);
                return Resolution::Nothing { why, rule: citation::DNS_HEADLESS };
            }
            _ => return no_data(&key.name),
        }
        if is_headless(service) {
            let headless = self.headless(key, service);
            let why = format!("the ready endpoints of `{}`", key.name);
            return self.addresses(key, &headless.ready, &headless.perhaps, why);
        }
        let all: BTreeSet<IpAddr> = cluster_ips(service).into_iter().collect();
        let own = self.of_kind(&all);
        if all.is_empty() {
            return not_promised(format!("`{}` has no cluster IP yet", key.name), citation::DNS_CLUSTER_IP);
        }
        if own.is_empty() {
            return no_data(&key.name);
        }
        let why = format!("the cluster IP of `{}`", key.name);
        Resolution::Records { exactly: own, perhaps: Vec::new(), why, rule: citation::DNS_CLUSTER_IP }
    }

    /// The name of one endpoint of a headless service.
    ///
    /// [DNS for Services and Pods, "Pod's hostname and subdomain fields"](https://kubernetes.io/docs/concepts/services-networking/dns-pod-service/#pod-hostname-and-subdomain-field):
    /// a pod whose subdomain is the service's name gets an address record under its host name.
    fn host(&self, host: &str, key: &ObjectKey) -> Resolution {
        let Some(service) = self.world.services.get(key) else {
            return no_service(key);
        };
        if is_external_name(service) || !is_headless(service) || self.kind == RecordType::Srv {
            let why = format!("nothing is said of names below `{}`", key.name);
            return not_promised(why, citation::DNS_EXTENSIONS);
        }
        let headless = self.headless(key, service);
        let called = |address: &&IpAddr| {
            let names = headless.hostnames.get(*address);
            names.is_some_and(|names| names.contains(host))
        };
        let ready: BTreeSet<IpAddr> = headless.ready.iter().filter(called).copied().collect();
        let known: Vec<&IpAddr> = headless.hostnames.keys().filter(called).collect();
        if !ready.is_empty() {
            if !matches!(self.kind, RecordType::A | RecordType::Aaaa) {
                return no_data(host);
            }
            let why = format!("the ready endpoint of `{}` with host name `{host}`", key.name);
            return self.addresses(key, &ready, &BTreeSet::new(), why);
        }
        if !known.is_empty() && known.iter().all(|address| !headless.perhaps.contains(address)) {
            let why = format!("the endpoint of `{}` with host name `{host}` is not ready", key.name);
            return Resolution::Nothing { why, rule: citation::DNS_HEADLESS };
        }
        // Endpoints without a host name have one the system makes up.
        let all: BTreeSet<IpAddr> = headless.ready.union(&headless.perhaps).copied().collect();
        let why = format!("no endpoint of `{}` has the host name `{host}`, unless it was made up", key.name);
        Resolution::AtMost { perhaps: self.of_kind(&all), why, rule: citation::DNS_HEADLESS }
    }

    /// Whatever is asked for, a CNAME is the answer. To a question for addresses a server adds those of a
    /// name that is its own, so that the client need not ask again
    /// ([RFC 1034, section 3.6.2](https://www.rfc-editor.org/rfc/rfc1034#section-3.6.2)).
    fn external_name(&self, key: &ObjectKey, service: &Service) -> Resolution {
        let target = service.spec.as_ref().and_then(|spec| spec.external_name.as_deref()).map(normal);
        let rule = citation::DNS_EXTERNAL_NAME;
        let Some(target) = target.filter(|name| !name.is_empty() && name.parse::<IpAddr>().is_err()) else {
            let why = format!("the external name of `{}` is no DNS name", key.name);
            return not_promised(why, rule);
        };
        let own = self.own_service(&target).filter(|(_, service)| !is_external_name(service));
        let asks_for_addresses = matches!(self.kind, RecordType::A | RecordType::Aaaa);
        let leads_to = match own.filter(|_| asks_for_addresses).map(|(key, _)| self.service(&key)) {
            Some(Resolution::Records { exactly, .. }) => exactly,
            _ => Vec::new(),
        };
        Resolution::Alias { target, leads_to, why: format!("`{}` is an external name", key.name), rule }
    }

    /// The service of the cluster that a full name is of.
    fn own_service(&self, name: &str) -> Option<(ObjectKey, &Service)> {
        let rest = name.strip_suffix(&self.promises.cluster_domain)?.strip_suffix(".svc.")?;
        let (service, namespace) = rest.split_once('.')?;
        let (key, service) = self.world.services.get_key_value(&ObjectKey::new(namespace, service))?;
        Some((key.clone(), service))
    }

    fn port(&self, name: &str, protocol: &str, key: &ObjectKey) -> Resolution {
        let Some(service) = self.world.services.get(key) else {
            return no_service(key);
        };
        if self.kind != RecordType::Srv || is_external_name(service) {
            let why = format!("nothing is said of `_{name}._{protocol}` but its SRV records");
            return not_promised(why, citation::DNS_EXTENSIONS);
        }
        let found = ports::service_ports(service).find_map(|port| {
            let own = Protocol::of_field(port.protocol.as_deref())?;
            let matches =
                port.name.as_deref() == Some(name) && own.to_string().eq_ignore_ascii_case(protocol);
            Some((port, own)).filter(|_| matches)
        });
        let Some((port, protocol)) = found else {
            let why = format!("`{}` has no port named `{name}` of protocol `{protocol}`", key.name);
            // Its endpoints may have one: made by hand, or left from ports it had. Those who read
            // names off the endpoints answer then.
            if is_headless(service)
                && self
                    .world
                    .endpoint_slices
                    .values()
                    .filter(|slice| slice_is_of(slice, key))
                    .any(|slice| slice.ports.iter().flatten().any(|port| port.name.as_deref() == Some(name)))
            {
                return not_promised(why, citation::DNS_HEADLESS_SRV);
            }
            return Resolution::Nothing { why, rule: citation::DNS_CLUSTER_IP_SRV };
        };
        let number = ports::number(port.port);
        if !is_headless(service) {
            if cluster_ips(service).is_empty() {
                let why = format!("`{}` has no cluster IP yet", key.name);
                return not_promised(why, citation::DNS_CLUSTER_IP_SRV);
            }
            let target = Target::Named(self.fqdn(key));
            let exactly = vec![Promised::Srv { ports: number.into_iter().collect(), target }];
            let why = format!("port `{name}` of `{}`", key.name);
            return Resolution::Records {
                exactly,
                perhaps: Vec::new(),
                why,
                rule: citation::DNS_CLUSTER_IP_SRV,
            };
        }
        let headless = self.headless(key, service);
        let mut exactly = Vec::new();
        for endpoint in headless.expected.port(name, protocol).iter().flat_map(|port| &port.endpoints) {
            if !endpoint.conditions.ready {
                continue;
            }
            // "number" is the service's; where endpoints listen elsewhere, that is the useful one.
            let ports: BTreeSet<u16> = number.into_iter().chain(endpoint.port).collect();
            for target in self.targets(key, &headless, endpoint.address) {
                let record = Promised::Srv { ports: ports.clone(), target };
                if matches!(record, Promised::Srv { target: Target::Under(_), .. })
                    || !exactly.contains(&record)
                {
                    exactly.push(record);
                }
            }
        }
        let rule = citation::DNS_HEADLESS_SRV;
        if exactly.is_empty() {
            let why = format!("no endpoint of `{}` is ready", key.name);
            return Resolution::Nothing { why, rule };
        }
        let why = format!("port `{name}` of the ready endpoints of `{}`", key.name);
        Resolution::Records { exactly, perhaps: Vec::new(), why, rule }
    }

    fn pointers(&self, address: IpAddr) -> Resolution {
        if self.kind != RecordType::Ptr {
            let why = format!("nothing is said of the name of `{address}` but its PTR records");
            return not_promised(why, citation::DNS_EXTENSIONS);
        }
        let mut exactly = Vec::new();
        let mut perhaps = Vec::new();
        for (key, service) in &self.world.services {
            if is_external_name(service) {
                continue;
            }
            if cluster_ips(service).contains(&address) {
                exactly.push(Promised::Pointer(Target::Named(self.fqdn(key))));
                let why = format!("`{address}` is the cluster IP of `{}`", key.name);
                return Resolution::Records { exactly, perhaps, why, rule: citation::DNS_CLUSTER_IP_PTR };
            }
            let headless = self.headless(key, service);
            if is_headless(service) && headless.ready.contains(&address) {
                exactly.extend(self.targets(key, &headless, address).into_iter().map(Promised::Pointer));
            } else if headless.ready.contains(&address) || headless.perhaps.contains(&address) {
                perhaps.push(Promised::Pointer(Target::Under(self.fqdn(key))));
            }
        }
        if !exactly.is_empty() {
            let why = format!("`{address}` is a ready endpoint of a headless service");
            return Resolution::Records { exactly, perhaps, why, rule: citation::DNS_HEADLESS_PTR };
        }
        if self.promises.service_cidr.is_some_and(|cidr| cidr.contains(&address)) {
            let why = format!("no service has the cluster IP `{address}`");
            return Resolution::Nothing { why, rule: citation::DNS_CLUSTER_IP_PTR };
        }
        let why = format!("`{address}` is no cluster IP and no ready endpoint of a headless service");
        not_promised(why, citation::DNS_HEADLESS_PTR)
    }

    /// The address records of the type asked for, of those that are ready.
    fn addresses(
        &self,
        key: &ObjectKey,
        ready: &BTreeSet<IpAddr>,
        perhaps: &BTreeSet<IpAddr>,
        why: String,
    ) -> Resolution {
        let rule = citation::DNS_HEADLESS;
        let (exactly, perhaps_of_kind) = (self.of_kind(ready), self.of_kind(perhaps));
        if !exactly.is_empty() {
            return Resolution::Records { exactly, perhaps: perhaps_of_kind, why, rule };
        }
        if !perhaps_of_kind.is_empty() {
            return Resolution::AtMost { perhaps: perhaps_of_kind, why, rule };
        }
        if !ready.is_empty() {
            return no_data(&key.name);
        }
        // "the answer should be NXDOMAIN": should, not must.
        Resolution::Nothing { why: format!("no endpoint of `{}` is ready", key.name), rule }
    }

    fn of_kind(&self, addresses: &BTreeSet<IpAddr>) -> Vec<Promised> {
        let own = addresses.iter().filter(|address| self.kind.is_of(**address));
        own.copied().map(Promised::Address).collect()
    }

    fn headless(&self, key: &ObjectKey, service: &Service) -> Headless {
        let expected = endpoints(self.world, self.promises, key);
        let all = || expected.ports.iter().flat_map(|port| &port.endpoints);
        let ready: BTreeSet<IpAddr> =
            all().filter(|endpoint| endpoint.conditions.ready).map(|endpoint| endpoint.address).collect();
        let listed: BTreeSet<IpAddr> = all().map(|endpoint| endpoint.address).collect();
        let mut perhaps = BTreeSet::new();
        if expected.publish_not_ready {
            // "any agent which deals with endpoints for this Service should disregard any indications of
            // ready/not-ready": should, and those who only read EndpointSlices leave it to the control
            // plane, which does not write the ones made by hand.
            perhaps.extend(listed.difference(&ready));
        }
        for pod in self.selected(key, service) {
            let serves = is_ready(pod) && pod.metadata.deletion_timestamp.is_none();
            if serves || expected.publish_not_ready {
                let addresses = pod_addresses(pod).into_iter();
                perhaps.extend(addresses.filter(|address| !listed.contains(address)));
            }
        }
        let hostnames = self.hostnames(key, service);
        Headless { expected, ready, perhaps, hostnames }
    }

    /// The pods behind a service that have not finished.
    fn selected<'a>(&'a self, key: &'a ObjectKey, service: &'a Service) -> impl Iterator<Item = &'a Pod> {
        self.world
            .pods
            .iter()
            .filter(|(pod, _)| pod.namespace == key.namespace)
            .map(|(_, pod)| pod)
            .filter(|pod| selects(service, pod) && finished_phase(pod).is_none())
    }

    /// The host names of endpoints, in lower case: a pod's if its subdomain is the service, or the
    /// one that was written by hand.
    fn hostnames(&self, key: &ObjectKey, service: &Service) -> BTreeMap<IpAddr, BTreeSet<String>> {
        let mut names: BTreeMap<IpAddr, BTreeSet<String>> = BTreeMap::new();
        let mut add = |address: IpAddr, name: &str| {
            names.entry(address).or_default().insert(name.to_lowercase());
        };
        if has_selector(service) {
            for pod in self.selected(key, service) {
                let Some(spec) = &pod.spec else {
                    continue;
                };
                if spec.subdomain.as_ref() == Some(&key.name)
                    && let Some(hostname) = spec.hostname.as_deref().filter(|name| !name.is_empty())
                {
                    pod_addresses(pod).into_iter().for_each(|address| add(address, hostname));
                }
            }
            return names;
        }
        let subsets =
            self.world.endpoints.get(key).into_iter().flat_map(|made| made.subsets.iter().flatten());
        for subset in subsets {
            for address in subset.addresses.iter().chain(&subset.not_ready_addresses).flatten() {
                if let (Ok(ip), Some(hostname)) = (address.ip.parse(), &address.hostname) {
                    add(ip, hostname);
                }
            }
        }
        for slice in self.world.endpoint_slices.values().filter(|slice| slice_is_of(slice, key)) {
            for endpoint in slice.endpoints.iter().flatten() {
                let first = endpoint.addresses.first().and_then(|address| address.parse().ok());
                if let (Some(ip), Some(hostname)) = (first, &endpoint.hostname) {
                    add(ip, hostname);
                }
            }
        }
        names
    }

    /// The names that stand for one endpoint of a headless service.
    fn targets(&self, key: &ObjectKey, headless: &Headless, address: IpAddr) -> Vec<Target> {
        let service = self.fqdn(key);
        match headless.hostnames.get(&address) {
            Some(names) => names.iter().map(|name| Target::Named(format!("{name}.{service}"))).collect(),
            None => vec![Target::Under(service)],
        }
    }

    fn fqdn(&self, key: &ObjectKey) -> String {
        format!("{}.{}.svc.{}", key.name, key.namespace, self.promises.cluster_domain)
    }
}

/// [Service, "Headless Services"](https://kubernetes.io/docs/concepts/services-networking/service/#headless-services):
/// "explicitly specifying "None" for the cluster IP address".
fn is_headless(service: &Service) -> bool {
    service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref()) == Some("None")
}

/// `10-244-1-2.default.pod.cluster.local`: required, deprecated, and off in many a cluster. Where
/// there is an answer, the name says which.
fn deprecated(label: &str, kind: RecordType) -> Resolution {
    let rule = citation::DNS_DEPRECATED;
    let v4 = label.replace('-', ".").parse::<Ipv4Addr>().map(IpAddr::V4);
    let address = v4.or_else(|_| label.replace('-', ":").parse::<Ipv6Addr>().map(IpAddr::V6));
    match address {
        Ok(address) => Resolution::AtMost {
            perhaps: [address].into_iter().filter(|one| kind.is_of(*one)).map(Promised::Address).collect(),
            why: "records for the addresses of pods are deprecated".to_owned(),
            rule,
        },
        Err(_) => not_promised(format!("`{label}` is no address of a pod"), rule),
    }
}

fn no_service(key: &ObjectKey) -> Resolution {
    Resolution::Nothing {
        why: format!("there is no service `{}` in namespace `{}`", key.name, key.namespace),
        rule: citation::DNS_CLUSTER_IP,
    }
}

fn no_data(name: &str) -> Resolution {
    Resolution::NoData { why: format!("`{name}` has no record of this type"), rule: citation::NO_DATA }
}

fn not_promised(why: String, rule: Citation) -> Resolution {
    Resolution::NotPromised { why, rule }
}

/// "All comparisons between query data and data in Kubernetes is case-insensitive".
pub(crate) fn normal(name: &str) -> String {
    name.trim_end_matches('.').to_lowercase()
}

/// The address a name of `in-addr.arpa` or `ip6.arpa` stands for.
fn reversed(name: &str) -> Option<IpAddr> {
    if let Some(digits) = name.strip_suffix(".in-addr.arpa") {
        let parts: Vec<&str> = digits.rsplit('.').collect();
        return parts.join(".").parse::<Ipv4Addr>().ok().map(IpAddr::V4);
    }
    let nibbles: Vec<&str> = name.strip_suffix(".ip6.arpa")?.rsplit('.').collect();
    let groups: Vec<String> = nibbles.chunks(4).map(<[&str]>::concat).collect();
    groups.join(":").parse::<Ipv6Addr>().ok().map(IpAddr::V6)
}

fn is_version(text: &str) -> bool {
    let core = text.split(['-', '+']).next().unwrap_or_default();
    let numbers: Vec<&str> = core.split('.').collect();
    numbers.len() == 3 && numbers.iter().all(|number| number.parse::<u32>().is_ok())
}
