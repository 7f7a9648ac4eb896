//! OpenAPI v3: the paths and the fields of every kind, and that unknown fields are checked here
//! ([The Kubernetes API, "OpenAPI V3"](https://kubernetes.io/docs/concepts/overview/kubernetes-api/#openapi-v3)).

use schemars::Schema;
use schemars::generate::{SchemaGenerator, SchemaSettings};
use serde_json::{Map, Value, json};

use super::discovery::named_groups;
use super::resources::{RESOURCES, Resource};

pub(crate) const V2_MEDIA_TYPE: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

/// A document of the older version that names no type, in the only form kubectl reads: `swagger`,
/// `info` with title and version, empty `paths` and `definitions`. It asks for it when version 3
/// does not know a kind, and without it would not get to say which kind that is.
pub(crate) const V2: &[u8] = b"\x0a\x032.0\x12\x11\x0a\x0aKubernetes\x12\x03v00\x42\x00\x4a\x00";

/// The document at a path, if there is one.
pub(crate) fn document(path: &str) -> Option<Value> {
    let rest = path.strip_prefix("/openapi/v3")?;
    let roots: Vec<(String, &str, &str)> = std::iter::once(("api/v1".to_owned(), "", "v1"))
        .chain(
            named_groups()
                .into_iter()
                .flat_map(|(group, versions)| versions.into_iter().map(move |version| (group, version)))
                .map(|(group, version)| (format!("apis/{group}/{version}"), group, version)),
        )
        .collect();
    if rest.is_empty() {
        let paths: Map<String, Value> = roots
            .into_iter()
            .map(|(root, ..)| {
                let url = json!({"serverRelativeURL": format!("/openapi/v3/{root}")});
                (root, url)
            })
            .collect();
        return Some(json!({"paths": paths}));
    }
    let (root, group, version) =
        roots.into_iter().find(|(root, ..)| rest.strip_prefix('/') == Some(root.as_str()))?;
    Some(of_group(&root, group, version))
}

fn of_group(root: &str, group: &str, version: &str) -> Value {
    let mut paths = Map::new();
    let mut schemas = Map::new();
    let mut generator = SchemaSettings::openapi3().into_generator();
    let resources =
        RESOURCES.iter().filter(|resource| resource.group == group && resource.version == version);
    for resource in resources {
        let scope = if resource.namespaced { "namespaces/{namespace}/" } else { "" };
        let collection = format!("/{root}/{scope}{}", resource.plural);
        paths.insert(
            collection.clone(),
            json!({
                "get": operation(resource, "list", &["labelSelector", "fieldSelector", "limit", "continue"]),
                "post": operation(resource, "post", &["dryRun", "fieldManager", "fieldValidation"]),
            }),
        );
        // Strategic merge is left out on purpose: these schemas know no merge keys, and clients then
        // merge with the types they were built with.
        let mut patch = operation(resource, "patch", &["dryRun", "fieldManager", "fieldValidation", "force"]);
        patch["requestBody"] = json!({"content": {
            "application/json-patch+json": {"schema": {"type": "object"}},
            "application/merge-patch+json": {"schema": {"type": "object"}},
        }});
        paths.insert(
            format!("{collection}/{{name}}"),
            json!({
                "get": operation(resource, "get", &[]),
                "put": operation(resource, "put", &["dryRun", "fieldManager", "fieldValidation"]),
                "patch": patch,
                "delete": operation(resource, "delete", &["dryRun", "gracePeriodSeconds", "propagationPolicy"]),
            }),
        );
        schemas.insert(schema_name(resource), schema(resource, &mut generator));
    }
    for (name, schema) in generator.take_definitions(true) {
        schemas.entry(name).or_insert(schema);
    }
    json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": "unversioned"},
        "paths": paths,
        "components": {"schemas": schemas},
    })
}

/// The fields of a kind; of a form that has no type it is only known that they are fields.
fn schema(resource: &Resource, generator: &mut SchemaGenerator) -> Value {
    let mut schema = match resource.rules.schema {
        Some(describe) => describe(generator),
        None => Schema::from(Map::from_iter([
            ("type".to_owned(), json!("object")),
            ("x-kubernetes-preserve-unknown-fields".to_owned(), json!(true)),
        ])),
    };
    for transform in generator.transforms_mut() {
        transform.transform(&mut schema);
    }
    schema.insert("x-kubernetes-group-version-kind".to_owned(), json!([kind(resource)]));
    schema.to_value()
}

fn operation(resource: &Resource, action: &str, parameters: &[&str]) -> Value {
    let parameters: Vec<_> = parameters
        .iter()
        .map(|name| json!({"name": name, "in": "query", "schema": {"type": "string", "uniqueItems": true}}))
        .collect();
    let schema = json!({"$ref": format!("#/components/schemas/{}", schema_name(resource))});
    json!({
        "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind": kind(resource),
        "parameters": parameters,
        "responses": {"200": {"description": "OK", "content": {"application/json": {"schema": schema}}}},
    })
}

fn kind(resource: &Resource) -> Value {
    json!({"group": resource.group, "version": resource.version, "kind": resource.kind})
}

fn schema_name(resource: &Resource) -> String {
    let group = resource.group.split('.').next().filter(|group| !group.is_empty()).unwrap_or("core");
    format!("io.k8s.api.{group}.{}.{}", resource.version, resource.kind)
}
