//! `stickler doctor`: what this machine, or a cluster, can and cannot do, and why.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::Args;
use serde::Serialize;
use stickler::Provider as _;
use stickler::engine::Engine;

use crate::Ended;
use crate::cluster::{ProviderName, ReachArgs, runtime};
use crate::record::Format;

/// Arguments of `stickler doctor`.
#[derive(Args)]
pub(crate) struct Doctor {
    /// What to examine: this machine, for testbeds, or a cluster that exists.
    #[arg(long = "cluster", value_enum, default_value = "testbed", help_heading = "Cluster")]
    provider: ProviderName,
    #[command(flatten)]
    reach: ReachArgs,
    /// How to print it.
    #[arg(long, value_enum, default_value = "pretty")]
    format: Format,
}

/// One thing that was tried.
#[derive(Debug, Serialize)]
struct Line {
    id: String,
    title: String,
    works: bool,
    /// What was found, or why it does not work.
    detail: Option<String>,
    /// What to do about it.
    remedy: Option<String>,
    /// What it is for, if it can be done without.
    only_for: Option<String>,
}

/// All that was found, and what follows from it.
#[derive(Debug, Serialize)]
struct Diagnosis {
    examined: String,
    lines: Vec<Line>,
    /// Which commands and faults will work.
    follows: Vec<String>,
    /// Whether `stickler run` would work.
    well: bool,
}

impl Doctor {
    pub(crate) fn execute(&self) -> anyhow::Result<Ended> {
        let diagnosis = match self.provider {
            ProviderName::Testbed | ProviderName::Binaries => machine()?,
            ProviderName::Container | ProviderName::K3s | ProviderName::Kind => self.engine()?,
            ProviderName::Kubeconfig => self.cluster()?,
        };
        crate::print(&match self.format {
            Format::Json => serde_json::to_string_pretty(&diagnosis)? + "\n",
            Format::Pretty => pretty(&diagnosis),
        })?;
        if diagnosis.well {
            return Ok(Ended::Held);
        }
        let lacking = diagnosis.lines.iter().filter(|line| !line.works && line.only_for.is_none());
        let mut advice: Vec<String> = Vec::new();
        for line in lacking {
            let remedy = line.remedy.as_ref().map(|remedy| format!(" ({remedy})")).unwrap_or_default();
            advice.push(format!("{}{remedy}", line.title));
        }
        let mut advice = advice.join("; ");
        if self.provider == ProviderName::Testbed && diagnosis.lines.iter().any(Line::is_engine_for_testbeds)
        {
            advice += "; `stickler run --cluster container` would work";
        }
        anyhow::bail!("`stickler run` would not work; lacking: {advice}")
    }

    /// The container engine of this machine.
    fn engine(&self) -> anyhow::Result<Diagnosis> {
        let mut lines = runtime()?.block_on(engine());
        let name = match self.provider {
            ProviderName::K3s => "k3s",
            ProviderName::Kind => "kind",
            _ => "container",
        };
        // What is asked for must be there.
        let needed = match name {
            "container" => vec!["container-engine", "container-program"],
            "k3s" => vec!["container-engine"],
            _ => vec!["container-engine", "program-kind"],
        };
        lines.push(program("kind", "`--cluster kind`"));
        for line in &mut lines {
            if needed.contains(&line.id.as_str()) {
                line.only_for = None;
            }
        }
        let follows = match name {
            "container" => {
                "`stickler run --cluster container`: the testbed in a privileged container".to_owned()
            }
            _ => format!("`stickler run --cluster {name}`, if the engine can fetch the image of a node"),
        };
        Ok(Diagnosis::of("the container engine of this machine", lines, vec![follows]))
    }

