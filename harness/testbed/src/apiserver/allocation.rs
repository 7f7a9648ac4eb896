//! Cluster IPs and node ports: who has which, read from the services themselves, so that nothing
//! can leak
//! ([Service ClusterIP allocation](https://kubernetes.io/docs/concepts/services-networking/cluster-ip-allocation/),
//! [Service, "Choosing your own port"](https://kubernetes.io/docs/concepts/services-networking/service/#nodeport-custom-port)).

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;

use ipnet::Ipv4Net;
use rand::Rng as _;
use serde_json::{Value, json};

use super::json::{list, number, object_mut, text};
use super::resources::SERVICES;
use super::status::FieldError;
use super::store::Transaction;
use crate::bugs::{Bug, Bugs};

/// What may be given out.
pub(crate) struct Ranges {
    pub(crate) service_cidr: Ipv4Net,
    pub(crate) node_ports: RangeInclusive<u16>,
}

impl Ranges {
    /// Every address but those of the network and of broadcast.
    fn addresses(&self) -> RangeInclusive<u32> {
        self.service_cidr.network().to_bits() + 1..=self.service_cidr.broadcast().to_bits().saturating_sub(1)
    }
}

impl Ranges {
    /// Whatever is asked for is in range; what is not, is taken from the range there is. For
    /// [`Bug::AllocatedOutOfRange`] only.
    fn without_bounds(&self, service: &Value) -> Self {
        let asks = !text(service, "/spec/clusterIP").is_empty();
        let asks_port = node_ports(service).next().is_some();
        Self {
            service_cidr: if asks { Ipv4Net::default() } else { self.service_cidr },
            node_ports: if asks_port { 1..=u16::MAX } else { self.node_ports.clone() },
        }
    }
}

/// What all other services have.
#[derive(Clone, Debug, Default)]
pub(crate) struct Taken {
    addresses: BTreeSet<u32>,
    ports: BTreeSet<i64>,
}

impl Taken {
    pub(crate) fn add(&mut self, service: &Value) {
        self.addresses.extend(text(service, "/spec/clusterIP").parse::<Ipv4Addr>().map(Ipv4Addr::to_bits));
        self.ports.extend(node_ports(service));
    }

    fn by_others(transaction: &Transaction<'_>, service: &Value, leaked: &Self) -> Self {
        let mut taken = leaked.clone();
        let uid = text(service, "/metadata/uid");
        for other in transaction.list(&SERVICES, None).map(|object| &object.value) {
            if text(other, "/metadata/uid") == uid {
                continue;
            }
            taken.add(other);
        }
        taken
    }
}

/// Gives a service the addresses and ports it needs. Those asked for by name are honoured or refused.
pub(crate) fn allocate(
    transaction: &Transaction<'_>,
    ranges: &Ranges,
    leaked: &Taken,
    bugs: &Bugs,
    service: &mut Value,
    old: Option<&Value>,
) -> Vec<FieldError> {
    let mut taken = Taken::by_others(transaction, service, leaked);
    if bugs.has(Bug::AllocatedTwice) {
        taken = Taken::default();
    }
    let everything;
    let ranges = match bugs.has(Bug::AllocatedOutOfRange) {
        true => {
            everything = ranges.without_bounds(service);
            &everything
        }
        false => ranges,
    };
    let mut errors = Vec::new();
    let kind = text(service, "/spec/type").to_owned();
    if kind == "ExternalName" {
        return errors;
    }
    let headless = text(service, "/spec/clusterIP") == "None" && !bugs.has(Bug::HeadlessGetsAddress);
    if !headless {
        allocate_address(ranges, &taken, service, old, &mut errors);
    }
    let wants_ports = match kind.as_str() {
        "NodePort" => true,
        "LoadBalancer" => {
            let asked = service.pointer("/spec/allocateLoadBalancerNodePorts");
            asked != Some(&json!(false)) || bugs.has(Bug::NodePortsForced)
        }
        _ => false,
    };
    if wants_ports || (kind == "LoadBalancer" && node_ports(service).next().is_some()) {
        allocate_ports(ranges, &mut taken, service, old, wants_ports, &mut errors);
    }
    if kind == "LoadBalancer" && text(service, "/spec/externalTrafficPolicy") == "Local" {
        allocate_health_check(ranges, &mut taken, service, old, &mut errors);
    }
    errors
}

