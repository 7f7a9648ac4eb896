//! A topology with pods that say who they are and whom they see.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use stickler_testbed::namespace::NetNamespace;
use stickler_testbed::topology::{Topology, TopologySpec};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

/// The most a packet may need in here; far above what was measured.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);
/// The port every pod answers on, TCP and UDP.
pub(crate) const PORT: u16 = 8000;

pub(crate) struct Lab {
    pub(crate) topology: Topology,
    pub(crate) pods: BTreeMap<Ipv4Addr, NetNamespace>,
}

impl Lab {
    /// Three nodes, and pods with these addresses: `10.244.<node>.<pod>`.
    pub(crate) async fn with_pods(pods: &[[u8; 2]]) -> anyhow::Result<Self> {
        let mut lab =
            Self { topology: Topology::build(&TopologySpec::default()).await?, pods: BTreeMap::new() };
        for [node, pod] in pods {
            let namespace = NetNamespace::new()?;
            let ip = pod_ip(*node, *pod);
            lab.topology.nodes()[usize::from(*node)].attach_pod(&namespace, ip).await?;
            serve(&namespace, ip)?;
            lab.pods.insert(ip, namespace);
        }
        Ok(lab)
    }

    pub(crate) fn pod(&self, node: u8, pod: u8) -> &NetNamespace {
        &self.pods[&pod_ip(node, pod)]
    }

    pub(crate) fn node(&self, node: usize) -> &NetNamespace {
        &self.topology.nodes()[node].namespace
    }

    pub(crate) fn node_ip(&self, node: usize) -> Ipv4Addr {
        self.topology.nodes()[node].ip
    }
}

pub(crate) fn pod_ip(node: u8, pod: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 244, node, pod)
}

/// Who answered, and which source address it saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Answer {
    pub(crate) by: Ipv4Addr,
    pub(crate) saw: Ipv4Addr,
}

/// Answers every TCP connection and datagram on the port with an [`Answer`]. A connection gets one
/// answer for every byte it sends.
pub(crate) fn serve(namespace: &NetNamespace, ip: Ipv4Addr) -> anyhow::Result<()> {
    let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT));
    let listener = namespace.listen(any)?;
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    tokio::spawn(async move {
        while let Ok((mut stream, peer)) = listener.accept().await {
            tokio::spawn(async move {
                while stream.read_u8().await.is_ok() {
                    let _ = stream.write_all(&answer(ip, peer)).await;
                }
            });
        }
    });
    let socket = namespace.run(|| std::net::UdpSocket::bind(any))??;
    socket.set_nonblocking(true)?;
    let socket = UdpSocket::from_std(socket)?;
    tokio::spawn(async move {
        let mut asked = [0; 8];
        while let Ok((_, peer)) = socket.recv_from(&mut asked).await {
            let _ = socket.send_to(&answer(ip, peer), peer).await;
        }
    });
    Ok(())
}

fn answer(by: Ipv4Addr, peer: SocketAddr) -> Vec<u8> {
    let IpAddr::V4(saw) = peer.ip() else { unreachable!("the lab has no IPv6") };
    [by.octets(), saw.octets()].concat()
}

fn read_answer(bytes: [u8; 8]) -> Answer {
    let [a, b, c, d, e, f, g, h] = bytes;
    Answer { by: Ipv4Addr::new(a, b, c, d), saw: Ipv4Addr::new(e, f, g, h) }
}

/// A connection from inside a namespace.
pub(crate) async fn connect(from: &NetNamespace, ip: Ipv4Addr, port: u16) -> io::Result<TcpStream> {
    timeout(PATIENCE, from.connect(SocketAddr::from((ip, port)))).await.map_err(io::Error::from)?
}

/// One more answer on a connection that exists.
pub(crate) async fn ask(stream: &mut TcpStream) -> anyhow::Result<Answer> {
    let mut bytes = [0; 8];
    timeout(PATIENCE, async {
        stream.write_all(b"?").await?;
        stream.read_exact(&mut bytes).await
    })
    .await
    .context("no answer")??;
    Ok(read_answer(bytes))
}

/// A new connection and its answer.
pub(crate) async fn call(from: &NetNamespace, ip: Ipv4Addr, port: u16) -> anyhow::Result<Answer> {
    let mut stream = connect(from, ip, port).await.with_context(|| format!("connect to {ip}:{port}"))?;
    ask(&mut stream).await
}

/// A UDP socket inside a namespace that talks to one address.
pub(crate) async fn udp(from: &NetNamespace, ip: Ipv4Addr, port: u16) -> anyhow::Result<UdpSocket> {
    let socket = from.run(|| std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)))??;
    socket.set_nonblocking(true)?;
    let socket = UdpSocket::from_std(socket)?;
    socket.connect((ip, port)).await?;
    Ok(socket)
}

/// One question and answer on a UDP socket.
pub(crate) async fn ask_udp(socket: &UdpSocket) -> anyhow::Result<Answer> {
    let mut bytes = [0; 8];
    socket.send(b"?").await?;
    let length = timeout(PATIENCE, socket.recv(&mut bytes)).await.context("no answer")??;
    ensure!(length == 8, "an answer of {length} bytes");
    Ok(read_answer(bytes))
}

/// Connecting must fail in one of these ways, and at once.
pub(crate) async fn must_fail(
    from: &NetNamespace,
    ip: Ipv4Addr,
    port: u16,
    allowed: &[io::ErrorKind],
) -> anyhow::Result<()> {
    match connect(from, ip, port).await {
        Ok(_) => bail!("{ip}:{port} can be reached"),
        Err(error) => {
            ensure!(allowed.contains(&error.kind()), "{ip}:{port}: {error}, instead of one of {allowed:?}");
            Ok(())
        }
    }
}

/// Connecting must neither succeed nor fail, as when packets are dropped on the way.
pub(crate) async fn must_be_dropped(from: &NetNamespace, ip: Ipv4Addr, port: u16) -> anyhow::Result<()> {
    let answer = timeout(Duration::from_millis(500), from.connect(SocketAddr::from((ip, port)))).await;
    ensure!(answer.is_err(), "{ip}:{port} answered: {answer:?}");
    Ok(())
}
