//! A whole Kubernetes from a directory of its upstream binaries: every component of the testbed, swapped.
//!
//! What is found is written as a file of components ([`Binaries::text`]), like one that a person writes.
//! Flags follow the version that `kubelet --version` tells; 1.20.2 was tried.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use thiserror::Error;

use crate::components::{ComponentError, Components};
use crate::external::search_path;
use crate::externals::NODE_FOLDERS;

/// The programs that make a version of Kubernetes, and must all be of one.
const KUBERNETES: &[&str] =
    &["kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy"];

/// What they need beside them, each with the package of Debian that has it. These need not be of the same
/// age.
const BESIDE: &[(&str, &str)] = &[
    ("etcd", "etcd-server"),
    ("containerd", "containerd"),
    ("containerd-shim-runc-v2", "containerd"),
    ("ctr", "containerd"),
    ("runc", "runc"),
    ("iptables", "iptables"),
    ("conntrack", "conntrack"),
    ("mount", "mount"),
];

/// The plugins that connect pods
/// ([CNI plugins](https://www.cni.dev/plugins/current/)). Point to point, as the testbed's own pods are, and
/// not over a bridge, which needs a module of the kernel to show its packets to the service rules.
const PLUGINS: &[&str] = &["ptp", "host-local", "portmap", "loopback"];
const PLUGINS_PACKAGE: &str = "containernetworking-plugins";
/// Where plugins are on most machines.
const PLUGIN_FOLDERS: &[&str] = &["/usr/lib/cni", "/opt/cni/bin", "/usr/libexec/cni"];

/// The image whose program holds a pod's namespaces.
pub const PAUSE_IMAGE: &str = "docker.io/library/stickler-pause:1";

/// Why no cluster can be made of a directory.
#[derive(Debug, Error)]
pub enum BinariesError {
    #[error("`--bin-dir {0}` cannot be read: {1}")]
    Unreadable(String, std::io::Error),
    #[error(
        "`--bin-dir {directory}` lies below `{hidden}`, which nodes have of their own; move it elsewhere"
    )]
    Hidden { directory: String, hidden: String },
    #[error("{0}")]
    Missing(String),
    #[error("`{program} --version` does not say which Kubernetes it is: {said}")]
    Version { program: String, said: String },
    #[error("Kubernetes {0} is not 1.20 or newer")]
    TooOld(String),
    #[error(transparent)]
    Components(#[from] ComponentError),
}

/// How services are made to work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyMode {
    Iptables,
    /// From 1.29 on.
    Nftables,
}

impl ProxyMode {
    fn name(self) -> &'static str {
        match self {
            Self::Iptables => "iptables",
            Self::Nftables => "nftables",
        }
    }
}

/// Everything a cluster is made of, found on this machine.
#[derive(Clone, Debug)]
pub struct Binaries {
    /// As in `v1.20.2`.
    pub version: String,
    minor: u32,
    programs: BTreeMap<&'static str, PathBuf>,
    /// The folder of the CNI plugins.
    plugins: PathBuf,
    /// May a process be made less likely to be killed when memory is short?
    may_lower_oom_score: bool,
    proxy_mode: ProxyMode,
}

impl Binaries {
    /// Looks at a directory, and for what it lacks where Debian has it.
    ///
    /// # Errors
    /// Everything that is missing, with the packages that have it; or that the version cannot be learnt.
    pub fn find(directory: &Path, proxy_mode: ProxyMode) -> Result<Self, BinariesError> {
        let shown = directory.display().to_string();
        let directory =
            directory.canonicalize().map_err(|error| BinariesError::Unreadable(shown.clone(), error))?;
        if let Some(hidden) =
            NODE_FOLDERS.iter().chain(&["/run"]).find(|folder| directory.starts_with(folder))
        {
            return Err(BinariesError::Hidden { directory: shown, hidden: (*hidden).to_owned() });
        }
        let found = look(&directory, &search_path(), PLUGIN_FOLDERS)
            .map_err(|missing| BinariesError::Missing(missing.told(&shown)))?;
        let kubelet = found.programs.get("kubelet").cloned().unwrap_or_default();
        let (version, minor) = version_of(&kubelet)?;
        Ok(Self {
            version,
            minor,
            programs: found.programs,
            plugins: found.plugins,
            may_lower_oom_score: may_lower_oom_score(),
            proxy_mode,
        })
    }

