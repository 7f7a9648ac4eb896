//! Waiting for a state of the API objects. A wait knows what it waits for and keeps the last thing
//! it saw; when its bound is reached, it says both.

use std::fmt::Debug;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use futures::TryStreamExt as _;
use k8s_openapi::api::core::v1::{Pod, PodStatus, ServiceAccount};
use kube::api::{Api, PostParams};
use kube::runtime::watcher::{self, Config, Event};
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::time::{Instant, timeout};

/// Who cannot watch for this long will hardly be able to within what is left of the bound; saying so
/// now says what is wrong.
const UNREACHABLE: Duration = Duration::from_secs(3);

/// Watches one set of objects until `done` answers; `what` is how the message calls it.
///
/// # Errors
/// When `bound` is reached: what was waited for, and what `done` last complained about.
pub(crate) async fn until<K, T>(
    api: Api<K>,
    config: Config,
    what: &str,
    bound: Duration,
    mut done: impl FnMut(&[K]) -> Result<T, String>,
) -> anyhow::Result<T>
where
    K: kube::Resource + Clone + DeserializeOwned + Debug + Send + 'static,
    K::DynamicType: Clone,
{
    let mut last = "nothing".to_owned();
    let watching = async {
        let mut objects: Vec<K> = Vec::new();
        let mut listing: Vec<K> = Vec::new();
        let mut events = Box::pin(watcher::watcher(api, config));
        let mut failing: Option<Instant> = None;
        loop {
            let event = match events.try_next().await {
                Ok(Some(event)) => event,
                Ok(None) => bail!("the watch ended"),
                Err(error) => {
                    last = format!("the watch failed: {}", in_words(&error));
                    let since = *failing.get_or_insert_with(Instant::now);
                    if since.elapsed() >= UNREACHABLE {
                        bail!(
                            "waited for {what}, but the API server cannot be watched since {UNREACHABLE:?}: {}",
                            in_words(&error)
                        );
                    }
                    // The next poll of the stream tries again.
                    try_again().await;
                    continue;
                }
            };
            match event {
                // Nothing is known before a list is complete, not even that there is nothing.
                Event::Init => {
                    listing.clear();
                    continue;
                }
                Event::InitApply(object) => {
                    failing = None;
                    listing.push(object);
                    continue;
                }
                Event::InitDone => objects = std::mem::take(&mut listing),
                Event::Apply(object) => {
                    objects.retain(|known| known.meta().uid != object.meta().uid);
                    objects.push(object);
                }
                Event::Delete(object) => objects.retain(|known| known.meta().uid != object.meta().uid),
            }
            failing = None;
            match done(&objects) {
                Ok(found) => return Ok(found),
                Err(seen) => last = seen,
            }
        }
    };
    match timeout(bound, watching).await {
        Ok(result) => result,
        Err(_) => Err(anyhow!("waited {bound:?} for {what}; last seen: {last}")),
    }
}

/// The first minor version that gives a service account's pods tokens without a Secret of its own
/// ([KEP-2799](https://github.com/kubernetes/enhancements/tree/master/keps/sig-auth/2799-reduction-of-secret-based-service-account-token)).
const WITHOUT_SECRETS: u32 = 24;

/// Waits until a namespace has its `default` service account, and in Kubernetes 1.`minor` whatever that needs:
/// before, pods are refused there.
pub(crate) async fn for_service_account(
    client: &kube::Client,
    namespace: &str,
    minor: u32,
    bound: Duration,
) -> anyhow::Result<()> {
    let began = Instant::now();
    let api: Api<ServiceAccount> = Api::namespaced(client.clone(), namespace);
    let what = format!("the service account `default` of namespace `{namespace}`");
    until(api, Config::default().fields("metadata.name=default"), &what, bound, |accounts| {
        accounts.first().map(drop).ok_or_else(|| "no such service account".to_owned())
    })
    .await?;
    if minor < WITHOUT_SECRETS {
        for_token(client, namespace, bound.saturating_sub(began.elapsed())).await?;
    }
    Ok(())
}

