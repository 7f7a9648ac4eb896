//! Which pods of a DaemonSet to make and to delete, node by node
//! ([Perform a Rolling Update on a DaemonSet](https://kubernetes.io/docs/tasks/manage-daemon/update-daemon-set/)).

use std::sync::Arc;

use k8s_openapi::api::apps::v1::DaemonSetUpdateStrategy;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::pod_state::{is_finished, is_terminating};
use super::rollout::{Rounding, resolve};

/// One node, and the DaemonSet's pods there.
#[derive(Clone, Debug)]
pub(super) struct OnNode {
    pub(super) name: String,
    /// There should be a pod.
    pub(super) wanted: bool,
    /// A pod that is there need not go.
    pub(super) may_stay: bool,
    pub(super) pods: Vec<OwnPod>,
}

#[derive(Clone, Debug)]
pub(super) struct OwnPod {
    pub(super) pod: Arc<Pod>,
    /// It was made from the template as it is now.
    pub(super) is_new: bool,
    pub(super) is_available: bool,
}

/// How many nodes may be without an available pod during an update, and how many may have two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    /// None: old pods stay until somebody deletes them.
    pub(super) rolling: Option<(usize, usize)>,
}

impl Limits {
    /// Both are rounded up. Both zero would never get anywhere, so then one may be unavailable.
    pub(super) fn new(strategy: Option<&DaemonSetUpdateStrategy>, wanted: usize) -> Self {
        if strategy.and_then(|strategy| strategy.type_.as_deref()) == Some("OnDelete") {
            return Self { rolling: None };
        }
        let rolling = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
        let number = |value: Option<&IntOrString>, default: i32| {
            let of = i32::try_from(wanted).unwrap_or(i32::MAX);
            let number = value.map_or(default, |value| resolve(value, of, Rounding::Up));
            usize::try_from(number).unwrap_or_default()
        };
        let surge = number(rolling.and_then(|rolling| rolling.max_surge.as_ref()), 0);
        let unavailable = number(rolling.and_then(|rolling| rolling.max_unavailable.as_ref()), 1);
        Self { rolling: Some((if surge == 0 { unavailable.max(1) } else { unavailable }, surge)) }
    }
}

#[derive(Debug, Default)]
pub(super) struct Plan {
    /// The nodes to make pods for.
    pub(super) create: Vec<String>,
    pub(super) delete: Vec<Arc<Pod>>,
}

/// Plans one step: first every node gets its pod and no more, then old pods give way to new ones.
pub(super) fn plan(places: &[OnNode], limits: Limits) -> Plan {
    let mut plan = Plan::default();
    let surges = limits.rolling.is_some_and(|(_, surge)| surge > 0);
    let mut steady = Vec::new();
    for place in places {
        let (over, alive): (Vec<_>, Vec<_>) = place.pods.iter().partition(|own| is_finished(&own.pod));
        if !place.may_stay {
            plan.delete_unless_terminating(place.pods.iter());
            continue;
        }
        // What has ended makes room for another one.
        plan.delete_unless_terminating(over.iter().copied());
        if place.wanted && place.pods.iter().all(|own| is_finished(&own.pod) && is_terminating(&own.pod)) {
            plan.create.push(place.name.clone());
            continue;
        }
        let mut staying: Vec<_> = alive.into_iter().filter(|own| !is_terminating(&own.pod)).collect();
        staying
            .sort_by_key(|own| (own.pod.metadata.creation_timestamp.clone(), own.pod.metadata.name.clone()));
        let mut kept: Vec<&OwnPod> = Vec::new();
        for own in staying {
            // One of each age during a surge, else one.
            let has_place = kept.is_empty() || (surges && kept.iter().all(|kept| kept.is_new != own.is_new));
            match has_place {
                true => kept.push(own),
                false => plan.delete.push(Arc::clone(&own.pod)),
            }
        }
        if place.wanted {
            steady.push((place, kept));
        }
    }
    match limits.rolling {
        Some((_, surge)) if surge > 0 => roll_with_surge(&mut plan, &steady, surge),
        Some((unavailable, _)) => roll(&mut plan, &steady, unavailable, places),
        None => {}
    }
    plan
}

/// Old pods are deleted while few enough nodes are without one; those that serve nobody anyway go
/// at once.
fn roll(plan: &mut Plan, steady: &[(&OnNode, Vec<&OwnPod>)], most: usize, places: &[OnNode]) {
    let is_down = |place: &OnNode| place.wanted && !place.pods.iter().any(|own| own.is_available);
    let down = places.iter().filter(|place| is_down(place)).count();
    let mut may_go = most.saturating_sub(down);
    for (_, kept) in steady {
        let [own] = kept.as_slice() else { continue };
        if own.is_new {
            continue;
        }
        if !own.is_available {
            plan.delete.push(Arc::clone(&own.pod));
        } else if may_go > 0 {
            may_go -= 1;
            plan.delete.push(Arc::clone(&own.pod));
        }
    }
}

