//! ReplicationControllers and DaemonSets.

use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet};
use k8s_openapi::api::core::v1::ReplicationController;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_replication_controller_keeps_its_number_and_takes_its_pods_with_it() {
    let lab = Lab::start().await;
    lab.create::<Service>(service()).await;
    lab.create::<ReplicationController>(json!({
        "metadata": {"namespace": "ns", "name": "web"},
        "spec": {"replicas": 3, "selector": {"app": "web"}, "template": {
            "metadata": {"labels": {"app": "web"}},
            "spec": {"containers": [{"name": "goweb", "image": "goweb:1"}]},
        }},
    }))
    .await;
    lab.serves(3).await;
    let one = lab.list::<Pod>().await[0].metadata.name.clone().unwrap();
    lab.api::<Pod>().delete(&one, &DeleteParams::default()).await.unwrap();
    lab.serves(3).await;
    lab.patch::<ReplicationController>("web", json!({"spec": {"replicas": 1}})).await;
    lab.serves(1).await;
    lab.eventually(async || {
        let status = lab.api::<ReplicationController>().get("web").await.unwrap().status.unwrap_or_default();
        let is = (status.replicas, status.ready_replicas, status.observed_generation);
        (is == (1, Some(1), Some(2))).then_some(()).ok_or_else(|| format!("{status:?}"))
    })
    .await;
    lab.api::<ReplicationController>().delete("web", &DeleteParams::background()).await.unwrap();
    lab.serves(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_set_is_on_every_node_that_fits_and_rolls_one_by_one() {
    let lab = Lab::start().await;
    let nodes: Api<Node> = Api::all(lab.client.clone());
    let taint = |taints: Value| Patch::Merge(json!({"spec": {"taints": taints}}));
    let parameters = PatchParams::default();
    let keep_off = taint(json!([{"key": "dedicated", "effect": "NoSchedule"}]));
    nodes.patch("kube0.vm", &parameters, &keep_off).await.unwrap();
    lab.create::<Service>(service()).await;
    lab.create::<DaemonSet>(json!({
        "metadata": {"namespace": "ns", "name": "web"},
        "spec": {"selector": {"matchLabels": {"app": "web"}}, "template": {
            "metadata": {"labels": {"app": "web"}},
            "spec": {"containers": [{"name": "goweb", "image": "goweb:1"}]},
        }},
    }))
    .await;
    lab.serves(2).await;
    nodes.patch("kube0.vm", &parameters, &taint(json!([]))).await.unwrap();
    lab.serves(3).await;
    // A taint that keeps new ones off leaves what is there.
    nodes.patch("kube1.vm", &parameters, &keep_off).await.unwrap();
    lab.patch::<DaemonSet>("web", json!({"spec": {"minReadySeconds": 0}})).await;
    lab.serves(3).await;
    nodes.patch("kube1.vm", &parameters, &taint(json!([]))).await.unwrap();
    let pods: Vec<Pod> = lab.list().await;
    let mut on: Vec<_> = pods.iter().filter_map(node_name).collect();
    on.sort_unstable();
    assert_eq!(on, ["kube0.vm", "kube1.vm", "kube2.vm"]);
    let image =
        json!({"spec": {"template": {"spec": {"containers": [{"name": "goweb", "image": "goweb:2"}]}}}});
    lab.patch::<DaemonSet>("web", image).await;
    lab.eventually(async || {
        let pods: Vec<Pod> = lab.list().await;
        let alive = pods.iter().filter(|pod| !is_terminating(pod));
        let is_new = |pod: &&Pod| {
            let spec = pod.spec.as_ref().unwrap();
            spec.containers[0].image.as_deref() == Some("goweb:2")
        };
        let status = lab.api::<DaemonSet>().get("web").await.unwrap().status.unwrap_or_default();
        let settled =
            (status.desired_number_scheduled, status.number_available, status.updated_number_scheduled);
        let new = alive.clone().filter(is_new).count();
        ((alive.count(), new) == (3, 3) && settled == (3, Some(3), Some(3)))
            .then_some(())
            .ok_or_else(|| format!("{new} new, {status:?}"))
    })
    .await;
    let mut history: Vec<_> = lab.list::<ControllerRevision>().await.iter().map(|one| one.revision).collect();
    history.sort_unstable();
    assert_eq!(history, [Some(1), Some(2)]);
    lab.api::<DaemonSet>().delete("web", &DeleteParams::background()).await.unwrap();
    lab.serves(0).await;
    lab.eventually(async || {
        let left = lab.list::<ControllerRevision>().await.len();
        (left == 0).then_some(()).ok_or_else(|| format!("{left} revisions"))
    })
    .await;
}
