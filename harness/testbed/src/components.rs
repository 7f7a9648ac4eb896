//! The components of a cluster that can be swapped: each may be replaced by an external command, or
//! left out.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Range;
use std::path::{Component as Part, Path, PathBuf};

use serde::Deserialize;
use thiserror::Error;

use crate::external::{CommandError, CommandLine, User, Values};

/// A part of the cluster that can be swapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Component {
    /// The API server, on the first node.
    ApiServer,
    /// The controllers, on the first node.
    Controllers,
    /// The scheduler, on the first node.
    Scheduler,
    /// What runs the pods of a node, with its container runtime; one on each.
    Kubelet,
    /// What makes services work on a node; one on each.
    Proxy,
    /// Cluster DNS: the program in the pods of the Deployment `kube-dns`.
    Dns,
    /// An ingress controller, on the last node, as one in a pod with the node's network would be. The
    /// testbed itself has none: runs deploy ours.
    Ingress,
}

impl Component {
    /// Every component, in the order they start.
    pub const ALL: &'static [Self] = &[
        Self::ApiServer,
        Self::Controllers,
        Self::Scheduler,
        Self::Kubelet,
        Self::Proxy,
        Self::Dns,
        Self::Ingress,
    ];

    /// Its name on command lines and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::ApiServer => "apiserver",
            Self::Controllers => "controllers",
            Self::Scheduler => "scheduler",
            Self::Kubelet => "kubelet",
            Self::Proxy => "proxy",
            Self::Dns => "dns",
            Self::Ingress => "ingress",
        }
    }

    /// The component of that name.
    ///
    /// # Errors
    /// With all names, if there is none.
    pub fn of_name(name: &str) -> Result<Self, ComponentError> {
        let found = Self::ALL.iter().find(|component| component.name() == name);
        found.copied().ok_or_else(|| {
            let known: Vec<&str> = Self::ALL.iter().map(|component| component.name()).collect();
            ComponentError::Unknown { name: name.to_owned(), known: known.join(", ") }
        })
    }
}

impl fmt::Display for Component {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why components cannot be swapped like that.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ComponentError {
    #[error("there is no component `{name}` that can be swapped; there are: {known}")]
    Unknown { name: String, known: String },
    #[error("component `{0}` is given twice")]
    Twice(Component),
    #[error("a cluster without an API server is none; replace it with `--with apiserver=COMMAND`")]
    NoApiServer,
    #[error("a node without a kubelet is none; replace it with a file of components")]
    NoKubelet,
    #[error(
        "component `kubelet` has no images: containers need a command `images` that reads an archive of \
         images from its standard input, as `ctr images import -` does"
    )]
    NoImages,
    #[error("component `{0}` makes no containers, and needs no images")]
    Images(Component),
    #[error("component `{component}`: {problem}")]
    Command { component: Component, problem: CommandError },
    #[error("component `{component}`: `{path}` is no path of a file below `{{dir}}`")]
    File { component: Component, path: String },
    #[error("component `{component}`: `{{{placeholder}}}` stands for nothing there")]
    Placeholder { component: Component, placeholder: &'static str },
    #[error("component `{component}` starts no programs beside its own: it runs in pods")]
    Beside { component: Component },
    #[error("component `{component}` has no `{field}`: it runs in pods")]
    InPods { component: Component, field: &'static str },
    #[error("component `{component}`: there is no folder `{path}` to be its root")]
    Root { component: Component, path: String },
    #[error("component `{0}` serves no Ingresses, so no class names it with `controller`")]
    Controller(Component),
    #[error(
        "the testbed has no ingress controller; to judge none, skip the checks that deploy one with \
         `--without-feature ingress`"
    )]
    NoIngress,
    #[error("line {line}: {message}")]
    Toml { line: usize, message: String },
}

/// What stands in for a component.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replacement {
    /// The program that is the component.
    pub command: CommandLine,
    /// Programs it needs beside it, started before it and left alone when it is stopped.
    pub beside: Vec<CommandLine>,
    /// Of a kubelet: what reads an archive of images from its standard input. It is run once `beside` was
    /// started, again until it succeeds, and the component after it.
    pub images: Option<CommandLine>,
    /// Files in its `{dir}`: relative path and contents, whose placeholders are filled in too.
    pub files: BTreeMap<String, String>,
    /// The folder that is `/` for it and what is beside it: the file system of an image. What they write
    /// there is in memory, and the folder stays as it is.
    pub root: Option<PathBuf>,
    /// Who they are, if not root.
    pub user: Option<User>,
    /// More variables of their environment; placeholders are filled in here too.
    pub environment: BTreeMap<String, String>,
    /// Of an ingress controller: the `spec.controller` it looks for in IngressClasses.
    pub controller: Option<String>,
}