    fn cluster(&self) -> anyhow::Result<Diagnosis> {
        const EXAMINED: &str = "the cluster of the kubeconfig";
        let provider = self.reach.provider()?;
        runtime()?.block_on(async {
            let (server, client) = provider.client().await?;
            let bound = stickler::Bounds::REAL.request;
            let version = match tokio::time::timeout(bound, client.apiserver_version()).await {
                Ok(version) => version.map_err(anyhow::Error::new),
                Err(_) => Err(anyhow::anyhow!("`{server}` gave no answer within {bound:?}")),
            };
            let answered = version.map(|version| format!("version {}", version.git_version));
            let mut lines = vec![Line::of("api", "the API server answers", answered)];
            if !lines[0].works {
                return Ok(Diagnosis::of(EXAMINED, lines, Vec::new()));
            }
            lines.extend(rights(&client).await);
            let may_all = lines.iter().all(|line| line.works);
            let cluster = if may_all { Some(provider.start().await) } else { None };
            if let Some(cluster) = cluster {
                match cluster {
                    Ok(cluster) => {
                        lines.push(Line::of("nodes", "there are nodes", nodes(&cluster.card().nodes)));
                        lines.extend(promised(cluster.as_ref()));
                    }
                    Err(error) => lines.push(Line::of("cluster", "it can be used", Err(error))),
                }
            }
            lines.extend(versions(&client).await);
            lines.push(host_network(&client).await);
            let follows = vec![
                "checks of services: `stickler run --cluster kubeconfig`; bounds are measured when a run begins"
                    .to_owned(),
                "kubelets and the API server cannot be stopped, and nodes not be called from outside: they \
                 are not ours"
                    .to_owned(),
            ];
            Ok(Diagnosis::of(EXAMINED, lines, follows))
        })
    }
}

/// Whether a container engine runs, and what it can run.
async fn engine() -> Vec<Line> {
    let found = Engine::find().await;
    let fits =
        found.as_ref().map_err(|_| anyhow::anyhow!("there is none")).and_then(Engine::runs_this_program);
    let version = found.map(|engine| format!("version {}", engine.version()));
    vec![
        Line::of("container-engine", "a container engine answers", version)
            .only_for("`--cluster container` and `--cluster k3s`")
            .remedy("start Docker, or name its socket with DOCKER_HOST"),
        Line::of("container-program", "its containers run this very program", fits.map(|()| String::new()))
            .only_for("`--cluster container` without `--binary`, the check goweb/docker")
            .remedy("name a static Linux executable of stickler with `--binary FILE`"),
    ]
}

/// Whether a program can be found.
fn program(name: &str, feature: &str) -> Line {
    let found = found_in_path(name).map(|path| path.display().to_string());
    let found = found.ok_or_else(|| anyhow::anyhow!("it is in no folder of $PATH"));
    Line::of(&format!("program-{name}"), &format!("the program `{name}`"), found).only_for(feature)
}

impl Line {
    fn is_engine_for_testbeds(&self) -> bool {
        self.works && self.id == "container-program"
    }

    fn of(id: &str, title: &str, tried: anyhow::Result<String>) -> Self {
        let (works, detail) = match tried {
            Ok(found) => (true, Some(found).filter(|found| !found.is_empty())),
            Err(error) => (false, Some(format!("{error:#}"))),
        };
        Self { id: id.to_owned(), title: title.to_owned(), works, detail, remedy: None, only_for: None }
    }

    fn only_for(self, feature: &str) -> Self {
        Self { only_for: Some(feature.to_owned()), ..self }
    }

    fn remedy(self, remedy: &str) -> Self {
        Self { remedy: Some(remedy.to_owned()).filter(|_| !self.works), ..self }
    }
}

impl Diagnosis {
    fn of(examined: &str, lines: Vec<Line>, follows: Vec<String>) -> Self {
        let well = lines.iter().all(|line| line.works || line.only_for.is_some());
        let follows = if well { follows } else { Vec::new() };
        Self { examined: examined.to_owned(), lines, follows, well }
    }
}