    /// The components of the cluster.
    ///
    /// # Errors
    /// If a program has gone meanwhile.
    pub fn components(&self) -> Result<Components, ComponentError> {
        let mut components = Components::default();
        components.read(&self.text())?;
        Ok(components)
    }

    /// The same, as a file of components.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for (name, beside, command) in [
            ("apiserver", vec![self.etcd()], self.apiserver()),
            ("controllers", vec![], self.controllers()),
            ("scheduler", vec![], self.scheduler()),
            ("proxy", vec![], self.proxy()),
            ("kubelet", vec![self.containerd()], self.kubelet()),
        ] {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "[{name}]\ncommand = '''\n{command}'''");
            for beside in beside {
                let _ = writeln!(text, "beside = ['''\n{beside}''']");
            }
            if name == "kubelet" {
                let _ = writeln!(text, "images = '''\n{}'''", self.import());
            }
        }
        let files = [
            ("kubelet.yaml", self.kubelet_configuration()),
            ("containerd.toml", self.containerd_configuration()),
            ("cni/10-stickler.conflist", NETWORK.to_owned()),
        ];
        text.push_str("[kubelet.files]\n");
        for (name, contents) in files {
            let _ = writeln!(text, "'{name}' = '''\n{contents}'''");
        }
        text
    }

    /// A program with its arguments, one a line.
    fn command(&self, program: &str, arguments: &[&str]) -> String {
        let path = self.programs.get(program).map(|path| path.display().to_string()).unwrap_or_default();
        // A path without a zero byte can be quoted.
        let mut text = shlex::try_quote(&path).map(|path| path.into_owned()).unwrap_or_default();
        text.push('\n');
        for argument in arguments {
            let _ = writeln!(text, "  {argument}");
        }
        text
    }

    fn etcd(&self) -> String {
        self.command(
            "etcd",
            &[
                "--data-dir={dir}/etcd",
                "--listen-client-urls=http://127.0.0.1:2379",
                "--advertise-client-urls=http://127.0.0.1:2379",
                "--listen-peer-urls=http://127.0.0.1:2380",
            ],
        )
    }

    fn apiserver(&self) -> String {
        let mut arguments = vec![
            "--etcd-servers=http://127.0.0.1:2379",
            "--advertise-address={node_ip}",
            "--secure-port=6443",
            "--service-cluster-ip-range={service_cidr}",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--allow-privileged=true",
            "--client-ca-file={dir}/ca.crt",
            "--tls-cert-file={dir}/apiserver.crt",
            "--tls-private-key-file={dir}/apiserver.key",
            "--kubelet-certificate-authority={dir}/ca.crt",
            "--kubelet-client-certificate={dir}/apiserver-kubelet-client.crt",
            "--kubelet-client-key={dir}/apiserver-kubelet-client.key",
            "--kubelet-preferred-address-types=InternalIP",
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
            "--service-account-key-file={dir}/sa.pub",
            "--service-account-signing-key-file={dir}/sa.key",
        ];
        if self.minor < 24 {
            // Everybody would be an administrator there.
            arguments.push("--insecure-port=0");
        }
        self.command("kube-apiserver", &arguments)
    }

    fn controllers(&self) -> String {
        self.command(
            "kube-controller-manager",
            &[
                "--kubeconfig={kubeconfig}",
                "--authentication-kubeconfig={kubeconfig}",
                "--authorization-kubeconfig={kubeconfig}",
                // There is one, so nobody need be elected.
                "--leader-elect=false",
                "--use-service-account-credentials=true",
                "--service-account-private-key-file={dir}/sa.key",
                "--root-ca-file={dir}/ca.crt",
                "--cluster-cidr={cluster_cidr}",
                // Each node has its range already.
                "--allocate-node-cidrs=false",
                // It would make 20 requests a second, and endpoints would lag behind their pods.
                "--kube-api-qps=1000",
                "--kube-api-burst=2000",
            ],
        )
    }

    fn scheduler(&self) -> String {
        self.command(
            "kube-scheduler",
            &[
                "--kubeconfig={kubeconfig}",
                "--authentication-kubeconfig={kubeconfig}",
                "--authorization-kubeconfig={kubeconfig}",
                "--leader-elect=false",
                "--kube-api-qps=1000",
                "--kube-api-burst=2000",
            ],
        )
    }

    fn proxy(&self) -> String {
        let mode = format!("--proxy-mode={}", self.proxy_mode.name());
        self.command(
            "kube-proxy",
            &[
                &mode,
                "--kubeconfig={kubeconfig}",
                "--hostname-override={node}",
                "--cluster-cidr={cluster_cidr}",
                // How many connections may be tracked is set for the whole machine: leave it.
                "--conntrack-max-per-core=0",
                "--conntrack-min=0",
            ],
        )
    }

    fn kubelet(&self) -> String {
        let mut arguments = vec![
            "--config={dir}/kubelet.yaml",
            "--kubeconfig={kubeconfig}",
            "--hostname-override={node}",
            "--node-ip={node_ip}",
            "--container-runtime-endpoint=unix:///run/containerd/containerd.sock",
        ];
        if self.minor < 27 {
            arguments.push("--container-runtime=remote");
        }
        self.command("kubelet", &arguments)
    }

    fn containerd(&self) -> String {
        self.command("containerd", &["--config={dir}/containerd.toml"])
    }

    fn import(&self) -> String {
        self.command(
            "ctr",
            &["--address=/run/containerd/containerd.sock", "--namespace=k8s.io", "images", "import", "-"],
        )
    }

    fn kubelet_configuration(&self) -> String {
        let mut text = KUBELET.to_owned();
        if self.minor >= 31 {
            text.push_str("failCgroupV1: false\n");
        }
        text
    }

    fn containerd_configuration(&self) -> String {
        let runc = self.programs.get("runc").map(|path| path.display().to_string()).unwrap_or_default();
        let restrict = !self.may_lower_oom_score;
        let plugins = self.plugins.display();
        format!(
            r#"version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = [
  "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs",
]
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE_IMAGE}"
  stream_server_address = "127.0.0.1"
  # Where nobody may lower it, no container would start.
  restrict_oom_score_adj = {restrict}
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
    BinaryName = "{runc}"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{plugins}"
    conf_dir = "{{dir}}/cni"
