//! Clusters in containers: what they leave, what happens where no engine or no image is, and the parts
//! that can be tried without an engine.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;
use tempfile::{TempDir, tempdir};

use crate::leftovers::{Before, Belongings, names};
use crate::program::{BOUND, Running, eventually, output, stickler};
use crate::{Impossible, Test};

pub(crate) const TESTS: &[(&str, Test)] = &[
    ("a_run_leaves_nothing", a_run_leaves_nothing),
    ("an_interrupted_run_leaves_nothing", an_interrupted_run_leaves_nothing),
    ("a_killed_cluster_ends_by_itself", a_killed_cluster_ends_by_itself),
    ("without_an_engine_it_says_so", without_an_engine_it_says_so),
    ("an_image_that_is_nowhere", an_image_that_is_nowhere),
    ("kind_is_not_there", kind_is_not_there),
    ("kind_is_asked_and_told_to_clean_up", kind_is_asked_and_told_to_clean_up),
    ("a_testbed_ends_with_its_standard_input", a_testbed_ends_with_its_standard_input),
    ("a_leash_that_is_dropped_ends_the_program", a_leash_that_is_dropped_ends_the_program),
];

fn folder() -> TempDir {
    tempdir().expect("a folder can be made")
}

/// `stickler` as it finds the container engine of this machine.
fn with_engine(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = stickler(folder, arguments);
    match std::env::var_os("DOCKER_HOST") {
        Some(host) => command.env("DOCKER_HOST", host),
        None => command.env_remove("DOCKER_HOST"),
    };
    command
}

/// What the doctor says is lacking is why it cannot be tried.
fn needs_engine(folder: &Path) -> Result<(), Impossible> {
    let examined = output(with_engine(folder, &["doctor", "--cluster", "container", "--format", "json"]));
    if examined.code() == Some(0) {
        return Ok(());
    }
    let found: Value = serde_json::from_str(&examined.stdout).expect("it prints JSON");
    let lines = found["lines"].as_array().expect("it tried something").iter();
    let lacking = lines.filter(|line| line["works"] == false).find_map(|line| line["detail"].as_str());
    Err(Impossible(lacking.expect("it says what is lacking").to_owned()))
}

/// What `stickler heal` finds, and removes.
fn left(folder: &Path) -> String {
    let healed = output(with_engine(folder, &["heal", "--cluster", "container"]));
    assert_eq!(healed.code(), Some(0), "{healed:#?}");
    healed.stdout
}

/// The containers of ours, as the engine lists them.
fn containers() -> Result<String, String> {
    let host = std::env::var("DOCKER_HOST").unwrap_or_else(|_| "unix:///var/run/docker.sock".to_owned());
    let path = host.strip_prefix("unix://").ok_or("the engine is not at a socket of this machine")?;
    let mut stream = UnixStream::connect(path).map_err(|error| format!("{path}: {error}"))?;
    let filter = "%7B%22label%22%3A%5B%22stickler.dev%2Frun%22%5D%7D";
    let request = format!("GET /containers/json?all=true&filters={filter} HTTP/1.0\r\n\r\n");
    let mut answer = String::new();
    stream
        .write_all(request.as_bytes())
        .and_then(|()| stream.read_to_string(&mut answer))
        .map_err(|error| error.to_string())?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or("no HTTP")?;
    if head.contains(" 200 ") { Ok(body.trim().to_owned()) } else { Err(answer) }
}

fn a_run_leaves_nothing() -> Result<(), Impossible> {
    let folder = folder();
    needs_engine(folder.path())?;
    let arguments = ["run", "--cluster", "container", "--nodes", "2", "--format", "json"];
    let filters = ["--filter", "node-port/*", "--filter", "goweb/*"];
    let ran = output(with_engine(folder.path(), &[arguments.as_slice(), &filters].concat()));
    assert_eq!(ran.code(), Some(0), "{ran:#?}");
    let report: Value = serde_json::from_str(&ran.stdout).expect("it prints JSON");
    assert_eq!(report["cluster"]["provider"], "container", "{report:#}");
    assert_eq!(report["summary"]["skipped"], 0, "a testbed can all of it, wherever it is: {report:#}");
    assert_eq!(left(folder.path()), "nothing was left behind\n");
    assert_eq!(names(folder.path()).into_iter().collect::<Vec<_>>(), ["report"]);
    Ok(())
}

fn an_interrupted_run_leaves_nothing() -> Result<(), Impossible> {
    let folder = folder();
    needs_engine(folder.path())?;
    let mut run = Running::start(with_engine(folder.path(), &["run", "--cluster", "container"]));
    run.await_line(|line| line.starts_with("passed "));
    run.signal(libc::SIGINT);
    let ended = run.end();
    assert_eq!(ended.code(), Some(3), "{ended:#?}");
    assert_eq!(left(folder.path()), "nothing was left behind\n");
    Ok(())
}

