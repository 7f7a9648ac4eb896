//! The history of a DaemonSet: every template it had, so that one can go back
//! ([Perform a Rollback on a DaemonSet](https://kubernetes.io/docs/tasks/manage-daemon/rollback-daemon-set/)).

use std::cmp::Reverse;
use std::sync::Arc;

use anyhow::Context;
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;

use super::daemonset::HASH;
use super::ownership::{controlled_by, controller};
use super::replicaset::gone_is_fine;

/// How many templates are kept beside those that pods still have.
const DEFAULT_LIMIT: i32 = 10;

/// What is to be done about the history, so that the template with this hash is the newest.
#[derive(Debug, Default)]
pub(super) struct Step {
    create: Option<ControllerRevision>,
    /// One that was there before becomes the newest again.
    renumber: Option<(Arc<ControllerRevision>, i64)>,
    delete: Vec<Arc<ControllerRevision>>,
}

/// Plans it. `in_use` are the hashes pods still have.
pub(super) fn step(
    daemon_set: &DaemonSet,
    hash: &str,
    in_use: &[String],
    revisions: &[Arc<ControllerRevision>],
) -> serde_json::Result<Step> {
    let uid = daemon_set.metadata.uid.as_ref();
    let mut mine: Vec<_> = revisions
        .iter()
        .filter(|one| controller(&one.metadata).map(|owner| &owner.uid) == uid && uid.is_some())
        .collect();
    mine.sort_by_key(|one| Reverse(one.revision));
    let newest = mine.first().and_then(|one| one.revision).unwrap_or_default();
    let mut step = Step::default();
    match mine.iter().find(|one| hash_of(one) == Some(hash)) {
        None => step.create = Some(new_revision(daemon_set, hash, newest + 1)?),
        Some(one) if one.revision < Some(newest) => step.renumber = Some((Arc::clone(one), newest + 1)),
        Some(_) => {}
    }
    let limit = daemon_set.spec.revision_history_limit.unwrap_or(DEFAULT_LIMIT).max(0);
    let is_old = |one: &&&Arc<ControllerRevision>| {
        hash_of(one) != Some(hash) && !in_use.iter().any(|used| hash_of(one) == Some(used))
    };
    step.delete =
        mine.iter().filter(is_old).skip(limit.unsigned_abs() as usize).map(|one| Arc::clone(one)).collect();
    Ok(step)
}

pub(super) async fn carry_out(client: &Client, namespace: &str, step: Step) -> anyhow::Result<()> {
    let api: Api<ControllerRevision> = Api::namespaced(client.clone(), namespace);
    if let Some(revision) = step.create {
        match api.create(&PostParams::default(), &revision).await {
            // The cache has not seen it yet.
            Err(kube::Error::Api(status)) if status.is_already_exists() => {}
            created => {
                created.context("the history of a DaemonSet could not be written")?;
            }
        }
    }
    if let Some((revision, number)) = step.renumber {
        let patch =
            json!({"metadata": {"resourceVersion": revision.metadata.resource_version}, "revision": number});
        let name = revision.metadata.name.as_deref().unwrap_or_default();
        gone_is_fine(api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await)?;
    }
    for revision in step.delete {
        let name = revision.metadata.name.as_deref().unwrap_or_default();
        gone_is_fine(api.delete(name, &DeleteParams::default()).await)?;
    }
    Ok(())
}

fn hash_of(revision: &ControllerRevision) -> Option<&str> {
    revision.metadata.labels.as_ref()?.get(HASH).map(String::as_str)
}

/// The template is kept as the patch that brings it back.
fn new_revision(daemon_set: &DaemonSet, hash: &str, number: i64) -> serde_json::Result<ControllerRevision> {
    let template: &PodTemplateSpec = &daemon_set.spec.template;
    let mut data = serde_json::to_value(template)?;
    data["$patch"] = json!("replace");
    let mut labels = template.metadata.as_ref().and_then(|meta| meta.labels.clone()).unwrap_or_default();
    labels.insert(HASH.to_owned(), hash.to_owned());
    let name = daemon_set.metadata.name.as_deref().unwrap_or_default();
    Ok(ControllerRevision {
        metadata: ObjectMeta {
            name: Some(format!("{name}-{hash}")),
            namespace: daemon_set.metadata.namespace.clone(),
            labels: Some(labels),
            owner_references: Some(vec![controlled_by(daemon_set)]),
            ..ObjectMeta::default()
        },
        data: RawExtension(json!({"spec": {"template": data}})),
        revision: Some(number),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn daemon_set(limit: i32) -> DaemonSet {
        serde_json::from_value(json!({
            "metadata": {"namespace": "ns", "name": "proxy", "uid": "1"},
            "spec": {"revisionHistoryLimit": limit, "selector": {"matchLabels": {"app": "proxy"}}, "template": {
                "metadata": {"labels": {"app": "proxy"}}, "spec": {"containers": []}}},
        }))
        .unwrap()
    }

    fn revisions(daemon_set: &DaemonSet, hashes: &[&str]) -> Vec<Arc<ControllerRevision>> {
        let all = (1..).zip(hashes).map(|(number, hash)| new_revision(daemon_set, hash, number));
        all.map(|one| Arc::new(one.unwrap())).collect()
    }

    #[test]
    fn a_new_template_is_the_newest_and_an_old_one_becomes_it_again() {
        let daemon_set = daemon_set(10);
        let first = step(&daemon_set, "a", &[], &[]).unwrap().create.unwrap();
        assert_eq!((first.metadata.name.as_deref(), first.revision), (Some("proxy-a"), Some(1)));
        let data = first.data.0;
        assert_eq!(data["spec"]["template"]["$patch"], "replace");
        assert_eq!(data["spec"]["template"]["metadata"]["labels"]["app"], "proxy");
        let there = revisions(&daemon_set, &["a", "b"]);
        assert_eq!(step(&daemon_set, "c", &[], &there).unwrap().create.unwrap().revision, Some(3));
        let same = step(&daemon_set, "b", &[], &there).unwrap();
        assert!(same.create.is_none() && same.renumber.is_none() && same.delete.is_empty());
        let (back, number) = step(&daemon_set, "a", &[], &there).unwrap().renumber.unwrap();
        assert_eq!((hash_of(&back), number), (Some("a"), 3));
    }

    #[test]
    fn the_oldest_go_but_none_that_is_in_use() {
        let daemon_set = daemon_set(1);
        let there = revisions(&daemon_set, &["a", "b", "c", "d"]);
        let gone = |in_use: &[&str]| -> Vec<String> {
            let in_use: Vec<_> = in_use.iter().map(|hash| (*hash).to_owned()).collect();
            let step = step(&daemon_set, "d", &in_use, &there).unwrap();
            step.delete.iter().filter_map(|one| hash_of(one)).map(str::to_owned).collect()
        };
        assert_eq!(gone(&[]), ["b", "a"]);
        assert_eq!(gone(&["b"]), ["a"]);
    }
}
