//! The inside of starting a container: the running executable, executed again as the first process
//! of new pid and mount namespaces, builds the container's root and becomes its command.
//!
//! It needs no real root: everything works as uid 0 of a user namespace with a single mapping. So
//! devices are bound, not made, and files are written or bound, never overlaid.

use std::convert::Infallible;
use std::ffi::{CStr, CString, OsString, c_int, c_ulong};
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _, symlink};
use std::path::{Component, Path, PathBuf};
use std::process::ExitCode;

use serde::{Deserialize, Serialize};

/// `argv[0]` of the executable when it is to do this.
pub(crate) const NAME: &CStr = c"stickler-pod-init";

/// The descriptors after standard error: where the plan is read from, and where a failure goes.
const PLAN: RawFd = 3;
const FAILURE: RawFd = 4;

/// Where the executable is found inside a container.
const PROGRAM: &str = "/usr/local/bin/stickler-pods";

/// What the container is to be.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Plan {
    /// The command with its arguments.
    pub(crate) command: Vec<String>,
    pub(crate) environment: Vec<(String, String)>,
    pub(crate) directory: String,
    /// Names the executable answers to; each becomes a symbolic link.
    pub(crate) applets: Vec<String>,
    /// Files to be seen at the same path inside.
    pub(crate) libraries: Vec<PathBuf>,
    /// Small files to write: path and contents.
    pub(crate) files: Vec<(String, String)>,
    pub(crate) mounts: Vec<Mount>,
}

/// A folder or file that a container shares with others.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Mount {
    /// Where it is before the container has its own root.
    pub source: PathBuf,
    /// Where it is seen inside.
    pub target: PathBuf,
    pub read_only: bool,
}

/// Why a container did not start.
#[derive(Clone, Debug, thiserror::Error, Serialize, Deserialize)]
#[error("{message}")]
pub struct StartFailure {
    /// What was tried and what the system said.
    pub message: String,
}

impl StartFailure {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into() }
    }
}

/// To be called first in every `main` whose program starts pods. Returns at once in an ordinary
/// start; in the first process of a container it returns only if that could not be started.
pub fn init_main() -> Option<ExitCode> {
    if std::env::args_os().next()?.as_bytes() != NAME.to_bytes() {
        return None;
    }
    let Err(failure) = start();
    // The kubelet reads this; if it has gone, so will we.
    let _ = serde_json::to_vec(&failure).map(|text| descriptor(FAILURE).write_all(&text));
    Some(ExitCode::from(128))
}

fn start() -> Result<Infallible, StartFailure> {
    let mut plan = Vec::new();
    // The descriptors must not reach the command.
    close_on_exec(FAILURE);
    descriptor(PLAN).read_to_end(&mut plan).map_err(|error| failed("read the plan", &error))?;
    // An incomplete plan means that the kubelet died meanwhile.
    let plan: Plan = serde_json::from_slice(&plan)
        .map_err(|error| StartFailure::new(format!("cannot understand the plan: {error}")))?;
    session();
    build_root(&plan)?;
    execute(&plan)
}

