//! Selectors: which pods stand behind a service, and whether anything is selected at all.

use k8s_openapi::api::core::v1::{Pod, Service};

/// Whether the service has a selector. An empty one is none: it does not select everything
/// ([API reference, ServiceSpec.selector](https://kubernetes.io/docs/reference/kubernetes-api/service-resources/service-v1/#ServiceSpec):
/// "If empty or not present, the service is assumed to have an external process managing its
/// endpoints"; "Ignored if type is ExternalName").
pub(crate) fn has_selector(service: &Service) -> bool {
    let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    selector.is_some_and(|selector| !selector.is_empty()) && !is_external_name(service)
}

/// Whether the service's selector matches the pod: all its labels, with these values. Namespaces
/// are the caller's part.
pub(crate) fn selects(service: &Service, pod: &Pod) -> bool {
    let Some(selector) = service.spec.as_ref().and_then(|spec| spec.selector.as_ref()) else {
        return false;
    };
    let labels = pod.metadata.labels.as_ref();
    has_selector(service)
        && selector.iter().all(|(key, value)| labels.and_then(|labels| labels.get(key)) == Some(value))
}

pub(crate) fn is_external_name(service: &Service) -> bool {
    service.spec.as_ref().and_then(|spec| spec.type_.as_deref()) == Some("ExternalName")
}
