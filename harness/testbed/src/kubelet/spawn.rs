//! Starting, signalling and reaping processes in namespaces, safely beside a threaded program.
//!
//! A child made with `clone(CLONE_VM | CLONE_VFORK)` borrows our memory until it executes a program,
//! so it costs the same however large we are, and may do nothing but system calls meanwhile.
//! Every child asks for SIGKILL when its parent dies. The kernel means the parent *thread* by that,
//! hence one thread starts them all and lives as long as the process.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, mpsc};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::io::unix::AsyncFd;
use tokio::sync::{oneshot, watch};

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It returned this code.
    Code(i32),
    /// This signal ended it.
    Signal(i32),
}

impl Exit {
    /// The code a shell and a container runtime report: 128 + n for signal n.
    pub fn code(self) -> i32 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => 128 + signal,
        }
    }
}

/// A process we started. It is reaped as soon as it ends, whether or not anybody waits for it.
#[derive(Clone, Debug)]
pub struct Child(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    pid: i32,
    pidfd: OwnedFd,
    /// Serialises reaping: `waitid` succeeds once.
    reaping: Mutex<()>,
    exit: watch::Sender<Option<Exit>>,
}

impl Child {
    fn new(pid: i32, pidfd: OwnedFd) -> Self {
        Self(Arc::new(Inner { pid, pidfd, reaping: Mutex::new(()), exit: watch::Sender::new(None) }))
    }

    /// The process id as seen from our own pid namespace.
    pub fn pid(&self) -> i32 {
        self.0.pid
    }

    /// Waits for the end of the process.
    pub async fn wait(&self) -> Exit {
        let mut exit = self.0.exit.subscribe();
        let ended = exit.wait_for(Option::is_some).await.ok().and_then(|exit| *exit);
        // The sender lives in `self`, so the channel cannot have closed.
        ended.unwrap_or(Exit::Signal(libc::SIGKILL))
    }

    /// How it ended, if it did.
    pub fn exit(&self) -> Option<Exit> {
        *self.0.exit.borrow()
    }

    /// Sends a signal; a process that is gone already is no error.
    pub fn signal(&self, signal: i32) -> io::Result<()> {
        send_signal(&self.0.pidfd, signal)
    }

    /// Reaps the process if it has ended; true when it is gone.
    #[expect(unsafe_code, reason = "waitid on a pidfd has no wrapper")]
    fn reap(&self) -> bool {
        let _one_at_a_time = lock(&self.0.reaping);
        if self.exit().is_some() {
            return true;
        }
        // SAFETY: siginfo_t is plain data; waitid fills it in.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        let pidfd = self.0.pidfd.as_raw_fd() as libc::id_t;
        loop {
            // SAFETY: `info` outlives the call, the descriptor is open.
            let got = unsafe { libc::waitid(libc::P_PIDFD, pidfd, &mut info, libc::WEXITED | libc::WNOHANG) };
            let exit = match got {
                // SAFETY: waitid filled the SIGCHLD member of the union, or left zeros.
                0 => match unsafe { (info.si_pid(), info.si_status()) } {
                    (0, _) => return false,
                    (_, status) if info.si_code == libc::CLD_EXITED => Exit::Code(status),
                    (_, status) => Exit::Signal(status),
                },
                _ if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => continue,
                // Only if somebody ignores SIGCHLD: gone, and nobody knows how.
                _ => Exit::Signal(libc::SIGKILL),
            };
            self.0.exit.send_replace(Some(exit));
            return true;
        }
    }
}

impl Drop for Inner {
    /// [`Children`] hold a process until it was reaped, so this kills only one that nobody took: its
    /// starter was cancelled meanwhile.
    fn drop(&mut self) {
        if self.exit.borrow().is_none() && send_signal(&self.pidfd, libc::SIGKILL).is_ok() {
            wait_for(self.pid);
        }
    }
}

