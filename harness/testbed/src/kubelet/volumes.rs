//! The volumes of a pod: folders in memory that its containers share and that outlive each of them
//! ([Volumes](https://kubernetes.io/docs/concepts/storage/volumes/)).

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail, ensure};
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{
    ConfigMap, Container, DownwardAPIVolumeFile, KeyToPath, Pod, Secret, ServiceAccount,
    ServiceAccountTokenProjection, Volume,
};
use kube::api::PostParams;
use kube::{Api, Client, ResourceExt as _};
use tokio::time::Instant;

use super::environment::{Place, expand, field_of};
use super::init::Mount;
use super::spawn;

/// How often the contents are looked up again.
pub(crate) const REFRESH: Duration = Duration::from_secs(60);
/// What a token is good for unless the pod says otherwise.
const TOKEN_SECONDS: i64 = 3600;
const FILE_MODE: i32 = 0o644;

/// The volumes of one pod. Their folders are removed when this is dropped.
#[derive(Debug)]
pub(crate) struct Volumes {
    /// Under which name the pod's folder is in the store.
    folder: String,
    /// When the tokens in them, by file, are to be replaced.
    tokens: BTreeMap<PathBuf, Instant>,
}

/// One file of a volume.
struct Entry {
    path: String,
    contents: Vec<u8>,
    mode: Option<i32>,
}

impl Volumes {
    /// For a pod whose volumes are to be made with [`Volumes::fill`].
    pub(crate) fn new(pod: &Pod) -> Self {
        Self { folder: pod.uid().unwrap_or_default(), tokens: BTreeMap::new() }
    }

    /// Whether anything in the pod's volumes may change.
    pub(crate) fn may_change(pod: &Pod) -> bool {
        volumes(pod).any(|volume| volume.empty_dir.is_none())
    }

    /// Makes the volumes, or brings their contents up to date.
    pub(crate) async fn fill(&mut self, client: &Client, pod: &Pod, place: &Place) -> anyhow::Result<()> {
        for volume in volumes(pod) {
            let what = || format!("MountVolume.SetUp failed for volume \"{}\" ", volume.name);
            self.fill_one(client, pod, place, volume).await.with_context(what)?;
        }
        Ok(())
    }

    async fn fill_one(
        &mut self,
        client: &Client,
        pod: &Pod,
        place: &Place,
        volume: &Volume,
    ) -> anyhow::Result<()> {
        let folder = self.outside()?.join(&volume.name);
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        fs::set_permissions(&folder, Permissions::from_mode(0o777))?;
        let sources = Sources { client, pod, place, namespace: pod.namespace().unwrap_or_default() };
        let (entries, mode) = if volume.empty_dir.is_some() {
            return Ok(());
        } else if let Some(source) = &volume.config_map {
            let found = sources.config_map(&source.name, source.items.as_deref(), source.optional).await?;
            (found, source.default_mode)
        } else if let Some(source) = &volume.secret {
            let name = source.secret_name.clone().unwrap_or_default();
            (sources.secret(&name, source.items.as_deref(), source.optional).await?, source.default_mode)
        } else if let Some(source) = &volume.downward_api {
            (sources.downward(source.items.as_deref().unwrap_or_default())?, source.default_mode)
        } else if let Some(source) = &volume.projected {
            let mut entries = Vec::new();
            for projection in source.sources.iter().flatten() {
                if let Some(source) = &projection.config_map {
                    let items = source.items.as_deref();
                    entries.extend(sources.config_map(&source.name, items, source.optional).await?);
                } else if let Some(source) = &projection.secret {
                    let items = source.items.as_deref();
                    entries.extend(sources.secret(&source.name, items, source.optional).await?);
                } else if let Some(source) = &projection.downward_api {
                    entries.extend(sources.downward(source.items.as_deref().unwrap_or_default())?);
                } else if let Some(source) = &projection.service_account_token {
                    let file = folder.join(&source.path);
                    if self.tokens.get(&file).is_none_or(|due| *due <= Instant::now()) {
                        let (entry, good_for) = sources.token(source).await?;
                        // As kubelets do: when four fifths of its life are over.
                        self.tokens.insert(file, Instant::now() + good_for * 4 / 5);
                        entries.push(entry);
                    }
                } else {
                    bail!("this source of a projected volume is not supported");
                }
            }
            (entries, source.default_mode)
        } else {
            bail!(
                "this kind of volume is not supported here: there are emptyDir, configMap, secret, downwardAPI \
                 and projected"
            );
        };
        for entry in entries {
            write(&folder, &entry, mode.unwrap_or(FILE_MODE))?;
        }
        Ok(())
    }

