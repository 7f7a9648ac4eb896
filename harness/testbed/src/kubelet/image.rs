//! Images: which program a name means. There is no registry; an image is the running executable under
//! another name, with the shared libraries it was loaded with, or a program of this machine that a
//! node was given.

use std::ffi::{CStr, OsStr, c_int, c_void};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use super::init::Mount;

/// The last path elements that are images, each with the command it runs by default.
const IMAGES: &[(&str, &[&str])] = &[
    ("agent", &["agent", "serve"]),
    ("alpine", &["true"]),
    ("busybox", &["true"]),
    ("curl", &["curl"]),
    ("goweb", &["goweb"]),
    // What the fixtures call it.
    ("stickler", &["true"]),
    ("stickler-agent", &["agent", "serve"]),
    ("stickler-pods", &["true"]),
];

/// What a container's `PATH` is unless its manifest says otherwise.
pub(crate) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// An image that is there.
#[derive(Clone, Debug)]
pub(crate) struct Image {
    /// Its name here.
    pub(crate) name: String,
    /// What it runs if the manifest names no command.
    pub(crate) command: Vec<String>,
    /// What it has of this machine.
    pub(crate) mounts: Vec<Mount>,
}

impl Image {
    /// What a status calls it.
    pub(crate) fn id(&self) -> String {
        format!("stickler://{}", self.name)
    }
}

/// A program of this machine as an image. It is seen at the same path inside, with the machine's shared
/// libraries, in case it needs any; nothing of it can be written.
#[derive(Clone, Debug)]
pub(crate) struct ForeignImage {
    pub(crate) name: String,
    pub(crate) program: PathBuf,
}

impl ForeignImage {
    fn image(&self) -> Image {
        let libraries = ["/lib", "/lib64", "/usr/lib"].map(PathBuf::from);
        let there =
            libraries.into_iter().filter(|folder| folder.is_dir() && !self.program.starts_with(folder));
        let mount = |path: &Path| Mount { source: path.to_owned(), target: path.to_owned(), read_only: true };
        Image {
            name: self.name.clone(),
            command: vec![self.program.display().to_string()],
            mounts: there.chain([self.program.clone()]).map(|path| mount(&path)).collect(),
        }
    }
}

/// The images of a node.
#[derive(Clone, Debug, Default)]
pub(crate) struct Images {
    pub(crate) foreign: Vec<ForeignImage>,
}

impl Images {
    /// Finds the image a manifest means: registry, repository, tag and digest do not matter, the last
    /// path element does.
    pub(crate) fn find(&self, reference: &str) -> Option<Image> {
        let path = reference.split('@').next()?;
        let last = path.rsplit('/').next()?;
        let name = last.split(':').next()?;
        if let Some(foreign) = self.foreign.iter().find(|foreign| foreign.name == name) {
            return Some(foreign.image());
        }
        let (known, command) = IMAGES.iter().find(|(known, _)| *known == name)?;
        let command = command.iter().map(|word| (*word).to_owned()).collect();
        Some(Image { name: (*known).to_owned(), command, mounts: Vec::new() })
    }

    /// For messages: the images there are.
    pub(crate) fn names(&self) -> String {
        let foreign = self.foreign.iter().map(|foreign| foreign.name.as_str());
        let all = IMAGES.iter().map(|(name, _)| *name).chain(foreign);
        all.map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
    }
}

/// The files the dynamic loader used to start this process, the loader included, under the names it
/// used; none for a static executable.
pub fn shared_objects() -> &'static [PathBuf] {
    static OBJECTS: OnceLock<Vec<PathBuf>> = OnceLock::new();
    OBJECTS.get_or_init(loaded)
}

#[expect(unsafe_code, reason = "the loader's list is only reachable through a C callback")]
fn loaded() -> Vec<PathBuf> {
    unsafe extern "C" fn collect(info: *mut libc::dl_phdr_info, _: usize, found: *mut c_void) -> c_int {
        // SAFETY: the loader passes a valid entry; `found` is the vector below.
        let (name, found) = unsafe { ((*info).dlpi_name, &mut *found.cast::<Vec<PathBuf>>()) };
        if !name.is_null() {
            // SAFETY: names of loaded objects are C strings that live as long as the object.
            let name = unsafe { CStr::from_ptr(name) };
            // The executable has an empty name, the kernel's vdso one without a slash.
            if name.to_bytes().starts_with(b"/") {
                found.push(PathBuf::from(OsStr::from_bytes(name.to_bytes())));
            }
        }
        0
    }
    let mut found: Vec<PathBuf> = Vec::new();
    // SAFETY: the callback gets the vector, which outlives the call.
    unsafe { libc::dl_iterate_phdr(Some(collect), std::ptr::from_mut(&mut found).cast()) };
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_path_element_is_the_image() {
        for (reference, name) in [
            ("goweb", "goweb"),
            ("registry.cn-hangzhou.aliyuncs.com/orzi/goweb", "goweb"),
            ("localhost:5000/goweb:1.2", "goweb"),
            ("docker.io/library/busybox@sha256:0123", "busybox"),
            ("stickler/agent:latest@sha256:0123", "agent"),
        ] {
            let found = Images::default().find(reference).map(|image| image.name);
            assert_eq!(found.as_deref(), Some(name), "{reference}");
        }
        for reference in ["", "nginx", "goweb/nginx", "registry.k8s.io/e2e-test-images/agnhost:2.53"] {
            assert!(Images::default().find(reference).is_none(), "{reference}");
        }
    }

    #[test]
    fn a_foreign_image_has_its_program_and_the_machines_libraries() {
        let foreign = ForeignImage { name: "cluster-dns".to_owned(), program: "/opt/x/dns".into() };
        let images = Images { foreign: vec![foreign] };
        let image = images.find("registry.example/cluster-dns:v1").expect("it is there");
        assert_eq!(
            (image.id().as_str(), image.command),
            ("stickler://cluster-dns", vec!["/opt/x/dns".to_owned()])
        );
        assert!(image.mounts.iter().all(|mount| mount.read_only && mount.source == mount.target));
        assert!(image.mounts.iter().any(|mount| mount.target == Path::new("/opt/x/dns")));
        assert!(image.mounts.iter().any(|mount| mount.target == Path::new("/lib")));
        assert!(images.names().ends_with(", `cluster-dns`"));
    }

    #[test]
    fn the_loader_and_the_libraries_exist() {
        assert!(shared_objects().iter().all(|path| path.is_file()), "{:?}", shared_objects());
    }
}