fn allocate_address(
    ranges: &Ranges,
    taken: &Taken,
    service: &mut Value,
    old: Option<&Value>,
    errors: &mut Vec<FieldError>,
) {
    let wanted = text(service, "/spec/clusterIP").to_owned();
    let address = match wanted.as_str() {
        "" | "None" => match free_address(&ranges.addresses(), &taken.addresses) {
            Some(address) => Ipv4Addr::from_bits(address).to_string(),
            None => {
                let why = "failed to allocate a serviceIP: range is full";
                errors.push(FieldError::invalid("spec.clusterIPs", json!([]), why));
                return;
            }
        },
        _ => {
            let kept = old.is_some_and(|old| text(old, "/spec/clusterIP") == wanted);
            // Validation has refused already what is no address.
            let Ok(address) = wanted.parse::<Ipv4Addr>() else { return };
            let why = if kept {
                None
            } else if !ranges.addresses().contains(&address.to_bits()) {
                let range = ranges.service_cidr;
                Some(format!(
                    "the provided IP ({wanted}) is not in the valid range. The range of valid IPs is {range}"
                ))
            } else if taken.addresses.contains(&address.to_bits()) {
                Some("provided IP is already allocated".to_owned())
            } else {
                None
            };
            if let Some(why) = why {
                let why = format!("failed to allocate IP {wanted}: {why}");
                errors.push(FieldError::invalid("spec.clusterIPs", json!([wanted]), &why));
                return;
            }
            wanted
        }
    };
    let spec = object_mut(service, "spec");
    spec.insert("clusterIP".to_owned(), json!(address));
    spec.insert("clusterIPs".to_owned(), json!([address]));
}

fn allocate_ports(
    ranges: &Ranges,
    taken: &mut Taken,
    service: &mut Value,
    old: Option<&Value>,
    wants: bool,
    errors: &mut Vec<FieldError>,
) {
    let before: BTreeSet<i64> = old.into_iter().flat_map(node_ports).collect();
    let mut ours: BTreeSet<i64> = BTreeSet::new();
    // One number for TCP and UDP is one node port for both.
    let mut by_port: BTreeMap<i64, i64> = BTreeMap::new();
    let ports: Vec<(i64, i64)> = list(service, "/spec/ports")
        .iter()
        .map(|port| {
            (number(port, "/port").unwrap_or_default(), number(port, "/nodePort").unwrap_or_default())
        })
        .collect();
    for (index, (port, wanted)) in ports.iter().enumerate().filter(|(_, (_, wanted))| *wanted != 0) {
        if let Err(why) = claim(ranges, taken, *wanted, before.contains(wanted) || ours.contains(wanted)) {
            errors.push(FieldError::invalid(format!("spec.ports[{index}].nodePort"), *wanted, &why));
        }
        ours.insert(*wanted);
        by_port.entry(*port).or_insert(*wanted);
    }
    for (index, (port, wanted)) in ports.iter().enumerate() {
        if *wanted != 0 || !wants {
            continue;
        }
        let found = by_port.get(port).copied().or_else(|| {
            let used: BTreeSet<i64> = taken.ports.union(&ours).copied().collect();
            free_port(&ranges.node_ports, &used)
        });
        let Some(found) = found else {
            let why = "failed to allocate a nodePort: range is full";
            errors.push(FieldError::invalid(format!("spec.ports[{index}].nodePort"), 0, why));
            return;
        };
        ours.insert(found);
        by_port.insert(*port, found);
        service["spec"]["ports"][index]["nodePort"] = json!(found);
    }
    taken.ports.extend(ours);
}