/// Makes a pidfd usable with the reactor.
struct Ended(Child);

impl AsRawFd for Ended {
    fn as_raw_fd(&self) -> RawFd {
        self.0.0.pidfd.as_raw_fd()
    }
}

/// The processes of one owner: they end, and are reaped, with it.
#[derive(Debug, Default)]
pub struct Children {
    alive: Arc<Mutex<BTreeMap<i32, Child>>>,
    closed: AtomicBool,
}

impl Children {
    /// Starts the first process of a new pid and mount namespace.
    pub(crate) async fn start(&self, start: Start) -> io::Result<Child> {
        self.adopt(request(Request::Start, start).await?)
    }

    /// Starts a process inside the namespaces of another.
    pub(crate) async fn join(&self, join: Join) -> io::Result<Child> {
        self.adopt(request(Request::Join, join).await?)
    }

    #[expect(unsafe_code, reason = "the reactor wants to be promised that the descriptor stays open")]
    fn adopt(&self, child: Child) -> io::Result<Child> {
        lock(&self.alive).insert(child.pid(), child.clone());
        if self.closed.load(Ordering::SeqCst) {
            // The owner ended them all while this one was being made.
            self.kill_all();
        }
        let interest = tokio::io::Interest::READABLE;
        // SAFETY: `Ended` owns a share of the child, which keeps its one descriptor open.
        let ended = match unsafe { AsyncFd::register_with_interest(Ended(child.clone()), interest) } {
            Ok(ended) => ended,
            Err(error) => {
                // Nobody would notice its end: better not to have it.
                child.signal(libc::SIGKILL)?;
                return Err(error.into());
            }
        };
        let children = Arc::clone(&self.alive);
        tokio::spawn(async move {
            while !ended.get_ref().0.reap() {
                match ended.readable().await {
                    Ok(mut guard) => guard.clear_ready(),
                    Err(_) => return,
                }
            }
            lock(&children).remove(&ended.get_ref().0.pid());
        });
        Ok(child)
    }

    /// How many have not been reaped yet.
    pub fn alive(&self) -> usize {
        lock(&self.alive).values().filter(|child| child.exit().is_none()).count()
    }

    /// Kills all of them and returns when all are reaped, which takes milliseconds. There can be no
    /// new ones afterwards.
    #[expect(unsafe_code, reason = "poll has no wrapper in std")]
    pub(crate) fn kill_all(&self) {
        let deadline = Instant::now() + Duration::from_secs(5);
        self.closed.store(true, Ordering::SeqCst);
        loop {
            let left: Vec<Child> = {
                let mut children = lock(&self.alive);
                children.retain(|_, child| !child.reap());
                children.values().cloned().collect()
            };
            if left.is_empty() || Instant::now() > deadline {
                return;
            }
            let mut polls: Vec<libc::pollfd> = left
                .iter()
                .map(|child| {
                    // A failure leaves it in the list, and the bound above ends the loop.
                    let _ = child.signal(libc::SIGKILL);
                    libc::pollfd { fd: child.0.pidfd.as_raw_fd(), events: libc::POLLIN, revents: 0 }
                })
                .collect();
            // The first process of a pid namespace ends only after every other one in it was reaped:
            // so wait for any of them, not for one after the other.
            // SAFETY: the array outlives the call and its length is given.
            unsafe { libc::poll(polls.as_mut_ptr(), polls.len() as libc::nfds_t, 100) };
        }
    }
}

impl Drop for Children {
    fn drop(&mut self) {
        self.kill_all();
    }
}

/// What the first process of a container needs.
#[derive(Debug)]
pub(crate) struct Start {
    /// `argv[0]` of the running executable, which is executed again.
    pub(crate) name: &'static CStr,
    /// Network, UTS and IPC namespaces to enter.
    pub(crate) namespaces: Vec<OwnedFd>,
    /// Become descriptors 0, 1, 2 and so on.
    pub(crate) descriptors: Vec<OwnedFd>,
    /// Its place among control groups; none to stay where its parent is.
    pub(crate) cgroups: Option<CgroupFiles>,
}

