//! What every namespace is born with: the ServiceAccount `default`
//! ([Service Accounts, "Default service accounts"](https://kubernetes.io/docs/concepts/security/service-accounts/#default-service-accounts))
//! and the certificate of the cluster's authority in the ConfigMap `kube-root-ca.crt`.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use k8s_openapi::api::core::v1::{ConfigMap, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::PostParams;
use kube::{Api, Client};

use super::caches::Caches;
use super::informer::Key;
use super::queue::{Queue, Reconcile};

const SERVICE_ACCOUNT: &str = "default";
const ROOT_CA: &str = "kube-root-ca.crt";

pub(super) struct ServiceAccounts {
    client: Client,
    caches: Caches,
    ca_pem: String,
}

impl ServiceAccounts {
    /// The keys are namespaces.
    pub(super) fn new(client: Client, caches: &Caches, ca_pem: String, queue: &Arc<Queue<Key>>) -> Self {
        let dirty = Arc::clone(queue);
        caches.namespaces.on_change(move |_, new| {
            if let Some(namespace) = new {
                dirty.add(Key::of(&namespace.metadata));
            }
        });
        let mark = |queue: &Arc<Queue<Key>>, meta: &ObjectMeta| {
            queue.add(Key::new("", meta.namespace.as_deref().unwrap_or_default()));
        };
        let dirty = Arc::clone(queue);
        caches.service_accounts.on_change(move |old, new| {
            if let (Some(old), None) = (old, new) {
                mark(&dirty, &old.metadata);
            }
        });
        let dirty = Arc::clone(queue);
        caches.config_maps.on_change(move |old, new| {
            if let Some(map) = new.or(old).filter(|map| map.metadata.name.as_deref() == Some(ROOT_CA)) {
                mark(&dirty, &map.metadata);
            }
        });
        Self { client, caches: caches.clone(), ca_pem }
    }

    async fn service_account(&self, namespace: &str) -> anyhow::Result<()> {
        if self.caches.service_accounts.get(&Key::new(namespace, SERVICE_ACCOUNT)).is_some() {
            return Ok(());
        }
        let api = Api::namespaced(self.client.clone(), namespace);
        let account = ServiceAccount { metadata: named(SERVICE_ACCOUNT), ..ServiceAccount::default() };
        exists_is_fine(api.create(&PostParams::default(), &account).await)
            .with_context(|| format!("no default ServiceAccount could be made in namespace `{namespace}`"))
    }

    async fn root_ca(&self, namespace: &str) -> anyhow::Result<()> {
        let api = Api::namespaced(self.client.clone(), namespace);
        let data = Some([("ca.crt".to_owned(), self.ca_pem.clone())].into());
        let outcome = match self.caches.config_maps.get(&Key::new(namespace, ROOT_CA)) {
            Some(map) if map.data == data => return Ok(()),
            Some(map) => {
                let map = ConfigMap { data, ..(*map).clone() };
                api.replace(ROOT_CA, &PostParams::default(), &map).await.map(drop)
            }
            None => {
                let map = ConfigMap { data, metadata: named(ROOT_CA), ..ConfigMap::default() };
                exists_is_fine(api.create(&PostParams::default(), &map).await)
            }
        };
        outcome.with_context(|| format!("`{ROOT_CA}` could not be written in namespace `{namespace}`"))
    }
}

impl Reconcile for ServiceAccounts {
    type Key = Key;
    const NAME: &'static str = "serviceaccount";

    async fn reconcile(&self, key: Key) -> anyhow::Result<Option<Duration>> {
        let Some(namespace) = self.caches.namespaces.get(&key) else { return Ok(None) };
        if namespace.metadata.deletion_timestamp.is_some() {
            return Ok(None);
        }
        let (account, root_ca) = tokio::join!(self.service_account(&key.name), self.root_ca(&key.name));
        account.and(root_ca)?;
        Ok(None)
    }
}

fn named(name: &str) -> ObjectMeta {
    ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() }
}

/// The cache was behind; the event of what exists brings the key back if it differs.
fn exists_is_fine<T>(outcome: kube::Result<T>) -> kube::Result<()> {
    match outcome {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(()),
        Err(error) => Err(error),
    }
}
