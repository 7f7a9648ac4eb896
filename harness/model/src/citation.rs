//! Where a promise is written: page and heading, KEP, or upstream test.

use std::fmt;

/// The text an answer of the model rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Citation {
    /// The page and heading, the KEP and section, or the upstream test, as a reader would name it.
    pub title: &'static str,
    pub url: &'static str,
}

impl fmt::Display for Citation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} <{}>", self.title, self.url)
    }
}

/// "capture traffic to the Service's `clusterIP` and `port`"
pub(crate) const VIRTUAL_IPS: Citation = Citation {
    title: "Virtual IPs and Service Proxies",
    url: "https://kubernetes.io/docs/reference/networking/virtual-ips/",
};

/// "`Local` to only route to ready node-local endpoints"
pub(crate) const INTERNAL_POLICY: Citation = Citation {
    title: "Virtual IPs, \"Internal traffic policy\"",
    url: "https://kubernetes.io/docs/reference/networking/virtual-ips/#internal-traffic-policy",
};

/// "the kube-proxy does not forward any traffic for the relevant Service"
pub(crate) const EXTERNAL_POLICY: Citation = Citation {
    title: "Virtual IPs, \"External traffic policy\"",
    url: "https://kubernetes.io/docs/reference/networking/virtual-ips/#external-traffic-policy",
};

/// "clients sending to a NodePort from within the cluster may need to take traffic policy into account"
pub(crate) const EXTERNAL_POLICY_FIELD: Citation = Citation {
    title: "API reference, ServiceSpec.externalTrafficPolicy",
    url: "https://kubernetes.io/docs/reference/kubernetes-api/service-resources/service-v1/#ServiceSpec",
};

/// "will forward traffic to those terminating endpoints"
pub(crate) const TERMINATING: Citation = Citation {
    title: "KEP-1669, proxy terminating endpoints",
    url: "https://kubernetes.io/docs/reference/networking/virtual-ips/#traffic-to-terminating-endpoints",
};

/// "only reachable from within the cluster"
pub(crate) const CLUSTER_IP: Citation = Citation {
    title: "Service, \"type: ClusterIP\"",
    url: "https://kubernetes.io/docs/concepts/services-networking/service/#type-clusterip",
};

/// "Every node in the cluster configures itself to listen on that assigned port"
pub(crate) const NODE_PORT: Citation = Citation {
    title: "Service, \"type: NodePort\"",
    url: "https://kubernetes.io/docs/concepts/services-networking/service/#type-nodeport",
};

/// "the traffic is routed to one of the endpoints for that Service"
pub(crate) const EXTERNAL_IPS: Citation = Citation {
    title: "Service, \"External IPs\"",
    url: "https://kubernetes.io/docs/concepts/services-networking/service/#external-ips",
};

/// "Traffic from the external load balancer is directed at the backend Pods"
pub(crate) const LOAD_BALANCER: Citation = Citation {
    title: "Service, \"type: LoadBalancer\"",
    url: "https://kubernetes.io/docs/concepts/services-networking/service/#loadbalancer",
};

/// "traffic through the cloud-provider load-balancer will be restricted to the specified client IPs"
pub(crate) const SOURCE_RANGES: Citation = Citation {
    title: "API reference, ServiceSpec.loadBalancerSourceRanges",
    url: "https://kubernetes.io/docs/reference/kubernetes-api/service-resources/service-v1/#ServiceSpec",
};

/// The upstream tests that look for a refusal at the cluster IP; the load balancer tests of the
/// same file look for an ICMP reject at the node port, with TCP and with UDP.
pub(crate) const REJECTED: Citation = Citation {
    title: "upstream e2e, \"Services should be rejected when no endpoints exist\"",
    url: "https://github.com/kubernetes/kubernetes/blob/master/test/e2e/network/service.go",
};

/// Says how the proxy modes differ where nothing is promised.
pub(crate) const SERVICE_IPS: Citation = Citation {
    title: "KEP-3866, \"Behavior of service IPs\"",
    url: "https://github.com/kubernetes/enhancements/tree/master/keps/sig-network/3866-nftables-proxy",
};

/// Localhost node ports work in one proxy mode, for one address family.
pub(crate) const LOCALHOST_NODE_PORTS: Citation = Citation {
    title: "KEP-3866, \"Localhost NodePorts\"; KEP-6032",
    url: "https://github.com/kubernetes/enhancements/tree/master/keps/sig-network/3866-nftables-proxy",
};

/// "preserves the original source IP address"
pub(crate) const SOURCE_NODE_PORT: Citation = Citation {
    title: "Using Source IP, \"Source IP for Services with Type=NodePort\"",
    url: "https://kubernetes.io/docs/tutorials/services/source-ip/#source-ip-for-services-with-type-nodeport",
};

