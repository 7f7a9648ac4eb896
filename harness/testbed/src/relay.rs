//! Passes TCP connections on, from one network to another: how programs on this machine reach an API
//! server that lives on a machine of the lab.

use std::net::{SocketAddr, TcpListener};

use anyhow::Context as _;
use tokio::task::JoinSet;

use crate::namespace::{Listening, NetNamespace};

/// Listens until it is dropped; its connections end with it.
pub(crate) struct Relay {
    _tasks: JoinSet<()>,
}

impl Relay {
    /// Must be called inside a tokio runtime.
    pub(crate) fn start(
        listeners: Vec<TcpListener>,
        to: &NetNamespace,
        address: SocketAddr,
    ) -> anyhow::Result<Self> {
        let mut tasks = JoinSet::new();
        for listener in listeners {
            listener.set_nonblocking(true).context("a listener is broken")?;
            let listener = tokio::net::TcpListener::from_std(listener).context("a listener is broken")?;
            tasks.spawn(accept(Listening::new(listener), to.clone(), address));
        }
        Ok(Self { _tasks: tasks })
    }
}

async fn accept(listener: Listening, to: NetNamespace, address: SocketAddr) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        let Ok((mut client, _)) = accepted else {
            give_others_time().await;
            continue;
        };
        let to = to.clone();
        connections.spawn(async move {
            // Nobody there: the client sees its connection closed.
            let Ok(mut server) = to.connect(address).await else { return };
            let _ = (client.set_nodelay(true), server.set_nodelay(true));
            // A broken connection is its two ends' affair.
            let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
        });
    }
}

/// After too many open files, for one: somebody has to close some first.
#[expect(clippy::disallowed_methods, reason = "nothing says when a file is closed by others")]
async fn give_others_time() {
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
}