fn pretty(diagnosis: &Diagnosis) -> String {
    let mut text = format!("{}:\n", diagnosis.examined);
    for line in &diagnosis.lines {
        let mark = match (line.works, &line.only_for) {
            (true, _) => "yes",
            (false, None) => "NO",
            (false, Some(_)) => "no",
        };
        // Writing to a string cannot fail.
        let _ = write!(text, "  {mark:4}{}", line.title);
        if let Some(feature) = &line.only_for {
            let _ = write!(text, " [for: {feature}]");
        }
        text.push('\n');
        for more in [&line.detail, &line.remedy].into_iter().flatten() {
            let _ = writeln!(text, "        {more}");
        }
    }
    for consequence in &diagnosis.follows {
        let _ = writeln!(text, "so: {consequence}");
    }
    text
}

#[cfg(target_os = "linux")]
fn machine() -> anyhow::Result<Diagnosis> {
    use stickler::providers::examination::{self, Finding};
    let line = |found: Finding| Line {
        id: found.id.to_owned(),
        title: found.title.to_owned(),
        works: found.lacking.is_none(),
        detail: found.lacking,
        remedy: found.remedy,
        only_for: found.optional.map(str::to_owned),
    };
    // First of all: threads of a runtime would be in the way.
    let entrance = line(examination::entrance());
    let entered = entrance.works;
    let mut lines = vec![entrance];
    if entered {
        lines.extend(runtime()?.block_on(examination::inside()).into_iter().map(line));
    }
    let cgroup = std::path::Path::new("/sys/fs/cgroup/cgroup.controllers");
    let version = std::fs::metadata(cgroup).map(|_| "version 2".to_owned());
    lines.push(
        Line::of(
            "cgroup",
            "control groups of version 2",
            version.map_err(|error| {
                anyhow::Error::new(error).context(format!("`{}` cannot be read", cgroup.display()))
            }),
        )
        .only_for("none yet: limits of containers"),
    );
    lines.extend(runtime()?.block_on(engine()));
    lines.push(program("kubectl", "working by hand with `stickler up`"));
    lines.push(program("kind", "`--cluster kind`"));
    lines.push(program("conntrack", "looking by hand at what the kernel tracks"));
    let works = |id: &str| lines.iter().any(|line| line.id == id && line.works);
    let mut follows = vec![
        "`stickler run` and `stickler up` on a testbed".to_owned(),
        "faults: pods deleted, containers killed, kubelets and the API server stopped".to_owned(),
    ];
    if works("container-program") {
        follows.push("`--cluster container`: the testbed in a container; the check goweb/docker".to_owned());
    }
    if !works("netem") {
        follows.push("no slow or lossy networks, for the kernel has no netem".to_owned());
    }
    Ok(Diagnosis::of("this machine", lines, follows))
}

#[cfg(not(target_os = "linux"))]
fn machine() -> anyhow::Result<Diagnosis> {
    let lacking = Err(anyhow::anyhow!("the testbed needs Linux namespaces"));
    let line = Line::of("namespaces", "user and network namespaces of our own", lacking);
    let line = line.remedy("use `--cluster container` or `--cluster kubeconfig`");
    let mut lines = vec![line];
    lines.extend(runtime()?.block_on(engine()));
    Ok(Diagnosis::of("this machine", lines, Vec::new()))
}

fn found_in_path(program: &str) -> Option<PathBuf> {
    use std::os::unix::fs::PermissionsExt as _;
    let folders = std::env::var_os("PATH")?;
    std::env::split_paths(&folders).map(|folder| folder.join(program)).find(|path| {
        std::fs::metadata(path).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
    })
}

fn nodes(names: &[String]) -> anyhow::Result<String> {
    anyhow::ensure!(!names.is_empty(), "the cluster has no node");
    Ok(format!("{}: {}", names.len(), names.join(", ")))
}

