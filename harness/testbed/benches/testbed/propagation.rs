//! How long a change of an EndpointSlice takes to reach callers: from the request to the first call on
//! every node that is answered by the new endpoint.

use std::net::{Ipv4Addr, SocketAddr};
use std::pin::pin;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use futures::TryStreamExt as _;
use futures::future::try_join_all;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use serde_json::{Value, json};
use stickler_testbed::namespace::NetNamespace;
use stickler_testbed::{Testbed, TestbedSpec};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use crate::Effort;
use crate::figures::Figure;

/// The most one change may take; in practice it is milliseconds.
const PATIENCE: Duration = Duration::from_secs(30);
/// Where the endpoints listen.
const PORT: u16 = 9000;
/// Objects that are created at a time.
const AT_ONCE: usize = 50;

pub(crate) async fn measure(effort: &'static Effort) -> anyhow::Result<Vec<Figure>> {
    let testbed = Testbed::start(TestbedSpec::default()).await?;
    let scene = Scene::of(&testbed).await?;
    let mut figures = Vec::new();
    let mut alone: Option<Vec<Duration>> = None;
    let mut there = 0;
    for others in effort.others.iter().copied() {
        scene.add_services(there..others).await?;
        there = others;
        let (mut heard, mut answered) = (Vec::new(), Vec::new());
        // The first two are not counted: rules for the services that just came are still being written.
        for number in 0..effort.changes + 2 {
            let change = scene.change().await.with_context(|| format!("change {number}"))?;
            if number >= 2 {
                heard.push(change.heard);
                answered.push(change.answered);
            }
        }
        let beside = format!("a slice among {} Services", others + 1);
        figures.push(Figure::times(format!("{beside}: changed to heard by a watcher"), &heard));
        figures.push(Figure::times(format!("{beside}: changed to a first answer on all 3 nodes"), &answered));
        figures.push(Figure::ratio("  answered, times heard", &answered, &heard));
        match &alone {
            Some(alone) => figures.push(Figure::ratio("  answered, times without others", &answered, alone)),
            None => alone = Some(answered),
        }
    }
    Ok(figures)
}

/// A service whose only endpoint is on one of two nodes, which each say which one they are.
struct Scene<'a> {
    testbed: &'a Testbed,
    endpoints: [Ipv4Addr; 2],
    address: SocketAddr,
}

struct Change {
    heard: Duration,
    answered: Duration,
}

impl<'a> Scene<'a> {
    async fn of(testbed: &'a Testbed) -> anyhow::Result<Self> {
        let nodes = testbed.topology().nodes();
        for (number, node) in (0..).zip(&nodes[..2]) {
            serve(&node.namespace, number)?;
        }
        let endpoints = [nodes[0].ip, nodes[1].ip];
        let services: Api<Service> = Api::namespaced(testbed.client(), "default");
        let created = services.create(&PostParams::default(), &service("it")?).await?;
        let ip = created.spec.and_then(|spec| spec.cluster_ip).context("no cluster IP")?;
        let slices: Api<EndpointSlice> = Api::namespaced(testbed.client(), "default");
        slices.create(&PostParams::default(), &slice("it", endpoints[0])?).await?;
        Ok(Self { testbed, endpoints, address: SocketAddr::new(ip.parse()?, 80) })
    }

    /// Services with an endpoint each, which nobody calls.
    async fn add_services(&self, numbers: std::ops::Range<usize>) -> anyhow::Result<()> {
        let services: Api<Service> = Api::namespaced(self.testbed.client(), "default");
        let slices: Api<EndpointSlice> = Api::namespaced(self.testbed.client(), "default");
        let numbers: Vec<usize> = numbers.collect();
        for some in numbers.chunks(AT_ONCE) {
            try_join_all(some.iter().map(async |number| {
                let name = format!("other-{number}");
                services.create(&PostParams::default(), &service(&name)?).await?;
                slices.create(&PostParams::default(), &slice(&name, self.endpoints[0])?).await?;
                anyhow::Ok(())
            }))
            .await?;
        }
        Ok(())
    }

    /// Makes the other one of the two the endpoint.
    async fn change(&self) -> anyhow::Result<Change> {
        let slices: Api<EndpointSlice> = Api::namespaced(self.testbed.client(), "default");
        let slice = slices.get("it").await?;
        let is_first =
            slice.endpoints.iter().flatten().any(|one| one.addresses == [self.endpoints[0].to_string()]);
        let to = usize::from(is_first);
        let before = slice.metadata.resource_version.context("no version")?;
        let mut events =
            pin!(slices.watch(&WatchParams::default().fields("metadata.name=it"), &before).await?);
        let began = Instant::now();
        let heard = async {
            while let Some(event) = events.try_next().await? {
                let WatchEvent::Modified(slice) = event else { continue };
                if slice
                    .endpoints
                    .iter()
                    .flatten()
                    .any(|one| one.addresses == [self.endpoints[to].to_string()])
                {
                    return Ok(began.elapsed());
                }
            }
            anyhow::bail!("the watch ended")
        };
        let patch = json!({"endpoints": [{"addresses": [self.endpoints[to]]}]});
        let (parameters, patch) = (PatchParams::default(), Patch::Merge(&patch));
        let changed = async { Ok(slices.patch("it", &parameters, &patch).await?) };
        let answered = try_join_all(
            self.testbed
                .topology()
                .nodes()
                .iter()
                .map(|node| answered_by(&node.namespace, self.address, to as u8, began)),
        );
        let all = timeout(PATIENCE, async { tokio::try_join!(changed, heard, answered) }).await;
        let (_, heard, answered) = all.context("it reached nobody in time")??;
        Ok(Change { heard, answered: answered.into_iter().max().context("no nodes")? })
    }
}

/// Calls until this endpoint answers; returns how long after `began` that was.
async fn answered_by(
    from: &NetNamespace,
    address: SocketAddr,
    endpoint: u8,
    began: Instant,
) -> anyhow::Result<Duration> {
    loop {
        // Refused before the service has rules at all.
        if let Ok(mut stream) = from.connect(address).await
            && stream.read_u8().await.is_ok_and(|answer| answer == endpoint)
        {
            return Ok(began.elapsed());
        }
        tokio::task::yield_now().await;
    }
}

/// Answers every connection with a number.
fn serve(node: &NetNamespace, number: u8) -> anyhow::Result<()> {
    let listener = node.listen((Ipv4Addr::UNSPECIFIED, PORT).into())?;
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            // Who called may be gone.
            let _ = stream.write_all(&[number]).await;
        }
    });
    Ok(())
}

fn service(name: &str) -> anyhow::Result<Service> {
    object(json!({"metadata": {"name": name}, "spec": {"ports": [{"port": 80, "targetPort": PORT}]}}))
}

fn slice(service: &str, endpoint: Ipv4Addr) -> anyhow::Result<EndpointSlice> {
    object(json!({
        "metadata": {"name": service, "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": [endpoint]}],
        "ports": [{"port": PORT, "protocol": "TCP", "name": ""}],
    }))
}

fn object<T: serde::de::DeserializeOwned>(value: Value) -> anyhow::Result<T> {
    Ok(serde_json::from_value(value)?)
}
