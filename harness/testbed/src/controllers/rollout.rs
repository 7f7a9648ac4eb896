//! The arithmetic of a rolling update: how far the new ReplicaSet may grow and the old ones must shrink
//! ([Deployments, "Rolling Update Deployment"](https://kubernetes.io/docs/concepts/workloads/controllers/deployment/#rolling-update-deployment)).

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// The fenceposts of one rollout, in pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    pub(crate) desired: i32,
    pub(crate) max_surge: i32,
    pub(crate) max_unavailable: i32,
}

/// What counts of a ReplicaSet: what was asked of it, and what it has available.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Size {
    pub(crate) replicas: i32,
    pub(crate) available: i32,
}

impl Limits {
    /// Percentages of `desired` are rounded up for the surge and down for the unavailable ones; both
    /// zero would never get anywhere, so then one may be unavailable.
    pub(crate) fn new(
        desired: i32,
        max_surge: Option<&IntOrString>,
        max_unavailable: Option<&IntOrString>,
    ) -> Self {
        let quarter = IntOrString::String("25%".to_owned());
        let surge = resolve(max_surge.unwrap_or(&quarter), desired, Rounding::Up);
        let unavailable = resolve(max_unavailable.unwrap_or(&quarter), desired, Rounding::Down);
        let unavailable = if surge == 0 && unavailable == 0 { 1 } else { unavailable };
        Self { desired, max_surge: surge, max_unavailable: unavailable.min(desired) }
    }

    /// Everything is replaced at once.
    pub(crate) fn recreate(desired: i32) -> Self {
        Self { desired, max_surge: 0, max_unavailable: 0 }
    }

    pub(crate) fn most(self) -> i32 {
        self.desired + self.max_surge
    }

    pub(crate) fn fewest_available(self) -> i32 {
        self.desired - self.max_unavailable
    }

    /// How many replicas the new ReplicaSet gets next, when all together ask for `total` now.
    pub(crate) fn grown(self, new: i32, total: i32) -> i32 {
        if new >= self.desired {
            return self.desired;
        }
        let room = (self.most() - total).max(0);
        new + room.min(self.desired - new)
    }

    /// How many replicas each old ReplicaSet, oldest first, gets next. What is not available goes
    /// first: it serves nobody.
    pub(crate) fn shrunk(self, new: Size, old: &[Size]) -> Vec<i32> {
        let mut sizes: Vec<i32> = old.iter().map(|old| old.replicas).collect();
        let total = new.replicas + sizes.iter().sum::<i32>();
        let new_unavailable = new.replicas - new.available;
        let mut may_go = (total - self.fewest_available() - new_unavailable).max(0);
        for (size, old) in sizes.iter_mut().zip(old) {
            let unhealthy = (old.replicas - old.available).clamp(0, may_go);
            *size -= unhealthy;
            may_go -= unhealthy;
        }
        let available = new.available + old.iter().map(|old| old.available).sum::<i32>();
        let mut spare = (available - self.fewest_available()).clamp(0, may_go);
        for size in &mut sizes {
            let gone = spare.min(*size);
            *size -= gone;
            spare -= gone;
        }
        sizes
    }

    /// Spreads a change of the Deployment's size over its ReplicaSets during a rollout, each by its
    /// share; `before` is the most that was allowed when the sizes were set
    /// ([Deployments, "Proportional scaling"](https://kubernetes.io/docs/concepts/workloads/controllers/deployment/#proportional-scaling)).
    pub(crate) fn in_proportion(self, sizes: &[i32], before: i32) -> Vec<i32> {
        let allowed = if self.desired > 0 { self.most() } else { 0 };
        let change = allowed - sizes.iter().sum::<i32>();
        // The largest changes first: it bears the rounding.
        let mut order: Vec<usize> = (0..sizes.len()).collect();
        order.sort_by_key(|&index| std::cmp::Reverse(sizes[index]));
        let mut scaled = sizes.to_vec();
        let mut done = 0;
        for &index in &order {
            let share = self.share(sizes[index], before);
            let left = change - done;
            let share = if change > 0 { share.clamp(0, left.max(0)) } else { share.clamp(left.min(0), 0) };
            scaled[index] += share;
            done += share;
        }
        if let Some(&largest) = order.first() {
            scaled[largest] = (scaled[largest] + change - done).max(0);
        }
        scaled
    }

    fn share(self, size: i32, before: i32) -> i32 {
        if self.desired == 0 || before <= 0 {
            return if self.desired == 0 { -size } else { 0 };
        }
        let exact = f64::from(size) * f64::from(self.most()) / f64::from(before);
        #[expect(clippy::cast_possible_truncation, reason = "a number of pods fits, and `as` saturates")]
        let rounded = exact.round() as i32;
        rounded - size
    }
}

/// What becomes of a part of a pod.
#[derive(Clone, Copy)]
pub(super) enum Rounding {
    Up,
    Down,
}

