//! Reading a request: path, query, media types and body.

use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, Uri};
use serde_json::Value;

use super::protobuf;
use super::registry::{FieldValidation, WriteOptions};
use super::resources::{self, Resource};
use super::status::{Result, Status};

/// What a path below `/api` or `/apis` points at.
pub(crate) struct Target {
    pub(crate) resource: &'static Resource,
    pub(crate) namespace: Option<String>,
    pub(crate) name: Option<String>,
    pub(crate) subresource: Option<String>,
}

impl Target {
    /// Reads the path, nothing if it points at no resource this server has.
    pub(crate) fn parse(path: &str) -> Option<Self> {
        let segments: Vec<String> =
            path.split('/').filter(|segment| !segment.is_empty()).map(decode_percent).collect();
        let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
        let (group, version, rest) = match segments.as_slice() {
            ["api", version, rest @ ..] => ("", *version, rest),
            ["apis", group, version, rest @ ..] => (*group, *version, rest),
            _ => return None,
        };
        let (namespace, rest) = match rest {
            // These two are parts of the namespace itself, not kinds that live in it.
            ["namespaces", _, "status" | "finalize"] => (None, rest),
            ["namespaces", namespace, rest @ ..] if !rest.is_empty() => (Some((*namespace).to_owned()), rest),
            _ => (None, rest),
        };
        let (plural, name, subresource) = match rest {
            [plural] => (*plural, None, None),
            [plural, name] => (*plural, Some((*name).to_owned()), None),
            [plural, name, subresource] => {
                (*plural, Some((*name).to_owned()), Some((*subresource).to_owned()))
            }
            _ => return None,
        };
        let resource = resources::find(group, version, plural)?;
        // A kind without namespaces has none in its path; one with them has it with every name.
        if namespace.is_some() != resource.namespaced && (namespace.is_some() || name.is_some()) {
            return None;
        }
        Some(Self { resource, namespace, name, subresource })
    }

    pub(crate) fn key(&self) -> super::store::Key {
        super::store::Key::new(
            self.namespace.as_deref().unwrap_or_default(),
            self.name.as_deref().unwrap_or_default(),
        )
    }
}

fn decode_percent(segment: &str) -> String {
    let mut bytes = Vec::with_capacity(segment.len());
    let mut rest = segment.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let hex = after.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        match hex.filter(|_| byte == b'%').and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(decoded) => {
                bytes.push(decoded);
                rest = &after[2..];
            }
            None => {
                bytes.push(byte);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Text that may stand in a query as it is.
pub(crate) fn encode_percent(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~') {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

/// The parameters after the question mark.
#[derive(Clone, Debug, Default)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    pub(crate) fn parse(uri: &Uri) -> Result<Self> {
        axum::extract::Query::<Vec<(String, String)>>::try_from_uri(uri)
            .map(|query| Self(query.0))
            .map_err(|error| Status::bad_request(format!("the query cannot be read: {error}")))
    }

    pub(crate) fn get(&self, name: &str) -> &str {
        self.0.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value)
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(key, _)| key == name)
    }

    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// As upstream reads booleans: anything but a clear no is yes.
    pub(crate) fn flag(&self, name: &str) -> bool {
        self.has(name) && !["0", "false", "False", "FALSE", "F", "f"].contains(&self.get(name))
    }

    pub(crate) fn number<T: std::str::FromStr>(&self, name: &str) -> Result<Option<T>> {
        match self.get(name) {
            "" => Ok(None),
            text => text.parse().map(Some).map_err(|_| {
                Status::bad_request(format!(
                    "invalid value {text:?} of the query parameter {name:?}: no number"
                ))
            }),
        }
    }

    /// A resource version: nothing, or a number.
    pub(crate) fn version(&self) -> Result<Option<u64>> {
        match self.get("resourceVersion") {
            "" => Ok(None),
            text => text.parse().map(Some).map_err(|_| {
                Status::bad_request(format!(
                    "resourceVersion: Invalid value: {text:?}: invalid resource version"
                ))
            }),
        }
    }

    pub(crate) fn dry_run(&self) -> Result<bool> {
        for value in self.all("dryRun") {
            if value != "All" {
                return Err(Status::bad_request(format!(
                    "dryRun: Unsupported value: {value:?}: supported values: \"All\""
                )));
            }
        }
        Ok(self.has("dryRun"))
    }

    pub(crate) fn write_options(&self) -> Result<WriteOptions> {
        let field_validation = match self.get("fieldValidation") {
            "" | "Warn" => FieldValidation::Warn,
            "Ignore" => FieldValidation::Ignore,
            "Strict" => FieldValidation::Strict,
            other => {
                return Err(Status::bad_request(format!(
                    "fieldValidation: Unsupported value: {other:?}: supported values: \"\", \"Ignore\", \"Strict\", \
                     \"Warn\""
                )));
            }
        };
        Ok(WriteOptions { dry_run: self.dry_run()?, field_validation })
    }
}

