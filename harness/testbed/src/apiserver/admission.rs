//! How an object is read, filled with defaults and checked, whatever its kind.

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::json::{members, text};
use super::names;
use super::resources::Resource;
use super::status::FieldError;

/// The rules of one kind.
pub(crate) trait Admit: Serialize + DeserializeOwned {
    /// Takes over from the stored object what an update leaves out or must not touch.
    fn keep(&mut self, _old: &Self) {}

    /// Fills in defaults.
    fn fill(&mut self) {}

    /// Everything that is wrong, given what the object replaces.
    fn check(&self, _old: Option<&Self>) -> Vec<FieldError> {
        Vec::new()
    }

    /// What is accepted and yet deserves a word.
    fn warn(&self, _old: Option<&Self>) -> Vec<String> {
        Vec::new()
    }
}

/// What is done with the objects of one kind, whatever its type.
#[derive(Clone, Copy)]
pub(crate) struct Rules {
    /// Defaults and validates an object, given what it replaces.
    pub(crate) admit: fn(&Value, Option<&Value>) -> Result<Admitted, String>,
    /// Describes its fields; nothing where they are not those of a type.
    pub(crate) schema: Option<fn(&mut SchemaGenerator) -> Schema>,
}

impl Rules {
    pub(crate) const fn of<T: Admit + JsonSchema>() -> Self {
        Self { admit: admit::<T>, schema: Some(T::json_schema) }
    }

    /// The same rules for a form with other fields.
    pub(crate) const fn described_by<T: JsonSchema>(self) -> Self {
        Self { schema: Some(T::json_schema), ..self }
    }

    pub(crate) const fn without_schema(self) -> Self {
        Self { schema: None, ..self }
    }
}

/// An object after its kind's rules were applied.
pub(crate) struct Admitted {
    pub(crate) object: Value,
    pub(crate) errors: Vec<FieldError>,
    /// Fields that the kind does not have.
    pub(crate) unknown: Vec<String>,
    pub(crate) warnings: Vec<String>,
}

/// Applies the rules of `T`. The error says which part has the wrong type.
pub(crate) fn admit<T: Admit>(input: &Value, old: Option<&Value>) -> Result<Admitted, String> {
    let mut typed = T::deserialize(input).map_err(|error| error.to_string())?;
    let old =
        old.map(T::deserialize).transpose().map_err(|error| format!("the stored object is bad: {error}"))?;
    let encode = |typed: &T| serde_json::to_value(typed).map_err(|error| error.to_string());
    let mut unknown = Vec::new();
    if let Some(old) = &old {
        typed.keep(old);
    }
    typed.fill();
    let (errors, warnings) = (typed.check(old.as_ref()), typed.warn(old.as_ref()));
    let object = encode(&typed)?;
    collect_unknown(input, &object, String::new(), &mut unknown);
    if !unknown.is_empty() {
        // Defaulting may have removed a field that does exist: ask the bare type.
        let bare = T::deserialize(input).map_err(|error| error.to_string())?;
        unknown.clear();
        collect_unknown(input, &encode(&bare)?, String::new(), &mut unknown);
    }
    Ok(Admitted { object, errors, unknown, warnings })
}

/// What decoding dropped was not known.
fn collect_unknown(input: &Value, known: &Value, path: String, unknown: &mut Vec<String>) {
    match (input, known) {
        (Value::Object(input), Value::Object(known)) => {
            for (key, value) in input.iter().filter(|(_, value)| !value.is_null()) {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                match known.get(key) {
                    Some(known) => collect_unknown(value, known, path, unknown),
                    None => unknown.push(path),
                }
            }
        }
        (Value::Array(input), Value::Array(known)) => {
            for (index, (value, known)) in input.iter().zip(known).enumerate() {
                collect_unknown(value, known, format!("{path}[{index}]"), unknown);
            }
        }
        _ => {}
    }
}

