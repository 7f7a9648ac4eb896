//! The ingress controller of a run: our own, deployed when a check first needs one, with names that
//! no other run has; or one that the cluster has, if it is that one that is to be judged.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::{Arc, OnceLock};

use anyhow::anyhow;
use k8s_openapi::api::core::v1::{Namespace, Pod, Service, ServicePort};
use k8s_openapi::api::networking::v1::IngressClass;
use kube::api::{Api, DynamicObject, ListParams, PostParams};
use kube::runtime::watcher::Config;
use serde_json::{Value, json};
use stickler_reports::Event;
use tokio::sync::OnceCell;

use crate::Scene;
use crate::check::Broken;
use crate::claim::{create_namespace, labels};
use crate::destination::service_ip;
use crate::image::Image;
use crate::manifest::{Fixture, Manifest, parse};
use crate::wait;

/// What somebody would deploy by hand.
const MANIFESTS: [Fixture; 2] = [
    Fixture {
        path: "ingress/rbac.yaml",
        yaml: include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/ingress/rbac.yaml")),
    },
    Fixture {
        path: "ingress/controller.yaml",
        yaml: include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/ingress/controller.yaml")),
    },
];

/// The name of the Deployment and the Service in the manifests.
const DEPLOYED: &str = "ingress-nginx-controller";
/// The labels of its pods there.
const LABELS: &str = "app.kubernetes.io/name=ingress-nginx,app.kubernetes.io/component=controller";

/// An ingress controller that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Controller {
    /// The IngressClass it serves.
    pub class: String,
    /// What `spec.controller` of that class says.
    pub name: String,
    /// Where it takes HTTP.
    pub http: Door,
    /// Where it takes HTTPS.
    pub https: Door,
}

/// An ingress controller that a cluster has, as its user names it: `CLASS=NAMESPACE/SERVICE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExistingController {
    /// The IngressClass it serves.
    pub class: String,
    /// Where the Service is.
    pub namespace: String,
    /// The Service in front of it, with a port for HTTP and one for HTTPS.
    pub service: String,
}

impl FromStr for ExistingController {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once('=').and_then(|(class, at)| Some((class, at.split_once('/')?)));
        match parts {
            Some((class, (namespace, service)))
                if ![class, namespace, service].contains(&"") && !service.contains('/') =>
            {
                let [class, namespace, service] = [class, namespace, service].map(str::to_owned);
                Ok(Self { class, namespace, service })
            }
            _ => Err("it is written CLASS=NAMESPACE/SERVICE, such as \
                      nginx=ingress-nginx/ingress-nginx-controller"
                .to_owned()),
        }
    }
}

impl fmt::Display for ExistingController {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { class, namespace, service } = self;
        write!(f, "{class}={namespace}/{service}")
    }
}

/// A port of the controller's Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Door {
    /// At its cluster IP.
    pub at_cluster_ip: SocketAddr,
    /// On every node, if it has one.
    pub node_port: Option<u16>,
}

/// The controller of a run, once one is needed.
#[derive(Debug)]
pub(crate) struct Standing {
    run: String,
    /// Why there is none is found out once: whoever comes later need not wait for it again.
    deployed: OnceCell<Result<Controller, String>>,
}

/// A run's controller as one scene sees it.
#[derive(Debug)]
pub(crate) struct InUse {
    standing: Arc<Standing>,
    /// Set once the check has asked for it.
    controller: OnceLock<Controller>,
}

impl InUse {
    pub(crate) fn new(standing: Arc<Standing>) -> Self {
        Self { standing, controller: OnceLock::new() }
    }

    /// The run whose it is.
    pub(crate) fn run(&self) -> &str {
        &self.standing.run
    }

    /// The namespace the run's controller stands in, if the check has asked for one.
    pub(crate) fn namespace(&self) -> Option<String> {
        self.controller().map(|_| Names::of_run(self.run()).namespace)
    }

    /// The controller, if the check has asked for one.
    pub(crate) fn controller(&self) -> Option<&Controller> {
        self.controller.get()
    }
}

impl Scene {
    /// An ingress controller that serves the Ingresses this scene creates from now on: those that
    /// name the class `stickler`, or none.
    ///
    /// The first check that asks has one deployed for the whole run, unless the cluster's own is to be judged.
    ///
    /// # Errors
    /// Why there is none; then it cannot be told what it would do.
    pub async fn given_controller(&self) -> Result<&Controller, Broken> {
        self.is_waiting_for("the run's ingress controller");
        let standing = &self.ingress.standing;
        let deployed = standing.deployed.get_or_init(async || {
            if let Some(existing) = self.cluster.ingress_controller() {
                return self.find(existing).await.map_err(|error| format!("{error:#}"));
            }
            let names = Names::of_run(&standing.run);
            let paths = MANIFESTS.map(|fixture| format!("-f fixtures/{}", fixture.path)).join(" ");
            let action = format!("kubectl create {paths} # in namespace {}", names.namespace);
            self.sink.tell(Event::Acted { check: self.check.to_owned(), action });
            self.deploy(&names).await.map_err(|error| format!("{error:#}"))
        });
        match deployed.await {
            Ok(controller) => Ok(self.ingress.controller.get_or_init(|| controller.clone())),
            Err(why) => Err(Broken::CouldNotTell(format!("there is no ingress controller: {why}"))),
        }
    }

