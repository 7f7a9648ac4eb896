//! Kinds that are served in more than one form and stored in one: older versions of Ingress and of
//! EndpointSlice, and Events as their own group shows them
//! ([Kubernetes Deprecation Policy](https://kubernetes.io/docs/reference/using-api/deprecation-policy/),
//! [Deprecated API Migration Guide, "Ingress"](https://kubernetes.io/docs/reference/using-api/deprecation-guide/#ingress-v122),
//! ["EndpointSlice"](https://kubernetes.io/docs/reference/using-api/deprecation-guide/#endpointslice-v125)).

use serde_json::{Map, Value, json};

use super::json::object_mut;
use super::resources::Resource;

/// How one form of a kind becomes the stored one, and back. What a form does not know is left where it
/// is, so that it is still found to be unknown.
pub(crate) struct Stored {
    pub(crate) resource: &'static Resource,
    pub(crate) read: fn(&mut Value),
    pub(crate) show: fn(&mut Value),
}

/// Versions that differ in nothing but their name.
pub(crate) fn same(_: &mut Value) {}

/// An Ingress of `v1beta1` as one of `v1`.
pub(crate) fn read_old_ingress(ingress: &mut Value) {
    let Some(spec) = ingress.get_mut("spec").and_then(Value::as_object_mut) else { return };
    rename(spec, "backend", "defaultBackend");
    if let Some(backend) = spec.get_mut("defaultBackend") {
        read_old_backend(backend);
    }
    for path in paths(spec) {
        if path.get("pathType").is_none_or(Value::is_null) {
            path.insert("pathType".to_owned(), json!("ImplementationSpecific"));
        }
        if let Some(backend) = path.get_mut("backend") {
            read_old_backend(backend);
        }
    }
}

/// An Ingress of `v1` as one of `v1beta1`.
pub(crate) fn show_old_ingress(ingress: &mut Value) {
    let Some(spec) = ingress.get_mut("spec").and_then(Value::as_object_mut) else { return };
    rename(spec, "defaultBackend", "backend");
    if let Some(backend) = spec.get_mut("backend") {
        show_old_backend(backend);
    }
    for path in paths(spec) {
        if let Some(backend) = path.get_mut("backend") {
            show_old_backend(backend);
        }
    }
}

fn read_old_backend(backend: &mut Value) {
    let Some(backend) = backend.as_object_mut() else { return };
    // A field of the new version is unknown in the old one: it must not be taken for what it says.
    rename(backend, "service", "service (of v1)");
    let (name, port) = (backend.remove("serviceName"), backend.remove("servicePort"));
    if name.is_none() && port.is_none() {
        return;
    }
    let mut service = Map::new();
    if let Some(name) = name {
        service.insert("name".to_owned(), name);
    }
    match port {
        Some(Value::String(name)) => service.insert("port".to_owned(), json!({"name": name})),
        Some(number) => service.insert("port".to_owned(), json!({"number": number})),
        None => None,
    };
    backend.insert("service".to_owned(), Value::Object(service));
}

fn show_old_backend(backend: &mut Value) {
    let Some(backend) = backend.as_object_mut() else { return };
    let Some(Value::Object(mut service)) = backend.remove("service") else { return };
    if let Some(name) = service.remove("name") {
        backend.insert("serviceName".to_owned(), name);
    }
    if let Some(Value::Object(mut port)) = service.remove("port")
        && let Some(port) = port.remove("name").or_else(|| port.remove("number"))
    {
        backend.insert("servicePort".to_owned(), port);
    }
}

const ZONE: &str = "topology.kubernetes.io/zone";
const HOSTNAME: &str = "kubernetes.io/hostname";

/// An EndpointSlice of `v1beta1` as one of `v1`. Where an endpoint is, was a map of labels: the zone has
/// a field now, and the host name is the node's, which could be said twice.
pub(crate) fn read_old_slice(slice: &mut Value) {
    for endpoint in endpoints(slice) {
        // A field of the new version is unknown in the old one: it must not be taken for what it says.
        for new in ["zone", "deprecatedTopology"] {
            rename(endpoint, new, &format!("{new} (of v1)"));
        }
        let Some(Value::Object(mut topology)) = endpoint.remove("topology") else { continue };
        if let Some(zone) = topology.remove(ZONE) {
            endpoint.insert("zone".to_owned(), zone);
        }
        if topology.get(HOSTNAME) == endpoint.get("nodeName") {
            topology.remove(HOSTNAME);
        }
        if !topology.is_empty() {
            endpoint.insert("deprecatedTopology".to_owned(), Value::Object(topology));
        }
    }
}

/// An EndpointSlice of `v1` as one of `v1beta1`.
pub(crate) fn show_old_slice(slice: &mut Value) {
    for endpoint in endpoints(slice) {
        let mut topology = match endpoint.remove("deprecatedTopology") {
            Some(Value::Object(topology)) => topology,
            _ => Map::new(),
        };
        if let Some(zone) = endpoint.remove("zone") {
            topology.insert(ZONE.to_owned(), zone);
        }
        if let Some(node) = endpoint.get("nodeName") {
            topology.entry(HOSTNAME).or_insert_with(|| node.clone());
        }
        if !topology.is_empty() {
            endpoint.insert("topology".to_owned(), Value::Object(topology));
        }
    }
}

fn endpoints(slice: &mut Value) -> impl Iterator<Item = &mut Map<String, Value>> {
    let endpoints = slice.get_mut("endpoints").and_then(Value::as_array_mut).into_iter().flatten();
    endpoints.filter_map(Value::as_object_mut)
}

