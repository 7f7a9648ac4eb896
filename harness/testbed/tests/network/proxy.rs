//! The proxy's rules, without an API: what was asked for is what connections meet.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind::{ConnectionRefused, HostUnreachable, PermissionDenied};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use libtest_mimic::Trial;
use stickler_testbed::proxy::{At, Backends, Dataplane, Desired, Endpoint, Frontend, Protocol};
use stickler_testbed::topology::{CLIENT_HOST, CLUSTER_CIDR};
use tokio::sync::oneshot::error::TryRecvError;

use crate::lab::{Answer, Lab, PORT, ask, ask_udp, call, connect, must_be_dropped, must_fail, pod_ip, udp};
use crate::trial;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("proxy::a_cluster_ip_answers_pods_and_nodes", a_cluster_ip_answers_pods_and_nodes),
        trial("proxy::a_cluster_ip_spreads_over_all_endpoints", a_cluster_ip_spreads),
        trial("proxy::a_node_port_answers_everywhere", a_node_port_answers_everywhere),
        trial("proxy::a_pod_reaches_itself_through_its_service", a_pod_reaches_itself),
        trial("proxy::without_endpoints_calls_are_refused", without_endpoints_calls_are_refused),
        trial("proxy::an_unserved_cluster_ip_is_no_host", an_unserved_cluster_ip_is_no_host),
        trial("proxy::udp_follows_the_endpoints", udp_follows_the_endpoints),
        trial("proxy::connections_outlive_changes", connections_outlive_changes),
        trial("proxy::no_new_connection_is_lost_while_endpoints_flap", no_new_connection_is_lost),
        trial("proxy::a_new_proxy_takes_over_from_the_old_one", a_new_proxy_takes_over),
        trial("proxy::policy_local_keeps_traffic_and_source", policy_local_keeps_traffic_and_source),
        trial("proxy::policy_local_is_for_callers_from_outside", policy_local_is_for_callers_from_outside),
        trial("proxy::source_ranges_admit_nobody_else", source_ranges_admit_nobody_else),
        trial("proxy::affinity_keeps_a_client_at_its_endpoint", affinity_keeps_a_client),
        trial("proxy::thousands_of_services_fit", thousands_of_services_fit),
    ]
}

const SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
const CLUSTER_IP: Frontend = Frontend { at: At::ClusterIp(SERVICE), protocol: Protocol::Tcp, port: 80 };
const NODE_PORT: Frontend = Frontend { at: At::NodePort, protocol: Protocol::Tcp, port: 31234 };

fn over_udp(frontend: Frontend) -> Frontend {
    Frontend { protocol: Protocol::Udp, ..frontend }
}

fn backends(pods: &[[u8; 2]]) -> Backends {
    Backends::anywhere(pods.iter().map(|[node, pod]| Endpoint { ip: pod_ip(*node, *pod), port: PORT }))
}

fn desired(frontends: &[Frontend], pods: &[[u8; 2]]) -> Desired {
    Desired { frontends: frontends.iter().map(|frontend| (*frontend, backends(pods))).collect() }
}

/// The proxies of all nodes.
struct Proxies(Vec<Dataplane>);

impl Proxies {
    fn of(lab: &Lab) -> anyhow::Result<Self> {
        let nodes = lab.topology.nodes().iter();
        Ok(Self(nodes.map(|node| Dataplane::open(&node.namespace, CLUSTER_CIDR)).collect::<Result<_, _>>()?))
    }

    async fn apply(&mut self, desired: &Desired) -> anyhow::Result<()> {
        for proxy in &mut self.0 {
            proxy.apply(desired).await?;
        }
        Ok(())
    }
}

const PODS: [[u8; 2]; 3] = [[0, 2], [1, 2], [2, 2]];

