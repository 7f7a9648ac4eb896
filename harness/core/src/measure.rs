//! How fast a cluster is, measured when a run begins: how long until a new endpoint answers
//! everybody, until one that left answers nobody, and until names follow.

use std::time::Duration;

use anyhow::{Context as _, bail};
use futures::future::try_join_all;
use stickler_pods::protocol::{Probe, Seen, Workload};
use stickler_reports::BoundCard;
use tokio::time::Instant;

use crate::Scene;
use crate::action::{label, unlabel};
use crate::bounds::{Bounds, FACTOR};
use crate::calls::{http, in_words};
use crate::check::Broken;
use crate::destination::cluster_ip;
use crate::manifest::Fixture;
use crate::scene::look_again;
use crate::vantage::Vantage;

const ENDPOINT: Fixture = Fixture {
    path: "measure/endpoint.yaml",
    yaml: include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/measure/endpoint.yaml")),
};

/// How often the pod is put behind its services and taken away; the slowest counts.
const ROUNDS: usize = 3;
/// How many looks in a row must see nothing before an endpoint counts as gone: a single one may have been
/// lost.
const GONE_LOOKS: usize = 5;
/// One look: longer than any answer takes, short beside what is measured, as a connection that falls into
/// a gap between two states of the rules hangs.
const LOOK: Duration = Duration::from_millis(300);

/// What was measured: the slowest of several times, from the request that changed something.
#[derive(Clone, Debug, Default)]
pub(crate) struct Measured {
    /// From creating a pod to its being Ready.
    pub(crate) pod_ready: Option<Duration>,
    /// Until a new endpoint answered calls from everywhere.
    pub(crate) served: Option<Duration>,
    /// Until an endpoint that left had answered its last call.
    pub(crate) unserved: Option<Duration>,
    /// Until a headless name listed a new endpoint, for every pod that asked.
    pub(crate) named: Option<Duration>,
    /// Until it was last listed.
    pub(crate) unnamed: Option<Duration>,
    /// The domain of the cluster's names, as its pods are told it.
    pub(crate) cluster_domain: Option<String>,
    /// Why something could not be measured.
    pub(crate) trouble: Option<String>,
}

/// Measures in a scene of its own.
///
/// # Errors
/// What did not happen within the bounds for any cluster, or could not be seen.
pub(crate) async fn measure(scene: &Scene) -> anyhow::Result<Measured> {
    let mut measured = Measured::default();
    let everywhere = scene.vantages().everywhere();
    let inside: Vec<Vantage> = scene.inside();
    scene.control(&everywhere).await?;
    let created = Instant::now();
    done(scene.given(ENDPOINT).await)?;
    measured.pod_ready = Some(created.elapsed());
    measured.cluster_domain = cluster_domain(scene).await?;
    let domain = measured.cluster_domain.clone();
    let domain = domain.unwrap_or_else(|| scene.cluster.promises().cluster_domain.clone());

    let world = scene.world().await?;
    let targets = cluster_ip("measured").resolve(&world, scene.namespace()).map_err(anyhow::Error::msg)?;
    let target = targets.first().context("the service has no port")?.destination.socket();
    let name = format!("measured-names.{}.svc.{domain}.", scene.namespace());
    let asked = Probe::Dns { server: None, name, record_type: "A".to_owned(), tcp: false, search: false };
    let has_dns = names(scene, &asked).await;
    for _ in 0..ROUNDS {
        for appears in [true, false] {
            let started = Instant::now();
            let change =
                if appears { label("measured", "measured", "yes") } else { unlabel("measured", "measured") };
            done(scene.when(change).await)?;
            let calls = try_join_all(inside.iter().map(|from| {
                changes(scene, from, http(target), appears, started, scene.bounds().convergence)
            }));
            let asks = try_join_all(scene.vantages().pods().into_iter().filter(|_| has_dns).map(
                async |from: Vantage| {
                    let bound = scene.bounds().name_staleness;
                    changes(scene, &from, asked.clone(), appears, started, bound).await
                },
            ));
            let (calls, asks) = tokio::try_join!(calls, asks)?;
            let (calls, asks) = (calls.into_iter().max(), asks.into_iter().max());
            let (served, named) = if appears {
                (&mut measured.served, &mut measured.named)
            } else {
                (&mut measured.unserved, &mut measured.unnamed)
            };
            *served = calls.max(*served);
            *named = asks.max(*named);
        }
    }
    if !has_dns {
        measured.trouble = Some("no pod can ask the cluster's DNS for the name of a service".to_owned());
    }
    Ok(measured)
}

