//! `stickler up` with an unmodified kubectl: what the notes type, compared column by column.

mod following;
mod verbs;

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::{TempDir, tempdir};

use crate::leftovers::{Before, Belongings, names};
use crate::program::{Ended, Running, eventually, output, stickler};
use crate::{Impossible, Test};

pub(crate) const TESTS: &[(&str, Test)] = &[
    ("the_first_chapter_of_the_notes", the_first_chapter_of_the_notes),
    ("an_interrupted_cluster_takes_its_kubeconfig_along", an_interrupted_cluster_takes_its_kubeconfig_along),
    ("objects_of_no_namespace_are_applied", objects_of_no_namespace_are_applied),
    ("objects_are_made_and_shown", verbs::objects_are_made_and_shown),
    ("objects_are_changed", verbs::objects_are_changed),
    ("workloads_roll_out_and_are_looked_into", verbs::workloads_roll_out_and_are_looked_into),
    ("objects_are_deleted", verbs::objects_are_deleted),
    ("the_api_describes_itself", verbs::the_api_describes_itself),
    ("mistakes_are_named", verbs::mistakes_are_named),
    ("changes_are_followed", following::changes_are_followed),
    ("logs_are_followed", following::logs_are_followed),
    ("objects_are_chosen_by_their_fields", verbs::objects_are_chosen_by_their_fields),
    ("workloads_are_run_and_exposed_with_every_flag", verbs::workloads_are_run_and_exposed),
    ("warnings_are_printed", verbs::warnings_are_printed),
];

/// A cluster that is up.
struct Up {
    folder: TempDir,
    running: Running,
    before: Before,
}

impl Up {
    fn start(arguments: &[&str]) -> Self {
        let (before, folder) = (Before::look(), tempdir().expect("a folder can be made"));
        let arguments = [&["up", "--kubeconfig", "file"], arguments].concat();
        let running = Running::start(stickler(folder.path(), &arguments));
        eventually("a whole kubeconfig", || {
            let text = fs::read_to_string(folder.path().join("file")).ok()?;
            // Its last line.
            text.contains("current-context: ").then_some(())
        });
        Self { folder, running, before }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("kubectl");
        command.args(arguments).current_dir(self.folder.path());
        // Its cache goes away with the folder.
        command.env("HOME", self.folder.path()).env("KUBECONFIG", self.folder.path().join("file"));
        command
    }

    fn ended(&self, arguments: &[&str]) -> Ended {
        output(self.command(arguments))
    }

    /// Standard output of a kubectl that is to succeed.
    fn kubectl(&self, arguments: &[&str]) -> String {
        let ended = self.ended(arguments);
        assert_eq!(ended.code(), Some(0), "kubectl {arguments:?}: {ended:#?}");
        ended.stdout
    }

    fn lines(&self, arguments: &[&str]) -> Vec<String> {
        let mut lines: Vec<String> = self.kubectl(arguments).lines().map(str::to_owned).collect();
        lines.sort();
        lines
    }

    fn stop(self) {
        let belongings = Belongings::of(self.running.pid());
        self.running.signal(libc::SIGINT);
        let ended = self.running.end();
        assert_eq!(ended.code(), Some(0), "{ended:#?}");
        assert!(
            ended.stdout.contains("export KUBECONFIG=") && ended.stdout.contains("kubectl get"),
            "{ended:#?}"
        );
        self.before.is_restored(&belongings);
        assert!(!names(self.folder.path()).contains("file"), "the kubeconfig is still there");
    }
}

/// The cells of a table; columns are at least three blanks apart.
fn table(text: &str) -> Vec<Vec<&str>> {
    let cells = |line| str::split(line, "  ").map(str::trim).filter(|cell| !cell.is_empty()).collect();
    text.lines().filter(|line| !line.is_empty()).map(cells).collect()
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/notes").join(name)
}

fn needs_kubectl() -> Result<(), Impossible> {
    let mut version = Command::new("kubectl");
    version.args(["version", "--client"]).stdout(Stdio::null()).stderr(Stdio::null());
    match version.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(Impossible(format!("kubectl does not run here: {status}"))),
        Err(error) => Err(Impossible(format!("there is no kubectl here: {error}"))),
    }
}