/// The number itself, or a percentage.
pub(super) fn resolve(value: &IntOrString, of: i32, rounding: Rounding) -> i32 {
    match value {
        IntOrString::Int(number) => (*number).max(0),
        IntOrString::String(text) => {
            let percent = text.trim_end_matches('%').parse::<i64>().unwrap_or_default().max(0);
            let hundredfold = percent.saturating_mul(of.into());
            let pods = match rounding {
                Rounding::Up => hundredfold.saturating_add(99) / 100,
                Rounding::Down => hundredfold / 100,
            };
            i32::try_from(pods).unwrap_or(i32::MAX / 4)
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn percent(value: i32) -> IntOrString {
        IntOrString::String(format!("{value}%"))
    }

    #[test]
    fn limits() {
        // desired, surge, unavailable, resolved surge, resolved unavailable
        let table = [
            (10, None, None, 3, 2),
            (1, None, None, 1, 0),
            (4, Some(IntOrString::Int(0)), Some(IntOrString::Int(0)), 0, 1),
            (3, Some(percent(0)), Some(percent(25)), 0, 1),
            (5, Some(percent(100)), Some(percent(100)), 5, 5),
            (2, Some(IntOrString::Int(1)), Some(IntOrString::Int(7)), 1, 2),
            (0, None, None, 0, 0),
        ];
        for (desired, surge, unavailable, max_surge, max_unavailable) in table {
            let limits = Limits::new(desired, surge.as_ref(), unavailable.as_ref());
            assert_eq!(limits, Limits { desired, max_surge, max_unavailable }, "{surge:?} {unavailable:?}");
        }
    }

    #[test]
    fn unhealthy_old_pods_go_first() {
        let limits = Limits { desired: 10, max_surge: 2, max_unavailable: 2 };
        let new = Size { replicas: 2, available: 0 };
        let old = [Size { replicas: 5, available: 5 }, Size { replicas: 5, available: 3 }];
        assert_eq!(limits.shrunk(new, &old), [5, 3]);
        let old = [Size { replicas: 5, available: 5 }, Size { replicas: 3, available: 3 }];
        assert_eq!(limits.shrunk(new, &old), [5, 3], "with eight available not one may go");
        let new = Size { replicas: 4, available: 3 };
        assert_eq!(limits.shrunk(new, &old), [2, 3]);
    }

    #[test]
    fn scaling_in_the_middle_of_a_rollout_is_shared() {
        // The worked example of the documentation: 10 -> 15 replicas, surge 3.
        let limits = Limits { desired: 15, max_surge: 3, max_unavailable: 2 };
        assert_eq!(limits.in_proportion(&[8, 5], 13), [11, 7]);
        let none = Limits { desired: 0, max_surge: 0, max_unavailable: 0 };
        assert_eq!(none.in_proportion(&[8, 5], 13), [0, 0]);
    }

    prop_compose! {
        fn limits_and_sizes()(
            desired in 0..40_i32,
            surge in prop_oneof![(0..10_i32).prop_map(IntOrString::Int), (0..=100_i32).prop_map(percent)],
            unavailable in prop_oneof![(0..10_i32).prop_map(IntOrString::Int), (0..=100_i32).prop_map(percent)],
            old in prop::collection::vec((0..20_i32, 0..=100_i32), 0..4),
        ) -> (Limits, Vec<Size>) {
            let old = old.into_iter()
                .map(|(replicas, share)| Size { replicas, available: replicas * share / 100 })
                .collect();
            (Limits::new(desired, Some(&surge), Some(&unavailable)), old)
        }
    }

    proptest! {
        #[test]
        fn a_step_keeps_between_the_fenceposts(
            (limits, old) in limits_and_sizes(),
            new in (0..20_i32, 0..=100_i32),
        ) {
            let new = Size { replicas: new.0, available: new.0 * new.1 / 100 };
            let total = new.replicas + old.iter().map(|old| old.replicas).sum::<i32>();
            let grown = limits.grown(new.replicas, total);
            prop_assert!(grown <= limits.desired);
            prop_assert!(grown <= new.replicas || total + grown - new.replicas <= limits.most());
            let sizes = limits.shrunk(new, &old);
            // The worst case: what shrinks takes available pods only after all others are gone.
            let left = new.available
                + sizes.iter().zip(&old).map(|(size, old)| old.available.min(*size)).sum::<i32>();
            let available = new.available + old.iter().map(|old| old.available).sum::<i32>();
            prop_assert!(left >= limits.fewest_available().min(available), "{sizes:?}");
            prop_assert!(sizes.iter().zip(&old).all(|(size, old)| (0..=old.replicas).contains(size)));
        }

        /// Each ReplicaSet gets its pods available at some time; then the rollout ends.
        #[test]
        fn a_rollout_ends_and_never_leaves_the_fenceposts((limits, mut old) in limits_and_sizes()) {
            for old in &mut old {
                old.available = old.replicas;
            }
            let mut new = Size::default();
            for _ in 0..200 {
                let total = new.replicas + old.iter().map(|old| old.replicas).sum::<i32>();
                let available = new.available + old.iter().map(|old| old.available).sum::<i32>();
                let grown = limits.grown(new.replicas, total);
                if grown != new.replicas {
                    new.replicas = grown;
                    continue;
                }
                let sizes = limits.shrunk(new, &old);
                for (old, size) in old.iter_mut().zip(sizes) {
                    old.replicas = size;
                    old.available = old.available.min(size);
                }
                let left = new.available + old.iter().map(|old| old.available).sum::<i32>();
                prop_assert!(left >= limits.fewest_available().min(available));
                new.available = new.replicas;
            }
            prop_assert_eq!(new.replicas, limits.desired);
            prop_assert_eq!(old.iter().map(|old| old.replicas).sum::<i32>(), 0);
        }

        #[test]
        fn proportional_scaling_adds_up(
            (limits, old) in limits_and_sizes(),
            before in 0..60_i32,
        ) {
            let sizes: Vec<i32> = old.iter().map(|old| old.replicas).filter(|size| *size > 0).collect();
            prop_assume!(!sizes.is_empty());
            let scaled = limits.in_proportion(&sizes, before);
            let allowed = if limits.desired > 0 { limits.most() } else { 0 };
            prop_assert!(scaled.iter().all(|size| *size >= 0));
            prop_assert!(scaled.iter().sum::<i32>() >= allowed);
            if sizes.iter().sum::<i32>() <= allowed {
                prop_assert_eq!(scaled.iter().sum::<i32>(), allowed);
            }
        }
    }
}
