//! Strategic merge patch: lists whose elements have a name are merged by it
//! ([strategic-merge-patch](https://github.com/kubernetes/community/blob/master/contributors/devel/sig-api-machinery/strategic-merge-patch.md)).

use serde_json::{Map, Value};

use super::limits;

/// How the list of this name is merged, in this kind of object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ListRule {
    /// Elements with the same value of this field are one.
    By(&'static str),
    /// A set of plain values.
    Set,
    /// The patch's list takes the place of the old one.
    Replace,
}

/// What upstream's types say of their lists (`patchMergeKey` and `patchStrategy`). The parent tells
/// apart lists of one name.
fn rule(kind: &str, parent: &str, field: &str) -> ListRule {
    match (kind, parent, field) {
        ("Service", "spec", "ports") => ListRule::By("port"),
        ("Endpoints" | "EndpointSlice", ..) if field != "ownerReferences" && field != "finalizers" => {
            ListRule::Replace
        }
        (_, "containers" | "initContainers" | "ephemeralContainers", "ports") => {
            ListRule::By("containerPort")
        }
        (_, "containers" | "initContainers" | "ephemeralContainers", "volumeMounts") => {
            ListRule::By("mountPath")
        }
        (_, "containers" | "initContainers" | "ephemeralContainers", "volumeDevices") => {
            ListRule::By("devicePath")
        }
        (_, "containers" | "initContainers" | "ephemeralContainers", "env") => ListRule::By("name"),
        (
            _,
            "spec",
            "containers" | "initContainers" | "ephemeralContainers" | "volumes" | "imagePullSecrets",
        ) => ListRule::By("name"),
        ("ServiceAccount", "", "secrets") => ListRule::By("name"),
        (_, "spec", "hostAliases") => ListRule::By("ip"),
        (_, "spec", "topologySpreadConstraints") => ListRule::By("topologyKey"),
        (_, "status", "conditions") => ListRule::By("type"),
        ("Node", "status", "addresses") => ListRule::By("type"),
        (_, "status", "podIPs" | "hostIPs") => ListRule::By("ip"),
        (_, "metadata", "ownerReferences") => ListRule::By("uid"),
        (_, "metadata", "finalizers") => ListRule::Set,
        ("Node", "spec", "podCIDRs") => ListRule::Set,
        _ => ListRule::Replace,
    }
}

/// Merges the patch into the object of this kind.
pub(crate) fn merge(kind: &str, object: &mut Value, patch: &Value) -> Result<(), String> {
    merge_value(kind, "", object, patch)
}

fn merge_value(kind: &str, parent: &str, target: &mut Value, patch: &Value) -> Result<(), String> {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return Ok(());
    };
    match patch.get("$patch").and_then(Value::as_str) {
        Some("replace") => {
            *target = Value::Object(plain(patch));
            return Ok(());
        }
        Some("delete") => {
            *target = Value::Object(Map::new());
            return Ok(());
        }
        Some("merge") | None => {}
        Some(other) => {
            return Err(format!("unknown $patch directive {other:?}: merge, replace and delete exist"));
        }
    }
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(target) = target else { return Ok(()) };
    if let Some(kept) = patch.get("$retainKeys").and_then(Value::as_array) {
        target.retain(|key, _| kept.iter().any(|name| name == key.as_str()));
    }
    for (key, change) in patch {
        if let Some(field) = key.strip_prefix("$deleteFromPrimitiveList/") {
            let gone = change.as_array().map_or(&[][..], Vec::as_slice);
            if let Some(values) = target.get_mut(field).and_then(Value::as_array_mut) {
                check_comparisons(field, values.len(), gone.len())?;
                values.retain(|value| !gone.contains(value));
            }
        }
    }
    for (key, change) in patch.iter().filter(|(key, _)| !key.starts_with('$')) {
        match change {
            Value::Null => {
                target.remove(key);
            }
            Value::Array(changes) => {
                let slot = target.entry(key.as_str()).or_insert_with(|| Value::Array(Vec::new()));
                merge_list(kind, parent, key, slot, changes)?;
            }
            Value::Object(map) if map.get("$patch").and_then(Value::as_str) == Some("delete") => {
                target.remove(key);
            }
            Value::Object(_) => {
                merge_value(kind, key, target.entry(key.as_str()).or_insert(Value::Null), change)?
            }
            plain => {
                target.insert(key.clone(), plain.clone());
            }
        }
    }
    for (key, order) in patch {
        if let Some(field) = key.strip_prefix("$setElementOrder/")
            && let (Some(Value::Array(values)), Some(order)) = (target.get_mut(field), order.as_array())
        {
            check_comparisons(field, values.len(), order.len())?;
            sort(rule(kind, parent, field), values, order);
        }
    }
    Ok(())
}