fn a_killed_cluster_ends_by_itself() -> Result<(), Impossible> {
    let folder = folder();
    needs_engine(folder.path())?;
    containers().map_err(Impossible)?;
    let up = ["up", "--cluster", "container", "--nodes", "1", "--kubeconfig", "config"];
    let up = Running::start(with_engine(folder.path(), &up));
    let address = eventually("the kubeconfig", || {
        let written = fs::read_to_string(folder.path().join("config")).ok()?;
        let (_, rest) = written.split_once("server: https://")?;
        // The context comes last.
        written.contains("current-context").then(|| rest.split_whitespace().next().map(str::to_owned))?
    });
    TcpStream::connect(&address).expect("the API server's port is published");
    up.signal(libc::SIGKILL);
    up.end();
    // Without a word to it: the container ends, and is removed.
    eventually("the end of the container", || (containers().as_deref() == Ok("[]")).then_some(()));
    TcpStream::connect(&address).expect_err("its port is closed");
    let left_behind = left(folder.path());
    assert!(left_behind.starts_with("removed image stickler-pods:"), "{left_behind}");
    assert_eq!(left_behind.lines().count(), 1, "only the image stays until it is removed: {left_behind}");
    assert_eq!(left(folder.path()), "nothing was left behind\n");
    Ok(())
}

fn without_an_engine_it_says_so() -> Result<(), Impossible> {
    let folder = folder();
    for provider in ["container", "k3s"] {
        let ran = output(stickler(folder.path(), &["run", "--cluster", provider, "--quiet"]));
        assert_eq!(ran.code(), Some(2), "{ran:#?}");
        let words = format!("error: cluster `{provider}` did not start: no container engine answers");
        assert!(ran.stderr.starts_with(&words), "{ran:#?}");
    }
    let healed = output(stickler(folder.path(), &["heal", "--cluster", "container"]));
    assert_eq!(healed.code(), Some(2), "{healed:#?}");
    let arguments = ["run", "--filter", "goweb/docker", "--format", "json"];
    let ran = output(stickler(folder.path(), &arguments));
    assert_eq!(ran.code(), Some(0), "{ran:#?}");
    let report: Value = serde_json::from_str(&ran.stdout).expect("it prints JSON");
    assert_eq!(report["checks"][0]["verdict"], "skipped", "{report:#}");
    let reason = report["checks"][0]["reason"].as_str().expect("a reason");
    assert!(reason.contains("container engine"), "{reason}");
    Ok(())
}

fn an_image_that_is_nowhere() -> Result<(), Impossible> {
    let folder = folder();
    needs_engine(folder.path())?;
    // Nobody listens on port 1 of the machine the engine runs on.
    let image = "localhost:1/stickler/k3s:none";
    let arguments = ["run", "--cluster", "k3s", "--node-image", image, "--quiet"];
    let ran = output(with_engine(folder.path(), &arguments));
    assert_eq!(ran.code(), Some(2), "{ran:#?}");
    assert!(ran.stderr.starts_with("error: cluster `k3s` did not start: "), "{ran:#?}");
    assert!(ran.stderr.contains(&format!("pull the image '{image}'")), "{ran:#?}");
    assert_eq!(left(folder.path()), "nothing was left behind\n");
    Ok(())
}

fn kind_is_not_there() -> Result<(), Impossible> {
    let folder = folder();
    let mut run = stickler(folder.path(), &["run", "--cluster", "kind"]);
    run.env("PATH", folder.path());
    let ran = output(run);
    assert_eq!(ran.code(), Some(2), "{ran:#?}");
    assert!(ran.stderr.starts_with("error: the program `kind` is in no folder of $PATH; "), "{ran:#?}");
    assert!(ran.stderr.contains("https://kind.sigs.k8s.io/") && ran.stderr.contains("install"), "{ran:#?}");
    assert!(names(folder.path()).is_empty(), "it left files");
    Ok(())
}