/// New pods are made beside old ones, which go as soon as the new one is available.
fn roll_with_surge(plan: &mut Plan, steady: &[(&OnNode, Vec<&OwnPod>)], most: usize) {
    let new_of = |kept: &[&OwnPod]| kept.iter().find(|own| own.is_new).map(|own| own.is_available);
    let old_of = |kept: &[&OwnPod]| kept.iter().find(|own| !own.is_new).map(|own| (*own).clone());
    let under_way = steady.iter().filter(|(_, kept)| kept.len() > 1 && new_of(kept) == Some(false)).count();
    let mut may_come = most.saturating_sub(under_way);
    for (place, kept) in steady {
        match (old_of(kept), new_of(kept)) {
            (Some(old), Some(true)) => plan.delete.push(old.pod),
            (Some(old), None) if !old.is_available => plan.create.push(place.name.clone()),
            (Some(_), None) if may_come > 0 => {
                may_come -= 1;
                plan.create.push(place.name.clone());
            }
            _ => {}
        }
    }
}

impl Plan {
    fn delete_unless_terminating<'a>(&mut self, pods: impl Iterator<Item = &'a OwnPod>) {
        self.delete.extend(pods.filter(|own| !is_terminating(&own.pod)).map(|own| Arc::clone(&own.pod)));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A word per pod: `new` or `old`, then `!` if it is not available, `x` if it terminates, `#` if it
    /// has ended; the node is not wanted if the text begins with `-`, and may not keep its pod with `--`.
    fn place(name: &str, text: &str) -> OnNode {
        let pods = text.trim_start_matches('-').split_whitespace().enumerate().map(|(index, word)| {
            let pod = serde_json::from_value(json!({
                "metadata": {"name": format!("{name}-{index}"),
                    "creationTimestamp": format!("2026-01-01T00:00:0{index}Z"),
                    "deletionTimestamp": word.contains('x').then_some("2026-01-01T00:00:00Z")},
                "status": {"phase": if word.contains('#') { "Failed" } else { "Running" }},
            }));
            OwnPod {
                pod: Arc::new(pod.unwrap()),
                is_new: word.starts_with("new"),
                is_available: !word.contains(['!', 'x', '#']),
            }
        });
        let (wanted, may_stay) = (!text.starts_with('-'), !text.starts_with("--"));
        OnNode { name: name.to_owned(), wanted, may_stay, pods: pods.collect() }
    }

    fn planned(places: &[&str], rolling: Option<(usize, usize)>) -> String {
        let places: Vec<_> =
            ["a", "b", "c", "d"].iter().zip(places).map(|(name, text)| place(name, text)).collect();
        let plan = plan(&places, Limits { rolling });
        let delete = plan.delete.iter().map(|pod| format!("-{}", pod.metadata.name.clone().unwrap()));
        plan.create.iter().map(|node| format!("+{node}")).chain(delete).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn every_node_has_one() {
        for rolling in [None, Some((1, 0)), Some((0, 1))] {
            assert_eq!(planned(&["", "new", "-", "-new"], rolling), "+a", "{rolling:?}");
            assert_eq!(planned(&["--new", "--newx", "new new", "newx"], rolling), "-a-0 -c-1", "{rolling:?}");
            assert_eq!(planned(&["new#", "new#x"], rolling), "+b -a-0", "{rolling:?}");
        }
    }

    #[test]
    fn old_pods_go_while_few_are_down() {
        assert_eq!(planned(&["old", "old", "old"], Some((1, 0))), "-a-0");
        assert_eq!(planned(&["old", "old", "old"], Some((2, 0))), "-a-0 -b-0");
        assert_eq!(planned(&["oldx", "old", "old"], Some((1, 0))), "");
        assert_eq!(planned(&["new!", "old", "old"], Some((1, 0))), "");
        assert_eq!(planned(&["new", "old", "old"], Some((1, 0))), "-b-0");
        assert_eq!(planned(&["old!", "old!", "old"], Some((1, 0))), "-a-0 -b-0", "they serve nobody");
        assert_eq!(planned(&["", "old", "new"], Some((1, 0))), "+a");
        assert_eq!(planned(&["old", "old!"], None), "");
    }

    #[test]
    fn with_a_surge_new_pods_come_first() {
        assert_eq!(planned(&["old", "old", "old"], Some((0, 1))), "+a");
        assert_eq!(planned(&["old new!", "old", "old"], Some((0, 1))), "");
        assert_eq!(planned(&["old new", "old", "old"], Some((0, 1))), "+b -a-0");
        assert_eq!(planned(&["old!", "old", "old"], Some((0, 1))), "+a +b");
        assert_eq!(planned(&["old new!", "old", "old"], Some((0, 2))), "+b");
    }

    #[test]
    fn limits() {
        let strategy = |value| serde_json::from_value::<DaemonSetUpdateStrategy>(value).unwrap();
        let of = |value| Limits::new(Some(&strategy(value)), 10).rolling;
        assert_eq!(Limits::new(None, 10).rolling, Some((1, 0)));
        assert_eq!(of(json!({"type": "OnDelete"})), None);
        assert_eq!(of(json!({"rollingUpdate": {"maxUnavailable": "25%"}})), Some((3, 0)));
        assert_eq!(of(json!({"rollingUpdate": {"maxUnavailable": 0}})), Some((1, 0)));
        assert_eq!(of(json!({"rollingUpdate": {"maxUnavailable": 0, "maxSurge": 2}})), Some((0, 2)));
    }
}