/// Every right a run needs, a line for each resource.
async fn rights(client: &kube::Client) -> Vec<Line> {
    let missing = match stickler::rights::missing(client).await {
        Ok(missing) => missing,
        Err(error) => return vec![Line::of("rights", "rights can be asked for", Err(error))],
    };
    let line = |right: &stickler::rights::Right| {
        let lacking: Vec<_> = missing.iter().filter(|missing| missing.right == *right).collect();
        let verbs: Vec<&str> = lacking.iter().map(|missing| missing.verb).collect();
        let tried = match lacking.first() {
            None => Ok(format!("for: {}", right.needed_for)),
            Some(first) => {
                let reason = first.reason.as_deref().unwrap_or("not allowed");
                Err(anyhow::anyhow!("{}: {reason} (needed for: {})", verbs.join(", "), right.needed_for))
            }
        };
        let what = if right.group.is_empty() {
            right.resource.to_owned()
        } else {
            format!("{}.{}", right.resource, right.group)
        };
        let id = format!("may-{}", what.replace('/', "-"));
        Line::of(&id, &format!("may {} {what}", right.verbs.join(", ")), tried)
            .remedy(stickler::rights::REMEDY)
    };
    stickler::rights::RIGHTS.iter().map(line).collect()
}

/// What its version and configuration promise.
fn promised(cluster: &dyn stickler::Cluster) -> Vec<Line> {
    let promises = cluster.promises();
    let known = |id: &str, title: &str, range: Option<String>| {
        let tried = range.ok_or_else(|| anyhow::anyhow!("the cluster does not say"));
        Line::of(id, title, tried).only_for("promises about addresses nobody was given")
    };
    let feature = |id: &str, title: &str, has: bool| {
        let tried = if has { Ok(String::new()) } else { Err(anyhow::anyhow!("not in this version, or off")) };
        Line::of(id, title, tried).only_for("what is promised then")
    };
    let ports = &promises.node_port_range;
    vec![
        known(
            "service-cidr",
            "the range of cluster IPs is known",
            promises.service_cidr.map(|range| range.to_string()),
        ),
        known(
            "cluster-cidr",
            "the range of pods' addresses is known",
            promises.cluster_cidr.map(|range| range.to_string()),
        ),
        Line::of("node-ports", "node ports", Ok(format!("{} to {}", ports.start(), ports.end()))),
        feature(
            "terminating-conditions",
            "slices say what is serving and terminating",
            promises.terminating_conditions,
        ),
        feature(
            "terminating-fallback",
            "terminating endpoints are the last resort",
            promises.terminating_fallback,
        ),
        feature(
            "internal-traffic-policy",
            "internalTrafficPolicy is obeyed",
            promises.internal_traffic_policy,
        ),
    ]
}

/// The version in which each kind that has several is served.
async fn versions(client: &kube::Client) -> Vec<Line> {
    match stickler::served(client).await {
        Ok(served) => served
            .kinds()
            .map(|(kind, api)| {
                let tried = api.map(str::to_owned).ok_or_else(|| anyhow::anyhow!("in no version we know"));
                let line = Line::of(&format!("serves-{kind}"), &format!("serves {kind}"), tried);
                if kind == "endpointslices" { line } else { line.only_for("checks of Ingress") }
            })
            .collect(),
        Err(error) => vec![Line::of("versions", "it says what it serves", Err(error.into()))],
    }
}

/// Asks for a pod in its node's network, without having it made.
async fn host_network(client: &kube::Client) -> Line {
    let pod = serde_json::json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"generateName": "stickler-doctor-"},
        "spec": {"hostNetwork": true, "containers": [{"name": "c", "image": "stickler-pods"}]},
    });
    let asked = ask(client, pod, "/api/v1/namespaces/default/pods?dryRun=All").await;
    Line::of("host-network", "pods in their node's network", asked.map(|_| String::new()))
        .only_for("calls that start from nodes")
}

/// One request: a POST.
async fn ask(
    client: &kube::Client,
    body: serde_json::Value,
    path: &str,
) -> anyhow::Result<serde_json::Value> {
    let bound = stickler::Bounds::REAL.request;
    let request = http::Request::post(path)
        .header("Content-Type", "application/json")
        .body(body.to_string().into_bytes())?;
    let asked = tokio::time::timeout(bound, client.request(request)).await;
    Ok(asked.map_err(|_| anyhow::anyhow!("no answer within {bound:?}"))??)
}
