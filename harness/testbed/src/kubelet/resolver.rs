//! What a container finds in `/etc` about names: its own, its pod's, and whom to ask for others
//! ([DNS for Services and Pods](https://kubernetes.io/docs/concepts/services-networking/dns-pod-service/)).

use std::net::Ipv4Addr;

use k8s_openapi::api::core::v1::{Pod, PodDNSConfig};
use kube::ResourceExt as _;

use super::environment::Place;
use super::preparation::host_network;
use crate::bugs::{Bug, Bugs};

/// The C library reads no more.
const NAMESERVERS: usize = 3;
/// "Kubernetes supports up to 32 search domains".
const SEARCHES: usize = 32;

/// Whom the node asks, and whom the cluster's pods ask.
#[derive(Clone, Debug)]
pub(crate) struct Resolver {
    /// The cluster's own DNS, if there is one.
    pub(crate) cluster: Option<Ipv4Addr>,
    pub(crate) cluster_domain: String,
    /// The node's resolver.
    pub(crate) node: Ipv4Addr,
    /// The node's search domains.
    pub(crate) node_searches: Vec<String>,
    pub(crate) bugs: Bugs,
}

impl Resolver {
    /// The files a kubelet and its runtime write into every container.
    pub(crate) fn files(&self, pod: &Pod, place: &Place) -> Vec<(String, String)> {
        [
            ("/etc/hostname", format!("{}\n", place.hostname)),
            ("/etc/hosts", self.hosts(pod, place)),
            ("/etc/resolv.conf", self.resolv_conf(pod)),
            (
                "/etc/passwd",
                "root:x:0:0:root:/root:/bin/false\nnobody:x:65534:65534:nobody:/:/bin/false\n".to_owned(),
            ),
            ("/etc/group", "root:x:0:\nnogroup:x:65534:\n".to_owned()),
        ]
        .map(|(path, contents)| (path.to_owned(), contents))
        .into()
    }

    /// The pod's name in DNS, if it has a subdomain
    /// (["Pod's hostname and subdomain fields"](https://kubernetes.io/docs/concepts/services-networking/dns-pod-service/#pod-hostname-and-subdomain-field)).
    pub(crate) fn full_name(&self, pod: &Pod, hostname: &str) -> Option<String> {
        let subdomain = pod.spec.as_ref()?.subdomain.as_deref().filter(|subdomain| !subdomain.is_empty())?;
        let namespace = pod.namespace().unwrap_or_default();
        let domain = &self.cluster_domain;
        (!host_network(pod)).then(|| format!("{hostname}.{subdomain}.{namespace}.svc.{domain}"))
    }

    /// ["Pod's DNS Policy"](https://kubernetes.io/docs/concepts/services-networking/dns-pod-service/#pod-s-dns-policy).
    fn resolv_conf(&self, pod: &Pod) -> String {
        let spec = pod.spec.as_ref();
        let policy = spec.and_then(|spec| spec.dns_policy.as_deref()).unwrap_or("ClusterFirst");
        let ours = match policy {
            "ClusterFirst" => !host_network(pod),
            "ClusterFirstWithHostNet" => true,
            _ => false,
        };
        let (mut servers, mut searches, mut options) = match self.cluster {
            _ if policy == "None" => Default::default(),
            Some(dns) if ours => {
                let (domain, namespace) = (&self.cluster_domain, pod.namespace().unwrap_or_default());
                let mut searches =
                    vec![format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.clone()];
                searches.retain(|_| !self.bugs.has(Bug::ClusterSearchMissing));
                searches.extend(self.node_searches.iter().cloned());
                (vec![dns.to_string()], searches, vec![("ndots".to_owned(), Some("5".to_owned()))])
            }
            // As kubelets do that were told of no cluster DNS.
            _ => (vec![self.node.to_string()], self.node_searches.clone(), Vec::new()),
        };
        let config = spec.and_then(|spec| spec.dns_config.as_ref());
        if let Some(config) = config.filter(|_| !self.bugs.has(Bug::DnsConfigIgnored)) {
            add(config, &mut servers, &mut searches, &mut options);
        }
        let mut text = String::new();
        if !searches.is_empty() {
            searches.truncate(SEARCHES);
            text.push_str(&format!("search {}\n", searches.join(" ")));
        }
        for server in servers.iter().take(NAMESERVERS) {
            text.push_str(&format!("nameserver {server}\n"));
        }
        if !options.is_empty() {
            let word = |(name, value): &(String, Option<String>)| match value {
                Some(value) => format!("{name}:{value}"),
                None => name.clone(),
            };
            text.push_str(&format!("options {}\n", options.iter().map(word).collect::<Vec<_>>().join(" ")));
        }
        text
    }

