//! The door to the lab: moves the process into namespaces of its own before anything else runs, and
//! keeps one thread outside that can still listen on the host's network.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use crate::namespace::NetNamespace;

/// Why the process could not enter the lab, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum EnterError {
    #[error(
        "the lab must be entered before any thread is started: this process has {threads}; \
         call `enter` in the first lines of `main`"
    )]
    TooLate { threads: usize },
    #[error(
        "this machine does not allow {what} (`{call}`: {source}); run as root, or allow it: \
         `sysctl kernel.unprivileged_userns_clone=1` (Debian), \
         `sysctl kernel.apparmor_restrict_unprivileged_userns=0` (Ubuntu), \
         `user.max_user_namespaces` and `user.max_net_namespaces` above 0, \
         in a container `--privileged` (Docker's seccomp profile refuses namespaces)"
    )]
    NotAllowed { what: &'static str, call: &'static str, source: io::Error },
    #[error("could not {what} while entering the lab: {source}")]
    Failed { what: &'static str, source: io::Error },
}

/// Moves the process into an empty network namespace of its own, first into a user namespace if it
/// lacks the rights. To be called in `main` before any thread exists. Entering twice is the same as
/// entering once.
pub fn enter() -> Result<(), EnterError> {
    if HOST.get().is_some() {
        return Ok(());
    }
    let threads = std::fs::read_dir("/proc/self/task")
        .map_err(|source| EnterError::Failed { what: "count threads in /proc/self/task", source })?
        .count();
    if threads != 1 {
        return Err(EnterError::TooLate { threads });
    }
    if !may_make_networks() {
        enter_user_namespace()?;
    }
    let host = HostThread::start()
        .map_err(|source| EnterError::Failed { what: "start a thread on the host's network", source })?;
    unshare(libc::CLONE_NEWNET).map_err(|source| EnterError::NotAllowed {
        what: "network namespaces",
        call: "unshare(CLONE_NEWNET)",
        source,
    })?;
    loopback_up().map_err(|source| EnterError::Failed { what: "set the loopback link up", source })?;
    NetNamespace::home()
        .map_err(|source| EnterError::Failed { what: "open the new network namespace", source })?;
    // Nobody else can have set it: there is no other thread yet that knows of it.
    let _ = HOST.set(host);
    Ok(())
}

/// A listener on the network of the machine itself, wherever the process lives now.
pub fn host_listener(address: SocketAddr) -> io::Result<TcpListener> {
    on_host(move || TcpListener::bind(address))?
}

/// A connection to the machine's own loopback address, wherever the process lives now; it is made
/// within `bound`, or not at all. The calling thread waits.
///
/// # Errors
/// If nobody answers there, or the address is not a loopback one: nothing is sent to other machines.
pub fn host_stream(address: SocketAddr, bound: Duration) -> io::Result<TcpStream> {
    if !address.ip().is_loopback() {
        let refused = format!("{address} is not on this machine's loopback network");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, refused));
    }
    on_host(move || TcpStream::connect_timeout(&address, bound))?
}

/// Makes a socket on the network of the machine itself.
fn on_host<T: Send + 'static>(make: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    match HOST.get() {
        Some(host) => host.run(make),
        None => Ok(make()),
    }
}

/// Did the process have to move into a user namespace of its own?
pub(crate) fn in_user_namespace() -> bool {
    OWN_USERS.load(Ordering::Relaxed)
}

static OWN_USERS: AtomicBool = AtomicBool::new(false);

static HOST: OnceLock<HostThread> = OnceLock::new();

/// A thread that stayed on the host's network. From a user namespace there is no way back to it.
struct HostThread(mpsc::Sender<Task>);

type Task = Box<dyn FnOnce() + Send>;

impl HostThread {
    fn start() -> io::Result<Self> {
        let (tasks, inbox) = mpsc::channel::<Task>();
        let serve = move || inbox.into_iter().for_each(|task| task());
        std::thread::Builder::new().name("host-network".to_owned()).spawn(serve)?;
        Ok(Self(tasks))
    }