/// Waits until pods are not put off for want of a token. That the account names its Secret says little: the
/// API server judges by a copy of its own, which may be older. So it is asked, by a pod that is never made.
async fn for_token(client: &kube::Client, namespace: &str, bound: Duration) -> anyhow::Result<()> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let pod = json!({
        "metadata": { "name": "stickler-asks" },
        "spec": { "containers": [{ "name": "none", "image": "none" }] },
    });
    let pod: Pod = serde_json::from_value(pod)?;
    let asked = PostParams { dry_run: true, ..PostParams::default() };
    let mut last = "no answer".to_owned();
    let asking = async {
        while let Err(kube::Error::Api(status)) = pods.create(&asked, &pod).await {
            if !status.message.contains("token") {
                break;
            }
            last = status.message;
            try_again().await;
        }
    };
    match timeout(bound, asking).await {
        // Whatever else is wrong with pods, those that are wanted will say.
        Ok(()) => Ok(()),
        Err(_) => {
            bail!("waited {bound:?} until pods may be created in namespace `{namespace}`; last seen: {last}")
        }
    }
}

/// Waits until a pod's containers run.
pub(crate) async fn for_running(api: &Api<Pod>, name: &str, bound: Duration) -> anyhow::Result<()> {
    let config = Config::default().fields(&format!("metadata.name={name}"));
    let what = format!("pod `{name}` to run");
    until(api.clone(), config, &what, bound, |pods| {
        let pod = pods.first().ok_or_else(|| "no such pod".to_owned())?;
        let running = |pod: &Pod| pod.status.as_ref()?.phase.clone();
        match running(pod).as_deref() {
            Some("Running") => Ok(()),
            phase => {
                let phase = format!("its phase is {}", phase.unwrap_or("unknown"));
                Err(pod_ready(pod).err().unwrap_or(phase))
            }
        }
    })
    .await
}

/// Do a pod's containers run? If not, why not, as far as it can be told.
pub(crate) fn pod_running(pod: &Pod) -> Result<(), String> {
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
    let running = statuses.is_some_and(|statuses| {
        !statuses.is_empty()
            && statuses
                .iter()
                .all(|status| status.state.as_ref().is_some_and(|state| state.running.is_some()))
    });
    if running { Ok(()) } else { Err(pod_ready(pod).err().unwrap_or_else(|| "it is not known".to_owned())) }
}

/// Is a pod Ready, and not on its way out? If not, why not, as far as it can be told.
/// A pod that has an address, or why it has none.
pub(crate) fn pod_addressed(pod: &Pod) -> Result<(), String> {
    let status = pod.status.as_ref();
    match status.and_then(|status| status.pod_ip.as_deref()) {
        Some(_) => Ok(()),
        None => Err(format!("pod `{}` has no address", pod.metadata.name.as_deref().unwrap_or_default())),
    }
}

pub(crate) fn pod_ready(pod: &Pod) -> Result<(), String> {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    if pod.metadata.deletion_timestamp.is_some() {
        return Err(format!("pod `{name}` is terminating"));
    }
    let status = pod.status.as_ref();
    let ready = status
        .and_then(|status| status.conditions.as_ref())
        .and_then(|conditions| conditions.iter().find(|condition| condition.type_ == "Ready"))
        .is_some_and(|condition| condition.status == "True");
    if ready {
        return Ok(());
    }
    // What comes first is what the others wait for.
    let lists = |status: &PodStatus| {
        [status.init_container_statuses.clone(), status.container_statuses.clone()].into_iter().flatten()
    };
    let waiting = status.into_iter().flat_map(lists).flatten().find_map(|container| {
        let waiting = container.state.as_ref()?.waiting.as_ref()?;
        let reason = waiting.reason.as_deref().unwrap_or("waiting");
        Some(format!("{reason}: {}", waiting.message.as_deref().unwrap_or_default()))
    });
    let phase = status.and_then(|status| status.phase.clone()).unwrap_or_else(|| "Unknown".to_owned());
    Err(format!("pod `{name}` is {}", waiting.unwrap_or(phase)))
}

