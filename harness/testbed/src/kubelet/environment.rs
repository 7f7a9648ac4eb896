//! The environment of a container, and `$(NAME)` in its values and commands.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use k8s_openapi::api::core::v1::{ConfigMap, Container, EnvVarSource, Pod, Secret};
use kube::{Api, Client, ResourceExt as _};

use super::image;

/// A container's configuration names something that is not there. The kubelet's word for the state
/// is `CreateContainerConfigError`.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct ConfigError(pub(crate) String);

/// What is known about a pod only where it runs.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) hostname: String,
    pub(crate) node_name: String,
    pub(crate) host_ip: Ipv4Addr,
    pub(crate) pod_ip: Option<Ipv4Addr>,
}

/// All variables of a container, in the order in which they are defined; later ones win.
pub(crate) async fn environment(
    client: &Client,
    pod: &Pod,
    container: &Container,
    place: &Place,
    services: Vec<(String, String)>,
) -> Result<Vec<(String, String)>, ConfigError> {
    let namespace = pod.namespace().unwrap_or_default();
    let mut variables = vec![
        ("PATH".to_owned(), image::PATH.to_owned()),
        ("HOSTNAME".to_owned(), place.hostname.clone()),
        ("HOME".to_owned(), "/root".to_owned()),
    ];
    variables.extend(services);
    for source in container.env_from.iter().flatten() {
        let prefix = source.prefix.as_deref().unwrap_or_default();
        let mut values = BTreeMap::new();
        if let Some(reference) = &source.config_map_ref {
            let found = config_map(client, &namespace, &reference.name).await;
            values = optional(found, reference.optional)?.unwrap_or_default();
        }
        if let Some(reference) = &source.secret_ref {
            let found = secret(client, &namespace, &reference.name).await;
            values = optional(found, reference.optional)?.unwrap_or_default();
        }
        variables.extend(values.into_iter().map(|(key, value)| (format!("{prefix}{key}"), value)));
    }
    for variable in container.env.iter().flatten() {
        let value = match (&variable.value, &variable.value_from) {
            (Some(value), _) => Some(expand(value, &variables)),
            (None, Some(source)) => resolve(client, pod, &namespace, source, place).await?,
            (None, None) => Some(String::new()),
        };
        variables.extend(value.map(|value| (variable.name.clone(), value)));
    }
    Ok(last_ones(variables))
}

/// Programs look for the first of two variables of one name.
fn last_ones(variables: Vec<(String, String)>) -> Vec<(String, String)> {
    let mut places: BTreeMap<String, usize> = BTreeMap::new();
    let mut kept: Vec<(String, String)> = Vec::new();
    for (name, value) in variables {
        match places.get(&name) {
            Some(place) => kept[*place].1 = value,
            None => {
                places.insert(name.clone(), kept.len());
                kept.push((name, value));
            }
        }
    }
    kept
}

async fn resolve(
    client: &Client,
    pod: &Pod,
    namespace: &str,
    source: &EnvVarSource,
    place: &Place,
) -> Result<Option<String>, ConfigError> {
    if let Some(field) = &source.field_ref {
        return field_of(pod, &field.field_path, place).map(Some);
    }
    if let Some(key) = &source.config_map_key_ref {
        let found = config_map(client, namespace, &key.name).await;
        let found = found.and_then(|values| pick(values, "configmap", namespace, &key.name, &key.key));
        return optional(found, key.optional);
    }
    if let Some(key) = &source.secret_key_ref {
        let found = secret(client, namespace, &key.name).await;
        let found = found.and_then(|values| pick(values, "secret", namespace, &key.name, &key.key));
        return optional(found, key.optional);
    }
    Err(ConfigError("only fieldRef, configMapKeyRef and secretKeyRef can be the source of a value".into()))
}

/// The fields a variable may name
/// ([Downward API, "Available fields"](https://kubernetes.io/docs/concepts/workloads/pods/downward-api/#available-fields)).
pub(crate) fn field_of(pod: &Pod, path: &str, place: &Place) -> Result<String, ConfigError> {
    let spec = pod.spec.as_ref();
    let keyed = |prefix: &str| path.strip_prefix(prefix)?.strip_prefix("['")?.strip_suffix("']");
    if let Some(key) = keyed("metadata.labels") {
        return Ok(pod.labels().get(key).cloned().unwrap_or_default());
    }
    if let Some(key) = keyed("metadata.annotations") {
        return Ok(pod.annotations().get(key).cloned().unwrap_or_default());
    }
    Ok(match path {
        "metadata.name" => pod.name_any(),
        "metadata.namespace" => pod.namespace().unwrap_or_default(),
        "metadata.uid" => pod.uid().unwrap_or_default(),
        "spec.nodeName" => place.node_name.clone(),
        "spec.serviceAccountName" => {
            spec.and_then(|spec| spec.service_account_name.clone()).unwrap_or_default()
        }
        "status.hostIP" | "status.hostIPs" => place.host_ip.to_string(),
        "status.podIP" | "status.podIPs" => place.pod_ip.map(|ip| ip.to_string()).unwrap_or_default(),
        _ => return Err(ConfigError(format!("unsupported fieldPath: {path}"))),
    })
}