async fn a_cluster_ip_answers_pods_and_nodes() -> anyhow::Result<()> {
    let lab = Lab::with_pods(&[[0, 2], [0, 9], [1, 2]]).await?;
    let mut proxies = Proxies::of(&lab)?;
    for backend in [[0, 2], [1, 2]] {
        proxies.apply(&desired(&[CLUSTER_IP, over_udp(CLUSTER_IP)], &[backend])).await?;
        let by = pod_ip(backend[0], backend[1]);
        let kept = Answer { by, saw: pod_ip(0, 9) };
        let seen = call(lab.pod(0, 9), SERVICE, 80).await?;
        ensure!(seen == kept, "tcp from a pod: {seen:?}");
        let seen = ask_udp(&udp(lab.pod(0, 9), SERVICE, 80).await?).await?;
        ensure!(seen == kept, "udp from a pod: {seen:?}");
        for node in 0..3 {
            // A node's pods see their gateway, pods of others the node.
            let here = &lab.topology.nodes()[node];
            let saw = if node == usize::from(backend[0]) { here.pod_gateway() } else { here.ip };
            let seen = call(lab.node(node), SERVICE, 80).await?;
            ensure!(seen == Answer { by, saw }, "tcp from node {node}: {seen:?}");
            let seen = ask_udp(&udp(lab.node(node), SERVICE, 80).await?).await?;
            ensure!(seen == Answer { by, saw }, "udp from node {node}: {seen:?}");
        }
    }
    Ok(())
}

/// 300 calls over 3 endpoints: fewer than 40 at one of them has a chance of less than 1e-12.
async fn a_cluster_ip_spreads() -> anyhow::Result<()> {
    let lab = Lab::with_pods(&PODS).await?;
    Proxies::of(&lab)?.apply(&desired(&[CLUSTER_IP], &PODS)).await?;
    let mut calls = BTreeMap::new();
    for _ in 0..300 {
        *calls.entry(call(lab.pod(0, 2), SERVICE, 80).await?.by).or_insert(0) += 1;
    }
    ensure!(calls.len() == 3 && calls.values().all(|count| *count >= 40), "{calls:?}");
    Ok(())
}

async fn a_node_port_answers_everywhere() -> anyhow::Result<()> {
    let lab = Lab::with_pods(&[[0, 2], [1, 2]]).await?;
    let both = [NODE_PORT, over_udp(NODE_PORT)];
    Proxies::of(&lab)?.apply(&desired(&both, &[[0, 2]])).await?;
    let places = [lab.topology.client_host(), lab.node(0), lab.node(1), lab.pod(0, 2), lab.pod(1, 2)];
    for (place, from) in places.into_iter().enumerate() {
        for node in 0..3 {
            let here = &lab.topology.nodes()[node];
            let saw = if node == 0 { here.pod_gateway() } else { here.ip };
            let promised = Answer { by: pod_ip(0, 2), saw };
            let seen = call(from, here.ip, NODE_PORT.port).await?;
            ensure!(seen.by == promised.by, "tcp from place {place} to node {node}: {seen:?}");
            let datagram = ask_udp(&udp(from, here.ip, NODE_PORT.port).await?).await?;
            ensure!(datagram.by == promised.by, "udp from place {place} to node {node}: {datagram:?}");
            if place == 0 {
                ensure!(seen == promised && datagram == promised, "source at node {node}: {seen:?}");
            }
        }
    }
    must_fail(lab.node(0), Ipv4Addr::LOCALHOST, NODE_PORT.port, &[ConnectionRefused]).await
}

async fn a_pod_reaches_itself() -> anyhow::Result<()> {
    let lab = Lab::with_pods(&PODS).await?;
    let all = [CLUSTER_IP, over_udp(CLUSTER_IP), NODE_PORT];
    let mut proxies = Proxies::of(&lab)?;
    for pod @ [node, number] in PODS {
        proxies.apply(&desired(&all, &[pod])).await?;
        let itself = lab.pod(node, number);
        for _ in 0..5 {
            let seen = call(itself, SERVICE, 80).await?;
            ensure!(seen.by == pod_ip(node, number) && seen.saw == pod_ip(node, 1), "{seen:?}");
            ask_udp(&udp(itself, SERVICE, 80).await?).await?;
            call(itself, lab.node_ip(0), NODE_PORT.port).await?;
        }
    }
    Ok(())
}

