//! An image as one archive that every tool reads: an OCI image layout
//! ([image-layout](https://github.com/opencontainers/image-spec/blob/main/image-layout.md)) that also has the
//! `manifest.json` older `docker load` looks for. The same input gives the same bytes.

use std::collections::BTreeMap;
use std::io::Read as _;

use anyhow::{Context as _, bail, ensure};
use ring::digest::{SHA256, digest};
use serde_json::{Value, json};
use stickler::APPLETS;
use tar::{Archive, Builder, EntryType, Header};

use super::elf::Architecture;

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
/// No time at all: when an image was made says nothing about what is in it.
const EPOCH: &str = "1970-01-01T00:00:00Z";

/// The program of an image, for one architecture.
pub(crate) struct Binary {
    pub(crate) architecture: Architecture,
    pub(crate) content: Vec<u8>,
}

/// An image as it was read back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) name: String,
    /// Such as `linux/amd64`.
    pub(crate) platform: String,
    /// Of its manifest.
    pub(crate) digest: String,
    /// Where each file of its layer leads: a link's target, or nothing.
    pub(crate) files: BTreeMap<String, Option<String>>,
}

/// The name with registry and tag, as container runtimes keep it: `docker.io/library/x:latest` for `x`.
///
/// # Errors
/// If it is no name of an image, or one by digest.
pub(crate) fn full_name(name: &str) -> anyhow::Result<String> {
    let allowed = |letter: char| letter.is_ascii_alphanumeric() || "./_-:".contains(letter);
    if name.is_empty() || !name.chars().all(allowed) || name.contains("//") {
        bail!("`{name}` is no name of an image; one looks like `registry.example/stickler-pods:1`");
    }
    let first = name.split('/').next().unwrap_or_default();
    let has_registry = name.contains('/') && (first.contains(['.', ':']) || first == "localhost");
    let mut full = match (has_registry, name.contains('/')) {
        (true, _) => name.to_owned(),
        (false, true) => format!("docker.io/{name}"),
        (false, false) => format!("docker.io/library/{name}"),
    };
    if !full.rsplit('/').next().is_some_and(|last| last.contains(':')) {
        full.push_str(":latest");
    }
    Ok(full)
}

/// Everything named by its digest.
#[derive(Default)]
struct Blobs(BTreeMap<String, Vec<u8>>);

impl Blobs {
    /// Keeps a blob and describes it.
    fn keep(&mut self, media_type: &str, content: Vec<u8>) -> Value {
        let hex = hex(&content);
        let described = json!({
            "mediaType": media_type, "digest": format!("sha256:{hex}"), "size": content.len(),
        });
        self.0.insert(hex, content);
        described
    }

    fn keep_json(&mut self, media_type: &str, content: &Value) -> anyhow::Result<Value> {
        Ok(self.keep(media_type, serde_json::to_vec(content)?))
    }
}

fn hex(content: &[u8]) -> String {
    digest(&SHA256, content).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn path_of(described: &Value) -> anyhow::Result<String> {
    let digest = described["digest"].as_str().context("a blob without a digest")?;
    let hex = digest.strip_prefix("sha256:").with_context(|| format!("`{digest}` is no SHA-256"))?;
    Ok(format!("blobs/sha256/{hex}"))
}

/// An archive of one image, for each architecture there is an executable for.
///
/// # Errors
/// If there is none.
pub(crate) fn write(name: &str, binaries: &[Binary], whole: bool) -> anyhow::Result<Vec<u8>> {
    write_all(&[Named { name, command: &["stickler-pods", "--help"] }], binaries, whole)
}

/// An image by its name, and what its containers run unless they are told otherwise.
#[derive(Clone, Copy)]
pub(crate) struct Named<'a> {
    pub(crate) name: &'a str,
    pub(crate) command: &'a [&'a str],
}