    fn run<T: Send + 'static>(&self, task: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
        let gone = || io::Error::other("the thread on the host's network is gone");
        let (answer, answered) = mpsc::sync_channel(1);
        let task = move || {
            // Whoever asked may have given up meanwhile.
            let _ = answer.send(task());
        };
        self.0.send(Box::new(task)).map_err(|_| gone())?;
        answered.recv().map_err(|_| gone())
    }
}

/// Root in a container often is root in name only, so ask for the capabilities themselves.
fn may_make_networks() -> bool {
    const CAP_NET_ADMIN: u64 = 1 << 12;
    const CAP_SYS_ADMIN: u64 = 1 << 21;
    const NEEDED: u64 = CAP_NET_ADMIN | CAP_SYS_ADMIN;
    std::fs::read_to_string("/proc/self/status").is_ok_and(|status| {
        let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
        effective
            .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
            .is_some_and(|capabilities| capabilities & NEEDED == NEEDED)
    })
}

/// A mount namespace comes along, because pods mount things later.
#[expect(unsafe_code, reason = "geteuid and getegid have no safe wrapper in std")]
fn enter_user_namespace() -> Result<(), EnterError> {
    // SAFETY: both only read the caller's credentials and cannot fail.
    let (uid, gid) = unsafe { (libc::geteuid(), libc::getegid()) };
    unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNS).map_err(|source| EnterError::NotAllowed {
        what: "user namespaces",
        call: "unshare(CLONE_NEWUSER|CLONE_NEWNS)",
        source,
    })?;
    OWN_USERS.store(true, Ordering::Relaxed);
    let write = |path: &'static str, text: String| {
        std::fs::write(path, text).map_err(|source| EnterError::NotAllowed {
            what: "mapping the user into a user namespace",
            call: path,
            source,
        })
    };
    // Groups may be mapped only by those who gave up changing their list.
    write("/proc/self/setgroups", "deny".to_owned())?;
    write("/proc/self/uid_map", format!("0 {uid} 1"))?;
    write("/proc/self/gid_map", format!("0 {gid} 1"))
}

#[expect(unsafe_code, reason = "unshare has no safe wrapper in std")]
fn unshare(flags: libc::c_int) -> io::Result<()> {
    // SAFETY: unshare changes only the calling thread's namespaces and touches no memory.
    match unsafe { libc::unshare(flags) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// By ioctl and not by netlink: no runtime exists yet.
#[expect(unsafe_code, reason = "socket and ioctl have no safe wrapper in std")]
fn loopback_up() -> io::Result<()> {
    use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
    // SAFETY: socket takes no pointers.
    let socket = match unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) } {
        -1 => return Err(io::Error::last_os_error()),
        // SAFETY: the descriptor was made just now and belongs to nobody else.
        fd => unsafe { OwnedFd::from_raw_fd(fd) },
    };
    let mut name = [0; libc::IFNAMSIZ];
    name[0] = b'l' as libc::c_char;
    name[1] = b'o' as libc::c_char;
    let flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    let request =
        libc::ifreq { ifr_name: name, ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_flags: flags } };
    // SAFETY: the request is a valid `ifreq` that outlives the call, which only reads it.
    match unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw const request) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_with_threads_is_turned_away_with_advice() {
        // The test harness runs this on a thread of its own, beside the main one.
        let refused = std::thread::spawn(|| enter().map_err(|error| error.to_string()).err()).join();
        let message = refused.expect("the thread ends").expect("entering fails");
        assert!(message.contains("before any thread is started"), "{message}");
    }

    #[test]
    fn a_host_listener_binds_directly_outside_the_lab() {
        let listener = host_listener(SocketAddr::from(([127, 0, 0, 1], 0))).expect("loopback can be bound");
        let address = listener.local_addr().expect("it has an address");
        assert_ne!(address.port(), 0);
        host_stream(address, Duration::from_secs(5)).expect("somebody listens there");
    }

    #[test]
    fn nothing_but_loopback_is_dialled() {
        let refused = host_stream(SocketAddr::from(([192, 0, 2, 1], 80)), Duration::from_secs(5));
        assert_eq!(refused.map(drop).map_err(|error| error.kind()), Err(io::ErrorKind::InvalidInput));
    }
}
