//! Mistakes of the user and lacks of the machine: a clear message, exit status 2, and nothing left.

use std::ffi::CString;
use std::fs;
use std::net::TcpListener;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use tempfile::{TempDir, tempdir};

use crate::leftovers::{Before, Belongings, names};
use crate::program::{output, stickler};
use crate::{Impossible, Test};

pub(crate) const TESTS: &[(&str, Test)] = &[
    ("arguments_that_make_no_sense", arguments_that_make_no_sense),
    ("kubeconfigs_that_lead_nowhere", kubeconfigs_that_lead_nowhere),
    ("a_report_that_cannot_be_written", a_report_that_cannot_be_written),
    ("a_port_that_is_taken", a_port_that_is_taken),
    ("a_kubeconfig_that_is_in_the_way", a_kubeconfig_that_is_in_the_way),
    ("cases_with_mistakes", cases_with_mistakes),
    ("known_differences_with_mistakes", known_differences_with_mistakes),
    ("reports_to_start_from_with_mistakes", reports_to_start_from_with_mistakes),
    ("components_with_mistakes", components_with_mistakes),
    ("manifests_with_mistakes", manifests_with_mistakes),
    ("a_machine_without_network_namespaces", a_machine_without_network_namespaces),
    ("a_machine_without_user_namespaces", a_machine_without_user_namespaces),
];

/// Refused: exit status 2, the first line of standard error holds these words, and nothing is left
/// in the folder but what was there before.
fn is_refused(folder: &Path, command: Command, words: &[&str]) {
    let (before, files) = (Before::look(), names(folder));
    let what = format!("{command:?}");
    let ended = output(command);
    assert_eq!(ended.code(), Some(2), "{what}: {ended:#?}");
    assert_eq!(ended.stdout, "", "{what}");
    let first = ended.stderr.lines().next().unwrap_or_default();
    assert!(first.starts_with("error: "), "{what}: {}", ended.stderr);
    for word in words {
        assert!(first.contains(word), "{what}: `{word}` is missing in {}", ended.stderr);
    }
    // An error that has its cause in its own words must not name it as its cause as well.
    let parts: Vec<&str> = first.split(": ").collect();
    assert!(parts.windows(2).all(|two| two[0] != two[1]), "{what} says a thing twice: {}", ended.stderr);
    // clap adds its usage; our own messages are one line.
    assert!(ended.stderr.lines().count() == 1 || ended.stderr.contains("--help"), "{what}: {}", ended.stderr);
    assert_eq!(names(folder), files, "{what} left files");
    before.is_restored(&Belongings::default());
}

fn folder() -> TempDir {
    tempdir().expect("a folder can be made")
}

fn arguments_that_make_no_sense() -> Result<(), Impossible> {
    let folder = folder();
    for (arguments, words) in [
        (["--nosuch"].as_slice(), ["unexpected argument '--nosuch'"].as_slice()),
        (&["nosuch"], &["unrecognized subcommand 'nosuch'"]),
        (&["run", "--filter", "nosuch/*"], &["`--filter`", "`nosuch/*`", "`stickler list`"]),
        (&["run", "--filter", "service/["], &["`--filter`: `service/[` is no glob"]),
        (&["run", "--without-feature", "nosuch"], &["'nosuch'", "ingress, kubectl"]),
        (&["run", "--profile", "nosuch"], &["'nosuch'", "endpoints, kubelet"]),
        (&["run", "--profile", "dns", "--filter", "affinity/*"], &["profile `dns`", "`affinity/*`"]),
        (&["run", "--bug", "nosuch"], &["there is no bug `nosuch`", "no-proxy"]),
        (&["up", "--bug", "nosuch"], &["there is no bug `nosuch`", "no-proxy"]),
        (&["run", "--nodes", "0"], &["'0'", "1..=50"]),
        (&["run", "--nodes", "51"], &["'51'", "1..=50"]),
        (&["run", "--jobs", "0"], &["'0'"]),
        (&["run", "--seed", "many"], &["'many'"]),
        (&["run", "--format", "xml"], &["'xml'"]),
        (&["run", "--cluster", "kubeconfig", "--bug", "no-proxy"], &["`--bug`"]),
        (&["explore", "--cases", "0"], &["'0'"]),
        (&["explore", "--steps", "0"], &["'0'", "1..=1000"]),
        (&["explore", "--seed", "-1"], &["'-1'"]),
        (&["explore", "--bug", "nosuch"], &["there is no bug `nosuch`", "no-proxy"]),
        (&["table", "--bug", "nosuch"], &["there is no bug `nosuch`", "no-proxy"]),
        (&["table", "--manifest"], &["--manifest <FILE>"]),
        (&["replay"], &["required arguments"]),
        (&["replay", "nosuch.yaml"], &["`nosuch.yaml` cannot be read"]),
        (&["up", "--cluster", "kubeconfig"], &["is up already"]),
        (&["--nodes", "2", "run"], &["`--nodes`", "after `run`"]),
        (&["--format", "json", "list"], &["`--format`", "after `list`"]),
    ] {
        is_refused(folder.path(), stickler(folder.path(), arguments), words);
    }
    Ok(())
}

