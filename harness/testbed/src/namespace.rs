//! Network namespaces without names: held by file descriptors only, so that the kernel removes
//! them with the process, however it ends.

use std::fs::File;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};

/// An anonymous network namespace. Cloning shares it; it is gone when the last clone, the last
/// socket and the last process in it are.
#[derive(Clone, Debug)]
pub struct NetNamespace(Arc<OwnedFd>);

impl NetNamespace {
    /// Makes a new, empty namespace. The calling thread is back home when this returns.
    pub fn new() -> io::Result<Self> {
        let home = Self::home()?;
        unshare(libc::CLONE_NEWNET)?;
        let made = current();
        home.enter()?;
        made
    }

    /// The namespace the process itself lives in; every excursion ends here.
    pub fn home() -> io::Result<&'static Self> {
        static HOME: OnceLock<NetNamespace> = OnceLock::new();
        if let Some(home) = HOME.get() {
            return Ok(home);
        }
        let fd = File::open("/proc/self/ns/net")?.into();
        Ok(HOME.get_or_init(|| Self(Arc::new(fd))))
    }

    /// Runs `f` inside the namespace and comes home again. `f` must not await: the whole thread is
    /// inside meanwhile. Sockets made by `f` stay in the namespace and may be used from anywhere.
    pub fn run<T>(&self, f: impl FnOnce() -> T) -> io::Result<T> {
        struct GoHome(&'static NetNamespace);
        impl Drop for GoHome {
            fn drop(&mut self) {
                // A thread left inside a foreign namespace would corrupt everything after it.
                self.0.enter().expect("a thread can return to its home namespace");
            }
        }
        let home = GoHome(Self::home()?);
        self.enter()?;
        let result = f();
        drop(home);
        Ok(result)
    }

    /// A listening TCP socket inside the namespace.
    pub fn listen(&self, address: SocketAddr) -> io::Result<TcpListener> {
        self.run(|| TcpListener::bind(address))?
    }

    /// Connects from inside the namespace.
    pub async fn connect(&self, address: SocketAddr) -> io::Result<tokio::net::TcpStream> {
        let socket = self.run(|| match address {
            SocketAddr::V4(_) => tokio::net::TcpSocket::new_v4(),
            SocketAddr::V6(_) => tokio::net::TcpSocket::new_v6(),
        })??;
        socket.connect(address).await
    }

    /// Enters for good. For a child between fork and exec, which has no home to go back to.
    pub(crate) fn enter_for_exec(&self) -> io::Result<()> {
        self.enter()
    }

    #[expect(unsafe_code, reason = "setns has no safe wrapper in std")]
    fn enter(&self) -> io::Result<()> {
        // SAFETY: the descriptor is owned by `self` and therefore open.
        match unsafe { libc::setns(self.0.as_raw_fd(), libc::CLONE_NEWNET) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

impl AsFd for NetNamespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The namespace the calling thread is in now.
fn current() -> io::Result<NetNamespace> {
    Ok(NetNamespace(Arc::new(File::open("/proc/thread-self/ns/net")?.into())))
}

#[expect(unsafe_code, reason = "unshare has no safe wrapper in std")]
fn unshare(flags: libc::c_int) -> io::Result<()> {
    // SAFETY: unshare changes only the calling thread's namespaces and touches no memory.
    match unsafe { libc::unshare(flags) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// How long a connection may be idle before the other machine is asked for a sign of life, how often then,
/// and how many times in vain.
const IDLE: Duration = Duration::from_secs(15);
const ASKED_AGAIN: Duration = Duration::from_secs(5);
const ASKED: u32 = 3;

/// A listener whose port is free again when it is dropped. Closing it is not enough: a child between
/// fork and exec has a copy of it.
pub(crate) struct Listening(tokio::net::TcpListener);

impl Listening {
    pub(crate) fn new(listener: tokio::net::TcpListener) -> Self {
        Self(listener)
    }

    /// The next connection. It ends by itself when the other machine is not there any more, or does not
    /// know of it: one that is only listened to would stay for ever. Nobody who merely reads slowly is cut.
    pub(crate) async fn accept(&self) -> io::Result<(tokio::net::TcpStream, SocketAddr)> {
        let (stream, from) = self.0.accept().await?;
        let asked = TcpKeepalive::new().with_time(IDLE).with_interval(ASKED_AGAIN).with_retries(ASKED);
        // A connection that is over already says so when it is read.
        let _ = SockRef::from(&stream).set_tcp_keepalive(&asked);
        Ok((stream, from))
    }
}

impl Drop for Listening {
    #[expect(unsafe_code, reason = "std shuts down streams only")]
    fn drop(&mut self) {
        // SAFETY: the descriptor is owned by the listener and therefore open.
        unsafe { libc::shutdown(self.0.as_raw_fd(), libc::SHUT_RDWR) };
    }
}