/// An archive of several images that differ in nothing else.
///
/// # Errors
/// If there is no executable.
pub(crate) fn write_all(images: &[Named<'_>], binaries: &[Binary], whole: bool) -> anyhow::Result<Vec<u8>> {
    ensure!(!binaries.is_empty(), "an image needs an executable");
    let mut blobs = Blobs::default();
    let (mut described, mut for_docker) = (Vec::new(), Vec::new());
    for image in images {
        let (image, docker) = add(&mut blobs, *image, binaries, whole)?;
        described.push(image);
        for_docker.push(docker);
    }
    let mut archive = Builder::new(Vec::new());
    let mut put = |path: &str, content: &[u8]| append(&mut archive, path, 0o644, content);
    put("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    put("index.json", &serde_json::to_vec(&index(described))?)?;
    put("manifest.json", &serde_json::to_vec(&for_docker)?)?;
    for (hex, content) in &blobs.0 {
        put(&format!("blobs/sha256/{hex}"), content)?;
    }
    Ok(archive.into_inner()?)
}

fn index(manifests: Vec<Value>) -> Value {
    json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": manifests })
}

/// Adds an image to the blobs; returns how the index describes it, and how Docker's list does.
fn add(
    blobs: &mut Blobs,
    Named { name, command }: Named<'_>,
    binaries: &[Binary],
    whole: bool,
) -> anyhow::Result<(Value, Value)> {
    let mut manifests = Vec::new();
    let mut for_docker = None;
    for binary in binaries {
        let layer = layer(binary, whole)?;
        let diff_id = format!("sha256:{}", hex(&layer));
        let layer = blobs.keep(LAYER, layer);
        let config = json!({
            "created": EPOCH,
            "architecture": binary.architecture.oci(),
            "os": "linux",
            "config": {
                "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
                "Cmd": command,
                "WorkingDir": "/",
            },
            "rootfs": { "type": "layers", "diff_ids": [diff_id] },
            "history": [{ "created": EPOCH, "created_by": "stickler image" }],
        });
        let config = blobs.keep_json(CONFIG, &config)?;
        // Docker takes one architecture from such an archive: the first.
        if for_docker.is_none() {
            for_docker = Some(json!({
                "Config": path_of(&config)?, "RepoTags": [familiar(name)], "Layers": [path_of(&layer)?],
            }));
        }
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer],
        });
        let mut manifest = blobs.keep_json(MANIFEST, &manifest)?;
        manifest["platform"] = json!({ "architecture": binary.architecture.oci(), "os": "linux" });
        manifests.push(manifest);
    }
    let mut image = match <[Value; 1]>::try_from(manifests) {
        Ok([only]) => only,
        Err(several) => blobs.keep_json(INDEX, &index(several))?,
    };
    let tag = name.rsplit(':').next().unwrap_or_default();
    image["annotations"] = json!({
        "io.containerd.image.name": name, "org.opencontainers.image.ref.name": tag,
    });
    Ok((image, for_docker.unwrap_or_default()))
}

/// The name as Docker shows it: without its own registry.
fn familiar(name: &str) -> &str {
    let name = name.strip_prefix("docker.io/").unwrap_or(name);
    name.strip_prefix("library/").unwrap_or(name)
}

/// One executable, under the name of each applet.
fn layer(binary: &Binary, whole: bool) -> anyhow::Result<Vec<u8>> {
    let mut layer = Builder::new(Vec::new());
    for (folder, mode) in [("bin/", 0o755), ("etc/", 0o755), ("run/", 0o755), ("tmp/", 0o1777)] {
        let mut header = header(mode, 0);
        header.set_entry_type(EntryType::Directory);
        layer.append_data(&mut header, folder, std::io::empty())?;
    }
    append(&mut layer, "bin/stickler-pods", 0o755, &binary.content)?;
    let harness = whole.then_some("stickler");
    let mut names: Vec<&str> = APPLETS.iter().map(|applet| applet.name).chain(harness).collect();
    names.sort_unstable();
    for name in names {
        let mut header = header(0o777, 0);
        header.set_entry_type(EntryType::Symlink);
        layer.append_link(&mut header, format!("bin/{name}"), "stickler-pods")?;
    }
    Ok(layer.into_inner()?)
}