/// The files that move a process into control groups, one for each hierarchy: open `cgroup.procs`.
#[derive(Debug, Default)]
pub(crate) struct CgroupFiles {
    /// Of the groups that become the root of a new cgroup namespace.
    pub(crate) root: Vec<OwnedFd>,
    /// Of the groups processes are in.
    pub(crate) inside: Vec<OwnedFd>,
}

/// What a process needs that joins a container.
#[derive(Debug)]
pub(crate) struct Join {
    /// A process of the container.
    pub(crate) target: Child,
    /// Paths to try one after the other, as a shell does with `$PATH`.
    pub(crate) candidates: Vec<CString>,
    pub(crate) arguments: Vec<CString>,
    pub(crate) environment: Vec<CString>,
    pub(crate) directory: CString,
    pub(crate) stdio: [OwnedFd; 3],
    /// Standard input is a terminal and shall control the process.
    pub(crate) terminal: bool,
    /// Its place among control groups, if its target has one of its own.
    pub(crate) cgroups: Option<CgroupFiles>,
    /// Who it is to be, if not the one its target was started as.
    pub(crate) user: Option<User>,
}

/// Numbers of a user and of the only group it is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    pub id: u32,
    pub group: u32,
}

enum Request {
    Start(Start, oneshot::Sender<io::Result<Child>>),
    Join(Join, oneshot::Sender<io::Result<Child>>),
}

async fn request<T>(
    kind: fn(T, oneshot::Sender<io::Result<Child>>) -> Request,
    plan: T,
) -> io::Result<Child> {
    let gone = || io::Error::other("the thread that starts pod processes has ended");
    let (reply, answer) = oneshot::channel();
    spawner()?.send(kind(plan, reply)).map_err(|_| gone())?;
    answer.await.map_err(|_| gone())?
}

/// The way to the spawner thread, which is started by the first request.
fn spawner() -> io::Result<&'static mpsc::Sender<Request>> {
    spawner_and_store().map(|(sender, _)| sender)
}

/// Where files of volumes are: memory that only pods see.
pub(crate) fn store() -> io::Result<&'static Store> {
    let (_, store) = spawner_and_store()?;
    store.as_ref().map_err(|error| io::Error::other(error.clone()))
}

/// A folder in memory for programs that this process starts. It has no name on the machine and goes with
/// the process, however that ends.
pub(crate) fn shared_folder() -> io::Result<PathBuf> {
    Ok(store()?.shared())
}

type Spawner = (mpsc::Sender<Request>, Result<Store, String>);

fn spawner_and_store() -> io::Result<&'static Spawner> {
    static SPAWNER: OnceLock<Result<Spawner, String>> = OnceLock::new();
    let started = SPAWNER.get_or_init(|| {
        let (sender, requests) = mpsc::channel();
        let (made, store) = mpsc::channel();
        let run = move || {
            // Who waits for it is there until it has come.
            let _ =
                made.send(Store::make().map_err(|error| format!("cannot keep volumes in memory: {error}")));
            serve(&requests);
        };
        let thread = std::thread::Builder::new().name("pod-spawner".into()).spawn(run);
        let failed = |error: &dyn std::fmt::Display| format!("cannot start the pod spawner thread: {error}");
        thread.map_err(|error| failed(&error))?;
        Ok((sender, store.recv().map_err(|error| failed(&error))?))
    });
    started.as_ref().map_err(|error| io::Error::other(error.clone()))
}

/// A file system in memory, mounted where only the spawner thread and the containers it starts can see
/// it. It is gone with the process, however that ends.
#[derive(Debug)]
pub(crate) struct Store {
    root: OwnedFd,
    inside: PathBuf,
}

