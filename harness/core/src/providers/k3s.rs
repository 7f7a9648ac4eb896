//! K3s in a container of this machine's engine: a real Kubernetes of one node. Its image comes from a
//! registry.

use std::path::PathBuf;

use anyhow::Context as _;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use testcontainers_modules::k3s::{K3s, KUBE_SECURE_PORT};
use testcontainers_modules::testcontainers::ImageExt as _;
use testcontainers_modules::testcontainers::core::{CmdWaitFor, ExecCommand};

use super::own::{Own, at};
use crate::cluster::{Cluster, Provider};
use crate::engine::{Engine, publish};

/// Where k3s writes the kubeconfig of its administrator.
const KUBECONFIG: &str = "/etc/rancher/k3s/k3s.yaml";

/// Where the archive of the image of the agent is put.
const ARCHIVE: &str = "/stickler-image.tar";

/// Starts k3s.
#[derive(Clone, Debug)]
pub struct K3sProvider {
    /// Name and tag of the image of k3s; testcontainers' own if there is none.
    node_image: Option<(String, String)>,
    image: String,
    archive: Option<PathBuf>,
    published: u16,
}

impl K3sProvider {
    /// With this image of k3s, or the one testcontainers names, the image of the agent, and the port of
    /// 127.0.0.1 where the API server is published; 0 takes a free one.
    pub fn new(node_image: Option<&str>, image: &str, published: u16) -> Self {
        let node_image = node_image.map(|image| {
            // A colon before a slash belongs to the port of a registry.
            let tagged = image.rsplit_once(':').filter(|(_, tag)| !tag.contains('/'));
            let (name, tag) = tagged.unwrap_or((image, "latest"));
            (name.to_owned(), tag.to_owned())
        });
        Self { node_image, image: image.to_owned(), archive: None, published }
    }

    /// With an archive that has the image of the agent, to be loaded into the node.
    #[must_use]
    pub fn with_archive(self, archive: Option<PathBuf>) -> Self {
        Self { archive, ..self }
    }

    async fn start_now(&self) -> anyhow::Result<Box<dyn Cluster>> {
        let engine = Engine::find().await?;
        let mut belongings = engine.belongings();
        let (published, port) = (self.published, KUBE_SECURE_PORT.as_u16());
        let mut request = K3s::default()
            .with_privileged(true)
            .with_userns_mode("host")
            .with_host_config_modifier(move |host| publish(host, published, port));
        if let Some((name, tag)) = &self.node_image {
            request = request.with_name(name).with_tag(tag);
        }
        if let Some(archive) = &self.archive {
            request = request.with_copy_to(ARCHIVE, archive.as_path());
        }
        let container = belongings.start(request).await?;
        if self.archive.is_some() {
            let import = ExecCommand::new(["ctr", "--namespace", "k8s.io", "images", "import", ARCHIVE]);
            let import = import.with_cmd_ready_condition(CmdWaitFor::exit_code(0));
            container.exec(import).await.context("k3s does not take the archive of the image")?;
        }
        let mut read = container.exec(ExecCommand::new(["cat", KUBECONFIG])).await?;
        let kubeconfig =
            String::from_utf8(read.stdout_to_vec().await?).context("its kubeconfig is no text")?;
        let (_, address) = belongings.keep(container, port).await?;
        Own::of(self.name(), at(&kubeconfig, &format!("https://{address}"))?, &self.image, belongings).await
    }
}

impl Provider for K3sProvider {
    fn name(&self) -> &'static str {
        "k3s"
    }

    fn start(&self) -> BoxFuture<'_, anyhow::Result<Box<dyn Cluster>>> {
        self.start_now().boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::K3sProvider;

    #[test]
    fn the_tag_of_an_image_is_behind_its_last_colon() {
        let of = |image: &str| K3sProvider::new(Some(image), "stickler-pods", 0).node_image;
        let pair = |name: &str, tag: &str| Some((name.to_owned(), tag.to_owned()));
        assert_eq!(of("rancher/k3s:v1.33.1-k3s1"), pair("rancher/k3s", "v1.33.1-k3s1"));
        assert_eq!(of("localhost:5000/k3s:v1"), pair("localhost:5000/k3s", "v1"));
        assert_eq!(of("localhost:5000/k3s"), pair("localhost:5000/k3s", "latest"));
    }
}
