//! What becomes of a check when what it stands on is taken away in the middle: it ends soon, says
//! what was lost, and never passes.

use std::process::ExitCode;

#[cfg(target_os = "linux")]
#[path = "disruption/tiny_proxy.rs"]
mod tiny_proxy;

fn main() -> ExitCode {
    #[cfg(target_os = "linux")]
    if let Some(code) = tiny_proxy::dispatch() {
        return code;
    }
    if let Some(code) = stickler_suites::reexec() {
        return code;
    }
    #[cfg(target_os = "linux")]
    return disruption::main();
    #[cfg(not(target_os = "linux"))]
    return ExitCode::SUCCESS;
}

#[cfg(target_os = "linux")]
mod disruption {
    mod broken;

    use std::collections::BTreeMap;
    use std::process::ExitCode;
    use std::sync::{Arc, Mutex, PoisonError};
    use std::time::{Duration, Instant};

    use anyhow::{Context as _, bail, ensure};
    use futures::future::BoxFuture;
    use futures::{FutureExt as _, TryStreamExt as _};
    use k8s_openapi::api::apps::v1::Deployment;
    use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
    use k8s_openapi::api::discovery::v1::EndpointSlice;
    use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
    use kube::runtime::wait::await_condition;
    use kube::runtime::{WatchStreamExt as _, watcher};
    use libtest_mimic::{Arguments, Failed, Trial};
    use serde_json::json;
    use stickler::protocol::{Probe, Workload};
    use stickler::providers::TestbedProvider;
    use stickler::providers::components::{Component, Components};
    use stickler::{
        Check, Class, Cluster, Disruption, Ending, Held, Provider as _, Run, Scene, Session, Sink, Vantage,
        Verdict, as_promised, cluster_ip, fixture, resolve_as_promised,
    };
    use stickler_model::RecordType;
    use stickler_reports::{Event, Record, Report, Reporter};
    use tempfile::TempDir;
    use tokio::runtime::Runtime;
    use tokio::sync::mpsc;
    use tokio::time::timeout;
    use tokio_util::sync::CancellationToken;

    use crate::tiny_proxy;

    /// No check may hang: what is lost for good is known to be lost well before this.
    const SOON: Duration = Duration::from_secs(20);

    /// How long a node is cut off. What is sent is sent again after 0.2 s, 0.4 s and so on, each time twice as
    /// long: nothing is tried between about 13 s and 25 s.
    const CUT_OFF: Duration = Duration::from_secs(15);

    /// The most a node that is connected again may take to make a pod ready.
    const RECONNECTED: Duration = Duration::from_secs(8);

    /// The node whose parts are stopped; the API server is on another one.
    const NODE: &str = "kube1.vm";

    /// Of the fixture `service/web.yaml`.
    const REPLICAS: usize = 3;

    type Body = fn(Bed) -> BoxFuture<'static, anyhow::Result<()>>;

    const TESTS: &[(&str, Body)] = &[
        ("undisturbed", |bed| undisturbed(bed).boxed()),
        ("objects/change-during-looks", |bed| objects_change_during_looks(bed).boxed()),
        ("agent/killed", |bed| agent_killed(bed).boxed()),
        ("dns/gone", |bed| dns_gone(bed).boxed()),
        ("dns/replaced", |bed| dns_replaced(bed).boxed()),
        ("apiserver/stopped-between-looks", |bed| apiserver_stopped_between_looks(bed).boxed()),
        ("apiserver/stopped-in-a-wait", |bed| apiserver_stopped_in_a_wait(bed).boxed()),
        ("apiserver/stopped-during-calls", |bed| apiserver_stopped_during_calls(bed).boxed()),
        ("apiserver/stopped-in-a-run", |bed| apiserver_stopped_in_a_run(bed).boxed()),
        ("apiserver/comes-back", |bed| apiserver_comes_back(bed).boxed()),
        ("kubelet/stopped-under-a-vantage", |bed| kubelet_stopped_under_a_vantage(bed).boxed()),
        ("node/cut-off-and-connected-again", |bed| cut_off_and_connected_again(bed).boxed()),
        ("component/replaced", |bed| component_replaced(bed).boxed()),
        ("component/ends-in-a-run", |bed| component_ends_in_a_run(bed).boxed()),
        ("ingress/replaced", |bed| ingress_replaced(bed).boxed()),
        ("kubelet/its-pods-leave-and-return", |bed| pods_leave_and_return(bed).boxed()),
    ];

