//! Machines, wires and routes.

use std::io::ErrorKind::{AddrNotAvailable, ConnectionRefused, HostUnreachable, NetworkUnreachable};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use libtest_mimic::Trial;
use stickler_testbed::enter::host_listener;
use stickler_testbed::namespace::NetNamespace;
use stickler_testbed::topology::{
    CLIENT_HOST, HostPort, OUTSIDE_HOSTS, OUTSIDE_NAMED, Topology, TopologySpec,
};

use crate::lab::{Lab, PATIENCE, PORT, ask_udp, call, must_fail, pod_ip, serve, udp};
use crate::trial;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("topology::pods_reach_each_other_with_their_own_address", pods_reach_each_other),
        trial("topology::nodes_reach_pods_and_each_other", nodes_reach_pods_and_each_other),
        trial("topology::the_client_host_reaches_nodes_only", the_client_host_reaches_nodes_only),
        trial("topology::there_is_no_way_out", there_is_no_way_out),
        trial("topology::everybody_is_told_that_there_is_no_way", everybody_is_told_that_there_is_no_way),
        trial("topology::pods_speak_to_the_world_in_their_nodes_name", pods_speak_to_the_world),
        trial("topology::ports_of_a_node_lead_to_a_pod", ports_of_a_node_lead_to_a_pod),
        trial("topology::a_detached_address_can_be_used_again", a_detached_address_can_be_used_again),
        trial("topology::a_dropped_lab_is_gone", a_dropped_lab_is_gone),
        trial("topology::fifty_nodes", fifty_nodes),
        trial("enter::the_host_can_be_listened_on", the_host_can_be_listened_on),
    ]
}

async fn pods_reach_each_other() -> anyhow::Result<()> {
    let lab = Lab::with_pods(&[[0, 2], [0, 3], [1, 2]]).await?;
    for [node, pod] in [[0, 2], [0, 3], [1, 2]] {
        let seen = call(lab.pod(0, 2), pod_ip(node, pod), PORT).await?;
        ensure!((seen.by, seen.saw) == (pod_ip(node, pod), pod_ip(0, 2)), "{seen:?}");
    }
    let seen = ask_udp(&udp(lab.pod(0, 2), pod_ip(1, 2), PORT).await?).await?;
    ensure!(seen.saw == pod_ip(0, 2), "{seen:?}");
    must_fail(lab.pod(0, 2), pod_ip(1, 2), 1, &[ConnectionRefused]).await?;
    must_fail(lab.pod(0, 2), pod_ip(0, 1), PORT, &[ConnectionRefused]).await
}

async fn nodes_reach_pods_and_each_other() -> anyhow::Result<()> {
    let lab = Lab::with_pods(&[[0, 2], [1, 2]]).await?;
    let local = call(lab.node(0), pod_ip(0, 2), PORT).await?;
    ensure!(local.saw == lab.topology.nodes()[0].pod_gateway(), "{local:?}");
    let remote = call(lab.node(0), pod_ip(1, 2), PORT).await?;
    ensure!(remote.saw == lab.node_ip(0), "{remote:?}");
    // A refusal proves that the other node was reached.
    must_fail(lab.node(0), lab.node_ip(2), PORT, &[ConnectionRefused]).await?;
    must_fail(lab.pod(0, 2), lab.node_ip(2), PORT, &[ConnectionRefused]).await
}

async fn the_client_host_reaches_nodes_only() -> anyhow::Result<()> {
    let lab = Lab::with_pods(&[[0, 2]]).await?;
    let client = lab.topology.client_host();
    for node in 0..3 {
        must_fail(client, lab.node_ip(node), PORT, &[ConnectionRefused]).await?;
    }
    must_fail(client, pod_ip(0, 2), PORT, &[NetworkUnreachable]).await?;
    must_fail(client, Ipv4Addr::new(10, 96, 0, 1), 443, &[NetworkUnreachable]).await
}

/// Not even to loopback of the machine: each namespace has its own.
async fn there_is_no_way_out() -> anyhow::Result<()> {
    let lab = Lab::with_pods(&[[0, 2]]).await?;
    let nobody = [Ipv4Addr::new(1, 1, 1, 1), Ipv4Addr::new(10, 96, 0, 1), Ipv4Addr::new(10, 244, 200, 2)];
    for ip in nobody {
        must_fail(lab.node(1), ip, 80, &[HostUnreachable, NetworkUnreachable]).await?;
        must_fail(lab.pod(0, 2), ip, 80, &[HostUnreachable, NetworkUnreachable]).await?;
        must_fail(lab.topology.client_host(), ip, 80, &[NetworkUnreachable]).await?;
    }
    let host = host_listener(([127, 0, 0, 1], 0).into())?;
    let port = host.local_addr()?.port();
    for place in [lab.node(0), lab.pod(0, 2), lab.topology.client_host()] {
        must_fail(place, Ipv4Addr::LOCALHOST, port, &[ConnectionRefused]).await?;
    }
    let home = NetNamespace::home()?;
    let out = [NetworkUnreachable, AddrNotAvailable];
    must_fail(home, Ipv4Addr::new(1, 1, 1, 1), 80, &out).await?;
    must_fail(home, CLIENT_HOST, 80, &out).await
}

/// By the LAN's router, and by the node for addresses of its own pods: however many ask at once.
async fn everybody_is_told_that_there_is_no_way() -> anyhow::Result<()> {
    let lab = Lab::with_pods(&[[0, 2]]).await?;
    for from in [lab.node(1), lab.pod(0, 2)] {
        let calls = (1..=50).map(|last| async move {
            let (cluster_ip, pod) = (Ipv4Addr::new(10, 96, 0, last), pod_ip(0, 100 + last));
            must_fail(from, cluster_ip, 80, &[HostUnreachable]).await?;
            must_fail(from, pod, 80, &[HostUnreachable]).await
        });
        futures::future::try_join_all(calls).await?;
    }
    // It goes on being a way, for what has one.
    call(lab.pod(0, 2), pod_ip(0, 2), PORT).await?;
    call(lab.node(1), pod_ip(0, 2), PORT).await.map(drop)
}

