//! `--cluster binaries`: a whole Kubernetes from a directory of its binaries. The runs need one, and root:
//! `STICKLER_BIN_DIR` names it, and `STICKLER_PODS_PROGRAM` a static `stickler-pods` if none is to be built.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::tempdir;

use crate::leftovers::{Before, Belongings, names};
use crate::program::{Running, eventually, output, stickler};
use crate::{Impossible, Test};

pub(crate) const TESTS: &[(&str, Test)] = &[
    ("what_is_missing_is_told", what_is_missing_is_told),
    ("a_directory_needs_its_cluster", a_directory_needs_its_cluster),
    ("checks_run_on_it_and_nothing_stays", checks_run_on_it_and_nothing_stays),
    ("a_killed_one_leaves_nothing", a_killed_one_leaves_nothing),
];

/// Start and end of a Kubernetes, on a busy machine.
const WHOLE: Duration = Duration::from_secs(600);

fn what_is_missing_is_told() -> Result<(), Impossible> {
    let folder = tempdir().expect("a folder can be made");
    // The image's program is asked for first, and any static executable will do.
    fs::write(folder.path().join("pods"), crate::image::executable(62)).expect("it can be written");
    fs::create_dir(folder.path().join("bin")).expect("it can be made");
    let run = ["run", "--cluster", "binaries", "--pods-program", "pods"];
    let told = |more: &[&str]| {
        let ended = output(stickler(folder.path(), &[&run[..], more].concat()));
        assert_eq!(ended.code(), Some(2), "{ended:#?}");
        ended.stderr
    };
    assert!(told(&[]).contains("needs `--bin-dir DIR`"));
    // Before anything is made, whatever else is missing.
    let old = "stickler-pods 0.0.1 of sources 00000000000000aa";
    fs::write(folder.path().join("old"), crate::image::versioned(62, old)).expect("it can be written");
    let another = output(stickler(
        folder.path(),
        &["run", "--cluster", "binaries", "--bin-dir", "bin", "--pods-program", "old"],
    ));
    assert_eq!(another.code(), Some(2), "{another:#?}");
    let words = format!(
        "error: `--pods-program` names a program that pods cannot run: `old` cannot be the \
                         image's program: it is `{old}`, and `{}` is needed; build it",
        stickler::PODS_VERSION
    );
    assert!(another.stderr.starts_with(&words), "{another:#?}");
    let lacks = told(&["--bin-dir", "bin"]);
    assert!(lacks.contains("`--bin-dir bin` lacks `kube-apiserver`, `kube-controller-manager`"), "{lacks}");
    assert!(told(&["--bin-dir", "nosuch"]).contains("`--bin-dir nosuch` cannot be read"));
    let swapped = told(&["--bin-dir", "bin", "--with", "proxy=sh"]);
    assert!(swapped.contains("leave it out with `--cluster binaries`"), "{swapped}");
    assert!(!folder.path().join("report").exists());
    Ok(())
}

fn a_directory_needs_its_cluster() -> Result<(), Impossible> {
    let folder = tempdir().expect("a folder can be made");
    let ended = output(stickler(folder.path(), &["run", "--bin-dir", "bin"]));
    assert_eq!(ended.code(), Some(2), "{ended:#?}");
    assert!(ended.stderr.contains("`--bin-dir bin` is for `--cluster binaries`"), "{ended:#?}");
    Ok(())
}

/// What the machine has beside processes, mounts and named networks.
#[derive(Debug, PartialEq, Eq)]
struct Named {
    cgroups: BTreeSet<PathBuf>,
    files: Vec<BTreeSet<String>>,
    sysctls: Vec<String>,
}

impl Named {
    fn look() -> Self {
        let mut cgroups = BTreeSet::new();
        groups(Path::new("/sys/fs/cgroup"), 2, &mut cgroups);
        let folders = ["/var/lib", "/var/log", "/etc/cni", "/opt/cni", "/run", "/usr/libexec", "/run/netns"];
        let sysctls = ["vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops"];
        Self {
            cgroups,
            files: folders.iter().map(|folder| names(Path::new(folder))).collect(),
            sysctls: sysctls
                .iter()
                .map(|name| fs::read_to_string(Path::new("/proc/sys").join(name)).unwrap_or_default())
                .collect(),
        }
    }
}

/// Groups of ours, where a cluster makes them.
fn groups(folder: &Path, depth: usize, found: &mut BTreeSet<PathBuf>) {
    for name in names(folder) {
        let path = folder.join(&name);
        if name.starts_with("stickler-") {
            found.insert(path);
        } else if depth > 1 && path.is_dir() {
            groups(&path, depth - 1, found);
        }
    }
}

/// A command on a Kubernetes, if there is one.
fn on_kubernetes(folder: &Path, command: &str, more: &[&str]) -> Result<Command, Impossible> {
    let lacking = |what: &str| Impossible(what.to_owned());
    let directory = std::env::var("STICKLER_BIN_DIR")
        .map_err(|_| lacking("STICKLER_BIN_DIR names no directory of Kubernetes' server binaries"))?;
    let mut arguments = vec![command, "--cluster", "binaries", "--bin-dir", &directory];
    let program = std::env::var("STICKLER_PODS_PROGRAM");
    if let Ok(program) = &program {
        arguments.extend(["--pods-program", program]);
    }
    Ok(stickler(folder, &[&arguments[..], more].concat()))
}

fn checks_run_on_it_and_nothing_stays() -> Result<(), Impossible> {
    let folder = tempdir().expect("a folder can be made");
    let run = on_kubernetes(folder.path(), "run", &["--filter", "service/*", "--filter", "dns/*"])?;
    let (before, named) = (Before::look(), Named::look());
    let running = Running::start(run);
    let belongings = Belongings::of(running.pid());
    let ended = running.end_within(WHOLE);
    assert_eq!(ended.code(), Some(0), "{ended:#?}");
    assert!(ended.stderr.contains("starting: nodes Ready"), "{}", ended.stderr);
    before.is_restored(&belongings);
    assert_eq!(Named::look(), named);
    Ok(())
}

fn a_killed_one_leaves_nothing() -> Result<(), Impossible> {
    let folder = tempdir().expect("a folder can be made");
    let up = on_kubernetes(folder.path(), "up", &["--kubeconfig", "kubeconfig"])?;
    let (before, named) = (Before::look(), Named::look());
    let mut running = Running::start(up);
    running.await_line(|line| line == "starting: nodes Ready");
    let belongings = Belongings::of(running.pid());
    assert_ne!(Named::look().cgroups, named.cgroups, "it has control groups while it runs");
    running.signal(libc::SIGKILL);
    running.end_within(WHOLE);
    before.is_restored(&belongings);
    eventually("the end of what it had on the machine", || (Named::look() == named).then_some(()));
    Ok(())
}
