//! What a pod and its containers are made of, before anything runs.

use std::net::Ipv4Addr;
use std::sync::Arc;

use anyhow::Context as _;
use k8s_openapi::api::core::v1::{self as core, Pod};
use kube::ResourceExt as _;

use super::container::ContainerSpec;
use super::environment::{self, Place};
use super::host_port::host_ports;
use super::node::Node;
use super::sandbox::Sandbox;
use super::volumes::Volumes;
use super::{image, probe};
use crate::bugs::Bug;
use crate::kernel::HostPort;

/// Namespaces and address of a pod.
pub(crate) async fn make_sandbox(node: Arc<Node>, pod: Arc<Pod>) -> anyhow::Result<(Sandbox, Ipv4Addr)> {
    if host_network(&pod) {
        return Ok((Sandbox::new(&node.name, Some(node.namespace.clone())).await?, node.ip));
    }
    let spec = pod.spec.as_ref();
    let hostname = spec.and_then(|spec| spec.hostname.clone()).filter(|hostname| !hostname.is_empty());
    let mut hostname = hostname.unwrap_or_else(|| pod.name_any());
    if spec.and_then(|spec| spec.set_hostname_as_fqdn) == Some(true) {
        hostname = node.resolver.full_name(&pod, &hostname).unwrap_or(hostname);
    }
    let sandbox = Sandbox::new(&hostname, None).await?;
    let ip = node.addresses.allocate()?;
    if let Err(error) = node.network.attach(sandbox.network(), ip).await {
        release(&node, &sandbox, ip, &[]).await;
        return Err(error).with_context(|| format!("cannot attach pod address {ip} to the node's network"));
    }
    let mut ports = host_ports(&pod);
    if node.bugs.has(Bug::HostPortEverywhere) {
        ports.iter_mut().for_each(|port| port.at = None);
    }
    if !ports.is_empty()
        && let Err(error) = node.network.map_ports(ip, &ports).await
    {
        release(&node, &sandbox, ip, &[]).await;
        return Err(error).context("cannot take the host ports the pod asks for");
    }
    Ok((sandbox, ip))
}

/// Takes the pod off the network; `ports` are the host ports that lead to it.
pub(crate) async fn release(node: &Node, sandbox: &Sandbox, ip: Ipv4Addr, ports: &[HostPort]) {
    if !ports.is_empty()
        && let Err(error) = node.network.unmap_ports(ip, ports).await
    {
        tracing::warn!(%ip, "cannot give back a pod's host ports: {error:#}");
    }
    if let Err(error) = node.network.detach(sandbox.network(), ip).await {
        tracing::debug!(%error, %ip, "cannot detach a pod");
    }
    node.addresses.release(ip);
}

pub(crate) fn host_network(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|spec| spec.host_network).unwrap_or_default()
}

/// Everything about a container that needs to be looked up or expanded.
pub(crate) async fn container_spec(
    node: &Node,
    pod: &Pod,
    container: &core::Container,
    image: image::Image,
    place: &Place,
    volumes: &Volumes,
) -> anyhow::Result<ContainerSpec> {
    if let Some(refusal) = probe::refusal(container) {
        anyhow::bail!(refusal);
    }
    let links = pod.spec.as_ref().and_then(|spec| spec.enable_service_links).unwrap_or(true);
    let namespace = pod.namespace().unwrap_or_default();
    let services = node.services.environment(&namespace, links).await;
    let services =
        services.context("services have not yet been read at least once, cannot construct envvars")?;
    let environment = environment::environment(&node.client, pod, container, place, services).await?;
    let mut mounts = image.mounts;
    mounts.extend(volumes.mounts(pod, container, &environment)?);
    let expand = |words: &[String]| -> Vec<String> {
        words.iter().map(|word| environment::expand(word, &environment)).collect()
    };
    let arguments = expand(container.args.as_deref().unwrap_or_default());
    // Arguments alone replace the image's own arguments, not its program.
    let default = match container.args {
        Some(_) => image.command.get(..1).unwrap_or_default(),
        None => &image.command,
    };
    let mut command = match container.command.as_deref() {
        Some(command) if !command.is_empty() => expand(command),
        _ => default.to_vec(),
    };
    command.extend(arguments);
    command.extend(node.bugs.arguments(command.first().map_or("", String::as_str)));
    let directory = container.working_dir.clone().filter(|path| !path.is_empty());
    Ok(ContainerSpec {
        command,
        environment,
        directory: directory.unwrap_or_else(|| "/".into()),
        files: node.resolver.files(pod, place),
        mounts,
    })
}
