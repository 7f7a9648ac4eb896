//! Label and field selectors
//! ([Labels and Selectors](https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#label-selectors),
//! [Field Selectors](https://kubernetes.io/docs/concepts/overview/working-with-objects/field-selectors/)).

use serde_json::Value;

use super::json::text;
use super::resources::Resource;
use super::status::{Result, Status};
use super::versions;

/// Which objects a list or a watch shows.
#[derive(Clone, Debug, Default)]
pub(crate) struct Selection {
    labels: Vec<Requirement>,
    fields: Vec<FieldRequirement>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Requirement {
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
    Exists(String),
    DoesNotExist(String),
}

#[derive(Clone, Debug)]
struct FieldRequirement {
    path: String,
    value: String,
    equal: bool,
}

impl Selection {
    pub(crate) fn parse(resource: &Resource, labels: &str, fields: &str) -> Result<Self> {
        let unparsable = |what: &str| {
            Status::bad_request(format!("unable to parse requirement: {what} in selector {labels:?}"))
        };
        let labels = parse_labels(labels).map_err(|what| unparsable(&what))?;
        Ok(Self { labels, fields: parse_fields(resource, fields)? })
    }

    /// The selection of exactly one object, as a GET with `watch` asks for it.
    pub(crate) fn and_name(mut self, name: &str) -> Self {
        self.fields.push(FieldRequirement {
            path: "/metadata/name".to_owned(),
            value: name.to_owned(),
            equal: true,
        });
        self
    }

    pub(crate) fn matches(&self, object: &Value) -> bool {
        let labels = object.pointer("/metadata/labels");
        let label = |key: &str| labels.and_then(|labels| labels.get(key)).and_then(Value::as_str);
        self.labels.iter().all(|requirement| match requirement {
            Requirement::In(key, values) => {
                label(key).is_some_and(|value| values.iter().any(|other| other == value))
            }
            Requirement::NotIn(key, values) => {
                label(key).is_none_or(|value| values.iter().all(|other| other != value))
            }
            Requirement::Exists(key) => label(key).is_some(),
            Requirement::DoesNotExist(key) => label(key).is_none(),
        }) && self.fields.iter().all(|field| (scalar(object, &field.path) == field.value) == field.equal)
    }
}

/// Field selectors compare texts; numbers and booleans are written out.
fn scalar(object: &Value, path: &str) -> String {
    match object.pointer(path) {
        Some(Value::String(value)) => value.clone(),
        Some(Value::Bool(value)) => value.to_string(),
        Some(Value::Number(value)) => value.to_string(),
        _ if path == "/spec/unschedulable" || path == "/spec/hostNetwork" => "false".to_owned(),
        _ if path == "/status/replicas" => "0".to_owned(),
        _ => text(object, path).to_owned(),
    }
}

fn parse_fields(resource: &Resource, selector: &str) -> Result<Vec<FieldRequirement>> {
    let mut fields = Vec::new();
    for term in selector.split(',').map(str::trim).filter(|term| !term.is_empty()) {
        let (path, value, equal) = if let Some((path, value)) = term.split_once("!=") {
            (path, value, false)
        } else if let Some((path, value)) = term.split_once("==") {
            (path, value, true)
        } else if let Some((path, value)) = term.split_once('=') {
            (path, value, true)
        } else {
            return Err(Status::bad_request(format!(
                "invalid field selector {selector:?}: can't understand {term:?}"
            )));
        };
        let known = ["metadata.name", "metadata.namespace"];
        if !known.contains(&path) && !resource.field_labels.contains(&path) {
            return Err(Status::bad_request(format!("field label not supported: {path}")));
        }
        fields.push(FieldRequirement {
            path: format!("/{}", versions::stored_field(resource, path).replace('.', "/")),
            value: value.to_owned(),
            equal,
        });
    }
    Ok(fields)
}

fn parse_labels(selector: &str) -> std::result::Result<Vec<Requirement>, String> {
    terms(selector).into_iter().map(|term| parse_label(&term)).collect()
}

/// Splits at commas that are not inside parentheses.
fn terms(selector: &str) -> Vec<String> {
    let mut terms = vec![String::new()];
    let mut depth = 0_i32;
    for character in selector.chars() {
        match character {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                terms.push(String::new());
                continue;
            }
            _ => {}
        }
        if let Some(last) = terms.last_mut() {
            last.push(character);
        }
    }
    terms.iter().map(|term| term.trim().to_owned()).filter(|term| !term.is_empty()).collect()
}

