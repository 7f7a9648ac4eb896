//! What a kubelet does about a pod after it was away, or was taken for dead: it goes on from what runs,
//! and says again what is true.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use tokio::time::Instant;

use super::{State, Worker, status};

/// How soon the same pod's state is said again when it is contradicted again: whoever contradicts may
/// have a reason that the kubelet is about to remove.
const MEND_PAUSE: Duration = Duration::from_millis(250);

impl Worker {
    pub(crate) fn uid(&self) -> String {
        self.pod.uid().unwrap_or_default()
    }

    /// Leaves the pod to itself: nobody looks after it until [`Self::wake`].
    pub(super) fn fall_asleep(&mut self) {
        for slot in &mut self.slots {
            slot.probes = None;
        }
    }

    /// Takes the pod up again, as the API shows it now.
    pub(super) fn wake(&mut self, pod: Arc<Pod>) {
        self.retry = None;
        self.mended = None;
        self.see(pod);
        // What ended meanwhile comes first: nothing may be reported that is known to be over.
        while let Ok(end) = self.exits.try_recv() {
            self.ended(&end);
        }
        for index in 0..self.slots.len() {
            let slot = &mut self.slots[index];
            // Back-offs are kept in the kubelet's memory only.
            slot.back_off = None;
            slot.due = slot.due.map(|due| due.min(Instant::now()));
            if let State::Running { since } = slot.view.state {
                let ran = Duration::try_from(Timestamp::now().duration_since(since)).unwrap_or_default();
                let now = Instant::now();
                self.begin_probes(index, now.checked_sub(ran).unwrap_or(now));
                if self.terminating.is_some()
                    && let Some(probes) = &mut self.slots[index].probes
                {
                    probes.terminating();
                }
            }
        }
    }

    /// Takes note of the pod as the API shows it. If somebody else changed there what is the kubelet's
    /// to say, it is said again.
    pub(super) fn see(&mut self, pod: Arc<Pod>) {
        self.pod = pod;
        if status::version(&self.pod) <= self.reported_version {
            return;
        }
        let contradicted = match (&self.pod.status, &self.reported) {
            (Some(api), Some(reported)) => status::contradicts(api, reported),
            _ => false,
        };
        let now = Instant::now();
        let earliest = self.mended.map_or(now, |mended| mended + MEND_PAUSE);
        self.mend = contradicted.then(|| earliest.max(now));
    }

    /// Takes what the API says for what was reported, so that the difference to the truth is sent.
    pub(super) fn accept_contradiction(&mut self) {
        if let (Some(api), Some(reported)) = (&self.pod.status, &mut self.reported) {
            reported.phase.clone_from(&api.phase);
            reported.conditions.clone_from(&api.conditions);
        }
    }
}
