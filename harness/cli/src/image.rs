//! `stickler image`: the agent and the fixtures' servers as an image, without a container engine.

mod archive;
mod elf;
mod version;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};
use clap::Args;

use crate::Ended;
use archive::Binary;

/// What the image is called unless somebody says otherwise.
pub(crate) const NAME: &str = concat!("stickler-pods:", env!("CARGO_PKG_VERSION"));

/// Arguments of `stickler image`.
#[derive(Args)]
pub(crate) struct Image {
    /// Where to write the archive: for `docker load`, `ctr images import`, or any tool that reads OCI
    /// layouts.
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
    /// What the image is called.
    #[arg(long, value_name = "NAME", default_value = NAME)]
    name: String,
    /// A static executable of `stickler-pods` that was built elsewhere, instead of building one; once
    /// for each architecture.
    #[arg(long = "binary", value_name = "FILE")]
    binaries: Vec<PathBuf>,
    /// Put the harness itself into it too, for runs that start inside the cluster.
    #[arg(long)]
    whole: bool,
}

impl Image {
    pub(crate) fn execute(&self) -> anyhow::Result<Ended> {
        let name = archive::full_name(&self.name)?;
        let files = if self.binaries.is_empty() { build(self.whole)? } else { self.binaries.clone() };
        let binaries = read(&files)?;
        let bytes = archive::write(&name, &binaries, self.whole)?;
        // What cannot be read back is not given away.
        let images = archive::read(&bytes).context("the archive that was made cannot be read back")?;
        std::fs::write(&self.output, &bytes)
            .with_context(|| format!("`{}` cannot be written", self.output.display()))?;
        let mut text = format!("{} of {} bytes:\n", self.output.display(), bytes.len());
        for image in images {
            text.push_str(&format!("  {} for {}: {}\n", image.name, image.platform, image.digest));
        }
        text.push_str(&format!(
            "docker load --input {0}\nctr --namespace k8s.io images import {0}\n",
            self.output.display()
        ));
        crate::print(&text)?;
        Ok(Ended::Held)
    }
}

/// Reads static executables, one for each architecture, and sorts them.
fn read(files: &[PathBuf]) -> anyhow::Result<Vec<Binary>> {
    let mut binaries: Vec<Binary> = Vec::new();
    for file in files {
        let content = std::fs::read(file).with_context(|| format!("`{}` cannot be read", file.display()))?;
        let fits = |executable: elf::Executable| {
            let architecture = executable.insist_on_static()?;
            version::insist_on_ours(&content, architecture).map(|()| architecture)
        };
        let architecture = elf::examine(&content)
            .and_then(fits)
            .with_context(|| format!("`{}` cannot be the image's program", file.display()))?;
        if binaries.iter().any(|known| known.architecture == architecture) {
            bail!("`{}` is a second executable for {}", file.display(), architecture.oci());
        }
        binaries.push(Binary { architecture, content });
    }
    // Whatever order they were named in.
    binaries.sort_by_key(|binary| binary.architecture);
    Ok(binaries)
}

/// The images of a cluster of this machine: of the programs of pods, called [`NAME`], and of what holds a
/// pod's namespaces. Their program is this file; or this program, if it is static; or one that is built.
#[cfg(target_os = "linux")]
pub(crate) fn of_cluster(file: Option<&Path>) -> anyhow::Result<stickler::providers::Images> {
    use archive::Named;
    use stickler::providers::PAUSE_IMAGE;
    let own = std::env::current_exe().context("this program cannot be found")?;
    let is_static = || {
        let content = std::fs::read(&own).ok()?;
        elf::examine(&content).ok()?.insist_on_static().ok()
    };
    let files = match file {
        Some(file) => vec![file.to_owned()],
        None if is_static().is_some() => vec![own],
        None => build(false)?,
    };
    let binaries = match file {
        Some(_) => read(&files).context("`--pods-program` names a program that pods cannot run")?,
        None => read(&files)?,
    };
    let name = archive::full_name(NAME)?;
    let images = [
        Named { name: &name, command: &["stickler-pods", "--help"] },
        Named { name: PAUSE_IMAGE, command: &["pause"] },
    ];
    let archive = archive::write_all(&images, &binaries, false)?.into();
    Ok(stickler::providers::Images { name, archive })
}