/// Which components are not the testbed's own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Components {
    swapped: BTreeMap<Component, Replacement>,
    left_out: BTreeSet<Component>,
}

impl Components {
    /// Lets a command stand in for a component.
    ///
    /// # Errors
    /// If something else was said about the component, or the command line cannot be used.
    pub fn swap(&mut self, component: Component, command: &str) -> Result<(), ComponentError> {
        self.wish(component, Wish { command: command.to_owned(), ..Wish::default() })
    }

    /// Leaves a component out.
    ///
    /// # Errors
    /// If something else was said about it, or nothing works without it.
    pub fn leave_out(&mut self, component: Component) -> Result<(), ComponentError> {
        if component == Component::ApiServer {
            return Err(ComponentError::NoApiServer);
        }
        if component == Component::Kubelet {
            return Err(ComponentError::NoKubelet);
        }
        if component == Component::Ingress {
            return Err(ComponentError::NoIngress);
        }
        self.is_new(component)?;
        self.left_out.insert(component);
        Ok(())
    }

    /// Adds what a file in TOML says: a table per component, with `command`, and if need be with
    /// `beside`, a list of commands, `images`, a command, `root`, a folder, `user`, two numbers,
    /// `controller`, a name, and the tables `files` and `environment`.
    ///
    /// # Errors
    /// What is wrong with it, and in which line as far as that is known.
    pub fn read(&mut self, text: &str) -> Result<(), ComponentError> {
        let wishes: BTreeMap<String, Wish> = toml::from_str(text).map_err(|error| ComponentError::Toml {
            line: line_of(text, error.span()),
            message: error.message().to_owned(),
        })?;
        for (name, wish) in wishes {
            self.wish(Component::of_name(&name)?, wish)?;
        }
        Ok(())
    }

    /// What stands in for a component, if anything does.
    pub fn replacement(&self, component: Component) -> Option<&Replacement> {
        self.swapped.get(&component)
    }

    /// Is it the testbed's own?
    pub fn is_own(&self, component: Component) -> bool {
        !self.swapped.contains_key(&component) && !self.left_out.contains(&component)
    }

    /// The components that are left out.
    pub fn left_out(&self) -> impl Iterator<Item = Component> {
        self.left_out.iter().copied()
    }

    /// The components that something stands in for.
    pub fn swapped(&self) -> impl Iterator<Item = (Component, &Replacement)> {
        self.swapped.iter().map(|(component, replacement)| (*component, replacement))
    }

    /// Who is asked needs no identity to ask with, a pod learns from its environment where it is, and only
    /// an ingress controller has a class.
    fn meaningless(component: Component) -> Vec<&'static str> {
        let here: &[&str] = match component {
            Component::ApiServer => &["kubeconfig"],
            Component::Dns => &["kubeconfig", "node", "node_ip", "pod_cidr"],
            Component::Kubelet | Component::Controllers | Component::Scheduler | Component::Proxy => &[],
            Component::Ingress => return Vec::new(),
        };
        here.iter().chain(OF_INGRESS).copied().collect()
    }

    fn is_new(&self, component: Component) -> Result<(), ComponentError> {
        match self.is_own(component) {
            true => Ok(()),
            false => Err(ComponentError::Twice(component)),
        }
    }

    fn wish(&mut self, component: Component, wish: Wish) -> Result<(), ComponentError> {
        self.is_new(component)?;
        if component == Component::Dns && !wish.beside.is_empty() {
            return Err(ComponentError::Beside { component });
        }
        match (component, &wish.images) {
            (Component::Kubelet, None) => return Err(ComponentError::NoImages),
            (Component::Kubelet, Some(_)) | (_, None) => {}
            (other, Some(_)) => return Err(ComponentError::Images(other)),
        }
        if component == Component::Dns {
            let given = [
                ("root", wish.root.is_some()),
                ("user", wish.user.is_some()),
                ("environment", !wish.environment.is_empty()),
            ];
            if let Some((field, _)) = given.into_iter().find(|(_, given)| *given) {
                return Err(ComponentError::InPods { component, field });
            }
        }
        if component != Component::Ingress && wish.controller.is_some() {
            return Err(ComponentError::Controller(component));
        }
        let root = wish.root.as_ref().map(|path| match std::path::absolute(path) {
            Ok(root) if root.is_dir() => Ok(root),
            _ => Err(ComponentError::Root { component, path: path.display().to_string() }),
        });
        let root = root.transpose()?;
        let refused = |problem| ComponentError::Command { component, problem };
        let parse = |text: &String| {
            let parsed = match &root {
                Some(root) => CommandLine::parse_below(text, root),
                None => CommandLine::parse(text),
            };
            parsed.map_err(refused)
        };
        let values: Vec<String> = wish.environment.values().cloned().collect();
        Values::check(&values).map_err(refused)?;
        let misplaced = |path: &&String| {
            let mut parts = Path::new(path).components();
            path.is_empty() || !parts.all(|part| matches!(part, Part::Normal(_)))
        };
        if let Some(path) = wish.files.keys().find(misplaced) {
            return Err(ComponentError::File { component, path: path.clone() });
        }
        let replacement = Replacement {
            command: parse(&wish.command)?,
            beside: wish.beside.iter().map(parse).collect::<Result<_, _>>()?,
            images: wish.images.as_ref().map(parse).transpose()?,
            files: wish.files,
            environment: wish.environment,
            user: wish.user,
            controller: wish.controller,
            root,
        };
        let commands = std::iter::once(&replacement.command).chain(&replacement.beside);
        let commands = commands.chain(&replacement.images);
        let meaningless = Self::meaningless(component);
        let mut mentioned = commands.filter_map(|command| command.mentions(&meaningless));
        if let Some(placeholder) = mentioned.next().or_else(|| Values::mentioned(&values, &meaningless)) {
            return Err(ComponentError::Placeholder { component, placeholder });
        }
        self.swapped.insert(component, replacement);
        Ok(())
    }
}