async fn config_map(
    client: &Client,
    namespace: &str,
    name: &str,
) -> Result<BTreeMap<String, String>, ConfigError> {
    let found = Api::<ConfigMap>::namespaced(client.clone(), namespace).get_opt(name).await;
    let missing = || ConfigError(format!("configmap \"{name}\" not found"));
    Ok(found.map_err(|error| ConfigError(error.to_string()))?.ok_or_else(missing)?.data.unwrap_or_default())
}

async fn secret(
    client: &Client,
    namespace: &str,
    name: &str,
) -> Result<BTreeMap<String, String>, ConfigError> {
    let found = Api::<Secret>::namespaced(client.clone(), namespace).get_opt(name).await;
    let missing = || ConfigError(format!("secret \"{name}\" not found"));
    let data = found.map_err(|error| ConfigError(error.to_string()))?.ok_or_else(missing)?.data;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ok(data.unwrap_or_default().into_iter().map(|(key, value)| (key, text(value.0))).collect())
}

fn pick(
    mut values: BTreeMap<String, String>,
    kind: &str,
    namespace: &str,
    name: &str,
    key: &str,
) -> Result<String, ConfigError> {
    values
        .remove(key)
        .ok_or_else(|| ConfigError(format!("couldn't find key {key} in {kind} {namespace}/{name}")))
}

fn optional<T>(found: Result<T, ConfigError>, optional: Option<bool>) -> Result<Option<T>, ConfigError> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(_) if optional == Some(true) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Replaces `$(NAME)` by the variable's value and `$$` by `$`; what names no variable stays as it is
/// ([Dependent environment variables](https://kubernetes.io/docs/tasks/inject-data-application/define-interdependent-environment-variables/)).
pub(crate) fn expand(text: &str, variables: &[(String, String)]) -> String {
    let mut expanded = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        expanded.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            expanded.push('$');
            rest = after;
        } else if let Some((name, after)) = rest.strip_prefix('(').and_then(|rest| rest.split_once(')')) {
            match variables.iter().rev().find(|(known, _)| known == name) {
                Some((_, value)) => expanded.push_str(value),
                None => expanded.push_str(&format!("$({name})")),
            }
            rest = after;
        } else {
            expanded.push('$');
        }
    }
    expanded.push_str(rest);
    expanded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_replaced_and_escapes_are_not() {
        let variables = [("A", "1"), ("B", "2"), ("A", "3")].map(|(k, v)| (k.to_owned(), v.to_owned()));
        for (text, expanded) in [
            ("$(A)-$(B)", "3-2"),
            ("$(NONE)", "$(NONE)"),
            ("$$(A)", "$(A)"),
            ("cost: 5$", "cost: 5$"),
            ("$(A", "$(A"),
            ("$A", "$A"),
            ("$$$(A)", "$3"),
        ] {
            assert_eq!(expand(text, &variables), expanded, "{text}");
        }
    }

    #[test]
    fn of_two_variables_the_last_is_kept() {
        let variables = [("A", "1"), ("B", "2"), ("A", "3")].map(|(k, v)| (k.to_owned(), v.to_owned()));
        let kept = last_ones(variables.into());
        assert_eq!(kept, [("A", "3"), ("B", "2")].map(|(k, v)| (k.to_owned(), v.to_owned())));
    }

    #[test]
    fn fields_of_the_pod_and_its_place() {
        let pod: Pod = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "web", "namespace": "shop", "uid": "u", "labels": {"app.io/x": "y"}},
            "spec": {"containers": [], "serviceAccountName": "robot"}
        }))
        .expect("a pod");
        let place = Place {
            hostname: "web".into(),
            node_name: "kube1".into(),
            host_ip: Ipv4Addr::new(192, 0, 2, 1),
            pod_ip: Some(Ipv4Addr::new(10, 0, 0, 2)),
        };
        for (path, value) in [
            ("metadata.name", "web"),
            ("metadata.namespace", "shop"),
            ("metadata.labels['app.io/x']", "y"),
            ("metadata.labels['other']", ""),
            ("spec.nodeName", "kube1"),
            ("spec.serviceAccountName", "robot"),
            ("status.podIP", "10.0.0.2"),
            ("status.hostIP", "192.0.2.1"),
        ] {
            assert_eq!(field_of(&pod, path, &place).ok().as_deref(), Some(value), "{path}");
        }
        assert!(field_of(&pod, "spec.volumes", &place).is_err());
    }
}
