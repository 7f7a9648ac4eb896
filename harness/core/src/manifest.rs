//! Manifests: YAML with one or several objects, as one would hand to `kubectl create -f`.

use anyhow::{Context as _, bail};
use kube::Resource as _;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, PostParams, Request, TypeMeta};
use kube::discovery::{Scope, pinned_kind};
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

/// Creates an object of somebody's manifest as `kubectl create` would: what is misspelt is refused, not
/// dropped. It goes where it says; if it does not, and its kind lives in namespaces, into this one.
///
/// # Errors
/// What the cluster says to it.
pub async fn create(client: &kube::Client, namespace: &str, manifest: &Manifest) -> anyhow::Result<()> {
    let Manifest { resource, object } = manifest;
    let (resource, scope) = find(client, resource).await?;
    let namespace = object.metadata.namespace.as_deref().unwrap_or(namespace);
    let path = DynamicObject::url_path(&resource, (scope == Scope::Namespaced).then_some(namespace));
    let mut request = Request::new(path).create(&PostParams::default(), serde_json::to_vec(object)?)?;
    let uri = request.uri().to_string();
    let uri = uri.trim_end_matches(['?', '&']);
    let ask = if uri.contains('?') { "&" } else { "?" };
    *request.uri_mut() = format!("{uri}{ask}fieldValidation=Strict").parse()?;
    match client.request::<DynamicObject>(request).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) => Err(anyhow::anyhow!("{}", status.message)),
        Err(error) => Err(error.into()),
    }
}

/// The resource of a kind as the cluster has it, and whether its objects live in namespaces.
///
/// # Errors
/// If the cluster has no such kind.
pub(crate) async fn find(client: &kube::Client, guess: &ApiResource) -> anyhow::Result<(ApiResource, Scope)> {
    let kind = GroupVersionKind::gvk(&guess.group, &guess.version, &guess.kind);
    match pinned_kind(client, &kind).await {
        Ok((resource, capabilities)) => Ok((resource, capabilities.scope)),
        Err(kube::Error::Discovery(_)) => {
            bail!("the cluster knows no kind {} in {}", guess.kind, guess.api_version)
        }
        Err(kube::Error::Api(status)) if status.code == 404 => {
            bail!("the cluster knows no kind {} in {}", guess.kind, guess.api_version)
        }
        Err(error) => Err(error.into()),
    }
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
