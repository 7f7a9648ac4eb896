//! Watches: what changed since a version, as it changes
//! ([API concepts, "Efficient detection of changes"](https://kubernetes.io/docs/reference/using-api/api-concepts/#efficient-detection-of-changes)).

use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use futures::Stream;
use rand::Rng as _;
use serde_json::{Value, json};
use tokio::time::{Instant, Interval, MissedTickBehavior};

use super::limits;
use super::registry::Registry;
use super::request::{Query, Target};
use super::resources::Resource;
use super::selector::Selection;
use super::status::{FieldError, Result, Status};
use super::store::{Change, Object};
use super::view::View;

/// How often a quiet watch tells how far it has come.
const BOOKMARK_PERIOD: Duration = Duration::from_secs(10);

/// No client watches longer.
const MAX_SECONDS: u64 = 24 * 3600;

/// One client's watch. It makes no more ready than [`limits::CHUNK`] before that is taken: a client that
/// reads slowly falls behind, until what it has not seen is forgotten and it is told so.
pub(crate) struct Watch {
    registry: Arc<Registry>,
    resource: &'static Resource,
    namespace: Option<String>,
    selection: Selection,
    view: View,
    /// What is there already and is still to be shown.
    existing: std::vec::IntoIter<Arc<Object>>,
    /// Is the end of it to be told?
    marked: bool,
    /// Everything up to here was sent, or was not for this client.
    cursor: u64,
    news: tokio::sync::watch::Receiver<u64>,
    bookmarks: Option<Interval>,
    deadline: Instant,
    /// Has a table's heading been sent?
    headed: bool,
    pending: BytesMut,
    over: bool,
}

impl Watch {
    pub(crate) fn start(
        registry: &Arc<Registry>,
        target: &Target,
        query: &Query,
        view: View,
    ) -> Result<Self> {
        let resource = target.resource;
        let mut selection =
            Selection::parse(resource, query.get("labelSelector"), query.get("fieldSelector"))?;
        if let Some(name) = &target.name {
            selection = selection.and_name(name);
        }
        let asked = query.version()?;
        let bookmarks = query.flag("allowWatchBookmarks");
        let initial = Initial::read(query)?;
        let seconds = match query.number::<u64>("timeoutSeconds")? {
            None | Some(0) => 1800 + rand::rng().random_range(0..1800),
            Some(seconds) => seconds.min(MAX_SECONDS),
        };

        let mut transaction = registry.store.transaction();
        let current = transaction.version();
        if initial == Initial::Send
            && let Some(asked) = asked.filter(|asked| *asked > current)
        {
            return Err(Status::too_large_version(asked, current));
        }
        let everything = match initial {
            Initial::Send => true,
            Initial::Skip => false,
            Initial::ByVersion => asked.unwrap_or_default() == 0,
        };
        // A version that is forgotten is told as an event, like whatever goes wrong later.
        let cursor = match asked {
            Some(asked) if asked > 0 && !everything => asked,
            _ => current,
        };
        let existing: Vec<Arc<Object>> = if everything {
            transaction.list(resource, target.namespace.as_deref()).map(Arc::clone).collect()
        } else {
            Vec::new()
        };
        let news = transaction.subscribe(resource);
        drop(transaction);

        Ok(Self {
            registry: Arc::clone(registry),
            resource,
            namespace: target.namespace.clone(),
            selection,
            view,
            cursor,
            news,
            bookmarks: bookmarks.then(|| {
                let mut period = tokio::time::interval_at(Instant::now() + BOOKMARK_PERIOD, BOOKMARK_PERIOD);
                period.set_missed_tick_behavior(MissedTickBehavior::Delay);
                period
            }),
            deadline: Instant::now() + Duration::from_secs(seconds),
            existing: existing.into_iter(),
            marked: everything && bookmarks,
            headed: false,
            pending: BytesMut::new(),
            over: false,
        })
    }