    /// What a container mounts, and where.
    pub(crate) fn mounts(
        &self,
        pod: &Pod,
        container: &Container,
        environment: &[(String, String)],
    ) -> anyhow::Result<Vec<Mount>> {
        let mut mounts = Vec::new();
        for mount in container.volume_mounts.iter().flatten() {
            let volume = volumes(pod).find(|volume| volume.name == mount.name);
            let volume = volume.with_context(|| format!("there is no volume `{}`", mount.name))?;
            let sub = match (&mount.sub_path, &mount.sub_path_expr) {
                (Some(path), _) if !path.is_empty() => path.clone(),
                (_, Some(path)) => expand(path, environment),
                _ => String::new(),
            };
            let inside = self.part(volume, &sub).with_context(|| {
                format!("cannot mount `{sub}` of volume `{}` at `{}`", mount.name, mount.mount_path)
            })?;
            mounts.push(Mount {
                source: inside,
                target: mount.mount_path.clone().into(),
                read_only: mount.read_only == Some(true) || volume.empty_dir.is_none(),
            });
        }
        // What lies inside of another comes after it.
        mounts.sort_by_key(|mount| mount.target.components().count());
        Ok(mounts)
    }

    /// A folder or file of the volume, as a container's first process finds it. Folders are made; links
    /// are not followed, for a container may have made them.
    fn part(&self, volume: &Volume, sub: &str) -> anyhow::Result<PathBuf> {
        let mut outside = self.outside()?.join(&volume.name);
        for component in Path::new(sub).components() {
            let Component::Normal(name) = component else { bail!("a subPath goes down only") };
            outside.push(name);
            match fs::symlink_metadata(&outside) {
                Ok(found) => ensure!(!found.is_symlink(), "a subPath must not lead through a link"),
                Err(_) => fs::create_dir(&outside)?,
            }
        }
        Ok(spawn::store()?.inside().join(&self.folder).join(&volume.name).join(sub))
    }

    fn outside(&self) -> anyhow::Result<PathBuf> {
        ensure!(!self.folder.is_empty(), "a pod without uid has no volumes");
        Ok(spawn::store().context("there is no place for volumes")?.outside().join(&self.folder))
    }
}

impl Drop for Volumes {
    fn drop(&mut self) {
        if let Ok(folder) = self.outside() {
            // A pod without volumes has none.
            let _ = fs::remove_dir_all(folder);
        }
    }
}

fn volumes(pod: &Pod) -> impl Iterator<Item = &Volume> {
    pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten())
}

/// A file appears whole or not at all.
fn write(folder: &Path, entry: &Entry, mode: i32) -> anyhow::Result<()> {
    let mut components = Path::new(&entry.path).components();
    let down =
        !entry.path.is_empty() && components.all(|component| matches!(component, Component::Normal(_)));
    ensure!(down, "the path `{}` of a volume's file leads outside of the volume", entry.path);
    let path = folder.join(&entry.path);
    let mode = u32::try_from(entry.mode.unwrap_or(mode)).unwrap_or_default() & 0o777;
    if fs::read(&path).is_ok_and(|known| known == entry.contents) {
        return Ok(());
    }
    let what = || format!("cannot write `{}`", entry.path);
    let parent = path.parent().unwrap_or(folder);
    fs::create_dir_all(parent).with_context(what)?;
    let new = parent.join(format!(".{:016x}", rand::random::<u64>()));
    fs::write(&new, &entry.contents).with_context(what)?;
    fs::set_permissions(&new, Permissions::from_mode(mode)).with_context(what)?;
    fs::rename(&new, &path).with_context(what)
}

struct Sources<'a> {
    client: &'a Client,
    pod: &'a Pod,
    place: &'a Place,
    namespace: String,
}

