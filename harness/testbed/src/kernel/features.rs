//! What the kernel can do beside what the testbed needs: looked at by trying.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::time::Duration;

use nlink::Connection;
use nlink::netlink::Route as Rtnetlink;
use nlink::netlink::link::DummyLink;
use nlink::netlink::tc::NetemConfig;

use super::{Links, Mac, Veth, connect};
use crate::namespace::NetNamespace;

/// A bridge, and a pair of links from it into another namespace.
pub(crate) async fn bridge_and_veth() -> anyhow::Result<()> {
    let (here, there) = (NetNamespace::new()?, NetNamespace::new()?);
    let links = Links::open(&here)?;
    let mac = |side| Mac::of(Ipv4Addr::new(10, 0, 0, 1), side);
    let bridge = links.add_bridge("br0", mac(0)).await?;
    let veth = Veth {
        name: "veth0",
        mac: mac(1),
        bridge: Some(bridge),
        peer: &there,
        peer_name: "eth0",
        peer_mac: mac(2),
    };
    links.add_veth(veth).await?;
    Ok(())
}

/// A link that leads nowhere; module `dummy`.
pub(crate) async fn dummy() -> anyhow::Result<()> {
    let namespace = NetNamespace::new()?;
    let connection: Connection<Rtnetlink> = connect(&namespace)?;
    connection.add_link(DummyLink::new("dummy0")).await?;
    Ok(())
}

/// A queue that delays and loses packets; module `sch_netem`.
pub(crate) async fn netem() -> anyhow::Result<()> {
    const LOOPBACK: u32 = 1;
    let namespace = NetNamespace::new()?;
    let connection: Connection<Rtnetlink> = connect(&namespace)?;
    connection
        .add_qdisc_by_index(LOOPBACK, NetemConfig::new().delay(Duration::from_millis(1)).build())
        .await?;
    Ok(())
}

/// The kernel's own load balancer; module `ip_vs`.
#[expect(unsafe_code, reason = "socket and getsockopt of this level have no wrappers")]
pub(crate) fn ipvs() -> anyhow::Result<()> {
    /// `IP_VS_SO_GET_VERSION` of `linux/ip_vs.h`.
    const GET_VERSION: libc::c_int = 64 + 1024 + 64;
    let namespace = NetNamespace::new()?;
    let asked = namespace.run(|| {
        // SAFETY: socket takes no pointers.
        let socket = match unsafe {
            libc::socket(libc::AF_INET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::IPPROTO_RAW)
        } {
            -1 => return Err(io::Error::last_os_error()),
            // SAFETY: the descriptor was made just now and belongs to nobody else.
            fd => unsafe { OwnedFd::from_raw_fd(fd) },
        };
        let mut text = [0_u8; 64];
        let mut length: libc::socklen_t = 64;
        // SAFETY: buffer and length describe each other and outlive the call.
        let asked = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::IPPROTO_IP,
                GET_VERSION,
                text.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        if asked == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    })?;
    Ok(asked?)
}