fn paths(spec: &mut Map<String, Value>) -> impl Iterator<Item = &mut Map<String, Value>> {
    let rules = spec.get_mut("rules").and_then(Value::as_array_mut).into_iter().flatten();
    let paths = rules.filter_map(|rule| rule.pointer_mut("/http/paths")?.as_array_mut()).flatten();
    paths.filter_map(Value::as_object_mut)
}

/// What `events.k8s.io` calls the fields of an Event, and what the core group calls them.
const EVENT_FIELDS: [(&str, &str); 7] = [
    ("regarding", "involvedObject"),
    ("note", "message"),
    ("reportingController", "reportingComponent"),
    ("deprecatedSource", "source"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedCount", "count"),
];

pub(crate) fn read_new_event(event: &mut Value) {
    let Some(event) = event.as_object_mut() else { return };
    for (new, old) in EVENT_FIELDS {
        rename(event, new, old);
    }
    // The core group requires it.
    let mut whole = Value::Object(std::mem::take(event));
    object_mut(&mut whole, "involvedObject");
    if let Value::Object(whole) = whole {
        *event = whole;
    }
}

pub(crate) fn show_new_event(event: &mut Value) {
    let Some(event) = event.as_object_mut() else { return };
    for (new, old) in EVENT_FIELDS {
        rename(event, old, new);
    }
}

/// The path at which the stored form has what a field selector of this form asks for.
pub(crate) fn stored_field(resource: &Resource, path: &str) -> String {
    if resource.group == "events.k8s.io" {
        let (first, rest) = path.split_once('.').map_or((path, None), |(first, rest)| (first, Some(rest)));
        if let Some((_, old)) = EVENT_FIELDS.iter().find(|(new, _)| *new == first) {
            return rest.map_or_else(|| (*old).to_owned(), |rest| format!("{old}.{rest}"));
        }
    }
    path.to_owned()
}

fn rename(map: &mut Map<String, Value>, from: &str, to: &str) {
    if let Some(value) = map.remove(from) {
        map.insert(to.to_owned(), value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_ingress_says_the_same_as_a_new_one() {
        let old = json!({"spec": {
            "backend": {"serviceName": "rest", "servicePort": "web"},
            "rules": [{"host": "a.b", "http": {"paths": [
                {"path": "/", "pathType": "Exact", "backend": {"serviceName": "a", "servicePort": 80}},
                {"path": "/r", "pathType": "Exact", "backend": {"resource": {"kind": "K", "name": "n"}}},
            ]}}],
        }});
        let new = json!({"spec": {
            "defaultBackend": {"service": {"name": "rest", "port": {"name": "web"}}},
            "rules": [{"host": "a.b", "http": {"paths": [
                {"path": "/", "pathType": "Exact",
                    "backend": {"service": {"name": "a", "port": {"number": 80}}}},
                {"path": "/r", "pathType": "Exact", "backend": {"resource": {"kind": "K", "name": "n"}}},
            ]}}],
        }});
        let mut ingress = old.clone();
        read_old_ingress(&mut ingress);
        assert_eq!(ingress, new);
        show_old_ingress(&mut ingress);
        assert_eq!(ingress, old);
    }

    #[test]
    fn an_old_path_has_a_type_though_nobody_gave_it_one() {
        let mut ingress = json!({"spec": {"rules": [{"http": {"paths": [{"backend": {"service": {}}}]}}]}});
        read_old_ingress(&mut ingress);
        let path = &ingress["spec"]["rules"][0]["http"]["paths"][0];
        assert_eq!(path["pathType"], "ImplementationSpecific");
        assert!(path["backend"].get("service").is_none(), "the old version has no such field: {path}");
    }

    #[test]
    fn an_old_slice_says_where_its_endpoints_are() {
        let new = json!({"endpoints": [
            {"addresses": ["10.0.0.1"], "nodeName": "n", "zone": "z", "hints": {"forZones": [{"name": "z"}]}},
            {"addresses": ["10.0.0.2"], "deprecatedTopology": {"kubernetes.io/hostname": "m", "rack": "r"}},
            {"addresses": ["10.0.0.3"]},
        ]});
        let old = json!({"endpoints": [
            {"addresses": ["10.0.0.1"], "nodeName": "n", "hints": {"forZones": [{"name": "z"}]},
                "topology": {"kubernetes.io/hostname": "n", "topology.kubernetes.io/zone": "z"}},
            {"addresses": ["10.0.0.2"], "topology": {"kubernetes.io/hostname": "m", "rack": "r"}},
            {"addresses": ["10.0.0.3"]},
        ]});
        let mut slice = new.clone();
        show_old_slice(&mut slice);
        assert_eq!(slice, old);
        read_old_slice(&mut slice);
        assert_eq!(slice, new);
        let mut mixed = json!({"endpoints": [{"addresses": ["10.0.0.1"], "zone": "z"}]});
        read_old_slice(&mut mixed);
        assert!(mixed["endpoints"][0].get("zone").is_none(), "the old version has no such field: {mixed}");
    }

    #[test]
    fn an_event_keeps_what_it_says_in_both_groups() {
        let new = json!({"regarding": {"kind": "Pod"}, "note": "n", "reportingController": "c",
            "deprecatedCount": 2, "eventTime": null});
        let mut event = new.clone();
        read_new_event(&mut event);
        assert_eq!(event["involvedObject"]["kind"], "Pod");
        assert_eq!((&event["message"], &event["count"]), (&json!("n"), &json!(2)));
        show_new_event(&mut event);
        assert_eq!(event, new);
    }
}
