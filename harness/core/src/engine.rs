//! The container engine of this machine, if one runs, driven through testcontainers. No image is
//! fetched: the one there is, is made on the spot from nothing but a program of ours. Everything we
//! make there carries a label, and goes away when its owner is dropped.

use std::any::Any;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::TokioIo;
use stickler_reports::Finding;
use testcontainers_modules::testcontainers::bollard::Docker;
use testcontainers_modules::testcontainers::bollard::errors::Error as EngineError;
use testcontainers_modules::testcontainers::bollard::models::{HostConfig, HostConfigLogConfig, PortBinding};
use testcontainers_modules::testcontainers::bollard::query_parameters::{
    AttachContainerOptionsBuilder, ListContainersOptionsBuilder, ListImagesOptionsBuilder,
    RemoveContainerOptionsBuilder, RemoveImageOptionsBuilder,
};
use testcontainers_modules::testcontainers::core::client::docker_client_instance;
use testcontainers_modules::testcontainers::core::{ContainerPort, IntoContainerPort as _};
use testcontainers_modules::testcontainers::runners::{AsyncBuilder as _, AsyncRunner as _};
use testcontainers_modules::testcontainers::{
    ContainerAsync, ContainerRequest, GenericBuildableImage, GenericImage, Image, ImageExt as _,
};
use tokio::time::{Instant, timeout};
use tokio_util::task::AbortOnDropHandle;

use crate::claim::RUN_LABEL;
use crate::invariant::{Invariant, Judgement};
use crate::leash;
use crate::scene::Scene;

/// The most an engine may take to say that it is there.
const ANSWERS: Duration = Duration::from_secs(5);
/// The most the image may take: a copy of one program, on a machine that is busy with something else.
const IMAGE: Duration = Duration::from_secs(120);
/// The most removing a container and an image may take.
const GONE: Duration = Duration::from_secs(30);
/// The most a container may take to start.
pub(crate) const STARTS: Duration = Duration::from_secs(60);
/// The most one call to a published port may take.
const CALL: Duration = Duration::from_secs(5);

/// What the image is called; its tag is the label's value.
const IMAGE_NAME: &str = "stickler-pods";

/// A container engine that answers.
pub struct Engine {
    docker: Docker,
    version: String,
    /// As Go calls it: `amd64`, `arm64`.
    architecture: String,
}

impl Engine {
    /// Finds the engine of this machine: at `DOCKER_HOST`, or where Docker puts its socket.
    ///
    /// # Errors
    /// Why there is none, in words.
    pub async fn find() -> anyhow::Result<Self> {
        let none = "no container engine answers on this machine (DOCKER_HOST names one that is elsewhere)";
        let docker = docker_client_instance().await.context(none)?;
        let version = match timeout(ANSWERS, docker.version()).await {
            Ok(version) => version.context(none)?,
            Err(_) => bail!("the container engine did not say its version within {ANSWERS:?}"),
        };
        if version.os.as_deref().is_some_and(|os| os != "linux") {
            bail!("the container engine runs no Linux containers");
        }
        let (version, architecture) = (version.version.unwrap_or_default(), version.arch.unwrap_or_default());
        Ok(Self { docker, version, architecture })
    }

    /// Its version.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Can it run this very program?
    ///
    /// # Errors
    /// Why not, and what helps.
    pub fn runs_this_program(&self) -> anyhow::Result<()> {
        let ours = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        if cfg!(target_os = "linux") && (self.architecture.is_empty() || self.architecture == ours) {
            return Ok(());
        }
        bail!(
            "this program is for {} on {ours}, the container engine runs Linux on {}",
            std::env::consts::OS,
            self.architecture
        )
    }

    pub(crate) fn docker(&self) -> &Docker {
        &self.docker
    }

    /// Owns what will be made under a label of its own.
    pub(crate) fn belongings(&self) -> Belongings {
        let run = format!("{:012x}", rand::random::<u64>() >> 16);
        Belongings { docker: self.docker.clone(), run, container: None }
    }

