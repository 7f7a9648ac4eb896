//! The `Status` object every refusal is answered with, and the field errors inside it
//! ([API conventions, "Response Status Kind"](https://github.com/kubernetes/community/blob/master/contributors/devel/sig-architecture/api-conventions.md#response-status-kind)).

use serde_json::{Value, json};

use super::resources::Resource;

pub(crate) type Result<T> = std::result::Result<T, Status>;

/// Why a request was refused.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Status {
    pub(crate) code: u16,
    pub(crate) reason: &'static str,
    pub(crate) message: String,
    details: Option<Box<Value>>,
    /// Where an interrupted list may go on.
    continue_: Option<String>,
}

impl Status {
    fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into(), details: None, continue_: None }
    }

    fn about(mut self, resource: &Resource, name: &str) -> Self {
        self.details = Some(Box::new(details(resource, name)));
        self
    }

    pub(crate) fn not_found(resource: &Resource, name: &str) -> Self {
        Self::new(404, "NotFound", format!("{} {name:?} not found", resource.qualified()))
            .about(resource, name)
    }

    pub(crate) fn unknown_path() -> Self {
        let mut status = Self::new(404, "NotFound", "the server could not find the requested resource");
        // Clients look into the details, be they empty.
        status.details = Some(Box::new(json!({})));
        status
    }

    pub(crate) fn already_exists(resource: &Resource, name: &str) -> Self {
        Self::new(409, "AlreadyExists", format!("{} {name:?} already exists", resource.qualified()))
            .about(resource, name)
    }

    pub(crate) fn conflict(resource: &Resource, name: &str, why: &str) -> Self {
        let message = format!("Operation cannot be fulfilled on {} {name:?}: {why}", resource.qualified());
        Self::new(409, "Conflict", message).about(resource, name)
    }

    /// The object has changed since the client read it.
    pub(crate) fn modified(resource: &Resource, name: &str) -> Self {
        Self::conflict(
            resource,
            name,
            "the object has been modified; please apply your changes to the latest version and try again",
        )
    }

    pub(crate) fn forbidden(resource: &Resource, name: &str, why: &str) -> Self {
        let message = match name {
            "" => format!("{} is forbidden: {why}", resource.qualified()),
            _ => format!("{} {name:?} is forbidden: {why}", resource.qualified()),
        };
        Self::new(403, "Forbidden", message).about(resource, name)
    }

    /// The user may not do this; a path that leads to no resource has an empty one.
    pub(crate) fn not_allowed(group: &str, resource: &str, name: &str, why: &str) -> Self {
        let qualified = if group.is_empty() { resource.to_owned() } else { format!("{resource}.{group}") };
        let message = match (resource, name) {
            ("", _) => format!("forbidden: {why}"),
            (_, "") => format!("{qualified} is forbidden: {why}"),
            _ => format!("{qualified} {name:?} is forbidden: {why}"),
        };
        let mut status = Self::new(403, "Forbidden", message);
        let mut details = json!({});
        for (field, value) in [("group", group), ("kind", resource), ("name", name)] {
            if !value.is_empty() {
                details[field] = json!(value);
            }
        }
        status.details = Some(Box::new(details));
        status
    }

    /// The creation is refused because its namespace is being deleted.
    pub(crate) fn namespace_terminating(resource: &Resource, name: &str, namespace: &str) -> Self {
        let why =
            format!("unable to create new content in namespace {namespace} because it is being terminated");
        let mut status = Self::forbidden(resource, name, &why);
        if let Some(details) = &mut status.details {
            details["causes"] = json!([{
                "reason": "NamespaceTerminating",
                "message": format!("namespace {namespace} is being terminated"),
                "field": "metadata.namespace",
            }]);
        }
        status
    }

    pub(crate) fn invalid(resource: &Resource, name: &str, errors: &[FieldError]) -> Self {
        let kind = match resource.group {
            "" => resource.kind.to_owned(),
            group => format!("{}.{group}", resource.kind),
        };
        let what = FieldError::all(errors);
        let mut status =
            Self::new(422, "Invalid", format!("{kind} {name:?} is invalid: {what}")).about(resource, name);
        if let Some(details) = &mut status.details {
            details["kind"] = json!(resource.kind);
            details["causes"] = errors.iter().map(FieldError::cause).collect();
        }
        status
    }

    /// Parameters of a list or a watch that do not go together.
    pub(crate) fn invalid_options(errors: &[FieldError]) -> Self {
        let mut status = Self::new(
            422,
            "Invalid",
            format!("ListOptions.meta.k8s.io \"\" is invalid: {}", FieldError::all(errors)),
        );
        status.details = Some(Box::new(json!({
            "group": "meta.k8s.io",
            "kind": "ListOptions",
            "causes": errors.iter().map(FieldError::cause).collect::<Vec<_>>(),
        })));
        status
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    pub(crate) fn unauthorized() -> Self {
        Self::new(401, "Unauthorized", "Unauthorized")
    }

    pub(crate) fn method_not_allowed() -> Self {
        Self::new(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")
    }

    pub(crate) fn not_acceptable() -> Self {
        let message = "only the following media types are accepted: application/json, \
                       application/json;stream=watch";
        Self::new(406, "NotAcceptable", message)
    }

    pub(crate) fn unsupported_media_type(message: impl Into<String>) -> Self {
        Self::new(415, "UnsupportedMediaType", message)
    }

    pub(crate) fn expired(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message)
    }

    /// What the pages of a list show is forgotten; with this token the rest comes as it is now.
    pub(crate) fn expired_page(token: String) -> Self {
        let mut status = Self::expired(
            "The provided continue parameter is too old to display a consistent list result. You can start a new \
             list without the continue parameter, or use the continue token in this response to retrieve the \
             remainder of the results. Continuing with the provided token results in an inconsistent list - \
             objects that were created, modified, or deleted between the time the first chunk was returned and \
             now may show up in the list.",
        );
        status.continue_ = Some(token);
        status
    }

    pub(crate) fn too_large(limit: usize) -> Self {
        let message = format!("the body of the request is larger than {limit} bytes");
        Self::new(413, "RequestEntityTooLarge", message)
    }

    pub(crate) fn too_many_requests(message: &str) -> Self {
        let mut status = Self::new(429, "TooManyRequests", message);
        status.details = Some(Box::new(json!({"retryAfterSeconds": 1})));
        status
    }

    pub(crate) fn timeout(message: &str) -> Self {
        Self::new(408, "Timeout", message)
    }

    /// The object is too large to be stored.
    pub(crate) fn too_large_object(size: usize, limit: usize) -> Self {
        let message = format!("the object is too large: it is {size} bytes of JSON, the limit is {limit}");
        Self::new(413, "RequestEntityTooLarge", message)
    }

    /// The client asks for a future that has not happened
    /// ([API concepts, "Resource versions"](https://kubernetes.io/docs/reference/using-api/api-concepts/#unavailable-resource-versions)).
    pub(crate) fn too_large_version(asked: u64, current: u64) -> Self {
        let message = format!("Timeout: Too large resource version: {asked}, current: {current}");
        let mut status = Self::new(504, "Timeout", message);
        status.details = Some(Box::new(json!({
            "causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}],
            "retryAfterSeconds": 1,
        })));
        status
    }

    pub(crate) fn internal(message: impl std::fmt::Display) -> Self {
        let mut status = Self::new(500, "InternalError", format!("Internal error occurred: {message}"));
        status.details = Some(Box::new(json!({"causes": [{"message": message.to_string()}]})));
        status
    }

    /// Passes on what another server, such as a kubelet, answered.
    pub(crate) fn passed_on(code: u16, message: String) -> Self {
        let reason = match code {
            400 => "BadRequest",
            401 => "Unauthorized",
            403 => "Forbidden",
            404 => "NotFound",
            413 => "RequestEntityTooLarge",
            422 => "Invalid",
            503 => "ServiceUnavailable",
            _ => "InternalError",
        };
        Self::new(code, reason, message)
    }

    pub(crate) fn to_value(&self) -> Value {
        let mut value = json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "code": self.code,
        });
        if let Some(details) = &self.details {
            value["details"] = (**details).clone();
        }
        if let Some(token) = &self.continue_ {
            value["metadata"]["continue"] = json!(token);
        }
        value
    }
}

