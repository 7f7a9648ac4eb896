//! What a Deployment reports about its rollout
//! ([Deployments, "Deployment status"](https://kubernetes.io/docs/concepts/workloads/controllers/deployment/#deployment-status)).

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus, ReplicaSet};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::rollout::Limits;

/// What happened to the ReplicaSet of the current template in this reconcile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Newest {
    Absent,
    Created,
    Found,
}

/// The status as it should be now, and when a deadline makes it change by itself.
pub(crate) fn status(
    deployment: &Deployment,
    limits: Limits,
    all: &[Arc<ReplicaSet>],
    newest: Option<&ReplicaSet>,
    happened: Newest,
    now: Timestamp,
) -> (DeploymentStatus, Option<Duration>) {
    let before = deployment.status.clone().unwrap_or_default();
    let sum = |field: fn(&k8s_openapi::api::apps::v1::ReplicaSetStatus) -> i32| -> i32 {
        all.iter().filter_map(|one| one.status.as_ref()).map(field).sum()
    };
    let available = sum(|status| status.available_replicas.unwrap_or_default());
    let asked: i32 = all.iter().map(|one| spec_replicas(one)).sum();
    let mut status = DeploymentStatus {
        observed_generation: deployment.metadata.generation,
        replicas: Some(sum(|status| status.replicas)),
        updated_replicas: Some(
            newest
                .and_then(|newest| newest.status.as_ref())
                .map(|status| status.replicas)
                .unwrap_or_default(),
        ),
        ready_replicas: Some(sum(|status| status.ready_replicas.unwrap_or_default())),
        available_replicas: Some(available),
        unavailable_replicas: Some((asked - available).max(0)),
        terminating_replicas: Some(sum(|status| status.terminating_replicas.unwrap_or_default())),
        collision_count: before.collision_count,
        conditions: before.conditions.clone(),
    };
    let next = set_progressing(deployment, &before, &mut status, limits, newest, happened, now);
    if available >= limits.fewest_available() {
        set(
            &mut status,
            "Available",
            "True",
            "MinimumReplicasAvailable",
            "Deployment has minimum availability.",
            now,
        );
    } else {
        set(
            &mut status,
            "Available",
            "False",
            "MinimumReplicasUnavailable",
            "Deployment does not have minimum availability.",
            now,
        );
    }
    (status, next)
}

pub(crate) fn spec_replicas(replica_set: &ReplicaSet) -> i32 {
    replica_set.spec.replicas.unwrap_or(1)
}

/// Is everything new, and nothing old left?
pub(crate) fn is_complete(status: &DeploymentStatus, desired: i32) -> bool {
    let number = Option::unwrap_or_default;
    number(status.updated_replicas) == desired
        && number(status.replicas) == desired
        && number(status.available_replicas) == desired
}

fn set_progressing(
    deployment: &Deployment,
    before: &DeploymentStatus,
    status: &mut DeploymentStatus,
    limits: Limits,
    newest: Option<&ReplicaSet>,
    happened: Newest,
    now: Timestamp,
) -> Option<Duration> {
    let spec = &deployment.spec;
    // The API server's default; the largest number stands for "no deadline".
    let deadline = spec.progress_deadline_seconds.unwrap_or(600);
    if deadline == i32::MAX {
        if let Some(conditions) = &mut status.conditions {
            conditions.retain(|condition| condition.type_.as_deref() != Some("Progressing"));
        }
        return None;
    }
    let paused = spec.paused.unwrap_or_default();
    let current = condition(before, "Progressing").cloned();
    let reason = current.as_ref().and_then(|current| current.reason.as_deref()).unwrap_or_default();
    if paused {
        if !matches!(reason, "DeploymentPaused" | "ProgressDeadlineExceeded") {
            set(status, "Progressing", "Unknown", "DeploymentPaused", "Deployment is paused", now);
        }
        return None;
    }
    let name = newest.and_then(|newest| newest.metadata.name.as_deref()).unwrap_or_default();
    if happened == Newest::Created {
        let message = format!("Created new replica set \"{name}\"");
        set(status, "Progressing", "True", "NewReplicaSetCreated", &message, now);
        return Some(seconds(deadline));
    }
    if reason == "DeploymentPaused" {
        set(status, "Progressing", "Unknown", "DeploymentResumed", "Deployment is resumed", now);
        return Some(seconds(deadline));
    }
    if current.is_none() && happened == Newest::Found {
        let message = format!("Found new replica set \"{name}\"");
        set(status, "Progressing", "True", "FoundNewReplicaSet", &message, now);
    }
    if status.replicas == status.updated_replicas && reason == "NewReplicaSetAvailable" {
        return None;
    }
    if is_complete(status, limits.desired) && newest.is_some() {
        let message = format!("ReplicaSet \"{name}\" has successfully progressed.");
        set(status, "Progressing", "True", "NewReplicaSetAvailable", &message, now);
        return None;
    }
    if made_progress(before, status) {
        let message = format!("ReplicaSet \"{name}\" is progressing.");
        renew(status, "Progressing", "True", "ReplicaSetUpdated", &message, now);
        return Some(seconds(deadline));
    }
    let current = condition(status, "Progressing")?;
    if current.reason.as_deref() == Some("ProgressDeadlineExceeded") {
        return None;
    }
    let since = current.last_update_time.as_ref().map_or(now, |time| time.0);
    let left = SignedDuration::from_secs(deadline.into()) - now.duration_since(since);
    if left.is_positive() {
        return Some(left.unsigned_abs());
    }
    let message = format!("ReplicaSet \"{name}\" has timed out progressing.");
    set(status, "Progressing", "False", "ProgressDeadlineExceeded", &message, now);
    None
}