    fn hosts(&self, pod: &Pod, place: &Place) -> String {
        let shared = host_network(pod);
        let mut hosts = format!(
            "# Kubernetes-managed hosts file{}.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost \
             ip6-loopback\nfe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\n\
             fe00::2\tip6-allrouters\n",
            if shared { " (host network)" } else { "" }
        );
        if let Some(ip) = place.pod_ip {
            let hostname = &place.hostname;
            let names = match self.full_name(pod, hostname) {
                Some(full) => format!("{full}\t{hostname}"),
                None => hostname.clone(),
            };
            hosts.push_str(&format!("{ip}\t{names}\n"));
        }
        let aliases = pod.spec.iter().flat_map(|spec| spec.host_aliases.iter().flatten());
        let lines: String = aliases
            .map(|alias| {
                format!("{}\t{}\n", alias.ip, alias.hostnames.as_deref().unwrap_or_default().join("\t"))
            })
            .collect();
        if !lines.is_empty() {
            hosts.push_str(&format!("\n# Entries added by HostAliases.\n{lines}"));
        }
        hosts
    }
}

/// What the pod itself asks for is added; of options of one name its own wins.
fn add(
    config: &PodDNSConfig,
    servers: &mut Vec<String>,
    searches: &mut Vec<String>,
    options: &mut Vec<(String, Option<String>)>,
) {
    for (list, more) in [(servers, &config.nameservers), (searches, &config.searches)] {
        for one in more.iter().flatten() {
            if !list.contains(one) {
                list.push(one.clone());
            }
        }
    }
    for option in config.options.iter().flatten() {
        let name = option.name.clone().unwrap_or_default();
        options.retain(|(known, _)| *known != name);
        options.push((name, option.value.clone()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolver() -> Resolver {
        Resolver {
            cluster: Some(Ipv4Addr::new(10, 96, 0, 10)),
            cluster_domain: "cluster.local".into(),
            node: Ipv4Addr::new(192, 168, 199, 1),
            node_searches: vec!["lan".into(), "vm".into()],
            bugs: Bugs::default(),
        }
    }

    fn pod(spec: &serde_json::Value) -> Pod {
        let metadata = serde_json::json!({"name": "web-0", "namespace": "shop"});
        let mut pod = serde_json::json!({"metadata": metadata, "spec": {"containers": []}});
        for (key, value) in spec.as_object().expect("fields") {
            pod["spec"][key] = value.clone();
        }
        serde_json::from_value(pod).expect("a pod")
    }

    #[test]
    fn the_policy_decides_whom_to_ask() {
        let cluster = "search shop.svc.cluster.local svc.cluster.local cluster.local lan vm\n\
                       nameserver 10.96.0.10\noptions ndots:5\n";
        let node = "search lan vm\nnameserver 192.168.199.1\n";
        for (spec, text) in [
            (serde_json::json!({"dnsPolicy": "ClusterFirst"}), cluster),
            (serde_json::json!({"dnsPolicy": "ClusterFirst", "hostNetwork": true}), node),
            (serde_json::json!({"dnsPolicy": "ClusterFirstWithHostNet", "hostNetwork": true}), cluster),
            (serde_json::json!({"dnsPolicy": "Default"}), node),
            (
                serde_json::json!({"dnsPolicy": "None", "dnsConfig": {"nameservers": ["1.2.3.4"],
                    "searches": ["a.b"], "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}]}}),
                "search a.b\nnameserver 1.2.3.4\noptions ndots:2 edns0\n",
            ),
            (
                serde_json::json!({"dnsPolicy": "Default", "dnsConfig": {"searches": ["vm", "x"]}}),
                "search lan vm x\nnameserver 192.168.199.1\n",
            ),
        ] {
            assert_eq!(resolver().resolv_conf(&pod(&spec)), text, "{spec}");
        }
        let none = Resolver { cluster: None, ..resolver() };
        assert_eq!(none.resolv_conf(&pod(&serde_json::json!({}))), node);
    }

    #[test]
    fn hosts_know_the_pod_and_its_aliases() {
        let place = Place {
            hostname: "web-0".into(),
            node_name: "kube1".into(),
            host_ip: Ipv4Addr::new(192, 0, 2, 1),
            pod_ip: Some(Ipv4Addr::new(10, 0, 0, 2)),
        };
        let end = |spec: serde_json::Value| {
            let hosts = resolver().hosts(&pod(&spec), &place);
            hosts.split_once("ip6-allrouters\n").expect("the fixed part").1.to_owned()
        };
        assert_eq!(end(serde_json::json!({})), "10.0.0.2\tweb-0\n");
        assert_eq!(
            end(serde_json::json!({"subdomain": "db"})),
            "10.0.0.2\tweb-0.db.shop.svc.cluster.local\tweb-0\n"
        );
        assert_eq!(
            end(serde_json::json!({"hostAliases": [{"ip": "1.2.3.4", "hostnames": ["a", "b"]}]})),
            "10.0.0.2\tweb-0\n\n# Entries added by HostAliases.\n1.2.3.4\ta\tb\n"
        );
    }
}