/// The answer to a deletion that is complete.
pub(crate) fn deleted(resource: &Resource, name: &str, uid: &str) -> Value {
    let mut details = details(resource, name);
    details["uid"] = json!(uid);
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})
}

/// The answer to an action that has no object to show.
pub(crate) fn success(code: u16) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": code})
}

fn details(resource: &Resource, name: &str) -> Value {
    let mut details = json!({"kind": resource.plural});
    if !name.is_empty() {
        details["name"] = json!(name);
    }
    if !resource.group.is_empty() {
        details["group"] = json!(resource.group);
    }
    details
}

/// One field that is wrong, in upstream's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FieldError {
    pub(crate) field: String,
    reason: &'static str,
    body: String,
}

impl FieldError {
    fn new(field: impl Into<String>, reason: &'static str, body: String) -> Self {
        Self { field: field.into(), reason, body }
    }

    pub(crate) fn required(field: impl Into<String>, detail: &str) -> Self {
        Self::new(field, "FieldValueRequired", with_detail("Required value".to_owned(), detail))
    }

    pub(crate) fn invalid(field: impl Into<String>, value: impl Into<Value>, detail: &str) -> Self {
        let body = format!("Invalid value: {}", value.into());
        Self::new(field, "FieldValueInvalid", with_detail(body, detail))
    }