fn cases_with_mistakes() -> Result<(), Impossible> {
    let folder = folder();
    let head =
        "schema: stickler.case/v1\nnodes: 3\nseed: 1\ncase: 1\npromised: x\nobserved: y\noperations:\n";
    let delete = "- delete-service:\n    service: one\n";
    for (text, words) in [
        (String::new(), ["`case.yaml` cannot be replayed", "no case file"].as_slice()),
        ("schema: stickler.case/v9\n".to_owned(), &["`schema`", "stickler.case/v9", "stickler.case/v1"]),
        (format!("{head}- explode:\n    node: 1\n"), &["line 8", "explode"]),
        (format!("{head}- stop-kubelet:\n    node: many\n"), &["line 9 column 11"]),
        (format!("{head}- stop-kubelet:\n    knot: 1\n"), &["line 9", "knot"]),
        (format!("{head}{delete}"), &["line 8", "`operations[0]`", "there is no service `one`"]),
        (format!("{head}- stop-kubelet:\n    node: 9\n"), &["line 8", "`operations[0]`", "no node 9"]),
        (head.replace("operations:", "operations: []"), &["`operations` is empty"]),
    ] {
        fs::write(folder.path().join("case.yaml"), &text).expect("it can be written");
        is_refused(folder.path(), stickler(folder.path(), &["replay", "case.yaml"]), words);
    }
    Ok(())
}

fn known_differences_with_mistakes() -> Result<(), Impossible> {
    let folder = folder();
    let silent = "at = \"node-port\", protocol = \"UDP\", promised = \"answered\", seen = \"silent\"";
    let entry = |explore: &str| {
        format!("[[deviation]]\nexplore = [{{ {explore} }}]\nreason = \"r\"\nsource = \"s\"\n")
    };
    let whole = entry(silent);
    for (entries, words) in [
        (
            entry(&silent.replace("node-port", "port")),
            ["`known.toml`, line 3", "`port`", "`node-port`"].as_slice(),
        ),
        (
            entry(&silent.replace(", seen = \"silent\"", "")),
            &["line 3", "missing field `seen`", "`[[deviation]]`"],
        ),
        (entry(&format!("{silent}, from = \"a node\"")), &["line 3", "unknown field `from`"]),
        (entry(""), &["line 3", "missing field `at`"]),
        (entry("").replace("{  }", ""), &["an empty list `explore`"]),
        (whole.replace("[{", "{").replace("}]", "}"), &["line 3", "expected a sequence"]),
        (entry(&format!("{silent}, by = \" \"")), &["cannot be", "`by` is empty"]),
        (
            entry(&format!("{}, flow = \"known\"", silent.replace("UDP", "TCP"))),
            &["cannot be", "only flows of UDP"],
        ),
        (whole.replace("\"r\"", "\"\""), &["at = \"node-port\"", "without saying why"]),
        (whole.replace("source = \"s\"\n", ""), &["missing field `source`"]),
        (format!("{whole}{whole}"), &["an earlier entry covers (\"r\")"]),
        (format!("{whole}{}", entry(&format!("{silent}, by = \"x\""))), &["an earlier entry covers"]),
        (format!("{whole}sometimes = true\n"), &["`sometimes` is for checks"]),
        ("[[deviation]]\nreason = \"r\"\nsource = \"s\"\n".to_owned(), &["neither a check nor a difference"]),
        (whole.replace("explore =", "check = \"no/such\"\nexplore ="), &["`no/such`", "does not exist"]),
    ] {
        let text = format!("implementation = \"x\"\n{entries}");
        fs::write(folder.path().join("known.toml"), &text).expect("it can be written");
        is_refused(folder.path(), stickler(folder.path(), &["explore", "--expect", "known.toml"]), words);
    }
    is_refused(
        folder.path(),
        stickler(folder.path(), &["explore", "--expect", "none.toml"]),
        &["`none.toml` cannot be read"],
    );
    Ok(())
}