/// A stand-in for kind, whose cluster is a testbed of another process: all but kind itself is real.
fn kind_is_asked_and_told_to_clean_up() -> Result<(), Impossible> {
    let folder = folder();
    let up = Running::start(stickler(folder.path(), &["up", "--nodes", "1", "--kubeconfig", "config"]));
    let config = folder.path().join("config");
    eventually("the kubeconfig", || {
        fs::read_to_string(&config).ok().filter(|text| text.contains("current-context")).map(drop)
    });
    let (kind, asked) = (folder.path().join("kind"), folder.path().join("asked"));
    let script = format!(
        "#!/bin/sh\necho \"$@\" >> {asked}\ncase \"$1 $2\" in\n'create cluster') cat >> {asked};;\n\
         'get kubeconfig') cat {config};;\n'get clusters') echo mine; echo stickler-old;;\nesac\n",
        asked = asked.display(),
        config = config.display()
    );
    fs::write(&kind, script).expect("it can be written");
    fs::set_permissions(&kind, fs::Permissions::from_mode(0o755)).expect("it is ours");
    let path = format!("{}:/usr/bin:/bin", folder.path().display());
    let kind = |arguments: &[&str]| {
        let mut command = stickler(folder.path(), arguments);
        command.env("PATH", &path);
        let ended = output(command);
        assert_eq!(ended.code(), Some(0), "{ended:#?}");
        let asked_for = fs::read_to_string(&asked).expect("kind was asked");
        fs::remove_file(&asked).expect("it is there");
        (ended, asked_for)
    };
    let arguments = ["run", "--cluster", "kind", "--nodes", "2", "--node-image", "kindest/node:v1.35.0"];
    let archive = folder.path().join("image.tar");
    fs::write(&archive, "as if it were one").expect("it can be written");
    let rest = ["--image-archive", "image.tar", "--filter", "service/listed", "--format", "json"];
    let (ran, asked_for) = kind(&[arguments.as_slice(), &rest].concat());
    let report: Value = serde_json::from_str(&ran.stdout).expect("it prints JSON");
    assert_eq!(report["cluster"]["provider"], "kind", "{report:#}");
    assert_eq!(report["summary"]["passed"], 1, "{report:#}");
    let lines: Vec<&str> = asked_for.lines().collect();
    let name = lines[0].strip_prefix("create cluster --name ").and_then(|rest| rest.split(' ').next());
    let name = name.expect("a cluster is made").to_owned();
    assert!(name.starts_with("stickler-"), "{asked_for}");
    assert!(lines[0].ends_with("--config - --image kindest/node:v1.35.0"), "{asked_for}");
    assert_eq!(lines.iter().filter(|line| **line == "- role: worker").count(), 1, "{asked_for}");
    let loaded = format!("load image-archive --name {name} image.tar");
    assert!(lines.contains(&loaded.as_str()), "{asked_for}");
    assert_eq!(lines.last(), Some(&format!("delete cluster --name {name}").as_str()), "{asked_for}");

    let (healed, asked_for) = kind(&["heal", "--cluster", "kind"]);
    assert_eq!(healed.stdout, "removed cluster stickler-old\n");
    assert_eq!(asked_for, "get clusters\ndelete cluster --name stickler-old\n");
    up.signal(libc::SIGINT);
    up.end();
    Ok(())
}

/// The program under the name it has in a container, as this part of it.
fn part(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_stickler"));
    command.arg0("/stickler-pods").args(arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    command
}

fn a_testbed_ends_with_its_standard_input() -> Result<(), Impossible> {
    let before = Before::look();
    let mut testbed = part(&["testbed"]).spawn().expect("it can be started");
    let (mut stdin, stdout) = testbed.stdin.take().zip(testbed.stdout.take()).expect("both are piped");
    let wanted = r#"{"start":{"nodes":1,"bugs":[],"load_balancer":false,"listen":"127.0.0.1:0"}}"#;
    writeln!(stdin, "{wanted}").expect("it reads");
    let mut first = String::new();
    BufReader::new(stdout).read_line(&mut first).expect("it speaks");
    let first: Value = serde_json::from_str(&first).expect("it speaks JSON");
    assert_eq!(first["ready"]["card"]["nodes"][0], "kube0.vm", "{first}");
    let belongings = Belongings::of(testbed.id());
    drop(stdin);
    let ended = eventually("the end of the testbed", || testbed.try_wait().expect("it is our child"));
    assert!(ended.success(), "{ended:?}");
    before.is_restored(&belongings);

    let mut testbed = part(&["testbed"]).spawn().expect("it can be started");
    let mut stdin = testbed.stdin.take().expect("it is piped");
    let wanted = r#"{"start":{"nodes":1,"bugs":["nosuch"],"load_balancer":false,"listen":"127.0.0.1:0"}}"#;
    writeln!(stdin, "{wanted}").expect("it reads");
    let refused = testbed.wait_with_output().expect("it ends");
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    let answer = String::from_utf8_lossy(&refused.stdout).into_owned();
    assert!(answer.starts_with("{\"failed\":{\"why\":\"there is no bug `nosuch`"), "{answer}");
    Ok(())
}

fn a_leash_that_is_dropped_ends_the_program() -> Result<(), Impossible> {
    crate::on_request()?;
    // It would go on for longer than anybody waits here.
    let patient = (BOUND * 10).as_secs().to_string();
    let mut program = part(&["leash", "sleep", &patient]).spawn().expect("it can be started");
    let mut stdin = program.stdin.take().expect("it is piped");
    for _ in 0..3 {
        writeln!(stdin).expect("it reads");
        assert!(program.try_wait().expect("it is our child").is_none(), "it is still held");
    }
    // Silence is enough: the pipe is as it was.
    let ended = eventually("the end of the program", || program.try_wait().expect("it is our child"));
    assert!(ended.success(), "{ended:?}");
    drop(stdin);
    let ended = output(part(&["leash", "echo", "said"]));
    assert_eq!((ended.code(), ended.stdout.as_str()), (Some(0), "said\n"), "{ended:?}");
    Ok(())
}