    pub(crate) fn forbidden(field: impl Into<String>, detail: &str) -> Self {
        Self::new(field, "FieldValueForbidden", with_detail("Forbidden".to_owned(), detail))
    }

    pub(crate) fn duplicate(field: impl Into<String>, value: impl Into<Value>) -> Self {
        Self::new(field, "FieldValueDuplicate", format!("Duplicate value: {}", value.into()))
    }

    pub(crate) fn not_supported(field: impl Into<String>, value: &str, supported: &[&str]) -> Self {
        let list: Vec<_> = supported.iter().map(|value| format!("{value:?}")).collect();
        let body = format!("Unsupported value: {value:?}: supported values: {}", list.join(", "));
        Self::new(field, "FieldValueNotSupported", body)
    }

    pub(crate) fn too_long(field: impl Into<String>, limit: usize) -> Self {
        Self::new(field, "FieldValueTooLong", format!("Too long: may not be more than {limit} bytes"))
    }

    pub(crate) fn too_many(field: impl Into<String>, count: usize, limit: usize) -> Self {
        let body = format!("Too many: {count}: must have at most {limit} items");
        Self::new(field, "FieldValueTooMany", body)
    }

    pub(crate) fn not_found(field: impl Into<String>, value: impl Into<Value>) -> Self {
        Self::new(field, "FieldValueNotFound", format!("Not found: {}", value.into()))
    }

    /// Is it that a service's port has no name?
    pub(crate) fn is_missing_port_name(&self) -> bool {
        self.reason == "FieldValueRequired"
            && self.field.starts_with("spec.ports[")
            && self.field.ends_with("].name")
    }

    /// Several of them in one sentence.
    fn all(errors: &[Self]) -> String {
        match errors {
            [only] => only.to_string(),
            _ => {
                let all: Vec<_> = errors.iter().map(Self::to_string).collect();
                format!("[{}]", all.join(", "))
            }
        }
    }

    fn cause(&self) -> Value {
        json!({"reason": self.reason, "message": self.body, "field": self.field})
    }
}

impl std::fmt::Display for FieldError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.field, self.body)
    }
}

fn with_detail(body: String, detail: &str) -> String {
    if detail.is_empty() { body } else { format!("{body}: {detail}") }
}