impl Sources<'_> {
    fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    async fn config_map(
        &self,
        name: &str,
        items: Option<&[KeyToPath]>,
        optional: Option<bool>,
    ) -> anyhow::Result<Vec<Entry>> {
        let map = match self.api::<ConfigMap>().get_opt(name).await? {
            None if optional == Some(true) => return Ok(Vec::new()),
            found => found.ok_or_else(|| anyhow!("configmap \"{name}\" not found"))?,
        };
        let text = map.data.unwrap_or_default().into_iter().map(|(key, text)| (key, text.into_bytes()));
        let bytes = map.binary_data.unwrap_or_default().into_iter().map(|(key, bytes)| (key, bytes.0));
        pick(text.chain(bytes).collect(), items, optional, "configmap")
    }

    async fn secret(
        &self,
        name: &str,
        items: Option<&[KeyToPath]>,
        optional: Option<bool>,
    ) -> anyhow::Result<Vec<Entry>> {
        let secret = match self.api::<Secret>().get_opt(name).await? {
            None if optional == Some(true) => return Ok(Vec::new()),
            found => found.ok_or_else(|| anyhow!("secret \"{name}\" not found"))?,
        };
        let data = secret.data.unwrap_or_default().into_iter().map(|(key, bytes)| (key, bytes.0));
        pick(data.collect(), items, optional, "secret")
    }

    fn downward(&self, items: &[DownwardAPIVolumeFile]) -> anyhow::Result<Vec<Entry>> {
        let lines = |map: &BTreeMap<String, String>| {
            map.iter().map(|(key, value)| format!("{key}={value:?}")).collect::<Vec<_>>().join("\n")
        };
        let entry = |item: &DownwardAPIVolumeFile| {
            let field = item.field_ref.as_ref().context("only fieldRef can be the source of a file")?;
            let contents = match field.field_path.as_str() {
                "metadata.labels" => lines(self.pod.labels()),
                "metadata.annotations" => lines(self.pod.annotations()),
                path => field_of(self.pod, path, self.place)?,
            };
            Ok(Entry { path: item.path.clone(), contents: contents.into_bytes(), mode: item.mode })
        };
        items.iter().map(entry).collect()
    }

    /// A token of the pod's account, bound to the pod
    /// ([Configure Service Accounts, "ServiceAccount token volume projection"](https://kubernetes.io/docs/tasks/configure-pod-container/configure-service-account/#serviceaccount-token-volume-projection)).
    async fn token(&self, source: &ServiceAccountTokenProjection) -> anyhow::Result<(Entry, Duration)> {
        let spec = self.pod.spec.as_ref();
        let account = spec.and_then(|spec| spec.service_account_name.as_deref()).unwrap_or("default");
        let seconds = source.expiration_seconds.unwrap_or(TOKEN_SECONDS);
        let audience = source.audience.clone().filter(|audience| !audience.is_empty());
        let request = TokenRequest {
            spec: Some(TokenRequestSpec {
                audiences: audience.map(|audience| vec![audience]),
                expiration_seconds: Some(seconds),
                bound_object_ref: Some(BoundObjectReference {
                    api_version: Some("v1".to_owned()),
                    kind: Some("Pod".to_owned()),
                    name: self.pod.metadata.name.clone(),
                    uid: self.pod.uid(),
                }),
                ..TokenRequestSpec::default()
            }),
            ..TokenRequest::default()
        };
        let accounts = self.api::<ServiceAccount>();
        let answer: TokenRequest = accounts
            .create_subresource("token", account, &PostParams::default(), &request)
            .await
            .with_context(|| format!("failed to fetch a token of service account `{account}`"))?;
        let token = answer.status.and_then(|status| status.token);
        let token = token.context("the answer to a token request has no token")?;
        let entry = Entry { path: source.path.clone(), contents: token.into_bytes(), mode: None };
        Ok((entry, Duration::from_secs(seconds.max(0).unsigned_abs())))
    }
}

/// All keys under their own names, or those that are asked for under the names that are asked for.
fn pick(
    mut data: BTreeMap<String, Vec<u8>>,
    items: Option<&[KeyToPath]>,
    optional: Option<bool>,
    kind: &str,
) -> anyhow::Result<Vec<Entry>> {
    let Some(items) = items.filter(|items| !items.is_empty()) else {
        let entry = |(path, contents)| Entry { path, contents, mode: None };
        return Ok(data.into_iter().map(entry).collect());
    };
    let mut entries = Vec::new();
    for KeyToPath { key, path, mode, .. } in items {
        match data.remove(key) {
            Some(contents) => entries.push(Entry { path: path.clone(), contents, mode: *mode }),
            None if optional == Some(true) => {}
            None => bail!("{kind} references non-existent config key: {key}"),
        }
    }
    Ok(entries)
}