    /// Makes the image: a program from scratch, as `/stickler-pods`, and what it must be loaded with.
    pub(crate) async fn image(
        &self,
        program: &Program,
        belongings: &Belongings,
    ) -> anyhow::Result<GenericImage> {
        let path = match program {
            Program::Running => {
                self.runs_this_program()?;
                // It may have been replaced since it was started.
                PathBuf::from("/proc/self/exe")
            }
            Program::File(path) => path.clone(),
        };
        std::fs::metadata(&path)
            .with_context(|| format!("the program `{}` cannot be put into an image", path.display()))?;
        let mut image = GenericBuildableImage::new(IMAGE_NAME, &belongings.run)
            .with_dockerfile_string(format!(
                "FROM scratch\nCOPY --chmod=0755 root /\nWORKDIR /tmp\nLABEL {RUN_LABEL}={}\nENTRYPOINT \
                 [\"/stickler-pods\"]\n",
                belongings.run
            ))
            .with_file(path, "root/stickler-pods");
        if matches!(program, Program::Running) {
            for library in libraries() {
                let target = format!("root{}", library.display());
                image = image.with_file(library, target);
            }
        }
        let built = timeout(IMAGE, image.build_image()).await;
        built.map_err(|_| anyhow!("the image was not made within {IMAGE:?}"))?.context("no image can be made")
    }

    /// Runs one of the programs of pods in a container, as `docker run -p PUBLISHED:PORT` does, but
    /// for this machine only. Where the port is taken, the engine chooses another.
    ///
    /// # Errors
    /// What the engine refuses.
    pub(crate) async fn run(&self, program: &str, published: u16, port: u16) -> anyhow::Result<Container> {
        let published = if is_free(published) { published } else { 0 };
        let mut belongings = self.belongings();
        let image = self.image(&Program::Running, &belongings).await?;
        let request =
            image.with_exposed_port(port.tcp()).with_cmd([leash::NAME, program]).with_open_stdin(true);
        let request = request.with_host_config_modifier(move |host| {
            publish(host, published, port);
            leave_nothing(host);
        });
        let container = belongings.start(request).await?;
        let (id, address) = belongings.keep(container, port).await?;
        let options = AttachContainerOptionsBuilder::new().stdin(true).stream(true).build();
        let attached = self.docker.attach_container(&id, Some(options)).await;
        let attached = attached.with_context(|| format!("nobody can be attached to container {id:.12}"))?;
        Ok(Container { id, address, _leash: leash::hold(attached.input), _belongings: belongings })
    }
}

/// What to put into an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Program {
    /// The executable that runs, with the libraries it was loaded with.
    Running,
    /// A static Linux executable of the same kind.
    File(PathBuf),
}

#[cfg(target_os = "linux")]
fn libraries() -> Vec<PathBuf> {
    stickler_testbed::shared_objects().to_vec()
}

#[cfg(not(target_os = "linux"))]
fn libraries() -> Vec<PathBuf> {
    Vec::new()
}

/// Publishes a port on this machine's loopback address only; 0 leaves the choice to the engine.
pub(crate) fn publish(host: &mut HostConfig, published: u16, port: u16) {
    let host_port = if published == 0 { String::new() } else { published.to_string() };
    let binding = PortBinding { host_ip: Some(Ipv4Addr::LOCALHOST.to_string()), host_port: Some(host_port) };
    host.publish_all_ports = Some(false);
    host.port_bindings = Some([(format!("{port}/tcp"), Some(vec![binding]))].into());
}

/// For a container whose output nobody reads later, and which goes away by itself when its program
/// ends, whoever is left to remove it.
pub(crate) fn leave_nothing(host: &mut HostConfig) {
    host.auto_remove = Some(true);
    host.log_config = Some(HostConfigLogConfig { typ: Some("none".to_owned()), config: None });
}

