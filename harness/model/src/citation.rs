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

/// The label makes a service with a cluster IP behave as if it had none.
pub(crate) const HEADLESS_LABEL: Citation = Citation {
    title: "upstream e2e, \"Services should implement service.kubernetes.io/headless\"",
    url: "https://kubernetes.io/docs/reference/labels-annotations-taints/#servicekubernetesioheadless",
};
