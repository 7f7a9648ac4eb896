//! Lists: selected, in pages, at a version
//! ([API concepts, "Retrieving large results sets in chunks"](https://kubernetes.io/docs/reference/using-api/api-concepts/#retrieving-large-results-sets-in-chunks)).

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::registry::Registry;
use super::request::{Query, Target};
use super::selector::Selection;
use super::status::{FieldError, Result, Status};
use super::store::{Key, Object};
use super::view::View;

pub(crate) fn list(registry: &Registry, target: &Target, query: &Query, view: View) -> Result<Bytes> {
    let resource = target.resource;
    let selection = Selection::parse(resource, query.get("labelSelector"), query.get("fieldSelector"))?;
    let limit = query.number::<usize>("limit")?.unwrap_or_default();
    check_options(query)?;
    let asked = query.version()?;
    let page = match query.get("continue") {
        "" => None,
        token => Some(Continue::decode(token)?),
    };
    if page.is_some() && asked.is_some_and(|asked| asked > 0) {
        return Err(Status::bad_request("specifying resource version is not allowed when using continue"));
    }

    let transaction = registry.store.transaction();
    let current = transaction.version();
    if let Some(asked) = asked.filter(|asked| *asked > current) {
        return Err(Status::too_large_version(asked, current));
    }
    let past = match &page {
        // Of a version that has not happened nothing can be told.
        Some(page) if page.version.is_some_and(|version| version > current) => {
            let why = "continue key is not valid: its resource version was never reached";
            return Err(Status::bad_request(format!("invalid continue token: {why}")));
        }
        Some(page) => page.version,
        None => {
            let matching = query.get("resourceVersionMatch");
            let exact = matching == "Exact" || (limit > 0 && matching.is_empty());
            asked.filter(|asked| exact && *asked > 0)
        }
    };
    let past = past.filter(|past| *past < current);
    let namespace = target.namespace.as_deref();
    let candidates: Vec<Arc<Object>> = match past {
        None => transaction.list(resource, namespace).map(Arc::clone).collect(),
        Some(version) => {
            let Ok(objects) = transaction.list_at(resource, version) else {
                return Err(match page {
                    Some(page) => Status::expired_page(Continue { version: None, ..page }.encode()),
                    None => Status::expired("The resourceVersion for the provided list is too old."),
                });
            };
            let wanted = objects
                .into_iter()
                .filter(|(key, _)| namespace.is_none_or(|namespace| key.namespace == namespace));
            wanted.map(|(_, object)| object).collect()
        }
    };
    drop(transaction);

    let version = past.unwrap_or(current);
    let mut items: Vec<Arc<Object>> = candidates
        .into_iter()
        .filter(|object| page.as_ref().is_none_or(|page| object.key() > page.after))
        .filter(|object| selection.matches(&object.value))
        .collect();
    let mut metadata = json!({"resourceVersion": version.to_string()});
    if limit > 0 && items.len() > limit {
        let remaining = items.len() - limit;
        items.truncate(limit);
        if let Some(last) = items.last() {
            let next = Continue { version: Some(version), after: last.key() };
            metadata["continue"] = json!(next.encode());
        }
        if query.get("labelSelector").is_empty() && query.get("fieldSelector").is_empty() {
            metadata["remainingItemCount"] = json!(remaining);
        }
    }
    Ok(view.list(resource, &metadata, &items))
}

/// [API concepts, "Semantics for get and list"](https://kubernetes.io/docs/reference/using-api/api-concepts/#semantics-for-get-and-list)
fn check_options(query: &Query) -> Result<()> {
    let field = "resourceVersionMatch";
    let mut errors = Vec::new();
    let matching = query.get(field);
    if !matching.is_empty() {
        if query.get("resourceVersion").is_empty() {
            let why = "resourceVersionMatch is forbidden unless resourceVersion is provided";
            errors.push(FieldError::forbidden(field, why));
        }
        if !query.get("continue").is_empty() {
            let why = "resourceVersionMatch is forbidden when continue is provided";
            errors.push(FieldError::forbidden(field, why));
        }
        if !["Exact", "NotOlderThan"].contains(&matching) {
            errors.push(FieldError::not_supported(field, matching, &["Exact", "NotOlderThan", ""]));
        }
        if matching == "Exact" && query.get("resourceVersion") == "0" {
            let why = "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"";
            errors.push(FieldError::forbidden(field, why));
        }
    }
    if query.has("sendInitialEvents") {
        errors.push(FieldError::forbidden("sendInitialEvents", "sendInitialEvents is forbidden for list"));
    }
    if errors.is_empty() { Ok(()) } else { Err(Status::invalid_options(&errors)) }
}

/// Where the next page begins, and the version all pages show.
struct Continue {
    /// Nothing: as it is when the page is asked for.
    version: Option<u64>,
    /// The last object of the page before.
    after: Key,
}

/// As upstream writes it: no client may rely on it, but some look into it.
#[derive(Serialize, Deserialize)]
struct Token {
    #[serde(rename = "v")]
    api_version: String,
    rv: i64,
    start: String,
}

const TOKEN_VERSION: &str = "meta.k8s.io/v1";
/// The version that stands for no version.
const LATEST: i64 = -1;

impl Continue {
    fn encode(&self) -> String {
        let Key { namespace, name } = &self.after;
        // The first key that comes after it.
        let start = if namespace.is_empty() { format!("{name}\0") } else { format!("{namespace}/{name}\0") };
        let rv = self.version.map_or(LATEST, |version| i64::try_from(version).unwrap_or(i64::MAX));
        let token = Token { api_version: TOKEN_VERSION.to_owned(), rv, start };
        URL_SAFE_NO_PAD.encode(json!(token).to_string())
    }

    fn decode(token: &str) -> Result<Self> {
        let invalid = |why: &str| {
            Status::bad_request(format!("invalid continue token: continue key is not valid: {why}"))
        };
        let text = URL_SAFE_NO_PAD.decode(token).map_err(|error| invalid(&error.to_string()))?;
        let token: Token = serde_json::from_slice(&text).map_err(|error| invalid(&error.to_string()))?;
        if token.api_version != TOKEN_VERSION {
            let why = format!("server does not recognize this encoded version {}", token.api_version);
            return Err(invalid(&why));
        }
        let version = match token.rv {
            LATEST => None,
            rv => match u64::try_from(rv) {
                Ok(rv) if rv > 0 => Some(rv),
                _ => {
                    return Err(invalid("incorrect encoded start resourceVersion (version meta.k8s.io/v1)"));
                }
            },
        };
        let start = token.start.strip_suffix('\0').unwrap_or(&token.start);
        if start.is_empty() {
            return Err(invalid("encoded start key empty (version meta.k8s.io/v1)"));
        }
        let (namespace, name) = start.split_once('/').unwrap_or(("", start));
        Ok(Self { version, after: Key::new(namespace, name) })
    }
}