impl Store {
    /// Gives the calling thread mounts of its own, hence only for a thread that stays.
    #[expect(unsafe_code, reason = "unshare and mount have no wrappers")]
    fn make() -> io::Result<Self> {
        let check = |result: c_int| match result {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        };
        // Nothing that starting a container needs is in any of them.
        let inside = ["/sys", "/srv", "/media", "/mnt"].into_iter().find(|path| Path::new(path).is_dir());
        let inside = PathBuf::from(inside.ok_or(io::ErrorKind::NotFound)?);
        let path = CString::new(inside.as_os_str().as_bytes())?;
        let none = std::ptr::null();
        // SAFETY: every pointer is null or a C string; the mounts of this thread alone are changed, for
        // it has left those of the others first, and a slave's mounts are not passed on.
        unsafe {
            check(libc::unshare(libc::CLONE_NEWNS))?;
            check(libc::mount(none, c"/".as_ptr(), none, libc::MS_REC | libc::MS_SLAVE, none.cast()))?;
            let (kind, options) = (c"tmpfs".as_ptr(), c"mode=0755,size=512m".as_ptr());
            let flags = libc::MS_NOSUID | libc::MS_NODEV;
            check(libc::mount(kind, path.as_ptr(), kind, flags, options.cast()))?;
        }
        let flags = libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC;
        let root = std::fs::OpenOptions::new().read(true).custom_flags(flags).open(&inside)?;
        Ok(Self { root: root.into(), inside })
    }

    /// The path for this process.
    pub(crate) fn outside(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.root.as_raw_fd()).into()
    }

    /// The path for programs that this process starts.
    fn shared(&self) -> PathBuf {
        format!("/proc/{}/fd/{}", std::process::id(), self.root.as_raw_fd()).into()
    }

    /// The path for the first process of a container, before it has a root of its own.
    pub(crate) fn inside(&self) -> &Path {
        &self.inside
    }
}

fn serve(requests: &mpsc::Receiver<Request>) {
    block_signals();
    while let Ok(request) = requests.recv() {
        // Who asked may have gone: then dropping the answer kills the process.
        let _ = match request {
            Request::Start(plan, reply) => reply.send(start(&plan)),
            Request::Join(plan, reply) => reply.send(join(&plan)),
        };
    }
}

/// Children share our memory for a moment: a signal handler of ours must not run in them.
#[expect(unsafe_code, reason = "the signal mask has no wrapper in std")]
fn block_signals() {
    // SAFETY: the set is initialised by sigfillset before use.
    unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &all, std::ptr::null_mut());
    }
}

/// A stack for a child that shares our memory.
struct Stack(Vec<u128>);

impl Stack {
    fn new() -> Self {
        Self(vec![0; 64 * 1024 / size_of::<u128>()])
    }

    fn top(&mut self) -> *mut c_void {
        self.0.as_mut_ptr_range().end.cast()
    }
}

const BORROWING: c_int = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;

/// What a child is told, and where it says what went wrong; all of it is memory of the parent.
struct Briefing<'a> {
    namespaces: &'a [RawFd],
    descriptors: &'a [RawFd],
    program: &'a [*const c_char],
    arguments: *const *const c_char,
    environment: *const *const c_char,
    directory: Option<*const c_char>,
    target: RawFd,
    terminal: bool,
    /// `cgroup.procs` of the groups to be in when a cgroup namespace is made, and afterwards.
    root_groups: &'a [RawFd],
    groups: &'a [RawFd],
    own_cgroups: bool,
    user: Option<User>,
    stack: *mut c_void,
    grandchild: c_int,
    errno: c_int,
}