    /// The events, one JSON text a line, until the client's time is up.
    pub(crate) fn into_stream(
        self,
    ) -> impl Stream<Item = std::result::Result<Bytes, std::convert::Infallible>> {
        futures::stream::unfold(self, |mut watch| async move {
            let bytes = watch.next().await?;
            Some((Ok(bytes), watch))
        })
    }

    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if !self.pending.is_empty() {
                return Some(self.pending.split().freeze());
            }
            if self.over {
                return None;
            }
            if self.show_existing() {
                continue;
            }
            self.news.mark_unchanged();
            self.catch_up();
            if !self.pending.is_empty() {
                continue;
            }
            let bookmark = async {
                match &mut self.bookmarks {
                    Some(period) => period.tick().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = self.news.changed() => {
                    // The store lives at least as long as its server; without it there is no more news.
                    self.over = changed.is_err();
                }
                _ = bookmark => self.bookmark(false),
                () = tokio::time::sleep_until(self.deadline) => self.over = true,
            }
        }
    }

    /// Shows some of what was there when the watch began; tells whether there was something to show.
    fn show_existing(&mut self) -> bool {
        while self.pending.len() < limits::CHUNK
            && let Some(object) = self.existing.next()
        {
            if self.selection.matches(&object.value) {
                self.show("ADDED", &object);
            }
        }
        if self.existing.len() == 0 && std::mem::take(&mut self.marked) {
            self.bookmark(true);
        }
        !self.pending.is_empty()
    }

    fn catch_up(&mut self) {
        let transaction = self.registry.store.transaction();
        let changes = transaction.changes(self.resource, self.cursor);
        let current = transaction.version();
        drop(transaction);
        match changes {
            Ok(changes) => {
                for change in changes {
                    self.cursor = change.version;
                    self.tell(&change);
                    if self.pending.len() >= limits::CHUNK {
                        return;
                    }
                }
                self.cursor = self.cursor.max(current);
            }
            Err(forgotten) => {
                let status = Status::expired(format!(
                    "too old resource version: {} ({})",
                    self.cursor, forgotten.oldest
                ));
                self.event("ERROR", status.to_value().to_string().as_bytes());
                self.over = true;
            }
        }
    }

    /// A selector may make an object appear or vanish without anybody creating or deleting it.
    fn tell(&mut self, change: &Change) {
        let key = change.object.key();
        if self.namespace.as_ref().is_some_and(|namespace| *namespace != key.namespace) {
            return;
        }
        let matched =
            change.previous.as_ref().is_some_and(|previous| self.selection.matches(&previous.value));
        let matches = !change.deleted && self.selection.matches(&change.object.value);
        match (matched, matches) {
            (false, true) => self.show("ADDED", &change.object),
            (true, true) => self.show("MODIFIED", &change.object),
            (true, false) => self.show("DELETED", &change.object),
            (false, false) => {}
        }
    }

    fn show(&mut self, kind: &str, object: &Object) {
        let object = self.view.event(self.resource, object, !self.headed);
        self.headed = true;
        self.event(kind, &object);
    }

    fn bookmark(&mut self, initial_events_end: bool) {
        let mut metadata = json!({"resourceVersion": self.cursor.to_string(), "creationTimestamp": null});
        if initial_events_end {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let (kind, version) = match self.view.form {
            super::request::Form::Object => (self.resource.kind, self.resource.api_version()),
            super::request::Form::Metadata => ("PartialObjectMetadata", "meta.k8s.io/v1".to_owned()),
            super::request::Form::Table => ("Table", "meta.k8s.io/v1".to_owned()),
        };
        let mut object = json!({"kind": kind, "apiVersion": version, "metadata": metadata});
        if kind == "Table" {
            object["columnDefinitions"] = Value::Null;
            object["rows"] = json!([]);
        }
        self.event("BOOKMARK", object.to_string().as_bytes());
    }

    fn event(&mut self, kind: &str, object: &[u8]) {
        self.pending.put_slice(b"{\"type\":\"");
        self.pending.put_slice(kind.as_bytes());
        self.pending.put_slice(b"\",\"object\":");
        self.pending.put_slice(object);
        self.pending.put_slice(b"}\n");
    }
}

/// Whether the watch begins with what exists
/// ([API concepts, "Streaming lists"](https://kubernetes.io/docs/reference/using-api/api-concepts/#streaming-lists)).
#[derive(Clone, Copy, PartialEq, Eq)]
enum Initial {
    /// Only if no version is given, or 0.
    ByVersion,
    Send,
    Skip,
}

impl Initial {
    fn read(query: &Query) -> Result<Self> {
        let field = "resourceVersionMatch";
        let matching = query.get(field);
        let said = query.has("sendInitialEvents");
        let mut errors = Vec::new();
        if said && matching != "NotOlderThan" {
            let why = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
            errors.push(FieldError::forbidden(field, why));
        }
        if !matching.is_empty() {
            if !said {
                let why = "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided";
                errors.push(FieldError::forbidden(field, why));
            }
            if matching != "NotOlderThan" {
                errors.push(FieldError::not_supported(field, matching, &["NotOlderThan"]));
            }
            if !query.get("continue").is_empty() {
                let why = "resourceVersionMatch is forbidden when continue is provided";
                errors.push(FieldError::forbidden(field, why));
            }
        }
        if !errors.is_empty() {
            return Err(Status::invalid_options(&errors));
        }
        Ok(match said {
            true if query.flag("sendInitialEvents") => Self::Send,
            true => Self::Skip,
            false => Self::ByVersion,
        })
    }
}
