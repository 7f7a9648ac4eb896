//! Who owns what: owner references, and how controllers adopt and release objects by their labels
//! ([Owners and Dependents](https://kubernetes.io/docs/concepts/overview/working-with-objects/owners-dependents/)).

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};
use kube::api::{Patch, PatchParams};
use kube::core::{Selector, SelectorExt};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use serde_json::json;

/// The one owner that manages this object.
pub(crate) fn controller(meta: &ObjectMeta) -> Option<&OwnerReference> {
    meta.owner_references.iter().flatten().find(|owner| owner.controller == Some(true))
}

/// A reference that makes `owner` the controller.
pub(crate) fn controlled_by<K: Resource<DynamicType = ()>>(owner: &K) -> OwnerReference {
    OwnerReference {
        api_version: K::api_version(&()).into_owned(),
        kind: K::kind(&()).into_owned(),
        name: owner.meta().name.clone().unwrap_or_default(),
        uid: owner.meta().uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// What a controller does about an object in its namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Claim {
    Mine,
    Adopt,
    Release,
    NotMine,
}

/// Decides by controller reference and labels
/// ([ReplicaSet, "Non-Template Pod acquisitions"](https://kubernetes.io/docs/concepts/workloads/controllers/replicaset/#non-template-pod-acquisitions)).
pub(crate) fn claim(owner: &ObjectMeta, selector: &Selector, object: &ObjectMeta) -> Claim {
    let none = BTreeMap::new();
    let matches = selector.matches(object.labels.as_ref().unwrap_or(&none));
    let owner_stays = owner.deletion_timestamp.is_none();
    match controller(object) {
        Some(controller) if Some(&controller.uid) != owner.uid.as_ref() => Claim::NotMine,
        Some(_) if matches => Claim::Mine,
        Some(_) if owner_stays => Claim::Release,
        None if matches && owner_stays && object.deletion_timestamp.is_none() => Claim::Adopt,
        _ => Claim::NotMine,
    }
}

/// The selector of a workload. One that selects everything was never meant and selects nothing.
pub(crate) fn selector(selector: &LabelSelector) -> anyhow::Result<Option<Selector>> {
    let selector = Selector::try_from(selector.clone())?;
    Ok((!selector.selects_all()).then_some(selector))
}

/// Adds a controller reference.
pub(crate) async fn adopt<K>(api: &Api<K>, object: &K, owner: OwnerReference) -> kube::Result<K>
where
    K: Resource + Clone + DeserializeOwned + std::fmt::Debug,
{
    let mut owners = object.meta().owner_references.clone().unwrap_or_default();
    owners.push(owner);
    set_owners(api, object.meta(), &owners).await
}

/// Removes the references to these owners.
pub(crate) async fn disown<K>(api: &Api<K>, meta: &ObjectMeta, owners: &[&str]) -> kube::Result<K>
where
    K: Clone + DeserializeOwned + std::fmt::Debug,
{
    let mut left = meta.owner_references.clone().unwrap_or_default();
    left.retain(|owner| !owners.contains(&owner.uid.as_str()));
    set_owners(api, meta, &left).await
}

/// The resource version makes a patch from a stale cache fail instead of undoing another's change.
async fn set_owners<K>(api: &Api<K>, meta: &ObjectMeta, owners: &[OwnerReference]) -> kube::Result<K>
where
    K: Clone + DeserializeOwned + std::fmt::Debug,
{
    let patch = json!({"metadata": {
        "uid": meta.uid,
        "resourceVersion": meta.resource_version,
        "ownerReferences": if owners.is_empty() { json!(null) } else { json!(owners) },
    }});
    let name = meta.name.as_deref().unwrap_or_default();
    api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn claims() {
        let mine = json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "rs", "uid": "1", "controller": true}]);
        let theirs = json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "o", "uid": "2", "controller": true}]);
        let plain = json!([{"apiVersion": "v1", "kind": "Node", "name": "n", "uid": "1"}]);
        let then = json!("2026-01-01T00:00:00Z");
        // owner deleted at, object's label, its owners, its deletion, what follows
        let table: [(Value, &str, &Value, Value, Claim); 9] = [
            (json!(null), "web", &mine, json!(null), Claim::Mine),
            (json!(null), "other", &mine, json!(null), Claim::Release),
            (then.clone(), "other", &mine, json!(null), Claim::NotMine),
            (json!(null), "web", &theirs, json!(null), Claim::NotMine),
            (json!(null), "web", &plain, json!(null), Claim::Adopt),
            (json!(null), "other", &plain, json!(null), Claim::NotMine),
            (json!(null), "web", &plain, then.clone(), Claim::NotMine),
            (then.clone(), "web", &plain, json!(null), Claim::NotMine),
            (then.clone(), "web", &mine, then, Claim::Mine),
        ];
        let wanted: Selector = [("app", "web")].into_iter().collect();
        for (owner_deleted, label, owners, deleted, expected) in table {
            let owner =
                serde_json::from_value(json!({"uid": "1", "deletionTimestamp": owner_deleted})).unwrap();
            let object =
                json!({"labels": {"app": label}, "ownerReferences": owners, "deletionTimestamp": deleted});
            let meta = serde_json::from_value(object.clone()).unwrap();
            assert_eq!(claim(&owner, &wanted, &meta), expected, "{object}");
        }
    }
}