fn start(plan: &Start) -> io::Result<Child> {
    let program = [c"/proc/self/exe".as_ptr()];
    let arguments = [plan.name.as_ptr(), std::ptr::null()];
    let environment = [std::ptr::null()];
    let descriptors = out_of_the_way(&plan.descriptors)?;
    let (root_groups, groups) = raw_groups(plan.cgroups.as_ref());
    let mut briefing = Briefing {
        namespaces: &raw(&plan.namespaces),
        descriptors: &raw(&descriptors),
        program: &program,
        arguments: arguments.as_ptr(),
        environment: environment.as_ptr(),
        directory: None,
        target: -1,
        terminal: false,
        root_groups: &root_groups,
        groups: &groups,
        own_cgroups: plan.cgroups.is_some(),
        user: None,
        stack: std::ptr::null_mut(),
        grandchild: 0,
        errno: 0,
    };
    let pid = clone(in_start, BORROWING | libc::CLONE_NEWPID | libc::CLONE_NEWNS, &mut briefing)?;
    finish(pid, briefing.errno)
}

fn join(plan: &Join) -> io::Result<Child> {
    let program: Vec<_> = plan.candidates.iter().map(|path| path.as_ptr()).collect();
    let descriptors = out_of_the_way(&plan.stdio)?;
    let (_, groups) = raw_groups(plan.cgroups.as_ref());
    let mut stack = Stack::new();
    let mut briefing = Briefing {
        namespaces: &[],
        descriptors: &raw(&descriptors),
        program: &program,
        arguments: std::ptr::null(),
        environment: std::ptr::null(),
        directory: Some(plan.directory.as_ptr()),
        target: plan.target.0.pidfd.as_raw_fd(),
        terminal: plan.terminal,
        root_groups: &[],
        groups: &groups,
        own_cgroups: plan.cgroups.is_some(),
        user: plan.user,
        stack: stack.top(),
        grandchild: 0,
        errno: 0,
    };
    let arguments = null_terminated(&plan.arguments);
    let environment = null_terminated(&plan.environment);
    briefing.arguments = arguments.as_ptr();
    briefing.environment = environment.as_ptr();
    let guide = clone(in_join, BORROWING, &mut briefing)?;
    wait_for(guide);
    match briefing.grandchild {
        0 => Err(io::Error::from_raw_os_error(briefing.errno)),
        pid => finish(pid, briefing.errno),
    }
}

/// `pid` executes its program now, unless it left an error.
fn finish(pid: c_int, errno: c_int) -> io::Result<Child> {
    if errno != 0 {
        wait_for(pid);
        return Err(io::Error::from_raw_os_error(errno));
    }
    Ok(Child::new(pid, pidfd_open(pid)?))
}

#[expect(unsafe_code, reason = "clone has no wrapper")]
fn clone(
    run: extern "C" fn(*mut c_void) -> c_int,
    flags: c_int,
    briefing: &mut Briefing<'_>,
) -> io::Result<c_int> {
    let mut stack = Stack::new();
    // SAFETY: CLONE_VFORK suspends us until the child has executed a program or ended, so the stack
    // and the briefing outlive its use of them; `run` does nothing but system calls.
    match unsafe { libc::clone(run, stack.top(), flags, std::ptr::from_mut(briefing).cast()) } {
        -1 => Err(io::Error::last_os_error()),
        pid => Ok(pid),
    }
}

/// In the child that becomes the first process of a container.
#[expect(unsafe_code, reason = "between clone and exec there are only system calls")]
extern "C" fn in_start(briefing: *mut c_void) -> c_int {
    // SAFETY: `clone` passes a valid briefing and its owner is suspended.
    let briefing = unsafe { &mut *briefing.cast::<Briefing<'_>>() };
    // SAFETY: system calls on open descriptors only.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        for namespace in briefing.namespaces {
            if libc::setns(*namespace, 0) != 0 {
                return failed(briefing);
            }
        }
        // The groups a process is in when it makes the namespace are the root it sees.
        if briefing.own_cgroups
            && (!be_in(briefing.root_groups)
                || libc::unshare(libc::CLONE_NEWCGROUP) != 0
                || !be_in(briefing.groups))
        {
            return failed(briefing);
        }
        execute(briefing)
    }
}