fn reports_to_start_from_with_mistakes() -> Result<(), Impossible> {
    let folder = folder();
    let check = |id: &str| {
        serde_json::json!({
            "id": id, "title": "t", "chapter": "c", "class": "promise", "verdict": "failed", "reason": null,
            "duration_ms": 1, "promised": null, "observed": null, "evidence": [],
        })
    };
    let report = |checks: &[&str]| {
        let mut report = serde_json::to_value(stickler_reports::Report::new()).expect("JSON");
        report["checks"] = checks.iter().copied().map(check).collect();
        report["suite"] = "chaos".into();
        report
    };
    let mut other = report(&["vip/no-ping"]);
    other["schema"] = "stickler.report/v9".into();
    let from = ["run", "--failed-from", "old"];
    is_refused(
        folder.path(),
        stickler(folder.path(), &from),
        &["`old/report.json` cannot be read", "--report"],
    );
    fs::create_dir(folder.path().join("old")).expect("it can be made");
    for (text, filter, words) in [
        ("{".to_owned(), "*", ["`old/report.json` is no report", "version"].as_slice()),
        (other.to_string(), "*", &["`stickler.report/v9`", "`stickler.report/v1`"]),
        (report(&[]).to_string(), "*", &["run without checks", "`stickler chaos`"]),
        (
            report(&["vip/no-ping", "no/such"]).to_string(),
            "*",
            &["does not know: no/such;", "`stickler list`"],
        ),
        (report(&["vip/no-ping"]).to_string(), "goweb/*", &["`--filter`", "vip/no-ping"]),
    ] {
        fs::write(folder.path().join("old/report.json"), &text).expect("it can be written");
        let arguments = [&from[..], &["--filter", filter]].concat();
        is_refused(folder.path(), stickler(folder.path(), &arguments), words);
    }
    Ok(())
}

fn components_with_mistakes() -> Result<(), Impossible> {
    let folder = folder();
    for (arguments, words) in [
        (
            ["--with", "kube-proxy=sh"].as_slice(),
            ["`--with kube-proxy=...`", "no component `kube-proxy`", "proxy, dns"].as_slice(),
        ),
        (&["--with", "proxy"], &["`--with proxy` has no command"]),
        (&["--with", "proxy="], &["`--with proxy=...`", "the command line is empty"]),
        (&["--with", "proxy=no-such-program --x"], &["there is no program `no-such-program`"]),
        (&["--with", "proxy=/no/such/program"], &["there is no program at `/no/such/program`"]),
        (&["--with", "proxy=sh -c 'x"], &["a quote is open at its end"]),
        (&["--with", "proxy=sh {nodes}"], &["`{nodes}` in `{nodes}` stands for nothing", "`{node_ip}`"]),
        (&["--with", "proxy=sh", "--with", "proxy=sh"], &["component `proxy` is given twice"]),
        (&["--with", "dns=sh", "--without", "dns"], &["`--without dns`", "component `dns` is given twice"]),
        (&["--without", "apiserver"], &["a cluster without an API server is none"]),
        (&["--without", "kubelet"], &["a node without a kubelet is none"]),
        (&["--components", "nosuch.toml"], &["`nosuch.toml` cannot be read"]),
        (&["--cluster", "kubeconfig", "--with", "proxy=sh"], &["`--with` swaps components of the testbed"]),
        (&["--cluster", "kubeconfig", "--without", "dns"], &["`--without` swaps components of the testbed"]),
    ] {
        for command in ["run", "up", "explore", "chaos"] {
            let cluster = arguments.first() == Some(&"--cluster");
            if command == "up" && cluster {
                continue;
            }
            is_refused(folder.path(), stickler(folder.path(), &[&[command], arguments].concat()), words);
        }
    }
    for (text, words) in [
        ("[proxy]\ncommand = sh\n", ["`--components set.toml`: line 2: "].as_slice()),
        ("[proxy]\ncommands = 'sh'\n", &["line 2", "unknown field `commands`"]),
        ("[ingress-nginx]\ncommand = 'sh'\n", &["there is no component `ingress-nginx`"]),
        ("[dns]\ncommand = 'sh {node}'\n", &["component `dns`: `{node}` stands for nothing there"]),
        (
            "[proxy]\ncommand = 'sh'\nfiles = {'/etc/x' = 'y'}\n",
            &["`/etc/x` is no path of a file below `{dir}`"],
        ),
    ] {
        fs::write(folder.path().join("set.toml"), text).expect("it can be written");
        is_refused(folder.path(), stickler(folder.path(), &["run", "--components", "set.toml"]), words);
    }
    Ok(())
}