/// A table of a file.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wish {
    command: String,
    #[serde(default)]
    beside: Vec<String>,
    images: Option<String>,
    #[serde(default)]
    files: BTreeMap<String, String>,
    root: Option<PathBuf>,
    user: Option<User>,
    #[serde(default)]
    environment: BTreeMap<String, String>,
    controller: Option<String>,
}

/// What an ingress controller is told beside what everybody is.
const OF_INGRESS: &[&str] = &["namespace", "pod", "service", "class", "controller"];

/// The line a mistake is in, from 1.
fn line_of(text: &str, span: Option<Range<usize>>) -> usize {
    let start = span.map_or(0, |span| span.start);
    text.get(..start).unwrap_or(text).matches('\n').count() + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Components, String> {
        let mut components = Components::default();
        components.read(text).map(|()| components).map_err(|error| error.to_string())
    }

    #[test]
    fn a_file_has_a_table_per_component() {
        let text = "
            [proxy]
            command = '''
              sh   # a comment is for people
                --kubeconfig={kubeconfig}
            '''
            [apiserver]
            command = 'sh --etcd'
            beside = ['sh --data-dir={dir}/etcd']
            [apiserver.files]
            'conf/audit.yaml' = 'kind: Policy'
        ";
        let components = read(text).expect("a set");
        let proxy = components.replacement(Component::Proxy).expect("a proxy");
        let values = Values::default().with("kubeconfig", "/k");
        assert_eq!(proxy.command.words(&values)[1..], ["--kubeconfig=/k"]);
        let apiserver = components.replacement(Component::ApiServer).expect("an API server");
        assert_eq!(
            (apiserver.beside.len(), apiserver.files["conf/audit.yaml"].as_str()),
            (1, "kind: Policy")
        );
        assert!(components.is_own(Component::Dns) && !components.is_own(Component::Proxy));
    }

    #[test]
    fn a_mistake_in_a_file_is_named_with_its_line() {
        let why = |text: &str| read(text).expect_err("a mistake");
        assert_eq!(
            why("[kube-proxy]\ncommand = 'sh'"),
            "there is no component `kube-proxy` that can be swapped; there are: apiserver, controllers, scheduler, \
             kubelet, proxy, dns, ingress"
        );
        assert_eq!(
            why("[proxy]\n\ncommand = sh"),
            "line 3: string values must be quoted, expected literal string"
        );
        assert!(why("[proxy]\ncommand = 'sh'\nfile = 3").starts_with("line 3: unknown field `file`"));
        assert!(why("[proxy]\nbeside = []").contains("missing field `command`"));
        assert!(
            why("[proxy]\ncommand = 'sh \"x'").starts_with("component `proxy`: `sh \"x` is no command line")
        );
        assert_eq!(
            why("[proxy]\ncommand = 'sh'\nfiles = {'../x' = ''}"),
            "component `proxy`: `../x` is no path of a file below `{dir}`"
        );
        assert_eq!(why("[dns]\ncommand = 'sh {node}'"), "component `dns`: `{node}` stands for nothing there");
        assert_eq!(
            why("[dns]\ncommand = 'sh'\nbeside = ['sh']"),
            "component `dns` starts no programs beside its own: it runs in pods"
        );
    }

    #[test]
    fn an_image_is_a_folder_and_its_program_a_path_in_there() {
        let image = tempfile::tempdir().expect("a folder can be made");
        std::fs::write(image.path().join("controller"), "").expect("it can be written");
        let root = image.path().display();
        let components = read(&format!(
            "[ingress]\nroot = '{root}'\ncommand = '/controller --class={{class}}'\ncontroller = 'example.com/it'\n\
             environment = {{ POD_NAME = '{{pod}}' }}"
        ));
        let ingress =
            components.expect("a set").replacement(Component::Ingress).expect("a controller").clone();
        assert_eq!(ingress.command.program(), Path::new("/controller"));
        assert_eq!(ingress.root.as_deref(), Some(image.path()));
        assert_eq!((ingress.controller.as_deref(), ingress.environment.len()), (Some("example.com/it"), 1));
        let why = |text: &str| read(text).expect_err("a mistake");
        assert_eq!(
            why(&format!("[ingress]\nroot = '{root}'\ncommand = 'controller'")),
            "component `ingress`: `controller` is no path: a program of an image is named by where it is there, as \
             `/bin/sh`"
        );
        assert_eq!(
            why(&format!("[proxy]\nroot = '{root}'\ncommand = '/bin/sh'")),
            format!("component `proxy`: there is no program at `{root}/bin/sh`")
        );
        assert_eq!(
            why("[proxy]\nroot = '/no/such/folder'\ncommand = '/bin/sh'"),
            "component `proxy`: there is no folder `/no/such/folder` to be its root"
        );
        assert_eq!(
            why("[dns]\ncommand = 'sh'\nenvironment = { A = 'b' }"),
            "component `dns` has no `environment`: it runs in pods"
        );
    }

    #[test]
    fn only_an_ingress_controller_has_a_class() {
        let why = |text: &str| read(text).expect_err("a mistake");
        assert_eq!(
            why("[proxy]\ncommand = 'sh {class}'"),
            "component `proxy`: `{class}` stands for nothing there"
        );
        assert_eq!(
            why("[proxy]\ncommand = 'sh'\nenvironment = { POD_NAME = '{pod}' }"),
            "component `proxy`: `{pod}` stands for nothing there"
        );
        assert_eq!(
            why("[proxy]\ncommand = 'sh'\ncontroller = 'example.com/it'"),
            "component `proxy` serves no Ingresses, so no class names it with `controller`"
        );
        assert!(why("[ingress]\ncommand = 'sh'\nenvironment = { A = '{nothing}' }").contains("`{nothing}`"));
        let left_out = Components::default().leave_out(Component::Ingress);
        assert_eq!(left_out, Err(ComponentError::NoIngress));
    }

    #[test]
    fn the_examples_can_be_read() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/components");
        let mut found = 0;
        for file in std::fs::read_dir(folder).expect("there are examples").flatten() {
            let (name, text) = (file.path().display().to_string(), std::fs::read_to_string(file.path()));
            let wishes: BTreeMap<String, Wish> = toml::from_str(&text.expect("text")).expect(&name);
            for (component, wish) in wishes {
                Component::of_name(&component).expect(&name);
                for command in std::iter::once(&wish.command).chain(&wish.beside) {
                    let line = CommandLine::split(command).expect(&name);
                    // No comment became words, and no words a comment.
                    let lines = command.lines().map(str::trim);
                    let words = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
                    assert_eq!(
                        line.words(&Values::default()),
                        words.flat_map(str::split_whitespace).collect::<Vec<_>>()
                    );
                }
            }
            found += 1;
        }
        assert!(found >= 5, "{found}");
    }

    #[test]
    fn each_component_is_spoken_of_once() {
        let mut components = read("[proxy]\ncommand = 'sh'").expect("a set");
        assert_eq!(components.swap(Component::Proxy, "sh"), Err(ComponentError::Twice(Component::Proxy)));
        assert_eq!(components.leave_out(Component::Proxy), Err(ComponentError::Twice(Component::Proxy)));
        assert_eq!(components.leave_out(Component::ApiServer), Err(ComponentError::NoApiServer));
        components.leave_out(Component::Dns).expect("it may be left out");
        assert_eq!(components.left_out().collect::<Vec<_>>(), [Component::Dns]);
        assert!(components.replacement(Component::Dns).is_none() && !components.is_own(Component::Dns));
    }
}