/// In the child that enters a container and starts there the process that was asked for.
#[expect(unsafe_code, reason = "between clone and exec there are only system calls")]
extern "C" fn in_join(argument: *mut c_void) -> c_int {
    // SAFETY: `clone` passes a valid briefing and its owner is suspended.
    let briefing = unsafe { &mut *argument.cast::<Briefing<'_>>() };
    // A pid namespace is entered by children only, hence a second process. CLONE_PARENT makes it our
    // caller's child, so that it can be waited for like any other.
    let mut namespaces =
        libc::CLONE_NEWPID | libc::CLONE_NEWNS | libc::CLONE_NEWUTS | libc::CLONE_NEWIPC | libc::CLONE_NEWNET;
    if briefing.own_cgroups {
        namespaces |= libc::CLONE_NEWCGROUP;
    }
    // SAFETY: system calls on open descriptors; the second stack is not in use yet.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        // The process this one makes is born in its groups.
        if !be_in(briefing.groups) || libc::setns(briefing.target, namespaces) != 0 {
            return failed(briefing);
        }
        match libc::clone(in_joined, briefing.stack, BORROWING | libc::CLONE_PARENT, argument) {
            -1 => failed(briefing),
            pid => {
                briefing.grandchild = pid;
                0
            }
        }
    }
}

#[expect(unsafe_code, reason = "between clone and exec there are only system calls")]
extern "C" fn in_joined(briefing: *mut c_void) -> c_int {
    // SAFETY: `in_join` passes on its own briefing and is suspended.
    let briefing = unsafe { &mut *briefing.cast::<Briefing<'_>>() };
    // SAFETY: system calls only.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        libc::setsid();
        if let Some(directory) = briefing.directory
            && libc::chdir(directory) != 0
        {
            return failed(briefing);
        }
        if let Some(user) = briefing.user
            && !be(user)
        {
            return failed(briefing);
        }
        execute(briefing)
    }
}

/// Makes the calling process another user's.
///
/// # Safety
/// Only in a child made by `clone`: the wrappers of libc would tell the threads of the parent.
#[expect(unsafe_code, reason = "between clone and exec there are only system calls")]
unsafe fn be(user: User) -> bool {
    // SAFETY: system calls without memory; an empty list of groups has none.
    unsafe {
        let changed = libc::syscall(libc::SYS_setgroups, 0, std::ptr::null::<c_void>()) == 0
            && libc::syscall(libc::SYS_setgid, user.group) == 0
            && libc::syscall(libc::SYS_setuid, user.id) == 0;
        // Both are forgotten with a change of user, and the first is a matter of the memory, which still is
        // the parent's.
        libc::prctl(libc::PR_SET_DUMPABLE, 1, 0, 0, 0);
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        changed
    }
}

/// Moves the calling process into these control groups; `0` means whoever writes it.
///
/// # Safety
/// The descriptors are open.
#[expect(unsafe_code, reason = "between clone and exec there are only system calls")]
unsafe fn be_in(groups: &[RawFd]) -> bool {
    // SAFETY: one byte is written, from memory that lives for ever.
    groups.iter().all(|group| unsafe { libc::write(*group, c"0".as_ptr().cast(), 1) } == 1)
}

