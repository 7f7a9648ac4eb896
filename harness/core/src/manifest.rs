//! Manifests: YAML with one or several objects, as one would hand to `kubectl create -f`.

use anyhow::{Context as _, bail};
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, TypeMeta};
use serde_json::Value;

/// A manifest that stands in `fixtures/`, compiled in.
#[derive(Clone, Copy, Debug)]
pub struct Fixture {
    /// Its path below `fixtures/`.
    pub path: &'static str,
    pub yaml: &'static str,
}

/// Names a manifest by its path below `fixtures/`; a wrong path does not compile.
#[macro_export]
macro_rules! fixture {
    ($path:literal) => {
        $crate::manifest::Fixture {
            path: $path,
            yaml: include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures/", $path)),
        }
    };
}

/// An object and the resource it belongs to.
#[derive(Clone, Debug)]
pub struct Manifest {
    pub resource: ApiResource,
    pub object: DynamicObject,
}

/// Reads every object of a YAML text; `name` is how errors call it.
///
/// # Errors
/// Says which document is wrong and why.
pub fn parse(name: &str, yaml: &str) -> anyhow::Result<Vec<Manifest>> {
    let documents: Vec<Value> =
        serde_saphyr::from_multiple(yaml).with_context(|| format!("`{name}` is not valid YAML"))?;
    let mut manifests = Vec::new();
    for (index, document) in documents.into_iter().enumerate() {
        let place = || format!("document {} of `{name}`", index + 1);
        if document.is_null() {
            continue;
        }
        manifests.push(object(document).with_context(place)?);
    }
    if manifests.is_empty() {
        bail!("`{name}` holds no object");
    }
    Ok(manifests)
}

/// Reads one object.
pub(crate) fn object(document: Value) -> anyhow::Result<Manifest> {
    let text = |field: &str| -> anyhow::Result<String> {
        let value = document.get(field).with_context(|| format!("`{field}` is missing"))?;
        Ok(value.as_str().with_context(|| format!("`{field}` is not a string"))?.to_owned())
    };
    let types = TypeMeta { api_version: text("apiVersion")?, kind: text("kind")? };
    let metadata = document.get("metadata").context("`metadata` is missing")?;
    if metadata.get("name").is_none() && metadata.get("generateName").is_none() {
        bail!("`metadata.name` is missing");
    }
    let gvk = GroupVersionKind::try_from(&types)?;
    let object = serde_json::from_value(document).context("it is no Kubernetes object")?;
    Ok(Manifest { resource: ApiResource::from_gvk(&gvk), object })
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn every_object_of_a_stream_is_read() {
        let yaml = "apiVersion: v1\nkind: Service\nmetadata: {name: a}\n---\napiVersion: apps/v1\nkind: \
                    ReplicaSet\nmetadata: {name: b}\n---\n";
        let manifests = parse("x.yaml", yaml).expect("two objects");
        let plurals: Vec<_> = manifests.iter().map(|manifest| manifest.resource.plural.as_str()).collect();
        assert_eq!(plurals, ["services", "replicasets"]);
    }

    #[test]
    fn a_mistake_is_told_with_its_place() {
        for (yaml, told) in [
            ("kind: Service\nmetadata: {name: a}", "document 1 of `x.yaml`: `apiVersion` is missing"),
            (
                "apiVersion: v1\nkind: Service\nmetadata: {}",
                "document 1 of `x.yaml`: `metadata.name` is missing",
            ),
            ("apiVersion: [\n", "`x.yaml` is not valid YAML"),
            ("", "`x.yaml` holds no object"),
        ] {
            let error = format!("{:#}", parse("x.yaml", yaml).expect_err(yaml));
            assert!(error.starts_with(told), "{error}");
        }
    }
}