fn append(archive: &mut Builder<Vec<u8>>, path: &str, mode: u32, content: &[u8]) -> std::io::Result<()> {
    archive.append_data(&mut header(mode, content.len() as u64), path, content)
}

fn header(mode: u32, size: u64) -> Header {
    let mut header = Header::new_ustar();
    header.set_mode(mode);
    header.set_size(size);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header
}

/// Reads an archive, and holds every blob to its digest and size.
///
/// # Errors
/// What is missing, or not as it is said to be.
pub(crate) fn read(bytes: &[u8]) -> anyhow::Result<Vec<Found>> {
    let mut files = BTreeMap::new();
    for entry in Archive::new(bytes).entries()? {
        let mut entry = entry?;
        let path = entry.path()?.to_string_lossy().into_owned();
        let mut content = Vec::new();
        entry.read_to_end(&mut content)?;
        files.insert(path, content);
    }
    let layout = parse(&files, "oci-layout")?;
    ensure!(layout["imageLayoutVersion"] == "1.0.0", "it is no OCI image layout of version 1.0.0");
    let index = parse(&files, "index.json")?;
    let mut found = Vec::new();
    for image in index["manifests"].as_array().context("the index lists no images")? {
        let name =
            image["annotations"]["io.containerd.image.name"].as_str().context("an image has no name")?;
        let platforms = if image["mediaType"] == INDEX {
            let nested: Value = serde_json::from_slice(blob(&files, image)?)?;
            nested["manifests"].as_array().context("an index lists no images")?.clone()
        } else {
            vec![image.clone()]
        };
        for described in platforms {
            found.push(one(&files, name, &described)?);
        }
    }
    let for_docker = parse(&files, "manifest.json")?;
    for image in for_docker.as_array().context("`manifest.json` is no list")? {
        let layers = image["Layers"].as_array().into_iter().flatten();
        for path in layers.chain([&image["Config"]]) {
            let path = path.as_str().context("`manifest.json` names no file")?;
            ensure!(files.contains_key(path), "`manifest.json` names `{path}`, which is not there");
        }
    }
    Ok(found)
}

fn one(files: &BTreeMap<String, Vec<u8>>, name: &str, described: &Value) -> anyhow::Result<Found> {
    let manifest: Value = serde_json::from_slice(blob(files, described)?)?;
    let config: Value = serde_json::from_slice(blob(files, &manifest["config"])?)?;
    let platform = format!(
        "{}/{}",
        config["os"].as_str().unwrap_or_default(),
        config["architecture"].as_str().unwrap_or_default()
    );
    let mut paths = BTreeMap::new();
    let layers = manifest["layers"].as_array().context("an image has no layers")?;
    for (layer, diff_id) in layers.iter().zip(config["rootfs"]["diff_ids"].as_array().into_iter().flatten()) {
        let content = blob(files, layer)?;
        ensure!(
            *diff_id == format!("sha256:{}", hex(content)),
            "a layer is not the one of the configuration"
        );
        for entry in Archive::new(content).entries()? {
            let entry = entry?;
            let target = entry.link_name()?.map(|target| target.to_string_lossy().into_owned());
            paths.insert(entry.path()?.to_string_lossy().into_owned(), target);
        }
    }
    let digest = described["digest"].as_str().unwrap_or_default().to_owned();
    Ok(Found { name: name.to_owned(), platform, digest, files: paths })
}

fn parse(files: &BTreeMap<String, Vec<u8>>, path: &str) -> anyhow::Result<Value> {
    let content = files.get(path).with_context(|| format!("`{path}` is missing"))?;
    serde_json::from_slice(content).with_context(|| format!("`{path}` is no JSON"))
}