fn build_root(plan: &Plan) -> Result<(), StartFailure> {
    // Opened before anything is covered: the new root may hide the place they are in.
    let executable = Source::open(&running_executable()?)?;
    let libraries = plan
        .libraries
        .iter()
        .map(|path| Ok((path, Source::open(path)?)))
        .collect::<Result<Vec<_>, StartFailure>>()?;
    let volumes = plan
        .mounts
        .iter()
        .map(|mount| Ok((mount, Source::open(&mount.source)?)))
        .collect::<Result<Vec<_>, StartFailure>>()?;
    mount("make mounts private", None, c"/", None, libc::MS_REC | libc::MS_PRIVATE, None)?;
    let stage = ["/tmp", "/mnt", "/run", "/var"]
        .into_iter()
        .find(|path| Path::new(path).is_dir())
        .ok_or_else(|| StartFailure::new("there is none of /tmp, /mnt, /run and /var to mount a root on"))?;
    let target = c_path(Path::new(stage))?;
    let options = c"mode=0755,size=512m";
    let tmpfs = Some(c"tmpfs");
    mount("mount the root", tmpfs, &target, tmpfs, libc::MS_NOSUID, Some(options))?;
    let root = Root(PathBuf::from(stage));

    for folder in ["bin", "dev", "dev/pts", "dev/shm", "etc", "proc", "root", "run", "sbin", "tmp"] {
        root.folder(folder)?;
    }
    for folder in ["usr/bin", "usr/sbin", "usr/local/bin", "usr/local/sbin", "var/log", "var/tmp"] {
        root.folder(folder)?;
    }
    for folder in ["tmp", "var/tmp", "dev/shm"] {
        let all = Permissions::from_mode(0o1777);
        fs::set_permissions(root.path(folder), all).map_err(|error| failed("open /tmp to all", &error))?;
    }
    // Relative, for before the root is entered `/run` is the host's.
    root.link("../run", "var/run")?;

    root.bind_program(&executable)?;
    for (path, library) in &libraries {
        root.bind_read_only(library, path)?;
    }
    for applet in plan.applets.iter().filter(|name| !name.is_empty() && !name.contains('/')) {
        root.link(PROGRAM, &format!("{}/{applet}", folder_of(applet)))?;
    }
    for (path, contents) in &plan.files {
        root.file(path, contents)?;
    }
    root.devices()?;
    root.proc()?;
    for (mount, source) in &volumes {
        root.volume(mount, source)?;
    }
    root.enter()
}

/// Where a command of this name is found on most systems.
fn folder_of(applet: &str) -> &'static str {
    match applet {
        "goweb" | "agent" => "usr/local/bin",
        "curl" | "env" => "usr/bin",
        _ => "bin",
    }
}

/// A file of the host, held open.
struct Source(File);

impl Source {
    fn open(path: &Path) -> Result<Self, StartFailure> {
        let open = OpenOptions::new().read(true).custom_flags(libc::O_PATH | libc::O_CLOEXEC).open(path);
        open.map(Self).map_err(|error| failed(&format!("open {}", path.display()), &error))
    }

    fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.0.as_raw_fd()).into()
    }
}

/// The folder that is to become `/`.
struct Root(PathBuf);

impl Root {
    fn path(&self, inside: impl AsRef<Path>) -> PathBuf {
        let inside = inside.as_ref();
        self.0.join(inside.strip_prefix("/").unwrap_or(inside))
    }

    fn folder(&self, path: impl AsRef<Path>) -> Result<(), StartFailure> {
        let path = self.path(path);
        fs::create_dir_all(&path).map_err(|error| failed(&format!("make {}", path.display()), &error))
    }

    fn link(&self, to: &str, at: &str) -> Result<(), StartFailure> {
        symlink(to, self.path(at)).map_err(|error| failed(&format!("link /{at} to {to}"), &error))
    }

    fn file(&self, path: &str, contents: &str) -> Result<(), StartFailure> {
        if let Some(folder) = Path::new(path).parent() {
            self.folder(folder)?;
        }
        fs::write(self.path(path), contents).map_err(|error| failed(&format!("write {path}"), &error))
    }

    fn bind(&self, source: &Path, inside: &Path) -> Result<PathBuf, StartFailure> {
        if let Some(folder) = inside.parent() {
            self.folder(folder)?;
        }
        let target = self.path(inside);
        let what = format!("bind {}", inside.display());
        File::create(&target).map_err(|error| failed(&what, &error))?;
        let (from, to) = (c_path(source)?, c_path(&target)?);
        mount(&what, Some(&from), &to, None, libc::MS_BIND, None)?;
        Ok(target)
    }

    fn bind_read_only(&self, source: &Source, inside: &Path) -> Result<(), StartFailure> {
        let target = self.bind(&source.path(), inside)?;
        read_only(&target).map_err(|error| failed(&format!("make {} read-only", inside.display()), &error))
    }

