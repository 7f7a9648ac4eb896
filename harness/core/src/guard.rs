//! What ends a run early: somebody asks for it, or the cluster loses a part, and with that every
//! reason to judge it.

use std::sync::{Arc, OnceLock};

use futures::FutureExt as _;
use stickler_reports::Event;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::cluster::{Cluster, Loss};
use crate::journal::Sink;

/// Watches a cluster while something runs on it.
pub(crate) struct Guard {
    cluster: Arc<dyn Cluster>,
    asked: CancellationToken,
    losing: Losing,
    _watching: AbortOnDropHandle<()>,
}

/// Notes the first loss and tells it once.
#[derive(Clone)]
struct Losing {
    sink: Sink,
    over: CancellationToken,
    lost: Arc<OnceLock<String>>,
}

impl Guard {
    /// Must be called inside a tokio runtime. What is lost is told to `sink` as trouble.
    pub(crate) fn over(cluster: &Arc<dyn Cluster>, sink: &Sink, asked: &CancellationToken) -> Self {
        let over = asked.child_token();
        let losing = Losing { sink: sink.clone(), over, lost: Arc::default() };
        let watching = {
            let (cluster, losing) = (Arc::clone(cluster), losing.clone());
            tokio::spawn(async move { losing.note(cluster.lost().await) })
        };
        let _watching = AbortOnDropHandle::new(watching);
        Self { cluster: Arc::clone(cluster), asked: asked.clone(), losing, _watching }
    }

    /// Cancelled when the run is to end.
    pub(crate) fn token(&self) -> &CancellationToken {
        &self.losing.over
    }

    /// Did somebody ask for the end?
    pub(crate) fn was_asked(&self) -> bool {
        self.asked.is_cancelled()
    }

    /// What the cluster lost, as of now.
    pub(crate) fn lost(&self) -> Option<String> {
        if let Some(loss) = self.cluster.lost().now_or_never() {
            self.losing.note(loss);
        }
        self.losing.lost.get().cloned()
    }

    /// Why the run is to end.
    pub(crate) fn why(&self) -> String {
        self.lost().unwrap_or_else(|| "the run was interrupted".to_owned())
    }
}

impl Losing {
    /// What it said last is told once. Every check that ends with it only says why.
    fn note(&self, loss: Loss) {
        if self.lost.set(format!("the cluster lost a part: {}", loss.ending)).is_ok() {
            self.sink.tell(Event::Trouble { message: format!("the cluster lost a part: {loss}") });
            self.over.cancel();
        }
    }
}
