//! A cluster that exists: a testbed of another process, reached through its API only. What is promised is
//! judged as in a testbed of one's own, and nothing stays.

use std::collections::BTreeMap;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use kube::api::{Api, DynamicObject, ListParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::discovery::{Discovery, verbs};
use serde_json::{Value, json};
use stickler_reports::{Report, Verdict};
use tempfile::{TempDir, tempdir};
use tokio::runtime::Runtime;

use crate::program::{BOUND, Running, eventually, output, stickler};
use crate::{Impossible, Test};

pub(crate) const TESTS: &[(&str, Test)] = &[
    ("the_shipped_rights_are_enough_and_nothing_stays", the_shipped_rights_are_enough),
    ("each_missing_rule_is_named", each_missing_rule_is_named),
    ("a_table_is_taken_and_nothing_stays", a_table_is_taken_and_nothing_stays),
    ("an_interrupted_run_gives_everything_back", an_interrupted_run_gives_everything_back),
    ("what_a_killed_run_leaves_is_healed", what_a_killed_run_leaves_is_healed),
    ("what_a_run_keeps_is_healed", what_a_run_keeps_is_healed),
    ("programs_are_copied_into_an_image_with_a_shell", programs_are_copied),
    ("its_own_ingress_controller_is_judged", its_own_ingress_controller_is_judged),
    ("a_cluster_of_an_ordinary_user_is_like_any_other", a_cluster_of_an_ordinary_user),
];

const MANIFEST: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/rbac/stickler.yaml");

/// The longest run there is.
const WHOLE_RUN: Duration = Duration::from_secs(600);

/// A cluster of another process, and a client of its administrator.
struct Existing {
    folder: TempDir,
    up: Running,
    client: kube::Client,
    runtime: Runtime,
}

impl Existing {
    fn start(arguments: &[&str]) -> Self {
        let folder = tempdir().expect("a folder can be made");
        let arguments = [&["up", "--kubeconfig", "admin"], arguments].concat();
        let up = stickler(folder.path(), &arguments);
        Self::of(folder, up)
    }

    /// Of a program that is to bring one up in this folder.
    fn of(folder: TempDir, up: std::process::Command) -> Self {
        let up = Running::start(up);
        eventually("a whole kubeconfig", || {
            let text = std::fs::read_to_string(folder.path().join("admin")).ok()?;
            text.contains("current-context: ").then_some(())
        });
        let (runtime, client) = client(&folder.path().join("admin"));
        let existing = Self { folder, up, client, runtime };
        // What still happens by itself is not to be taken for somebody's doing.
        eventually("a cluster that has come to rest", || {
            let objects = existing.objects();
            let served = objects.iter().any(|(name, slice)| {
                name.starts_with("EndpointSlice kube-system/kube-dns-")
                    && slice["endpoints"][0]["conditions"]["ready"] == true
            });
            let available = &objects["Deployment kube-system/kube-dns"]["status"]["availableReplicas"];
            (served && *available == 1 && existing.objects() == objects).then_some(())
        });
        existing
    }

    /// With the account of the shipped manifest, whose token is in the file `stickler`.
    fn with_account() -> Self {
        let existing = Self::start(&["--apply", MANIFEST]);
        let path = "/api/v1/namespaces/stickler/serviceaccounts/stickler/token";
        let answer = eventually("a token of the account", || existing.post(path, &json!({"spec": {}})).ok());
        let token = answer["status"]["token"].as_str().expect("a token");
        let admin = std::fs::read_to_string(existing.folder.path().join("admin")).expect("a kubeconfig");
        // The same cluster, another user.
        let (cluster, _) = admin.split_once("users:").expect("users come after clusters");
        let users = format!(
            "users:\n- name: stickler\n  user: {{token: {token}}}\ncontexts:\n- name: stickler\n  context: \
             {{cluster: CLUSTER, user: stickler}}\ncurrent-context: stickler\n"
        );
        let file: Kubeconfig =
            Kubeconfig::read_from(existing.folder.path().join("admin")).expect("a kubeconfig");
        let users = users.replace("CLUSTER", &file.clusters[0].name);
        let cluster = cluster.split("contexts:").next().expect("a part");
        std::fs::write(existing.folder.path().join("stickler"), format!("{cluster}{users}"))
            .expect("written");
        existing
    }

    fn post(&self, path: &str, body: &Value) -> kube::Result<Value> {
        let request = http::Request::post(path)
            .header("Content-Type", "application/json")
            .body(body.to_string().into_bytes())
            .expect("a request");
        self.runtime.block_on(self.client.request(request))
    }

    /// `stickler` with these arguments, on this cluster, as one of its users.
    fn command(&self, user: &str, arguments: &[&str]) -> std::process::Command {
        let reach = ["--cluster", "kubeconfig", "--kubeconfig", user];
        stickler(self.folder.path(), &[arguments, &reach].concat())
    }

    fn report(&self) -> Report {
        let text = std::fs::read_to_string(self.folder.path().join("report/report.json")).expect("a report");
        serde_json::from_str(&text).expect("report.json is a report")
    }

    /// Every object of the cluster, but what it writes down by itself all the time: events, leases of
    /// nodes, and what nodes say about themselves.
    fn objects(&self) -> BTreeMap<String, Value> {
        self.runtime.block_on(async {
            let mut objects = BTreeMap::new();
            let discovery = Discovery::new(self.client.clone()).run().await.expect("discovery");
            for group in discovery.groups() {
                for (resource, capabilities) in group.resources_by_stability() {
                    if !capabilities.supports_operation(verbs::LIST)
                        || matches!(resource.kind.as_str(), "Event" | "Lease" | "ComponentStatus")
                    {
                        continue;
                    }
                    let api = Api::<DynamicObject>::all_with(self.client.clone(), &resource);
                    for object in api.list(&ListParams::default()).await.expect("a list").items {
                        let namespace = object.metadata.namespace.clone().unwrap_or_default();
                        let name = object.metadata.name.clone().unwrap_or_default();
                        let mut value = serde_json::to_value(object).expect("JSON");
                        if resource.kind == "Node" {
                            value.as_object_mut().expect("an object").remove("status");
                            value["metadata"].as_object_mut().expect("metadata").remove("resourceVersion");
                            value["metadata"].as_object_mut().expect("metadata").remove("managedFields");
                        }
                        objects.insert(format!("{} {namespace}/{name}", resource.kind), value);
                    }
                }
            }
            objects
        })
    }

    /// Nothing was added, nothing taken away, and nothing of others written: even the versions are the same.
    fn is_as_before(&self, before: &BTreeMap<String, Value>) {
        let after = self.objects();
        let names = |objects: &BTreeMap<String, Value>| objects.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&after), names(before));
        for (name, object) in before {
            assert_eq!(after[name], *object, "{name} was changed");
        }
        assert!(before.len() > 20, "there is something to compare: {}", before.len());
    }

    fn stop(self) {
        self.up.signal(libc::SIGINT);
        let ended = self.up.end();
        assert_eq!(ended.code(), Some(0), "{ended:#?}");
    }
}

