//! Which containers there are, for those who ask the kubelet directly: logs and exec.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;

use super::container::Container;
use super::log::Log;

/// What is known about one container.
#[derive(Clone, Debug, Default)]
pub(crate) struct Record {
    /// The run that goes on.
    pub(crate) running: Option<Container>,
    /// What the last run that was started wrote.
    pub(crate) log: Option<Arc<Log>>,
    /// What the run before it wrote.
    pub(crate) previous: Option<Arc<Log>>,
}

/// Why there is no such record.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Missing {
    Pod,
    Container,
}

/// All containers of a node by namespace and name of their pod.
#[derive(Debug, Default)]
pub(crate) struct Records(Mutex<BTreeMap<(String, String), PodRecord>>);

#[derive(Debug)]
struct PodRecord {
    uid: Option<String>,
    containers: BTreeMap<String, Record>,
}

impl Records {
    /// The pod is ours, though nothing of it runs yet.
    pub(crate) fn know(&self, pod: &Pod) {
        let names = pod.spec.iter().flat_map(|spec| {
            let inits = spec.init_containers.iter().flatten();
            inits.chain(&spec.containers).map(|container| (container.name.clone(), Record::default()))
        });
        let record = PodRecord { uid: pod.uid(), containers: names.collect() };
        self.lock().insert(key(pod), record);
    }

    pub(crate) fn started(&self, pod: &Pod, container: &str, running: Container) {
        self.change(pod, container, |record| {
            record.previous = record.log.replace(Arc::clone(running.log()));
            record.running = Some(running);
        });
    }

    pub(crate) fn ended(&self, pod: &Pod, container: &str) {
        self.change(pod, container, |record| record.running = None);
    }

    pub(crate) fn forget(&self, pod: &Pod) {
        let mut pods = self.lock();
        // A new pod of the same name may be here already.
        if pods.get(&key(pod)).is_some_and(|record| record.uid == pod.uid()) {
            pods.remove(&key(pod));
        }
    }

    pub(crate) fn find(&self, namespace: &str, pod: &str, container: &str) -> Result<Record, Missing> {
        let pods = self.lock();
        let pod = pods.get(&(namespace.to_owned(), pod.to_owned())).ok_or(Missing::Pod)?;
        pod.containers.get(container).cloned().ok_or(Missing::Container)
    }

    fn change(&self, pod: &Pod, container: &str, change: impl FnOnce(&mut Record)) {
        let mut pods = self.lock();
        let record = pods.get_mut(&key(pod)).filter(|record| record.uid == pod.uid());
        if let Some(record) = record.and_then(|record| record.containers.get_mut(container)) {
            change(record);
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(String, String), PodRecord>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn key(pod: &Pod) -> (String, String) {
    (pod.namespace().unwrap_or_default(), pod.name_any())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(uid: &str) -> Pod {
        serde_json::from_value(serde_json::json!({
            "metadata": {"name": "web", "namespace": "shop", "uid": uid},
            "spec": {"containers": [{"name": "a"}]}
        }))
        .expect("a pod")
    }

    #[test]
    fn what_is_missing_is_named_and_an_old_pod_does_not_remove_the_new() {
        let records = Records::default();
        let missing = |container| records.find("shop", "web", container).err();
        assert_eq!(missing("a"), Some(Missing::Pod));
        records.know(&pod("old"));
        assert_eq!(missing("b"), Some(Missing::Container));
        records.know(&pod("new"));
        records.forget(&pod("old"));
        assert_eq!(missing("a"), None);
        records.forget(&pod("new"));
        assert_eq!(missing("a"), Some(Missing::Pod));
    }
}
