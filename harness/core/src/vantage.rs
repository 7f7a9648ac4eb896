//! Vantages: the places traffic starts from, each an agent that looks from there.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{self, Poll};
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, AttachParams, DeleteParams, ListParams, PostParams};
use serde_json::json;
use stickler_model::ObjectKey;
use stickler_pods::protocol::{Outcome, Workload};
use tokio::io::{AsyncRead, ReadBuf};

use crate::agent::{Agent, Attach};
use crate::claim::RUN_LABEL;
use crate::cluster::{AgentStream, Capability, Cluster};
use crate::image::Image;
use crate::wait;

/// Where traffic starts from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Vantage {
    /// A pod of the harness on this node, in the pod network.
    PodOn(String),
    /// The node itself: a pod of the harness in the node's own network.
    Node(String),
    /// A host that is no part of the cluster.
    Outside,
    /// A pod of the check's own that runs the agent, for calls from a back end to its own service.
    Backend(ObjectKey),
}

impl fmt::Display for Vantage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PodOn(node) => write!(f, "a pod on {node}"),
            Self::Node(node) => write!(f, "node {node}"),
            Self::Outside => f.write_str("outside"),
            Self::Backend(pod) => write!(f, "pod `{}`", pod.name),
        }
    }
}

/// The port agents in the pod network serve `goweb` on; the target of the positive control.
pub(crate) const POD_CONTROL_PORT: u16 = 8000;
/// The port agents on nodes serve it on.
pub(crate) const NODE_CONTROL_PORT: u16 = 18000;
/// A port where nothing listens, in agents' pods: the target of the negative control.
pub(crate) const CLOSED_PORT: u16 = 8001;

/// The standing agents of a run: on every node one in the pod network and one in the node's, and
/// one outside. They stay for the whole run; checks share them.
pub struct Vantages {
    client: kube::Client,
    namespace: String,
    nodes: Vec<String>,
    agents: Mutex<BTreeMap<Vantage, Arc<Agent>>>,
    bound: Duration,
    on_nodes: bool,
    /// Why not, if it was tried.
    refused: Option<String>,
    outside: bool,
}

impl Vantages {
    /// Creates the agents' pods in a namespace and attaches to each; returns as soon as they are asked for, not
    /// when they answer: a check that needs one waits for that one.
    ///
    /// # Errors
    /// If a pod is refused; that pods may not use their node's network is none.
    pub(crate) async fn open(cluster: &dyn Cluster, run: &str, namespace: &str) -> anyhow::Result<Self> {
        let client = cluster.client();
        let nodes: Vec<String> = Api::<Node>::all(client.clone())
            .list(&ListParams::default())
            .await
            .context("could not list the nodes")?
            .items
            .into_iter()
            .filter_map(|node| node.metadata.name)
            .collect();
        let on_nodes = cluster.capabilities().contains(&Capability::HostNetwork);
        let mut vantages = Self {
            client,
            namespace: namespace.to_owned(),
            nodes,
            agents: Mutex::default(),
            bound: cluster.bounds().agent,
            on_nodes,
            refused: None,
            outside: cluster.outside().is_some(),
        };
        vantages.create_pods(Image::of(cluster), run).await?;
        if let Some(outside) = cluster.outside() {
            let stream = outside.agent().context("could not start the agent outside the cluster")?;
            let (name, attach) = (Vantage::Outside.to_string(), OnlyOnce(Some(stream)));
            let agent = Agent::start(name, attach, vantages.bound).may_only_call(outside.may_call());
            let agents = vantages.agents.get_mut().unwrap_or_else(PoisonError::into_inner);
            agents.insert(Vantage::Outside, Arc::new(agent));
        }
        Ok(vantages)
    }

    /// The namespace of the standing agents.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The names of the cluster's nodes.
    pub fn nodes(&self) -> &[String] {
        &self.nodes
    }

    /// Every standing vantage: a pod on each node, each node, outside, as far as the cluster has them.
    pub fn everywhere(&self) -> Vec<Vantage> {
        let mut all = self.pods();
        all.extend(self.hosts());
        all.extend(self.outsides());
        all
    }

    /// A pod on every node.
    pub fn pods(&self) -> Vec<Vantage> {
        self.nodes.iter().cloned().map(Vantage::PodOn).collect()
    }

