//! What this machine can and cannot do for a testbed: every finding is something that was tried.

use std::ffi::CStr;
use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context as _, ensure};

use crate::enter::{enter, host_listener};
use crate::kernel::{Conntrack, Flows, Tables, features};
use crate::kubelet::{ContainerSpec, Runtime, Sandbox};
use crate::namespace::NetNamespace;
use crate::topology::CLUSTER_CIDR;
use crate::{Testbed, TestbedSpec};

/// What became of one try.
#[derive(Clone, Debug)]
pub struct Finding {
    /// What was tried, as in reports: `user-namespaces`.
    pub id: &'static str,
    /// The same in words.
    pub title: &'static str,
    /// Why it does not work; nothing if it does.
    pub lacking: Option<String>,
    /// What to do about it, if anything can be done.
    pub remedy: Option<String>,
    /// Which feature needs it; nothing if a testbed does.
    pub optional: Option<&'static str>,
}

/// Enters namespaces of our own, as every testbed begins; to be called before any thread exists.
pub fn entrance() -> Finding {
    let refused = enter().err();
    let remedy = refused.as_ref().map(|_| match limits() {
        limits if limits.is_empty() => {
            "run as root, or in a container with `--privileged`: seccomp or a security module refuses"
                .to_owned()
        }
        limits => format!("run as root, or: {}", limits.join(", ")),
    });
    Finding {
        id: "namespaces",
        title: "user and network namespaces of our own",
        lacking: refused.map(|refused| refused.to_string()),
        remedy,
        optional: None,
    }
}

/// Settings of the kernel that forbid namespaces to ordinary users, and how to change each.
fn limits() -> Vec<String> {
    let forbidding = [
        ("kernel/unprivileged_userns_clone", "0", "1"),
        ("kernel/apparmor_restrict_unprivileged_userns", "1", "0"),
        ("user/max_user_namespaces", "0", "65536"),
        ("user/max_net_namespaces", "0", "65536"),
        ("user/max_mnt_namespaces", "0", "65536"),
        ("user/max_pid_namespaces", "0", "65536"),
    ];
    let set = |path: &str| std::fs::read_to_string(format!("/proc/sys/{path}")).unwrap_or_default();
    let bad = forbidding.into_iter().filter(|(path, forbids, _)| set(path).trim() == *forbids);
    bad.map(|(path, _, allows)| format!("`sysctl -w {}={allows}`", path.replace('/', "."))).collect()
}

/// Everything else, once inside. Nothing of it outlives the call.
pub async fn inside() -> Vec<Finding> {
    let needed = |id, title, tried: anyhow::Result<()>| Finding {
        id,
        title,
        lacking: tried.err().map(|error| format!("{error:#}")),
        remedy: None,
        optional: None,
    };
    let optional = |id, title, feature, tried: anyhow::Result<()>| Finding {
        optional: Some(feature),
        ..needed(id, title, tried)
    };
    vec![
        needed("loopback-port", "a port of 127.0.0.1 for kubectl and other programs", loopback()),
        needed("bridge-and-veth", "bridges, and links between namespaces", features::bridge_and_veth().await),
        needed("nftables", "nftables with all the proxy's rules", nftables().await),
        needed("conntrack", "connection tracking that can be told to forget", conntrack().await),
        needed("containers", "processes with mounts, process ids and a root of their own", container().await),
        needed("testbed", "a cluster of one node", cluster().await),
        optional(
            "overlayfs",
            "layered file systems",
            "none yet: roots of containers need no layers",
            overlay(),
        ),
        optional("netem", "delayed and lost packets", "slow and lossy networks", features::netem().await),
        optional(
            "dummy",
            "links that lead nowhere",
            "none yet: proxies in IPVS mode",
            features::dummy().await,
        ),
        optional("ipvs", "the kernel's load balancer", "none yet: proxies in IPVS mode", features::ipvs()),
    ]
}

fn loopback() -> anyhow::Result<()> {
    host_listener(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
    Ok(())
}

async fn nftables() -> anyhow::Result<()> {
    Tables::open(&NetNamespace::new()?, CLUSTER_CIDR)?.reset().await
}

async fn conntrack() -> anyhow::Result<()> {
    let nothing = |port| Flows { to: Some(Ipv4Addr::new(10, 96, 0, 10)), port, answered_by: None };
    let conntrack = Conntrack::open(&NetNamespace::new()?)?;
    conntrack.forget(&[nothing(53)]).await?;
    conntrack.forget(&[nothing(53), nothing(54)]).await
}

async fn container() -> anyhow::Result<()> {
    let runtime = Runtime::new(&["true"]);
    let sandbox = Sandbox::new("doctor", None).await?;
    let command = vec!["true".to_owned()];
    let environment = vec![("PATH".to_owned(), "/bin:/usr/bin".to_owned())];
    let spec = ContainerSpec { command, environment, directory: "/".to_owned(), ..ContainerSpec::default() };
    let exit = runtime.start(&sandbox, spec).await?.wait().await;
    ensure!(exit.code() == 0, "its process ended with {}", exit.code());
    Ok(())
}

async fn cluster() -> anyhow::Result<()> {
    Testbed::start(TestbedSpec { nodes: 1, ..TestbedSpec::default() }).await?;
    Ok(())
}

/// In a thread with a mount namespace of its own, which takes the mounts with it.
fn overlay() -> anyhow::Result<()> {
    let tried = std::thread::spawn(|| -> anyhow::Result<()> {
        own_mounts().context("a mount namespace of its own")?;
        mount(c"tmpfs", c"/tmp", c"tmpfs", 0, c"").context("mount a tmpfs")?;
        for folder in ["/tmp/lower", "/tmp/upper", "/tmp/work", "/tmp/merged"] {
            std::fs::create_dir(folder).with_context(|| folder.to_owned())?;
        }
        let layers = c"lowerdir=/tmp/lower,upperdir=/tmp/upper,workdir=/tmp/work,userxattr";
        mount(c"overlay", c"/tmp/merged", c"overlay", 0, layers).context("mount an overlay")
    });
    tried.join().map_err(|_| anyhow::anyhow!("the thread panicked"))?
}

#[expect(unsafe_code, reason = "unshare has no safe wrapper in std")]
fn own_mounts() -> std::io::Result<()> {
    // SAFETY: changes the namespaces of this thread only, which ends after it.
    if unsafe { libc::unshare(libc::CLONE_FS | libc::CLONE_NEWNS) } != 0 {
        return Err(std::io::Error::last_os_error());
    }
    // Nothing that is mounted here may be seen elsewhere.
    mount(c"none", c"/", c"", libc::MS_REC | libc::MS_PRIVATE, c"")
}

#[expect(unsafe_code, reason = "mount has no safe wrapper in std")]
fn mount(
    what: &CStr,
    place: &CStr,
    kind: &CStr,
    flags: libc::c_ulong,
    options: &CStr,
) -> std::io::Result<()> {
    // SAFETY: all strings end with a zero byte and outlive the call.
    let mounted =
        unsafe { libc::mount(what.as_ptr(), place.as_ptr(), kind.as_ptr(), flags, options.as_ptr().cast()) };
    if mounted == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}