/// A client by a kubeconfig, and what it works on.
pub(crate) fn client(kubeconfig: &Path) -> (Runtime, kube::Client) {
    let runtime = Runtime::new().expect("a runtime");
    // The first test of a process installs it.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let file = Kubeconfig::read_from(kubeconfig).expect("a kubeconfig");
    let client = runtime.block_on(async {
        let config = kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await;
        kube::Client::try_from(config.expect("a usable kubeconfig")).expect("a client")
    });
    (runtime, client)
}

/// The names of a cluster's namespaces.
pub(crate) async fn namespaces(client: &kube::Client) -> Vec<String> {
    let request = http::Request::get("/api/v1/namespaces").body(Vec::new()).expect("a request");
    let list: Value = client.request(request).await.expect("a list");
    let name = |namespace: &Value| namespace["metadata"]["name"].as_str().expect("a name").to_owned();
    list["items"].as_array().expect("namespaces").iter().map(name).collect()
}

fn of_run(objects: &BTreeMap<String, Value>) -> Vec<&String> {
    objects.keys().filter(|name| name.contains("stickler-") && !name.contains("-agents/")).collect()
}

/// The whole suite, with no right but those of the manifest: what holds in a testbed of one's own holds
/// here, and the cluster is as it was.
fn the_shipped_rights_are_enough() -> Result<(), Impossible> {
    crate::on_request()?;
    let existing = Existing::with_account();
    let before = existing.objects();
    let run = Running::start(existing.command("stickler", &["run", "--seed", "1", "--timings"]));
    let ended = run.end_within(WHOLE_RUN);
    assert_eq!(ended.code(), Some(0), "{ended:#?}");
    let report = existing.report();
    let cluster = report.cluster.as_ref().expect("a cluster");
    assert_eq!(cluster.provider, "kubeconfig");
    assert!(report.troubles.is_empty(), "{:?}", report.troubles);
    let needs = needs();
    for check in &report.checks {
        let missing = needs[&check.id].iter().find(|need| !cluster.capabilities.contains(need));
        // What a cluster is by its version is no capability it lists.
        let expected = match check.verdict {
            Verdict::Skipped => missing.is_some(),
            verdict => verdict == Verdict::Passed,
        };
        assert!(expected, "{} without {missing:?} is {:?}: {:?}", check.id, check.verdict, check.reason);
    }
    assert!(report.summary.passed > 50, "{:?}", report.summary);
    let bound = |name: &str| {
        let card = report.bounds.iter().find(|card| card.bound == name);
        card.unwrap_or_else(|| panic!("{name} is no bound of {:?}", report.bounds))
    };
    for name in ["pods-ready", "convergence", "staleness", "name-staleness"] {
        assert!(bound(name).measured_ms.is_some(), "{:?}", bound(name));
        assert!(ended.stdout.contains(&format!("{name}: ")), "{}", ended.stdout);
    }
    // Much faster than any cluster may be.
    assert!(bound("convergence").ms < 30_000, "{:?}", bound("convergence"));
    existing.is_as_before(&before);
    existing.stop();
    Ok(())
}