    /// Every node itself; none if pods may not use their node's network.
    pub fn hosts(&self) -> Vec<Vantage> {
        if self.on_nodes { self.nodes.iter().cloned().map(Vantage::Node).collect() } else { Vec::new() }
    }

    /// Outside, if there is one.
    pub fn outsides(&self) -> Vec<Vantage> {
        if self.outside { vec![Vantage::Outside] } else { Vec::new() }
    }

    /// The vantage as the model calls it.
    pub fn to_model(&self, vantage: &Vantage) -> stickler_model::Vantage {
        match vantage {
            Vantage::PodOn(node) => stickler_model::Vantage::Pod(ObjectKey {
                namespace: self.namespace.clone(),
                name: pod_name(node),
            }),
            Vantage::Node(node) => stickler_model::Vantage::Node(node.clone()),
            Vantage::Outside => stickler_model::Vantage::Outside,
            Vantage::Backend(pod) => stickler_model::Vantage::Pod(pod.clone()),
        }
    }

    /// The pod of a standing vantage in the pod network.
    pub(crate) fn pod_of(&self, node: &str) -> ObjectKey {
        ObjectKey { namespace: self.namespace.clone(), name: pod_name(node) }
    }

    /// Makes calls from a vantage and returns what came of each.
    ///
    /// # Errors
    /// If the agent there was lost.
    pub async fn call(&self, from: &Vantage, workload: Workload) -> anyhow::Result<Vec<Outcome>> {
        self.agent(from)?.run(workload).await.with_context(|| format!("could not look from {from}"))
    }

    /// Whether a vantage may call an address: one outside of somebody's cluster calls its nodes and nobody
    /// else.
    ///
    /// # Errors
    /// If there is no such vantage.
    pub(crate) fn may_call(&self, from: &Vantage, address: IpAddr) -> anyhow::Result<bool> {
        Ok(self.agent(from)?.may_call(address))
    }

    /// The agent of a vantage. One that is a back end of a check is attached to when it is first
    /// asked for.
    pub(crate) fn agent(&self, vantage: &Vantage) -> anyhow::Result<Arc<Agent>> {
        let known = self.agents.lock().unwrap_or_else(PoisonError::into_inner).get(vantage).cloned();
        match (known, vantage) {
            (Some(agent), _) => Ok(agent),
            (None, Vantage::Backend(pod)) => {
                Ok(self.keep(vantage.clone(), self.exec(&pod.namespace, &pod.name)))
            }
            (None, _) => Err(anyhow!("the cluster has no vantage `{vantage}`")),
        }
    }