async fn without_endpoints_calls_are_refused() -> anyhow::Result<()> {
    let lab = Lab::with_pods(&[[0, 2]]).await?;
    let all = [CLUSTER_IP, over_udp(CLUSTER_IP), NODE_PORT, over_udp(NODE_PORT)];
    let mut proxies = Proxies::of(&lab)?;
    proxies.apply(&desired(&all, &[])).await?;
    // More often than ICMP errors are rationed by default.
    for _ in 0..20 {
        for place in [lab.pod(0, 2), lab.node(0), lab.node(1)] {
            must_fail(place, SERVICE, 80, &[ConnectionRefused]).await?;
            must_fail(place, lab.node_ip(1), NODE_PORT.port, &[ConnectionRefused]).await?;
            let datagram = ask_udp(&udp(place, SERVICE, 80).await?).await;
            let error = datagram.err().and_then(|error| error.downcast::<std::io::Error>().ok());
            // On the node itself the call that sends already fails, as with kube-proxy.
            let kind = error.map(|error| error.kind());
            ensure!([Some(ConnectionRefused), Some(PermissionDenied)].contains(&kind), "udp: {kind:?}");
        }
        must_fail(lab.topology.client_host(), lab.node_ip(2), NODE_PORT.port, &[ConnectionRefused]).await?;
    }
    // A port the service does not have.
    must_fail(lab.pod(0, 2), SERVICE, 81, &[ConnectionRefused]).await?;
    must_fail(lab.node(0), SERVICE, 81, &[ConnectionRefused]).await?;

    proxies.apply(&desired(&all, &[[0, 2]])).await?;
    call(lab.pod(0, 2), SERVICE, 80).await?;
    call(lab.topology.client_host(), lab.node_ip(2), NODE_PORT.port).await?;
    proxies.apply(&desired(&all, &[])).await?;
    must_fail(lab.node(2), SERVICE, 80, &[ConnectionRefused]).await
}

async fn an_unserved_cluster_ip_is_no_host() -> anyhow::Result<()> {
    let lab = Lab::with_pods(&[[0, 2]]).await?;
    let mut proxies = Proxies::of(&lab)?;
    proxies.apply(&desired(&[CLUSTER_IP], &[[0, 2]])).await?;
    proxies.apply(&Desired::default()).await?;
    for place in [lab.pod(0, 2), lab.node(0)] {
        must_fail(place, SERVICE, 80, &[HostUnreachable]).await?;
    }
    Ok(())
}

/// One socket, whose flow the kernel remembers.
async fn udp_follows_the_endpoints() -> anyhow::Result<()> {
    let lab = Lab::with_pods(&PODS).await?;
    let both = [over_udp(CLUSTER_IP), over_udp(NODE_PORT)];
    let mut proxies = Proxies::of(&lab)?;
    proxies.apply(&Desired::default()).await?;
    let inside = udp(lab.pod(0, 2), SERVICE, 80).await?;
    let outside = udp(lab.topology.client_host(), lab.node_ip(1), NODE_PORT.port).await?;
    // Before the service exists, a datagram leaves an untranslated flow behind.
    for socket in [&inside, &outside] {
        let answered = tokio::time::timeout(Duration::from_millis(200), ask_udp(socket)).await;
        ensure!(!matches!(answered, Ok(Ok(_))), "somebody answered: {answered:?}");
    }
    for pod @ [node, number] in [PODS[1], PODS[2], PODS[1]] {
        proxies.apply(&desired(&both, &[pod])).await?;
        for _ in 0..3 {
            let (a, b) = (ask_udp(&inside).await?, ask_udp(&outside).await?);
            ensure!(a.by == pod_ip(node, number) && b.by == a.by, "{a:?} {b:?}");
        }
    }
    // A flow to an endpoint that stays is not moved.
    proxies.apply(&desired(&both, &PODS)).await?;
    for _ in 0..10 {
        ensure!(ask_udp(&inside).await?.by == pod_ip(1, 2), "the flow was moved");
    }
    Ok(())
}