    /// The controller that the cluster has.
    async fn find(&self, existing: &ExistingController) -> anyhow::Result<Controller> {
        let ExistingController { class, namespace, service: name } = existing;
        let (client, bound) = (self.client(), self.bounds().request);
        let classes = Api::<IngressClass>::all(client.clone());
        let classes =
            wait::within(bound, "list the IngressClasses", classes.list(&ListParams::default())).await?;
        let known = || {
            let known: Vec<&str> =
                classes.iter().filter_map(|class| class.metadata.name.as_deref()).collect();
            if known.is_empty() { "none".to_owned() } else { known.join(", ") }
        };
        let found = classes
            .iter()
            .find(|known| known.metadata.name.as_ref() == Some(class))
            .ok_or_else(|| anyhow!("the cluster has no IngressClass `{class}`; it has: {}", known()))?;
        let controller = found.spec.as_ref().and_then(|spec| spec.controller.clone()).unwrap_or_default();
        let services: Api<Service> = Api::namespaced(client, namespace);
        let service = wait::within(bound, "get the controller's service", services.get_opt(name))
            .await?
            .ok_or_else(|| anyhow!("there is no service `{name}` in namespace `{namespace}`"))?;
        let ip = service_ip(name, &service).map_err(anyhow::Error::msg)?;
        Ok(Controller {
            class: class.clone(),
            name: controller,
            http: door(&service, ip, "http", 80)?,
            https: door(&service, ip, "https", 443)?,
        })
    }

    async fn deploy(&self, names: &Names) -> anyhow::Result<Controller> {
        let client = self.client();
        let bounds = self.bounds();
        let known = Api::<Namespace>::all(client.clone()).get_opt(&names.namespace).await?;
        // A check that was given up half-way may have made it.
        if known.is_none() {
            let minor = self.cluster.promises().minor;
            create_namespace(&client, &names.namespace, &names.run, minor, bounds.request).await?;
        }
        for fixture in MANIFESTS {
            for manifest in parse(fixture.path, fixture.yaml)? {
                if manifest.resource.kind == "Namespace" {
                    continue;
                }
                let what = format!("create {} of `{}`", manifest.resource.kind, fixture.path);
                let manifest = names.adapt(manifest, Image::of(self.cluster.as_ref()))?;
                wait::within(bounds.request, &what, create(&client, &names.namespace, &manifest)).await?;
            }
        }
        let pods: Api<Pod> = Api::namespaced(client.clone(), &names.namespace);
        let ready = |pods: &[Pod]| match pods.iter().map(wait::pod_ready).find(Result::is_ok) {
            Some(ready) => ready,
            None => Err(pods.iter().find_map(|pod| wait::pod_ready(pod).err()).unwrap_or_default()),
        };
        let what = "the ingress controller to be ready";
        wait::until(pods, Config::default().labels(LABELS), what, bounds.pods_ready, ready).await?;
        let services: Api<Service> = Api::namespaced(client, &names.namespace);
        let service = wait::within(bounds.request, "get its service", services.get(DEPLOYED)).await?;
        let ip = service_ip(DEPLOYED, &service).map_err(anyhow::Error::msg)?;
        Ok(Controller {
            class: names.class.clone(),
            name: names.controller.clone(),
            http: door(&service, ip, "http", 80)?,
            https: door(&service, ip, "https", 443)?,
        })
    }
}

impl Standing {
    pub(crate) fn of_run(run: &str) -> Self {
        Self { run: run.to_owned(), deployed: OnceCell::new() }
    }
}

async fn create(client: &kube::Client, namespace: &str, manifest: &Manifest) -> kube::Result<()> {
    let Manifest { resource, object } = manifest;
    let api: Api<DynamicObject> = match &object.metadata.namespace {
        Some(_) => Api::namespaced_with(client.clone(), namespace, resource),
        None => Api::all_with(client.clone(), resource),
    };
    match api.create(&PostParams::default(), object).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
        Err(error) => Err(error),
    }
}

/// The port of this name, or else of this number.
fn door(service: &Service, ip: IpAddr, name: &str, number: u16) -> anyhow::Result<Door> {
    let ports = || service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
    let port: &ServicePort = ports()
        .find(|port| port.name.as_deref() == Some(name))
        .or_else(|| ports().find(|port| port.port == i32::from(number)))
        .ok_or_else(|| {
            let service = service.metadata.name.as_deref().unwrap_or_default();
            anyhow!("the service `{service}` has no port `{name}`, and no port {number}")
        })?;
    Ok(Door {
        at_cluster_ip: SocketAddr::new(ip, u16::try_from(port.port)?),
        node_port: port.node_port.map(u16::try_from).transpose()?,
    })
}

