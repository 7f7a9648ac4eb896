//! The virtual IP: an address that means something only together with a port.

use stickler::protocol::{Probe, Seen};
use stickler::{Check, Class, Held, Scene, To, as_promised, docs, fixture, in_words, notes, that};

pub(crate) const CHECKS: &[Check] = &[
    Check {
        id: "vip/no-ping",
        title: "the cluster IP cannot be pinged",
        class: Class::Observation,
        promised_by: &[notes("无法ping通服务IP的原因")],
        needs: &[],
        exclusive: false,
        run: |scene| Box::pin(no_ping(scene)),
    },
    Check {
        id: "vip/unused-port-reaches-nobody",
        title: "a port of the cluster IP that the service does not have reaches nobody",
        class: Class::Promise,
        promised_by: &[docs("reference/networking/virtual-ips/")],
        needs: &[],
        exclusive: false,
        run: |scene| Box::pin(unused_port_reaches_nobody(scene)),
    },
];

/// The notes: the cluster IP is virtual, and "means something only together with the service port".
async fn no_ping(scene: &mut Scene) -> Held {
    scene.given(fixture!("service/web.yaml")).await?;
    let (pods, hosts) = (scene.vantages().pods(), scene.vantages().hosts());
    scene.eventually(as_promised(pods, vec![stickler::cluster_ip("web")])).await?;
    scene
        .exactly(that("a ping of the cluster IP is not answered", move |scene| {
            let hosts = hosts.clone();
            Box::pin(async move {
                let ip = scene.cluster_ip("web").await?;
                for from in scene.vantages().pods().into_iter().chain(hosts) {
                    let ping = Probe::Ping { address: (ip, 0).into() };
                    for outcome in scene.call(&from, &format!("ping {ip}"), scene.workload(ping, 1)).await? {
                        match outcome.seen {
                            seen @ Seen::Answered(_) => {
                                return Ok(Err(format!("from {from} it was {}", in_words(&seen))));
                            }
                            Seen::CouldNotLook { error } => anyhow::bail!("{from} could not ping: {error}"),
                            _ => {}
                        }
                    }
                }
                Ok(Ok(()))
            })
        }))
        .await
}

/// The proxy captures "traffic to the Service's `clusterIP` and `port`", and nothing else.
async fn unused_port_reaches_nobody(scene: &mut Scene) -> Held {
    scene.given(fixture!("service/web.yaml")).await?;
    let (pods, hosts) = (scene.vantages().pods(), scene.vantages().hosts());
    let everywhere: Vec<_> = pods.into_iter().chain(hosts).collect();
    scene.eventually(as_promised(everywhere.clone(), vec![stickler::cluster_ip("web")])).await?;
    // 8000 is open in the pods, 18000 on the nodes.
    let unused = [81, 8000, 18000].map(|port| To::ClusterIpPort("web", port)).to_vec();
    scene.exactly(as_promised(everywhere, unused).calls(1)).await
}