    /// Links in volumes were perhaps made by a container, and would lead out of the root.
    fn volume(&self, mount: &Mount, source: &Source) -> Result<(), StartFailure> {
        let inside = match mount.target.strip_prefix("/var/run") {
            Ok(rest) => Path::new("/run").join(rest),
            Err(_) => mount.target.clone(),
        };
        let what = format!("mount a volume at {}", mount.target.display());
        let refused = |why: &str| StartFailure::new(format!("cannot {what}: {why}"));
        let io_failed = |error: &io::Error| failed(&what, error);
        let folder = source.0.metadata().map_err(|error| io_failed(&error))?.is_dir();
        let mut target = self.0.clone();
        let components: Vec<_> = inside.components().filter(|part| *part != Component::RootDir).collect();
        for (index, component) in components.iter().enumerate() {
            let Component::Normal(name) = component else { return Err(refused("the path has `..` in it")) };
            target.push(name);
            let made = match fs::symlink_metadata(&target) {
                Ok(found) if found.is_symlink() => return Err(refused("the path leads through a link")),
                Ok(_) => Ok(()),
                Err(_) if folder || index + 1 < components.len() => fs::create_dir(&target),
                Err(_) => File::create(&target).map(drop),
            };
            made.map_err(|error| io_failed(&error))?;
        }
        let (from, to) = (c_path(&source.path())?, c_path(&target)?);
        self::mount(&what, Some(&from), &to, None, libc::MS_BIND, None)?;
        if mount.read_only {
            read_only(&target).map_err(|error| io_failed(&error))?;
        }
        Ok(())
    }

    /// The executable is bound; if it was replaced since we started, a copy of the running one is
    /// made, for the new one may not fit.
    fn bind_program(&self, executable: &Source) -> Result<(), StartFailure> {
        let program = Path::new(PROGRAM);
        let running = fs::metadata("/proc/self/exe").map_err(|error| failed("look at myself", &error))?;
        let found = executable.0.metadata().map_err(|error| failed("look at my file", &error))?;
        use std::os::unix::fs::MetadataExt as _;
        if (running.dev(), running.ino()) == (found.dev(), found.ino()) {
            return self.bind_read_only(executable, program);
        }
        let copy = self.path(program);
        fs::copy("/proc/self/exe", &copy)
            .and_then(|_| fs::set_permissions(&copy, Permissions::from_mode(0o755)))
            .map_err(|error| failed("copy the running executable", &error))
    }

    fn devices(&self) -> Result<(), StartFailure> {
        for device in ["null", "zero", "full", "random", "urandom", "tty"] {
            let path = Path::new("/dev").join(device);
            if path.exists() {
                self.bind(&path, &path)?;
            }
        }
        for (to, at) in [
            ("/proc/self/fd", "dev/fd"),
            ("/proc/self/fd/0", "dev/stdin"),
            ("/proc/self/fd/1", "dev/stdout"),
            ("/proc/self/fd/2", "dev/stderr"),
        ] {
            self.link(to, at)?;
        }
        // Some containers refuse devpts; a terminal then comes from the host's.
        let pts = c_path(&self.path("dev/pts"))?;
        let options = Some(c"newinstance,ptmxmode=0666,mode=0620");
        let flags = libc::MS_NOSUID | libc::MS_NOEXEC;
        if mount("mount /dev/pts", Some(c"devpts"), &pts, Some(c"devpts"), flags, options).is_ok() {
            self.link("pts/ptmx", "dev/ptmx")?;
        }
        Ok(())
    }

    fn proc(&self) -> Result<(), StartFailure> {
        let target = c_path(&self.path("proc"))?;
        let flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
        let proc = Some(c"proc");
        mount("mount /proc", proc, &target, proc, flags, None).or_else(|refused| {
            // In a container whose own /proc is masked the kernel allows no new one. The old one works
            // too, except that it shows more processes.
            let bind = libc::MS_BIND | libc::MS_REC;
            mount("bind /proc", Some(c"/proc"), &target, None, bind, None).map_err(|_| refused)
        })
    }