"#
        )
    }
}

/// No image is ever pulled, so none is thrown away; disks are not what is tried here.
const KUBELET: &str = "\
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication:
  anonymous: {enabled: false}
  webhook: {enabled: true}
  x509: {clientCAFile: '{dir}/ca.crt'}
authorization: {mode: Webhook}
tlsCertFile: '{dir}/kubelet.crt'
tlsPrivateKeyFile: '{dir}/kubelet.key'
cgroupDriver: cgroupfs
failSwapOn: false
clusterDNS: ['{dns_ip}']
clusterDomain: cluster.local
kubeAPIQPS: 1000
kubeAPIBurst: 2000
volumePluginDir: '{dir}/volume-plugins'
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
evictionHard:
  memory.available: 100Mi
  nodefs.available: 1%
  imagefs.available: 1%
";

const NETWORK: &str = r#"{
  "cniVersion": "0.4.0",
  "name": "stickler",
  "plugins": [
    {
      "type": "ptp",
      "ipMasq": false,
      "ipam": {
        "type": "host-local",
        "ranges": [[{"subnet": "{pod_cidr}"}]],
        "routes": [{"dst": "0.0.0.0/0"}]
      }
    },
    {"type": "portmap", "capabilities": {"portMappings": true}, "snat": true}
  ]
}
"#;

struct Found {
    programs: BTreeMap<&'static str, PathBuf>,
    plugins: PathBuf,
}

/// What was looked for in vain.
#[derive(Debug, Default)]
struct Missing {
    /// Of the directory.
    kubernetes: Vec<&'static str>,
    /// Of the directory and `$PATH`: program and package.
    beside: Vec<(&'static str, &'static str)>,
    /// Plugins, if no folder has all of them.
    plugins: Vec<&'static str>,
}

impl Missing {
    fn told(&self, directory: &str) -> String {
        let mut lines = Vec::new();
        if !self.kubernetes.is_empty() {
            lines.push(format!(
                "`--bin-dir {directory}` lacks `{}`; it is to have the server binaries of one version of Kubernetes",
                self.kubernetes.join("`, `")
            ));
        }
        let mut packages: Vec<&str> = self.beside.iter().map(|(_, package)| *package).collect();
        for (program, package) in &self.beside {
            lines.push(format!("`{program}` is neither there nor in $PATH (Debian: {package})"));
        }
        if !self.plugins.is_empty() {
            packages.push(PLUGINS_PACKAGE);
            lines.push(format!(
                "the CNI plugins `{}` are neither there nor in {} (Debian: {PLUGINS_PACKAGE})",
                self.plugins.join("`, `"),
                PLUGIN_FOLDERS.join(", ")
            ));
        }
        packages.dedup();
        if !packages.is_empty() {
            lines.push(format!("`apt-get install {}` gets them", packages.join(" ")));
        }
        lines.join("; ")
    }
}

