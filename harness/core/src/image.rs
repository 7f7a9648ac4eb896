//! Images: what stands in the place of `stickler` in manifests, and, where pods run an image of
//! somebody's, how our programs come into it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use futures::TryStreamExt as _;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, AttachParams, DynamicObject};
use kube::runtime::watcher::{Config, Event, watcher};
use serde_json::{Value, json};
use stickler_reports::Event as Told;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use crate::cluster::Cluster;
use crate::journal::Sink;
use crate::scene::exit_code;

/// The image of the notes' manifests, which a cluster need not be able to pull.
const NOTES_IMAGE: &str = "registry.cn-hangzhou.aliyuncs.com/orzi/goweb";

/// Where pods get their programs from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Image<'a> {
    /// Instead of the image `stickler`, and of the notes'.
    pub(crate) name: &'a str,
    /// It has a shell and no program of ours: they are copied into each pod.
    pub(crate) copied: bool,
}

/// Where the programs are in pods they are copied into.
const FOLDER: &str = "/stickler";
/// The init container that waits for them.
const WAITING: &str = "stickler-programs";
/// The label of such pods.
const LABEL: (&str, &str) = ("stickler.dev/programs", "copied");

impl<'a> Image<'a> {
    pub(crate) fn of(cluster: &'a dyn Cluster) -> Self {
        Self { name: cluster.image(), copied: cluster.programs().is_some() }
    }

    /// Puts this image in an object, as [`Image::put_in`] does.
    ///
    /// # Errors
    /// If the object is none any more.
    pub(crate) fn put_in_object(self, object: &mut DynamicObject) -> anyhow::Result<()> {
        let mut value = serde_json::to_value(&*object)?;
        self.put_in(&mut value);
        *object = serde_json::from_value(value)?;
        Ok(())
    }