/// "all pods can communicate with all other pods", without NAT
pub(crate) const NETWORK_MODEL: Citation = Citation {
    title: "Services, Load Balancing, and Networking, \"The Kubernetes network model\"",
    url: "https://kubernetes.io/docs/concepts/services-networking/#the-kubernetes-network-model",
};

/// The label hands a service to another proxy than the default one.
pub(crate) const PROXY_NAME: Citation = Citation {
    title: "upstream e2e, \"Services should implement service.kubernetes.io/service-proxy-name\"",
    url: "https://kubernetes.io/docs/reference/labels-annotations-taints/#servicekubernetesioservice-proxy-name",
};

/// "Used on: Endpoints": what is labelled so is for names only, and no proxy's.
pub(crate) const HEADLESS_LABEL: Citation = Citation {
    title: "upstream e2e, \"Services should implement service.kubernetes.io/headless\"",
    url: "https://kubernetes.io/docs/reference/labels-annotations-taints/#servicekubernetesioheadless",
};

/// "manually map the Service to the network address and port where it's running"
pub(crate) const WITHOUT_SELECTOR: Citation = Citation {
    title: "Service, \"Services without selectors\"",
    url: "https://kubernetes.io/docs/concepts/services-networking/service/#services-without-selectors",
};

/// "deliberately failing health checks"
pub(crate) const HEALTH_CHECK: Citation = Citation {
    title: "Using Source IP, \"Source IP for Services with Type=LoadBalancer\"",
    url: "https://kubernetes.io/docs/tutorials/services/source-ip/#source-ip-for-services-with-type-loadbalancer",
};

/// Names and answers of the cluster's DNS: one entry for each section that promises something.
macro_rules! dns_section {
    ($name:ident, $section:literal) => {
        pub(crate) const $name: Citation = Citation {
            title: concat!("kubernetes/dns specification ", $section),
            url: "https://github.com/kubernetes/dns/blob/master/docs/specification.md",
        };
    };
}

dns_section!(DNS_VERSION, "2.2, record for schema version");
dns_section!(DNS_CLUSTER_IP, "2.3.1, A and AAAA records of a service with cluster IP");
dns_section!(DNS_CLUSTER_IP_SRV, "2.3.2, SRV records of a service with cluster IP");
dns_section!(DNS_CLUSTER_IP_PTR, "2.3.3, PTR record of a service with cluster IP");
dns_section!(DNS_HEADLESS, "2.4.1, A and AAAA records of a headless service");
dns_section!(DNS_HEADLESS_SRV, "2.4.2, SRV records of a headless service");
dns_section!(DNS_HEADLESS_PTR, "2.4.3, PTR records of a headless service");
dns_section!(DNS_EXTERNAL_NAME, "2.5, records for external name services");
dns_section!(DNS_DEPRECATED, "2.6, deprecated records");
dns_section!(DNS_EXTENSIONS, "3, schema extensions");

/// A name that exists and has no record of the type asked for is no name error.
pub(crate) const NO_DATA: Citation = Citation {
    title: "RFC 2308, section 2.2, \"No Data\"",
    url: "https://www.rfc-editor.org/rfc/rfc2308#section-2.2",
};

/// "DNS queries may be expanded using the Pod's `/etc/resolv.conf`"
pub(crate) const DNS_SEARCH: Citation = Citation {
    title: "DNS for Services and Pods, \"Namespaces of Services\"",
    url: "https://kubernetes.io/docs/concepts/services-networking/dns-pod-service/#namespaces-of-services",
};

/// Which name server and search path a pod gets.
pub(crate) const DNS_POLICY: Citation = Citation {
    title: "DNS for Services and Pods, \"Pod's DNS Policy\"",
    url: "https://kubernetes.io/docs/concepts/services-networking/dns-pod-service/#pod-s-dns-policy",
};

/// "the kubelet adds a set of environment variables for each active Service"
pub(crate) const ENVIRONMENT: Citation = Citation {
    title: "Service, \"Environment variables\"",
    url: "https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables",
};

/// "connections from a particular client are passed to the same Pod each time"
pub(crate) const AFFINITY: Citation = Citation {
    title: "Virtual IPs, \"Session affinity\"",
    url: "https://kubernetes.io/docs/reference/networking/virtual-ips/#session-affinity",
};

/// "precedence will be given first to the longest matching path"
pub(crate) const INGRESS_PATHS: Citation = Citation {
    title: "Ingress, \"Path types\" and \"Multiple matches\"",
    url: "https://kubernetes.io/docs/concepts/services-networking/ingress/#path-types",
};

/// "the backend that should handle requests in that case"
pub(crate) const INGRESS_DEFAULT: Citation = Citation {
    title: "Ingress, \"DefaultBackend\"",
    url: "https://kubernetes.io/docs/concepts/services-networking/ingress/#default-backend",
};