fn merge_list(
    kind: &str,
    parent: &str,
    field: &str,
    slot: &mut Value,
    changes: &[Value],
) -> Result<(), String> {
    let replace = changes.iter().any(|change| directive(change) == Some("replace"));
    if !slot.is_array() || replace {
        *slot = Value::Array(Vec::new());
    }
    let Value::Array(values) = slot else { return Ok(()) };
    let merged = !replace && rule(kind, parent, field) != ListRule::Replace;
    if merged {
        check_comparisons(field, values.len() + changes.len(), changes.len())?;
    }
    let changes = changes.iter().filter(|change| directive(change) != Some("replace"));
    match rule(kind, parent, field) {
        _ if replace => values.extend(changes.map(strip)),
        ListRule::Replace => *values = changes.map(strip).collect(),
        ListRule::Set => {
            for change in changes {
                if !values.contains(change) {
                    values.push(change.clone());
                }
            }
        }
        ListRule::By(key) => {
            for change in changes {
                let Some(name) = change.get(key) else {
                    return Err(format!("map: {change} does not contain declared merge key: {key}"));
                };
                let found = values.iter().position(|value| value.get(key) == Some(name));
                match (directive(change), found) {
                    (Some("delete"), _) => values.retain(|value| value.get(key) != Some(name)),
                    (_, Some(index)) => merge_value(kind, field, &mut values[index], change)?,
                    (_, None) => values.push(strip(change)),
                }
            }
        }
    }
    Ok(())
}

/// Everybody waits for a patch, so it must not take long.
fn check_comparisons(field: &str, values: usize, changes: usize) -> Result<(), String> {
    if values.saturating_mul(changes) > limits::COMPARISONS {
        return Err(format!("the list {field:?} is too long to be merged: use another kind of patch"));
    }
    Ok(())
}

fn directive(change: &Value) -> Option<&str> {
    change.get("$patch").and_then(Value::as_str)
}

/// What is new has nothing to be merged with: only the directives go.
fn strip(value: &Value) -> Value {
    match value {
        Value::Object(map) => Value::Object(plain(map)),
        other => other.clone(),
    }
}

fn plain(map: &Map<String, Value>) -> Map<String, Value> {
    let kept = map.iter().filter(|(key, value)| !key.starts_with('$') && !value.is_null());
    kept.map(|(key, value)| (key.clone(), strip(value))).collect()
}

/// Elements the order names come in that order; the others stay behind them.
fn sort(rule: ListRule, values: &mut [Value], order: &[Value]) {
    let place = |value: &Value| {
        let place = order.iter().position(|wanted| match rule {
            ListRule::By(key) => wanted.get(key) == value.get(key),
            _ => wanted == value,
        });
        place.unwrap_or(order.len())
    };
    values.sort_by_cached_key(place);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn patches_merge_as_upstream_does() {
        let pod = json!({
            "metadata": {"labels": {"a": "1", "b": "2"}, "finalizers": ["x", "y"]},
            "spec": {"containers": [{"name": "a", "image": "1", "env": [{"name": "E", "value": "1"}]},
                {"name": "b", "image": "1"}], "tolerations": [{"key": "k"}], "strategy": {"type": "A", "more": 1}},
        });
        for (what, patch, pointer, expected) in [
            (
                "null removes",
                json!({"metadata": {"labels": {"a": null}}}),
                "/metadata/labels",
                json!({"b": "2"}),
            ),
            (
                "elements merge by name",
                json!({"spec": {"containers": [{"name": "a", "image": "2"}]}}),
                "/spec/containers/0",
                json!({"name": "a", "image": "2", "env": [{"name": "E", "value": "1"}]}),
            ),
            (
                "new elements are appended",
                json!({"spec": {"containers": [{"name": "c", "image": "3"}]}}),
                "/spec/containers/2/image",
                json!("3"),
            ),
            (
                "elements are deleted",
                json!({"spec": {"containers": [{"name": "a", "$patch": "delete"}]}}),
                "/spec/containers",
                json!([{"name": "b", "image": "1"}]),
            ),
            (
                "nested lists",
                json!({"spec": {"containers": [{"name": "a", "env": [{"name": "F", "value": "2"}]}]}}),
                "/spec/containers/0/env",
                json!([{"name": "E", "value": "1"}, {"name": "F", "value": "2"}]),
            ),
            (
                "atomic lists are replaced",
                json!({"spec": {"tolerations": [{"key": "l"}]}}),
                "/spec/tolerations",
                json!([{"key": "l"}]),
            ),
            (
                "sets grow",
                json!({"metadata": {"finalizers": ["z", "x"]}}),
                "/metadata/finalizers",
                json!(["x", "y", "z"]),
            ),
            (
                "sets shrink",
                json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["x"]}}),
                "/metadata/finalizers",
                json!(["y"]),
            ),
            (
                "maps are replaced",
                json!({"metadata": {"labels": {"$patch": "replace", "c": "3"}}}),
                "/metadata/labels",
                json!({"c": "3"}),
            ),
            (
                "only the retained keys stay",
                json!({"spec": {"strategy": {"$retainKeys": ["type"], "type": "B"}}}),
                "/spec/strategy",
                json!({"type": "B"}),
            ),
            (
                "lists are ordered",
                json!({"spec": {"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}],
                    "containers": [{"name": "a", "image": "2"}]}}),
                "/spec/containers/0/name",
                json!("b"),
            ),
        ] {
            let mut object = pod.clone();
            merge("Pod", &mut object, &patch).unwrap();
            assert_eq!(object.pointer(pointer), Some(&expected), "{what}");
        }
        let mut object = pod;
        assert!(merge("Pod", &mut object, &json!({"spec": {"containers": [{"image": "2"}]}})).is_err());
    }

    #[test]
    fn ports_of_a_service_merge_by_number() {
        let mut service = json!({"spec": {"ports": [{"port": 80, "nodePort": 30080}]}});
        let patch = json!({"spec": {"ports": [{"port": 80, "targetPort": 8080}]}});
        merge("Service", &mut service, &patch).unwrap();
        assert_eq!(service["spec"]["ports"], json!([{"port": 80, "nodePort": 30080, "targetPort": 8080}]));
    }
}