/// What each check needs, as `stickler list` tells it.
fn needs() -> BTreeMap<String, Vec<String>> {
    let folder = tempdir().expect("a folder can be made");
    let ended = output(stickler(folder.path(), &["list", "--format", "json"]));
    let checks: Vec<Value> = serde_json::from_str(&ended.stdout).expect("JSON");
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let needs = |check: &Value| check["needs"].as_array().expect("needs").iter().map(text).collect();
    checks.iter().map(|check| (text(&check["id"]), needs(check))).collect()
}

fn each_missing_rule_is_named() -> Result<(), Impossible> {
    let existing = Existing::with_account();
    let path = "/apis/rbac.authorization.k8s.io/v1/clusterroles/stickler";
    let get = http::Request::get(path).body(Vec::new()).expect("a request");
    let role: Value = existing.runtime.block_on(existing.client.request(get)).expect("the role");
    let whole = role["rules"].as_array().expect("rules").clone();
    let before = existing.objects();
    let put = |rules: &[Value]| {
        let patch = json!({"rules": rules}).to_string().into_bytes();
        let request = http::Request::patch(path).header("Content-Type", "application/merge-patch+json");
        let patched = existing.client.request::<Value>(request.body(patch).expect("a request"));
        existing.runtime.block_on(patched).expect("the role is changed");
    };
    for (place, rule) in whole.iter().enumerate() {
        let mut rules = whole.clone();
        rules.remove(place);
        put(&rules);
        let ended = output(existing.command("stickler", &["run", "--filter", "vip/*"]));
        assert_eq!(ended.code(), Some(2), "without {rule}: {ended:#?}");
        let resource = rule["resources"][0].as_str().expect("a resource");
        for verb in rule["verbs"].as_array().expect("verbs") {
            let named = format!("`{}` on `{resource}` of", verb.as_str().expect("a verb"));
            assert!(ended.stderr.contains(&named), "`{named}` is missing: {}", ended.stderr);
        }
        assert!(ended.stderr.contains("fixtures/rbac/stickler.yaml"), "{}", ended.stderr);
    }
    // The doctor says the same, and what it is for.
    let ended = output(existing.command("stickler", &["doctor"]));
    assert_eq!(ended.code(), Some(2), "{ended:#?}");
    let named = ended.stdout.contains("NO  may create, list, patch, watch leases.coordination.k8s.io");
    assert!(named && ended.stdout.contains("needed for: telling live runs from dead"), "{}", ended.stdout);
    put(&whole);
    let after = existing.objects();
    assert_eq!(after.keys().collect::<Vec<_>>(), before.keys().collect::<Vec<_>>(), "something was created");
    existing.stop();
    Ok(())
}

