//! Time bounds, each named after what it bounds. They are the most a conformant cluster may take;
//! reaching one means wrong behaviour, not slowness. The report shows them beside what was measured.

use std::time::Duration;

/// The bounds a run holds a cluster to.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// From creating pods to all of them Ready.
    pub pods_ready: Duration,
    /// From a change of the API objects to every vantage seeing it.
    pub convergence: Duration,
    /// How old an answer may be: from a change of the API objects to the last connection that is
    /// routed as before it.
    pub staleness: Duration,
    /// The same of a name's answer, caches of the cluster's DNS included.
    pub name_staleness: Duration,
    /// How long something that must always hold is watched.
    pub stability: Duration,
    /// One call, from the first packet to the answer.
    pub call: Duration,
    /// One request to the API server.
    pub request: Duration,
    /// From starting an agent to its first word, and from losing its stream to having it back.
    pub agent: Duration,
    /// One check, all in all.
    pub check: Duration,
}

impl Bounds {
    /// For a cluster of somebody's. Gateway API conformance allows 30 s for the same things.
    pub const REAL: Self = Self {
        pods_ready: Duration::from_secs(120),
        convergence: Duration::from_secs(30),
        staleness: Duration::from_secs(10),
        // The Corefile of kubeadm caches answers for 30 s.
        name_staleness: Duration::from_secs(40),
        stability: Duration::from_secs(2),
        call: Duration::from_secs(3),
        request: Duration::from_secs(15),
        agent: Duration::from_secs(60),
        check: Duration::from_secs(300),
    };

    /// For the testbed, which has no images to pull and no disk to wait for: a change is everywhere
    /// within milliseconds, so seconds are room for a machine that is busy with something else.
    pub const TESTBED: Self = Self {
        pods_ready: Duration::from_secs(20),
        convergence: Duration::from_secs(5),
        staleness: Duration::from_secs(5),
        name_staleness: Duration::from_secs(5),
        stability: Duration::from_millis(200),
        call: Duration::from_secs(1),
        request: Duration::from_secs(10),
        agent: Duration::from_secs(15),
        check: Duration::from_secs(60),
    };
}