    /// Makes the folder `/`, and everything outside of it unreachable.
    #[expect(unsafe_code, reason = "pivot_root has no wrapper")]
    fn enter(&self) -> Result<(), StartFailure> {
        let change = |path: &str| std::env::set_current_dir(path);
        std::env::set_current_dir(&self.0).map_err(|error| failed("enter the root", &error))?;
        // With both arguments the same folder the old root ends up on top of the new one, so no place
        // for it inside is needed.
        // SAFETY: both pointers are C strings.
        let pivoted = unsafe { libc::syscall(libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr()) };
        check(pivoted as c_int).map_err(|error| failed("pivot_root", &error))?;
        // SAFETY: the pointer is a C string.
        let unmounted = unsafe { libc::umount2(c".".as_ptr(), libc::MNT_DETACH) };
        check(unmounted).map_err(|error| failed("detach the old root", &error))?;
        change("/").map_err(|error| failed("enter /", &error))
    }
}

/// Becomes the command, found as a container runtime finds it; its messages are known to users.
#[expect(unsafe_code, reason = "execve has no wrapper that keeps the process")]
fn execute(plan: &Plan) -> Result<Infallible, StartFailure> {
    fs::create_dir_all(&plan.directory)
        .and_then(|()| std::env::set_current_dir(&plan.directory))
        .map_err(|error| failed(&format!("enter the working directory `{}`", plan.directory), &error))?;
    let name = plan.command.first().map_or("", String::as_str);
    let path = plan.environment.iter().rev().find(|(key, _)| key == "PATH").map_or("", |(_, path)| path);
    let program = candidates(name, path)
        .into_iter()
        .find(|path| {
            fs::metadata(path).is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
        })
        .ok_or_else(|| StartFailure::new(not_found(name)))?;
    let c_string =
        |text: &str| CString::new(text).map_err(|_| StartFailure::new(format!("`{text:?}` has a zero byte")));
    let arguments = plan.command.iter().map(|text| c_string(text)).collect::<Result<Vec<_>, _>>()?;
    let environment = plan
        .environment
        .iter()
        .map(|(key, value)| c_string(&format!("{key}={value}")))
        .collect::<Result<Vec<_>, _>>()?;
    let program = c_path(&program)?;
    let list = |strings: &[CString]| -> Vec<_> {
        strings.iter().map(|string| string.as_ptr()).chain([std::ptr::null()]).collect()
    };
    let (arguments, environment) = (list(&arguments), list(&environment));
    // The standard library ignores SIGPIPE, and ignoring would be inherited.
    // SAFETY: the default action is set; the lists end with null and their strings are alive.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        libc::execve(program.as_ptr(), arguments.as_ptr(), environment.as_ptr());
    }
    let error = io::Error::last_os_error();
    Err(StartFailure::new(format!("exec: \"{name}\": {}", lower(&error))))
}

/// The paths a command name may mean.
pub(crate) fn candidates(name: &str, path: &str) -> Vec<PathBuf> {
    match name {
        "" => Vec::new(),
        name if name.contains('/') => vec![name.into()],
        name => {
            path.split(':').filter(|folder| !folder.is_empty()).map(|f| Path::new(f).join(name)).collect()
        }
    }
}

/// What a container runtime says about a command that is not there.
pub(crate) fn not_found(name: &str) -> String {
    match name {
        "" => "no command specified".to_owned(),
        _ if name.contains('/') => format!("exec: \"{name}\": stat {name}: no such file or directory"),
        _ => format!("exec: \"{name}\": executable file not found in $PATH"),
    }
}

fn running_executable() -> Result<PathBuf, StartFailure> {
    let link = fs::read_link("/proc/self/exe").map_err(|error| failed("find my own executable", &error))?;
    // The kernel says so when the file was replaced, as a build does.
    let mut name = link.into_os_string().into_vec();
    if name.ends_with(b" (deleted)") && !Path::new(std::ffi::OsStr::from_bytes(&name)).exists() {
        name.truncate(name.len() - b" (deleted)".len());
    }
    let path = PathBuf::from(OsString::from_vec(name));
    // Without any file there, the copy is made from what runs.
    Ok(if path.exists() { path } else { "/dev/null".into() })
}

