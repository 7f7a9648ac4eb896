//! Chronicles: every version of the objects that decide what is promised, and when it came to be.
//!
//! A [`Recording`] follows the objects of some namespaces by watches; what it has recorded so far
//! is a [`Chronicle`], a value. When a change happened is never taken from the time its event
//! arrived alone, which is late by as much as the API server is busy. A *marker*, a ConfigMap of
//! ours, is patched all the time, and each of its patches is known by when the request was sent,
//! when the answer came, and which resourceVersion it got. A change with a higher resourceVersion
//! than a marker happened after that marker's request was sent; one with a lower one happened before
//! its answer came, and each before its own event arrived.
//!
//! That rests on resourceVersions being comparable, within one kind as
//! [KEP-5504](https://github.com/kubernetes/enhancements/tree/master/keps/sig-api-machinery/5504-comparable-resource-version)
//! states, and across kinds, which holds wherever all kinds are kept in one store with one revision,
//! as etcd's is. Where one is no number, changes are ordered by the arrival of their events and
//! dated between two arrivals, and [`Chronicle::doubts`] says so.
//!
//! From a chronicle come [`Timeline`]s for [`history::check`](crate::history::check): what the
//! model allowed a vantage to see at a destination, from when to when.
//!
//! **Crashes.** What is promised is that *ready* endpoints are served
//! ([Virtual IPs](https://kubernetes.io/docs/reference/networking/virtual-ips/)), and a container that died
//! is ready until its kubelet has noticed
//! ([Pod Lifecycle, "How Pods handle problems with containers"](https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/#container-restarts)):
//! nobody can promise that a connection to it succeeds. So from a crash that was told
//! ([`Recording::crashed`]) until the pod is ready again with a new container, calls may fail wherever
//! that pod is among those that may answer, and by staleness for a bound after it has left them.
//! That somebody else answers, or that calls fail where it is not among them, is a violation as ever.
//! Endpoints that serve while they terminate are "best effort"
//! ([KEP-1669](https://github.com/kubernetes/enhancements/tree/master/keps/sig-network/1669-proxy-terminating-endpoints)):
//! where only they are left, calls may fail too.

mod recording;
mod version;

use std::collections::BTreeMap;

use stickler_model::{
    Destination, ObjectKey, Promises, RecordType, Resolution, Route, Vantage, World, resolve, resolve_from,
    route,
};

use crate::history::{Allowed, Backends, NameTimeline, Timeline};

pub use recording::Recording;
pub use version::{Change, Object, What};

/// What a [`Recording`] has seen: the world as it was first found, and every change since, in the
/// order they happened in.
#[derive(Clone, Debug, Default)]
pub struct Chronicle {
    /// From this instant on it is complete, in microseconds on the harness's clock.
    pub since_us: i64,
    /// Up to this one.
    pub until_us: i64,
    /// What was found at the beginning.
    pub start: World,
    pub changes: Vec<Change>,
    /// What may have been missed, such as versions between the end of a watch and a new list. Where
    /// there is any, nothing that rests on the chronicle is certain.
    pub gaps: Vec<String>,
    /// What makes times less certain than they should be, such as resourceVersions that are no numbers.
    pub doubts: Vec<String>,
    /// The longest it took the API server to answer a patch of the marker.
    pub slowest_answer_us: i64,
}

/// One version of the world, while it is looked at.
#[derive(Clone, Copy, Debug)]
pub struct Version<'a> {
    /// It came to be at some instant from this one on.
    pub earliest_us: i64,
    /// And not after this one.
    pub latest_us: i64,
    pub world: &'a World,
    /// The pods whose container has crashed and is not known to serve again.
    pub crashed: &'a Crashed,
    /// What made it; none of the first one.
    pub change: Option<&'a Change>,
    /// Whether a route or a name may be another than in the version before.
    pub concerns_routes: bool,
}

/// Pods whose container has crashed, each with how often its containers had been restarted until
/// then.
pub type Crashed = BTreeMap<ObjectKey, i32>;

/// Who calls whom, as the model knows them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub from: Vantage,
    pub to: Destination,
}

/// A question for the cluster's DNS.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Question {
    /// The pod whose search path the name goes through; none if it is whole as it is.
    pub from: Option<ObjectKey>,
    pub name: String,
    pub kind: RecordType,
}

