//! Bugs of the load balancer.

use super::{Bug, BugCard};

pub(super) const CARDS: &[BugCard] = &[
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
];