/// Arranges descriptors and signals, then executes the first candidate that exists.
///
/// # Safety
/// Only in a child made by `clone`, whose descriptor table and signal handlers are its own.
#[expect(unsafe_code, reason = "between clone and exec there are only system calls")]
unsafe fn execute(briefing: &mut Briefing<'_>) -> c_int {
    // SAFETY: system calls on memory of the suspended parent.
    unsafe {
        libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC);
        for (number, descriptor) in briefing.descriptors.iter().enumerate() {
            if libc::dup2(*descriptor, number as c_int) == -1 {
                return failed(briefing);
            }
        }
        if briefing.terminal {
            libc::ioctl(0, libc::TIOCSCTTY, 0);
        }
        // The standard library ignores SIGPIPE, and ignoring is inherited.
        for signal in 1..=64 {
            if signal != libc::SIGABRT {
                libc::signal(signal, libc::SIG_DFL);
            }
        }
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &none, std::ptr::null_mut());
        let mut errno = libc::ENOENT;
        for program in briefing.program {
            libc::execve(*program, briefing.arguments, briefing.environment);
            let error = *libc::__errno_location();
            if error != libc::ENOENT && error != libc::ENOTDIR {
                errno = error;
            }
        }
        briefing.errno = errno;
        127
    }
}

#[expect(unsafe_code, reason = "errno is read without allocating")]
fn failed(briefing: &mut Briefing<'_>) -> c_int {
    // SAFETY: errno of this thread always exists.
    briefing.errno = unsafe { *libc::__errno_location() };
    127
}

#[expect(unsafe_code, reason = "pidfd_send_signal has no wrapper")]
fn send_signal(pidfd: &OwnedFd, signal: i32) -> io::Result<()> {
    let (number, nothing) = (libc::SYS_pidfd_send_signal, std::ptr::null::<c_void>());
    // SAFETY: the descriptor is open and the siginfo pointer may be null.
    let sent = unsafe { libc::syscall(number, pidfd.as_raw_fd(), signal, nothing, 0) };
    match io::Error::last_os_error() {
        _ if sent == 0 => Ok(()),
        error if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
        error => Err(error),
    }
}

/// Waits for a child that is about to end, and forgets how it did.
#[expect(unsafe_code, reason = "waitpid has no wrapper")]
fn wait_for(pid: c_int) {
    loop {
        // SAFETY: no status is asked for.
        let got = unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) };
        if got != -1 || io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
            return;
        }
    }
}

/// `pid` is a child of ours that was not reaped, so its number cannot have been used again.
#[expect(unsafe_code, reason = "pidfd_open has no wrapper")]
fn pidfd_open(pid: c_int) -> io::Result<OwnedFd> {
    // SAFETY: no memory is involved; a successful call returns a new descriptor.
    match unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) } {
        -1 => Err(io::Error::last_os_error()),
        // SAFETY: the descriptor is new and nobody else owns it.
        fd => Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) }),
    }
}

/// Copies with numbers that `dup2` to small numbers cannot hit.
#[expect(unsafe_code, reason = "F_DUPFD with a minimum has no wrapper in std")]
fn out_of_the_way(descriptors: &[OwnedFd]) -> io::Result<Vec<OwnedFd>> {
    let copy = |descriptor: &OwnedFd| {
        // SAFETY: the descriptor is open; a successful call returns a new one.
        match unsafe { libc::fcntl(descriptor.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 16) } {
            -1 => Err(io::Error::last_os_error()),
            // SAFETY: the descriptor is new and nobody else owns it.
            fd => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        }
    };
    descriptors.iter().map(copy).collect()
}

fn raw_groups(groups: Option<&CgroupFiles>) -> (Vec<RawFd>, Vec<RawFd>) {
    groups.map(|groups| (raw(&groups.root), raw(&groups.inside))).unwrap_or_default()
}

fn raw(descriptors: &[OwnedFd]) -> Vec<RawFd> {
    descriptors.iter().map(AsRawFd::as_raw_fd).collect()
}

fn null_terminated(strings: &[CString]) -> Vec<*const c_char> {
    strings.iter().map(|string| string.as_ptr()).chain([std::ptr::null()]).collect()
}

/// A pipe whose ends do not survive `exec`.
pub(crate) fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (reader, writer) = io::pipe()?;
    Ok((reader.into(), writer.into()))
}

/// Another descriptor for the same file.
pub(crate) fn duplicate(descriptor: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    descriptor.try_clone_to_owned()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