async fn connections_outlive_changes() -> anyhow::Result<()> {
    let lab = Lab::with_pods(&PODS).await?;
    let both = [CLUSTER_IP, NODE_PORT];
    let mut proxies = Proxies::of(&lab)?;
    proxies.apply(&desired(&both, &PODS[1..2])).await?;
    let mut inside = connect(lab.pod(0, 2), SERVICE, 80).await?;
    let mut outside = connect(lab.topology.client_host(), lab.node_ip(0), NODE_PORT.port).await?;
    for round in [&PODS[1..2], &PODS[2..3], &[], &PODS[..]] {
        proxies.apply(&desired(&both, round)).await?;
        ensure!(ask(&mut inside).await?.by == pod_ip(1, 2));
        ensure!(ask(&mut outside).await?.by == pod_ip(1, 2));
    }
    Ok(())
}

async fn a_new_proxy_takes_over() -> anyhow::Result<()> {
    let lab = Lab::with_pods(&PODS).await?;
    let mut old = Dataplane::open(lab.node(0), CLUSTER_CIDR)?;
    old.prepare().await?;
    old.apply(&desired(&[CLUSTER_IP], &PODS[..1])).await?;
    drop(old);
    let mut new = Dataplane::open(lab.node(0), CLUSTER_CIDR)?;
    new.prepare().await?;
    ensure!(call(lab.pod(0, 2), SERVICE, 80).await?.by == pod_ip(0, 2), "the old rules are gone");
    new.apply(&desired(&[CLUSTER_IP], &PODS[1..2])).await?;
    ensure!(call(lab.pod(0, 2), SERVICE, 80).await?.by == pod_ip(1, 2), "the old rules are still there");
    Ok(())
}

/// Endpoints come and go as fast as the kernel takes it; each is alive whenever it is an endpoint.
async fn no_new_connection_is_lost() -> anyhow::Result<()> {
    let lab = Lab::with_pods(&PODS).await?;
    let both = [CLUSTER_IP, NODE_PORT];
    let mut proxies = Proxies::of(&lab)?;
    proxies.apply(&desired(&both, &PODS)).await?;
    // A task of its own, so that packets and changes meet on different processors.
    let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
    let flapping = tokio::spawn(async move {
        let mut changes = 0_usize;
        let rounds = [&PODS[..1], &PODS[..], &PODS[1..], &PODS[..2], &PODS[2..]];
        while stopped.try_recv().is_err_and(|error| error == TryRecvError::Empty) {
            proxies.apply(&desired(&both, rounds[changes % rounds.len()])).await?;
            changes += 1;
        }
        anyhow::Ok(changes)
    });
    for round in 0..1000 {
        call(lab.pod(0, 2), SERVICE, 80).await.with_context(|| format!("call {round}"))?;
        let node = lab.node_ip(round % 3);
        let outside = call(lab.topology.client_host(), node, NODE_PORT.port).await;
        outside.with_context(|| format!("call {round} from outside"))?;
    }
    drop(stop);
    let changes = flapping.await??;
    ensure!(changes >= 100, "only {changes} changes");
    Ok(())
}

