//! The inside of an enclosure: the running executable, executed again as the first process of new pid
//! and mount namespaces, prepares them, and then only reaps.
//!
//! Like the first process of a container it needs no real root.

use std::convert::Infallible;
use std::ffi::{CStr, CString, c_int};
use std::fs::{self, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde::{Deserialize, Serialize};

use super::{DIRECTORY, User};
use crate::cgroup::CgroupMount;
use crate::kubelet::StartFailure;
use crate::kubelet::init::{
    c_path, check, close_on_exec, descriptor, failed, mount, read_only_below, session,
};

/// `argv[0]` of the executable when it is to do this.
pub(super) const NAME: &CStr = c"stickler-enclosure-init";

/// On this signal every process of the enclosure but the first is killed.
pub(super) const END_ALL: c_int = libc::SIGTERM;

/// The descriptors after standard error: where the plan is read from, and where a failure goes.
const PLAN: c_int = 3;
const FAILURE: c_int = 4;

/// What the enclosure is to be.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Plan {
    pub(super) hostname: String,
    /// The folder that is to be `/`, if this machine's is not.
    pub(super) root: Option<PathBuf>,
    /// Whose the files are, if not root's.
    pub(super) user: Option<User>,
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
    match &plan.root {
        Some(root) => enter_image(root)?,
        None => {
            uncover(&plan.store)?;
            read_only_below(Path::new("/")).map_err(|error| failed("make everything read-only", &error))?;
        }
    }
    let run = PathBuf::from("/run");
    for folder in std::iter::once(&run).chain(&plan.private) {
        let what = format!("make `{}` private", folder.display());
        if plan.root.is_some() {
            fs::create_dir_all(folder).map_err(|error| failed(&what, &error))?;
        }
        let options = c"mode=0755";
        let tmpfs = Some(c"tmpfs");
        mount(&what, tmpfs, &c_path(folder)?, tmpfs, libc::MS_NOSUID | libc::MS_NODEV, Some(options))?;
    }
    if plan.root.is_none() {
        let flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
        mount("mount /proc", Some(c"proc"), c"/proc", Some(c"proc"), flags, None)?;
    }
    let temporary = Path::new(DIRECTORY).join("tmp");
    fs::create_dir_all(&temporary).map_err(|error| failed("make the directory", &error))?;
    for (path, contents) in &plan.files {
        write(path, contents, 0o600)?;
    }
    if let Some(user) = plan.user {
        give(Path::new(DIRECTORY), user)
            .map_err(|error| failed(&format!("give `{DIRECTORY}` to user {}", user.id), &error))?;
        // As container runtimes do: the ports of the network's first 1024 are anybody's.
        let ports = Path::new("/proc/sys/net/ipv4/ip_unprivileged_port_start");
        fs::write(ports, "0").map_err(|error| failed("let everybody have every port", &error))?;
    }
    replace(Path::new("/etc/hosts"), &plan.hosts)?;
    replace(Path::new("/etc/resolv.conf"), &plan.resolver)?;
    match &plan.cgroups {
        Some(mounts) => become_node(mounts),
        None => Ok(()),
    }
}

/// Makes an image's file system `/`, with this machine's devices and with a `/proc` to come. What is written
/// is in memory: the image is below it, and stays as it is.
#[expect(unsafe_code, reason = "pivot_root and umount2 have no wrappers")]
fn enter_image(image: &Path) -> Result<(), StartFailure> {
    let what = format!("make `{}` the root", image.display());
    let io_failed = |error: io::Error| failed(&what, &error);
    // By the working directory, as a path in the options of a mount would have to be without commas.
    std::env::set_current_dir(image).map_err(io_failed)?;
    let tmpfs = Some(c"tmpfs");
    mount("make room for what is written", tmpfs, c"/run", tmpfs, libc::MS_NOSUID, Some(c"mode=0755"))?;
    for folder in ["/run/written", "/run/work", "/run/root"] {
        fs::create_dir(folder).map_err(io_failed)?;
    }
    let overlay = Some(c"overlay");
    let options = Some(c"lowerdir=.,upperdir=/run/written,workdir=/run/work");
    mount(&what, overlay, c"/run/root", overlay, libc::MS_NODEV, options)?;
    std::env::set_current_dir("/run/root").map_err(io_failed)?;
    for folder in ["dev", "etc", "proc", "sys", "tmp"] {
        fs::create_dir_all(folder).map_err(io_failed)?;
    }
    for (from, to) in [(c"/dev", c"dev"), (c"/sys", c"sys")] {
        mount(&what, Some(from), to, None, libc::MS_BIND | libc::MS_REC, None)?;
    }
    read_only_below(Path::new("sys")).map_err(io_failed)?;
    fs::set_permissions("tmp", fs::Permissions::from_mode(0o1777)).map_err(io_failed)?;
    // Images often leave these to whoever runs them.
    for name in ["etc/hosts", "etc/resolv.conf"] {
        if !Path::new(name).exists() {
            // A link that leads nowhere, or nothing.
            let _ = fs::remove_file(name);
            fs::write(name, "").map_err(io_failed)?;
        }
    }
    let flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
    // Before the old one is gone: a user namespace may mount one only where it sees one.
    mount("mount /proc", Some(c"proc"), c"proc", Some(c"proc"), flags, None)?;
    // SAFETY: all pointers are C strings. With the same folder twice the old root ends on top of the new
    // one, from where it is taken away.
    let entered = unsafe {
        check(libc::syscall(libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr()) as c_int)
            .and_then(|()| check(libc::umount2(c".".as_ptr(), libc::MNT_DETACH)))
    };
    entered.and_then(|()| std::env::set_current_dir("/")).map_err(io_failed)
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

/// Makes a user the owner of a file, and of all in it if it is a folder.
fn give(path: &Path, user: User) -> io::Result<()> {
    chown(path, Some(user.id), Some(user.group))?;
    if path.is_dir() {
        for file in fs::read_dir(path)? {
            give(&file?.path(), user)?;
        }
    }
    Ok(())
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

/// Waits for the end of every process that lost its parent, for ever; kills all when it is asked to.
#[expect(unsafe_code, reason = "signals and waiting have no wrappers in std")]
fn reap() -> Result<Infallible, StartFailure> {
    // SAFETY: the set is initialised before its use, no status is asked for, and details go where they fit.
    unsafe {
        let mut expected: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut expected);
        libc::sigaddset(&mut expected, libc::SIGCHLD);
        libc::sigaddset(&mut expected, END_ALL);
        // Blocked, so that one that comes between the two calls below is not lost.
        libc::sigprocmask(libc::SIG_BLOCK, &expected, std::ptr::null_mut());
        loop {
            while libc::waitpid(-1, std::ptr::null_mut(), libc::WNOHANG) > 0 {}
            let mut sent: libc::siginfo_t = std::mem::zeroed();
            match libc::sigwaitinfo(&expected, &raw mut sent) {
                -1 => {
                    let error = io::Error::last_os_error();
                    if error.kind() != io::ErrorKind::Interrupted {
                        return Err(failed("wait for processes", &error));
                    }
                }
                // Everybody it sees, which is its own namespace but itself. Who asks for it is outside, and has
                // no number here.
                END_ALL if sent.si_pid() == 0 => drop(libc::kill(-1, libc::SIGKILL)),
                _ => {}
            }
        }
    }
}
