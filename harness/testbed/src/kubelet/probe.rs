//! Probes: the kubelet looks whether containers have started, live, and are ready
//! ([Liveness, Readiness, and Startup Probes](https://kubernetes.io/docs/concepts/configuration/liveness-readiness-startup-probes/)).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{self as core, ExecAction, HTTPGetAction, Pod, TCPSocketAction};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::io::AsyncReadExt as _;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep_until, timeout};

use super::container::{Container, ExecSpec};
use super::events::Tone;
use super::node::Node;
use crate::bugs::Bug;

/// How much of what a probe says is kept.
const LONGEST_OUTPUT: u64 = 10 * 1024;

/// What a probe is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    Startup,
    Liveness,
    Readiness,
}

impl Purpose {
    /// What holds before the first answer: "The default state of readiness before the initial delay is
    /// `Failure`", and a container is taken to live until it is seen not to.
    ///
    /// A kubelet that was away goes on with the readiness it left.
    fn before(self, ready: bool) -> Option<bool> {
        match self {
            Self::Startup => None,
            Self::Liveness => Some(true),
            Self::Readiness => Some(ready),
        }
    }
}

/// An answer that changes something.
#[derive(Clone, Debug)]
pub(crate) struct Verdict {
    pub(crate) slot: usize,
    /// The run of the container that was looked at.
    pub(crate) run: String,
    pub(crate) purpose: Purpose,
    pub(crate) well: bool,
}

/// What is needed to look at one run of a container.
#[derive(Clone)]
pub(crate) struct Subject {
    pub(crate) node: Arc<Node>,
    pub(crate) pod: Arc<Pod>,
    pub(crate) spec: core::Container,
    pub(crate) container: Container,
    pub(crate) address: Ipv4Addr,
    pub(crate) slot: usize,
    pub(crate) run: String,
    pub(crate) since: Instant,
    /// Its startup probe has succeeded already.
    pub(crate) started: bool,
    /// What is known of its readiness.
    pub(crate) ready: bool,
}

/// The probes of one run of a container; they end with this.
pub(crate) struct Probes {
    subject: Arc<Subject>,
    verdicts: mpsc::UnboundedSender<Verdict>,
    /// They may end the container.
    vital: JoinSet<()>,
    readiness: JoinSet<()>,
}

impl Probes {
    /// Begins with the startup probe, or with the others if there is none.
    pub(crate) fn begin(subject: Subject, verdicts: mpsc::UnboundedSender<Verdict>) -> Self {
        let (vital, readiness) = (JoinSet::new(), JoinSet::new());
        let mut probes = Self { subject: Arc::new(subject), verdicts, vital, readiness };
        match probes.subject.spec.startup_probe.clone() {
            Some(probe) if !probes.subject.started => {
                let watch = probes.watch(Purpose::Startup, probe);
                probes.vital.spawn(watch);
            }
            _ => probes.started(),
        }
        probes
    }

    /// The container has started: liveness and readiness count from now on.
    pub(crate) fn started(&mut self) {
        if let Some(probe) = self.subject.spec.liveness_probe.clone() {
            let watch = self.watch(Purpose::Liveness, probe);
            self.vital.spawn(watch);
        }
        if let Some(probe) = self.subject.spec.readiness_probe.clone() {
            let watch = self.watch(Purpose::Readiness, probe);
            self.readiness.spawn(watch);
        }
    }

    /// The pod is going away, so nothing shall be restarted; readiness is still of interest.
    pub(crate) fn terminating(&mut self) {
        self.vital.abort_all();
    }

    fn watch(&self, purpose: Purpose, probe: core::Probe) -> impl Future<Output = ()> + use<> {
        watch(Arc::clone(&self.subject), purpose, probe, self.verdicts.clone())
    }
}

