//! Images: which program a name means. There is no registry; every image is the running executable
//! under another name, with the shared libraries it was loaded with.

use std::ffi::{CStr, OsStr, c_int, c_void};
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;
use std::sync::OnceLock;

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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Image {
    /// Its name here.
    pub(crate) name: &'static str,
    /// What it runs if the manifest names no command.
    pub(crate) command: &'static [&'static str],
}

impl Image {
    /// What a status calls it.
    pub(crate) fn id(self) -> String {
        format!("stickler://{}", self.name)
    }
}

/// Finds the image a manifest means: registry, repository, tag and digest do not matter, the last
/// path element does.
pub(crate) fn find(reference: &str) -> Option<Image> {
    let path = reference.split('@').next()?;
    let last = path.rsplit('/').next()?;
    let name = last.split(':').next()?;
    IMAGES.iter().find(|(known, _)| *known == name).map(|(known, command)| Image { name: known, command })
}

/// For messages: the images there are.
pub(crate) fn names() -> String {
    IMAGES.iter().map(|(name, _)| format!("`{name}`")).collect::<Vec<_>>().join(", ")
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
            assert_eq!(find(reference).map(|image| image.name), Some(name), "{reference}");
        }
        for reference in ["", "nginx", "goweb/nginx", "registry.k8s.io/e2e-test-images/agnhost:2.53"] {
            assert_eq!(find(reference), None, "{reference}");
        }
    }

    #[test]
    fn the_loader_and_the_libraries_exist() {
        assert!(shared_objects().iter().all(|path| path.is_file()), "{:?}", shared_objects());
    }
}
