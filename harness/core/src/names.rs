//! Names: what the cluster's DNS answers, as pods ask it.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use anyhow::{Context as _, anyhow, bail};
use futures::FutureExt as _;
use futures::future::{BoxFuture, try_join_all};
use stickler_model::{Code, Record, RecordType, Reply, Resolution, World, resolve, resolve_from};
use stickler_pods::protocol::{Outcome, Probe, Resolved, Seen};
use stickler_reports::Finding;

use crate::Scene;
use crate::calls::in_words;
use crate::invariant::{Invariant, Judgement};
use crate::vantage::Vantage;

/// Whole names are answered as the model promises for the objects as they are.
pub fn resolve_as_promised(from: Vec<Vantage>, kind: RecordType, names: Vec<String>) -> ResolveAsPromised {
    ResolveAsPromised { from, kind, names, tcp: false, search: false, server: None }
}

/// See [`resolve_as_promised`].
pub struct ResolveAsPromised {
    from: Vec<Vantage>,
    kind: RecordType,
    names: Vec<String>,
    tcp: bool,
    search: bool,
    /// Whom to ask; as the place is told, if it is not said.
    server: Option<SocketAddr>,
}

impl ResolveAsPromised {
    /// Over TCP instead of UDP.
    #[must_use]
    pub fn over_tcp(self) -> Self {
        Self { tcp: true, ..self }
    }

    /// Along the search path, as programs in pods resolve.
    #[must_use]
    pub fn searching(self) -> Self {
        Self { search: true, ..self }
    }

    /// Asking this server, whatever the place's resolv.conf says.
    #[must_use]
    pub(crate) fn of(self, server: SocketAddr) -> Self {
        Self { server: Some(server), ..self }
    }

    /// Asks one name from one place, and says what is otherwise than this world promises.
    pub(crate) async fn ask(
        &self,
        scene: &Scene,
        world: &World,
        from: &Vantage,
        name: &str,
    ) -> anyhow::Result<Option<Finding>> {
        let Asked { promised, why, .. } = self.look_up(scene, world, from, name).await?;
        let label = format!("{} of `{name}`", type_name(self.kind));
        Ok(why.map(|why| Finding {
            promised: format!("the {label} is: {promised}"),
            observed: format!("{from} asking for the {label}: {why}"),
        }))
    }

    /// Asks one name from one place, and compares the answer with what this world promises.
    pub(crate) async fn look_up(
        &self,
        scene: &Scene,
        world: &World,
        from: &Vantage,
        name: &str,
    ) -> anyhow::Result<Asked> {
        let promises = scene.cluster.promises();
        let (promised, missed) = if self.search {
            let stickler_model::Vantage::Pod(pod) = scene.vantages().to_model(from) else {
                bail!("only pods have a search path, {from} has not");
            };
            let lookup = resolve_from(world, promises, &pod, name, self.kind);
            let missed =
                matches!(lookup.resolution, Resolution::NotPromised { .. }) && !lookup.passed.is_empty();
            (lookup.resolution, missed)
        } else {
            (resolve(world, promises, name, self.kind), false)
        };
        let probe = Probe::Dns {
            server: self.server,
            name: name.to_owned(),
            record_type: type_name(self.kind).to_owned(),
            tcp: self.tcp,
            search: self.search,
        };
        let label = format!("{} of `{name}`", type_name(self.kind));
        let outcomes = scene.call(from, &label, scene.workload(probe, 1)).await?;
        let seen = &outcomes.first().context("no call was made")?.seen;
        let promised_in_words = match missed {
            true => format!("nothing in the cluster: none of its names is `{name}` there"),
            false => format!("{}, promised by {}", promised.why(), promised.rule()),
        };
        let ended = |why: Option<String>| Asked {
            is_promised: missed || !matches!(promised, Resolution::NotPromised { .. }),
            promised: promised_in_words.clone(),
            why,
            outcomes: outcomes.clone(),
        };
        let reply = match seen {
            Seen::Resolved(resolved) if missed => {
                // Beyond the cluster's names anything may be answered, but by nobody of the cluster.
                let inside = format!(".{}.", promises.cluster_domain);
                if resolved.records.is_empty() || !resolved.name.ends_with(&inside) {
                    return Ok(ended(None));
                }
                return Ok(ended(Some(in_words(seen))));
            }
            Seen::Resolved(resolved) => {
                let records = records(resolved)?;
                Reply::Answered { code: code(&resolved.code), records }
            }
            Seen::CouldNotLook { error } => bail!("the agent could not look: {error}"),
            _ => Reply::Silent,
        };
        Ok(ended(promised.allows(&reply).err()))
    }
}

/// What came of asking for one name.
pub(crate) struct Asked {
    /// The set of what may be answered, and who promised it.
    pub(crate) promised: String,
    /// It was promised at all.
    pub(crate) is_promised: bool,
    /// How the answer differs, if it does.
    pub(crate) why: Option<String>,
    pub(crate) outcomes: Vec<Outcome>,
}

impl Invariant for ResolveAsPromised {
    fn promise(&self) -> String {
        format!("{} resolve as promised from {} places", self.names.join(", "), self.from.len())
    }

    fn look<'a>(&'a self, scene: &'a Scene) -> BoxFuture<'a, anyhow::Result<Judgement>> {
        async move {
            if self.from.is_empty() || self.names.is_empty() {
                bail!("there is nothing to ask, or nobody to ask it");
            }
            scene.control(&self.from).await?;
            let world = scene.world().await?;
            let mut asked = Vec::new();
            for from in &self.from {
                for name in &self.names {
                    asked.push(self.ask(scene, &world, from, name).boxed());
                }
            }
            let first = try_join_all(asked).await?.into_iter().flatten().next();
            Ok(first.map_or(Judgement::Holds, Judgement::Broken))
        }
        .boxed()
    }
}

pub(crate) fn type_name(kind: RecordType) -> &'static str {
    match kind {
        RecordType::A => "A",
        RecordType::Aaaa => "AAAA",
        RecordType::Cname => "CNAME",
        RecordType::Ptr => "PTR",
        RecordType::Srv => "SRV",
        RecordType::Txt => "TXT",
    }
}

pub(crate) fn code(name: &str) -> Code {
    match name {
        "NOERROR" => Code::NoError,
        "NXDOMAIN" => Code::NxDomain,
        "SERVFAIL" => Code::ServFail,
        "REFUSED" => Code::Refused,
        // The model distinguishes no others.
        _ => Code::Other(u16::MAX),
    }
}

/// The records in the model's words.
pub(crate) fn records(resolved: &Resolved) -> anyhow::Result<BTreeSet<Record>> {
    resolved
        .records
        .iter()
        .map(|line| record(line).with_context(|| format!("`{line}` is no record")))
        .collect()
}

fn record(line: &str) -> anyhow::Result<Record> {
    let (kind, data) = line.split_once(' ').context("it has no data")?;
    Ok(match kind {
        "A" | "AAAA" => Record::Address(data.parse()?),
        "CNAME" => Record::Alias(data.to_owned()),
        "PTR" => Record::Pointer(data.to_owned()),
        "TXT" => Record::Text(data.trim_matches('"').to_owned()),
        "SRV" => {
            let mut fields = data.split_whitespace().skip(2);
            let port = fields.next().context("it has no port")?.parse()?;
            let target = fields.next().context("it has no target")?.to_owned();
            Record::Srv { port, target }
        }
        other => return Err(anyhow!("nobody asked for `{other}`")),
    })
}
