//! The inside of an enclosure: the running executable, executed again as the first process of new pid
//! and mount namespaces, prepares them, and then only reaps.
//!
//! Like the first process of a container it needs no real root.

use std::convert::Infallible;
use std::ffi::{CStr, CString, c_int};
use std::fs::{self, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde::{Deserialize, Serialize};

use super::DIRECTORY;
use crate::cgroup::CgroupMount;
use crate::kubelet::StartFailure;
use crate::kubelet::init::{
    c_path, check, close_on_exec, descriptor, failed, mount, read_only_below, session,
};

/// `argv[0]` of the executable when it is to do this.
pub(super) const NAME: &CStr = c"stickler-enclosure-init";

/// The descriptors after standard error: where the plan is read from, and where a failure goes.
const PLAN: c_int = 3;
const FAILURE: c_int = 4;

/// What the enclosure is to be.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Plan {
    pub(super) hostname: String,
    /// Where the files of pods' volumes are mounted, which are nobody's business here.
    pub(super) store: PathBuf,
    pub(super) private: Vec<PathBuf>,
    pub(super) files: Vec<(PathBuf, String)>,
    pub(super) hosts: String,
    pub(super) resolver: String,
    /// What control groups are to be seen where; none if it has no groups of its own.
    pub(super) cgroups: Option<Vec<CgroupMount>>,
}

/// To be called first in every `main` whose program starts enclosures. Returns at once in an ordinary
/// start; in the first process of an enclosure it returns only if that could not be prepared.
pub fn inside_main() -> Option<ExitCode> {
    if std::env::args_os().next()?.as_bytes() != NAME.to_bytes() {
        return None;
    }
    let Err(failure) = start();
    // Whoever reads this may have gone; then so will we.
    let _ = serde_json::to_vec(&failure).map(|text| descriptor(FAILURE).write_all(&text));
    Some(ExitCode::from(128))
}

fn start() -> Result<Infallible, StartFailure> {
    let mut plan = Vec::new();
    close_on_exec(FAILURE);
    descriptor(PLAN).read_to_end(&mut plan).map_err(|error| failed("read the plan", &error))?;
    let plan: Plan = serde_json::from_slice(&plan)
        .map_err(|error| StartFailure::new(format!("cannot understand the plan: {error}")))?;
    session();
    take_name(&plan.hostname)?;
    arrange(&plan)?;
    // Its end says that all is there.
    drop(descriptor(FAILURE));
    reap()
}

/// A machine of its own name, whose shared memory nobody else sees.
#[expect(unsafe_code, reason = "unshare and sethostname have no wrappers")]
fn take_name(hostname: &str) -> Result<(), StartFailure> {
    let name = hostname.as_bytes();
    // SAFETY: the name outlives the call and its length is given.
    let named = unsafe {
        check(libc::unshare(libc::CLONE_NEWUTS | libc::CLONE_NEWIPC))
            .and_then(|()| check(libc::sethostname(name.as_ptr().cast(), name.len())))
    };
    named.map_err(|error| failed(&format!("be a machine called `{hostname}`"), &error))
}

fn arrange(plan: &Plan) -> Result<(), StartFailure> {
    mount("make mounts private", None, c"/", None, libc::MS_REC | libc::MS_PRIVATE, None)?;
    uncover(&plan.store)?;
    read_only_below(Path::new("/")).map_err(|error| failed("make everything read-only", &error))?;
    let run = PathBuf::from("/run");
    for folder in std::iter::once(&run).chain(&plan.private) {
        let what = format!("make `{}` private", folder.display());
        let options = c"mode=0755";
        let tmpfs = Some(c"tmpfs");
        mount(&what, tmpfs, &c_path(folder)?, tmpfs, libc::MS_NOSUID | libc::MS_NODEV, Some(options))?;
    }
    let flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
    mount("mount /proc", Some(c"proc"), c"/proc", Some(c"proc"), flags, None)?;
    let temporary = Path::new(DIRECTORY).join("tmp");
    fs::create_dir_all(&temporary).map_err(|error| failed("make the directory", &error))?;
    for (path, contents) in &plan.files {
        write(path, contents, 0o600)?;
    }
    replace(Path::new("/etc/hosts"), &plan.hosts)?;
    replace(Path::new("/etc/resolv.conf"), &plan.resolver)?;
    match &plan.cgroups {
        Some(mounts) => become_node(mounts),
        None => Ok(()),
    }
}

/// What a kubelet sets for the whole machine
/// ([Node Allocatable, "kernel defaults"](https://kubernetes.io/docs/reference/command-line-tools-reference/kubelet/),
/// `--protect-kernel-defaults`), below `/proc/sys`. There is one machine and several kubelets.
const TUNED: &[&str] = &[
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
];

