//! Discovery: which groups, versions and resources there are
//! ([The Kubernetes API, "Discovery API"](https://kubernetes.io/docs/concepts/overview/kubernetes-api/#discovery-api)).

use http::HeaderMap;
use http::header::ACCEPT;
use serde_json::{Value, json};

use super::request::header;
use super::resources::{self, RESOURCES, Resource};
use super::review::REVIEWS;

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// The document at a path, if discovery has one there, with its media type.
pub(crate) fn document(path: &str, headers: &HeaderMap) -> Option<(&'static str, Value)> {
    let aggregated = header(headers, &ACCEPT).split(',').any(|media| {
        ["g=apidiscovery.k8s.io", "v=v2", "as=APIGroupDiscoveryList"]
            .iter()
            .all(|wanted| media.split(';').any(|part| part.trim() == *wanted))
    });
    let segments: Vec<_> = path.split('/').skip(1).collect();
    let document = match segments.as_slice() {
        ["api"] if aggregated => return Some((AGGREGATED, aggregate(&[("", vec!["v1"])]))),
        ["apis"] if aggregated => return Some((AGGREGATED, aggregate(&named_groups()))),
        ["api"] => json!({
            "kind": "APIVersions",
            "versions": ["v1"],
            "serverAddressByClientCIDRs": [],
        }),
        ["apis"] => json!({
            "kind": "APIGroupList",
            "apiVersion": "v1",
            "groups": named_groups().iter().map(|(group, versions)| describe(group, versions)).collect::<Vec<_>>(),
        }),
        ["api", "v1"] => resource_list("", "v1"),
        ["apis", group] => {
            let (group, versions) = named_groups().into_iter().find(|(name, _)| name == group)?;
            let mut described = describe(group, &versions);
            described["kind"] = json!("APIGroup");
            described["apiVersion"] = json!("v1");
            described
        }
        ["apis", group, version] => {
            let (_, versions) = named_groups().into_iter().find(|(name, _)| name == group)?;
            resource_list(group, versions.into_iter().find(|known| known == version)?)
        }
        _ => return None,
    };
    Some(("application/json", document))
}

/// What `/version` says.
pub(crate) fn version(version: &str) -> Value {
    let mut numbers = version.trim_start_matches('v').split('.');
    json!({
        "major": numbers.next().unwrap_or_default(),
        "minor": numbers.next().unwrap_or_default(),
        "gitVersion": version,
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "",
        "compiler": "rustc",
        "platform": format!("{}/{}", std::env::consts::OS, architecture()),
    })
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Every group but the core, the reviews' groups included.
pub(crate) fn named_groups() -> Vec<(&'static str, Vec<&'static str>)> {
    let mut groups = resources::groups();
    for (group, ..) in REVIEWS {
        if !groups.iter().any(|(known, _)| known == group) {
            groups.push((group, vec!["v1"]));
        }
    }
    groups.retain(|(group, _)| !group.is_empty());
    groups
}

fn of_group<'a>(group: &'a str, version: &'a str) -> impl Iterator<Item = &'static Resource> + use<'a> {
    RESOURCES.iter().copied().filter(move |resource| resource.group == group && resource.version == version)
}

fn reviews_of<'a>(
    group: &'a str,
    version: &'a str,
) -> impl Iterator<Item = &'static (&'static str, &'static str, &'static str, &'static str)> + use<'a> {
    REVIEWS.iter().filter(move |(of, ..)| *of == group && version == "v1")
}

fn describe(group: &str, versions: &[&str]) -> Value {
    let describe = |version: &&str| json!({"groupVersion": format!("{group}/{version}"), "version": version});
    let versions: Vec<_> = versions.iter().map(describe).collect();
    json!({"name": group, "versions": versions, "preferredVersion": versions[0]})
}

fn resource_list(group: &str, version: &str) -> Value {
    let mut list = Vec::new();
    for resource in of_group(group, version) {
        let mut entry = json!({
            "name": resource.plural,
            "singularName": resource.singular,
            "namespaced": resource.namespaced,
            "kind": resource.kind,
            "verbs": resource.verbs(),
        });
        if !resource.short_names.is_empty() {
            entry["shortNames"] = json!(resource.short_names);
        }
        if !resource.categories.is_empty() {
            entry["categories"] = json!(resource.categories);
        }
        list.push(entry);
        for subresource in resource.subresources {
            let (exchanged_group, exchanged_version, kind) = subresource.exchanges;
            let mut entry = json!({
                "name": format!("{}/{}", resource.plural, subresource.name),
                "singularName": "",
                "namespaced": resource.namespaced,
                "kind": kind,
                "verbs": subresource.verbs,
            });
            if (exchanged_group, exchanged_version) != (group, version) {
                entry["group"] = json!(exchanged_group);
                entry["version"] = json!(exchanged_version);
            }
            list.push(entry);
        }
    }
    for (_, plural, singular, kind) in reviews_of(group, version) {
        list.push(json!({
            "name": plural, "singularName": singular, "namespaced": false, "kind": kind, "verbs": ["create"],
        }));
    }
    let group_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    json!({
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": group_version,
        "resources": list,
    })
}

fn aggregate(groups: &[(&'static str, Vec<&'static str>)]) -> Value {
    let of_version = |group: &str, version: &str| {
        let mut resources: Vec<_> = of_group(group, version).map(aggregate_resource).collect();
        resources.extend(reviews_of(group, version).map(|(group, plural, singular, kind)| {
            json!({
                "resource": plural,
                "responseKind": {"group": group, "version": "v1", "kind": kind},
                "scope": "Cluster",
                "singularResource": singular,
                "verbs": ["create"],
            })
        }));
        json!({"version": version, "freshness": "Current", "resources": resources})
    };
    let items: Vec<_> = groups
        .iter()
        .map(|(group, versions)| {
            let metadata = if group.is_empty() { json!({}) } else { json!({"name": group}) };
            let versions: Vec<_> = versions.iter().map(|version| of_version(group, version)).collect();
            json!({"metadata": metadata, "versions": versions})
        })
        .collect();
    json!({
        "kind": "APIGroupDiscoveryList",
        "apiVersion": "apidiscovery.k8s.io/v2",
        "metadata": {},
        "items": items,
    })
}

fn aggregate_resource(resource: &Resource) -> Value {
    let subresources: Vec<_> = resource
        .subresources
        .iter()
        .map(|subresource| {
            let (group, version, kind) = subresource.exchanges;
            json!({
                "subresource": subresource.name,
                "responseKind": {"group": group, "version": version, "kind": kind},
                "verbs": subresource.verbs,
            })
        })
        .collect();
    let mut entry = json!({
        "resource": resource.plural,
        "responseKind": {"group": resource.group, "version": resource.version, "kind": resource.kind},
        "scope": if resource.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": resource.singular,
        "verbs": resource.verbs(),
    });
    for (key, names) in [("shortNames", resource.short_names), ("categories", resource.categories)] {
        if !names.is_empty() {
            entry[key] = json!(names);
        }
    }
    if !subresources.is_empty() {
        entry["subresources"] = json!(subresources);
    }
    entry
}