    /// Lets go of the agents of a check's own pods.
    pub(crate) fn forget(&self, namespace: &str) {
        self.agents
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|vantage, _| !matches!(vantage, Vantage::Backend(pod) if pod.namespace == namespace));
    }

    fn keep(&self, vantage: Vantage, attach: impl Attach) -> Arc<Agent> {
        let mut agents = self.agents.lock().unwrap_or_else(PoisonError::into_inner);
        let start = || Arc::new(Agent::start(vantage.to_string(), attach, self.bound));
        Arc::clone(agents.entry(vantage.clone()).or_insert_with(start))
    }

    fn exec(&self, namespace: &str, pod: &str) -> ThroughExec {
        let api = Api::namespaced(self.client.clone(), namespace);
        // Less than the agent may take, so that it is told what is wrong with its pod.
        ThroughExec { api, pod: pod.to_owned(), bound: self.bound * 9 / 10 }
    }

    async fn create_pods(&mut self, image: Image<'_>, run: &str) -> anyhow::Result<()> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &self.namespace);
        let mut wanted = Vec::new();
        for node in &self.nodes {
            wanted.push((Vantage::PodOn(node.clone()), agent_pod(node, image, run, false)));
            if self.on_nodes {
                wanted.push((Vantage::Node(node.clone()), agent_pod(node, image, run, true)));
            }
        }
        let params = PostParams::default();
        let created = wanted.iter().map(|(_, pod)| api.create(&params, pod));
        let mut standing = Vec::new();
        for (result, (vantage, pod)) in futures::future::join_all(created).await.into_iter().zip(&wanted) {
            match result {
                Ok(_) => standing.push((vantage, pod.metadata.name.as_deref().unwrap_or_default())),
                // Who may create pods, but none like this: a policy of the cluster forbids it.
                Err(kube::Error::Api(status))
                    if status.code == 403 && matches!(vantage, Vantage::Node(_)) =>
                {
                    self.refused = Some(status.message.clone());
                }
                Err(error) => {
                    return Err(error).with_context(|| format!("could not create the agent of {vantage}"));
                }
            }
        }
        self.on_nodes &= self.refused.is_none();
        for (vantage, name) in standing {
            if self.on_nodes || !matches!(vantage, Vantage::Node(_)) {
                self.keep(vantage.clone(), self.exec(&self.namespace, name));
                continue;
            }
            // Nobody would look from there.
            let deleted = api.delete(name, &DeleteParams::default()).await;
            deleted.with_context(|| format!("could not delete the agent of {vantage}"))?;
        }
        Ok(())
    }

    /// Why no calls can start from nodes, if that was tried.
    pub(crate) fn not_on_nodes(&self) -> Option<&str> {
        self.refused.as_deref()
    }

    /// Lets go of all agents.
    pub(crate) fn close(&self) {
        self.agents.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

fn pod_name(node: &str) -> String {
    format!("agent-{}", node.replace('.', "-"))
}

fn agent_pod(node: &str, image: Image<'_>, run: &str, on_node: bool) -> Pod {
    let (name, port) = if on_node {
        (format!("{}-host", pod_name(node)), NODE_CONTROL_PORT)
    } else {
        (pod_name(node), POD_CONTROL_PORT)
    };
    let mut pod = json!({
        "metadata": { "name": name, "labels": { RUN_LABEL: run } },
        "spec": {
            // Straight to the node: the scheduler is not what is looked at, and a tainted node has
            // clients too.
            "nodeName": node,
            "hostNetwork": on_node,
            "tolerations": [{ "operator": "Exists" }],
            "terminationGracePeriodSeconds": 1,
            "containers": [{
                "name": "agent",
                "image": "stickler",
                "command": ["agent", "serve", "--goweb", port.to_string()],
                "env": [{ "name": "POD_NAME", "valueFrom": { "fieldRef": { "fieldPath": "metadata.name" } } }],
            }],
        },
    });
    image.put_in(&mut pod);
    serde_json::from_value(pod).expect("the agent's pod is a pod")
}

/// Attaches through the exec subresource, as often as needed.
struct ThroughExec {
    api: Api<Pod>,
    pod: String,
    bound: Duration,
}

impl Attach for ThroughExec {
    fn attach(&mut self) -> BoxFuture<'_, anyhow::Result<AgentStream>> {
        async move {
            wait::for_running(&self.api, &self.pod, self.bound).await?;
            let params = AttachParams::default().stdin(true).stdout(true).stderr(false);
            let mut process = self
                .api
                .exec(&self.pod, ["agent", "attach"], &params)
                .await
                .with_context(|| format!("could not exec in pod `{}`", self.pod))?;
            let reader = process.stdout().context("exec gave no standard output")?;
            let ended = process.take_status().context("exec gave no status")?;
            let reader = UntilCut { reader, ended: ended.map(drop).boxed() };
            let writer = process.stdin().context("exec gave no standard input")?;
            Ok(AgentStream { reader: Box::new(reader), writer: Box::new(writer), keep: Box::new(process) })
        }
        .boxed()
    }
}

/// A stream that ends also when it was cut, as nothing else tells: its reader would wait for ever.
struct UntilCut<R> {
    reader: R,
    ended: BoxFuture<'static, ()>,
}

impl<R: AsyncRead + Unpin> AsyncRead for UntilCut<R> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut task::Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let Self { reader, ended } = self.get_mut();
        if let Poll::Ready(read) = Pin::new(reader).poll_read(context, buffer) {
            return Poll::Ready(read);
        }
        // Nothing read means the end.
        ended.poll_unpin(context).map(Ok)
    }
}

/// A stream that cannot be had again: the agent outside lives and dies with it.
struct OnlyOnce(Option<AgentStream>);

impl Attach for OnlyOnce {
    fn attach(&mut self) -> BoxFuture<'_, anyhow::Result<AgentStream>> {
        let stream = self.0.take().context("it ended, and there is no way back to it");
        async move { stream }.boxed()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use kube::client::Body;
    use stickler_model::Promises;
    use stickler_reports::ClusterCard;

