//! A scheduler of one's own, as small as one can be: every pending pod is put on the node that has the
//! fewest pods, of those it may be on.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use futures::TryStreamExt as _;
use k8s_openapi::api::core::v1::{
    Binding, Node, NodeSelectorRequirement, NodeSelectorTerm, ObjectReference, Pod,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use kube::api::{Api, ListParams, ObjectMeta, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Client, Config, ResourceExt as _};

/// Whose pods these are, if they do not say.
const NAME: &str = "default-scheduler";
/// How soon a pod that found no node is looked at again.
const AGAIN: Duration = Duration::from_secs(1);

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let argument = std::env::args().nth(1).unwrap_or_default();
    if argument == "--version" {
        return say(&format!("own-scheduler {}", env!("CARGO_PKG_VERSION")));
    }
    let Some(file) = argument.strip_prefix("--kubeconfig=") else {
        bail!("usage: own-scheduler --kubeconfig=FILE")
    };
    // The only one; whether another was there before makes no difference.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let kubeconfig = Kubeconfig::read_from(Path::new(file))?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    let client = Client::try_from(config)?;

    let pods = Api::<Pod>::all(client.clone());
    let watched = watcher(pods.clone(), watcher::Config::default());
    let mut changed = std::pin::pin!(watched.default_backoff().applied_objects());
    // For pods that no node was for: one may be Ready again.
    let mut again = tokio::time::interval(AGAIN);
    loop {
        tokio::select! {
            pod = changed.try_next() => {
                let pod = pod.context("the pods cannot be watched")?.context("the watch of pods ended")?;
                place(&client, &pod).await?;
            }
            _ = again.tick() => {
                for pod in pods.list(&ListParams::default()).await? {
                    place(&client, &pod).await?;
                }
            }
        }
    }
}

/// Does it wait for this scheduler?
fn is_pending(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_none()
        && pod.spec.as_ref().is_some_and(|spec| {
            spec.node_name.is_none()
                && spec.scheduler_name.as_deref().unwrap_or(NAME) == NAME
                && spec.scheduling_gates.as_ref().is_none_or(Vec::is_empty)
        })
}

/// Gives a pod a node, if it waits for one. One that was deleted or placed meanwhile is left alone.
async fn place(client: &Client, pod: &Pod) -> anyhow::Result<()> {
    if !is_pending(pod) {
        return Ok(());
    }
    let pods = Api::<Pod>::all(client.clone()).list(&ListParams::default()).await?;
    let on = |node: &Node| {
        let node = node.metadata.name.as_ref();
        pods.iter().filter(|pod| pod.spec.as_ref().and_then(|spec| spec.node_name.as_ref()) == node).count()
    };
    let nodes = Api::<Node>::all(client.clone()).list(&ListParams::default()).await?;
    let fitting = nodes.iter().filter(|node| is_ready(node) && fits(pod, node));
    let Some(node) = fitting.min_by_key(|node| on(node)) else {
        return say(&format!("no node is for {}/{}", pod.namespace().unwrap_or_default(), pod.name_any()));
    };
    let target = ObjectReference { name: node.metadata.name.clone(), ..ObjectReference::default() };
    let metadata = ObjectMeta { name: pod.metadata.name.clone(), ..ObjectMeta::default() };
    let binding = Binding { metadata, target };
    let api = Api::<Pod>::namespaced(client.clone(), &pod.namespace().unwrap_or_default());
    let bound = api
        .create_subresource::<Binding, Status>("binding", &pod.name_any(), &PostParams::default(), &binding)
        .await;
    match bound {
        Err(kube::Error::Api(refused)) if refused.code == 404 || refused.code == 409 => Ok(()),
        bound => bound.map(drop).with_context(|| format!("pod {} cannot be bound", pod.name_any())),
    }
}

fn is_ready(node: &Node) -> bool {
    let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let unschedulable = node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or(false);
    !unschedulable
        && conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// May the pod be on the node, as far as its selector and its affinity go?
fn fits(pod: &Pod, node: &Node) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let mut selector = spec.node_selector.iter().flatten();
    let affinity = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    let required =
        affinity.and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref());
    selector.all(|(key, value)| node.labels().get(key) == Some(value))
        && required.is_none_or(|required| required.node_selector_terms.iter().any(|term| meets(node, term)))
}

fn meets(node: &Node, term: &NodeSelectorTerm) -> bool {
    let name = node.name_any();
    let is_met = |required: &NodeSelectorRequirement, value: Option<&String>| {
        let values = required.values.as_deref().unwrap_or_default();
        match required.operator.as_str() {
            "In" => value.is_some_and(|value| values.contains(value)),
            "NotIn" => value.is_none_or(|value| !values.contains(value)),
            "Exists" => value.is_some(),
            "DoesNotExist" => value.is_none(),
            _ => false,
        }
    };
    let mut fields = term.match_fields.iter().flatten();
    let mut labels = term.match_expressions.iter().flatten();
    fields.all(|required| required.key == "metadata.name" && is_met(required, Some(&name)))
        && labels.all(|required| is_met(required, node.labels().get(&required.key)))
}

/// What a component writes is kept beside the report.
fn say(words: &str) -> anyhow::Result<()> {
    use std::io::Write as _;
    Ok(writeln!(std::io::stdout(), "{words}")?)
}