async fn watch(
    subject: Arc<Subject>,
    purpose: Purpose,
    probe: core::Probe,
    verdicts: mpsc::UnboundedSender<Verdict>,
) {
    let seconds = |value: Option<i32>, least: u32| {
        let value = value.map_or(0, |value| u32::try_from(value).unwrap_or_default());
        Duration::from_secs(value.max(least).into())
    };
    let first = (subject.since + seconds(probe.initial_delay_seconds, 0)).max(Instant::now());
    let period = seconds(probe.period_seconds.or(Some(10)), 1);
    let mut ticks = interval_at(first, period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let kills = purpose == Purpose::Readiness && subject.node.bugs.has(Bug::UnreadyIsKilled);
    let before = if kills { None } else { purpose.before(subject.ready) };
    let mut streak = Streak::new(before, &probe);
    let mut haste = Haste::new(purpose, before, &probe);
    loop {
        let in_turn = tokio::select! {
            _ = ticks.tick() => true,
            () = haste.wait() => false,
        };
        let well = match subject.look(&probe, seconds(probe.timeout_seconds, 1)).await {
            Ok(()) => true,
            Err(_) if !in_turn => {
                haste.failed(period);
                continue;
            }
            Err(Unwell::Failed(output)) => {
                subject.complain(format!("{purpose:?} probe failed: {output}"));
                false
            }
            // Who could not look knows nothing.
            Err(Unwell::Errored(error)) => {
                subject.complain(format!("{purpose:?} probe errored and resulted in unknown state: {error}"));
                continue;
            }
        };
        haste.looked(well);
        let purpose = if kills && !well { Purpose::Liveness } else { purpose };
        if streak.add(well) {
            let (slot, run) = (subject.slot, subject.run.clone());
            if verdicts.send(Verdict { slot, run, purpose, well }).is_err() {
                return;
            }
            if purpose == Purpose::Startup || (purpose == Purpose::Liveness && !well) {
                return;
            }
        }
    }
}

/// Looks out of turn, for a container that has only just begun to serve: "While a container is not Ready,
/// the `ReadinessProbe` may be executed at times other than the configured `periodSeconds` interval. This
/// is to make the Pod ready faster"
/// ([Configure Probes](https://kubernetes.io/docs/tasks/configure-pod-container/configure-liveness-readiness-startup-probes/#configure-probes)).
///
/// They come within the first period after the first look, each after twice the time of the one before,
/// and only a success counts.
#[derive(Debug)]
enum Haste {
    /// Before the first look, which waits for the initial delay.
    Patient,
    In(Duration),
    Over,
}

impl Haste {
    const FIRST: Duration = Duration::from_millis(25);

    fn new(purpose: Purpose, before: Option<bool>, probe: &core::Probe) -> Self {
        let one_is_enough = probe.success_threshold.unwrap_or(1) <= 1;
        let not_ready = purpose == Purpose::Readiness && before != Some(true);
        if not_ready && one_is_enough { Self::Patient } else { Self::Over }
    }

    /// Until it is time for the next look out of turn.
    async fn wait(&self) {
        match self {
            Self::In(time) => sleep_until(Instant::now() + *time).await,
            Self::Patient | Self::Over => std::future::pending().await,
        }
    }

    /// After a look that counts.
    fn looked(&mut self, well: bool) {
        *self = match self {
            Self::Patient if !well => Self::In(Self::FIRST),
            Self::Patient | Self::In(_) | Self::Over => Self::Over,
        };
    }

    /// After a look out of turn that did not succeed.
    fn failed(&mut self, period: Duration) {
        *self = match self {
            Self::In(time) if *time * 4 <= period => Self::In(*time * 2),
            _ => Self::Over,
        };
    }
}

/// Counts equal answers, for one swallow does not make a summer.
#[derive(Debug)]
struct Streak {
    holds: Option<bool>,
    last: Option<bool>,
    length: i32,
    successes: i32,
    failures: i32,
}

impl Streak {
    fn new(holds: Option<bool>, probe: &core::Probe) -> Self {
        Self {
            holds,
            last: None,
            length: 0,
            successes: probe.success_threshold.unwrap_or(1),
            failures: probe.failure_threshold.unwrap_or(3),
        }
    }

    /// Whether this answer changes what holds.
    fn add(&mut self, well: bool) -> bool {
        self.length = if self.last == Some(well) { self.length.saturating_add(1) } else { 1 };
        self.last = Some(well);
        let enough = self.length >= if well { self.successes } else { self.failures };
        enough && self.holds.replace(well) != Some(well)
    }
}

/// Why a look did not succeed.
#[derive(Debug, PartialEq, Eq)]
enum Unwell {
    /// The container said no, or nothing.
    Failed(String),
    /// It could not be asked.
    Errored(String),
}

impl Unwell {
    fn failed(what: impl fmt::Display) -> Self {
        Self::Failed(what.to_string())
    }
}

impl Subject {
    async fn look(&self, probe: &core::Probe, limit: Duration) -> Result<(), Unwell> {
        if let Some(exec) = &probe.exec {
            return self.exec(exec, limit).await;
        }
        let (asking, whom) = match (&probe.http_get, &probe.tcp_socket) {
            (Some(get), _) => {
                let asking = http_get(&self.node, self.address, &self.spec, get);
                (timeout(limit, asking).await, format!("Get {:?}", get.path.as_deref().unwrap_or("/")))
            }
            (_, Some(socket)) => (timeout(limit, self.connect(socket)).await, "dial tcp".to_owned()),
            _ => return Err(Unwell::Errored("missing probe handler".to_owned())),
        };
        asking.unwrap_or_else(|_| {
            Err(Unwell::Failed(format!("{whom}: context deadline exceeded: no answer within {limit:?}")))
        })
    }

    async fn exec(&self, exec: &ExecAction, limit: Duration) -> Result<(), Unwell> {
        let command = exec.command.clone().unwrap_or_default();
        let spec = ExecSpec { command, stdout: true, stderr: true, ..ExecSpec::default() };
        let session = self.node.runtime.exec(&self.container, spec).await;
        let mut session = session.map_err(|failure| Unwell::Errored(failure.to_string()))?;
        let process = session.process.clone();
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let run = async {
            let read = async |pipe: Option<tokio::net::unix::pipe::Receiver>, into: &mut Vec<u8>| {
                if let Some(pipe) = pipe {
                    // What cannot be read is not needed: the code decides.
                    let _ = pipe.take(LONGEST_OUTPUT).read_to_end(into).await;
                }
            };
            let (stdout, stderr) = (session.stdout.take(), session.stderr.take());
            let reading = async { tokio::join!(read(stdout, &mut out), read(stderr, &mut err)) };
            let mut reading = std::pin::pin!(reading);
            tokio::select! {
                exit = process.wait() => {
                    // A child it left behind may hold the pipe.
                    let _ = timeout(Duration::from_millis(100), reading).await;
                    exit
                }
                _ = &mut reading => process.wait().await,
            }
        };
        match timeout(limit, run).await {
            Ok(exit) if exit.code() == 0 => Ok(()),
            Ok(_) => {
                out.append(&mut err);
                Err(Unwell::failed(String::from_utf8_lossy(&out).trim_end()))
            }
            Err(_) => {
                // Nobody waits for it any more.
                let _ = session.process.signal(libc::SIGKILL);
                let command = exec.command.as_deref().unwrap_or_default().join(" ");
                Err(Unwell::Failed(format!("command timed out: {command:?} timed out after {limit:?}")))
            }
        }
    }

    async fn connect(&self, socket: &TCPSocketAction) -> Result<(), Unwell> {
        let to = target(socket.host.as_deref(), &socket.port, self.address, &self.spec)?;
        let connected = self.node.namespace.connect(to).await;
        connected.map(drop).map_err(|error| Unwell::Failed(format!("dial tcp {to}: connect: {error}")))
    }

    fn complain(&self, message: String) {
        self.node.events.tell(&self.pod, Some(&self.spec.name), Tone::Warning, "Unhealthy", message);
    }
}

/// Asks from the node. "Any code greater than or equal to 200 and less than 400 indicates success"
/// ([Configure Probes, "Define a liveness HTTP request"](https://kubernetes.io/docs/tasks/configure-pod-container/configure-liveness-readiness-startup-probes/#define-a-liveness-http-request)).
async fn http_get(
    node: &Node,
    address: Ipv4Addr,
    container: &core::Container,
    get: &HTTPGetAction,
) -> Result<(), Unwell> {
    let to = target(get.host.as_deref(), &get.port, address, container)?;
    let path = get.path.as_deref().unwrap_or("/");
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    let url = format!("http://{to}{path}");
    let failed = |error: &dyn fmt::Display| Unwell::Failed(format!("Get {url:?}: {error}"));
    let stream = node.namespace.connect(to).await.map_err(|error| failed(&error))?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| failed(&error))?;
    let mut request = http::Request::get(&path);
    let mut defaults = vec![("host", to.to_string()), ("accept", "*/*".into())];
    defaults.push(("user-agent", format!("kube-probe/{}", node.version.trim_start_matches('v'))));
    for header in get.http_headers.iter().flatten() {
        defaults.retain(|(name, _)| !header.name.eq_ignore_ascii_case(name));
        request = request.header(&header.name, &header.value);
    }
    for (name, value) in defaults {
        request = request.header(name, value);
    }
    let request = request.header("connection", "close").body(Empty::<Bytes>::new());
    let request = request.map_err(|error| Unwell::Errored(error.to_string()))?;
    let answer = async {
        let answer = sender.send_request(request).await?;
        let status = answer.status();
        // The body is of no interest, but a server should not be cut off in the middle of it.
        let _ = http_body_util::Limited::new(answer, LONGEST_OUTPUT as usize).collect().await;
        Ok::<_, hyper::Error>(status)
    };
    let mut connection = std::pin::pin!(connection);
    let mut answer = std::pin::pin!(answer);
    let status = tokio::select! {
        status = &mut answer => status,
        _ = &mut connection => answer.await,
    };
    match status.map_err(|error| failed(&error))?.as_u16() {
        200..400 => Ok(()),
        code => Err(Unwell::Failed(format!("HTTP probe failed with statuscode: {code}"))),
    }
}