/// Looks until everything is as it is to be, and returns when it was last seen otherwise.
async fn changes(
    scene: &Scene,
    from: &Vantage,
    probe: Probe,
    appears: bool,
    started: Instant,
    bound: Duration,
) -> anyhow::Result<Duration> {
    let mut as_wanted = 0;
    let mut since = started.elapsed();
    loop {
        let (there, words) = look(scene, from, probe.clone()).await?;
        if there == appears {
            as_wanted += 1;
        } else {
            (as_wanted, since) = (0, started.elapsed());
        }
        // An answer is there at the first; that there are no more takes several looks.
        if appears && as_wanted > 0 {
            return Ok(started.elapsed());
        }
        if as_wanted >= GONE_LOOKS {
            return Ok(since);
        }
        if started.elapsed() > bound {
            let what = if appears { "was not there" } else { "was still there" };
            bail!("{bound:?} after the change the endpoint {what} for {from}: it saw {words}");
        }
        look_again().await;
    }
}

/// Is the endpoint there?
async fn look(scene: &Scene, from: &Vantage, probe: Probe) -> anyhow::Result<(bool, String)> {
    let timeout_ms = u64::try_from(LOOK.as_millis()).unwrap_or(u64::MAX);
    let workload = Workload { timeout_ms, ..scene.workload(probe, 1) };
    let outcomes = scene.vantages().call(from, workload).await?;
    let seen = &outcomes.first().context("no call was made")?.seen;
    if let Seen::CouldNotLook { error } = seen {
        bail!("{from} could not look: {error}");
    }
    let there = match seen {
        Seen::Answered(_) => true,
        Seen::Resolved(resolved) => !resolved.records.is_empty(),
        _ => false,
    };
    Ok((there, in_words(seen)))
}

/// Is there a DNS that knows the cluster's names? Whatever it says of one is an answer.
async fn names(scene: &Scene, asked: &Probe) -> bool {
    let Some(from) = scene.vantages().pods().into_iter().next() else { return false };
    let outcomes = scene.vantages().call(&from, scene.workload(asked.clone(), 3)).await;
    outcomes.is_ok_and(|outcomes| {
        outcomes.iter().any(|outcome| match &outcome.seen {
            Seen::Resolved(resolved) => matches!(resolved.code.as_str(), "NOERROR" | "NXDOMAIN"),
            _ => false,
        })
    })
}

/// The domain of the cluster's names: what follows `svc.` in the search path of a pod.
async fn cluster_domain(scene: &Scene) -> anyhow::Result<Option<String>> {
    let output = scene.exec("measured", &["cat", "/etc/resolv.conf"]).await?;
    let search = output.stdout.lines().find_map(|line| line.strip_prefix("search "));
    let own = format!("{}.svc.", scene.namespace());
    let first =
        search.and_then(|search| search.split_whitespace().find_map(|domain| domain.strip_prefix(&own)));
    Ok(first
        .map(|domain| domain.trim_end_matches('.').to_ascii_lowercase())
        .filter(|domain| !domain.is_empty()))
}

fn done(held: Result<(), Broken>) -> anyhow::Result<()> {
    match held {
        Ok(()) => Ok(()),
        Err(Broken::CouldNotTell(why)) => bail!(why),
        Err(Broken::Promise(finding)) => bail!("{}; promised: {}", finding.observed, finding.promised),
    }
}

impl Measured {
    /// Nothing could be measured, for this reason.
    pub(crate) fn failed(why: String) -> Self {
        Self { trouble: Some(why), ..Self::default() }
    }

    /// The bounds and what they follow from, for the report.
    pub(crate) fn cards(&self, bounds: &Bounds) -> Vec<BoundCard> {
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let card = |bound: &str, of: Duration, measured: Option<Duration>, from: &str| BoundCard {
            bound: bound.to_owned(),
            ms: ms(of),
            measured_ms: measured.map(ms),
            rule: from.to_owned(),
        };
        let times = |from: &str| format!("{FACTOR} times {from}");
        vec![
            card(
                "pods-ready",
                bounds.pods_ready,
                self.pod_ready,
                "as for any cluster, since nobody promises it",
            ),
            card(
                "convergence",
                bounds.convergence,
                self.served.max(self.unserved),
                &times("the slowest change of an endpoint, seen from everywhere"),
            ),
            card(
                "staleness",
                bounds.staleness,
                self.unserved,
                &times("the last answer of an endpoint that left"),
            ),
            card(
                "name-staleness",
                bounds.name_staleness,
                self.named.max(self.unnamed),
                &times("the slowest change of a name, asked from every pod"),
            ),
        ]
    }
}
