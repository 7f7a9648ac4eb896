//! The controllers' own heartbeat: a lease they renew, as upstream's do to elect a leader, and at the
//! same time the clock by which the nodes' silence is measured.
//!
//! A beat counts only when it has come back through the same watch that brings the nodes' beats. So
//! when the machine stalls, the API server is away or the watch lags, this clock stands still with
//! everything else, and no node is taken for dead because of it.

use std::time::Duration;

use anyhow::Context as _;
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::caches::Caches;
use super::informer::version;

/// By how much each beat puts the clock forward, and the least time between two.
pub(super) const BEAT: Duration = Duration::from_millis(250);

/// A beat that has not come back by now was lost, perhaps with the watch.
const LOST: Duration = Duration::from_secs(2);

const NAMESPACE: &str = "kube-system";
const NAME: &str = "kube-controller-manager";

/// The lease, and what the watch shows of it.
pub(super) struct Heart {
    leases: Api<Lease>,
    shown: watch::Receiver<u64>,
}

impl Heart {
    /// To be made before the caches begin to follow leases.
    pub(super) fn new(client: Client, caches: &Caches) -> Self {
        let (show, shown) = watch::channel(0);
        caches.leases.on_change(move |_, new| {
            if let Some(lease) = new.filter(|lease| is_ours(lease)) {
                show.send_replace(version(&lease.metadata));
            }
        });
        Self { leases: Api::namespaced(client, NAMESPACE), shown }
    }

    /// Beats until the task is ended, and says so each time one came back.
    pub(super) async fn beat(mut self, beaten: impl Fn()) {
        let mut ticks = interval(BEAT);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            match timeout(LOST, self.once()).await {
                Ok(Ok(())) => beaten(),
                Ok(Err(error)) => tracing::debug!("the controllers' heart missed a beat: {error:#}"),
                Err(_) => tracing::debug!("a beat of the controllers' heart did not come back"),
            }
            // Between two beats there is as much time as one stands for, however long it took.
            ticks.reset();
        }
    }

    async fn once(&mut self) -> anyhow::Result<()> {
        let renewed = json!({"spec": {"holderIdentity": NAME, "renewTime": now()}});
        let written = self.leases.patch(NAME, &PatchParams::default(), &Patch::Merge(renewed)).await;
        let written = match written {
            Err(kube::Error::Api(status)) if status.code == 404 => self.create().await,
            written => written,
        };
        let written = version(&written.context("the lease cannot be renewed")?.metadata);
        self.shown.wait_for(|shown| *shown >= written).await.context("the caches are gone")?;
        Ok(())
    }

    async fn create(&self) -> kube::Result<Lease> {
        let lease = json!({
            "metadata": {"name": NAME},
            "spec": {"holderIdentity": NAME, "leaseDurationSeconds": 15, "renewTime": now()},
        });
        let lease = serde_json::from_value(lease).map_err(kube::Error::SerdeError)?;
        self.leases.create(&PostParams::default(), &lease).await
    }
}

fn is_ours(lease: &Lease) -> bool {
    lease.metadata.namespace.as_deref() == Some(NAMESPACE) && lease.metadata.name.as_deref() == Some(NAME)
}

fn now() -> k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime {
    k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime(jiff::Timestamp::now())
}
