//! How long the built-in proxy takes to write a node's rules, all of them and one of them.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use stickler_testbed::proxy::{At, Backends, Dataplane, Desired, Endpoint, Frontend, Protocol};
use stickler_testbed::topology::{CLUSTER_CIDR, Topology, TopologySpec};

use crate::Effort;
use crate::figures::Figure;

/// So long builds are repeated, if the least number of them is done.
const BUDGET: Duration = Duration::from_secs(2);
/// Small builds need no more of them.
const MOST_BUILDS: usize = 20;
/// As many endpoints has each Service.
const ENDPOINTS: u8 = 3;

pub(crate) async fn measure(effort: &'static Effort) -> anyhow::Result<Vec<Figure>> {
    let mut figures = Vec::new();
    let mut before: Option<(usize, Vec<Duration>, Vec<Duration>)> = None;
    for services in effort.services.iter().copied() {
        let (full, change) = measure_one(services, effort).await?;
        figures.push(Figure::times(format!("{services} Services, all rules"), &full));
        figures.push(Figure::times(format!("{services} Services, one endpoint more or less"), &change));
        figures.push(Figure::ratio("  all rules, times one change", &full, &change));
        if let Some((fewer, its_full, its_change)) = before {
            figures.push(Figure::ratio(
                format!("  all rules, times those of {fewer} Services"),
                &full,
                &its_full,
            ));
            figures.push(Figure::ratio(format!("  one change, times that of {fewer}"), &change, &its_change));
        }
        before = Some((services, full, change));
    }
    Ok(figures)
}

/// Builds on new nodes, and changes on the last of them.
async fn measure_one(services: usize, effort: &Effort) -> anyhow::Result<(Vec<Duration>, Vec<Duration>)> {
    let all = desired(services);
    let one_node = TopologySpec { nodes: 1, ..TopologySpec::default() };
    let (mut full, mut change) = (Vec::new(), Vec::new());
    let begun = Instant::now();
    loop {
        let topology = Topology::build(&one_node).await?;
        let mut dataplane = Dataplane::open(&topology.nodes()[0].namespace, CLUSTER_CIDR)?;
        let started = Instant::now();
        dataplane.apply(&all).await?;
        full.push(started.elapsed());
        let enough = full.len() >= MOST_BUILDS || begun.elapsed() > BUDGET;
        if full.len() < effort.builds || !enough {
            continue;
        }
        let mut changed = all.clone();
        for number in 0..effort.changes {
            let backends = if number % 2 == 0 { ENDPOINTS - 1 } else { ENDPOINTS };
            changed.frontends.insert(frontend(services / 2), backends_of(services / 2, backends));
            let started = Instant::now();
            dataplane.apply(&changed).await?;
            change.push(started.elapsed());
        }
        return Ok((full, change));
    }
}

fn desired(services: usize) -> Desired {
    let frontends = (0..services).map(|number| (frontend(number), backends_of(number, ENDPOINTS)));
    Desired { frontends: frontends.collect() }
}

fn frontend(number: usize) -> Frontend {
    let first = Ipv4Addr::new(10, 97, 0, 0).to_bits();
    let ip = Ipv4Addr::from_bits(first + number as u32);
    Frontend { at: At::ClusterIp(ip), protocol: Protocol::Tcp, port: 80 }
}

/// On a node each.
fn backends_of(number: usize, endpoints: u8) -> Backends {
    let pod = (2 + number % 250) as u8;
    Backends::anywhere(
        (0..endpoints).map(|node| Endpoint { ip: Ipv4Addr::new(10, 244, node, pod), port: 8000 }),
    )
}