/// What a run calls what it deploys.
struct Names {
    run: String,
    namespace: String,
    /// The ClusterRole and its binding.
    role: String,
    class: String,
    controller: String,
}

impl Names {
    fn of_run(run: &str) -> Self {
        Self {
            run: run.to_owned(),
            namespace: format!("stickler-{run}-ingress-controller"),
            role: format!("stickler:{run}:ingress"),
            class: format!("stickler-{run}"),
            controller: format!("stickler.dev/ingress-{run}"),
        }
    }

    /// The object as this run has it.
    fn adapt(&self, manifest: Manifest, image: Image<'_>) -> anyhow::Result<Manifest> {
        let Manifest { resource, mut object } = manifest;
        let metadata = &mut object.metadata;
        // By these it is found at the end of the run, or when it was killed.
        metadata.labels.get_or_insert_default().extend(labels(&self.run));
        if metadata.namespace.is_some() {
            metadata.namespace = Some(self.namespace.clone());
        }
        match resource.kind.as_str() {
            "ClusterRole" | "ClusterRoleBinding" => metadata.name = Some(self.role.clone()),
            "IngressClass" => {
                metadata.name = Some(self.class.clone());
                // It is not for Ingresses of others.
                metadata.annotations = None;
                object.data["spec"]["controller"] = json!(self.controller);
            }
            "Deployment" => {
                let container = &mut object.data["spec"]["template"]["spec"]["containers"][0];
                if let Some(arguments) = container["args"].as_array_mut() {
                    arguments.push(json!(format!("--controller={}", self.controller)));
                }
            }
            _ => {}
        }
        if resource.kind == "ClusterRoleBinding" {
            object.data["roleRef"]["name"] = json!(self.role);
        }
        let subjects = object.data.get_mut("subjects").and_then(Value::as_array_mut);
        for subject in subjects.into_iter().flatten() {
            subject["namespace"] = json!(self.namespace);
        }
        image.put_in_object(&mut object)?;
        Ok(Manifest { resource, object })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_existing_controller_is_named_whole_or_not_at_all() {
        let named = "nginx=ingress-nginx/ingress-nginx-controller".parse::<ExistingController>();
        let named = named.expect("a controller");
        assert_eq!(named.to_string(), "nginx=ingress-nginx/ingress-nginx-controller");
        let ExistingController { class, namespace, service } = named;
        assert_eq!(
            [class.as_str(), &namespace, &service],
            ["nginx", "ingress-nginx", "ingress-nginx-controller"]
        );
        for text in ["", "nginx", "nginx=", "nginx=a", "nginx=/b", "=a/b", "nginx=a/b/c", "a/b"] {
            let told = text.parse::<ExistingController>().expect_err(text);
            assert!(told.contains("CLASS=NAMESPACE/SERVICE"), "{told}");
        }
    }

    #[test]
    fn nothing_of_a_run_has_a_name_that_another_run_or_a_person_uses() {
        let names = Names::of_run("0a1b2c");
        let mut cluster_wide = Vec::new();
        for fixture in MANIFESTS {
            for manifest in parse(fixture.path, fixture.yaml).expect("manifests") {
                if manifest.resource.kind == "Namespace" {
                    continue;
                }
                let image = Image { name: "an-image", copied: false };
                let Manifest { resource, object } = names.adapt(manifest, image).expect("an object");
                let text = serde_json::to_string(&object).expect("JSON");
                match &object.metadata.namespace {
                    Some(namespace) => assert_eq!(*namespace, names.namespace),
                    None => {
                        let name = object.metadata.name.clone().expect("a name");
                        assert!(name.contains("0a1b2c"), "{name}");
                        cluster_wide.push(resource.kind.clone());
                    }
                }
                assert!(!text.contains(r#""namespace":"ingress-nginx""#), "{text}");
                assert!(!text.contains("is-default-class") && !text.contains("null"), "{text}");
                if resource.kind == "Deployment" {
                    let container = &object.data["spec"]["template"]["spec"]["containers"][0];
                    let arguments = container["args"].as_array().expect("arguments");
                    assert!(arguments.contains(&json!("--controller=stickler.dev/ingress-0a1b2c")));
                    assert_eq!(container["image"], "an-image");
                }
                if resource.kind == "ClusterRoleBinding" {
                    assert_eq!(object.data["roleRef"]["name"], names.role);
                }
            }
        }
        cluster_wide.sort();
        assert_eq!(cluster_wide, ["ClusterRole", "ClusterRoleBinding", "IngressClass"]);
    }
}