fn is_free(port: u16) -> bool {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    #[cfg(target_os = "linux")]
    return stickler_testbed::enter::host_listener(address).is_ok();
    #[cfg(not(target_os = "linux"))]
    return std::net::TcpListener::bind(address).is_ok();
}

/// Connects to this machine, wherever the process lives now.
async fn connect(address: SocketAddr) -> anyhow::Result<tokio::net::TcpStream> {
    let connecting = tokio::task::spawn_blocking(move || {
        #[cfg(target_os = "linux")]
        return stickler_testbed::enter::host_stream(address, CALL);
        #[cfg(not(target_os = "linux"))]
        return std::net::TcpStream::connect_timeout(&address, CALL);
    });
    let stream = connecting.await.context("nobody connects")??;
    stream.set_nonblocking(true)?;
    Ok(tokio::net::TcpStream::from_std(stream)?)
}

/// What was made under one label; all of it is removed when this is dropped.
pub(crate) struct Belongings {
    docker: Docker,
    run: String,
    container: Option<Box<dyn Any + Send + Sync>>,
}

impl Belongings {
    /// Starts a container.
    pub(crate) async fn start<I: Image>(
        &self,
        request: ContainerRequest<I>,
    ) -> anyhow::Result<ContainerAsync<I>> {
        let request = request.with_label(RUN_LABEL, &self.run).with_startup_timeout(STARTS);
        request.start().await.context("the container did not start")
    }

    /// Takes charge of a container, and returns its id and where its port is published on this machine.
    pub(crate) async fn keep<I: Image + 'static>(
        &mut self,
        container: ContainerAsync<I>,
        port: u16,
    ) -> anyhow::Result<(String, SocketAddr)> {
        let id = container.id().to_owned();
        let published = container.get_host_port_ipv4(ContainerPort::Tcp(port)).await;
        self.container = Some(Box::new(container));
        let published = published
            .with_context(|| format!("container {id:.12} ended at once, or its port is not published"))?;
        Ok((id, SocketAddr::from((Ipv4Addr::LOCALHOST, published))))
    }
}

impl Drop for Belongings {
    fn drop(&mut self) {
        let (docker, label) = (self.docker.clone(), format!("{RUN_LABEL}={}", self.run));
        let container = self.container.take();
        // On a thread and a runtime of its own: the one that all this was made on may be gone already.
        let removing = move || {
            let removed = std::thread::spawn(move || {
                let runtime =
                    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
                runtime.block_on(async move {
                    // Testcontainers asks for the removal itself, and needs a runtime for it.
                    drop(container);
                    remove(&docker, &label).await
                })
            });
            removed.join().unwrap_or_else(|_| Err(anyhow!("the thread that removes panicked")))
        };
        // Connections to the engine may be driven by tasks that wait for this very thread.
        let removed = match tokio::runtime::Handle::try_current() {
            Ok(handle) if handle.runtime_flavor() == tokio::runtime::RuntimeFlavor::MultiThread => {
                tokio::task::block_in_place(removing)
            }
            _ => removing(),
        };
        if let Err(error) = removed {
            tracing::warn!("the container engine still has something with label {RUN_LABEL}: {error:#}");
        }
    }
}

/// Removes the containers and images of every run on the engine, also of those that were killed, and
/// says what there was.
///
/// # Errors
/// If there is no engine, or it still has some after a while.
pub async fn heal() -> anyhow::Result<Vec<String>> {
    remove(&Engine::find().await?.docker, RUN_LABEL).await
}