fn parse_label(term: &str) -> std::result::Result<Requirement, String> {
    if let Some((head, rest)) = term.split_once('(') {
        let values = rest.strip_suffix(')').ok_or_else(|| format!("found {term:?}, expected ')'"))?;
        let values: Vec<_> = values.split(',').map(|value| value.trim().to_owned()).collect();
        let words: Vec<_> = head.split_whitespace().collect();
        return match words.as_slice() {
            [key, "in"] => Ok(Requirement::In(label_key(key)?, values)),
            [key, "notin"] => Ok(Requirement::NotIn(label_key(key)?, values)),
            _ => Err(format!("found {head:?}, expected 'in' or 'notin'")),
        };
    }
    if let Some((key, value)) = term.split_once("!=") {
        return Ok(Requirement::NotIn(label_key(key)?, vec![label_value(value)?]));
    }
    if let Some((key, value)) = term.split_once("==").or_else(|| term.split_once('=')) {
        return Ok(Requirement::In(label_key(key)?, vec![label_value(value)?]));
    }
    match term.strip_prefix('!') {
        Some(key) => Ok(Requirement::DoesNotExist(label_key(key)?)),
        None => Ok(Requirement::Exists(label_key(term)?)),
    }
}

fn label_key(key: &str) -> std::result::Result<String, String> {
    let key = key.trim();
    let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/');
    if key.is_empty() || !key.chars().all(fine) {
        return Err(format!("{key:?} is no label key"));
    }
    Ok(key.to_owned())
}

fn label_value(value: &str) -> std::result::Result<String, String> {
    let value = value.trim();
    let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if !value.chars().all(fine) || value.len() > 63 {
        return Err(format!("{value:?} is no label value"));
    }
    Ok(value.to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::apiserver::resources;

    #[test]
    fn label_selectors_match_as_documented() {
        let object = json!({"metadata": {"labels": {"app": "goweb", "tier": "front"}}});
        for (selector, expected) in [
            ("", true),
            ("app=goweb", true),
            ("app==goweb,tier=front", true),
            ("app=goweb,tier=back", false),
            ("app!=goweb", false),
            ("missing!=x", true),
            ("app in (x, goweb),tier", true),
            ("app notin (x,goweb)", false),
            ("missing notin (x)", true),
            ("!missing", true),
            ("!app", false),
            ("missing", false),
        ] {
            let selection = Selection::parse(&resources::PODS, selector, "").unwrap();
            assert_eq!(selection.matches(&object), expected, "{selector}");
        }
        for selector in ["=x", "app in (x", "a b (c)", "app=("] {
            assert!(Selection::parse(&resources::PODS, selector, "").is_err(), "{selector}");
        }
    }

    #[test]
    fn field_selectors_know_their_fields() {
        let pod = json!({"metadata": {"name": "a"}, "spec": {"nodeName": "kube1"}});
        for (selector, expected) in [
            ("spec.nodeName=kube1", true),
            ("spec.nodeName!=kube1", false),
            ("spec.nodeName=", false),
            ("status.phase=,metadata.name=a", true),
        ] {
            let selection = Selection::parse(&resources::PODS, "", selector).unwrap();
            assert_eq!(selection.matches(&pod), expected, "{selector}");
        }
        let refused = Selection::parse(&resources::PODS, "", "spec.foo=x").unwrap_err();
        assert_eq!(refused.message, "field label not supported: spec.foo");
    }
}