/// Builds an executable for every architecture whose target is installed.
fn build(whole: bool) -> anyhow::Result<Vec<PathBuf>> {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    if !sources.join("Cargo.toml").is_file() {
        bail!(
            "the sources of Stickler are not where this program was built; name an executable with \
                 `--binary FILE`"
        );
    }
    let output = Command::new("rustc").args(["--print", "sysroot"]).output();
    let output = output.context("`rustc` cannot be run; name an executable with `--binary FILE`")?;
    let sysroot = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
    let targets = targets(|target| sysroot.join("lib/rustlib").join(target).join("lib").is_dir());
    if targets.is_empty() {
        bail!(
            "no target for static executables is installed; `rustup target add \
                 {}-unknown-linux-musl` gets one",
            std::env::consts::ARCH
        );
    }
    let (package, program) =
        if whole { ("stickler-cli", "stickler") } else { ("stickler-pods", "stickler-pods") };
    let mut built = Vec::new();
    for target in targets {
        let mut build = Command::new(&cargo);
        build.current_dir(&sources).args(["build", "--release", "--package", package, "--target", target]);
        // The musl targets do so by themselves.
        build.env("RUSTFLAGS", "-C target-feature=+crt-static");
        let folder = sources.join("target").join("image");
        build.arg("--target-dir").arg(&folder);
        let status = build.status().context("`cargo` cannot be run")?;
        if !status.success() {
            bail!("`{program}` cannot be built for {target}; name an executable with `--binary FILE`");
        }
        built.push(folder.join(target).join("release").join(program));
    }
    Ok(built)
}

/// For each architecture the first target that is installed: musl is made for static executables, and
/// glibc can do it too.
fn targets(installed: impl Fn(&str) -> bool) -> Vec<&'static str> {
    const TARGETS: [[&str; 2]; 2] = [
        ["x86_64-unknown-linux-musl", "x86_64-unknown-linux-gnu"],
        ["aarch64-unknown-linux-musl", "aarch64-unknown-linux-gnu"],
    ];
    TARGETS.iter().filter_map(|targets| targets.iter().copied().find(|target| installed(target))).collect()
}

/// A program that is to be copied into pods: static, unless the image happens to have what it needs.
pub(crate) fn program(file: Option<&Path>) -> anyhow::Result<Vec<u8>> {
    let own = std::env::current_exe().context("this program cannot be found")?;
    let chosen = file.unwrap_or(&own);
    let read = || std::fs::read(chosen).with_context(|| format!("`{}` cannot be read", chosen.display()));
    let content = read()?;
    let executable =
        elf::examine(&content).with_context(|| format!("`{}` cannot be copied", chosen.display()))?;
    version::insist_on_ours(&content, executable.architecture)
        .with_context(|| format!("`{}` cannot be copied", chosen.display()))?;
    if file.is_none() && executable.interpreter.is_some() {
        bail!(
            "this program is not static, so it runs in hardly any image; name a static `stickler-pods` with \
             `--agent-program FILE` (`stickler image` tells how one is built)"
        );
    }
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn musl_is_preferred_and_every_architecture_that_is_installed_is_built() {
        let of = |installed: &[&str]| targets(|target| installed.contains(&target));
        assert_eq!(of(&["x86_64-unknown-linux-gnu"]), ["x86_64-unknown-linux-gnu"]);
        assert_eq!(
            of(&["x86_64-unknown-linux-gnu", "x86_64-unknown-linux-musl", "aarch64-unknown-linux-musl"]),
            ["x86_64-unknown-linux-musl", "aarch64-unknown-linux-musl"]
        );
        assert!(of(&["x86_64-pc-windows-gnu"]).is_empty());
    }
}