#[expect(unsafe_code, reason = "mount has no wrapper")]
pub(crate) fn mount(
    what: &str,
    source: Option<&CStr>,
    target: &CStr,
    kind: Option<&CStr>,
    flags: c_ulong,
    options: Option<&CStr>,
) -> Result<(), StartFailure> {
    let pointer = |text: Option<&CStr>| text.map_or(std::ptr::null(), CStr::as_ptr);
    // SAFETY: every pointer is null or a C string.
    let mounted = unsafe {
        libc::mount(pointer(source), target.as_ptr(), pointer(kind), flags, pointer(options).cast())
    };
    check(mounted).map_err(|error| failed(what, &error))
}

fn read_only(target: &Path) -> io::Result<()> {
    set_read_only(target, 0)
}

/// The mount, and every mount below it.
pub(crate) fn read_only_below(target: &Path) -> io::Result<()> {
    set_read_only(target, libc::AT_RECURSIVE)
}

/// `mount_setattr` changes nothing else: a remount would have to repeat flags that a user namespace
/// may not drop.
#[expect(unsafe_code, reason = "mount_setattr has no wrapper")]
fn set_read_only(target: &Path, flags: c_int) -> io::Result<()> {
    let path = CString::new(target.as_os_str().as_bytes())?;
    // SAFETY: mount_attr is plain data.
    let mut attributes: libc::mount_attr = unsafe { std::mem::zeroed() };
    attributes.attr_set = libc::MOUNT_ATTR_RDONLY;
    let size = size_of::<libc::mount_attr>();
    // SAFETY: the path is a C string, the attributes outlive the call and their size is given.
    let set = unsafe {
        let number = libc::SYS_mount_setattr;
        libc::syscall(number, libc::AT_FDCWD, path.as_ptr(), flags, &raw const attributes, size)
    };
    check(set as c_int)
}

/// A session of its own, as runtimes give each container.
#[expect(unsafe_code, reason = "setsid has no wrapper")]
pub(crate) fn session() {
    // SAFETY: no memory is involved; it fails only for a process group leader, which is as good.
    unsafe { libc::setsid() };
}

#[expect(unsafe_code, reason = "the kubelet passes descriptors by number")]
pub(crate) fn descriptor(number: RawFd) -> File {
    // SAFETY: the kubelet has opened it for us, and each is taken once.
    unsafe { OwnedFd::from_raw_fd(number) }.into()
}

#[expect(unsafe_code, reason = "F_SETFD has no wrapper")]
pub(crate) fn close_on_exec(number: RawFd) {
    // SAFETY: no memory is involved.
    unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) };
}

pub(crate) fn check(result: c_int) -> io::Result<()> {
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

pub(crate) fn c_path(path: &Path) -> Result<CString, StartFailure> {
    CString::new(path.as_os_str().as_bytes())
        .map_err(|_| StartFailure::new(format!("the path {path:?} has a zero byte")))
}

pub(crate) fn failed(what: &str, error: &io::Error) -> StartFailure {
    StartFailure::new(format!("cannot {what}: {}", lower(error)))
}

/// The system's message as a C program would print it, without the number.
fn lower(error: &io::Error) -> String {
    let text = error.to_string().to_lowercase();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_looked_up_in_path_and_a_path_is_not() {
        let paths = |name, path| {
            let found = candidates(name, path);
            found.iter().map(|path| path.display().to_string()).collect::<Vec<_>>()
        };
        assert_eq!(paths("sh", "/usr/bin::/bin"), ["/usr/bin/sh", "/bin/sh"]);
        assert_eq!(paths("./sh", "/bin"), ["./sh"]);
        assert!(paths("", "/bin").is_empty());
    }

    #[test]
    fn the_messages_are_those_users_search_for() {
        assert_eq!(not_found("foo"), "exec: \"foo\": executable file not found in $PATH");
        assert_eq!(not_found("/foo"), "exec: \"/foo\": stat /foo: no such file or directory");
    }
}
