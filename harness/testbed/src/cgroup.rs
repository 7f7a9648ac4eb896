//! Control groups for nodes that run containers: the kubelet and the container runtime make groups, and
//! each node is to have its own tree of them.
//!
//! They are the one thing of a cluster that has a name on the machine, so a *keeper* removes them: a process
//! that waits until this one has let them go, or has ended in whatever way, and then ends itself.
//!
//! Both versions are served: in version 1 every controller has a tree, in version 2 there is one, where
//! processes may only be in leaves
//! ([Control Group v2, "No Internal Process Constraint"](https://docs.kernel.org/admin-guide/cgroup-v2.html#no-internal-process-constraint)).

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, OpenOptions};
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};

use crate::kubelet::spawn::CgroupFiles;

/// `argv[0]` of the executable when it is to remove control groups.
const KEEPER: &str = "stickler-cgroup-keeper";
/// A group is busy for a moment after its last process has left it.
const BUSY: Duration = Duration::from_secs(30);
/// How soon a busy group is tried again.
const AGAIN: Duration = Duration::from_millis(20);
/// Where processes of a node are in version 2.
const LEAF: &str = "init";
/// Where control groups are on every machine.
const MOUNTED: &str = "/sys/fs/cgroup";

/// A tree of control groups, for an enclosure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CgroupMount {
    /// `cgroup` or `cgroup2`.
    pub(crate) kind: String,
    pub(crate) path: PathBuf,
    pub(crate) options: String,
    /// Other names of it in the same folder.
    pub(crate) links: Vec<String>,
}

/// A tree of control groups of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Hierarchy {
    path: PathBuf,
    version: Version,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Version {
    /// With these controllers, or a name.
    One(Vec<String>),
    Two,
}

/// The control groups of one testbed.
#[derive(Debug)]
pub(crate) struct Cgroups {
    hierarchies: Vec<Hierarchy>,
    /// Of the group that has those of all nodes.
    name: String,
    keeper: Child,
}

impl Cgroups {
    /// Makes one group in every tree.
    ///
    /// # Errors
    /// If there are no control groups, or this process may not make any.
    pub(crate) fn make() -> anyhow::Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let mounts = fs::read_to_string("/proc/self/mountinfo").context("the mounts cannot be read")?;
        let hierarchies = hierarchies(&mounts);
        if hierarchies.is_empty() {
            bail!("no control groups are mounted on this machine; containers need them");
        }
        let name = format!("stickler-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let folders: Vec<PathBuf> = hierarchies.iter().map(|tree| tree.path.join(&name)).collect();
        // Before the first group: whatever is made is removed.
        let keeper = Command::new("/proc/self/exe")
            .arg0(KEEPER)
            .args(&folders)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .current_dir("/")
            // Ctrl-C is not for it.
            .process_group(0)
            .spawn()
            .context("no process can be started to remove control groups later")?;
        let made = Self { hierarchies, name, keeper };
        for tree in &made.hierarchies {
            if tree.version == Version::Two {
                delegate(&tree.path)?;
            }
            tree.add(Path::new(&made.name))?;
            if tree.version == Version::Two {
                delegate(&tree.path.join(&made.name))?;
            }
        }
        Ok(made)
    }

    /// Makes the groups of a node.
    ///
    /// # Errors
    /// If the system does not allow it.
    pub(crate) fn of_node(&self, node: &str) -> anyhow::Result<NodeCgroups> {
        let mut places = Vec::new();
        for tree in &self.hierarchies {
            let group = Path::new(&self.name).join(node);
            tree.add(&group)?;
            let inside = match tree.version {
                Version::One(_) => group.clone(),
                Version::Two => group.join(LEAF),
            };
            if tree.version == Version::Two {
                tree.add(&inside)?;
            }
            places.push(Place {
                root: tree.path.join(group),
                inside: tree.path.join(inside),
                mount: tree.mount(),
            });
        }
        Ok(NodeCgroups(places.into()))
    }
}

impl Drop for Cgroups {
    /// Waits until the groups are gone. Their processes are to have ended before.
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        // There is nobody to be told.
        let _ = self.keeper.wait();
    }
}

impl Hierarchy {
    /// Adds a group; its parent is there.
    fn add(&self, group: &Path) -> anyhow::Result<()> {
        let folder = self.path.join(group);
        let cannot = || {
            format!("cannot make the control group `{}`; `--cluster binaries` needs root", folder.display())
        };
        fs::create_dir(&folder).with_context(cannot)?;
        // Nothing may be in a group of version 1 that has no processors and no memory.
        for file in ["cpuset.cpus", "cpuset.mems"] {
            let parent = folder.parent().unwrap_or(&folder).join(file);
            if matches!(self.version, Version::One(_)) && parent.exists() {
                fs::read(parent).and_then(|set| fs::write(folder.join(file), set)).with_context(cannot)?;
            }
        }
        Ok(())
    }

    fn mount(&self) -> CgroupMount {
        match &self.version {
            Version::Two => CgroupMount {
                kind: "cgroup2".to_owned(),
                path: MOUNTED.into(),
                options: String::new(),
                links: Vec::new(),
            },
            Version::One(controllers) => {
                let name = self.path.file_name().unwrap_or_default();
                let named = controllers.iter().any(|controller| controller.starts_with("name="));
                // A tree with a name has no controllers, and says so.
                let none = if named { "none," } else { "" };
                let links = controllers
                    .iter()
                    .filter(|controller| controllers.len() > 1 && OsStr::new(controller.as_str()) != name);
                CgroupMount {
                    kind: "cgroup".to_owned(),
                    path: Path::new(MOUNTED).join(name),
                    options: format!("{none}{}", controllers.join(",")),
                    links: links.cloned().collect(),
                }
            }
        }
    }
}

