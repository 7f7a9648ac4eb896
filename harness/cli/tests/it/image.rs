//! `stickler image`: an archive that can be read by who is to read it.

use std::path::Path;
use std::process::{Command, Stdio};

use tempfile::tempdir;

use crate::program::{Running, eventually, output, stickler};
use crate::{Impossible, Test};

pub(crate) const TESTS: &[(&str, Test)] = &[
    ("an_archive_is_the_same_every_time", an_archive_is_the_same_every_time),
    ("a_program_that_is_not_static_is_refused", a_program_that_is_not_static_is_refused),
    ("containerd_imports_it", containerd_imports_it),
    ("docker_loads_it", docker_loads_it),
];

/// The head of a static executable, and the version that is wanted; nobody runs it here.
pub(crate) fn executable(machine: u16) -> Vec<u8> {
    versioned(machine, stickler::PODS_VERSION)
}

/// The same with another version.
pub(crate) fn versioned(machine: u16, version: &str) -> Vec<u8> {
    let mut file = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    for half in [2, machine] {
        file.extend(half.to_le_bytes());
    }
    file.extend(1_u32.to_le_bytes());
    for offset in [0_u64, 64, 0] {
        file.extend(offset.to_le_bytes());
    }
    file.extend(0_u32.to_le_bytes());
    for half in [64_u16, 56, 0, 64, 0, 0] {
        file.extend(half.to_le_bytes());
    }
    file.extend(version.as_bytes());
    file
}

/// Makes `image.tar` in a folder, for both architectures.
fn make(folder: &Path, output_file: &str) {
    for (name, machine) in [("amd64", 62), ("arm64", 183)] {
        std::fs::write(folder.join(name), executable(machine)).expect("it can be written");
    }
    let arguments = ["image", "--output", output_file, "--name", "stickler-test:1", "--binary", "arm64"];
    let ended = output(stickler(folder, &[&arguments[..], &["--binary", "amd64"]].concat()));
    assert_eq!(ended.code(), Some(0), "{ended:#?}");
    for platform in ["docker.io/library/stickler-test:1 for linux/amd64: sha256:", "for linux/arm64: sha256:"]
    {
        assert!(ended.stdout.contains(platform), "{}", ended.stdout);
    }
}

fn an_archive_is_the_same_every_time() -> Result<(), Impossible> {
    let folder = tempdir().expect("a folder can be made");
    let archives = ["one.tar", "two.tar"].map(|name| {
        make(folder.path(), name);
        std::fs::read(folder.path().join(name)).expect("the archive")
    });
    assert!(archives[0] == archives[1] && archives[0].len() > 2 * 120);
    Ok(())
}

fn a_program_that_is_not_static_is_refused() -> Result<(), Impossible> {
    let folder = tempdir().expect("a folder can be made");
    let own = env!("CARGO_BIN_EXE_stickler");
    let ended = output(stickler(folder.path(), &["image", "--output", "x.tar", "--binary", own]));
    assert_eq!(ended.code(), Some(2), "{ended:#?}");
    assert!(ended.stderr.contains("it is not static: it asks for `/lib"), "{}", ended.stderr);
    let other = "stickler-pods 0.0.1 of sources 00000000000000aa";
    std::fs::write(folder.path().join("old"), versioned(183, other)).expect("it can be written");
    let ended = output(stickler(folder.path(), &["image", "--output", "x.tar", "--binary", "old"]));
    assert_eq!(ended.code(), Some(2), "{ended:#?}");
    let words = format!("error: `old` cannot be the image's program: it is `{other}`, and `");
    assert!(ended.stderr.starts_with(&words), "{}", ended.stderr);
    assert!(!folder.path().join("x.tar").exists(), "it left a file");
    Ok(())
}

/// A containerd of the test's own, with nothing of the machine's.
fn containerd_imports_it() -> Result<(), Impossible> {
    for program in ["containerd", "ctr"] {
        if Command::new(program).arg("--version").stdout(Stdio::null()).status().is_err() {
            return Err(Impossible(format!("the program `{program}` is not installed")));
        }
    }
    let user = output({
        let mut id = Command::new("id");
        id.arg("-u");
        id
    });
    if user.stdout.trim() != "0" {
        return Err(Impossible("containerd needs root".to_owned()));
    }
    let folder = tempdir().expect("a folder can be made");
    make(folder.path(), "image.tar");
    let path = |name: &str| folder.path().join(name).display().to_string();
    // What it does not need here it may not have here.
    let config = "version = 2\ndisabled_plugins = ['io.containerd.grpc.v1.cri', \
                  'io.containerd.internal.v1.opt']\n";
    std::fs::write(folder.path().join("config.toml"), config).expect("it can be written");
    let mut daemon = Command::new("containerd");
    daemon.args(["--config", &path("config.toml"), "--root", &path("root"), "--state", &path("state")]);
    daemon.args(["--address", &path("socket")]).stdin(Stdio::null());
    let daemon = Running::start(daemon);
    let ctr = |arguments: &[&str]| {
        let mut command = Command::new("ctr");
        command.args(["--address", &path("socket"), "--namespace", "test"]).args(arguments);
        output(command)
    };
    eventually("containerd", || (ctr(&["version"]).code() == Some(0)).then_some(()));
    let imported = ctr(&["images", "import", "--all-platforms", "--no-unpack", &path("image.tar")]);
    assert_eq!(imported.code(), Some(0), "{imported:#?}");
    let list = ctr(&["images", "list"]);
    let line = list.stdout.lines().find(|line| line.starts_with("docker.io/library/stickler-test:1 "));
    let line = line.unwrap_or_else(|| panic!("the image is missing: {list:#?}"));
    assert!(line.contains("linux/amd64") && line.contains("linux/arm64"), "{line}");
    daemon.signal(libc::SIGTERM);
    daemon.end();
    Ok(())
}

fn docker_loads_it() -> Result<(), Impossible> {
    let docker = |arguments: &[&str]| {
        let mut command = Command::new("docker");
        command.args(arguments);
        command
    };
    match docker(&["version"]).stdout(Stdio::null()).stderr(Stdio::null()).status() {
        Ok(status) if status.success() => {}
        Ok(_) => return Err(Impossible("no Docker Engine answers".to_owned())),
        Err(error) => return Err(Impossible(format!("`docker` cannot be run: {error}"))),
    }
    let folder = tempdir().expect("a folder can be made");
    make(folder.path(), "image.tar");
    let archive = folder.path().join("image.tar").display().to_string();
    let loaded = output(docker(&["load", "--input", &archive]));
    assert_eq!(loaded.code(), Some(0), "{loaded:#?}");
    let inspected = output(docker(&["image", "inspect", "stickler-test:1"]));
    let removed = output(docker(&["image", "rm", "stickler-test:1"]));
    assert_eq!(inspected.code(), Some(0), "{inspected:#?}");
    assert!(inspected.stdout.contains("\"Architecture\": \"amd64\""), "{inspected:#?}");
    assert_eq!(removed.code(), Some(0), "{removed:#?}");
    Ok(())
}
