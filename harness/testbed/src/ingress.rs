//! An ingress controller that is an external command: a program with the network of a node, and what it
//! and its users find of it in the API.
//!
//! Controllers expect to be a pod, whose name and namespace they are told, by whose labels they find their
//! like, and behind which a Service is. So one pod stands for it, that has the network of the same node and
//! does nothing; it is Ready while somebody listens there.

use anyhow::Context as _;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DynamicObject};
use kube::runtime::wait::await_condition;
use serde_json::json;

use crate::components::Replacement;
use crate::external::Values;

/// The namespace of all that is a part of it.
pub const NAMESPACE: &str = "ingress";
/// The Service in front of it, with the ports `http` and `https`.
pub const SERVICE: &str = "controller";
/// The IngressClass it serves.
pub const CLASS: &str = "external";
/// The pod that stands for it.
const POD: &str = "controller";
/// Who it is to the API server.
pub(crate) const USER: &str = "stickler:ingress";
/// What `spec.controller` of the class says where nobody wishes for something else.
const CONTROLLER: &str = "stickler.dev/external-ingress";

const MANIFEST: &str =
    include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/ingress/external.yaml"));

/// What it is told beside what every command is.
pub(crate) fn told(values: Values, replacement: &Replacement) -> Values {
    values
        .with("namespace", NAMESPACE)
        .with("pod", POD)
        .with("service", SERVICE)
        .with("class", CLASS)
        .with("controller", controller(replacement))
}

/// Its objects, in the order they are to be created; the pod is on this node, and of this image.
///
/// # Errors
/// None that the manifest as it is gives rise to.
pub(crate) fn objects(
    replacement: &Replacement,
    node: &str,
    image: Option<&str>,
) -> anyhow::Result<Vec<DynamicObject>> {
    let mut objects: Vec<DynamicObject> =
        serde_saphyr::from_multiple(MANIFEST).context("the manifest of the ingress controller")?;
    for object in &mut objects {
        match object.types.as_ref().map(|types| types.kind.as_str()) {
            Some("IngressClass") => object.data["spec"]["controller"] = json!(controller(replacement)),
            Some("Pod") => {
                object.data["spec"]["nodeName"] = json!(node);
                if let Some(image) = image {
                    object.data["spec"]["containers"][0]["image"] = json!(image);
                }
            }
            _ => {}
        }
    }
    Ok(objects)
}

/// Waits until somebody listens where it is to.
///
/// # Errors
/// If its pod cannot be watched.
pub(crate) async fn listens(client: &kube::Client) -> anyhow::Result<()> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
    let ready = |pod: Option<&Pod>| {
        let conditions = pod.and_then(|pod| pod.status.as_ref()?.conditions.as_ref());
        let mut conditions = conditions.into_iter().flatten();
        conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True")
    };
    await_condition(pods, POD, ready).await.context("the pod of the ingress controller")?;
    Ok(())
}

fn controller(replacement: &Replacement) -> &str {
    replacement.controller.as_deref().unwrap_or(CONTROLLER)
}