/// The error of a request that took longer than it may.
pub(crate) async fn within<T>(
    bound: Duration,
    what: &str,
    request: impl Future<Output = kube::Result<T>>,
) -> anyhow::Result<T> {
    match timeout(bound, request).await {
        Ok(result) => result.with_context(|| format!("could not {what}")),
        Err(_) => Err(anyhow!("could not {what}: no answer from the API server within {bound:?}")),
    }
}

/// An error with its causes, and what it means.
fn in_words(error: &watcher::Error) -> String {
    let mut words = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(deeper) = cause {
        let text = deeper.to_string();
        if !words.ends_with(&text) {
            words = format!("{words}: {text}");
        }
        cause = deeper.source();
    }
    words
}

#[expect(
    clippy::disallowed_methods,
    reason = "an API server that is away announces its return to nobody; the attempts are bounded"
)]
async fn try_again() {
    tokio::time::sleep(Duration::from_millis(50)).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube::client::Body;
    use std::convert::Infallible;

    /// The first thing a wait learns is the whole list; before, it knows nothing, and nothing must
    /// not look like no pods.
    #[tokio::test]
    async fn an_unfinished_list_is_not_taken_for_none() {
        let list = json!({
            "kind": "PodList", "apiVersion": "v1", "metadata": {"resourceVersion": "1"},
            "items": [{"metadata": {"name": "web", "namespace": "default", "uid": "1"}}],
        });
        let answer = list.to_string();
        let service = tower::service_fn(move |_: http::Request<Body>| {
            let answer = http::Response::new(Body::from(answer.clone().into_bytes()));
            async move { Ok::<_, Infallible>(answer) }
        });
        let api = Api::<Pod>::namespaced(kube::Client::new(service, "default"), "default");
        let first = until(api, Config::default(), "a list", Duration::from_secs(5), |pods| {
            Ok(pods.iter().map(|pod| pod.metadata.name.clone().unwrap_or_default()).collect::<Vec<_>>())
        });
        assert_eq!(first.await.expect("a list"), ["web"]);
    }

    /// Where tokens are Secrets, pods are put off until the API server knows of one.
    #[tokio::test]
    async fn an_account_without_a_token_is_enough_for_new_clusters_only() {
        let list = json!({
            "kind": "ServiceAccountList", "apiVersion": "v1", "metadata": {"resourceVersion": "1"},
            "items": [{"metadata": {"name": "default", "namespace": "n", "uid": "1"}}],
        });
        let put_off = json!({
            "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 500, "reason": "ServerTimeout",
            "message": "No API token found for service account \"default\"",
        });
        let made = json!({ "kind": "Pod", "apiVersion": "v1", "metadata": { "name": "stickler-asks" } });
        let client = |times: usize| {
            let asked = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
            let (list, put_off, made) = (list.to_string(), put_off.to_string(), made.to_string());
            let service = tower::service_fn(move |request: http::Request<Body>| {
                let query = request.uri().query().unwrap_or_default();
                let (code, answer) = if request.method() != http::Method::POST {
                    (200, list.clone())
                } else if !query.contains("dryRun=All") {
                    panic!("a pod is made")
                } else if asked.fetch_add(1, std::sync::atomic::Ordering::SeqCst) < times {
                    (500, put_off.clone())
                } else {
                    (201, made.clone())
                };
                async move {
                    let answer = http::Response::builder().status(code).body(Body::from(answer.into_bytes()));
                    Ok::<_, Infallible>(answer.expect("an answer"))
                }
            });
            kube::Client::new(service, "default")
        };
        let within = async |minor, times, bound| {
            for_service_account(&client(times), "n", minor, Duration::from_millis(bound)).await
        };
        within(24, usize::MAX, 5_000).await.expect("it is there");
        within(23, 2, 5_000).await.expect("the third time");
        let error = within(23, usize::MAX, 300).await.expect_err("it has no token").to_string();
        assert!(error.ends_with("last seen: No API token found for service account \"default\""), "{error}");
    }
}