/// With no right but those of the manifest, and from where such a cluster can be looked at.
fn a_table_is_taken_and_nothing_stays() -> Result<(), Impossible> {
    let existing = Existing::with_account();
    let before = existing.objects();
    let table = Running::start(existing.command("stickler", &["table"]));
    let ended = table.end_within(2 * BOUND);
    assert_eq!(ended.code(), Some(0), "{ended:#?}");
    let table = existing.report().table.expect("a table");
    assert!(table.columns.iter().all(|column| column.id != "out"), "{:?}", table.columns);
    let said = table.remarks.iter().any(|remark| remark.starts_with("outside has no column: "));
    assert!(said && table.columns.len() >= 9, "{:?}, {:?}", table.columns, table.remarks);
    assert!(table.rows.len() >= 40, "{}", table.in_words());
    existing.is_as_before(&before);
    existing.stop();
    Ok(())
}

fn an_interrupted_run_gives_everything_back() -> Result<(), Impossible> {
    let existing = Existing::start(&[]);
    let before = existing.objects();
    // Early, when its agents are asked for; and late, when checks run.
    for early in [true, false] {
        let mut run = Running::start(existing.command("admin", &["run"]));
        if early {
            eventually("the run's agents", || (existing.objects().len() > before.len()).then_some(()));
        } else {
            run.await_line(|line| line.starts_with("passed "));
        }
        run.signal(libc::SIGINT);
        let ended = run.end();
        assert_eq!(ended.code(), Some(3), "{ended:#?}");
        assert!(existing.report().troubles.is_empty(), "{:?}", existing.report().troubles);
        existing.is_as_before(&before);
    }
    existing.stop();
    Ok(())
}

fn what_a_killed_run_leaves_is_healed() -> Result<(), Impossible> {
    let existing = Existing::start(&[]);
    let before = existing.objects();
    // One with an ingress controller, so that there is something outside of namespaces too.
    let mut run = Running::start(existing.command("admin", &["run", "--filter", "ingress/*", "--jobs", "1"]));
    run.await_line(|line| line.starts_with("passed ingress/"));
    let heal = |arguments: &[&str]| output(existing.command("admin", &[&["heal"], arguments].concat()));
    let refused = heal(&[]);
    assert_eq!(refused.code(), Some(2), "{refused:#?}");
    assert!(refused.stdout.contains("is alive: its Lease in namespace"), "{refused:#?}");
    run.await_line(|line| line.starts_with("passed ingress/"));
    run.signal(libc::SIGKILL);
    assert_eq!(run.end().code(), None);
    let left = existing.objects();
    for kind in ["Namespace", "ClusterRole", "ClusterRoleBinding", "IngressClass"] {
        let of_kind = of_run(&left).into_iter().any(|name| name.starts_with(&format!("{kind} ")));
        let of_kind = of_kind || left.keys().any(|name| name.starts_with(&format!("{kind} /stickler:")));
        assert!(of_kind, "a {kind} is left: {:#?}", left.keys());
    }
    let healed = heal(&[]);
    assert_eq!(healed.code(), Some(0), "{healed:#?}");
    for said in
        ["namespace `stickler-", "ingressclass `stickler-", "clusterrole `stickler:", "nothing is left of 1"]
    {
        assert!(healed.stdout.contains(said), "`{said}` is missing: {}", healed.stdout);
    }
    existing.is_as_before(&before);
    let nothing = heal(&[]);
    assert_eq!((nothing.code(), nothing.stdout.as_str()), (Some(0), "nothing was left behind\n"));

    // Whoever insists is not kept waiting until it is known that the run is dead.
    let mut run = Running::start(existing.command("admin", &["run"]));
    run.await_line(|line| line.starts_with("passed "));
    run.signal(libc::SIGKILL);
    run.end();
    let forced = heal(&["--force"]);
    assert_eq!(forced.code(), Some(0), "{forced:#?}");
    assert!(!forced.stdout.contains("watching for") && forced.stdout.contains("deleted"), "{forced:#?}");
    existing.is_as_before(&before);
    existing.stop();
    Ok(())
}