async fn policy_local_keeps_traffic_and_source() -> anyhow::Result<()> {
    let lab = Lab::with_pods(&PODS).await?;
    let far = Endpoint { ip: pod_ip(1, 2), port: PORT };
    let near = Endpoint { ip: pod_ip(0, 2), port: PORT };
    let mut proxies = Proxies::of(&lab)?;
    for (node, proxy) in proxies.0.iter_mut().enumerate() {
        let mut all = backends(&PODS[..2]);
        all.local =
            Some([near, far].into_iter().filter(|endpoint| endpoint.ip == pod_ip(node as u8, 2)).collect());
        let frontends = [(NODE_PORT, all.clone()), (CLUSTER_IP, all)];
        proxy.apply(&Desired { frontends: frontends.into() }).await?;
    }
    let client = lab.topology.client_host();
    for node in 0..2 {
        let seen = call(client, lab.node_ip(node), NODE_PORT.port).await?;
        ensure!(seen.by == pod_ip(node as u8, 2) && seen.saw == CLIENT_HOST, "{seen:?}");
        let seen = call(lab.pod(node as u8, 2), SERVICE, 80).await?;
        ensure!(seen.by == pod_ip(node as u8, 2), "{seen:?}");
    }
    must_be_dropped(client, lab.node_ip(2), NODE_PORT.port).await?;
    must_be_dropped(lab.pod(2, 2), SERVICE, 80).await?;
    let anywhere: BTreeSet<Ipv4Addr> = [pod_ip(0, 2), pod_ip(1, 2)].into();
    let seen = call(lab.pod(2, 2), lab.node_ip(2), NODE_PORT.port).await?;
    ensure!(anywhere.contains(&seen.by), "{seen:?}");
    let seen = call(lab.node(2), lab.node_ip(2), NODE_PORT.port).await?;
    ensure!(anywhere.contains(&seen.by), "{seen:?}");
    Ok(())
}

/// At an external address too; here it is the first node's own, which serves nothing itself.
async fn policy_local_is_for_callers_from_outside() -> anyhow::Result<()> {
    let lab = Lab::with_pods(&PODS).await?;
    let far = Endpoint { ip: pod_ip(1, 2), port: PORT };
    let near = Endpoint { ip: pod_ip(0, 2), port: PORT };
    let external = Frontend { at: At::ExternalIp(lab.node_ip(0)), protocol: Protocol::Tcp, port: 8085 };
    let client = lab.topology.client_host();
    let mut proxies = Proxies::of(&lab)?;
    for affinity in [None, Some(600)] {
        for (local, outside) in [([near].into(), Some(near)), (BTreeSet::new(), None)] {
            for (node, proxy) in proxies.0.iter_mut().enumerate() {
                let mut backends = Backends::anywhere([near, far]);
                backends.affinity = affinity;
                backends.local = Some(if node == 0 { local.clone() } else { BTreeSet::new() });
                proxy.apply(&Desired { frontends: [(external, backends)].into() }).await?;
            }
            match outside {
                Some(endpoint) => {
                    for _ in 0..5 {
                        let seen = call(client, lab.node_ip(0), 8085).await?;
                        ensure!(seen == Answer { by: endpoint.ip, saw: CLIENT_HOST }, "{seen:?}");
                    }
                }
                None => must_be_dropped(client, lab.node_ip(0), 8085).await?,
            }
            // Pods and nodes reach any endpoint, wherever they are, in the name of their node.
            let third = Some(lab.node_ip(2));
            for (from, node) in [(lab.pod(2, 2), third), (lab.node(2), third), (lab.node(0), None)] {
                let seen = call(from, lab.node_ip(0), 8085).await?;
                ensure!([near.ip, far.ip].contains(&seen.by), "{seen:?}");
                ensure!(node.is_none_or(|node| node == seen.saw), "{seen:?}");
            }
        }
    }
    Ok(())
}