fn kubeconfigs_that_lead_nowhere() -> Result<(), Impossible> {
    let folder = folder();
    let run = ["run", "--cluster", "kubeconfig", "--kubeconfig"];
    let with = |file: &str| stickler(folder.path(), &[run.as_slice(), &[file]].concat());
    is_refused(folder.path(), with("/nonexistent"), &["`/nonexistent`"]);
    is_refused(folder.path(), stickler(folder.path(), &run[..3]), &["no kubeconfig", "`--kubeconfig FILE`"]);
    fs::write(folder.path().join("no.yaml"), "clusters: [\n").expect("it can be written");
    is_refused(folder.path(), with("no.yaml"), &["`no.yaml`"]);
    let closed = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: x\ncontexts: [{{name: x, context: {{cluster: x, user: x}}}}]\n\
         users: [{{name: x, user: {{token: t}}}}]\nclusters: [{{name: x, cluster: {{server: 'https://127.0.0.1:{}'}}}}]\n",
        closed_port()
    );
    fs::write(folder.path().join("closed.yaml"), closed).expect("it can be written");
    let other = [run.as_slice(), &["closed.yaml", "--context", "y"]].concat();
    is_refused(folder.path(), stickler(folder.path(), &other), &["no context `y`", "it has: x"]);
    // A cluster that did not start is a result too, and has a report.
    let ended = output(with("closed.yaml"));
    assert_eq!(ended.code(), Some(2), "{ended:#?}");
    let last = ended.stderr.lines().last().unwrap_or_default();
    assert!(
        last.starts_with("error: cluster `kubeconfig` did not start: ") && last.contains("127.0.0.1"),
        "{last}"
    );
    let report = fs::read_to_string(folder.path().join("report/report.json")).expect("the report is written");
    assert!(report.contains("did not start"), "{report}");
    fs::remove_dir_all(folder.path().join("report")).expect("it can be removed");
    let alone = ["run", "--kubeconfig", "closed.yaml"];
    is_refused(folder.path(), stickler(folder.path(), &alone), &["`--cluster kubeconfig`"]);
    Ok(())
}

/// A port of the loopback address where nobody listens.
fn closed_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback can be bound");
    listener.local_addr().expect("it has an address").port()
}

fn a_report_that_cannot_be_written() -> Result<(), Impossible> {
    let folder = folder();
    fs::write(folder.path().join("file"), "").expect("it can be written");
    for place in ["file", "file/below", "/proc/nosuch"] {
        let arguments = ["run", "--filter", "service/*", "--report", place];
        is_refused(folder.path(), stickler(folder.path(), &arguments), &["report", &format!("`{place}`")]);
    }
    Ok(())
}

fn a_port_that_is_taken() -> Result<(), Impossible> {
    let folder = folder();
    let taken = TcpListener::bind("127.0.0.1:0").expect("loopback can be bound");
    let port = taken.local_addr().expect("it has an address").port().to_string();
    let command = stickler(folder.path(), &["up", "--port", &port]);
    is_refused(folder.path(), command, &[&format!("port {port} of 127.0.0.1"), "in use"]);
    Ok(())
}

fn a_kubeconfig_that_is_in_the_way() -> Result<(), Impossible> {
    let folder = folder();
    let mine = folder.path().join("mine");
    fs::write(&mine, "mine").expect("it can be written");
    is_refused(folder.path(), stickler(folder.path(), &["up", "--kubeconfig", "mine"]), &["`mine`", "exist"]);
    assert_eq!(fs::read_to_string(&mine).expect("it is still there"), "mine");
    let nowhere = ["up", "--kubeconfig", "nosuch/file"];
    is_refused(folder.path(), stickler(folder.path(), &nowhere), &["`nosuch/file`"]);
    Ok(())
}