/// The control groups of one node.
#[derive(Clone, Debug)]
pub struct NodeCgroups(Arc<[Place]>);

#[derive(Debug)]
struct Place {
    /// What the node sees as the root.
    root: PathBuf,
    /// Where its processes start.
    inside: PathBuf,
    mount: CgroupMount,
}

impl NodeCgroups {
    /// How the node sees them.
    pub(crate) fn mounts(&self) -> Vec<CgroupMount> {
        self.0.iter().map(|place| place.mount.clone()).collect()
    }

    /// What moves a process into them.
    pub(crate) fn files(&self) -> io::Result<CgroupFiles> {
        let open = |folder: &Path| -> io::Result<OwnedFd> {
            Ok(OpenOptions::new().write(true).open(folder.join("cgroup.procs"))?.into())
        };
        Ok(CgroupFiles {
            root: self.0.iter().map(|place| open(&place.root)).collect::<io::Result<_>>()?,
            inside: self.0.iter().map(|place| open(&place.inside)).collect::<io::Result<_>>()?,
        })
    }
}

/// Lets groups below this one have every controller that it has.
fn delegate(group: &Path) -> anyhow::Result<()> {
    let read = || fs::read_to_string(group.join("cgroup.controllers"));
    let delegated = read().and_then(|controllers| {
        let wanted: Vec<String> = controllers.split_whitespace().map(|name| format!("+{name}")).collect();
        fs::write(group.join("cgroup.subtree_control"), wanted.join(" "))
    });
    delegated.with_context(|| {
        format!(
            "the controllers of `{}` cannot be used below it; in a container, its processes must be in a \
             group of their own first",
            group.display()
        )
    })
}

/// The trees that are mounted. Where there are both versions, the first has the controllers.
fn hierarchies(mountinfo: &str) -> Vec<Hierarchy> {
    let (mut first, mut second) = (BTreeMap::new(), None);
    for line in mountinfo.lines() {
        let Some((place, kind)) = line.split_once(" - ") else { continue };
        let Some(path) = place.split(' ').nth(4) else { continue };
        if !path.starts_with(MOUNTED) {
            continue;
        }
        let mut kind = kind.split(' ');
        match (kind.next(), kind.nth(1)) {
            (Some("cgroup"), Some(options)) => {
                let controllers = options.split(',').filter(|option| !NO_CONTROLLERS.contains(option));
                first.insert(PathBuf::from(path), controllers.map(str::to_owned).collect::<Vec<_>>());
            }
            (Some("cgroup2"), _) => second = Some(PathBuf::from(path)),
            _ => {}
        }
    }
    match second {
        Some(path) if first.is_empty() => vec![Hierarchy { path, version: Version::Two }],
        _ => first
            .into_iter()
            .map(|(path, controllers)| Hierarchy { path, version: Version::One(controllers) })
            .collect(),
    }
}

/// Options of a mount of version 1 that say something else.
const NO_CONTROLLERS: &[&str] = &["rw", "ro", "xattr", "clone_children", "noprefix", "none"];

/// To be called first in every `main` whose program makes control groups. Returns at once in an ordinary
/// start.
pub(crate) fn keeper_main() -> Option<ExitCode> {
    let mut arguments = std::env::args_os();
    if arguments.next()?.as_bytes() != KEEPER.as_bytes() {
        return None;
    }
    // It ends when the other end is closed, by whoever.
    let _ = io::stdin().read_to_end(&mut Vec::new());
    let folders: Vec<PathBuf> = arguments.map(PathBuf::from).collect();
    let deadline = Instant::now() + BUSY;
    // Each of them is tried each time.
    while folders.iter().filter(|folder| !remove(folder)).count() > 0 {
        if Instant::now() > deadline {
            return Some(ExitCode::FAILURE);
        }
        pause();
    }
    Some(ExitCode::SUCCESS)
}

#[expect(clippy::disallowed_methods, reason = "the kernel does not tell when a group can be removed")]
fn pause() {
    std::thread::sleep(AGAIN);
}

/// Removes a group and those below it; true if it is gone.
fn remove(group: &Path) -> bool {
    if let Ok(below) = fs::read_dir(group) {
        for entry in below.flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                remove(&entry.path());
            }
        }
    }
    match fs::remove_dir(group) {
        Ok(()) => true,
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trees_of_version_1_are_seen_by_their_controllers() {
        let mounts = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
42 23 0:39 / /mnt/cgroup rw,relatime - cgroup cgroup rw,pids
";
        let trees: Vec<CgroupMount> = hierarchies(mounts).iter().map(Hierarchy::mount).collect();
        let told = |mount: &CgroupMount| {
            format!("{} {} {} {:?}", mount.kind, mount.path.display(), mount.options, mount.links)
        };
        assert_eq!(
            trees.iter().map(told).collect::<Vec<_>>(),
            [
                "cgroup /sys/fs/cgroup/cpu,cpuacct cpu,cpuacct [\"cpu\", \"cpuacct\"]",
                "cgroup /sys/fs/cgroup/memory memory []",
                "cgroup /sys/fs/cgroup/systemd none,name=systemd []",
            ]
        );
    }

    #[test]
    fn the_one_tree_of_version_2_is_mounted_where_it_is() {
        let mounts = "\
25 30 0:23 / /sys rw,nosuid - sysfs sysfs rw
28 25 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot
";
        let trees = hierarchies(mounts);
        assert_eq!(trees, [Hierarchy { path: MOUNTED.into(), version: Version::Two }]);
        assert_eq!(
            (trees[0].mount().kind.as_str(), trees[0].mount().path.as_path()),
            ("cgroup2", Path::new(MOUNTED))
        );
        assert!(hierarchies("1 2 0:1 / / rw - ext4 /dev/vda rw\n").is_empty());
    }
}