fn the_first_chapter_of_the_notes() -> Result<(), Impossible> {
    needs_kubectl()?;
    let up = Up::start(&[]);

    let nodes = up.kubectl(&["get", "nodes", "-o", "wide"]);
    let nodes = table(&nodes);
    let header = ["NAME", "STATUS", "ROLES", "AGE", "VERSION", "INTERNAL-IP", "EXTERNAL-IP", "OS-IMAGE"];
    assert_eq!(nodes[0][..8], header);
    assert_eq!(nodes.len(), 4, "{nodes:#?}");
    for (row, name, roles, address) in [
        (&nodes[1], "kube0.vm", "control-plane", "192.168.199.117"),
        (&nodes[2], "kube1.vm", "<none>", "192.168.199.231"),
        (&nodes[3], "kube2.vm", "<none>", "192.168.199.212"),
    ] {
        assert_eq!((row[0], row[1], row[2], row[5], row[6]), (name, "Ready", roles, address, "<none>"));
    }

    let (pods, service) = (fixture("goweb-rs.yaml"), fixture("goweb-svc.yaml"));
    let create = ["create", "-f", &pods.to_string_lossy(), "-f", &service.to_string_lossy()];
    assert_eq!(up.kubectl(&create), "replicaset.apps/goweb-rs created\nservice/goweb-svc created\n");
    let again = up.ended(&create);
    assert!(again.code() == Some(1) && again.stderr.contains("already exists"), "{again:#?}");
    up.kubectl(&["wait", "--for=condition=Ready", "pod", "-l", "app=goweb", "--timeout=30s"]);
    let names = up.lines(&["get", "pods", "-o", "jsonpath={range .items[*]}{.metadata.name}{'\\n'}{end}"]);
    assert_eq!(names.len(), 2);
    assert!(names.iter().all(|name| name.starts_with("goweb-rs-")), "{names:?}");
    let address = up.kubectl(&["get", "svc", "goweb-svc", "-o", "jsonpath={.spec.clusterIP}"]);

    let all = up.kubectl(&["get", "all"]);
    let all = table(&all);
    assert_eq!(all[0], ["NAME", "READY", "STATUS", "RESTARTS", "AGE"]);
    for (row, name) in all[1..3].iter().zip(&names) {
        assert_eq!(row[..4], [format!("pod/{name}").as_str(), "1/1", "Running", "0"]);
    }
    assert_eq!(all[3], ["NAME", "TYPE", "CLUSTER-IP", "EXTERNAL-IP", "PORT(S)", "AGE"]);
    assert_eq!(all[4][..5], ["service/goweb-svc", "ClusterIP", &address, "<none>", "80/TCP"]);
    assert_eq!(all[5][..5], ["service/kubernetes", "ClusterIP", "10.96.0.1", "<none>", "443/TCP"]);
    assert_eq!(all[6], ["NAME", "DESIRED", "CURRENT", "READY", "AGE"]);
    assert_eq!(all[7][..4], ["replicaset.apps/goweb-rs", "2", "2", "2"]);
    assert_eq!(all.len(), 8);

    let wide = up.kubectl(&["get", "pods", "-o", "wide"]);
    let wide = table(&wide);
    let header =
        ["NAME", "READY", "STATUS", "RESTARTS", "AGE", "IP", "NODE", "NOMINATED NODE", "READINESS GATES"];
    assert_eq!(wide[0], header);
    let mut endpoints: Vec<String> = wide[1..].iter().map(|row| format!("{}:8000", row[5])).collect();
    endpoints.sort();
    let listed = eventually("two endpoints", || {
        let text = up.kubectl(&["get", "ep"]);
        text.contains(',').then_some(text)
    });
    let listed = table(&listed);
    assert_eq!(listed[0], ["NAME", "ENDPOINTS", "AGE"]);
    let mut seen: Vec<&str> = listed[1][1].split(',').collect();
    seen.sort_unstable();
    assert_eq!((listed[1][0], seen), ("goweb-svc", endpoints.iter().map(String::as_str).collect()));
    assert_eq!(listed[2][..2], ["kubernetes", "192.168.199.117:6443"]);

    let pod = names[0].as_str();
    let url = format!("http://{address}");
    let answer = up.kubectl(&["exec", pod, "--", "curl", "-s", &url]);
    assert!(names.iter().any(|name| answer.contains(&format!("this is {name}"))), "{answer}");
    let failed = up.ended(&["exec", pod, "--", "curl", "-s", "http://127.0.0.1:1"]);
    // curl's code for a refused connection.
    assert_eq!(failed.code(), Some(7), "{failed:#?}");
    let mut typing = up.command(&["exec", "-i", pod, "--", "cat"]);
    let (reader, mut writer) = std::io::pipe().expect("a pipe can be made");
    typing.stdin(reader);
    writer.write_all(b"typed\n").expect("the reader lives");
    drop(writer);
    assert_eq!(output(typing).stdout, "typed\n");
    assert!(!up.kubectl(&["logs", pod]).is_empty(), "goweb says that it listens");

    for arguments in
        [["describe", "pod", pod], ["describe", "svc", "goweb-svc"], ["describe", "rs", "goweb-rs"]]
    {
        let text = up.kubectl(&arguments);
        assert!(text.starts_with("Name:  ") && text.contains(arguments[2]), "{text}");
    }
    assert_eq!(up.kubectl(&["scale", "rs", "goweb-rs", "--replicas=3"]), "replicaset.apps/goweb-rs scaled\n");
    up.kubectl(&["wait", "--for=jsonpath={.status.readyReplicas}=3", "rs/goweb-rs", "--timeout=30s"]);
    let deleted = up.lines(&["delete", "rs/goweb-rs", "svc/goweb-svc"]);
    assert_eq!(deleted, ["replicaset.apps \"goweb-rs\" deleted", "service \"goweb-svc\" deleted"]);
    up.kubectl(&["wait", "--for=delete", "pod", "-l", "app=goweb", "--timeout=30s"]);
    up.stop();
    Ok(())
}

/// Needs no kubectl.
fn an_interrupted_cluster_takes_its_kubeconfig_along() -> Result<(), Impossible> {
    let manifest = fixture("goweb-rs.yaml");
    let up = Up::start(&["--nodes", "2", "--apply", &manifest.to_string_lossy()]);
    eventually("a process in a pod", || (Belongings::of(up.running.pid()).networks.len() > 2).then_some(()));
    up.stop();
    Ok(())
}

/// A ClusterRole, its binding and an IngressClass, beside objects that live in namespaces. Needs no
/// kubectl.
fn objects_of_no_namespace_are_applied() -> Result<(), Impossible> {
    let manifests = ["rbac.yaml", "controller.yaml"].map(|name| fixture("../ingress").join(name));
    let manifests = manifests.map(|path| path.to_string_lossy().into_owned());
    let up = Up::start(&["--nodes", "1", "--apply", &manifests[0], "--apply", &manifests[1]]);
    // It ends well only if everything was created.
    up.stop();
    Ok(())
}