/// In which form the client wants objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Object,
    Table,
    /// `PartialObjectMetadata`: the metadata alone.
    Metadata,
}

impl Form {
    /// The first form in the client's order of preference that exists here.
    pub(crate) fn negotiate(headers: &HeaderMap) -> Result<Self> {
        let accept = header(headers, &ACCEPT);
        if accept.is_empty() {
            return Ok(Self::Object);
        }
        for media in accept.split(',') {
            let mut parts = media.split(';').map(str::trim);
            let media_type = parts.next().unwrap_or_default();
            if !["application/json", "application/*", "*/*"].contains(&media_type) {
                continue;
            }
            let parameters: Vec<_> = parts.collect();
            let asked = parameters.iter().find_map(|parameter| parameter.strip_prefix("as="));
            let version = parameters.iter().find_map(|parameter| parameter.strip_prefix("v="));
            match (asked, version) {
                (None, _) => return Ok(Self::Object),
                (Some("Table"), Some("v1")) => return Ok(Self::Table),
                (Some("PartialObjectMetadata" | "PartialObjectMetadataList"), Some("v1")) => {
                    return Ok(Self::Metadata);
                }
                _ => {}
            }
        }
        Err(Status::not_acceptable())
    }
}

pub(crate) fn header<'a>(headers: &'a HeaderMap, name: &http::HeaderName) -> &'a str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// The media type of the body without its parameters.
pub(crate) fn content_type(headers: &HeaderMap) -> &str {
    header(headers, &CONTENT_TYPE).split(';').next().unwrap_or_default().trim()
}

/// Reads an object from a body in JSON or YAML.
pub(crate) fn read_object(headers: &HeaderMap, body: &[u8]) -> Result<Value> {
    let value: Value = match content_type(headers) {
        "" | "application/json" | "*/*" => serde_json::from_slice(body)
            .map_err(|error| Status::bad_request(format!("the body of the request is no JSON: {error}")))?,
        "application/yaml" => {
            let text = std::str::from_utf8(body).map_err(|error| {
                Status::bad_request(format!("the body of the request is no text: {error}"))
            })?;
            serde_saphyr::from_str(text).map_err(|error| {
                Status::bad_request(format!("the body of the request is no YAML: {error}"))
            })?
        }
        "application/vnd.kubernetes.protobuf" => protobuf::read_object(body)?,
        _ => {
            return Err(Status::unsupported_media_type(
                "the body of the request was in an unknown format - accepted media types include: \
                 application/json, application/yaml",
            ));
        }
    };
    if value.is_object() {
        Ok(value)
    } else {
        Err(Status::bad_request("the body of the request is no object"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_read_as_upstream_does() {
        for (path, expected) in [
            ("/api/v1/pods", Some(("pods", None, None, None))),
            ("/api/v1/namespaces/a/pods", Some(("pods", Some("a"), None, None))),
            ("/api/v1/namespaces/a/pods/b/status", Some(("pods", Some("a"), Some("b"), Some("status")))),
            ("/api/v1/namespaces/a", Some(("namespaces", None, Some("a"), None))),
            ("/api/v1/namespaces/a/status", Some(("namespaces", None, Some("a"), Some("status")))),
            ("/api/v1/namespaces/a/finalize", Some(("namespaces", None, Some("a"), Some("finalize")))),
            ("/api/v1/nodes/n%31", Some(("nodes", None, Some("n1"), None))),
            ("/apis/apps/v1/replicasets", Some(("replicasets", None, None, None))),
            ("/api/v1/pods/b", None),
            ("/api/v1/namespaces/a/nodes", None),
            ("/api/v1/foos", None),
            ("/apis/apps/v2/replicasets", None),
        ] {
            let target = Target::parse(path);
            let seen = target.as_ref().map(|target| {
                (
                    target.resource.plural,
                    target.namespace.as_deref(),
                    target.name.as_deref(),
                    target.subresource.as_deref(),
                )
            });
            assert_eq!(seen, expected, "{path}");
        }
    }

    #[test]
    fn forms_are_negotiated_in_order() {
        let form = |accept: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT, accept.parse().unwrap());
            Form::negotiate(&headers)
        };
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
        assert_eq!(form(table).unwrap(), Form::Table);
        assert_eq!(form("application/vnd.kubernetes.protobuf,application/json").unwrap(), Form::Object);
        assert_eq!(form("application/vnd.kubernetes.protobuf").unwrap_err().code, 406);
        let metadata = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
        assert_eq!(form(metadata).unwrap(), Form::Metadata);
    }
}
