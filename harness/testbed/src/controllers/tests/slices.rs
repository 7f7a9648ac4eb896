//! EndpointSlices of hand-made Endpoints, of large services, and after somebody has edited them.

use std::collections::BTreeSet;

use super::*;

impl Lab {
    /// The slices of a service, as `manager: ready addresses`.
    async fn slices(&self, service: &str) -> Vec<(String, BTreeSet<String>)> {
        let slices: Vec<EndpointSlice> = self.list().await;
        let label = |slice: &EndpointSlice, name: &str| {
            slice.metadata.labels.as_ref().and_then(|labels| labels.get(name)).cloned().unwrap_or_default()
        };
        slices
            .iter()
            .filter(|slice| label(slice, "kubernetes.io/service-name") == service)
            .map(|slice| {
                let endpoints = slice.endpoints.iter().flatten();
                let ready =
                    endpoints.filter(|one| one.conditions.as_ref().and_then(|all| all.ready) == Some(true));
                let addresses = ready.flat_map(|endpoint| endpoint.addresses.clone()).collect();
                (label(slice, "endpointslice.kubernetes.io/managed-by"), addresses)
            })
            .collect()
    }

    async fn mirrors(&self, addresses: &[&str]) {
        let wanted: BTreeSet<String> = addresses.iter().map(|address| (*address).to_owned()).collect();
        self.eventually(async || {
            let slices = self.slices("external-svc").await;
            let is = match slices.as_slice() {
                [] => wanted.is_empty(),
                [(manager, shown)] => {
                    manager == "endpointslicemirroring-controller.k8s.io" && *shown == wanted
                }
                _ => false,
            };
            is.then_some(()).ok_or_else(|| format!("{slices:?}, not {wanted:?}"))
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hand_made_endpoints_are_mirrored_and_go_with_their_service() {
    let lab = Lab::start().await;
    let name = "external-svc";
    lab.create::<Service>(
        json!({"metadata": {"namespace": "ns", "name": name}, "spec": {"ports": [{"port": 80}]}}),
    )
    .await;
    let subsets = |addresses: Value| json!({"subsets": [{"addresses": addresses, "ports": [{"port": 80}]}]});
    let both = || subsets(json!([{"ip": "11.11.11.11"}, {"ip": "22.22.22.22"}]));
    let mut made = both();
    made["metadata"] = json!({"namespace": "ns", "name": name});
    lab.create::<Endpoints>(made.clone()).await;
    made["metadata"]["name"] = json!("another-name");
    lab.create::<Endpoints>(made).await;
    lab.mirrors(&["11.11.11.11", "22.22.22.22"]).await;
    assert!(lab.slices("another-name").await.is_empty(), "there is no such service");
    lab.patch::<Endpoints>(name, subsets(json!([{"ip": "11.11.11.11"}]))).await;
    lab.mirrors(&["11.11.11.11"]).await;
    // Somebody else's edits do not last.
    let slice = lab.list::<EndpointSlice>().await[0].metadata.name.clone().unwrap();
    lab.patch::<EndpointSlice>(&slice, json!({"endpoints": []})).await;
    lab.mirrors(&["11.11.11.11"]).await;
    lab.api::<EndpointSlice>().delete(&slice, &DeleteParams::default()).await.unwrap();
    lab.mirrors(&["11.11.11.11"]).await;
    let label = "endpointslice.kubernetes.io/skip-mirror";
    lab.patch::<Endpoints>(name, json!({"metadata": {"labels": {label: "true"}}})).await;
    lab.mirrors(&[]).await;
    lab.patch::<Endpoints>(name, json!({"metadata": {"labels": {label: null}}})).await;
    lab.mirrors(&["11.11.11.11"]).await;
    // With a selector they are the controller's.
    lab.patch::<Service>(name, json!({"spec": {"selector": {"app": "nobody"}}})).await;
    lab.eventually(async || {
        let slices = lab.slices(name).await;
        let endpoints = lab.api::<Endpoints>().get(name).await.unwrap().subsets;
        let is = slices == [("endpointslice-controller.k8s.io".to_owned(), BTreeSet::new())];
        (is && endpoints.is_none()).then_some(()).ok_or_else(|| format!("{slices:?} {endpoints:?}"))
    })
    .await;
    lab.patch::<Service>(name, json!({"spec": {"selector": null}})).await;
    lab.patch::<Endpoints>(name, both()).await;
    lab.eventually(async || {
        let slices = lab.slices(name).await;
        let mirrored = slices.iter().any(|(_, addresses)| addresses.len() == 2);
        mirrored.then_some(()).ok_or_else(|| format!("{slices:?}"))
    })
    .await;
    lab.api::<Service>().delete(name, &DeleteParams::default()).await.unwrap();
    lab.eventually(async || {
        let (slices, endpoints) =
            (lab.slices(name).await, lab.api::<Endpoints>().get_opt(name).await.unwrap());
        (slices.is_empty() && endpoints.is_none())
            .then_some(())
            .ok_or_else(|| format!("{slices:?} {endpoints:?}"))
    })
    .await;
    assert!(lab.api::<Endpoints>().get_opt("another-name").await.unwrap().is_some(), "it was no service's");
}

/// More than one slice holds.
const COUNT: usize = 104;

#[tokio::test(flavor = "multi_thread")]
async fn a_large_service_has_several_slices_and_they_are_put_right() {
    let lab = Lab::start().await;
    // The service comes last: only what becomes of the whole is of interest.
    let pods = (0..COUNT).map(|number| {
        lab.create::<Pod>(json!({
            "metadata": {"namespace": "ns", "name": format!("web-{number}"), "labels": {"app": "web"}},
            "spec": {"nodeName": "kube1.vm", "containers": [{"name": "goweb", "image": "goweb:1"}]},
        }))
    });
    futures::future::join_all(pods).await;
    lab.eventually(async || {
        let pods: Vec<Pod> = lab.list().await;
        let running = pods.iter().filter(|pod| super::super::pod_state::is_ready(pod)).count();
        (running == COUNT).then_some(()).ok_or_else(|| format!("{running} pods are ready"))
    })
    .await;
    lab.create::<Service>(service()).await;
    lab.serves(COUNT).await;
    let lengths = async || -> Vec<usize> {
        lab.slices("web").await.iter().map(|(_, addresses)| addresses.len()).collect()
    };
    assert!(lengths().await.iter().all(|length| *length <= 100), "{:?}", lengths().await);
    assert!(lengths().await.len() >= 2);
    let slices: Vec<EndpointSlice> = lab.list().await;
    let name = |index: usize| slices[index].metadata.name.clone().unwrap();
    let stranger = json!([{"addresses": ["203.0.113.1"], "conditions": {"ready": true}}]);
    lab.patch::<EndpointSlice>(&name(0), json!({"endpoints": stranger, "ports": []})).await;
    lab.serves(COUNT).await;
    lab.api::<EndpointSlice>().delete(&name(1), &DeleteParams::default()).await.unwrap();
    lab.serves(COUNT).await;
    let label = json!({"metadata": {"labels": {"endpointslice.kubernetes.io/managed-by": "me"}}});
    let any = lab.list::<EndpointSlice>().await[0].metadata.name.clone().unwrap();
    lab.patch::<EndpointSlice>(&any, label).await;
    // That one is no longer the controller's: its endpoints are in another one as well.
    lab.eventually(async || {
        let slices = lab.slices("web").await;
        let managed = slices.iter().filter(|(manager, _)| manager == "endpointslice-controller.k8s.io");
        let addresses: BTreeSet<String> = managed.flat_map(|(_, addresses)| addresses.clone()).collect();
        (addresses.len() == COUNT).then_some(()).ok_or_else(|| format!("{} addresses", addresses.len()))
    })
    .await;
}