    pub(crate) fn main() -> ExitCode {
        let arguments = Arguments::from_args();
        if let Err(error) = TestbedProvider::enter(3, 0, [].into_iter().collect()) {
            let trial = Trial::test("disruption", move || Err(Failed::from(error.to_string())));
            return libtest_mimic::run(&arguments, vec![trial]).exit_code();
        }
        let _ = rustls::crypto::ring::default_provider().install_default();
        let trial = |(name, body): &'static (&'static str, Body)| {
            Trial::test(*name, move || {
                let swapped = name.starts_with("component/");
                let run = async { body(Bed::start(swapped).await?).await };
                Runtime::new()?.block_on(run).map_err(|error| Failed::from(format!("{error:#}")))
            })
        };
        // They mostly wait.
        let arguments = Arguments { test_threads: arguments.test_threads.or(Some(6)), ..arguments };
        let trials = TESTS.iter().map(trial).chain(broken::trials()).collect();
        libtest_mimic::run(&arguments, trials).exit_code()
    }

    /// A testbed, and all that is told about the checks on it.
    struct Bed {
        cluster: Arc<dyn Cluster>,
        sink: Sink,
        told: mpsc::UnboundedReceiver<Event>,
        /// For the external command, if there is one: its program, its logs, what ends it.
        folder: TempDir,
    }

    struct Told(mpsc::UnboundedSender<Event>);

    impl Reporter for Told {
        fn hear(&mut self, record: &Record) {
            // The test may have ended.
            let _ = self.0.send(record.event.clone());
        }
    }

    impl Bed {
        /// With `swapped` the proxies are external commands.
        async fn start(swapped: bool) -> anyhow::Result<Self> {
            let folder = tempfile::tempdir()?;
            let mut provider = TestbedProvider::enter(3, 0, [].into_iter().collect())?;
            if swapped {
                let program = folder.path().join(tiny_proxy::NAME);
                std::os::unix::fs::symlink(std::env::current_exe()?, &program)?;
                let (program, here) = (program.display(), folder.path().display());
                let command = format!("{program} --kubeconfig={{kubeconfig}} '--until={here}/{{node}}'");
                let mut components = Components::default();
                components.swap(Component::Proxy, &command)?;
                provider = provider.with_components(components, Some(folder.path().join("logs")));
            }
            Self::with(&provider, folder).await
        }

        /// Of this provider.
        async fn of(provider: TestbedProvider) -> anyhow::Result<Self> {
            Self::with(&provider, tempfile::tempdir()?).await
        }

        async fn with(provider: &TestbedProvider, folder: TempDir) -> anyhow::Result<Self> {
            let cluster: Arc<dyn Cluster> = Arc::from(provider.start().await?);
            let (tell, told) = mpsc::unbounded_channel();
            Ok(Self { cluster, sink: Sink::new(vec![Box::new(Told(tell))]), told, folder })
        }

        fn disruption(&self) -> anyhow::Result<&dyn Disruption> {
            self.cluster.disruption().context("a testbed can be disrupted")
        }

        async fn open(&self) -> anyhow::Result<Session> {
            Session::open(Arc::clone(&self.cluster), self.sink.clone(), CancellationToken::new()).await
        }

        /// Waits until the check has got so far.
        async fn until(&mut self, so_far: impl Fn(&Event) -> bool) -> anyhow::Result<()> {
            let wait = async {
                while let Some(event) = self.told.recv().await {
                    if so_far(&event) {
                        return Ok(());
                    }
                    if let Event::CheckFinished { reason, finding, .. } = event {
                        anyhow::bail!("the check ended before: {reason:?} {finding:?}");
                    }
                }
                anyhow::bail!("nothing is told any more")
            };
            timeout(SOON, wait).await.context("the check does not get so far")?
        }

        /// Performs a check; `disrupt` is awaited when it has got so far. Returns how it ended, and how
        /// long after the disruption.
        async fn disturb<'a>(
            &mut self,
            session: &Session,
            check: &'static Check,
            so_far: fn(&Event) -> bool,
            disrupt: impl Future<Output = anyhow::Result<()>> + 'a,
        ) -> anyhow::Result<(Ending, Duration)> {
            let performing = session.perform(check);
            let disrupting = async {
                self.until(so_far).await?;
                disrupt.await?;
                anyhow::Ok(Instant::now())
            };
            let both = async { tokio::join!(performing, disrupting) };
            let (ending, disrupted) = timeout(SOON * 2, both).await.context("the check hangs")?;
            let took = disrupted?.elapsed();
            eprintln_took(check.id, &ending, took);
            ensure!(took < SOON, "it took {took:?} to end");
            Ok((ending, took))
        }
    }

    #[expect(clippy::print_stderr, reason = "how long it took is of interest beside the verdict")]
    fn eprintln_took(id: &str, ending: &Ending, took: Duration) {
        eprintln!("{id}: {:?} after {took:?}: {:?} {:?}", ending.verdict, ending.reason, ending.finding);
    }

    /// Is the verdict this one, and are these words in what is said?
    fn says(ending: &Ending, verdict: Verdict, words: &[&str]) -> anyhow::Result<()> {
        let said = match &ending.finding {
            Some(finding) => format!("{}; {}", finding.promised, finding.observed),
            None => ending.reason.clone().unwrap_or_default(),
        };
        ensure!(ending.verdict == verdict, "{:?} and not {verdict:?}: {said}", ending.verdict);
        for word in words {
            ensure!(said.contains(word), "`{word}` is not in: {said}");
        }
        Ok(())
    }

    const fn check(id: &'static str, run: for<'a> fn(&'a mut Scene) -> BoxFuture<'a, Held>) -> Check {
        let title = "goes on for a while";
        Check { id, title, class: Class::Promise, promised_by: &[], needs: &[], exclusive: false, run }
    }

    /// Looks at a service from everywhere, again and again.
    static LOOKS: Check = check("disrupted/looks", |scene| {
        Box::pin(async move {
            scene.given(fixture!("service/web.yaml")).await?;
            let from = scene.inside();
            scene.eventually(as_promised(from.clone(), vec![cluster_ip("web")])).await?;
            let begun = Instant::now();
            while begun.elapsed() < Duration::from_secs(2) {
                scene.exactly(as_promised(from.clone(), vec![cluster_ip("web")])).await?;
            }
            Ok(())
        })
    });

    /// Calls from a pod of one node without a word to the API server.
    static CALLS: Check = check("disrupted/calls", |scene| {
        Box::pin(async move {
            let from = Vantage::PodOn(NODE.to_owned());
            let address = ([10, 96, 0, 1], 443).into();
            let probe = Probe::Tcp { address, source_port: None };
            let one = scene.workload(probe, 1);
            scene.call(&from, "once", one.clone()).await?;
            let many = Workload { count: Some(600), interval_ms: 100, concurrency: 1, ..one };
            scene.call(&from, "for a minute", many).await?;
            Ok(())
        })
    });

    /// Waits for something that will not happen.
    static WAITS: Check = check("disrupted/waits", |scene| {
        Box::pin(async move {
            scene.given(fixture!("service/web.yaml")).await?;
            scene.pods_become("app=nobody", 1).await?;
            Ok(())
        })
    });

    /// Looks names up, again and again.
    static NAMES: Check = check("disrupted/names", |scene| {
        Box::pin(async move {
            scene.given(fixture!("service/web.yaml")).await?;
            let names = || {
                let name = format!("web.{}.svc.cluster.local", scene.namespace());
                resolve_as_promised(scene.vantages().pods(), RecordType::A, vec![name])
            };
            scene.eventually(names()).await?;
            let begun = Instant::now();
            while begun.elapsed() < Duration::from_secs(5) {
                scene.exactly(names()).await?;
            }
            Ok(())
        })
    });

    /// Looks names up until they are as promised, or the bound is reached.
    static NAMES_AT_LAST: Check = check("disrupted/names-at-last", |scene| {
        Box::pin(async move {
            scene.given(fixture!("service/web.yaml")).await?;
            let name = format!("web.{}.svc.cluster.local", scene.namespace());
            scene.eventually(resolve_as_promised(scene.vantages().pods(), RecordType::A, vec![name])).await
        })
    });

    /// Looks at a service again and again, while another pod becomes ready: it may answer, though nobody
    /// knew of it when the look began.
    static OVERTAKEN: Check = check("disrupted/overtaken", |scene| {
        Box::pin(async move {
            scene.given_running(fixture!("service/readiness-gates.yaml")).await?;
            scene.set_gate("gated-0", true).await?;
            let from = scene.inside();
            // So many that most of a look is calls.
            let looks = || as_promised(from.clone(), vec![cluster_ip("gated")]).calls(60);
            for _ in 0..8 {
                scene.eventually(looks()).await?;
                let changes = async {
                    scene.set_gate("gated-1", true).await?;
                    scene.becomes("gated-1", true).await
                };
                let (held, changed) = tokio::join!(scene.always(looks()), changes);
                changed?;
                held?;
                scene.set_gate("gated-1", false).await?;
                scene.becomes("gated-1", false).await?;
            }
            Ok(())
        })
    });

    fn looks(event: &Event) -> bool {
        matches!(event, Event::Called { call, .. } if call.destination.contains("web"))
    }

    async fn undisturbed(bed: Bed) -> anyhow::Result<()> {
        let session = bed.open().await?;
        for check in [&LOOKS, &NAMES, &NAMES_AT_LAST] {
            says(&session.perform(check).await, Verdict::Passed, &[])?;
        }
        Ok(())
    }

    async fn objects_change_during_looks(bed: Bed) -> anyhow::Result<()> {
        says(&bed.open().await?.perform(&OVERTAKEN).await, Verdict::Passed, &[])
    }

    async fn agent_killed(mut bed: Bed) -> anyhow::Result<()> {
        let session = bed.open().await?;
        let namespace = agents_namespace(&bed.cluster).await?;
        let kill = async { kill_agent(&namespace, "agent-kube1-vm") };
        let called =
            |event: &Event| matches!(event, Event::Called { call, .. } if call.destination == "once");
        let (ending, _) = bed.disturb(&session, &CALLS, called, kill).await?;
        says(&ending, Verdict::Inconclusive, &["a pod on kube1.vm", "restarted"])
    }

    async fn dns_gone(mut bed: Bed) -> anyhow::Result<()> {
        let session = bed.open().await?;
        let client = bed.cluster.client();
        let gone = async {
            let api: Api<Deployment> = Api::namespaced(client.clone(), "kube-system");
            let none = Patch::Merge(json!({"spec": {"replicas": 0}}));
            api.patch("kube-dns", &PatchParams::default(), &none).await?;
            // Until then a pod that is killed may be replaced, and its replacement answers while it is
            // being scaled away.
            let scaled = await_condition(api, "kube-dns", |dns: Option<&Deployment>| {
                dns.is_some_and(|dns| {
                    let status = dns.status.as_ref();
                    let seen = status.and_then(|status| status.observed_generation);
                    seen == dns.metadata.generation
                        && status.is_some_and(|status| status.replicas.unwrap_or(0) == 0)
                })
            });
            timeout(SOON, scaled).await.context("cluster DNS is not scaled away")??;
            kill_pods_of_dns(&client).await
        };
        let (ending, _) = bed.disturb(&session, &NAMES, looked_up, gone).await?;
        says(&ending, Verdict::Failed, &["web."])?;
        says(&session.perform(&NAMES_AT_LAST).await, Verdict::Failed, &["web.", "still so after"])
    }

    async fn dns_replaced(mut bed: Bed) -> anyhow::Result<()> {
        let session = bed.open().await?;
        let client = bed.cluster.client();
        let (ending, _) = bed.disturb(&session, &NAMES, looked_up, kill_pods_of_dns(&client)).await?;
        // An answer may be missed or not, but what is said must be what was seen.
        ensure!(ending.verdict != Verdict::Inconclusive, "{:?}", ending.reason);
        says(&session.perform(&NAMES_AT_LAST).await, Verdict::Passed, &[])
    }

    fn looked_up(event: &Event) -> bool {
        matches!(event, Event::Called { call, .. } if call.destination.contains("web.")
            && call.outcomes.keys().any(|seen| seen.contains(" is ")))
    }

    async fn kill_pods_of_dns(client: &kube::Client) -> anyhow::Result<()> {
        let api: Api<Pod> = Api::namespaced(client.clone(), "kube-system");
        for pod in api.list(&ListParams::default().labels("k8s-app=kube-dns")).await? {
            let name = pod.metadata.name.unwrap_or_default();
            match api.delete(&name, &DeleteParams::default().grace_period(0)).await {
                // One that was ending anyway may have ended since it was listed.
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                deleted => drop(deleted?),
            }
        }
        Ok(())
    }

    async fn apiserver_stopped_between_looks(mut bed: Bed) -> anyhow::Result<()> {
        let session = bed.open().await?;
        let cluster = Arc::clone(&bed.cluster);
        let stop = async { cluster.disruption().context("it can be stopped")?.stop_apiserver().await };
        let (ending, _) = bed.disturb(&session, &LOOKS, looks, stop).await?;
        says(&ending, Verdict::Inconclusive, &["API server"])?;
        // And a check that begins only then.
        let begun = Instant::now();
        let ending = session.perform(&LOOKS).await;
        says(&ending, Verdict::Inconclusive, &["API server"])?;
        ensure!(begun.elapsed() < Duration::from_secs(5), "it took {:?}", begun.elapsed());
        Ok(())
    }

    async fn apiserver_stopped_in_a_wait(mut bed: Bed) -> anyhow::Result<()> {
        let session = bed.open().await?;
        let cluster = Arc::clone(&bed.cluster);
        let stop = async { cluster.disruption().context("it can be stopped")?.stop_apiserver().await };
        let acted = |event: &Event| matches!(event, Event::Acted { .. });
        let (ending, _) = bed.disturb(&session, &WAITS, acted, stop).await?;
        says(&ending, Verdict::Inconclusive, &["API server"])
    }

    async fn apiserver_stopped_during_calls(mut bed: Bed) -> anyhow::Result<()> {
        let session = bed.open().await?;
        let cluster = Arc::clone(&bed.cluster);
        let stop = async { cluster.disruption().context("it can be stopped")?.stop_apiserver().await };
        let called =
            |event: &Event| matches!(event, Event::Called { call, .. } if call.destination == "once");
        let (ending, _) = bed.disturb(&session, &CALLS, called, stop).await?;
        says(&ending, Verdict::Inconclusive, &["a pod on kube1.vm", "API server"])
    }

    async fn kubelet_stopped_under_a_vantage(mut bed: Bed) -> anyhow::Result<()> {
        let session = bed.open().await?;
        let cluster = Arc::clone(&bed.cluster);
        let stop = async { cluster.disruption().context("it can be stopped")?.stop_kubelet(NODE).await };
        let called =
            |event: &Event| matches!(event, Event::Called { call, .. } if call.destination == "once");
        let (ending, _) = bed.disturb(&session, &CALLS, called, stop).await?;
        says(&ending, Verdict::Inconclusive, &["a pod on kube1.vm", "kubelet"])
    }

    /// A whole run in the middle of which the API server goes away: it ends, and everything that was
    /// asked for is in the report.
    async fn apiserver_stopped_in_a_run(mut bed: Bed) -> anyhow::Result<()> {
        let report = Arc::new(Mutex::new(Report::default()));
        let (tell, told) = mpsc::unbounded_channel();
        bed.told = told;
        let sink = Sink::new(vec![Box::new(Told(tell)), Box::new(Written(Arc::clone(&report)))]);
        let checks: Vec<&'static Check> = stickler_suites::all().chain([&LOOKS, &WAITS]).collect();
        sink.tell(Event::RunStarted {
            unclaimed: Vec::new(),
            tool: "test".to_owned(),
            suite: "test".to_owned(),
            seed: 1,
            jobs: 12,
            checks: checks.iter().map(|check| check.card()).collect(),
        });
        let count = checks.len();
        let run = Run {
            checks,
            seed: 1,
            jobs: 12,
            deviations: Vec::new(),
            unclaimed: Vec::new(),
            keep: false,
            cancel: CancellationToken::new(),
        };
        let cluster = Arc::clone(&bed.cluster);
        let stopping = async {
            bed.until_any(|event| matches!(event, Event::CheckFinished { .. })).await?;
            cluster.disruption().context("it can be stopped")?.stop_apiserver().await?;
            anyhow::Ok(Instant::now())
        };
        let both = async { tokio::join!(run.on(&cluster, &sink), stopping) };
        let (_, stopped) = timeout(SOON * 3, both).await.context("the run hangs")?;
        let took = stopped?.elapsed();
        eprintln_run(took);
        ensure!(took < SOON * 2, "it took {took:?} to end");
        let report = report.lock().unwrap_or_else(PoisonError::into_inner);
        ensure!(report.checks.len() == count, "{} of {count} checks are in the report", report.checks.len());
        let lost = report.checks.iter().filter(|check| check.verdict == Verdict::Inconclusive).count();
        ensure!(lost > count / 2, "only {lost} of {count} could not tell");
        Ok(())
    }

    #[expect(clippy::print_stderr, reason = "how long it took is of interest beside the verdict")]
    fn eprintln_run(took: Duration) {
        eprintln!("a run without API server ended after {took:?}");
    }

    /// A command does a component's work, and can be stopped and started.
    async fn component_replaced(bed: Bed) -> anyhow::Result<()> {
        let [card] = bed.cluster.card().components.as_slice() else {
            anyhow::bail!("{:?}", bed.cluster.card().components)
        };
        assert_eq!((card.component.as_str(), card.version.as_deref()), ("proxy", Some(tiny_proxy::VERSION)));
        let command = card.command.as_deref().unwrap_or_default();
        ensure!(command.contains("tiny-proxy --kubeconfig={kubeconfig}"), "{command}");
        let nodes = bed.cluster.card().nodes.iter();
        let on_each: Vec<_> = nodes.map(|node| ("proxy".to_owned(), node.clone())).collect();
        assert_eq!(bed.disruption()?.programs(), on_each);
        let log = bed.folder.path().join(format!("logs/proxy-{NODE}.log"));
        let served = "serves `kubernetes` by 192.168.199.117:6443\n";
        assert_eq!(std::fs::read_to_string(&log)?, served);
        bed.disruption()?.stop_program("proxy", NODE).await?;
        bed.disruption()?.stop_program("proxy", NODE).await?;
        bed.disruption()?.start_program("proxy", NODE).await?;
        let again = async {
            while std::fs::read_to_string(&log)? != served.repeat(2) {
                tokio::task::yield_now().await;
            }
            anyhow::Ok(())
        };
        timeout(SOON, again).await.context("it does not serve again")??;
        ensure!(bed.cluster.lost().now_or_never().is_none(), "what was stopped counts as lost");
        let unknown = bed.disruption()?.stop_program("proxy", "nowhere").await;
        let why = unknown.err().map(|error| error.to_string());
        assert_eq!(why.as_deref(), Some("no external command is the proxy on `nowhere`"));
        Ok(())
    }

    /// A program that is in no pod is the ingress controller that a run judges, and not another: when it is
    /// stopped nobody serves Ingresses, and when it is started again they are served.
    async fn ingress_replaced(bed: Bed) -> anyhow::Result<()> {
        drop(bed);
        let folder = tempfile::tempdir()?;
        let program = folder.path().join("ingress");
        std::os::unix::fs::symlink(std::env::current_exe()?, &program)?;
        let arguments =
            "--kubeconfig={kubeconfig} --controller={controller} --publish-address={node_ip} --quiet";
        let provider = TestbedProvider::enter(3, 0, [].into_iter().collect())?;
        let provider = provider.with("ingress", &format!("{} {arguments}", program.display()))?;
        let bed = Bed::with(&provider, folder).await?;
        let disruption = bed.disruption()?;
        assert_eq!(disruption.programs(), [("ingress".to_owned(), "kube2.vm".to_owned())]);
        let session = bed.open().await?;
        let check = |id| stickler_suites::all().find(|check| check.id == id).context(id);
        let (routed, shown) = (check("ingress/several-hosts")?, check("ingress/address-published")?);
        says(&session.perform(routed).await, Verdict::Passed, &[])?;
        says(&session.perform(shown).await, Verdict::Passed, &[])?;
        let deployed = Api::<Deployment>::all(bed.cluster.client()).list(&ListParams::default()).await?;
        let names: Vec<_> = deployed.iter().filter_map(|one| one.metadata.name.as_deref()).collect();
        assert_eq!(names, ["kube-dns"], "no other controller was deployed");
        disruption.stop_program("ingress", "kube2.vm").await?;
        says(&session.perform(routed).await, Verdict::Failed, &["got no answer, not even the controller's"])?;
        disruption.start_program("ingress", "kube2.vm").await?;
        says(&session.perform(routed).await, Verdict::Passed, &[])?;
        ensure!(bed.cluster.lost().now_or_never().is_none(), "what was stopped counts as lost");
        Ok(())
    }

    /// A whole run in the middle of which a component ends: nothing is judged any more, and the report
    /// has its last words.
    async fn component_ends_in_a_run(mut bed: Bed) -> anyhow::Result<()> {
        let report = Arc::new(Mutex::new(Report::default()));
        let (tell, told) = mpsc::unbounded_channel();
        bed.told = told;
        let sink = Sink::new(vec![Box::new(Told(tell)), Box::new(Written(Arc::clone(&report)))]);
        let checks: Vec<&'static Check> = vec![&CALLS, &WAITS];
        sink.tell(Event::RunStarted {
            unclaimed: Vec::new(),
            tool: "test".to_owned(),
            suite: "test".to_owned(),
            seed: 1,
            jobs: 1,
            checks: checks.iter().map(|check| check.card()).collect(),
        });
        let run = Run {
            checks,
            seed: 1,
            jobs: 1,
            deviations: Vec::new(),
            unclaimed: Vec::new(),
            keep: false,
            cancel: CancellationToken::new(),
        };
        let cluster = Arc::clone(&bed.cluster);
        let ends_it = bed.folder.path().join(NODE);
        let ending = async {
            bed.until_any(|event| matches!(event, Event::CheckStarted { .. })).await?;
            std::fs::write(ends_it, "")?;
            anyhow::Ok(())
        };
        let both = async { tokio::join!(run.on(&cluster, &sink), ending) };
        let (_, ended) = timeout(SOON, both).await.context("the run goes on")?;
        ended?;
        let report = report.lock().unwrap_or_else(PoisonError::into_inner);
        let why = format!("proxy on {NODE} ended by itself with exit status {}", tiny_proxy::EXIT);
        for check in &report.checks {
            let reason = check.reason.as_deref().unwrap_or_default();
            ensure!(check.verdict == Verdict::Inconclusive, "{}: {:?} {reason}", check.id, check.verdict);
            ensure!(reason.ends_with(&why), "{}: {reason}", check.id);
        }
        let [trouble] = report.troubles.as_slice() else { anyhow::bail!("{:?}", report.troubles) };
        ensure!(trouble.contains(&why) && trouble.contains("goodbye"), "{trouble}");
        let log =
            format!("all it said is in `{}`", bed.folder.path().join("logs/proxy-kube1.vm.log").display());
        ensure!(trouble.contains(&log), "`{log}` is not in: {trouble}");
        ensure!(report.verdict() == Verdict::Inconclusive && !report.interrupted, "{:?}", report.verdict());
        Ok(())
    }

    /// Everything recovers by itself: nothing is restarted, and what is created then is served.
    async fn apiserver_comes_back(bed: Bed) -> anyhow::Result<()> {
        let session = bed.open().await?;
        says(&session.perform(&LOOKS).await, Verdict::Passed, &[])?;
        let client = bed.cluster.client();
        let before = containers(&client).await?;
        bed.disruption()?.stop_apiserver().await?;
        bed.disruption()?.stop_apiserver().await?;
        ensure!(client.apiserver_version().await.is_err(), "it is stopped, but answers");
        // Long enough for every component to have tried in vain.
        ensure!(timeout(Duration::from_secs(2), std::future::pending::<()>()).await.is_err());
        bed.disruption()?.start_apiserver().await?;
        bed.disruption()?.start_apiserver().await?;
        let begun = Instant::now();
        says(&session.perform(&LOOKS).await, Verdict::Passed, &[])?;
        says(&session.perform(&NAMES_AT_LAST).await, Verdict::Passed, &[])?;
        eprintln_run(begun.elapsed());
        let after = containers(&client).await?;
        for (container, state) in before {
            ensure!(
                after.get(&container) == Some(&state),
                "{container:?} was {state:?}, is {:?}",
                after.get(&container)
            );
        }
        Ok(())
    }

    /// A node that was cut off until nobody tries any more but now and then, is connected again: what is
    /// created then runs there, is served from there and everywhere, and its names are known there.
    async fn cut_off_and_connected_again(bed: Bed) -> anyhow::Result<()> {
        bed.disruption()?.cut_off(NODE).await?;
        ensure!(timeout(CUT_OFF, std::future::pending::<()>()).await.is_err());
        bed.disruption()?.reconnect(NODE).await?;
        let begun = Instant::now();
        let pods: Api<Pod> = Api::default_namespaced(bed.cluster.client());
        let pod = serde_json::from_value(json!({
            "metadata": {"name": "new"},
            "spec": {"nodeName": NODE, "containers": [{"name": "goweb", "image": "goweb"}]},
        }))?;
        pods.create(&PostParams::default(), &pod).await?;
        // The node first: of a pod of a node that is taken for dead nothing is believed for long.
        let nodes: Api<Node> = Api::all(bed.cluster.client());
        let is_back = await_condition(nodes, NODE, |node: Option<&Node>| {
            let mut conditions =
                node.iter().flat_map(|node| node.status.iter()).flat_map(|is| &is.conditions);
            conditions.any(|all| all.iter().any(|one| one.type_ == "Ready" && one.status == "True"))
        });
        let runs = await_condition(pods.clone(), "new", |pod: Option<&Pod>| {
            let mut conditions = pod.iter().flat_map(|pod| pod.status.iter()).flat_map(|is| &is.conditions);
            conditions.any(|all| all.iter().any(|one| one.type_ == "Ready" && one.status == "True"))
        });
        timeout(CUT_OFF * 4, is_back).await.context("the node stays unknown")??;
        let known = begun.elapsed();
        if timeout(CUT_OFF * 4, runs).await.is_err() {
            bail!("the new pod is not ready: {:?}", pods.get("new").await?.status);
        }
        let ready = begun.elapsed();
        let session = bed.open().await?;
        says(&session.perform(&LOOKS).await, Verdict::Passed, &[])?;
        says(&session.perform(&NAMES_AT_LAST).await, Verdict::Passed, &[])?;
        let whole = begun.elapsed();
        eprintln_whole(known, ready, whole);
        ensure!(ready < RECONNECTED, "a pod was ready there only after {ready:?}");
        ensure!(whole < SOON, "it was whole again only after {whole:?}");
        Ok(())
    }

    #[expect(clippy::print_stderr, reason = "what was measured is of interest beside the verdict")]
    fn eprintln_whole(known: Duration, ready: Duration, whole: Duration) {
        eprintln!(
            "a node that was cut off was Ready after {known:?}, ran a pod after {ready:?}, was whole after {whole:?}"
        );
    }

    /// The measure of patience: a dead node's pods leave the endpoints within the bound for
    /// everything, go on meanwhile, and return with the kubelet.
    async fn pods_leave_and_return(bed: Bed) -> anyhow::Result<()> {
        let client = bed.cluster.client();
        let bound = bed.cluster.bounds().convergence;
        let namespace = serde_json::from_value(json!({"metadata": {"name": "leave"}}))?;
        Api::<Namespace>::all(client.clone()).create(&PostParams::default(), &namespace).await?;
        let fixture = fixture!("service/web.yaml");
        // The image is the name of the program there is.
        let yaml = fixture.yaml.replace("image: stickler", &format!("image: {}", bed.cluster.image()));
        for manifest in stickler::manifest::parse(fixture.path, &yaml)? {
            let api = Api::namespaced_with(client.clone(), "leave", &manifest.resource);
            api.create(&PostParams::default(), &manifest.object).await?;
        }
        let slices: Api<EndpointSlice> = Api::namespaced(client.clone(), "leave");
        timeout(SOON, served(&slices, |all, on_node| all == REPLICAS && on_node > 0)).await??;
        for _ in 0..2 {
            let before = containers(&client).await?;
            let begun = Instant::now();
            bed.disruption()?.stop_kubelet(NODE).await?;
            timeout(bound, served(&slices, |_, on_node| on_node == 0))
                .await
                .context("they did not leave")??;
            let left = begun.elapsed();
            let begun = Instant::now();
            bed.disruption()?.start_kubelet(NODE).await?;
            timeout(bound, served(&slices, |all, _| all == REPLICAS))
                .await
                .context("they did not return")??;
            eprintln_measure(left, begun.elapsed());
            ensure!(containers(&client).await? == before, "a container was restarted");
        }
        let unknown = bed.disruption()?.stop_kubelet("nowhere").await.map_err(|error| error.to_string());
        ensure!(unknown.is_err_and(|error| error.contains("`nowhere`") && error.contains(NODE)));
        Ok(())
    }

    #[expect(clippy::print_stderr, reason = "what was measured is of interest beside the verdict")]
    fn eprintln_measure(left: Duration, returned: Duration) {
        eprintln!("the pods of a dead node left after {left:?} and were back after {returned:?}");
    }

    /// Waits until the ready endpoints, in all and on the node, are as wanted.
    async fn served(
        slices: &Api<EndpointSlice>,
        wanted: impl Fn(usize, usize) -> bool,
    ) -> anyhow::Result<()> {
        let watched =
            watcher(slices.clone(), watcher::Config::default().labels("kubernetes.io/service-name=web"));
        let mut changes = std::pin::pin!(watched.touched_objects());
        while let Some(slice) = changes.try_next().await? {
            let ready: Vec<_> = slice
                .endpoints
                .iter()
                .flatten()
                .filter(|endpoint| endpoint.conditions.as_ref().is_some_and(|is| is.ready == Some(true)))
                .collect();
            let on_node = ready.iter().filter(|endpoint| endpoint.node_name.as_deref() == Some(NODE)).count();
            if wanted(ready.len(), on_node) {
                return Ok(());
            }
        }
        anyhow::bail!("the watch ended")
    }

    /// Which runs of which containers there are: id and number of restarts. Without those that go with
    /// their namespace, as a check's does when the check ends.
    async fn containers(client: &kube::Client) -> anyhow::Result<BTreeMap<String, (String, i32)>> {
        let namespaces = Api::<Namespace>::all(client.clone()).list(&ListParams::default()).await?;
        let ending = namespaces.into_iter().filter(|found| found.metadata.deletion_timestamp.is_some());
        let ending: Vec<Option<String>> = ending.map(|found| found.metadata.name).collect();
        let pods = Api::<Pod>::all(client.clone()).list(&ListParams::default()).await?;
        let mut found = BTreeMap::new();
        for pod in pods.into_iter().filter(|pod| !ending.contains(&pod.metadata.namespace)) {
            let name = format!("{:?}/{:?}", pod.metadata.namespace, pod.metadata.name);
            for status in
                pod.status.into_iter().flat_map(|status| status.container_statuses.unwrap_or_default())
            {
                found.insert(
                    format!("{name}/{}", status.name),
                    (status.container_id.unwrap_or_default(), status.restart_count),
                );
            }
        }
        Ok(found)
    }

    async fn agents_namespace(cluster: &Arc<dyn Cluster>) -> anyhow::Result<String> {
        let namespaces = Api::<Namespace>::all(cluster.client()).list(&ListParams::default()).await?;
        let mut names = namespaces.into_iter().filter_map(|namespace| namespace.metadata.name);
        names.find(|name| name.ends_with("-agents")).context("the session has agents")
    }

    /// Kills the process of an agent from outside, as a crash would end it. The namespace, which is in
    /// the process' own resolv.conf, tells it from all others on the machine.
    fn kill_agent(namespace: &str, pod: &str) -> anyhow::Result<()> {
        for entry in std::fs::read_dir("/proc")? {
            let path = entry?.path();
            let read = |name: &str| std::fs::read_to_string(path.join(name)).unwrap_or_default();
            let is_agent = read("cmdline").starts_with("agent\0serve\0")
                && read("environ").split('\0').any(|variable| variable == format!("POD_NAME={pod}"))
                && read("root/etc/resolv.conf").contains(&format!("{namespace}.svc"));
            let pid = path.file_name().and_then(|name| name.to_str()?.parse::<i32>().ok());
            if let Some(pid) = pid.filter(|_| is_agent) {
                let kill = std::process::Command::new("kill").args(["-KILL", &pid.to_string()]).status()?;
                ensure!(kill.success(), "process {pid} cannot be killed");
                return Ok(());
            }
        }
        anyhow::bail!("there is no process of `{pod}` in `{namespace}`")
    }

    struct Written(Arc<Mutex<Report>>);

    impl Reporter for Written {
        fn hear(&mut self, record: &Record) {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).hear(record);
        }
    }

    impl Bed {
        /// Waits for an event, whatever else is told before.
        async fn until_any(&mut self, wanted: impl Fn(&Event) -> bool) -> anyhow::Result<()> {
            let wait = async {
                while let Some(event) = self.told.recv().await {
                    if wanted(&event) {
                        return Ok(());
                    }
                }
                anyhow::bail!("nothing is told any more")
            };
            timeout(SOON, wait).await.context("it does not happen")?
        }
    }
}
