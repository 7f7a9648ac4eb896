//! The model's words in a history's: routes as what is allowed, outcomes as answers.

use std::collections::BTreeMap;

use stickler_model::{Backend, Route};
use stickler_pods::protocol::Seen;

use super::{Allowed, Answer, BackendId};

/// Gives backends their numbers, by the name under which they answer.
#[derive(Clone, Debug, Default)]
pub struct Backends {
    ids: BTreeMap<String, BackendId>,
    names: Vec<String>,
}

/// Why an outcome says nothing about the destination.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the agent could not look: {0}")]
pub struct NotAnAnswer(String);

impl Backends {
    pub fn new() -> Self {
        Self::default()
    }

    /// The number of a name, a new one if it has none yet.
    pub fn id(&mut self, name: &str) -> BackendId {
        if let Some(id) = self.ids.get(name) {
            return *id;
        }
        let id = BackendId::try_from(self.names.len()).unwrap_or(BackendId::MAX);
        self.ids.insert(name.to_owned(), id);
        self.names.push(name.to_owned());
        id
    }

    pub fn name(&self, id: BackendId) -> Option<&str> {
        self.names.get(usize::try_from(id).ok()?).map(String::as_str)
    }

    /// What a route allows. Its backends are known by their host names, as they name themselves.
    pub fn allowed(&mut self, route: &Route) -> Allowed {
        let mut ids = |by: &std::collections::BTreeSet<Backend>| -> Vec<BackendId> {
            by.iter().map(|one| self.id(&name_of(one))).collect()
        };
        match route {
            Route::Answered { by, .. } => Allowed::answered(ids(by)),
            Route::AtMost { by, .. } => Allowed::at_most(ids(by)),
            // Clients that call all the time are refused more often than kernels say so: see
            // `invariant::refused_as_often_as_may_be`.
            Route::Refused { .. } => Allowed::refused_or_silent(),
            Route::Dropped { .. } => Allowed::dropped(),
            Route::Nobody { .. } => Allowed::nobody(),
            Route::NotPromised { .. } => Allowed::anything(),
        }
    }

    /// What an outcome means. A name that no route knew so far gets a number: its backend may
    /// still be to come.
    ///
    /// # Errors
    /// If nothing was seen.
    pub fn answer(&mut self, seen: &Seen) -> Result<Answer, NotAnAnswer> {
        Ok(match seen {
            Seen::Answered(answer) => match &answer.hostname {
                Some(name) => Answer::By(self.id(name)),
                None => Answer::Stranger,
            },
            Seen::Connected | Seen::Garbled { .. } => Answer::Stranger,
            Seen::Refused => Answer::Refused,
            Seen::Reset | Seen::Closed => Answer::Reset,
            Seen::TimedOut { .. } => Answer::Silent,
            Seen::Unreachable { .. } => Answer::Unreachable,
            Seen::Resolved(_) => {
                return Err(NotAnAnswer("a name was resolved, nobody was called".to_owned()));
            }
            Seen::CouldNotLook { error } => return Err(NotAnAnswer(error.clone())),
        })
    }
}

fn name_of(backend: &Backend) -> String {
    backend.hostname.clone().unwrap_or_else(|| backend.address.ip().to_string())
}

#[cfg(test)]
mod tests {
    use stickler_model::{ObjectKey, Promises, Vantage, World, route};
    use stickler_pods::protocol::{Answer as Said, Phase};

    use super::*;

    #[test]
    fn a_route_and_its_answers_meet() {
        let world = World::from_yaml(
            "
apiVersion: v1
kind: Node
metadata: {name: kube1.vm}
---
apiVersion: v1
kind: Pod
metadata: {name: web-0, labels: {app: web}}
spec: {nodeName: kube1.vm, containers: [{name: c}]}
status: {phase: Running, podIP: 10.244.1.2, conditions: [{type: Ready, status: \"True\"}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {clusterIP: 10.96.0.1, selector: {app: web}, ports: [{port: 80, targetPort: 8000}]}
",
        )
        .unwrap();
        let vantage = Vantage::Pod(ObjectKey::new("default", "web-0"));
        let to = "10.96.0.1:80".parse().unwrap();
        let route = route(&world, &Promises::of_minor(37), &vantage, &to);
        let mut backends = Backends::new();
        let allowed = backends.allowed(&route);
        let mut said = |name: Option<&str>| {
            let hostname = name.map(str::to_owned);
            backends.answer(&Seen::Answered(Said { hostname, ..Said::default() })).unwrap()
        };
        assert!(allowed.allows(said(Some("web-0"))));
        assert!(!allowed.allows(said(Some("web-1"))));
        assert!(!allowed.allows(said(None)));
        assert!(!allowed.allows(backends.answer(&Seen::TimedOut { phase: Phase::Connect }).unwrap()));
        assert_eq!(backends.name(0), Some("web-0"));
        assert!(backends.answer(&Seen::CouldNotLook { error: "gone".to_owned() }).is_err());
    }
}