fn blob<'a>(files: &'a BTreeMap<String, Vec<u8>>, described: &Value) -> anyhow::Result<&'a [u8]> {
    let path = path_of(described)?;
    let content = files.get(&path).with_context(|| format!("`{path}` is missing"))?;
    ensure!(path.ends_with(&hex(content)), "`{path}` is not what its digest says");
    ensure!(described["size"] == content.len(), "`{path}` is not as long as it is said to be");
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::elf::tests::executable;

    fn binaries(architectures: &[Architecture]) -> Vec<Binary> {
        let content =
            |architecture| executable(if architecture == Architecture::Amd64 { 62 } else { 183 }, None);
        architectures
            .iter()
            .map(|architecture| Binary { architecture: *architecture, content: content(*architecture) })
            .collect()
    }

    #[test]
    fn an_archive_reads_back_as_what_went_in() {
        let name = "docker.io/library/stickler-pods:1";
        let bytes =
            write(name, &binaries(&[Architecture::Amd64, Architecture::Arm64]), false).expect("an archive");
        let found = read(&bytes).expect("an image");
        let platforms: Vec<_> = found.iter().map(|image| image.platform.as_str()).collect();
        assert_eq!(platforms, ["linux/amd64", "linux/arm64"]);
        for image in found {
            assert_eq!(image.name, name);
            assert_eq!(image.files["bin/stickler-pods"], None);
            for applet in APPLETS {
                let target = image.files[&format!("bin/{}", applet.name)].as_deref();
                assert_eq!(target, Some("stickler-pods"), "{}", applet.name);
            }
            assert!(!image.files.contains_key("bin/stickler"), "the harness was not asked for");
        }
    }

    #[test]
    fn the_same_input_gives_the_same_bytes() {
        let one =
            || write("docker.io/library/a:1", &binaries(&[Architecture::Amd64]), true).expect("an archive");
        assert_eq!(one(), one());
        assert!(read(&one()).expect("an image")[0].files.contains_key("bin/stickler"));
    }

    #[test]
    fn images_in_one_archive_share_what_they_have_in_common() {
        let named = |name, command| Named { name, command };
        let images = [named("docker.io/library/a:1", &["a"][..]), named("docker.io/library/b:1", &["pause"])];
        let binary = binaries(&[Architecture::Amd64]);
        let bytes = write_all(&images, &binary, false).expect("an archive");
        let found = read(&bytes).expect("two images");
        let names: Vec<_> = found.iter().map(|image| image.name.as_str()).collect();
        assert_eq!(names, ["docker.io/library/a:1", "docker.io/library/b:1"]);
        let places = bytes.windows(4).filter(|window| *window == b"\x7fELF").count();
        assert_eq!(places, 1, "the executable is there once");
    }

    #[test]
    fn an_archive_that_was_changed_is_noticed() {
        let mut bytes =
            write("docker.io/library/a:1", &binaries(&[Architecture::Amd64]), false).expect("an archive");
        let place = bytes.windows(4).rposition(|window| window == b"\x7fELF").expect("the executable");
        bytes[place + 8] ^= 1;
        let error = read(&bytes).expect_err("it was changed");
        assert!(format!("{error:#}").contains("is not what its digest says"), "{error:#}");
    }

    #[test]
    fn names_are_made_whole() {
        for (name, full) in [
            ("stickler-pods:0.1.0", "docker.io/library/stickler-pods:0.1.0"),
            ("me/pods", "docker.io/me/pods:latest"),
            ("localhost:5000/pods:1", "localhost:5000/pods:1"),
            ("registry.example/a/b", "registry.example/a/b:latest"),
        ] {
            assert_eq!(full_name(name).expect("a name"), full);
        }
        assert_eq!(familiar("docker.io/library/a:1"), "a:1");
        for wrong in ["", "a b", "a@sha256:0123", "a//b"] {
            assert!(full_name(wrong).is_err(), "{wrong}");
        }
    }
}