fn what_a_run_keeps_is_healed() -> Result<(), Impossible> {
    crate::on_request()?;
    let bugs = ["--bug", "node-port-only-where-pod-runs", "--bug", "ingress-prefix-by-string"];
    let existing = Existing::start(&bugs);
    let before = existing.objects();
    let run = |checks: &[&str]| {
        let filters = checks.iter().flat_map(|check| ["--filter", check]);
        output(existing.command("admin", &["run", "--keep"].into_iter().chain(filters).collect::<Vec<_>>()))
    };
    let left = || {
        let after = existing.objects();
        let is_new = |name: &&String| !before.contains_key(*name);
        let of_kind = |kind: &str| {
            let names = after.keys().filter(is_new).filter_map(|name| name.strip_prefix(kind));
            names.map(|name| name.trim_start_matches('/').to_owned()).collect::<Vec<_>>()
        };
        (of_kind("Namespace "), of_kind("ClusterRole ").len() + of_kind("IngressClass ").len())
    };
    // Of a run that found nothing nothing is kept.
    let ended = run(&["goweb/answers-hostname"]);
    assert_eq!(ended.code(), Some(0), "{ended:#?}");
    assert!(ended.stdout.contains("nothing was kept"), "{ended:#?}");
    existing.is_as_before(&before);

    let ended = run(&["node-port/every-node", "goweb/answers-hostname", "ingress/routes-host"]);
    assert_eq!(ended.code(), Some(1), "{ended:#?}");
    let said = |ended: &crate::program::Ended, check: &str| {
        let mut lines = ended.stdout.lines();
        let line = lines.find(|line| line.contains("kubectl get all -n ") && line.contains(check));
        let line = line.unwrap_or_else(|| panic!("{check} was not kept: {ended:#?}"));
        line.rsplit(' ').next().expect("a namespace").to_owned()
    };
    let kept = said(&ended, "node-port/every-node");
    assert_eq!(ended.stdout.matches("kubectl get all -n ").count(), 1, "{ended:#?}");
    let removes = "\nstickler heal --cluster kubeconfig --kubeconfig admin removes it\n";
    assert!(ended.stdout.contains(removes), "{ended:#?}");
    assert!(existing.report().troubles.is_empty(), "{:?}", existing.report().troubles);
    assert_eq!(left(), (vec![kept.clone()], 0), "the controller that held goes with the others");

    // The controller of an Ingress that is to be looked at stays; and what was kept is in nobody's way.
    let ended = run(&["ingress/several-paths"]);
    assert_eq!(ended.code(), Some(1), "{ended:#?}");
    let (namespaces, cluster_wide) = left();
    assert!(namespaces.contains(&kept) && namespaces.contains(&said(&ended, "ingress/several-paths")));
    assert_eq!(namespaces.iter().filter(|name| name.ends_with("-ingress-controller")).count(), 1);
    assert_eq!((namespaces.len(), cluster_wide), (3, 2), "{namespaces:?}");

    let healed = output(existing.command("admin", &["heal"]));
    assert_eq!(healed.code(), Some(0), "{healed:#?}");
    assert!(healed.stdout.contains("nothing is left of 2"), "{healed:#?}");
    existing.is_as_before(&before);
    existing.stop();
    Ok(())
}

/// No image of ours: the program is copied into pods of `busybox`, which here has a shell and a few
/// programs.
fn programs_are_copied() -> Result<(), Impossible> {
    crate::on_request()?;
    let existing = Existing::start(&[]);
    let before = existing.objects();
    // The smaller of the two programs that can be copied, if it was built.
    let built = Path::new(env!("CARGO_BIN_EXE_stickler"));
    let smaller = built.with_file_name("stickler-pods");
    // One that an earlier build left is of no use.
    let is_current = |program: &Path| {
        let said = std::process::Command::new(program).arg("--version").output();
        said.is_ok_and(|said| String::from_utf8_lossy(&said.stdout).trim() == stickler::PODS_VERSION)
    };
    let program = if is_current(&smaller) { smaller.as_path() } else { built };
    let program = program.to_str().expect("a path is UTF-8");
    let arguments = [
        "run",
        "--agent-in",
        "busybox",
        "--agent-program",
        program,
        "--jobs",
        "2",
        "--filter",
        "service/only-*",
        "--filter",
        "exec/*",
        "--filter",
        "readiness/touch*",
        "--filter",
        "vip/*",
    ];
    let ended = Running::start(existing.command("admin", &arguments)).end_within(WHOLE_RUN);
    assert_eq!(ended.code(), Some(0), "{ended:#?}");
    let report = existing.report();
    assert!(report.summary.passed > 2, "{:?}", report.summary);
    existing.is_as_before(&before);
    existing.stop();
    Ok(())
}