fn allocate_health_check(
    ranges: &Ranges,
    taken: &mut Taken,
    service: &mut Value,
    old: Option<&Value>,
    errors: &mut Vec<FieldError>,
) {
    let wanted = number(service, "/spec/healthCheckNodePort").unwrap_or_default();
    let before = old.and_then(|old| number(old, "/spec/healthCheckNodePort")).unwrap_or_default();
    if wanted != 0 {
        if let Err(why) = claim(ranges, taken, wanted, wanted == before) {
            let why = format!("failed to allocate requested HealthCheck NodePort {wanted}: {why}");
            errors.push(FieldError::invalid("spec.healthCheckNodePort", wanted, &why));
        }
        return;
    }
    if let Some(found) = free_port(&ranges.node_ports, &taken.ports) {
        object_mut(service, "spec").insert("healthCheckNodePort".to_owned(), json!(found));
    }
}

fn claim(ranges: &Ranges, taken: &Taken, port: i64, ours: bool) -> Result<(), String> {
    let (first, last) = (ranges.node_ports.start(), ranges.node_ports.end());
    if ours {
        Ok(())
    } else if !(i64::from(*first)..=i64::from(*last)).contains(&port) {
        Err(format!("provided port is not in the valid range. The range of valid ports is {first}-{last}"))
    } else if taken.ports.contains(&port) {
        Err("provided port is already allocated".to_owned())
    } else {
        Ok(())
    }
}

fn node_ports(service: &Value) -> impl Iterator<Item = i64> {
    list(service, "/spec/ports")
        .iter()
        .filter_map(|port| number(port, "/nodePort"))
        .chain(number(service, "/spec/healthCheckNodePort"))
        .filter(|port| *port != 0)
}

/// A free address, by preference not from the band at the start that is for static ones.
fn free_address(range: &RangeInclusive<u32>, taken: &BTreeSet<u32>) -> Option<u32> {
    let size = range.end() - range.start() + 1;
    let band = if size <= 16 { 0 } else { (size / 16).clamp(16, 256).min(size) };
    free(range.start() + band, *range.end(), taken)
        .or_else(|| free(*range.start(), range.start() + band.checked_sub(1)?, taken))
}

fn free_port(range: &RangeInclusive<u16>, taken: &BTreeSet<i64>) -> Option<i64> {
    let (first, last) = (i64::from(*range.start()), i64::from(*range.end()));
    let size = last - first + 1;
    let band = if size <= 16 { 0 } else { (size / 32).clamp(16, 128).min(size) };
    free(first + band, last, taken)
        .or_else(|| if band > 0 { free(first, first + band - 1, taken) } else { None })
}

/// A random number of the range that is not taken.
fn free<T>(first: T, last: T, taken: &BTreeSet<T>) -> Option<T>
where
    T: Copy + Ord + rand::distr::uniform::SampleUniform + Successor,
{
    if first > last {
        return None;
    }
    let start = rand::rng().random_range(first..=last);
    let mut candidate = start;
    while taken.contains(&candidate) {
        candidate = if candidate == last { first } else { candidate.successor() };
        if candidate == start {
            return None;
        }
    }
    Some(candidate)
}

/// Numbers have a next one.
trait Successor {
    fn successor(self) -> Self;
}

impl Successor for u32 {
    fn successor(self) -> Self {
        self + 1
    }
}

impl Successor for i64 {
    fn successor(self) -> Self {
        self + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dynamic_addresses_avoid_the_static_band_until_it_is_all_there_is() {
        let cidr: Ipv4Net = "10.96.0.0/27".parse().unwrap();
        let ranges = Ranges { service_cidr: cidr, node_ports: 30000..=30001 };
        let range = ranges.addresses();
        assert_eq!(range.clone().count(), 30);
        let mut taken = BTreeSet::new();
        for _ in 0..14 {
            let address = free_address(&range, &taken).unwrap();
            assert!(address > range.start() + 15, "{address} is in the static band");
            assert!(taken.insert(address));
        }
        for _ in 0..16 {
            assert!(taken.insert(free_address(&range, &taken).unwrap()));
        }
        assert_eq!(free_address(&range, &taken), None);
    }

    #[test]
    fn ports_run_out() {
        let mut taken = BTreeSet::new();
        for _ in 0..2 {
            assert!(taken.insert(free_port(&(30000..=30001), &taken).unwrap()));
        }
        assert_eq!(free_port(&(30000..=30001), &taken), None);
    }
}
