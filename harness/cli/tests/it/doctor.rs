//! `stickler doctor`: it says of a machine that works that it does, and of one that does not why.

use std::os::unix::process::CommandExt as _;

use tempfile::tempdir;

use crate::leftovers::{Before, Belongings, names};
use crate::program::{Ended, Running, output, stickler};
use crate::{Impossible, Test};

pub(crate) const TESTS: &[(&str, Test)] = &[
    ("a_machine_that_is_well", a_machine_that_is_well),
    ("an_ordinary_user", an_ordinary_user),
    ("a_cluster_that_is_well", a_cluster_that_is_well),
    ("a_cluster_that_is_not_there", a_cluster_that_is_not_there),
];

fn as_json(ended: &Ended) -> String {
    // Spaces differ, words do not.
    ended.stdout.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn is_well(ended: &Ended) {
    assert_eq!(ended.code(), Some(0), "{ended:#?}");
    let text = as_json(ended);
    assert!(text.contains("\"well\": true"), "{text}");
    for id in ["namespaces", "nftables", "conntrack", "containers", "testbed", "netem", "program-kubectl"] {
        assert!(text.contains(&format!("\"id\": \"{id}\"")), "`{id}` is not examined: {text}");
    }
}

fn a_machine_that_is_well() -> Result<(), Impossible> {
    let folder = tempdir().expect("a folder can be made");
    let before = Before::look();
    is_well(&output(stickler(folder.path(), &["doctor", "--format", "json"])));
    let pretty = output(stickler(folder.path(), &["doctor"]));
    assert!(pretty.stdout.contains("yes a cluster of one node"), "{pretty:#?}");
    assert!(pretty.stdout.contains("so: `stickler run`"), "{pretty:#?}");
    assert!(names(folder.path()).is_empty(), "it left files");
    before.is_restored(&Belongings::default());
    Ok(())
}

fn an_ordinary_user() -> Result<(), Impossible> {
    let folder = tempdir().expect("a folder can be made");
    // The program may be where only root may look.
    let copy = folder.path().join("stickler");
    std::fs::copy(env!("CARGO_BIN_EXE_stickler"), &copy).expect("it can be copied");
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(folder.path(), open).expect("it is ours");
    let mut command = std::process::Command::new(&copy);
    command.args(["doctor", "--format", "json"]).env("HOME", "/").env_remove("KUBECONFIG");
    command.uid(65534).gid(65534).current_dir("/");
    let ended = match command.stdout(std::process::Stdio::null()).spawn().and_then(|mut child| child.wait()) {
        Err(error) => return Err(Impossible(format!("no process of another user can be started: {error}"))),
        Ok(_) => output(command),
    };
    // Where ordinary users may not, it must say so, and what to do.
    if ended.code() == Some(2) {
        assert!(ended.stderr.contains("`stickler run` would not work"), "{ended:#?}");
        assert!(ended.stderr.contains("run as root"), "{ended:#?}");
        return Ok(());
    }
    is_well(&ended);
    Ok(())
}

fn a_cluster_that_is_well() -> Result<(), Impossible> {
    let folder = tempdir().expect("a folder can be made");
    let mut up = stickler(folder.path(), &["up", "--kubeconfig", "config"]);
    up.stdin(std::process::Stdio::null());
    let up = Running::start(up);
    crate::program::eventually("the kubeconfig", || {
        let written = std::fs::read_to_string(folder.path().join("config")).ok()?;
        written.contains("current-context").then_some(())
    });
    let arguments = ["doctor", "--cluster", "kubeconfig", "--kubeconfig", "config"];
    let ended = output(stickler(folder.path(), &arguments));
    assert_eq!(ended.code(), Some(0), "{ended:#?}");
    for line in [
        "yes the API server answers",
        "yes there are nodes",
        "yes may create, get pods/exec",
        "yes serves endpointslices",
        "yes the range of cluster IPs is known",
        "yes pods in their node's network",
    ] {
        assert!(ended.stdout.contains(line), "`{line}` is missing: {}", ended.stdout);
    }
    up.signal(libc::SIGINT);
    up.end();
    Ok(())
}

fn a_cluster_that_is_not_there() -> Result<(), Impossible> {
    let folder = tempdir().expect("a folder can be made");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback can be bound");
    let address = listener.local_addr().expect("it has an address");
    drop(listener);
    let config = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: x\ncontexts: [{{name: x, context: {{cluster: x, user: x}}}}]\n\
         users: [{{name: x, user: {{token: t}}}}]\nclusters: [{{name: x, cluster: {{server: 'https://{address}'}}}}]\n"
    );
    std::fs::write(folder.path().join("config"), config).expect("it can be written");
    let arguments = ["doctor", "--cluster", "kubeconfig", "--kubeconfig", "config"];
    let ended = output(stickler(folder.path(), &arguments));
    assert_eq!(ended.code(), Some(2), "{ended:#?}");
    assert!(ended.stdout.contains("NO  the API server answers"), "{ended:#?}");
    assert!(ended.stderr.contains("would not work"), "{ended:#?}");
    Ok(())
}
