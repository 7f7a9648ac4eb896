//! Plans: which fault strikes when, and what it does to whom; all of it drawn from a seed.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::{IndexedRandom as _, SliceRandom as _};
use rand::{Rng as _, SeedableRng as _};
use stickler_reports::PlannedFault;

use crate::bounds::Bounds;

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// A pod is deleted, and its Deployment makes another.
    PodDeleted,
    /// The main process of a container ends with an error, and its kubelet starts another.
    ContainerKilled,
    /// Pods become unready and ready again: quickly by a condition, slowly by what a probe finds.
    ReadinessFlapping,
    /// All pods of the Deployment are replaced.
    RollingUpdate,
    /// The Deployment is scaled up and down, and at last down by one.
    ScaleStorm,
}

/// The faults of a run, in the order they strike in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    pub strikes: Vec<Strike>,
}

/// One fault, from its first step to its healing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Strike {
    pub fault: Fault,
    /// Since the first strike may come; later if the one before is not over.
    pub at: Duration,
    pub steps: Vec<Step>,
    /// After so long it is healed.
    pub takes: Duration,
}

/// One step of a fault, so long after its beginning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    pub after: Duration,
    pub act: Act,
}

/// What a step does. Pods are counted among those that are ready just then, by name; the count
/// begins anew after the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    DeletePod {
        pick: usize,
    },
    KillContainer {
        pick: usize,
    },
    /// The condition of a pod made by hand.
    Gate {
        pod: usize,
        ready: bool,
    },
    /// The file the probe of one of the Deployment's pods looks for is taken away.
    Unready {
        pick: usize,
    },
    Roll,
    Scale {
        replicas: u32,
    },
    /// Waits until the Deployment has what it asks for.
    AwaitRollout,
}

/// How many replicas the Deployment has while nothing strikes.
pub(super) const REPLICAS: u32 = 4;
/// How many pods are made by hand.
pub(super) const GATED: usize = 2;

impl Fault {
    /// Every kind there is.
    pub const ALL: &'static [Self] = &[
        Self::PodDeleted,
        Self::ContainerKilled,
        Self::ReadinessFlapping,
        Self::RollingUpdate,
        Self::ScaleStorm,
    ];

    /// The name in lists and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::PodDeleted => "pod-deleted",
            Self::ContainerKilled => "container-killed",
            Self::ReadinessFlapping => "readiness-flapping",
            Self::RollingUpdate => "rolling-update",
            Self::ScaleStorm => "scale-storm",
        }
    }

    fn draw(self, at: Duration, bounds: &Bounds, random: &mut StdRng) -> Strike {
        let millis = Duration::from_millis;
        let pick = random.random_range(0..1000);
        // So long that what is still served at its end is too old.
        let too_long = bounds.staleness + millis(2_500);
        let (steps, takes) = match self {
            Self::PodDeleted => {
                (vec![step(0, Act::DeletePod { pick })], millis(random.random_range(1_000..2_000)))
            }
            Self::ContainerKilled => {
                (vec![step(0, Act::KillContainer { pick })], millis(random.random_range(1_500..2_500)))
            }
            Self::ReadinessFlapping => {
                let pod = random.random_range(0..GATED);
                let mut steps = vec![step(0, Act::Unready { pick })];
                let mut after = 0;
                for flap in 0..random.random_range(4..8_u32) {
                    steps.push(step(after, Act::Gate { pod, ready: flap % 2 == 1 }));
                    after += random.random_range(50..250);
                }
                steps.push(step(after, Act::Gate { pod, ready: false }));
                // The probe looks once a second.
                (steps, millis(after).max(millis(1_000)) + too_long)
            }
            Self::RollingUpdate => (vec![step(0, Act::Roll)], millis(random.random_range(2_500..3_500))),
            Self::ScaleStorm => {
                let mut steps = Vec::new();
                let mut after = 0;
                for _ in 0..random.random_range(3..6_u32) {
                    steps.push(step(after, Act::Scale { replicas: random.random_range(2..=8) }));
                    after += random.random_range(100..500);
                }
                steps.push(step(after, Act::Scale { replicas: REPLICAS }));
                steps.push(step(after, Act::AwaitRollout));
                // What was told of them is done with by then, and nothing else happens afterwards: whoever
                // misses that a pod left is not told again.
                after += 1_000;
                steps.push(step(after, Act::Scale { replicas: REPLICAS - 1 }));
                (steps, millis(after) + too_long)
            }
        };
        Strike { fault: self, at, steps, takes }
    }
}