impl Chronicle {
    /// Shows every version of the world, the first one first.
    pub fn each(&self, mut visit: impl FnMut(&Version<'_>)) {
        let mut world = self.start.clone();
        let mut crashed = Crashed::new();
        visit(&Version {
            earliest_us: i64::MIN,
            latest_us: i64::MIN,
            world: &world,
            crashed: &crashed,
            change: None,
            concerns_routes: true,
        });
        for change in &self.changes {
            let concerned_before = change.concerns_routes(&world);
            change.apply(&mut world, &mut crashed);
            visit(&Version {
                earliest_us: change.earliest_us,
                latest_us: change.latest_us,
                world: &world,
                crashed: &crashed,
                change: Some(change),
                concerns_routes: concerned_before || change.concerns_routes(&world),
            });
        }
    }

    /// The world at the end.
    pub fn last(&self) -> World {
        let mut world = self.start.clone();
        let mut crashed = Crashed::new();
        for change in &self.changes {
            change.apply(&mut world, &mut crashed);
        }
        world
    }

    /// What is allowed at each place, from when to when. Backends get their numbers from
    /// `backends`, which must be the one that reads the answers.
    pub fn timelines(&self, promises: &Promises, places: &[Place], backends: &mut Backends) -> Vec<Timeline> {
        let mut timelines: Vec<Timeline> = Vec::with_capacity(places.len());
        self.each(|version| {
            if !version.concerns_routes {
                return;
            }
            for (index, place) in places.iter().enumerate() {
                let route = route(version.world, promises, &place.from, &place.to);
                let allowed = allowed(version, route, backends);
                match timelines.get_mut(index) {
                    Some(timeline) => timeline.change(version.earliest_us, version.latest_us, allowed),
                    None => timelines.push(Timeline::starting(allowed)),
                }
            }
        });
        timelines
    }

    /// What is to be answered to each question, from when to when.
    pub fn names(&self, promises: &Promises, questions: &[Question]) -> Vec<NameTimeline> {
        let mut timelines: Vec<NameTimeline> = Vec::with_capacity(questions.len());
        self.each(|version| {
            if !version.concerns_routes {
                return;
            }
            for (index, question) in questions.iter().enumerate() {
                let resolution = question.resolution(version.world, promises);
                match timelines.get_mut(index) {
                    Some(timeline) => timeline.change(version.earliest_us, version.latest_us, resolution),
                    None => timelines.push(NameTimeline::starting(resolution)),
                }
            }
        });
        timelines
    }
}

impl Question {
    fn resolution(&self, world: &World, promises: &Promises) -> Resolution {
        match &self.from {
            Some(pod) => resolve_from(world, promises, pod, &self.name, self.kind).resolution,
            None => resolve(world, promises, &self.name, self.kind),
        }
    }
}

/// What a route allows in this version: failures too where one of its backends is known to have
/// crashed, or is on its way out and chosen for want of a better one.
fn allowed(version: &Version<'_>, route: Route, backends: &mut Backends) -> Allowed {
    let is_doubtful = |pod: &ObjectKey| {
        let object = version.world.pods.get(pod);
        version.crashed.contains_key(pod)
            || object.is_some_and(|pod| pod.metadata.deletion_timestamp.is_some())
    };
    match route {
        Route::Answered { by, why, rule, .. }
            if by.iter().any(|backend| backend.pod.as_ref().is_some_and(is_doubtful)) =>
        {
            backends.allowed(&Route::AtMost { by, why, rule })
        }
        other => backends.allowed(&other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Answer;

    const WORLD: &str = "
apiVersion: v1
kind: Node
metadata: {name: kube1.vm}
---
apiVersion: v1
kind: Pod
metadata: {name: client}
spec: {nodeName: kube1.vm, containers: [{name: c}]}
status: {phase: Running, podIP: 10.244.1.9}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {clusterIP: 10.96.0.1, selector: {app: web}, ports: [{port: 80, targetPort: 8000}]}
";

    fn pod(name: &str, ready: bool, restarts: i32, extra: &str) -> Object {
        let (octet, status) = (name.len(), if ready { "True" } else { "False" });
        let world = World::from_yaml(&format!(
            "
apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{app: web}}{extra}}}
spec: {{nodeName: kube1.vm, containers: [{{name: c}}]}}
status:
  phase: Running
  podIP: 10.244.1.{octet}
  conditions: [{{type: Ready, status: \"{status}\"}}]
  containerStatuses: [{{name: c, restartCount: {restarts}, ready: {ready}, image: i, imageID: i}}]
"
        ))
        .expect("a pod");
        Object::Pod(Box::new(world.pods.into_values().next().expect("one")))
    }

    fn chronicle(changes: Vec<(i64, What)>) -> Chronicle {
        let changes = changes.into_iter().map(|(at, what)| Change { earliest_us: at, latest_us: at, what });
        Chronicle {
            start: World::from_yaml(WORLD).expect("a world"),
            changes: changes.collect(),
            ..Chronicle::default()
        }
    }

    fn web() -> Place {
        Place {
            from: Vantage::Pod("client".parse().expect("a key")),
            to: "10.96.0.1:80".parse().expect("an address"),
        }
    }

    fn timeline(chronicle: &Chronicle) -> (Timeline, Backends) {
        let mut backends = Backends::new();
        let promises = Promises::of_minor(37);
        let timeline = chronicle.timelines(&promises, &[web()], &mut backends).remove(0);
        (timeline, backends)
    }

    #[test]
    fn a_timeline_follows_the_versions() {
        let chronicle = chronicle(vec![
            (100, What::Put(pod("a", true, 0, ""))),
            (200, What::Put(pod("bb", true, 0, ""))),
            (300, What::Put(pod("a", false, 0, ""))),
            (400, What::gone(&pod("bb", true, 0, ""))),
        ]);
        let (timeline, mut backends) = timeline(&chronicle);
        let (a, b) = (Answer::By(backends.id("a")), Answer::By(backends.id("bb")));
        for (at, allowed, not) in [
            (50, Answer::Refused, a),
            (150, a, b),
            (250, b, Answer::Refused),
            (350, b, a),
            (450, Answer::Refused, b),
        ] {
            assert!(timeline.allowed_at(at).allows(allowed), "{at}");
            assert!(!timeline.allowed_at(at).allows(not), "{at}");
        }
        assert_eq!(timeline.changes(), 4);
    }

    #[test]
    fn what_no_route_depends_on_changes_nothing() {
        let mut seen = 0;
        let copy = World::from_yaml(
            "
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: web-x
  labels:
    kubernetes.io/service-name: web
    endpointslice.kubernetes.io/managed-by: endpointslice-controller.k8s.io
addressType: IPv4
endpoints: []
",
        );
        let slice = copy.expect("a slice").endpoint_slices.into_values().next().expect("one");
        let chronicle = chronicle(vec![(100, What::Put(Object::EndpointSlice(Box::new(slice))))]);
        chronicle.each(|version| seen += usize::from(version.concerns_routes));
        assert_eq!(seen, 1, "the first version only: the service selects pods");
    }

    #[test]
    fn a_crash_excuses_failures_until_the_pod_is_ready_again_and_nothing_else() {
        let a = || pod("a", true, 0, "");
        let crashed = What::Crashed("a".parse().expect("a key"));
        let chronicle = chronicle(vec![
            (10, What::Put(a())),
            (20, What::Put(pod("bb", true, 0, ""))),
            (100, crashed),
            // The kubelet looks, and has noticed nothing yet.
            (150, What::Put(a())),
            (200, What::Put(pod("a", false, 0, ""))),
            (300, What::Put(pod("a", true, 1, ""))),
        ]);
        let (timeline, mut backends) = timeline(&chronicle);
        let by_a = Answer::By(backends.id("a"));
        let allows = |at, seen| timeline.allowed_at(at).allows(seen);
        assert!(!allows(50, Answer::Refused) && allows(50, by_a));
        assert!(allows(120, Answer::Refused) && allows(120, Answer::Reset) && allows(160, Answer::Silent));
        assert!(!allows(120, Answer::Stranger));
        // It has left: what fails now is somebody's fault.
        assert!(!allows(250, Answer::Refused) && !allows(250, by_a));
        assert!(!allows(350, Answer::Refused) && allows(350, by_a));
    }

    #[test]
    fn who_serves_while_it_terminates_does_what_it_can() {
        let going = || pod("a", true, 0, ", deletionTimestamp: \"2026-01-01T00:00:00Z\"");
        let chronicle = chronicle(vec![
            (10, What::Put(pod("a", true, 0, ""))),
            (20, What::Put(pod("bb", true, 0, ""))),
            (100, What::Put(going())),
            (200, What::gone(&pod("bb", true, 0, ""))),
        ]);
        let (timeline, mut backends) = timeline(&chronicle);
        let by_a = Answer::By(backends.id("a"));
        let allows = |at, seen| timeline.allowed_at(at).allows(seen);
        assert!(!allows(150, by_a) && !allows(150, Answer::Refused));
        assert!(allows(250, by_a) && allows(250, Answer::Refused));
    }

    #[test]
    fn a_headless_name_follows_the_versions_too() {
        let mut chronicle = chronicle(vec![
            (100, What::Put(pod("a", true, 0, ""))),
            (200, What::Put(pod("bb", true, 0, ""))),
        ]);
        for service in chronicle.start.services.values_mut() {
            service.spec.get_or_insert_default().cluster_ip = Some("None".to_owned());
        }
        let question = Question {
            from: Some("client".parse().expect("a key")),
            name: "web".to_owned(),
            kind: RecordType::A,
        };
        let names = chronicle.names(&Promises::of_minor(37), &[question]);
        let sizes = [50, 150, 250].map(|at| names[0].allowed_at(at).addresses().len());
        assert_eq!(sizes, [0, 1, 2]);
    }
}
