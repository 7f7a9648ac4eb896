//! Patches: JSON patch, merge patch and strategic merge patch
//! ([Update API Objects in Place Using kubectl patch](https://kubernetes.io/docs/tasks/manage-kubernetes-objects/update-api-object-kubectl-patch/)).

use http::HeaderMap;
use json_patch::PatchOperation;
use serde_json::Value;

use super::limits;
use super::request::content_type;
use super::status::{Result, Status};
use super::strategic;

/// Refuses kinds of patches that are not known here, whatever they are for.
pub(crate) fn check_kind(headers: &HeaderMap) -> Result<()> {
    match content_type(headers) {
        "application/json-patch+json"
        | "application/merge-patch+json"
        | "application/strategic-merge-patch+json" => Ok(()),
        "application/apply-patch+yaml" | "application/apply-patch+cbor" => {
            Err(Status::unsupported_media_type(
                "server-side apply is not supported by this server; use client-side apply or another kind of \
                 patch",
            ))
        }
        _ => Err(Status::unsupported_media_type(
            "the body of the request was in an unknown format - accepted media types include: \
             application/json-patch+json, application/merge-patch+json, \
             application/strategic-merge-patch+json",
        )),
    }
}

/// The object with the patch applied.
pub(crate) fn patch(kind: &str, headers: &HeaderMap, body: &[u8], object: &Value) -> Result<Value> {
    let read = || -> Result<Value> {
        serde_json::from_slice(body)
            .map_err(|error| Status::bad_request(format!("the patch is no JSON: {error}")))
    };
    let mut patched = object.clone();
    match content_type(headers) {
        "application/json-patch+json" => {
            let patch: json_patch::Patch = serde_json::from_value(read()?)
                .map_err(|error| Status::bad_request(format!("the patch is no JSON patch: {error}")))?;
            apply(&mut patched, &patch)?;
        }
        "application/merge-patch+json" => json_patch::merge(&mut patched, &read_object(read()?)?),
        "application/strategic-merge-patch+json" => {
            strategic::merge(kind, &mut patched, &read_object(read()?)?).map_err(Status::bad_request)?;
        }
        _ => check_kind(headers)?,
    }
    Ok(patched)
}

/// Takes the steps one by one, so that copies of copies are noticed before they are made.
fn apply(object: &mut Value, patch: &json_patch::Patch) -> Result<()> {
    let too_much = |what: String| Status::passed_on(413, what);
    if patch.len() > limits::PATCH_STEPS {
        let what = format!(
            "the allowed maximum of steps in a JSON patch is {}, got {}",
            limits::PATCH_STEPS,
            patch.len()
        );
        return Err(too_much(what));
    }
    let mut copied = 0;
    for (index, step) in patch.iter().enumerate() {
        if let PatchOperation::Copy(copy) = step
            && let Some(source) = object.pointer(copy.from.as_str())
        {
            copied += limits::size(source);
            if copied > limits::PATCH_COPIES {
                let limit = limits::PATCH_COPIES;
                return Err(too_much(format!("the copies of a JSON patch come to more than {limit} bytes")));
            }
        }
        json_patch::patch_unsafe(object, std::slice::from_ref(step)).map_err(|error| {
            let what = format!("step {index}: {}", error.kind);
            Status::passed_on(
                422,
                format!("the server rejected our request due to an error in our request: {what}"),
            )
        })?;
    }
    if limits::is_too_deep(object) {
        return Err(Status::bad_request(format!(
            "the patch makes the object nested deeper than {} levels",
            limits::DEPTH
        )));
    }
    Ok(())
}

fn read_object(patch: Value) -> Result<Value> {
    if patch.is_object() { Ok(patch) } else { Err(Status::bad_request("the patch is no object")) }
}