    use super::*;
    use crate::bounds::Bounds;
    use crate::cluster::{Disruption, Outside};

    /// A cluster of two nodes whose policy forbids host networks; it writes down what it is asked.
    struct Strict {
        client: kube::Client,
        promises: Promises,
        card: ClusterCard,
    }

    fn strict() -> (Strict, Arc<Mutex<Vec<String>>>) {
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let log = Arc::clone(&asked);
        let service = tower::service_fn(move |request: http::Request<Body>| {
            let log = Arc::clone(&log);
            async move {
                let (parts, body) = request.into_parts();
                let body = body.collect_bytes().await.unwrap_or_default();
                let sent: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
                let name = sent["metadata"]["name"].as_str().unwrap_or_default();
                log.lock().expect("a log").push(format!("{} {} {name}", parts.method, parts.uri.path()));
                let node = |name: &str| json!({"metadata": {"name": name}});
                let (code, answer) = match (parts.method.as_str(), parts.uri.path()) {
                    ("GET", "/api/v1/nodes") => {
                        (200, json!({"metadata": {}, "items": [node("a"), node("b")]}))
                    }
                    // On the first node the policy is not yet in force.
                    ("POST", _) if sent["spec"]["hostNetwork"] == true && sent["spec"]["nodeName"] == "b" => {
                        let message = "violates PodSecurity \"baseline:latest\": host namespaces";
                        (
                            403,
                            json!({"status": "Failure", "message": message, "reason": "Forbidden", "code": 403}),
                        )
                    }
                    ("POST", _) => (201, sent),
                    ("DELETE", _) => {
                        (200, json!({"kind": "Status", "apiVersion": "v1", "status": "Success"}))
                    }
                    _ => (
                        404,
                        json!({"status": "Failure", "message": "no", "reason": "NotFound", "code": 404}),
                    ),
                };
                let body = Body::from(answer.to_string().into_bytes());
                Ok::<_, Infallible>(http::Response::builder().status(code).body(body).expect("an answer"))
            }
        });
        let card = ClusterCard {
            provider: "strict".to_owned(),
            version: "v1.37.0".to_owned(),
            nodes: Vec::new(),
            capabilities: Vec::new(),
            ready_ms: 0,
            timings: Vec::new(),
            components: Vec::new(),
        };
        (
            Strict { client: kube::Client::new(service, "default"), promises: Promises::of_minor(37), card },
            asked,
        )
    }

    impl Cluster for Strict {
        fn card(&self) -> &ClusterCard {
            &self.card
        }

        fn capabilities(&self) -> &[Capability] {
            &[Capability::HostNetwork]
        }

        fn promises(&self) -> &Promises {
            &self.promises
        }

        fn bounds(&self) -> Bounds {
            Bounds::REAL
        }

        fn client(&self) -> kube::Client {
            self.client.clone()
        }

        fn image(&self) -> &'static str {
            "an-image"
        }

        fn outside(&self) -> Option<&dyn Outside> {
            None
        }

        fn disruption(&self) -> Option<&dyn Disruption> {
            None
        }

        fn is_ephemeral(&self) -> bool {
            false
        }

        fn kubeconfig(&self) -> Option<&str> {
            None
        }
    }

    #[tokio::test]
    async fn a_policy_that_forbids_host_networks_takes_the_nodes_away_and_nothing_else() {
        let (cluster, asked) = strict();
        let vantages = Vantages::open(&cluster, "0a1b2c", "stickler-0a1b2c-agents").await.expect("agents");
        assert!(vantages.not_on_nodes().is_some_and(|why| why.contains("violates PodSecurity")));
        assert_eq!(vantages.hosts(), []);
        assert_eq!(vantages.everywhere(), ["a", "b"].map(|node| Vantage::PodOn(node.to_owned())));
        assert!(vantages.agent(&Vantage::Node("a".to_owned())).is_err());
        let asked = asked.lock().expect("a log");
        let deleted: Vec<_> = asked.iter().filter(|asked| asked.starts_with("DELETE")).collect();
        assert_eq!(deleted, ["DELETE /api/v1/namespaces/stickler-0a1b2c-agents/pods/agent-a-host "]);
    }
}