async fn source_ranges_admit_nobody_else() -> anyhow::Result<()> {
    let lab = Lab::with_pods(&PODS).await?;
    let (protocol, port) = (Protocol::Tcp, 8085);
    let external = Frontend { at: At::ExternalIp(lab.node_ip(0)), protocol, port };
    let client = lab.topology.client_host();
    let mut proxies = Proxies::of(&lab)?;
    let (outside, own) = (format!("{CLIENT_HOST}/32"), format!("{}/16", pod_ip(0, 0)));
    for (ranges, from_outside, from_pod) in [
        (vec![outside.clone()], true, false),
        (vec!["10.0.0.0/8".to_owned()], false, true),
        (vec!["0.0.0.0/0".to_owned()], true, true),
        (vec![outside, own], true, true),
        (vec![], false, false),
    ] {
        let mut backends = backends(&PODS);
        let networks = ranges.iter().map(|range| range.parse().map(|net: ipnet::Ipv4Net| net.trunc()));
        backends.sources = Some(networks.collect::<Result<_, _>>()?);
        let frontends = [(external, backends.clone()), (CLUSTER_IP, backends)];
        proxies.apply(&Desired { frontends: frontends.into() }).await?;
        for (from, admitted) in [(client, from_outside), (lab.pod(1, 2), from_pod)] {
            match admitted {
                true => drop(call(from, lab.node_ip(0), port).await.with_context(|| format!("{ranges:?}"))?),
                false => must_be_dropped(from, lab.node_ip(0), port).await?,
            }
        }
        call(lab.pod(1, 2), SERVICE, 80).await.context("the cluster IP is not restricted")?;
    }
    Ok(())
}

/// Twenty calls, three endpoints: without affinity they would all meet one with a chance of 1e-9.
async fn affinity_keeps_a_client() -> anyhow::Result<()> {
    let lab = Lab::with_pods(&PODS).await?;
    let sticky = |pods: &[[u8; 2]]| {
        let mut desired = desired(&[CLUSTER_IP, over_udp(CLUSTER_IP), NODE_PORT], pods);
        desired.frontends.values_mut().for_each(|backends| backends.affinity = Some(600));
        desired
    };
    let mut proxies = Proxies::of(&lab)?;
    proxies.apply(&sticky(&PODS)).await?;
    let clients = [lab.pod(0, 2), lab.pod(1, 2), lab.node(2), lab.topology.client_host()];
    for (number, from) in clients.into_iter().enumerate() {
        let (ip, port) = if number == 3 { (lab.node_ip(1), NODE_PORT.port) } else { (SERVICE, 80) };
        let first = call(from, ip, port).await?.by;
        for _ in 0..20 {
            let next = call(from, ip, port).await?.by;
            ensure!(next == first, "client {number} was at {first}, then at {next}");
        }
        let others: Vec<[u8; 2]> = PODS.into_iter().filter(|pod| pod_ip(pod[0], pod[1]) != first).collect();
        proxies.apply(&sticky(&others)).await?;
        let second = call(from, ip, port).await?.by;
        ensure!(second != first, "client {number} is still at {first}, which is no endpoint any more");
        proxies.apply(&sticky(&PODS)).await?;
        for _ in 0..20 {
            let next = call(from, ip, port).await?.by;
            ensure!(next == second, "client {number} was at {second}, then at {next}");
        }
    }
    ask_udp(&udp(lab.pod(0, 2), SERVICE, 80).await?).await?;
    Ok(())
}

async fn thousands_of_services_fit() -> anyhow::Result<()> {
    let lab = Lab::with_pods(&PODS).await?;
    let mut many = desired(&[CLUSTER_IP], &PODS);
    for number in 0..3000_u32 {
        let ip = Ipv4Addr::from_bits(Ipv4Addr::new(10, 97, 0, 1).to_bits() + number);
        many.frontends.insert(Frontend { at: At::ClusterIp(ip), ..CLUSTER_IP }, backends(&PODS));
    }
    let mut proxy = Dataplane::open(lab.node(0), CLUSTER_CIDR)?;
    let begun = Instant::now();
    proxy.apply(&many).await?;
    ensure!(begun.elapsed() < Duration::from_secs(20), "took {:?}", begun.elapsed());
    call(lab.pod(0, 2), Ipv4Addr::new(10, 97, 3, 7), 80).await?;
    proxy.apply(&desired(&[CLUSTER_IP], &PODS)).await?;
    call(lab.pod(0, 2), SERVICE, 80).await?;
    must_fail(lab.pod(0, 2), Ipv4Addr::new(10, 97, 3, 7), 80, &[HostUnreachable]).await
}
