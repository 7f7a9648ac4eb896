//! Evidence: what is saved when a check did not pass, before anything is cleaned up.

use std::sync::PoisonError;

use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{Endpoints, Event as ApiEvent, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, ListParams};
use serde::Serialize;
use serde::de::DeserializeOwned;
use stickler_reports::Evidence;
use tokio::time::timeout;

use crate::Scene;

impl Scene {
    /// What there is to see when a check did not pass: its last steps and the objects, as they are.
    pub(crate) async fn evidence(&self) -> Vec<Evidence> {
        let steps = {
            let calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
            calls.iter().fold(String::new(), |mut text, line| {
                text.push_str(line);
                text.push('\n');
                text
            })
        };
        let mut evidence = vec![Evidence { name: "steps".to_owned(), text: steps }];
        let client = self.client();
        let namespace = self.namespace.as_str();
        let objects: [(&str, BoxFuture<'_, anyhow::Result<String>>); 5] = [
            ("services", Box::pin(dump::<Service>(&client, namespace))),
            ("endpoints", Box::pin(dump::<Endpoints>(&client, namespace))),
            ("endpointslices", Box::pin(dump::<EndpointSlice>(&client, namespace))),
            ("pods", Box::pin(dump::<Pod>(&client, namespace))),
            ("events", Box::pin(dump::<ApiEvent>(&client, namespace))),
        ];
        // All at once, so that an API server that hangs is waited for once.
        let dumping = objects.into_iter().map(async |(name, dump)| {
            let text = match timeout(self.bounds().request, dump).await {
                Ok(Ok(text)) => text,
                Ok(Err(error)) => format!("could not be read: {error:#}"),
                Err(_) => "could not be read: no answer from the API server".to_owned(),
            };
            Evidence { name: name.to_owned(), text }
        });
        evidence.extend(futures::future::join_all(dumping).await);
        evidence
    }
}

async fn dump<K>(client: &kube::Client, namespace: &str) -> anyhow::Result<String>
where
    K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope>
        + Clone
        + DeserializeOwned
        + Serialize
        + std::fmt::Debug,
    K::DynamicType: Default,
{
    let mut objects =
        Api::<K>::namespaced(client.clone(), namespace).list(&ListParams::default()).await?.items;
    let mut text = String::new();
    for object in &mut objects {
        object.meta_mut().managed_fields = None;
        text.push_str(&serde_saphyr::to_string(object)?);
        text.push_str("---\n");
    }
    Ok(text)
}