/// A hook that asks over HTTP; only whether somebody answered counts.
pub(crate) async fn call(
    node: &Node,
    address: Ipv4Addr,
    container: &core::Container,
    get: &HTTPGetAction,
) -> Result<(), String> {
    http_get(node, address, container, get).await.map_err(|unwell| match unwell {
        Unwell::Failed(why) | Unwell::Errored(why) => why,
    })
}

/// The address a probe means: the pod's unless it names another, and ports by number or by name.
fn target(
    host: Option<&str>,
    port: &IntOrString,
    address: Ipv4Addr,
    container: &core::Container,
) -> Result<SocketAddr, Unwell> {
    let ip: IpAddr = match host.filter(|host| !host.is_empty()) {
        None => address.into(),
        Some(host) => host.parse().map_err(|_| {
            Unwell::Errored(format!(
                "the probe's host `{host}` is not an address, and names are not resolved"
            ))
        })?,
    };
    let number = match port {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(name) => {
            let mut ports = container.ports.iter().flatten();
            let named = ports.find(|port| port.name.as_deref() == Some(name));
            named.map(|port| port.container_port).or_else(|| name.parse().ok())
        }
    };
    let number = number.and_then(|number| u16::try_from(number).ok()).filter(|number| *number != 0);
    let unknown = || Unwell::Errored(format!("the container `{}` has no port {port:?}", container.name));
    Ok(SocketAddr::new(ip, number.ok_or_else(unknown)?))
}