/// What is wrong with the metadata, which all kinds share.
pub(crate) fn check_metadata(resource: &Resource, object: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let name = text(object, "/metadata/name");
    let prefix = text(object, "/metadata/generateName");
    if name.is_empty() && prefix.is_empty() {
        errors.push(FieldError::required("metadata.name", "name or generateName is required"));
    } else if name.is_empty() {
        // A generated name ends well, whatever the prefix ends with.
        let example = format!("{prefix}x");
        for problem in resource.name_rule.problems(&example) {
            errors.push(FieldError::invalid("metadata.generateName", prefix, &problem));
        }
    } else {
        for problem in resource.name_rule.problems(name) {
            errors.push(FieldError::invalid("metadata.name", name, &problem));
        }
    }
    for (key, value) in members(object, "/metadata/labels") {
        for problem in names::qualified(key) {
            errors.push(FieldError::invalid("metadata.labels", key, &problem));
        }
        for problem in names::label_value(value.as_str().unwrap_or_default()) {
            errors.push(FieldError::invalid("metadata.labels", value.clone(), &problem));
        }
    }
    for (key, _) in members(object, "/metadata/annotations") {
        for problem in names::qualified(&key.to_lowercase()) {
            errors.push(FieldError::invalid("metadata.annotations", key, &problem));
        }
    }
    for (index, owner) in super::json::list(object, "/metadata/ownerReferences").iter().enumerate() {
        for field in ["apiVersion", "kind", "name", "uid"] {
            if text(owner, &format!("/{field}")).is_empty() {
                let path = format!("metadata.ownerReferences[{index}].{field}");
                errors.push(FieldError::invalid(path, "", "must not be empty"));
            }
        }
    }
    errors
}

impl Admit for k8s_openapi::api::core::v1::ConfigMap {}
impl Admit for k8s_openapi::api::coordination::v1::Lease {}
impl Admit for k8s_openapi::api::storage::v1::CSINode {}
impl Admit for k8s_openapi::api::core::v1::Event {}
impl Admit for k8s_openapi::api::core::v1::ServiceAccount {}

impl Admit for k8s_openapi::api::core::v1::Secret {
    fn fill(&mut self) {
        if self.type_.as_deref().unwrap_or_default().is_empty() {
            self.type_ = Some("Opaque".to_owned());
        }
        for (key, value) in self.string_data.take().into_iter().flatten() {
            let value = k8s_openapi::ByteString(value.into_bytes());
            self.data.get_or_insert_default().insert(key, value);
        }
    }
}

impl Admit for k8s_openapi::api::core::v1::Node {
    fn fill(&mut self) {
        self.spec.get_or_insert_default();
        self.status.get_or_insert_default();
    }
}

impl Admit for k8s_openapi::api::core::v1::Namespace {
    fn fill(&mut self) {
        if let Some(name) = self.metadata.name.clone().filter(|name| !name.is_empty()) {
            let labels = self.metadata.labels.get_or_insert_default();
            labels.insert("kubernetes.io/metadata.name".to_owned(), name);
        }
        let status = self.status.get_or_insert_default();
        if status.phase.as_deref().unwrap_or_default().is_empty() {
            status.phase = Some("Active".to_owned());
        }
    }

    fn keep(&mut self, old: &Self) {
        // Only the `finalize` subresource changes them, and it does not come by here.
        self.spec.clone_from(&old.spec);
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{Pod, Service};
    use serde_json::json;

    use super::*;

    #[test]
    fn unknown_fields_are_named_by_path() {
        let pod = json!({"spec": {"containers": [{"name": "a", "image": "x", "imagee": 1}], "foo": {}},
            "metadata": {"creationTimestamp": null, "name": "a"}, "status": {}});
        let mut unknown = admit::<Pod>(&pod, None).unwrap().unknown;
        unknown.sort();
        assert_eq!(unknown, ["spec.containers[0].imagee", "spec.foo"]);
    }

    #[test]
    fn wrong_types_are_refused() {
        let service = json!({"spec": {"ports": [{"port": "eighty"}]}});
        assert!(admit::<Service>(&service, None).is_err());
    }
}