fn look(directory: &Path, path: &str, plugin_folders: &[&str]) -> Result<Found, Missing> {
    let mut missing = Missing::default();
    let mut programs = BTreeMap::new();
    for program in KUBERNETES {
        match executable(&directory.join(program)) {
            Some(found) => drop(programs.insert(*program, found)),
            None => missing.kubernetes.push(program),
        }
    }
    let path = || path.split(':').filter(|folder| !folder.is_empty()).map(PathBuf::from);
    let folders = || std::iter::once(directory.to_owned()).chain(path());
    for (program, package) in BESIDE {
        match folders().find_map(|folder| executable(&folder.join(program))) {
            Some(found) => drop(programs.insert(*program, found)),
            None => missing.beside.push((*program, *package)),
        }
    }
    // All from one folder, for the runtime looks in one.
    let in_one = |folder: &PathBuf| PLUGINS.iter().all(|plugin| executable(&folder.join(plugin)).is_some());
    let places = || std::iter::once(directory.to_owned()).chain(plugin_folders.iter().map(PathBuf::from));
    let plugins = places().find(in_one);
    if plugins.is_none() {
        let nowhere = |plugin: &&&str| !places().any(|folder| executable(&folder.join(plugin)).is_some());
        missing.plugins = PLUGINS.iter().filter(nowhere).copied().collect();
        if missing.plugins.is_empty() {
            missing.plugins = PLUGINS.to_vec();
        }
    }
    let whole = missing.kubernetes.is_empty() && missing.beside.is_empty();
    match plugins {
        Some(plugins) if whole => Ok(Found { programs, plugins }),
        _ => Err(missing),
    }
}

fn executable(path: &Path) -> Option<PathBuf> {
    use std::os::unix::fs::PermissionsExt as _;
    let file = path.metadata().ok()?;
    (file.is_file() && file.permissions().mode() & 0o111 != 0).then(|| path.to_owned())
}

/// The version of a kubelet, and the number that tells what it understands.
fn version_of(kubelet: &Path) -> Result<(String, u32), BinariesError> {
    let program = kubelet.display().to_string();
    let said = match Command::new(kubelet).arg("--version").output() {
        Ok(output) => String::from_utf8_lossy(&output.stdout).trim().to_owned(),
        Err(error) => return Err(BinariesError::Version { program, said: error.to_string() }),
    };
    let Some((version, minor)) = parse_version(&said) else {
        return Err(BinariesError::Version { program, said });
    };
    if minor < 20 {
        return Err(BinariesError::TooOld(version));
    }
    Ok((version, minor))
}

fn parse_version(said: &str) -> Option<(String, u32)> {
    let version = said.strip_prefix("Kubernetes ")?.split_whitespace().next()?;
    let minor = version.strip_prefix("v1.")?.split(['.', '+', '-']).next()?.parse().ok()?;
    Some((version.to_owned(), minor))
}