/// What no probe here can do, said before the container starts.
pub(crate) fn refusal(container: &core::Container) -> Option<String> {
    let probes = [
        ("startupProbe", &container.startup_probe),
        ("livenessProbe", &container.liveness_probe),
        ("readinessProbe", &container.readiness_probe),
    ];
    probes.into_iter().find_map(|(field, probe)| {
        let probe = probe.as_ref()?;
        let scheme = probe.http_get.as_ref().and_then(|get| get.scheme.as_deref());
        let what = match scheme {
            _ if probe.grpc.is_some() => "grpc",
            Some("HTTPS") => "httpGet with scheme HTTPS",
            _ => return None,
        };
        let name = &container.name;
        Some(format!(
            "`{field}` of container `{name}` uses {what}, which is not supported here: use httpGet with \
             scheme HTTP, tcpSocket or exec"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probe(successes: i32, failures: i32) -> core::Probe {
        core::Probe {
            success_threshold: Some(successes),
            failure_threshold: Some(failures),
            ..core::Probe::default()
        }
    }

    #[test]
    fn a_streak_changes_what_holds_and_a_single_answer_does_not() {
        let changes = |purpose: Purpose, probe: &core::Probe, answers: &str| {
            let mut streak = Streak::new(purpose.before(false), probe);
            let change = |answer: char| if streak.add(answer == '+') { answer } else { '.' };
            answers.chars().map(change).collect::<String>()
        };
        let readiness = Purpose::Readiness;
        assert_eq!(changes(readiness, &probe(1, 3), "--+--+---+"), "..+.....-+");
        assert_eq!(changes(readiness, &probe(2, 1), "+-++-++"), "...+-.+");
        // It lives until it is seen not to, so success changes nothing.
        assert_eq!(changes(Purpose::Liveness, &probe(1, 2), "++-+--"), ".....-");
        assert_eq!(changes(Purpose::Startup, &probe(1, 3), "--+"), "..+");
        assert_eq!(changes(Purpose::Startup, &probe(1, 3), "---"), "..-");
    }

    #[test]
    fn looks_out_of_turn_come_within_the_first_period() {
        let mut haste = Haste::new(Purpose::Readiness, Some(false), &probe(1, 3));
        assert!(matches!(haste, Haste::Patient), "before the first look in its turn: {haste:?}");
        haste.looked(false);
        let mut waits = Vec::new();
        while let Haste::In(wait) = haste {
            waits.push(wait.as_millis());
            haste.failed(Duration::from_secs(1));
        }
        assert_eq!(waits, [25, 50, 100, 200, 400]);
        haste.looked(false);
        assert!(matches!(haste, Haste::Over), "a look in its turn does not begin it anew: {haste:?}");
    }

    #[test]
    fn only_readiness_that_one_success_would_bring_is_looked_for_out_of_turn() {
        for (purpose, ready, successes, looked_for) in [
            (Purpose::Readiness, false, 1, true),
            (Purpose::Readiness, true, 1, false),
            (Purpose::Readiness, false, 2, false),
            (Purpose::Liveness, false, 1, false),
            (Purpose::Startup, false, 1, false),
        ] {
            let probe = probe(successes, 1);
            let mut haste = Haste::new(purpose, purpose.before(ready), &probe);
            haste.looked(false);
            assert_eq!(matches!(haste, Haste::In(_)), looked_for, "{purpose:?} {ready} {successes}");
        }
        let mut haste = Haste::new(Purpose::Readiness, Some(false), &probe(1, 1));
        haste.looked(true);
        assert!(matches!(haste, Haste::Over), "{haste:?}");
    }

    #[test]
    fn ports_have_numbers_and_names() {
        let container: core::Container = serde_json::from_value(serde_json::json!({
            "name": "c", "ports": [{"name": "web", "containerPort": 8000}]
        }))
        .expect("a container");
        let pod = Ipv4Addr::new(10, 0, 0, 2);
        let found = |host, port: IntOrString| {
            target(host, &port, pod, &container).map(|to| to.to_string()).map_err(|_| ())
        };
        let name = |name: &str| IntOrString::String(name.to_owned());
        assert_eq!(found(None, IntOrString::Int(80)), Ok("10.0.0.2:80".to_owned()));
        assert_eq!(found(None, name("web")), Ok("10.0.0.2:8000".to_owned()));
        assert_eq!(found(Some("127.0.0.1"), name("81")), Ok("127.0.0.1:81".to_owned()));
        assert_eq!(found(None, name("other")), Err(()));
        assert_eq!(found(None, IntOrString::Int(70000)), Err(()));
        assert_eq!(found(Some("example.org"), IntOrString::Int(80)), Err(()));
    }

    #[test]
    fn what_cannot_be_probed_is_said() {
        let container = |probe: serde_json::Value| -> core::Container {
            serde_json::from_value(serde_json::json!({"name": "c", "livenessProbe": probe}))
                .expect("a container")
        };
        let refused = refusal(&container(serde_json::json!({"grpc": {"port": 1}}))).expect("a refusal");
        assert!(refused.contains("`livenessProbe` of container `c` uses grpc"), "{refused}");
        assert!(
            refusal(&container(serde_json::json!({"httpGet": {"port": 1, "scheme": "HTTPS"}}))).is_some()
        );
        assert_eq!(refusal(&container(serde_json::json!({"httpGet": {"port": 1, "scheme": "HTTP"}}))), None);
    }
}