fn manifests_with_mistakes() -> Result<(), Impossible> {
    let folder = folder();
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec:\n";
    for (yaml, words) in [
        (None, ["`m.yaml` cannot be read"].as_slice()),
        (Some("a: [\n".to_owned()), &["`m.yaml` is not valid YAML"]),
        (Some("apiVersion: v1\nmetadata: {name: web}\n".to_owned()), &["`m.yaml`", "`kind` is missing"]),
        (Some(format!("{service}  prots: [{{port: 80}}]\n")), &["Service `web`", "m.yaml", "spec.prots"]),
        (Some("apiVersion: v1\nkind: Serivce\nmetadata: {name: web}\n".to_owned()), &["Serivce", "m.yaml"]),
        (Some(format!("{service}  ports: [{{port: 0}}]\n")), &["Service `web`", "m.yaml", "spec.ports"]),
    ] {
        if let Some(yaml) = yaml {
            fs::write(folder.path().join("m.yaml"), yaml).expect("it can be written");
        }
        is_refused(folder.path(), stickler(folder.path(), &["up", "--apply", "m.yaml"]), words);
    }
    // What can be known without a cluster, before there is one.
    let table = |file: &str| stickler(folder.path(), &["table", "--manifest", file]);
    is_refused(folder.path(), table("nosuch.yaml"), &["`nosuch.yaml` cannot be read"]);
    for (yaml, words) in [
        ("a: [\n", ["`m.yaml` is not valid YAML"].as_slice()),
        ("apiVersion: v1\nmetadata: {name: web}\n", &["document 1 of `m.yaml`", "`kind` is missing"]),
        ("", &["`m.yaml` holds no object"]),
    ] {
        fs::write(folder.path().join("m.yaml"), yaml).expect("it can be written");
        is_refused(folder.path(), table("m.yaml"), words);
    }
    fs::create_dir(folder.path().join("empty")).expect("a folder can be made");
    is_refused(folder.path(), table("empty"), &["`empty` holds no file `*.yaml`"]);
    Ok(())
}

/// A limit of the user namespace the program is started in.
struct Limit {
    path: &'static std::ffi::CStr,
    /// The user the program believes it is: 0 keeps every capability, another one none.
    user: u32,
}

fn a_machine_without_network_namespaces() -> Result<(), Impossible> {
    refuses_to_start(&Limit { path: c"/proc/sys/user/max_net_namespaces", user: 0 }, "network namespaces")
}

fn a_machine_without_user_namespaces() -> Result<(), Impossible> {
    refuses_to_start(&Limit { path: c"/proc/sys/user/max_user_namespaces", user: 1000 }, "user namespaces")
}

fn refuses_to_start(limit: &Limit, what: &str) -> Result<(), Impossible> {
    let folder = folder();
    let mut free = limited(Command::new("/proc/self/exe"), limit);
    free.arg("--list").stdout(std::process::Stdio::null());
    if let Err(error) = free.spawn().and_then(|mut child| child.wait()) {
        return Err(Impossible(format!(
            "no user namespace with limits of its own can be made here: {error}"
        )));
    }
    for arguments in [["run"].as_slice(), &["up"]] {
        let command = limited(stickler(folder.path(), arguments), limit);
        is_refused(folder.path(), command, &["does not allow", what, "run as root", "sysctl"]);
    }
    Ok(())
}

/// Starts the command in a user namespace of its own that has this limit at nothing.
fn limited(mut command: Command, limit: &Limit) -> Command {
    let path = limit.path;
    #[expect(unsafe_code, reason = "geteuid and getegid have no safe wrapper in std")]
    // SAFETY: both only read the caller's credentials and cannot fail.
    let (uid, gid) = unsafe { (libc::geteuid(), libc::getegid()) };
    let map = |id: u32| CString::new(format!("{} {id} 1", limit.user)).expect("digits hold no zero byte");
    let (users, groups) = (map(uid), map(gid));
    let setup = move || {
        #[expect(unsafe_code, reason = "unshare has no safe wrapper in std")]
        // SAFETY: it changes namespaces of the child only.
        if unsafe { libc::unshare(libc::CLONE_NEWUSER) } != 0 {
            return Err(std::io::Error::last_os_error());
        }
        write(c"/proc/self/setgroups", c"deny")?;
        write(c"/proc/self/uid_map", &users)?;
        write(c"/proc/self/gid_map", &groups)?;
        write(path, c"0")
    };
    #[expect(unsafe_code, reason = "the child changes its namespaces between fork and exec")]
    // SAFETY: the closure makes system calls only and allocates nothing.
    unsafe {
        command.pre_exec(setup);
    }
    command
}

/// Writes a whole file without allocating.
#[expect(unsafe_code, reason = "files of std allocate, which is not allowed between fork and exec")]
fn write(path: &std::ffi::CStr, text: &std::ffi::CStr) -> std::io::Result<()> {
    let bytes = text.to_bytes();
    // SAFETY: the path ends with a zero byte, and the buffer lives as long as the call.
    let written = unsafe {
        let file = libc::open(path.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
        if file == -1 {
            return Err(std::io::Error::last_os_error());
        }
        let written = libc::write(file, bytes.as_ptr().cast(), bytes.len());
        libc::close(file);
        written
    };
    if usize::try_from(written) == Ok(bytes.len()) { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}