fn step(after_ms: u64, act: Act) -> Step {
    Step { after: Duration::from_millis(after_ms), act }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// There is no such fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no fault `{0}`; there are: {known}", known = Fault::ALL.iter().map(|fault| fault.name()).collect::<Vec<_>>().join(", "))]
pub struct UnknownFault(String);

impl FromStr for Fault {
    type Err = UnknownFault;

    fn from_str(name: &str) -> Result<Self, UnknownFault> {
        let found = Self::ALL.iter().find(|fault| fault.name() == name);
        found.copied().ok_or_else(|| UnknownFault(name.to_owned()))
    }
}

impl Plan {
    /// Draws a plan: each of these faults at least once, in any order, then any of them until the
    /// duration is over.
    pub fn draw(seed: u64, faults: &[Fault], duration: Duration, bounds: &Bounds) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let mut first = faults.to_vec();
        first.sort_unstable();
        first.dedup();
        let all = first.clone();
        first.shuffle(&mut random);
        let mut strikes = Vec::new();
        let mut at = Duration::ZERO;
        let mut first = first.into_iter();
        loop {
            let due = first.next();
            let Some(fault) = due.or_else(|| all.choose(&mut random).copied()) else { break };
            let strike = fault.draw(at, bounds, &mut random);
            if due.is_none() && at + strike.takes > duration {
                break;
            }
            at += strike.takes + Duration::from_millis(random.random_range(100..600));
            strikes.push(strike);
        }
        Self { strikes }
    }

    /// The plan in words.
    pub fn cards(&self) -> Vec<PlannedFault> {
        let card = |strike: &Strike| PlannedFault {
            fault: strike.fault.name().to_owned(),
            at_ms: u64::try_from(strike.at.as_millis()).unwrap_or(u64::MAX),
            what: strike.to_string(),
        };
        self.strikes.iter().map(card).collect()
    }
}

impl fmt::Display for Strike {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, step) in self.steps.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}{} ms: {}", step.after.as_millis(), step.act)?;
        }
        write!(f, "; healed after {} ms", self.takes.as_millis())
    }
}

impl fmt::Display for Act {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DeletePod { pick } => write!(f, "delete ready pod number {pick}"),
            Self::KillContainer { pick } => write!(f, "kill the container of ready pod number {pick}"),
            Self::Gate { pod, ready: true } => write!(f, "`gated-{pod}` ready"),
            Self::Gate { pod, ready: false } => write!(f, "`gated-{pod}` unready"),
            Self::Unready { pick } => write!(f, "ready pod number {pick} unready for its probe"),
            Self::Roll => f.write_str("replace all pods"),
            Self::Scale { replicas } => write!(f, "{replicas} replicas"),
            Self::AwaitRollout => f.write_str("await them"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(seed: u64, faults: &[Fault], seconds: u64) -> Plan {
        Plan::draw(seed, faults, Duration::from_secs(seconds), &Bounds::TESTBED)
    }

    #[test]
    fn a_seed_decides_everything() {
        assert_eq!(plan(1, Fault::ALL, 60), plan(1, Fault::ALL, 60));
        assert_ne!(plan(1, Fault::ALL, 60), plan(2, Fault::ALL, 60));
        let backwards: Vec<Fault> = Fault::ALL.iter().rev().copied().collect();
        assert_eq!(plan(1, Fault::ALL, 60), plan(1, &backwards, 60), "the order of the list is no matter");
    }

    #[test]
    fn every_fault_strikes_however_short_the_run() {
        for seed in 0..50 {
            let plan = plan(seed, Fault::ALL, 1);
            let mut struck: Vec<Fault> = plan.strikes.iter().map(|strike| strike.fault).collect();
            struck.sort_unstable();
            assert_eq!(struck, Fault::ALL);
        }
    }

    #[test]
    fn strikes_follow_each_other_and_end_in_time() {
        let plan = plan(3, Fault::ALL, 60);
        for pair in plan.strikes.windows(2) {
            assert!(pair[0].at + pair[0].takes < pair[1].at);
        }
        let last = plan.strikes.last().expect("some");
        let end = last.at + last.takes;
        // Another might have taken twelve seconds.
        assert!(end <= Duration::from_secs(60) && end > Duration::from_secs(45), "{end:?}");
    }

    /// What is served still at the end of one of these is a violation, whatever the seed.
    #[test]
    fn who_left_stays_away_for_longer_than_an_answer_may_be_old() {
        for seed in 0..50 {
            for strike in plan(seed, &[Fault::ReadinessFlapping, Fault::ScaleStorm], 1).strikes {
                let last = strike.steps.last().expect("some");
                assert!(matches!(last.act, Act::Gate { ready: false, .. } | Act::Scale { replicas: 3 }));
                assert!(strike.takes - last.after > Bounds::TESTBED.staleness, "{strike}");
            }
        }
    }

    #[test]
    fn faults_are_known_by_name() {
        for fault in Fault::ALL {
            assert_eq!(fault.name().parse(), Ok(*fault));
        }
        let error = "pod-delete".parse::<Fault>().unwrap_err().to_string();
        assert!(error.contains("`pod-delete`") && error.contains("scale-storm"), "{error}");
    }
}
