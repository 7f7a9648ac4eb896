//! The API server as its clients see it.

mod hostile;
mod ingresses;
mod kubectl;
mod lists;
mod objects;
mod pods;
mod server;
mod services;
mod users;
mod watches;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures::{AsyncBufReadExt as _, StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, Pod, Service, ServiceAccount};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use serde_json::{Value, json};

use super::{ApiServer, ApiServerConfig, KubeletDial};
use crate::bugs::Bugs;
use crate::client::{ApiEndpoint, client};
use crate::namespace::NetNamespace;
use crate::pki::{Credentials, Pki};

const LIMIT: Duration = Duration::from_secs(10);

/// A server on loopback, and an administrator of it.
struct Scene {
    pki: Pki,
    server: ApiServer,
    endpoint: ApiEndpoint,
    admin: Credentials,
    client: kube::Client,
}

impl Scene {
    fn new() -> Self {
        Self::with_kubelets(Arc::new(|address| Box::pin(tokio::net::TcpStream::connect(address))))
    }

    fn with_kubelets(kubelet_dial: KubeletDial) -> Self {
        // The second test of a process finds it installed.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let pki = Pki::new().unwrap();
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let server = ApiServer::start(ApiServerConfig {
            pki: &pki,
            listeners: vec![listener],
            advertise: SocketAddr::from(([192, 168, 199, 117], 6443)),
            names: vec!["kube0.vm".to_owned()],
            service_cidr: "10.96.0.0/24".parse().unwrap(),
            node_port_range: 30000..=32767,
            kubelet_dial,
            version: "v1.37.0".to_owned(),
            bugs: Bugs::default(),
        })
        .unwrap();
        let endpoint = ApiEndpoint { address, ca_pem: pki.ca_pem() };
        let admin = pki.client("kubernetes-admin", &["system:masters"]).unwrap();
        let client = client(NetNamespace::home().unwrap(), &endpoint, &admin).unwrap();
        Self { pki, server, endpoint, admin, client }
    }

    fn all<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::ClusterResourceScope>,
        K::DynamicType: Default,
    {
        Api::all(self.client.clone())
    }

    fn default<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client.clone(), "default")
    }

    /// One request as it goes over the wire; the answer's code and object.
    async fn raw(&self, method: &str, path: &str, content_type: &str, body: &Value) -> (u16, Value) {
        let request = http::Request::builder()
            .method(method)
            .uri(path)
            .header("content-type", content_type)
            .body(if body.is_null() { Vec::new() } else { body.to_string().into_bytes() })
            .unwrap();
        let response = self.client.send(request.map(kube::client::Body::from)).await.unwrap();
        let code = response.status().as_u16();
        let body = http_body_util::BodyExt::collect(response.into_body()).await.unwrap().to_bytes();
        (code, serde_json::from_slice(&body).unwrap_or_else(|_| json!(String::from_utf8_lossy(&body))))
    }

    async fn post(&self, path: &str, body: Value) -> (u16, Value) {
        self.raw("POST", path, "application/json", &body).await
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        self.raw("GET", path, "application/json", &Value::Null).await
    }

    /// Creates a service and returns what became of it, or why not.
    async fn service(&self, spec: Value) -> Result<Value, String> {
        let body = json!({"metadata": {"generateName": "s-"}, "spec": spec});
        let (code, answer) = self.post("/api/v1/namespaces/default/services", body).await;
        if code == 201 { Ok(answer) } else { Err(message(&answer)) }
    }

    async fn account(&self) {
        let accounts: Api<ServiceAccount> = self.default();
        accounts
            .create(&PostParams::default(), &object(json!({"metadata": {"name": "default"}})))
            .await
            .unwrap();
    }
}

fn message(answer: &Value) -> String {
    answer["message"].as_str().unwrap_or_default().to_owned()
}

fn object<K: serde::de::DeserializeOwned>(value: Value) -> K {
    serde_json::from_value(value).unwrap()
}

fn config_map(name: &str, label: &str) -> ConfigMap {
    object(json!({"metadata": {"name": name, "labels": {"on": label}}}))
}

fn pod(name: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "web", "image": "goweb"}]}})
}

fn refused<T>(result: kube::Result<T>) -> (u16, String) {
    match result {
        Err(kube::Error::Api(status)) => (status.code, status.message),
        Err(other) => panic!("the answer was no `Status` but {other}"),
        Ok(_) => panic!("the request was not refused"),
    }
}
