//! Time bounds, each named after what it bounds. They are the most a conformant cluster may take;
//! reaching one means wrong behaviour, not slowness. The report shows them beside what was measured.

use std::time::Duration;

use crate::measure::Measured;

/// How many times as long as was measured at the start something may take later: a cluster is busier then,
/// and a few measurements have not seen the slowest.
pub(crate) const FACTOR: u32 = 10;

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

    /// For a cluster whose speed was measured: [`FACTOR`] times as long, but never less than the testbed
    /// is given, and never more than the ceiling, which also holds where nothing could be measured.
    pub(crate) fn measured(seen: &Measured, ceiling: Self) -> Self {
        let bound = |seen: Option<Duration>, floor: Duration, ceiling: Duration| {
            // Whole milliseconds, as people read them.
            let many = |seen: Duration| {
                Duration::from_millis(u64::try_from((seen * FACTOR).as_millis()).unwrap_or(u64::MAX))
            };
            seen.map_or(ceiling, |seen| many(seen).max(floor).min(ceiling))
        };
        let floor = Self::TESTBED;
        // The slower one of two, if both are known.
        let slower = |one: Option<Duration>, other: Option<Duration>| Some(one?.max(other?));
        Self {
            convergence: bound(slower(seen.served, seen.unserved), floor.convergence, ceiling.convergence),
            staleness: bound(seen.unserved, floor.staleness, ceiling.staleness),
            name_staleness: bound(
                slower(seen.named, seen.unnamed),
                floor.name_staleness,
                ceiling.name_staleness,
            ),
            ..ceiling
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_follow_from_what_was_measured_within_a_floor_and_a_ceiling() {
        let ms = |ms| Some(Duration::from_millis(ms));
        let seen = Measured { served: ms(1_200), unserved: ms(700), ..Measured::default() };
        let bounds = Bounds::measured(&seen, Bounds::REAL);
        assert_eq!(bounds.convergence, Duration::from_secs(12));
        assert_eq!(bounds.staleness, Duration::from_secs(7));
        let odd = Measured { served: Some(Duration::from_nanos(1_108_612_211)), ..seen.clone() };
        assert_eq!(format!("{:?}", Bounds::measured(&odd, Bounds::REAL).convergence), "11.086s");
        let nothing = Bounds::measured(&Measured::default(), Bounds::REAL);
        assert_eq!(nothing.convergence, Bounds::REAL.convergence);
        assert_eq!(nothing.name_staleness, Bounds::REAL.name_staleness);
        // Nobody promises when; a cluster that is busy only makes everybody wait.
        assert_eq!(bounds.pods_ready, Bounds::REAL.pods_ready);
        let quick = Measured { served: ms(3), unserved: ms(2), named: ms(1), unnamed: ms(1), ..seen };
        let bounds = Bounds::measured(&quick, Bounds::REAL);
        assert_eq!(bounds.convergence, Bounds::TESTBED.convergence);
        assert_eq!(bounds.name_staleness, Bounds::TESTBED.name_staleness);
        let slow = Measured { served: ms(60_000), unserved: ms(60_000), ..quick };
        assert_eq!(Bounds::measured(&slow, Bounds::REAL).convergence, Bounds::REAL.convergence);
    }
}