async fn pods_speak_to_the_world() -> anyhow::Result<()> {
    let lab = Lab::with_pods(&[[1, 2]]).await?;
    let host = OUTSIDE_HOSTS[0];
    serve(lab.topology.outside(), host)?;
    for from in [lab.pod(1, 2), lab.node(1)] {
        let seen = call(from, host, PORT).await?;
        ensure!((seen.by, seen.saw) == (host, lab.node_ip(1)), "{seen:?}");
    }
    // One host with several addresses answers datagrams with its first.
    let seen = ask_udp(&udp(lab.pod(1, 2), OUTSIDE_NAMED, PORT).await?).await?;
    ensure!(seen.saw == lab.node_ip(1), "{seen:?}");
    // The client host has no way there.
    must_fail(lab.topology.client_host(), host, PORT, &[NetworkUnreachable]).await
}

async fn ports_of_a_node_lead_to_a_pod() -> anyhow::Result<()> {
    const UDP: u8 = 17;
    let lab = Lab::with_pods(&[[1, 2], [2, 2]]).await?;
    let (node, pod) = (&lab.topology.nodes()[1], pod_ip(1, 2));
    let tcp = HostPort { at: None, protocol: 6, port: 80, pod_port: PORT };
    let ports = [tcp, HostPort { protocol: UDP, at: Some(node.ip), ..tcp }];
    node.map_ports(pod, &ports).await?;
    let client = lab.topology.client_host();
    for from in [client, lab.pod(2, 2), lab.node(0), lab.node(1), lab.pod(1, 2)] {
        ensure!(call(from, node.ip, 80).await?.by == pod);
    }
    ensure!(call(client, node.ip, 80).await?.saw == CLIENT_HOST, "the source is kept");
    let socket = udp(client, node.ip, 80).await?;
    ensure!(ask_udp(&socket).await?.by == pod);
    ensure!(node.map_ports(pod_ip(1, 3), &ports[..1]).await.is_err(), "one port was given to two pods");
    node.unmap_ports(pod, &ports).await?;
    for from in [client, lab.node(1)] {
        must_fail(from, node.ip, 80, &[ConnectionRefused]).await?;
    }
    ensure!(ask_udp(&socket).await.is_err(), "the datagrams still arrive");
    node.map_ports(pod, &ports).await?;
    ensure!(call(client, node.ip, 80).await?.by == pod, "it can be mapped again");
    Ok(())
}

async fn a_detached_address_can_be_used_again() -> anyhow::Result<()> {
    let lab = Lab::with_pods(&[[0, 2], [1, 2]]).await?;
    let node = &lab.topology.nodes()[1];
    let other = NetNamespace::new()?;
    ensure!(node.attach_pod(&other, pod_ip(1, 2)).await.is_err(), "an address was given to two pods");
    node.detach_pod(pod_ip(1, 2)).await?;
    node.detach_pod(pod_ip(1, 2)).await?;
    must_fail(lab.pod(0, 2), pod_ip(1, 2), PORT, &[HostUnreachable]).await?;
    let other = NetNamespace::new()?;
    node.attach_pod(&other, pod_ip(1, 2)).await?;
    must_fail(lab.pod(0, 2), pod_ip(1, 2), PORT, &[ConnectionRefused]).await?;
    let foreign = node.attach_pod(&other, pod_ip(2, 2)).await;
    ensure!(foreign.is_err(), "a node took an address of another one's network");
    Ok(())
}

/// The far end of a pod's link vanishes with the node, and so does the near one.
async fn a_dropped_lab_is_gone() -> anyhow::Result<()> {
    let mut lab = Lab::with_pods(&[[0, 2]]).await?;
    let pod = lab.pods.remove(&pod_ip(0, 2)).context("the pod is there")?;
    let links = || pod.run(|| std::fs::read_to_string("/proc/thread-self/net/dev"));
    ensure!(links()??.contains("eth0"), "the pod has no link");
    drop(lab);
    let mut again = tokio::time::interval(Duration::from_millis(10));
    tokio::time::timeout(PATIENCE, async {
        while links()??.contains("eth0") {
            again.tick().await;
        }
        anyhow::Ok(())
    })
    .await
    .context("the pod's link is still there")?
}

async fn fifty_nodes() -> anyhow::Result<()> {
    let begun = Instant::now();
    let topology = Topology::build(&TopologySpec { nodes: 50, ..TopologySpec::default() }).await?;
    ensure!(begun.elapsed() < Duration::from_secs(30), "took {:?}", begun.elapsed());
    let nodes = topology.nodes();
    must_fail(&nodes[49].namespace, nodes[0].ip, PORT, &[ConnectionRefused]).await?;
    must_fail(&nodes[3].namespace, nodes[40].ip, PORT, &[ConnectionRefused]).await
}

async fn the_host_can_be_listened_on() -> anyhow::Result<()> {
    let listener = host_listener(([127, 0, 0, 1], 0).into())?;
    let address = listener.local_addr()?;
    // Home is the lab by now, where nobody listens.
    let refused = NetNamespace::home()?.connect(address).await;
    ensure!(refused.is_err_and(|error| error.kind() == ConnectionRefused), "home is the host");
    ensure!(host_listener(address).is_err(), "one address was bound twice");
    Ok(())
}
