//! Creating, updating and deleting objects: what upstream's generic registry does for every kind.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use serde::Deserialize;
use serde_json::{Value, json};

use super::admission::{self, Admitted};
use super::allocation::{self, Ranges, Taken};
use super::ingress;
use super::json::{assign, list, number, object_mut, text, texts};
use super::limits;
use super::names;
use super::resources::{self, NAMESPACES, Resource};
use super::selector::Selection;
use super::status::{FieldError, Result, Status};
use super::store::{Key, NoRoom, Object, Store, Transaction};
use crate::bugs::{Bug, Bugs};

/// How strictly unknown fields are taken
/// ([API concepts, "Field validation"](https://kubernetes.io/docs/reference/using-api/api-concepts/#field-validation)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum FieldValidation {
    Ignore,
    #[default]
    Warn,
    Strict,
}

/// What may be said about a write besides the object.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct WriteOptions {
    pub(crate) dry_run: bool,
    pub(crate) field_validation: FieldValidation,
}

/// What came of a write.
pub(crate) struct Written {
    pub(crate) object: Arc<Object>,
    pub(crate) warnings: Vec<String>,
}

/// Which part of an object an update may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// Everything but the status.
    Main,
    Status,
    /// The finalizers in a namespace's specification.
    Finalize,
    /// A subresource that knows itself what it changes, such as a binding.
    Inside,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct DeleteOptions {
    pub(crate) grace_period_seconds: Option<i64>,
    pub(crate) propagation_policy: Option<String>,
    pub(crate) orphan_dependents: Option<bool>,
    pub(crate) preconditions: Option<Preconditions>,
    pub(crate) dry_run: Option<Vec<String>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Preconditions {
    pub(crate) uid: Option<String>,
    pub(crate) resource_version: Option<String>,
}

/// The object after a deletion was asked for.
pub(crate) struct Deletion {
    pub(crate) object: Arc<Object>,
    pub(crate) gone: bool,
}

/// The rules for writing, and where they write to.
pub(crate) struct Registry {
    pub(crate) store: Store,
    pub(crate) ranges: Ranges,
    /// What services ever had; for [`Bug::AllocationsLeak`] only.
    pub(crate) leaked: Mutex<Taken>,
    pub(crate) bugs: Bugs,
}

impl Registry {
    pub(crate) fn get(&self, resource: &Resource, key: &Key) -> Result<Arc<Object>> {
        let transaction = self.store.transaction();
        transaction.get(resource, key).cloned().ok_or_else(|| Status::not_found(resource, &key.name))
    }

    /// Creates an object in `namespace`, which is empty for kinds that live in none.
    pub(crate) fn create(
        &self,
        resource: &Resource,
        namespace: &str,
        mut body: Value,
        options: WriteOptions,
    ) -> Result<Written> {
        check_type(resource, &mut body)?;
        let metadata = object_mut(&mut body, "metadata");
        match metadata.get("namespace").and_then(Value::as_str).unwrap_or_default() {
            "" => {}
            other if other == namespace => {}
            _ => return Err(Status::bad_request(WRONG_NAMESPACE)),
        }
        if metadata.get("resourceVersion").and_then(Value::as_str).is_some_and(|version| !version.is_empty())
        {
            return Err(Status::bad_request("resourceVersion should not be set on objects to be created"));
        }
        for field in [
            "uid",
            "creationTimestamp",
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
            "generation",
            "resourceVersion",
            "selfLink",
            "managedFields",
        ] {
            metadata.remove(field);
        }
        assign(metadata, "namespace", (!namespace.is_empty()).then(|| json!(namespace)));
        metadata.insert("uid".to_owned(), json!(names::uid()));
        metadata.insert("creationTimestamp".to_owned(), json!(now()));
        if resource.generation {
            metadata.insert("generation".to_owned(), json!(1));
        }
        let prefix = metadata.get("generateName").and_then(Value::as_str).unwrap_or_default().to_owned();
        let named = metadata.get("name").and_then(Value::as_str).is_some_and(|name| !name.is_empty());
        if !named && !prefix.is_empty() {
            metadata.insert("name".to_owned(), json!(names::generate(&prefix)));
        }
        if resource.has_status()
            && let Some(body) = body.as_object_mut()
        {
            body.remove("status");
        }
        if resource.kind == "Namespace" {
            object_mut(&mut body, "spec").insert("finalizers".to_owned(), json!(["kubernetes"]));
        }
        resource.read(&mut body);
        let (mut object, warnings) = self.admit(resource, &body, None, options, Verb::Create)?;

        let mut transaction = self.store.transaction();
        let name = text(&object, "/metadata/name").to_owned();
        if resource.namespaced {
            check_namespace(&transaction, resource, namespace, &name)?;
        }
        if resource.kind == "Service" {
            let errors = self.allocate(&transaction, &mut object, None);
            refuse(resource, &name, &errors)?;
        }
        if resource.id() == resources::INGRESSES.id() && !self.bugs.has(Bug::DefaultClassIgnored) {
            ingress::choose_class(&transaction, &mut object);
        }
        let mut key = Key::new(namespace, &name);
        if !named {
            // Five random characters may have been given out before.
            for _ in 0..8 {
                if transaction.get(resource, &key).is_none() {
                    break;
                }
                key.name = names::generate(&prefix);
                object["metadata"]["name"] = json!(key.name);
            }
        }
        if transaction.get(resource, &key).is_some() {
            return Err(Status::already_exists(resource, &key.name));
        }
        let object = if options.dry_run {
            transaction.pretend(object, None)
        } else {
            let name = key.name.clone();
            transaction.put(resource, key, object).map_err(|no| no_room(resource, &name, &no))?
        };
        Ok(Written { object, warnings })
    }

    /// Changes an object by a function of what it is now. Nothing can come between.
    pub(crate) fn update(
        &self,
        resource: &Resource,
        key: &Key,
        part: Part,
        options: WriteOptions,
        change: impl FnOnce(&Value) -> Result<Value>,
    ) -> Result<Written> {
        let mut transaction = self.store.transaction();
        let old = transaction.get(resource, key).ok_or_else(|| Status::not_found(resource, &key.name))?;
        let old = Arc::clone(old);
        let mut new = change(&resource.shown(&old.value))?;
        check_type(resource, &mut new)?;
        check_identity(resource, key, &old, &new)?;
        resource.read(&mut new);
        keep_metadata(resource, part, &old.value, &mut new);
        match part {
            Part::Main if resource.has_status() => copy(&old.value, &mut new, "status"),
            Part::Status => keep_all_but_status(&old.value, &mut new),
            Part::Finalize => {
                let finalizers = new.pointer("/spec/finalizers").cloned();
                let metadata = new["metadata"].take();
                new = old.value.clone();
                new["metadata"] = metadata;
                assign(object_mut(&mut new, "spec"), "finalizers", finalizers);
            }
            Part::Main | Part::Inside => {}
        }
        let compare = (part == Part::Main || part == Part::Status).then_some(&old.value);
        let verb = if part == Part::Main { Verb::Update } else { Verb::UpdatePart };
        let (mut object, warnings) = self.admit(resource, &new, compare, options, verb)?;
        if resource.kind == "Service" && part == Part::Main {
            let errors = self.allocate(&transaction, &mut object, Some(&old.value));
            refuse(resource, &key.name, &errors)?;
        }
        if resource.generation && wants_otherwise(resource, &object, &old.value) {
            let generation = number(&old.value, "/metadata/generation").unwrap_or_default();
            object["metadata"]["generation"] = json!(generation + 1);
        }
        object["metadata"]["resourceVersion"] = json!(old.version.to_string());
        if object == old.value && !may_go(resource, &object) {
            return Ok(Written { object: old, warnings });
        }
        let object = if options.dry_run {
            transaction.pretend(object, Some(old.version))
        } else if may_go(resource, &object) {
            transaction.remove(resource, key, object).unwrap_or(old)
        } else {
            let put = transaction.put(resource, key.clone(), object);
            put.map_err(|no| no_room(resource, &key.name, &no))?
        };
        Ok(Written { object, warnings })
    }

    /// Deletes an object, or marks it for those who have something to do first.
    pub(crate) fn delete(
        &self,
        resource: &Resource,
        key: &Key,
        options: &DeleteOptions,
        dry_run: bool,
    ) -> Result<Deletion> {
        if resource.kind == "Namespace"
            && ["default", "kube-system", "kube-public"].contains(&key.name.as_str())
        {
            return Err(Status::forbidden(resource, &key.name, "this namespace may not be deleted"));
        }
        let mut transaction = self.store.transaction();
        let old = transaction.get(resource, key).ok_or_else(|| Status::not_found(resource, &key.name))?;
        let old = Arc::clone(old);
        check_preconditions(resource, key, &old, options)?;
        let mut object = old.value.clone();
        mark_propagation(resource, &mut object, options)?;
        let grace = grace_period(resource, &object, options);
        let deleting = object.pointer("/metadata/deletionTimestamp").is_some();
        let before = number(&object, "/metadata/deletionGracePeriodSeconds");
        if !deleting || before.is_some_and(|before| grace < before) {
            let began = match (deleting, before) {
                // The shorter grace counts from when the first deletion was asked for.
                (true, Some(before)) => {
                    timestamp(text(&object, "/metadata/deletionTimestamp"))
                        - jiff::SignedDuration::from_secs(before)
                }
                _ => jiff::Timestamp::now(),
            };
            let metadata = object_mut(&mut object, "metadata");
            let end = began + jiff::SignedDuration::from_secs(grace);
            metadata.insert("deletionTimestamp".to_owned(), json!(rfc3339(end)));
            metadata.insert("deletionGracePeriodSeconds".to_owned(), json!(grace));
            if resource.generation {
                let generation = metadata.get("generation").and_then(Value::as_i64).unwrap_or_default();
                metadata.insert("generation".to_owned(), json!(generation + 1));
            }
        }
        if resource.kind == "Namespace" {
            object_mut(&mut object, "status").insert("phase".to_owned(), json!("Terminating"));
        }
        let gone = may_go(resource, &object);
        if dry_run {
            return Ok(Deletion { object: transaction.pretend(object, Some(old.version)), gone });
        }
        if gone {
            let object = transaction.remove(resource, key, object).unwrap_or(old);
            return Ok(Deletion { object, gone });
        }
        if object == old.value {
            return Ok(Deletion { object: old, gone });
        }
        let put = transaction.put(resource, key.clone(), object);
        let object = put.map_err(|no| no_room(resource, &key.name, &no))?;
        Ok(Deletion { object, gone })
    }

    /// Deletes everything the selection matches, and returns what it was.
    pub(crate) fn delete_collection(
        &self,
        resource: &Resource,
        namespace: Option<&str>,
        selection: &Selection,
        options: &DeleteOptions,
        dry_run: bool,
    ) -> Result<Vec<Arc<Object>>> {
        let keys: Vec<Key> = {
            let transaction = self.store.transaction();
            let chosen =
                transaction.list(resource, namespace).filter(|object| selection.matches(&object.value));
            chosen.map(|object| object.key()).collect()
        };
        let mut deleted = Vec::new();
        for key in keys {
            match self.delete(resource, &key, options, dry_run) {
                Ok(deletion) => deleted.push(deletion.object),
                // Somebody else was faster.
                Err(status) if status.code == 404 => {}
                Err(status) => return Err(status),
            }
        }
        Ok(deleted)
    }

    fn allocate(
        &self,
        transaction: &Transaction<'_>,
        service: &mut Value,
        old: Option<&Value>,
    ) -> Vec<FieldError> {
        let mut leaked = self.leaked.lock().unwrap_or_else(PoisonError::into_inner);
        let errors = allocation::allocate(transaction, &self.ranges, &leaked, &self.bugs, service, old);
        if self.bugs.has(Bug::AllocationsLeak) && errors.is_empty() {
            leaked.add(service);
        }
        errors
    }

    fn admit(
        &self,
        resource: &Resource,
        input: &Value,
        old: Option<&Value>,
        options: WriteOptions,
        verb: Verb,
    ) -> Result<(Value, Vec<String>)> {
        let name = text(input, "/metadata/name");
        let cannot = |what: &str| {
            let kind = resource.kind;
            let article =
                format!("{kind} in version {:?} cannot be handled as a {kind}: {what}", resource.version);
            Status::bad_request(article)
        };
        let Admitted { object, mut errors, unknown, warnings: advice } =
            (resource.rules.admit)(input, old).map_err(|what| cannot(&what))?;
        let unknown: Vec<_> = unknown.iter().map(|path| format!("unknown field {path:?}")).collect();
        let mut warnings = match options.field_validation {
            FieldValidation::Strict if !unknown.is_empty() => {
                let what = format!("strict decoding error: {}", unknown.join(", "));
                return Err(match verb {
                    Verb::Create => cannot(&what),
                    Verb::Update | Verb::UpdatePart => Status::bad_request(what),
                });
            }
            FieldValidation::Warn => unknown,
            _ => Vec::new(),
        };
        if verb != Verb::UpdatePart {
            warnings.extend(advice);
        }
        let mut all = admission::check_metadata(resource, &object);
        all.append(&mut errors);
        all.retain(|_| !(resource.kind == "Service" && self.bugs.has(Bug::ServicesUnchecked)));
        all.retain(|error| !(self.bugs.has(Bug::PortNamesOptional) && error.is_missing_port_name()));
        refuse(resource, name, &all)?;
        Ok((object, warnings))
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Verb {
    Create,
    Update,
    /// Who reports a status is not told what the specification says.
    UpdatePart,
}

const WRONG_NAMESPACE: &str =
    "the namespace of the provided object does not match the namespace sent on the request";

/// Now, in the form and precision objects carry.
pub(crate) fn now() -> String {
    rfc3339(jiff::Timestamp::now())
}

fn rfc3339(time: jiff::Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn timestamp(text: &str) -> jiff::Timestamp {
    text.parse().unwrap_or_else(|_| jiff::Timestamp::now())
}

fn refuse(resource: &Resource, name: &str, errors: &[FieldError]) -> Result<()> {
    if errors.is_empty() { Ok(()) } else { Err(Status::invalid(resource, name, errors)) }
}

fn no_room(resource: &Resource, name: &str, no: &NoRoom) -> Status {
    match no {
        NoRoom::TooLarge(size) => Status::too_large_object(*size, limits::OBJECT),
        NoRoom::Full => {
            let why = format!("the server holds at most {} bytes of objects: delete some", limits::STORE);
            Status::forbidden(resource, name, &why)
        }
    }
}

/// The object must be of the kind the path names; left out, it is taken to be.
fn check_type(resource: &Resource, body: &mut Value) -> Result<()> {
    let Some(map) = body.as_object_mut() else {
        return Err(Status::bad_request("the body of the request is no object"));
    };
    let expected = resource.api_version();
    if map.values().any(limits::is_too_deep) {
        return Err(Status::bad_request(format!(
            "the object is nested deeper than {} levels",
            limits::DEPTH
        )));
    }
    match map.get("apiVersion").and_then(Value::as_str).unwrap_or_default() {
        "" => {
            map.insert("apiVersion".to_owned(), json!(expected));
        }
        version if version == expected => {}
        version => {
            return Err(Status::bad_request(format!(
                "the API version in the data ({version}) does not match the expected API version ({expected})"
            )));
        }
    }
    match map.get("kind").and_then(Value::as_str).unwrap_or_default() {
        "" => {
            map.insert("kind".to_owned(), json!(resource.kind));
        }
        kind if kind == resource.kind => {}
        kind => {
            return Err(Status::bad_request(format!(
                "{kind} in version {:?} cannot be handled as a {}: the kind in the data does not match the \
                 expected kind",
                resource.version, resource.kind
            )));
        }
    }
    match map.get("metadata") {
        None | Some(Value::Null | Value::Object(_)) => Ok(()),
        Some(_) => Err(Status::bad_request("the field \"metadata\" must be an object")),
    }
}

/// Nothing is created where its namespace is missing or on its way out
/// ([Admission controllers, "NamespaceLifecycle"](https://kubernetes.io/docs/reference/access-authn-authz/admission-controllers/#namespacelifecycle)).
fn check_namespace(
    transaction: &Transaction<'_>,
    resource: &Resource,
    namespace: &str,
    name: &str,
) -> Result<()> {
    let Some(found) = transaction.get(&NAMESPACES, &Key::new("", namespace)) else {
        return Err(Status::not_found(&NAMESPACES, namespace));
    };
    if found.value.pointer("/metadata/deletionTimestamp").is_some() {
        return Err(Status::namespace_terminating(resource, name, namespace));
    }
    Ok(())
}

fn check_identity(resource: &Resource, key: &Key, old: &Object, new: &Value) -> Result<()> {
    let name = text(new, "/metadata/name");
    if !name.is_empty() && name != key.name {
        return Err(Status::bad_request(format!(
            "the name of the object ({name}) does not match the name on the URL ({})",
            key.name
        )));
    }
    let namespace = text(new, "/metadata/namespace");
    if !namespace.is_empty() && namespace != key.namespace {
        return Err(Status::bad_request(WRONG_NAMESPACE));
    }
    let uid = text(new, "/metadata/uid");
    let old_uid = text(&old.value, "/metadata/uid");
    if !uid.is_empty() && uid != old_uid {
        let why = format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {old_uid}");
        return Err(Status::conflict(resource, &key.name, &why));
    }
    let version = text(new, "/metadata/resourceVersion");
    if !version.is_empty() && version != "0" && version != old.version.to_string() {
        return Err(Status::modified(resource, &key.name));
    }
    Ok(())
}

/// Restores the parts of the metadata that belong to the system.
fn keep_metadata(resource: &Resource, part: Part, old: &Value, new: &mut Value) {
    let old = &old["metadata"];
    let metadata = object_mut(new, "metadata");
    for field in [
        "name",
        "namespace",
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generation",
        "generateName",
    ] {
        assign(metadata, field, old.get(field).cloned());
    }
    metadata.remove("managedFields");
    metadata.remove("selfLink");
    metadata.remove("resourceVersion");
    if part == Part::Status {
        for field in ["ownerReferences", "finalizers"] {
            assign(metadata, field, old.get(field).cloned());
        }
        // A kubelet reports labels of its pods and node together with the status.
        if !["Pod", "Node"].contains(&resource.kind) {
            for field in ["labels", "annotations"] {
                assign(metadata, field, old.get(field).cloned());
            }
        }
    }
    // No finalizer may be added to what is being deleted.
    if old.get("deletionTimestamp").is_some()
        && let Some(finalizers) = metadata.get_mut("finalizers").and_then(Value::as_array_mut)
    {
        let kept: BTreeSet<&str> = texts(old, "/finalizers").into_iter().collect();
        finalizers.retain(|finalizer| finalizer.as_str().is_some_and(|name| kept.contains(name)));
    }
}

fn keep_all_but_status(old: &Value, new: &mut Value) {
    let metadata = new["metadata"].take();
    let status = new.get_mut("status").map(Value::take);
    *new = old.clone();
    new["metadata"] = metadata;
    if let Some(map) = new.as_object_mut() {
        assign(map, "status", status);
    }
}

fn copy(old: &Value, new: &mut Value, field: &str) {
    if let Some(map) = new.as_object_mut() {
        assign(map, field, old.get(field).cloned());
    }
}

/// Is something else wanted now? A slice has no `spec`: all of it is what is wanted, its labels too, and
/// whoever keeps slices looks at the generation to see that somebody else changed one.
fn wants_otherwise(resource: &Resource, new: &Value, old: &Value) -> bool {
    let fields: &[&str] = match resource.kind {
        "EndpointSlice" => &["/addressType", "/endpoints", "/ports", "/metadata/labels"],
        _ => &["/spec"],
    };
    fields.iter().any(|field| new.pointer(field) != old.pointer(field))
}

/// Nothing holds the object any more: it is marked, its grace is over and nobody has to finalize it.
fn may_go(resource: &Resource, object: &Value) -> bool {
    object.pointer("/metadata/deletionTimestamp").is_some()
        && number(object, "/metadata/deletionGracePeriodSeconds").unwrap_or_default() == 0
        && list(object, "/metadata/finalizers").is_empty()
        && (resource.kind != "Namespace" || list(object, "/spec/finalizers").is_empty())
}

fn check_preconditions(resource: &Resource, key: &Key, old: &Object, options: &DeleteOptions) -> Result<()> {
    let Some(preconditions) = &options.preconditions else { return Ok(()) };
    let uid = text(&old.value, "/metadata/uid");
    if let Some(wanted) = preconditions.uid.as_deref().filter(|wanted| *wanted != uid) {
        let why = format!("Precondition failed: UID in precondition: {wanted}, UID in object meta: {uid}");
        return Err(Status::conflict(resource, &key.name, &why));
    }
    let version = old.version.to_string();
    if let Some(wanted) = preconditions.resource_version.as_deref().filter(|wanted| *wanted != version) {
        let why = format!(
            "Precondition failed: ResourceVersion in precondition: {wanted}, ResourceVersion in object meta: \
             {version}"
        );
        return Err(Status::conflict(resource, &key.name, &why));
    }
    Ok(())
}

/// The garbage collector is told by finalizers what to do with dependents
/// ([Garbage Collection, "Cascading deletion"](https://kubernetes.io/docs/concepts/architecture/garbage-collection/#cascading-deletion)).
fn mark_propagation(resource: &Resource, object: &mut Value, options: &DeleteOptions) -> Result<()> {
    let policy = match (options.propagation_policy.as_deref(), options.orphan_dependents) {
        (Some(policy @ ("Orphan" | "Foreground" | "Background")), None) => policy,
        (Some(policy), None) => {
            let supported = ["Foreground", "Background", "Orphan", "nil"];
            let error = FieldError::not_supported("propagationPolicy", policy, &supported);
            return Err(Status::invalid(resource, text(object, "/metadata/name"), &[error]));
        }
        (Some(_), Some(_)) => {
            let error = FieldError::invalid(
                "propagationPolicy",
                options.propagation_policy.clone().unwrap_or_default(),
                "orphanDependents and deletionPropagation cannot be both set",
            );
            return Err(Status::invalid(resource, text(object, "/metadata/name"), &[error]));
        }
        (None, Some(true)) => "Orphan",
        (None, Some(false)) => "Background",
        (None, None) => return Ok(()),
    };
    let mut finalizers: Vec<String> = texts(object, "/metadata/finalizers")
        .into_iter()
        .filter(|finalizer| !["orphan", "foregroundDeletion"].contains(finalizer))
        .map(str::to_owned)
        .collect();
    match policy {
        "Orphan" => finalizers.push("orphan".to_owned()),
        "Foreground" => finalizers.push("foregroundDeletion".to_owned()),
        _ => {}
    }
    let finalizers = (!finalizers.is_empty()).then(|| json!(finalizers));
    assign(object_mut(object, "metadata"), "finalizers", finalizers);
    Ok(())
}

/// Only pods end gracefully, and only those that run somewhere
/// ([Pod Lifecycle, "Termination of Pods"](https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/#pod-termination)).
fn grace_period(resource: &Resource, object: &Value, options: &DeleteOptions) -> i64 {
    let finished = ["Succeeded", "Failed"].contains(&text(object, "/status/phase"));
    if resource.id() != resources::PODS.id() || text(object, "/spec/nodeName").is_empty() || finished {
        return 0;
    }
    let wanted = options
        .grace_period_seconds
        .or_else(|| number(object, "/spec/terminationGracePeriodSeconds"))
        .unwrap_or(30);
    // Nobody waits for longer than this server's calendar goes.
    if wanted < 0 { 1 } else { wanted.min(i64::from(i32::MAX)) }
}
