//! Lists: selected, in pages, at a version
//! ([API concepts, "Retrieving large results sets in chunks"](https://kubernetes.io/docs/reference/using-api/api-concepts/#retrieving-large-results-sets-in-chunks)).

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::registry::Registry;
use super::request::{Query, Target};
use super::selector::Selection;
use super::status::{Result, Status};
use super::store::{Key, Object};
use super::view::View;

/// Where the next page begins, and the version all pages show.
#[derive(Serialize, Deserialize)]
struct Continue {
    rv: u64,
    namespace: String,
    name: String,
}

pub(crate) fn list(registry: &Registry, target: &Target, query: &Query, view: View) -> Result<Bytes> {
    let resource = target.resource;
    let selection = Selection::parse(resource, query.get("labelSelector"), query.get("fieldSelector"))?;
    let limit = query.number::<usize>("limit")?.unwrap_or_default();
    let asked = query.version()?;
    let matching = query.get("resourceVersionMatch");
    let page = match query.get("continue") {
        "" => None,
        token => Some(decode(token)?),
    };
    check_match(matching, asked, page.is_some())?;

    let transaction = registry.store.transaction();
    let current = transaction.version();
    if let Some(asked) = asked.filter(|asked| *asked > current) {
        return Err(Status::too_large_version(asked, current));
    }
    let exact = matching == "Exact" || (limit > 0 && matching.is_empty());
    let past = match &page {
        Some(page) => Some(page.rv),
        None => asked.filter(|asked| exact && *asked > 0 && *asked < current),
    };
    let namespace = target.namespace.as_deref();
    let candidates: Vec<Arc<Object>> = match past {
        None => transaction.list(resource, namespace).map(Arc::clone).collect(),
        Some(version) => {
            let objects = transaction.list_at(resource, version).map_err(|forgotten| {
                Status::expired(if page.is_some() {
                    "The provided continue parameter is too old to display a consistent list result. You can \
                     start a new list without the continue parameter."
                        .to_owned()
                } else {
                    format!("too old resource version: {version} ({})", forgotten.oldest)
                })
            })?;
            let wanted = objects
                .into_iter()
                .filter(|(key, _)| namespace.is_none_or(|namespace| key.namespace == namespace));
            wanted.map(|(_, object)| object).collect()
        }
    };
    drop(transaction);

    let version = past.unwrap_or(current);
    let start = page.map(|page| Key { namespace: page.namespace, name: page.name });
    let mut items: Vec<Arc<Object>> = candidates
        .into_iter()
        .filter(|object| start.as_ref().is_none_or(|start| object.key() > *start))
        .filter(|object| selection.matches(&object.value))
        .collect();
    let mut metadata = json!({"resourceVersion": version.to_string()});
    if limit > 0 && items.len() > limit {
        let remaining = items.len() - limit;
        items.truncate(limit);
        if let Some(last) = items.last() {
            let Key { namespace, name } = last.key();
            metadata["continue"] = json!(encode(&Continue { rv: version, namespace, name }));
        }
        if query.get("labelSelector").is_empty() && query.get("fieldSelector").is_empty() {
            metadata["remainingItemCount"] = json!(remaining);
        }
    }
    Ok(view.list(resource, &metadata, &items))
}

/// [API concepts, "Semantics for get and list"](https://kubernetes.io/docs/reference/using-api/api-concepts/#semantics-for-get-and-list)
fn check_match(matching: &str, asked: Option<u64>, continued: bool) -> Result<()> {
    let forbidden = |why: &str| Err(Status::bad_request(format!("resourceVersionMatch: Forbidden: {why}")));
    match matching {
        "" => Ok(()),
        "Exact" | "NotOlderThan" if continued => {
            forbidden("resourceVersionMatch is forbidden when continue is provided")
        }
        "Exact" | "NotOlderThan" if asked.is_none() => {
            forbidden("resourceVersionMatch is forbidden unless resourceVersion is provided")
        }
        "Exact" if asked == Some(0) => {
            forbidden("resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"")
        }
        "Exact" | "NotOlderThan" => Ok(()),
        other => Err(Status::bad_request(format!(
            "resourceVersionMatch: Unsupported value: {other:?}: supported values: \"Exact\", \"NotOlderThan\", \"\""
        ))),
    }
}

fn encode(token: &Continue) -> String {
    URL_SAFE_NO_PAD.encode(json!(token).to_string())
}

fn decode(token: &str) -> Result<Continue> {
    let read = || -> Option<Continue> {
        let text = URL_SAFE_NO_PAD.decode(token).ok()?;
        let value: Value = serde_json::from_slice(&text).ok()?;
        serde_json::from_value(value).ok()
    };
    read().ok_or_else(|| Status::bad_request("continue key is not valid: it was not made by this server"))
}
