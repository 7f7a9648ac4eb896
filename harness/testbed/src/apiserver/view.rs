//! The forms objects are shown in: whole, as rows of a table, or their metadata alone
//! ([API concepts, "Receiving resources as Tables"](https://kubernetes.io/docs/reference/using-api/api-concepts/#receiving-resources-as-tables)).

use bytes::{BufMut as _, Bytes, BytesMut};
use serde_json::{Value, json};

use super::request::{Form, Query};
use super::resources::Resource;
use super::store::Object;
use super::tables::NAME_AND_AGE;
use crate::bugs::{Bug, Bugs};

/// How one request wants to see objects.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View {
    pub(crate) form: Form,
    pub(crate) include: Include,
    /// Do tables show names and ages only?
    bare: bool,
}

/// What stands beside the cells of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Include {
    None,
    Metadata,
    Object,
}

impl View {
    pub(crate) fn new(form: Form, query: &Query, bugs: &Bugs) -> Self {
        let include = match query.get("includeObject") {
            "None" => Include::None,
            "Object" => Include::Object,
            _ => Include::Metadata,
        };
        Self { form, include, bare: bugs.has(Bug::TablesBare) }
    }

    pub(crate) const WHOLE: Self = Self { form: Form::Object, include: Include::Metadata, bare: false };

    pub(crate) fn object(self, resource: &Resource, object: &Object) -> Bytes {
        match self.form {
            Form::Object => shown(resource, object),
            Form::Metadata => Bytes::from(metadata_only(&object.value).to_string()),
            Form::Table => {
                Bytes::from(self.table(resource, &object.version.to_string(), &[object], true).to_string())
            }
        }
    }

    /// A list with the given list metadata.
    pub(crate) fn list<T: AsRef<Object>>(self, resource: &Resource, metadata: &Value, items: &[T]) -> Bytes {
        match self.form {
            Form::Object => {
                let head = json!({
                    "kind": format!("{}List", resource.kind),
                    "apiVersion": resource.api_version(),
                    "metadata": metadata,
                });
                let mut text = BytesMut::from(head.to_string().as_bytes());
                text.truncate(text.len() - 1);
                text.put_slice(b",\"items\":[");
                for (index, item) in items.iter().enumerate() {
                    if index > 0 {
                        text.put_u8(b',');
                    }
                    text.put_slice(&shown(resource, item.as_ref()));
                }
                text.put_slice(b"]}");
                text.freeze()
            }
            Form::Metadata => {
                let items: Vec<_> = items.iter().map(|item| metadata_only(&item.as_ref().value)).collect();
                let list = json!({
                    "kind": "PartialObjectMetadataList",
                    "apiVersion": "meta.k8s.io/v1",
                    "metadata": metadata,
                    "items": items,
                });
                Bytes::from(list.to_string())
            }
            Form::Table => {
                let items: Vec<&Object> = items.iter().map(AsRef::as_ref).collect();
                let mut table = self.table(resource, "", &items, true);
                table["metadata"] = metadata.clone();
                Bytes::from(table.to_string())
            }
        }
    }

    /// One object as the content of a watch event; only the first needs the columns' headings.
    pub(crate) fn event(self, resource: &Resource, object: &Object, first: bool) -> Bytes {
        match self.form {
            Form::Table => {
                Bytes::from(self.table(resource, &object.version.to_string(), &[object], first).to_string())
            }
            _ => self.object(resource, object),
        }
    }

    fn table(self, resource: &Resource, version: &str, items: &[&Object], headings: bool) -> Value {
        let now = jiff::Timestamp::now();
        let columns = if self.bare { &NAME_AND_AGE } else { resource.columns };
        let rows: Vec<_> = items
            .iter()
            .map(|item| {
                let mut row = json!({"cells": (columns.cells)(&item.value, now)});
                match self.include {
                    Include::None => {}
                    Include::Metadata => row["object"] = metadata_only(&item.value),
                    Include::Object => row["object"] = resource.shown(&item.value).into_owned(),
                }
                row
            })
            .collect();
        let headings = if headings { columns.headings() } else { Value::Null };
        json!({
            "kind": "Table",
            "apiVersion": "meta.k8s.io/v1",
            "metadata": {"resourceVersion": version},
            "columnDefinitions": headings,
            "rows": rows,
        })
    }
}

/// The object in the version the client asked for; the one that is stored is written out once for all.
fn shown(resource: &Resource, object: &Object) -> Bytes {
    if resource.stored.is_none() {
        return object.json().clone();
    }
    Bytes::from(resource.shown(&object.value).to_string())
}

fn metadata_only(object: &Value) -> Value {
    json!({
        "kind": "PartialObjectMetadata",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": object["metadata"],
    })
}
