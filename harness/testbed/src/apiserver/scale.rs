//! The `scale` subresource: how many replicas there are and should be.

use serde_json::{Value, json};

use super::json::{number, object_mut, text};
use super::resources::Resource;
use super::status::{FieldError, Result, Status};
use super::tables;

/// The scale of a workload.
pub(crate) fn of(object: &Value) -> Value {
    let metadata = &object["metadata"];
    let mut scale = json!({
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": {
            "name": metadata["name"],
            "namespace": metadata["namespace"],
            "uid": metadata["uid"],
            "resourceVersion": metadata["resourceVersion"],
            "creationTimestamp": metadata["creationTimestamp"],
        },
        "spec": {"replicas": number(object, "/spec/replicas").unwrap_or_default()},
        "status": {"replicas": number(object, "/status/replicas").unwrap_or_default()},
    });
    let selector = tables::selector(object);
    if !selector.is_empty() {
        scale["status"]["selector"] = json!(selector);
    }
    scale
}

/// The workload with the scale's number of replicas.
pub(crate) fn apply(resource: &Resource, object: &Value, scale: &Value) -> Result<Value> {
    if !["", "Scale"].contains(&text(scale, "/kind")) {
        return Err(Status::bad_request(format!(
            "{} cannot be handled as a Scale: the kind in the data does not match the expected kind",
            text(scale, "/kind")
        )));
    }
    if !scale.is_object() || !(scale["spec"].is_object() || scale["spec"].is_null()) {
        return Err(Status::bad_request("the scale is no object with a specification"));
    }
    let mut object = object.clone();
    let replicas = match &scale["spec"]["replicas"] {
        Value::Null => 0,
        value => value.as_i64().ok_or_else(|| {
            Status::bad_request(format!(
                "Scale in version \"v1\" cannot be handled as a Scale: `spec.replicas` is {value}, which is no \
                 whole number"
            ))
        })?,
    };
    if replicas < 0 {
        let error = FieldError::invalid("spec.replicas", replicas, "must be greater than or equal to 0");
        return Err(Status::invalid(resource, text(&object, "/metadata/name"), &[error]));
    }
    object_mut(&mut object, "spec").insert("replicas".to_owned(), json!(replicas));
    // A version in the scale is a precondition, and none is none.
    let version = scale.pointer("/metadata/resourceVersion").cloned().unwrap_or_default();
    object["metadata"]["resourceVersion"] = if version.is_string() { version } else { json!("") };
    Ok(object)
}