/// Asks for the capability itself: root in a container often lacks it, and the container runtime wants to
/// lower the score of every sandbox.
fn may_lower_oom_score() -> bool {
    const CAP_SYS_RESOURCE: u64 = 1 << 24;
    std::fs::read_to_string("/proc/self/status").is_ok_and(|status| {
        let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
        effective
            .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
            .is_some_and(|capabilities| capabilities & CAP_SYS_RESOURCE != 0)
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::components::Component;

    /// A folder with these programs, which do nothing.
    fn folder(programs: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder can be made");
        for program in programs {
            let path = folder.path().join(program);
            std::fs::write(&path, "#!/bin/sh\n").expect("it can be written");
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("it is ours");
        }
        folder
    }

    fn everything() -> Vec<&'static str> {
        let beside = BESIDE.iter().map(|(program, _)| *program);
        KUBERNETES.iter().copied().chain(beside).chain(PLUGINS.iter().copied()).collect()
    }

    fn of_version(folder: &Path, minor: u32, may_lower_oom_score: bool) -> Binaries {
        let Found { programs, plugins } = look(folder, "", &[]).expect("everything is there");
        let version = format!("v1.{minor}.0");
        Binaries { version, minor, programs, plugins, may_lower_oom_score, proxy_mode: ProxyMode::Iptables }
    }

    #[test]
    fn every_component_of_a_kubernetes_is_swapped() {
        let folder = folder(&everything());
        let components = of_version(folder.path(), 20, true).components().expect("a set");
        let swapped: Vec<Component> = components.swapped().map(|(component, _)| component).collect();
        // It is without cluster DNS and ingress controllers.
        let others = [Component::Dns, Component::Ingress];
        let wanted = Component::ALL.iter().copied().filter(|component| !others.contains(component));
        assert_eq!(swapped, wanted.collect::<Vec<_>>());
        let kubelet = components.replacement(Component::Kubelet).expect("a kubelet");
        assert!(kubelet.images.is_some() && kubelet.files["cni/10-stickler.conflist"].contains("{pod_cidr}"));
        toml::from_str::<toml::Table>(&kubelet.files["containerd.toml"]).expect("a configuration");
    }

    #[test]
    fn flags_follow_the_version() {
        let folder = folder(&everything());
        let text = |minor| of_version(folder.path(), minor, true).text();
        for (flag, minors) in [
            ("--insecure-port=0", 20..24),
            ("--container-runtime=remote", 20..27),
            ("failCgroupV1: false", 31..38),
        ] {
            for minor in 20..38 {
                assert_eq!(text(minor).contains(flag), minors.contains(&minor), "{flag} in 1.{minor}");
            }
        }
    }

    #[test]
    fn who_may_not_lower_the_oom_score_does_not_try() {
        let folder = folder(&everything());
        let configuration = |may| of_version(folder.path(), 20, may).containerd_configuration();
        assert!(configuration(false).contains("restrict_oom_score_adj = true"));
        assert!(configuration(true).contains("restrict_oom_score_adj = false"));
    }

    #[test]
    fn what_is_missing_is_told_at_once_with_its_package() {
        let folder = folder(&["kubelet", "kube-proxy", "kube-scheduler", "runc", "ctr", "mount", "iptables"]);
        let Err(missing) = look(folder.path(), "", &[]) else { panic!("much is missing") };
        let told = missing.told("DIR");
        assert!(
            told.starts_with("`--bin-dir DIR` lacks `kube-apiserver`, `kube-controller-manager`; "),
            "{told}"
        );
        for part in [
            "`etcd` is neither there nor in $PATH (Debian: etcd-server)",
            "`conntrack` is neither there nor in $PATH (Debian: conntrack)",
            "the CNI plugins `ptp`, `host-local`, `portmap`, `loopback` are neither there nor in /usr/lib/cni",
            "`apt-get install etcd-server containerd conntrack containernetworking-plugins` gets them",
        ] {
            assert!(told.contains(part), "{told}");
        }
    }

    #[test]
    fn the_directory_comes_before_the_path() {
        let (own, path) = (folder(&everything()), folder(&["etcd", "runc"]));
        let found = look(own.path(), &path.path().display().to_string(), &[]).expect("everything");
        assert!(found.programs["etcd"].starts_with(own.path()));
        std::fs::remove_file(own.path().join("etcd")).expect("it is there");
        let found = look(own.path(), &path.path().display().to_string(), &[]).expect("everything");
        assert!(found.programs["etcd"].starts_with(path.path()));
    }

    #[test]
    fn a_version_is_read_off_what_a_kubelet_says() {
        assert_eq!(parse_version("Kubernetes v1.20.2"), Some(("v1.20.2".to_owned(), 20)));
        assert_eq!(parse_version("Kubernetes v1.36.2+k3s1"), Some(("v1.36.2+k3s1".to_owned(), 36)));
        assert_eq!(parse_version("Kubernetes v2.0.0"), None);
        assert_eq!(parse_version("kubelet 1.20"), None);
    }

    #[test]
    fn a_directory_that_nodes_would_not_see_is_refused() {
        let refused = Binaries::find(Path::new("/var/lib"), ProxyMode::Iptables).map(drop);
        let told = refused.expect_err("it is hidden").to_string();
        assert!(told.contains("lies below `/var/lib`"), "{told}");
    }
}
