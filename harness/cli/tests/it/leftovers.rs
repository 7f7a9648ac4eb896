//! What a program may leave on the machine: processes, network namespaces, mounts, files.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use crate::program::eventually;

/// The machine as it was before the program ran.
pub(crate) struct Before {
    mounts: Vec<String>,
    named_networks: BTreeSet<String>,
}

/// What belongs to a running program: the processes under it and the networks they live in.
#[derive(Debug, Default)]
pub(crate) struct Belongings {
    pub(crate) processes: BTreeSet<u32>,
    pub(crate) networks: BTreeSet<String>,
}

impl Before {
    pub(crate) fn look() -> Self {
        Self { mounts: mounts(), named_networks: names(Path::new("/run/netns")) }
    }

    /// Waits until nothing of the program is left: no process that runs it, no process in a network
    /// of it, no mount, no named network.
    pub(crate) fn is_restored(&self, belongings: &Belongings) {
        eventually(&format!("the end of every process of {belongings:?}"), || {
            let here = network("self");
            let left = processes().into_iter().any(|pid| {
                let network = network(&pid.to_string());
                runs_stickler(pid)
                    || network.is_some()
                        && network != here
                        && belongings.networks.contains(&network.unwrap_or_default())
            });
            (!left).then_some(())
        });
        assert_eq!(mounts(), self.mounts, "mounts of the machine changed");
        assert_eq!(names(Path::new("/run/netns")), self.named_networks);
    }
}

impl Belongings {
    /// Of the process with this id, now.
    pub(crate) fn of(root: u32) -> Self {
        let mut processes_of_it = BTreeSet::from([root]);
        let all: Vec<(u32, u32)> =
            processes().into_iter().filter_map(|pid| Some((pid, parent(pid)?))).collect();
        // A child may have a lower number than its parent, so until nothing more is found.
        loop {
            let known = processes_of_it.len();
            processes_of_it.extend(
                all.iter()
                    .filter(|(_, parent)| processes_of_it.contains(parent))
                    .map(|(pid, _)| *pid)
                    .collect::<Vec<_>>(),
            );
            if processes_of_it.len() == known {
                break;
            }
        }
        let here = network("self");
        let networks = processes_of_it
            .iter()
            .filter_map(|pid| network(&pid.to_string()))
            .filter(|network| Some(network) != here.as_ref())
            .collect();
        Self { processes: processes_of_it, networks }
    }
}

/// The names in a folder; none if there is no such folder.
pub(crate) fn names(folder: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

fn processes() -> Vec<u32> {
    names(Path::new("/proc")).iter().filter_map(|name| name.parse().ok()).collect()
}

fn parent(pid: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse().ok()
}

fn network(pid: &str) -> Option<String> {
    fs::read_link(format!("/proc/{pid}/ns/net")).ok().map(|link| link.to_string_lossy().into_owned())
}

/// By the file itself: inside a pod it has another path.
fn runs_stickler(pid: u32) -> bool {
    let Ok(program) = fs::metadata(env!("CARGO_BIN_EXE_stickler")) else { return false };
    fs::metadata(format!("/proc/{pid}/exe"))
        .is_ok_and(|exe| (exe.dev(), exe.ino()) == (program.dev(), program.ino()))
}

fn mounts() -> Vec<String> {
    let text = fs::read_to_string("/proc/self/mountinfo").expect("/proc is mounted");
    text.lines().map(str::to_owned).collect()
}