/// Removes all containers and images with a label, and waits until they are gone.
async fn remove(docker: &Docker, label: &str) -> anyhow::Result<Vec<String>> {
    let deadline = Instant::now() + GONE;
    let mut found: Vec<String> = Vec::new();
    loop {
        let seen = match timeout(ANSWERS, remove_once(docker, label)).await {
            Ok(Ok(left)) if left.is_empty() => return Ok(found),
            Ok(Ok(left)) => {
                // What goes away by itself is not for us to boast of.
                found.extend(left.iter().filter(|left| left.removed).map(|left| left.what.clone()));
                let left: Vec<String> = left.into_iter().map(|left| left.what).collect();
                left.join(", ")
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {ANSWERS:?}"),
        };
        if Instant::now() >= deadline {
            bail!("not all of it was gone within {GONE:?}; last seen: {seen}");
        }
        look_again().await;
    }
}

/// Between two looks at what is left: the engine removes in its own time.
#[expect(clippy::disallowed_methods, reason = "the engine tells nobody of us of its progress; bounded")]
async fn look_again() {
    tokio::time::sleep(Duration::from_millis(50)).await;
}

/// Something the engine had.
struct Left {
    what: String,
    removed: bool,
}

/// Asks for the removal of all there is, and says what that was.
async fn remove_once(docker: &Docker, label: &str) -> Result<Vec<Left>, EngineError> {
    let filters = [("label".to_owned(), vec![label.to_owned()])].into();
    let containers = ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
    let mut found = Vec::new();
    for id in docker.list_containers(Some(containers)).await?.into_iter().filter_map(|one| one.id) {
        let options = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
        let removed = unless_busy(docker.remove_container(&id, Some(options)).await)?;
        found.push(Left { what: format!("container {id:.12}"), removed });
    }
    let images = ListImagesOptionsBuilder::new().all(true).filters(&filters).build();
    for image in docker.list_images(Some(images)).await? {
        let options = RemoveImageOptionsBuilder::new().force(true).build();
        let removed = unless_busy(docker.remove_image(&image.id, Some(options), None).await)?;
        let name = image.repo_tags.first().unwrap_or(&image.id);
        found.push(Left { what: format!("image {name}"), removed });
    }
    Ok(found)
}

/// Was it removed? What is gone already, or going, was not, which is as well.
fn unless_busy<T>(removed: Result<T, EngineError>) -> Result<bool, EngineError> {
    match removed {
        Ok(_) => Ok(true),
        Err(EngineError::DockerResponseServerError { status_code: 404 | 409, .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// A container with one port published on this machine. It is gone when this is dropped.
pub struct Container {
    id: String,
    address: SocketAddr,
    _leash: AbortOnDropHandle<()>,
    _belongings: Belongings,
}

impl Container {
    /// What Docker calls the container inside of it: the first twelve digits of its id.
    pub fn hostname(&self) -> &str {
        self.id.get(..12).unwrap_or(&self.id)
    }

    /// Where its port is published on this machine.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `GET /` at the published port is answered with this.
    pub fn says(&self, answer: impl Into<String>) -> Says<'_> {
        Says { container: self, answer: answer.into() }
    }

    async fn get(&self) -> anyhow::Result<String> {
        let stream = connect(self.address).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let connection = AbortOnDropHandle::new(tokio::spawn(connection));
        let host = self.address.to_string();
        let request = http::Request::get("/").header("Host", host).body(Empty::<&[u8]>::new())?;
        let body = sender.send_request(request).await?.into_body().collect().await?.to_bytes();
        drop(connection);
        Ok(String::from_utf8_lossy(&body).into_owned())
    }
}

/// See [`Container::says`].
pub struct Says<'a> {
    container: &'a Container,
    answer: String,
}

impl Invariant for Says<'_> {
    fn promise(&self) -> String {
        format!("{} on this machine is answered with {:?}", self.container.address, self.answer)
    }

    fn look<'a>(&'a self, _: &'a Scene) -> BoxFuture<'a, anyhow::Result<Judgement>> {
        async move {
            let observed = match timeout(CALL, self.container.get()).await {
                Ok(Ok(answer)) if answer == self.answer => return Ok(Judgement::Holds),
                Ok(Ok(answer)) => format!("it was answered with {answer:?}"),
                Ok(Err(error)) => format!("{error:#}"),
                Err(_) => format!("no answer within {CALL:?}"),
            };
            Ok(Judgement::Broken(Finding { promised: self.promise(), observed }))
        }
        .boxed()
    }
}