    /// Puts this image in the place of `stickler` and of the notes' image, wherever containers are
    /// described.
    pub(crate) fn put_in(self, value: &mut Value) {
        match value {
            Value::Object(fields) => {
                if fields.get("spec").is_some_and(|spec| self.takes_part_in(spec)) && self.copied {
                    let labels = &mut fields.entry("metadata").or_insert_with(|| json!({}))["labels"];
                    if !labels.is_object() {
                        *labels = json!({});
                    }
                    labels[LABEL.0] = json!(LABEL.1);
                    self.wait_for_programs(&mut fields["spec"]);
                }
                let asked = fields.get("image").and_then(Value::as_str).unwrap_or_default().to_owned();
                if asked == NOTES_IMAGE {
                    fields.insert("command".to_owned(), json!(["goweb"]));
                }
                if asked == NOTES_IMAGE || asked == "stickler" {
                    fields.insert("image".to_owned(), json!(self.name));
                }
                fields.values_mut().for_each(|value| self.put_in(value));
            }
            Value::Array(items) => items.iter_mut().for_each(|item| self.put_in(item)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }

    /// Is this the spec of a pod with a container that needs a program of ours?
    fn takes_part_in(self, spec: &Value) -> bool {
        spec["containers"].as_array().into_iter().flatten().any(ours)
    }

    /// Gives a pod a folder that outlives its containers, an init container that ends when the programs
    /// are in it, and each container of ours a path that leads there.
    fn wait_for_programs(self, spec: &mut Value) {
        let mount = json!({ "name": WAITING, "mountPath": FOLDER });
        for container in spec["containers"].as_array_mut().into_iter().flatten().filter(|one| ours(one)) {
            push(&mut container["volumeMounts"], mount.clone());
            let path = format!("{FOLDER}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
            push(&mut container["env"], json!({ "name": "PATH", "value": path }));
        }
        push(&mut spec["volumes"], json!({ "name": WAITING, "emptyDir": {} }));
        // What comes first in this list is to come first: others may need the programs.
        let waiting = json!({
            "name": WAITING,
            "image": self.name,
            "command": ["sh", "-c", wait_in_shell()],
            "volumeMounts": [mount],
        });
        match spec["initContainers"].as_array_mut() {
            Some(containers) => containers.insert(0, waiting),
            None => spec["initContainers"] = json!([waiting]),
        }
    }
}

fn ours(container: &Value) -> bool {
    container["image"] == "stickler" || container["image"] == NOTES_IMAGE
}

fn push(list: &mut Value, item: Value) {
    match list.as_array_mut() {
        Some(list) => list.push(item),
        None => *list = json!([item]),
    }
}

/// Waits until somebody takes the mark away. Not every `sleep` knows parts of a second.
fn wait_in_shell() -> String {
    let wanted = format!("{FOLDER}/wanted");
    format!("touch {wanted} && while ls {wanted} > /dev/null 2>&1; do sleep 0.1 || sleep 1; done")
}

/// Takes as many bytes as there are, since the end of standard input is not told to everybody: older
/// API servers have no way to.
fn take_in_shell(length: usize) -> String {
    let program = format!("{FOLDER}/stickler-pods");
    format!(
        "head -c {length} > {program} && chmod 755 {program} && {program} --install {FOLDER} && rm \
         {FOLDER}/wanted"
    )
}

/// How many pods are copied into at once: programs are large, and the API server forwards them all.
const AT_ONCE: usize = 4;
/// How often it is tried with one pod.
const ATTEMPTS: usize = 3;
/// How long one copy may take.
const COPY: Duration = Duration::from_secs(60);

/// Copies the programs into every pod that waits for them. It ends when this is dropped.
pub(crate) struct Copying {
    _task: AbortOnDropHandle<()>,
}

impl Copying {
    /// Begins with the pods of a run: those in namespaces that begin so.
    pub(crate) fn start(client: kube::Client, prefix: String, programs: Arc<[u8]>, sink: &Sink) -> Self {
        let sink = sink.clone();
        let task = tokio::spawn(async move {
            let config = Config::default().labels(&format!("{}={}", LABEL.0, LABEL.1));
            let mut events = Box::pin(watcher(Api::<Pod>::all(client.clone()), config));
            let turns = Arc::new(Semaphore::new(AT_ONCE));
            let mut begun = BTreeSet::new();
            let mut copies = JoinSet::new();
            loop {
                let pod = match events.try_next().await {
                    Ok(Some(Event::Apply(pod) | Event::InitApply(pod))) => pod,
                    Ok(Some(_)) => continue,
                    Ok(None) => return,
                    Err(error) => {
                        tracing::debug!("could not watch the pods that wait for programs: {error}");
                        try_again().await;
                        continue;
                    }
                };
                while copies.try_join_next().is_some() {}
                let (namespace, name) = (pod.metadata.namespace.clone(), pod.metadata.name.clone());
                let Some((namespace, name)) = namespace.zip(name) else { continue };
                if !namespace.starts_with(&prefix) || !waits(&pod) || !begun.insert(pod.metadata.uid.clone())
                {
                    continue;
                }
                let api = Api::<Pod>::namespaced(client.clone(), &namespace);
                let (programs, turns, sink) = (Arc::clone(&programs), Arc::clone(&turns), sink.clone());
                copies.spawn(async move {
                    let _turn = turns.acquire().await;
                    if let Err(error) = insist(&api, &name, &programs).await {
                        let what = format!("no program could be copied into pod `{namespace}/{name}`");
                        tracing::warn!("{what}: {error:#}");
                        // A pod that went away meanwhile needs none.
                        if !matches!(api.get_opt(&name).await, Ok(None)) {
                            sink.tell(Told::Trouble { message: format!("{what}: {error:#}") });
                        }
                    }
                });
            }
        });
        Self { _task: AbortOnDropHandle::new(task) }
    }
}

/// Does the init container of a pod run?
fn waits(pod: &Pod) -> bool {
    let statuses = pod.status.iter().flat_map(|status| status.init_container_statuses.iter().flatten());
    let mut waiting = statuses.filter(|status| status.name == WAITING);
    pod.metadata.deletion_timestamp.is_none()
        && waiting.any(|status| status.state.as_ref().is_some_and(|state| state.running.is_some()))
}

async fn insist(api: &Api<Pod>, pod: &str, programs: &[u8]) -> anyhow::Result<()> {
    let mut last = None;
    for _ in 0..ATTEMPTS {
        match timeout(COPY, copy(api, pod, programs)).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => last = Some(error),
            Err(_) => last = Some(anyhow::anyhow!("it took longer than {COPY:?}")),
        }
        try_again().await;
    }
    Err(last.unwrap_or_else(|| anyhow::anyhow!("it was never tried")))
}

async fn copy(api: &Api<Pod>, pod: &str, programs: &[u8]) -> anyhow::Result<()> {
    let params = AttachParams::default().container(WAITING).stdin(true).stdout(false).stderr(true);
    // The most that goes in one message: programs are large.
    let params = params.max_stdin_buf_size(64 * 1024);
    let script = take_in_shell(programs.len());
    let mut process = api.exec(pod, ["sh", "-c", script.as_str()], &params).await?;
    let mut stdin = process.stdin().context("exec gave no standard input")?;
    let mut stderr = process.stderr().context("exec gave no standard error")?;
    let status = process.take_status().context("exec gave no status")?;
    let told = tokio::spawn(async move {
        let mut told = String::new();
        // What could not be read is not told.
        let _ = stderr.read_to_string(&mut told).await;
        told
    });
    stdin.write_all(programs).await.context("the copy was cut")?;
    stdin.flush().await.context("the copy was cut")?;
    let status = status.await.context("the stream was cut before the copy was complete")?;
    // Its reader is given up with the stream.
    drop(stdin);
    drop(process);
    match exit_code(&status)? {
        0 => Ok(()),
        code => {
            let told = timeout(Duration::from_secs(1), told).await;
            let told = told.ok().and_then(Result::ok).unwrap_or_default();
            bail!("`sh -c '{script}'` ended with {code}: {}", told.trim())
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a pod that cannot be copied into tells nobody when it could; the attempts are bounded"
)]
async fn try_again() {
    tokio::time::sleep(Duration::from_millis(200)).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deployment() -> Value {
        json!({ "kind": "Deployment", "metadata": { "name": "web" }, "spec": { "template": {
            "metadata": { "labels": { "app": "web" } },
            "spec": { "containers": [
                { "name": "web", "image": "stickler", "command": ["goweb"], "env": [{ "name": "A", "value": "a" }] },
                { "name": "other", "image": "theirs" },
            ] },
        } } })
    }

    #[test]
    fn an_image_takes_the_place_of_ours_and_of_no_other() {
        let mut value = deployment();
        Image { name: "mine:1", copied: false }.put_in(&mut value);
        let spec = &value["spec"]["template"]["spec"];
        assert_eq!(spec["containers"][0]["image"], "mine:1");
        assert_eq!(spec["containers"][1]["image"], "theirs");
        assert!(spec.get("initContainers").is_none() && spec.get("volumes").is_none(), "{spec}");
        let mut notes = json!({ "image": NOTES_IMAGE });
        Image { name: "mine:1", copied: false }.put_in(&mut notes);
        assert_eq!(notes, json!({ "image": "mine:1", "command": ["goweb"] }));
    }

    #[test]
    fn a_pod_waits_for_programs_that_its_image_lacks() {
        let mut value = deployment();
        Image { name: "busybox", copied: true }.put_in(&mut value);
        let template = &value["spec"]["template"];
        assert_eq!(template["metadata"]["labels"], json!({ "app": "web", LABEL.0: LABEL.1 }));
        let spec = &template["spec"];
        assert_eq!(spec["initContainers"][0]["image"], "busybox");
        assert_eq!(spec["volumes"][0]["emptyDir"], json!({}));
        let ours = &spec["containers"][0];
        assert_eq!((&ours["image"], &ours["command"][0]), (&json!("busybox"), &json!("goweb")));
        assert_eq!(ours["volumeMounts"][0]["mountPath"], FOLDER);
        assert_eq!(ours["env"][0]["name"], "A");
        assert!(ours["env"][1]["value"].as_str().expect("a path").starts_with("/stickler:"), "{ours}");
        assert!(spec["containers"][1].get("volumeMounts").is_none(), "{spec}");
    }
}
