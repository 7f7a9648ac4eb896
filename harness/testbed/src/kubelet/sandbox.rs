//! A pod's sandbox: the namespaces its containers share, held by descriptors.

use std::ffi::c_int;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};

use anyhow::Context as _;

use super::spawn::duplicate;
use crate::namespace::NetNamespace;

/// Linux's limit is 64 bytes; a kubelet cuts at 63, the longest DNS label.
const LONGEST_HOSTNAME: usize = 63;

/// The namespaces of one pod. They are gone when this and the pod's last process are.
#[derive(Debug)]
pub struct Sandbox {
    network: NetNamespace,
    uts: OwnedFd,
    ipc: OwnedFd,
    hostname: String,
}

impl Sandbox {
    /// Makes UTS and IPC namespaces, and a network namespace unless one to share is given.
    pub async fn new(hostname: &str, network: Option<NetNamespace>) -> anyhow::Result<Self> {
        let hostname = cut(hostname);
        let make = move || {
            let network = network.map_or_else(NetNamespace::new, Ok)?;
            // A thread of its own: it ends inside the new namespaces and never has to come home.
            let name = hostname.clone();
            let made = std::thread::scope(|scope| scope.spawn(move || uts_and_ipc(&name)).join());
            let (uts, ipc) = made.map_err(|_| io::Error::other("the thread panicked"))??;
            io::Result::Ok(Self { network, uts, ipc, hostname })
        };
        tokio::task::spawn_blocking(make).await?.context("cannot make the namespaces of a pod")
    }

    /// The network namespace.
    pub fn network(&self) -> &NetNamespace {
        &self.network
    }

    /// The name of the pod's machine, at most 63 bytes.
    pub fn hostname(&self) -> &str {
        &self.hostname
    }

    /// Descriptors for a process that is to enter.
    pub(crate) fn entrances(&self) -> io::Result<Vec<OwnedFd>> {
        [self.network.as_fd(), self.uts.as_fd(), self.ipc.as_fd()].into_iter().map(duplicate).collect()
    }
}

fn cut(hostname: &str) -> String {
    let cut: String = hostname.chars().take(LONGEST_HOSTNAME).collect();
    cut.trim_end_matches(['-', '.']).to_owned()
}

#[expect(unsafe_code, reason = "unshare, setns and sethostname have no wrappers")]
fn uts_and_ipc(hostname: &str) -> io::Result<(OwnedFd, OwnedFd)> {
    let check = |result: c_int| match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    };
    // SAFETY: changes the namespaces of this thread only.
    check(unsafe { libc::unshare(libc::CLONE_NEWUTS | libc::CLONE_NEWIPC) })?;
    // SAFETY: pointer and length describe the string.
    check(unsafe { libc::sethostname(hostname.as_ptr().cast(), hostname.len()) })?;
    let uts: OwnedFd = File::open("/proc/thread-self/ns/uts")?.into();
    let ipc: OwnedFd = File::open("/proc/thread-self/ns/ipc")?.into();
    Ok((uts, ipc))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_names_are_cut_where_a_label_may_end() {
        assert_eq!(cut("web-0"), "web-0");
        assert_eq!(cut(&"a".repeat(80)), "a".repeat(63));
        assert_eq!(cut(&format!("{}-tail", "a".repeat(62))), "a".repeat(62));
    }
}