fn its_own_ingress_controller_is_judged() -> Result<(), Impossible> {
    let manifest = |name: &str| format!("{}/../../fixtures/ingress/{name}.yaml", env!("CARGO_MANIFEST_DIR"));
    let (rights, controller) = (manifest("rbac"), manifest("controller"));
    let existing = Existing::start(&["--apply", &rights, "--apply", &controller]);
    eventually("an ingress controller that is ready", || {
        let objects = existing.objects();
        let deployment = objects.get("Deployment ingress-nginx/ingress-nginx-controller")?;
        (deployment["status"]["availableReplicas"] == 1).then_some(())
    });
    let before = existing.objects();
    let judged = |ingress: &str| {
        let arguments = [
            "run",
            "--ingress",
            ingress,
            "--filter",
            "ingress/straight-*",
            "--filter",
            "ingress/controller-needed",
        ];
        Running::start(existing.command("admin", &arguments)).end_within(WHOLE_RUN)
    };
    let its_own = "stickler=ingress-nginx/ingress-nginx-controller";
    let ended = judged(its_own);
    assert_eq!(ended.code(), Some(0), "{ended:#?}");
    let components = existing.report().cluster.expect("a cluster").components;
    let [card] = components.as_slice() else { panic!("{components:?}") };
    assert_eq!((card.component.as_str(), card.command.as_deref()), ("ingress", Some(its_own)));
    let journal = std::fs::read_to_string(existing.folder.path().join("report/journal.jsonl"));
    assert!(!journal.expect("a journal").contains("-ingress-controller"), "one of ours was deployed");
    for (ingress, told) in [
        (
            "other=ingress-nginx/ingress-nginx-controller",
            "the cluster has no IngressClass `other`; it has: stickler",
        ),
        ("stickler=default/nobody", "there is no service `nobody` in namespace `default`"),
        ("stickler=kube-system/kube-dns", "the service `kube-dns` has no port `http`, and no port 80"),
    ] {
        let ended = judged(ingress);
        assert_eq!(ended.code(), Some(1), "{ended:#?}");
        let why = format!("there is no ingress controller: {told}");
        let report = existing.report();
        assert!(
            report.checks.iter().all(|check| check.reason.as_deref() == Some(&*why)),
            "{:#?}",
            report.checks
        );
    }
    existing.is_as_before(&before);
    existing.stop();
    Ok(())
}

fn a_cluster_of_an_ordinary_user() -> Result<(), Impossible> {
    let folder = tempdir().expect("a folder can be made");
    // The program may be where only root may look.
    let copy = folder.path().join("stickler");
    std::fs::copy(env!("CARGO_BIN_EXE_stickler"), &copy).expect("it can be copied");
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    std::fs::set_permissions(folder.path(), open).expect("it is ours");
    let ordinary = |arguments: &[&str]| {
        let mut command = std::process::Command::new(&copy);
        command.args(arguments).current_dir(folder.path()).env("HOME", "/").env_remove("KUBECONFIG");
        command.uid(65534).gid(65534);
        command
    };
    match ordinary(&["--version"]).stdout(Stdio::null()).status() {
        Err(error) => return Err(Impossible(format!("no process of another user can be started: {error}"))),
        Ok(status) => assert!(status.success(), "{status}"),
    }
    let doctor = output(ordinary(&["doctor"]));
    if doctor.code() != Some(0) {
        return Err(Impossible(format!("ordinary users may have no testbed here: {}", doctor.stderr.trim())));
    }
    let up = ordinary(&["up", "--kubeconfig", "admin"]);
    let existing = Existing::of(folder, up);
    let before = existing.objects();
    let arguments = ["run", "--filter", "service/only-*", "--filter", "dns/*", "--filter", "vip/*"];
    let ended = Running::start(existing.command("admin", &arguments)).end_within(WHOLE_RUN);
    assert_eq!(ended.code(), Some(0), "{ended:#?}");
    assert!(existing.report().summary.passed > 5, "{:?}", existing.report().summary);
    existing.is_as_before(&before);
    existing.stop();
    Ok(())
}
