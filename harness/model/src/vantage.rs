//! Vantages and destinations: where a connection comes from and where it is meant to go.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use crate::{ObjectKey, Protocol, UnknownProtocol};

/// A place traffic starts from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Vantage {
    /// A pod. One in the host network counts as its node.
    Pod(ObjectKey),
    /// A process in a node's own network.
    Node(String),
    /// A host that is no part of the cluster.
    Outside,
}

impl fmt::Display for Vantage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pod(pod) => write!(f, "pod `{}`", pod.name),
            Self::Node(node) => write!(f, "node `{node}`"),
            Self::Outside => f.write_str("a host outside"),
        }
    }
}

/// Where a connection is meant to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Destination {
    pub address: IpAddr,
    pub port: u16,
    pub protocol: Protocol,
}

impl Destination {
    pub fn new(address: IpAddr, port: u16, protocol: Protocol) -> Self {
        Self { address, port, protocol }
    }

    pub fn tcp(address: IpAddr, port: u16) -> Self {
        Self::new(address, port, Protocol::Tcp)
    }

    pub fn socket(self) -> SocketAddr {
        SocketAddr::new(self.address, self.port)
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.socket(), self.protocol)
    }
}

/// Reads `10.96.0.10:53/UDP`; without a protocol it is TCP.
impl FromStr for Destination {
    type Err = DestinationError;

    fn from_str(text: &str) -> Result<Self, DestinationError> {
        let (socket, protocol) = match text.split_once('/') {
            Some((socket, protocol)) => (socket, protocol.parse()?),
            None => (text, Protocol::Tcp),
        };
        let socket: SocketAddr = socket.parse().map_err(|_| DestinationError::Socket(socket.to_owned()))?;
        Ok(Self::new(socket.ip(), socket.port(), protocol))
    }
}

/// Why a text is not a destination.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DestinationError {
    #[error("`{0}` is not an address and port; one looks like `10.96.0.10:53`")]
    Socket(String),
    #[error(transparent)]
    Protocol(#[from] UnknownProtocol),
}