fn made_progress(before: &DeploymentStatus, after: &DeploymentStatus) -> bool {
    let number = Option::unwrap_or_default;
    let old = |status: &DeploymentStatus| number(status.replicas) - number(status.updated_replicas);
    number(after.updated_replicas) > number(before.updated_replicas)
        || old(after) < old(before)
        || number(after.ready_replicas) > number(before.ready_replicas)
        || number(after.available_replicas) > number(before.available_replicas)
}

fn condition<'a>(status: &'a DeploymentStatus, kind: &str) -> Option<&'a DeploymentCondition> {
    status.conditions.as_ref()?.iter().find(|condition| condition.type_.as_deref() == Some(kind))
}

/// Sets a condition; the same status and reason as before change nothing.
fn set(status: &mut DeploymentStatus, kind: &str, value: &str, reason: &str, message: &str, now: Timestamp) {
    let same = condition(status, kind).is_some_and(|current| {
        current.status.as_deref() == Some(value) && current.reason.as_deref() == Some(reason)
    });
    if !same {
        renew(status, kind, value, reason, message, now);
    }
}

/// Sets a condition and its update time, whatever it was; a transition is a change of the status only.
fn renew(
    status: &mut DeploymentStatus,
    kind: &str,
    value: &str,
    reason: &str,
    message: &str,
    now: Timestamp,
) {
    let now = Some(Time(Timestamp::from_second(now.as_second()).unwrap_or(now)));
    let since = condition(status, kind)
        .filter(|current| current.status.as_deref() == Some(value))
        .and_then(|current| current.last_transition_time.clone());
    let conditions = status.conditions.get_or_insert_default();
    conditions.retain(|condition| condition.type_.as_deref() != Some(kind));
    conditions.push(DeploymentCondition {
        type_: Some(kind.to_owned()),
        status: Some(value.to_owned()),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_transition_time: since.or_else(|| now.clone()),
        last_update_time: now,
    });
}

fn seconds(number: i32) -> Duration {
    Duration::from_secs(u64::try_from(number).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + second).unwrap()
    }

    fn replica_set(name: &str, replicas: i32, available: i32) -> Arc<ReplicaSet> {
        Arc::new(
            serde_json::from_value(json!({
                "metadata": {"name": name},
                "spec": {"replicas": replicas, "selector": {}},
                "status": {"replicas": replicas, "readyReplicas": available, "availableReplicas": available},
            }))
            .unwrap(),
        )
    }

    fn reasons(status: &DeploymentStatus) -> (String, String) {
        let of = |kind| {
            let condition = condition(status, kind).expect("both conditions are set");
            format!("{} {}", condition.status.as_deref().unwrap(), condition.reason.as_deref().unwrap())
        };
        (of("Available"), of("Progressing"))
    }

    #[test]
    fn a_rollout_is_told_step_by_step() {
        let mut deployment: Deployment = serde_json::from_value(json!({
            "metadata": {"generation": 2},
            "spec": {"replicas": 2, "progressDeadlineSeconds": 60, "selector": {}, "template": {}},
        }))
        .unwrap();
        let limits = Limits { desired: 2, max_surge: 1, max_unavailable: 0 };
        let mut tell = |new: Arc<ReplicaSet>, happened, second| {
            let (status, next) =
                status(&deployment, limits, &[Arc::clone(&new)], Some(&new), happened, at(second));
            deployment.status = Some(status.clone());
            let (available, progressing) = reasons(&status);
            (available, progressing, next.map(|next| next.as_secs()))
        };
        let unavailable = || "False MinimumReplicasUnavailable".to_owned();
        let available = || "True MinimumReplicasAvailable".to_owned();
        assert_eq!(
            tell(replica_set("a", 0, 0), Newest::Created, 0),
            (unavailable(), "True NewReplicaSetCreated".to_owned(), Some(60))
        );
        assert_eq!(
            tell(replica_set("a", 2, 0), Newest::Found, 5),
            (unavailable(), "True ReplicaSetUpdated".to_owned(), Some(60))
        );
        assert_eq!(
            tell(replica_set("a", 2, 0), Newest::Found, 25),
            (unavailable(), "True ReplicaSetUpdated".to_owned(), Some(40))
        );
        assert_eq!(
            tell(replica_set("a", 2, 0), Newest::Found, 65),
            (unavailable(), "False ProgressDeadlineExceeded".to_owned(), None)
        );
        assert_eq!(
            tell(replica_set("a", 2, 2), Newest::Found, 70),
            (available(), "True NewReplicaSetAvailable".to_owned(), None)
        );
        assert_eq!(
            tell(replica_set("a", 2, 1), Newest::Found, 80),
            (unavailable(), "True NewReplicaSetAvailable".to_owned(), None)
        );
    }
}
