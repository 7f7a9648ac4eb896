//! A whole testbed and what is around it: its load balancer, host ports, and the hosts outside.
//!
//! The programs of the pods are this test itself, under other names.

use std::collections::BTreeSet;
use std::future::Future;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Endpoints, Event, Pod, Service};
use kube::Api;
use kube::api::{AttachParams, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use libtest_mimic::{Arguments, Failed, Trial};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use stickler_testbed::{Testbed, TestbedSpec};
use tokio::io::AsyncReadExt as _;
use tokio::time::timeout;

/// The most anything may take to come true; in practice it is milliseconds.
const PATIENCE: Duration = Duration::from_secs(20);

fn main() -> ExitCode {
    if let Some(code) = stickler_testbed::reexec() {
        return code;
    }
    let arguments = Arguments::from_args();
    if !arguments.list
        && let Err(error) = stickler_testbed::enter::enter()
    {
        panic!("{error}");
    }
    let _ = rustls::crypto::ring::default_provider().install_default();
    let trials = vec![
        trial("load_balancer::gives_addresses_and_takes_them_back", gives_addresses_and_takes_them_back),
        trial("load_balancer::hands_over_to_node_ports_in_mode_proxy", hands_over_to_node_ports),
        trial("load_balancer::is_off_unless_asked_for", is_off_unless_asked_for),
        trial("proxy::says_which_nodes_have_endpoints", a_proxy_says_which_nodes_have_endpoints),
        trial("proxy::admits_the_balancers_clients_only", a_proxy_admits_the_balancers_clients_only),
        trial("proxy::heeds_hints", a_proxy_heeds_hints),
        trial("outside::pods_reach_its_hosts_and_names", pods_reach_its_hosts_and_names),
        trial("outside::a_service_can_lead_there", a_service_can_lead_there),
        trial("host_port::leads_to_the_pod_until_it_is_gone", a_host_port_leads_to_the_pod),
        trial("daemon_set::has_a_pod_on_every_node", a_daemon_set_has_a_pod_on_every_node),
    ];
    // Each starts a cluster: one at a time.
    libtest_mimic::run(&Arguments { test_threads: Some(1), ..arguments }, trials).exit_code()
}

fn trial<F>(name: &'static str, test: fn() -> F) -> Trial
where
    F: Future<Output = anyhow::Result<()>> + 'static,
{
    Trial::test(name, move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        runtime.block_on(test()).map_err(|error| Failed::from(format!("{error:#}")))
    })
}

struct World {
    testbed: Testbed,
}

impl World {
    async fn start(load_balancer: bool) -> anyhow::Result<Self> {
        Self::of(TestbedSpec { load_balancer, ..TestbedSpec::default() }).await
    }

    async fn of(spec: TestbedSpec) -> anyhow::Result<Self> {
        Ok(Self { testbed: Testbed::start(spec).await? })
    }

    fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
    {
        Api::namespaced(self.testbed.client(), "default")
    }

    async fn create<K>(&self, object: Value) -> anyhow::Result<()>
    where
        K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
            + Clone
            + DeserializeOwned
            + serde::Serialize
            + std::fmt::Debug,
    {
        self.api::<K>().create(&PostParams::default(), &serde_json::from_value(object)?).await?;
        Ok(())
    }

    /// What a curl on the client host prints; an error if it fails.
    async fn curl(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let mut process = self.testbed.spawn_outside("curl", arguments)?;
        let mut text = String::new();
        let status = timeout(PATIENCE, async {
            process.stdout.read_to_string(&mut text).await?;
            process.child.wait().await
        });
        let status = status.await.context("curl takes too long")??;
        ensure!(status.success(), "curl {arguments:?} failed: {status}");
        Ok(text.trim().to_owned())
    }

    /// What a command in a pod prints.
    async fn exec(&self, pod: &str, command: &[&str]) -> anyhow::Result<String> {
        let parameters = AttachParams::default().stdout(true).stderr(false);
        let mut process = self.api::<Pod>().exec(pod, command.iter().copied(), &parameters).await?;
        let mut text = String::new();
        let mut stdout = process.stdout().context("no output")?;
        timeout(PATIENCE, stdout.read_to_string(&mut text)).await.context("the command takes too long")??;
        Ok(text.trim().to_owned())
    }

    /// Waits until `look` finds nothing wrong; what was wrong last is the error.
    async fn eventually<T, F>(&self, look: impl Fn() -> F) -> anyhow::Result<T>
    where
        F: Future<Output = anyhow::Result<T>>,
    {
        let mut wrong = anyhow::anyhow!("nothing was looked at");
        let looking = timeout(PATIENCE, async {
            let mut often = tokio::time::interval(Duration::from_millis(20));
            loop {
                often.tick().await;
                match look().await {
                    Ok(found) => return found,
                    Err(error) => wrong = error,
                }
            }
        });
        let found = looking.await;
        found.map_err(|_| wrong.context("it never came"))
    }

    /// A pod that answers on 8000 with its name, ready, on this node.
    async fn web(&self, name: &str, node: &str, ports: Value) -> anyhow::Result<()> {
        self.create::<Pod>(json!({
            "metadata": {"name": name, "labels": {"app": "web"}},
            "spec": {"nodeName": node, "terminationGracePeriodSeconds": 1,
                "containers": [{"name": "goweb", "image": "goweb", "ports": ports}]},
        }))
        .await?;
        self.eventually(async || {
            let pod = self.api::<Pod>().get(name).await?;
            let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
            let ready = conditions.clone().any(|one| one.type_ == "Ready" && one.status == "True");
            ensure!(ready, "pod {name} is not ready: {:?}", pod.status);
            Ok(())
        })
        .await
    }

    /// The address of a service of type LoadBalancer, and its mode.
    async fn address(&self, service: &str) -> anyhow::Result<(String, String)> {
        self.eventually(async || {
            let status = self.api::<Service>().get(service).await?.status.unwrap_or_default();
            let ingress = status.load_balancer.and_then(|balancer| balancer.ingress).unwrap_or_default();
            let [ingress] = ingress.as_slice() else { bail!("it has addresses {ingress:?}") };
            let (ip, mode) = (ingress.ip.clone(), ingress.ip_mode.clone());
            ip.zip(mode).context("no address, or no mode")
        })
        .await
    }

    /// Calls until each of these has answered, and nobody else.
    async fn answered_by(&self, url: &str, names: &[&str]) -> anyhow::Result<()> {
        let wanted: BTreeSet<String> = names.iter().map(|name| format!("this is {name}")).collect();
        let mut seen = BTreeSet::new();
        for _ in 0..200 {
            let answer = self.curl(&["-s", "--max-time", "5", url]).await?;
            ensure!(wanted.contains(&answer), "`{answer}` came from {url}, not one of {wanted:?}");
            seen.insert(answer);
            if seen == wanted {
                return Ok(());
            }
        }
        bail!("{url} was answered by {seen:?}, not by all of {wanted:?}")
    }
}

fn balanced(name: &str, spec: Value, annotations: Value) -> Value {
    let mut service = json!({
        "metadata": {"name": name, "annotations": annotations},
        "spec": {"type": "LoadBalancer", "selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8000}]},
    });
    for (field, value) in spec.as_object().into_iter().flatten() {
        service["spec"][field] = value.clone();
    }
    service
}

async fn gives_addresses_and_takes_them_back() -> anyhow::Result<()> {
    let world = World::start(true).await?;
    world.web("a", "kube0.vm", json!([])).await?;
    world.web("b", "kube2.vm", json!([])).await?;
    world.create::<Service>(balanced("first", json!({}), json!({}))).await?;
    let (ip, mode) = world.address("first").await?;
    ensure!((ip.as_str(), mode.as_str()) == ("192.168.199.241", "VIP"), "{ip} {mode}");
    let url = format!("http://{ip}/");
    world.eventually(async || world.curl(&["-s", "--max-time", "1", &url]).await).await?;
    world.answered_by(&url, &["a", "b"]).await?;
    // A second service has an address of its own, one that was asked for is given.
    let asked = json!({"loadBalancerIP": "192.168.199.250"});
    world.create::<Service>(balanced("second", asked, json!({}))).await?;
    ensure!(world.address("second").await?.0 == "192.168.199.250");
    let reasons = world.eventually(async || {
        let events = world.api::<Event>().list(&ListParams::default()).await?;
        let about =
            events.items.into_iter().filter(|event| event.involved_object.name.as_deref() == Some("first"));
        let reasons: BTreeSet<String> = about.filter_map(|event| event.reason).collect();
        ensure!(reasons.contains("EnsuredLoadBalancer"), "{reasons:?}");
        Ok(reasons)
    });
    ensure!(reasons.await?.contains("EnsuringLoadBalancer"));
    let held = world.api::<Service>().get("first").await?.metadata.finalizers.unwrap_or_default();
    ensure!(held == ["service.kubernetes.io/load-balancer-cleanup"], "{held:?}");
    // Another type gives the address back, and so does the end.
    let patch = Patch::Merge(json!({"spec": {"type": "ClusterIP"}}));
    world.api::<Service>().patch("second", &PatchParams::default(), &patch).await?;
    world
        .eventually(async || {
            let service = world.api::<Service>().get("second").await?;
            let finalizers = service.metadata.finalizers.unwrap_or_default();
            let status = service.status.and_then(|status| status.load_balancer).unwrap_or_default();
            ensure!(finalizers.is_empty() && status.ingress.is_none(), "{finalizers:?} {status:?}");
            Ok(())
        })
        .await?;
    world.api::<Service>().delete("first", &DeleteParams::default()).await?;
    world
        .eventually(async || {
            ensure!(world.api::<Service>().get_opt("first").await?.is_none(), "the service is still there");
            ensure!(world.curl(&["-s", "--max-time", "1", &url]).await.is_err(), "its address still answers");
            Ok(())
        })
        .await
}

async fn hands_over_to_node_ports() -> anyhow::Result<()> {
    let world = World::start(true).await?;
    world.web("a", "kube1.vm", json!([])).await?;
    let proxy = json!({"load-balancer.stickler.io/ip-mode": "Proxy"});
    world.create::<Service>(balanced("web", json!({}), proxy)).await?;
    let (ip, mode) = world.address("web").await?;
    ensure!(mode == "Proxy", "{mode}");
    let url = format!("http://{ip}/");
    world.eventually(async || world.curl(&["-s", "--max-time", "1", &url]).await).await?;
    for _ in 0..20 {
        ensure!(world.curl(&["-s", "--max-time", "5", &url]).await? == "this is a");
    }
    // It is not to be bypassed: a pod's call goes through the balancer too.
    ensure!(world.exec("a", &["curl", "-s", "--max-time", "5", &url]).await? == "this is a");
    Ok(())
}

async fn is_off_unless_asked_for() -> anyhow::Result<()> {
    let world = World::start(false).await?;
    world.create::<Service>(balanced("web", json!({}), json!({}))).await?;
    // What the other controllers do for it is done, and still there is no address.
    world
        .eventually(async || {
            world.api::<Endpoints>().get("web").await?;
            Ok(())
        })
        .await?;
    let service = world.api::<Service>().get("web").await?;
    ensure!(service.metadata.finalizers.is_none());
    ensure!(service.status.and_then(|status| status.load_balancer).unwrap_or_default().ingress.is_none());
    ensure!(world.curl(&["-s", "--max-time", "1", "http://192.168.199.241/"]).await.is_err());
    Ok(())
}

async fn a_proxy_says_which_nodes_have_endpoints() -> anyhow::Result<()> {
    let world = World::start(true).await?;
    world.web("a", "kube1.vm", json!([])).await?;
    let policy = json!({"externalTrafficPolicy": "Local", "healthCheckNodePort": 30999});
    world.create::<Service>(balanced("web", policy, json!({}))).await?;
    let told = async |node: &str, port: u16| -> anyhow::Result<String> {
        world.curl(&["-s", "-i", "--max-time", "1", &format!("http://{node}:{port}/healthz")]).await
    };
    let (with, without) = ("192.168.199.231", "192.168.199.212");
    world
        .eventually(async || {
            for (node, status, count) in [(with, "200", 1), (without, "503", 0)] {
                let answer = told(node, 30999).await?.to_lowercase();
                let wanted = [
                    status.to_owned(),
                    format!("x-load-balancing-endpoint-weight: {count}"),
                    format!("\"localendpoints\":{count}"),
                ];
                ensure!(wanted.iter().all(|part| answer.contains(part)), "{node}: {answer}");
            }
            Ok(())
        })
        .await?;
    // So the balancer hands everything to that node, and the pod sees who calls.
    let (ip, _) = world.address("web").await?;
    let url = format!("http://{ip}/");
    world.eventually(async || world.curl(&["-s", "--max-time", "1", &url]).await).await?;
    for _ in 0..20 {
        ensure!(world.curl(&["-s", "--max-time", "5", &url]).await? == "this is a");
    }
    // The proxy's own health.
    ensure!(told(without, 10256).await?.contains("200"));
    // Another policy: nobody asks any more.
    let patch = Patch::Merge(json!({"spec": {"externalTrafficPolicy": "Cluster"}}));
    world.api::<Service>().patch("web", &PatchParams::default(), &patch).await?;
    world
        .eventually(async || {
            ensure!(told(with, 30999).await.is_err(), "the health check port is still open");
            Ok(())
        })
        .await
}

async fn a_proxy_admits_the_balancers_clients_only() -> anyhow::Result<()> {
    let world = World::start(true).await?;
    world.web("a", "kube1.vm", json!([])).await?;
    world.create::<Service>(balanced("web", json!({}), json!({}))).await?;
    let (ip, _) = world.address("web").await?;
    let url = format!("http://{ip}/");
    let from_outside = async || world.curl(&["-s", "--max-time", "1", &url]).await;
    let from_pod = async || world.exec("a", &["curl", "-sf", "--max-time", "2", &url]).await;
    for (ranges, outside, pod) in [
        (json!(["10.0.0.0/8"]), false, true),
        (json!(["192.168.199.0/24"]), true, false),
        (json!([]), true, true),
    ] {
        let patch = Patch::Merge(json!({"spec": {"loadBalancerSourceRanges": ranges}}));
        world.api::<Service>().patch("web", &PatchParams::default(), &patch).await?;
        world
            .eventually(async || {
                let answered = from_outside().await.is_ok_and(|answer| answer == "this is a");
                ensure!(answered == outside, "{ranges}: a client outside was answered: {answered}");
                let answered = from_pod().await.is_ok_and(|answer| answer == "this is a");
                ensure!(answered == pod, "{ranges}: a pod was answered: {answered}");
                Ok(())
            })
            .await?;
    }
    Ok(())
}

async fn a_proxy_heeds_hints() -> anyhow::Result<()> {
    let zone = |name: &str| [("topology.kubernetes.io/zone".to_owned(), name.to_owned())].into();
    let node_labels = vec![zone("a"), zone("b"), zone("c")];
    let world = World::of(TestbedSpec { node_labels, ..TestbedSpec::default() }).await?;
    world.web("a", "kube0.vm", json!([])).await?;
    world.web("b", "kube1.vm", json!([])).await?;
    world.web("c", "kube2.vm", json!([])).await?;
    let spec = json!({"type": "NodePort", "trafficDistribution": "PreferSameZone"});
    world.create::<Service>(balanced("web", spec, json!({}))).await?;
    let service = world.api::<Service>().get("web").await?.spec.and_then(|spec| spec.cluster_ip);
    let url = format!("http://{}/", service.context("no cluster IP")?);
    let ask = async |pod: &str| world.exec(pod, &["curl", "-sf", "--max-time", "2", &url]).await;
    for pod in ["a", "b"] {
        world.eventually(async || ask(pod).await).await?;
        // Eventually: the hints come with the slices, the rules a moment later. Ten calls in a row
        // would meet nobody else by chance once in 59 000 tries.
        world
            .eventually(async || {
                for _ in 0..10 {
                    let answer = ask(pod).await?;
                    ensure!(answer == format!("this is {pod}"), "a call from {pod}: {answer}");
                }
                Ok(())
            })
            .await?;
    }
    // Without it, anybody answers.
    let patch = Patch::Merge(json!({"spec": {"trafficDistribution": null}}));
    world.api::<Service>().patch("web", &PatchParams::default(), &patch).await?;
    world
        .eventually(async || {
            let answer = ask("a").await?;
            ensure!(answer != "this is a", "nobody else has answered so far");
            Ok(())
        })
        .await
}

async fn pods_reach_its_hosts_and_names() -> anyhow::Result<()> {
    let world = World::start(false).await?;
    world.web("a", "kube1.vm", json!([])).await?;
    for host in ["11.11.11.11", "22.22.22.22"] {
        let url = format!("http://{host}/");
        let answer = world.exec("a", &["curl", "-s", "--max-time", "5", &url]).await?;
        ensure!(answer == format!("this is {host}"), "{answer}");
    }
    // Through cluster DNS, once it is up, and the LAN's resolver.
    world
        .eventually(async || {
            let answer = world.exec("a", &["curl", "-s", "--max-time", "2", "http://www.baidu.com/"]).await?;
            ensure!(answer == "this is www.baidu.com", "{answer}");
            Ok(())
        })
        .await?;
    world
        .create::<Service>(json!({"metadata": {"name": "away"},
            "spec": {"type": "ExternalName", "externalName": "www.baidu.com"}}))
        .await?;
    world
        .eventually(async || {
            let answer = world.exec("a", &["curl", "-s", "--max-time", "2", "http://away/"]).await?;
            ensure!(answer == "this is www.baidu.com", "{answer}");
            Ok(())
        })
        .await
}

async fn a_service_can_lead_there() -> anyhow::Result<()> {
    let world = World::start(false).await?;
    world.web("a", "kube1.vm", json!([])).await?;
    let name = "external-svc";
    world.create::<Service>(json!({"metadata": {"name": name}, "spec": {"ports": [{"port": 80}]}})).await?;
    world
        .create::<Endpoints>(json!({"metadata": {"name": name}, "subsets": [
            {"addresses": [{"ip": "11.11.11.11"}, {"ip": "22.22.22.22"}], "ports": [{"port": 80}]}]}))
        .await?;
    let service = world.api::<Service>().get(name).await?.spec.and_then(|spec| spec.cluster_ip);
    let url = format!("http://{}/", service.context("no cluster IP")?);
    let mut seen = BTreeSet::new();
    world
        .eventually(async || {
            world.exec("a", &["curl", "-sf", "--max-time", "2", &url]).await.and_then(|answer| {
                ensure!(answer.starts_with("this is "), "{answer}");
                Ok(())
            })
        })
        .await?;
    for _ in 0..60 {
        seen.insert(world.exec("a", &["curl", "-s", "--max-time", "5", &url]).await?);
        if seen.len() == 2 {
            break;
        }
    }
    let wanted = ["this is 11.11.11.11", "this is 22.22.22.22"].map(str::to_owned);
    ensure!(seen == wanted.into(), "{seen:?}");
    Ok(())
}

async fn a_host_port_leads_to_the_pod() -> anyhow::Result<()> {
    let world = World::start(false).await?;
    let ports = json!([{"containerPort": 8000, "hostPort": 8080}]);
    world.web("a", "kube1.vm", ports.clone()).await?;
    let url = "http://192.168.199.231:8080/";
    // Without a readiness probe a pod is Ready before its program listens.
    world
        .eventually(async || {
            let answer = world.curl(&["-s", "--max-time", "5", url]).await?;
            ensure!(answer == "this is a", "{answer}");
            Ok(())
        })
        .await?;
    ensure!(world.exec("a", &["curl", "-s", "--max-time", "5", url]).await? == "this is a", "to itself");
    ensure!(world.curl(&["-s", "--max-time", "1", "http://192.168.199.117:8080/"]).await.is_err());
    // The scheduler keeps a second one off this node.
    for (name, node) in [("b", "kube0.vm"), ("c", "kube2.vm")] {
        world.web(name, node, ports.clone()).await?;
    }
    world
        .create::<Pod>(json!({"metadata": {"name": "d"}, "spec": {"containers": [
            {"name": "goweb", "image": "goweb", "ports": ports}]}}))
        .await?;
    world
        .eventually(async || {
            let status = world.api::<Pod>().get("d").await?.status.unwrap_or_default();
            let message = status.conditions.iter().flatten().find_map(|one| one.message.clone());
            let message = message.unwrap_or_default();
            ensure!(message.contains("didn't have free ports"), "it waits for: {message}");
            Ok(())
        })
        .await?;
    world.api::<Pod>().delete("a", &DeleteParams::default()).await?;
    world
        .eventually(async || {
            let answer = world.curl(&["-s", "--max-time", "1", url]).await?;
            ensure!(answer == "this is d", "{answer}");
            Ok(())
        })
        .await
}

async fn a_daemon_set_has_a_pod_on_every_node() -> anyhow::Result<()> {
    let world = World::start(false).await?;
    world
        .create::<DaemonSet>(json!({"metadata": {"name": "everywhere"}, "spec": {
            "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {
                "hostNetwork": true, "containers": [{"name": "goweb", "image": "goweb"}]}}}}))
        .await?;
    for (name, ip) in
        [("kube0.vm", "192.168.199.117"), ("kube1.vm", "192.168.199.231"), ("kube2.vm", "192.168.199.212")]
    {
        let url = format!("http://{ip}:8000/");
        let answer = world.eventually(async || world.curl(&["-s", "--max-time", "1", &url]).await).await?;
        ensure!(answer == format!("this is {name}"), "{answer}");
    }
    Ok(())
}