/// Prepares to run containers: control groups as on a machine of its own, and files of its own in the
/// place of what is the whole machine's.
fn become_node(mounts: &[CgroupMount]) -> Result<(), StartFailure> {
    let flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
    // The old one shows the devices of another network.
    mount("mount /sys", Some(c"sysfs"), c"/sys", Some(c"sysfs"), flags, None)?;
    if mounts.iter().all(|mount| mount.kind == "cgroup") {
        let tmpfs = Some(c"tmpfs");
        mount("mount /sys/fs/cgroup", tmpfs, c"/sys/fs/cgroup", tmpfs, flags, Some(c"mode=0755"))?;
    }
    for CgroupMount { kind, path, options, links } in mounts {
        let what = format!("mount {}", path.display());
        fs::create_dir_all(path).map_err(|error| failed(&what, &error))?;
        let (kind, options) = (c_path(Path::new(kind))?, c_path(Path::new(options))?);
        let options = (!options.is_empty()).then_some(options.as_c_str());
        mount(&what, Some(&kind), &c_path(path)?, Some(&kind), flags, options)?;
        for link in links {
            let link = path.with_file_name(link);
            std::os::unix::fs::symlink(path.file_name().unwrap_or_default(), &link)
                .map_err(|error| failed(&format!("link {}", link.display()), &error))?;
        }
    }
    for name in TUNED {
        let path = Path::new("/proc/sys").join(name);
        // Not every kernel has all of them.
        let Ok(value) = fs::read_to_string(&path) else { continue };
        let ours = Path::new(DIRECTORY).join("sys").join(name);
        write(&ours, &value, 0o644)?;
        let what = format!("cover {}", path.display());
        mount(&what, Some(&c_path(&ours)?), &c_path(&path)?, None, libc::MS_BIND, None)?;
    }
    // Volumes are mounted by one program and used by others.
    mount("share mounts", None, c"/", None, libc::MS_REC | libc::MS_SHARED, None)
}

/// Takes away what covers a folder of the machine in the namespace this one was copied from.
#[expect(unsafe_code, reason = "umount2 has no wrapper")]
fn uncover(store: &Path) -> Result<(), StartFailure> {
    let path = c_path(store)?;
    // SAFETY: the pointer is a C string.
    let uncovered = unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH) };
    check(uncovered).map_err(|error| failed(&format!("unmount {}", store.display()), &error))
}

fn write(path: &Path, contents: &str, mode: u32) -> Result<(), StartFailure> {
    let written = (|| {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(mode).open(path)?.write_all(contents.as_bytes())
    })();
    written.map_err(|error| failed(&format!("write `{}`", path.display()), &error))
}

/// Puts other contents in the place of a file of this machine. Where there is no such file none is
/// made, for its folder can only be read; then resolvers do as their documentation says.
fn replace(path: &Path, contents: &str) -> Result<(), StartFailure> {
    let what = format!("replace `{}`", path.display());
    let Ok(found) = fs::symlink_metadata(path) else { return Ok(()) };
    let name = path.file_name().unwrap_or_default();
    let ours = Path::new(DIRECTORY).join("etc").join(name);
    write(&ours, contents, 0o644)?;
    // A link into /run, as systemd's resolver makes one, leads nowhere now.
    if found.is_symlink() && !path.exists() {
        let target = fs::read_link(path).map_err(|error| failed(&what, &error))?;
        write(&path.parent().unwrap_or_else(|| Path::new("/")).join(target), "", 0o644)?;
    }
    let (from, to): (CString, CString) = (c_path(&ours)?, c_path(path)?);
    mount(&what, Some(&from), &to, None, libc::MS_BIND, None)
}

/// Waits for the end of every process that lost its parent, for ever.
#[expect(unsafe_code, reason = "signals and waiting have no wrappers in std")]
fn reap() -> Result<Infallible, StartFailure> {
    // SAFETY: the set is initialised before its use, no status and no details are asked for.
    unsafe {
        let mut children: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut children);
        libc::sigaddset(&mut children, libc::SIGCHLD);
        // Blocked, so that one that comes between the two calls below is not lost.
        libc::sigprocmask(libc::SIG_BLOCK, &children, std::ptr::null_mut());
        loop {
            while libc::waitpid(-1, std::ptr::null_mut(), libc::WNOHANG) > 0 {}
            if libc::sigwaitinfo(&children, std::ptr::null_mut()) == -1 {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(failed("wait for processes", &error));
                }
            }
        }
    }
}
