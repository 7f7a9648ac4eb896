//! External programs in enclosures: what they see, and how they end.

use std::collections::BTreeSet;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use stickler_testbed::external::{DIRECTORY, Enclosure, EnclosureSpec, External, Loss, Losses, Output, User};
use stickler_testbed::kubelet::Exit;
use stickler_testbed::namespace::NetNamespace;
use stickler_testbed::shared_objects;
use tempfile::TempDir;
use tokio::time::timeout;

use crate::applets::APPLETS;

type Outcome = anyhow::Result<()>;

/// An enclosure, and this test's program under other names beside it.
pub(crate) struct Bench {
    enclosure: Arc<Enclosure>,
    programs: TempDir,
    /// Are the programs in the root of the enclosure, as in an image?
    image: bool,
    losses: Losses,
    known: usize,
}

impl Bench {
    pub(crate) async fn new() -> anyhow::Result<Self> {
        Self::open(TempDir::with_prefix("stickler-programs-")?, None, None, &[]).await
    }

    /// The same, with a folder as the root that has the programs in `/bin`, and this environment.
    async fn of_image(
        image: TempDir,
        user: Option<User>,
        environment: &[(&str, &str)],
    ) -> anyhow::Result<Self> {
        let root = image.path().to_owned();
        let bin = root.join("bin");
        std::fs::create_dir_all(&bin)?;
        std::fs::copy(std::env::current_exe()?, bin.join("program"))?;
        for library in shared_objects() {
            let inside = root.join(library.strip_prefix("/")?);
            std::fs::create_dir_all(inside.parent().context("a library is in a folder")?)?;
            std::fs::copy(library, inside)?;
        }
        for applet in APPLETS {
            symlink("program", bin.join(applet))?;
        }
        Self::open(image, Some(root), user, environment).await
    }

    async fn open(
        programs: TempDir,
        root: Option<PathBuf>,
        user: Option<User>,
        environment: &[(&str, &str)],
    ) -> anyhow::Result<Self> {
        let image = root.is_some();
        let spec = EnclosureSpec {
            network: NetNamespace::new()?,
            root,
            user,
            environment: environment.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect(),
            hostname: "kube1.vm".to_owned(),
            private: vec!["/srv".into()],
            files: vec![(Path::new(DIRECTORY).join("conf/a"), "contents\n".to_owned())],
            hosts: "127.0.0.1 localhost\n192.0.2.7 kube1.vm\n".to_owned(),
            resolver: "nameserver 192.0.2.1\n".to_owned(),
            cgroups: None,
        };
        Ok(Self {
            enclosure: Arc::new(Enclosure::open(spec).await?),
            programs,
            image,
            losses: Losses::none(),
            known: 0,
        })
    }

    fn words(&self, name: &str, arguments: &[&str]) -> anyhow::Result<Vec<String>> {
        let path = match self.image {
            true => Path::new("/bin").join(name),
            false => self.programs.path().join(name),
        };
        if !self.image && !path.exists() {
            symlink(std::env::current_exe()?, &path)?;
        }
        let words = std::iter::once(path.display().to_string());
        Ok(words.chain(arguments.iter().map(|argument| (*argument).to_owned())).collect())
    }

    pub(crate) async fn start(&self, name: &str, arguments: &[&str]) -> anyhow::Result<External> {
        self.start_with(name, arguments, Output::default()).await
    }

    async fn start_with(&self, name: &str, arguments: &[&str], output: Output) -> anyhow::Result<External> {
        let (enclosure, title) = (Arc::clone(&self.enclosure), format!("{name} on kube1.vm"));
        Ok(External::start(enclosure, title, self.words(name, arguments)?, output, self.losses.clone())
            .await?)
    }

    async fn loss(&mut self) -> anyhow::Result<Loss> {
        let losses = timeout(Duration::from_secs(10), self.losses.more_than(self.known)).await;
        let losses = losses.context("nobody was lost within ten seconds")?;
        let loss = losses.get(self.known).context("there is no new loss")?.clone();
        self.known += 1;
        Ok(loss)
    }

    /// What a program prints.
    async fn said(&mut self, name: &str, arguments: &[&str]) -> anyhow::Result<Vec<String>> {
        let _program = self.start(name, arguments).await?;
        Ok(self.loss().await?.last_lines)
    }
}

pub(crate) async fn an_enclosure_is_a_machine_of_its_own() -> Outcome {
    let mut bench = Bench::new().await?;
    assert_eq!(bench.said("hostname", &[]).await?, ["kube1.vm"]);
    assert_eq!(bench.said("cat", &["/etc/resolv.conf"]).await?, ["nameserver 192.0.2.1"]);
    assert_eq!(bench.said("cat", &["/etc/hosts"]).await?[1], "192.0.2.7 kube1.vm");
    assert_eq!(bench.said("cat", &[&format!("{DIRECTORY}/conf/a")]).await?, ["contents"]);
    assert_eq!(bench.said("ls", &["/run"]).await?, ["stickler"]);
    assert!(bench.said("ls", &["/srv"]).await?.is_empty());
    let environment: BTreeSet<String> = bench.said("env", &[]).await?.into_iter().collect();
    assert!(environment.contains(&format!("TMPDIR={DIRECTORY}/tmp")), "{environment:?}");
    assert_eq!(environment.len(), 3, "{environment:?}");
    // The first process has number 1; ours are not there.
    let pid: u32 = bench.said("pid", &[]).await?.concat().parse()?;
    assert!((2..50).contains(&pid), "{pid}");
    // Its network's sysctls are its own to set.
    let forward = "/proc/sys/net/ipv4/ip_forward";
    assert_eq!(bench.said("cat", &[forward]).await?.len(), 1);
    assert!(bench.said("touch", &[forward]).await?.is_empty());
    Ok(())
}

pub(crate) async fn an_enclosure_writes_nothing_outside() -> Outcome {
    let mut bench = Bench::new().await?;
    let outside = bench.programs.path().join("written");
    let said = bench.said("touch", &[&outside.display().to_string()]).await?;
    assert!(said.concat().contains("Read-only file system"), "{said:?}");
    assert!(!outside.exists());
    for inside in ["/run/xtables.lock", "/srv/x", "/run/stickler/tmp/x"] {
        assert!(bench.said("touch", &[inside]).await?.is_empty(), "{inside} can be written");
    }
    assert!(!Path::new("/srv/x").exists() && !Path::new("/run/stickler").exists());
    Ok(())
}

pub(crate) async fn an_image_is_the_root_and_stays_as_it_is() -> Outcome {
    let image = TempDir::with_prefix("stickler-image-")?;
    std::fs::create_dir(image.path().join("etc"))?;
    std::fs::write(image.path().join("etc/release"), "the image's\n")?;
    let mut bench = Bench::of_image(image, None, &[("PATH", "/bin"), ("POD_NAME", "controller")]).await?;
    assert_eq!(bench.said("cat", &["/etc/release"]).await?, ["the image's"]);
    // What a machine has is there all the same, and nothing else of this one.
    assert_eq!(bench.said("hostname", &[]).await?, ["kube1.vm"]);
    assert_eq!(bench.said("cat", &["/etc/resolv.conf"]).await?, ["nameserver 192.0.2.1"]);
    assert_eq!(bench.said("cat", &["/etc/hosts"]).await?[1], "192.0.2.7 kube1.vm");
    assert_eq!(bench.said("cat", &[&format!("{DIRECTORY}/conf/a")]).await?, ["contents"]);
    assert!(bench.said("cat", &["/dev/null"]).await?.is_empty());
    let listed = bench.said("ls", &["/"]).await?.concat();
    let root: BTreeSet<String> = listed.split_whitespace().map(str::to_owned).collect();
    let wanted = ["bin", "dev", "etc", "proc", "run", "srv", "sys", "tmp"].map(str::to_owned);
    assert!(root.is_superset(&wanted.into()) && !root.contains("home"), "{root:?}");
    let environment: BTreeSet<String> = bench.said("env", &[]).await?.into_iter().collect();
    assert_eq!(environment, ["PATH=/bin", "POD_NAME=controller"].map(str::to_owned).into());
    // It can be written, and what is written is seen, and is not in the image.
    for path in ["/etc/release", "/etc/written", "/tmp/written"] {
        assert!(bench.said("touch", &[path]).await?.is_empty(), "{path} can be written");
    }
    assert!(bench.said("cat", &["/etc/release"]).await?.is_empty());
    let image = bench.programs.path();
    assert_eq!(std::fs::read_to_string(image.join("etc/release"))?, "the image's\n");
    for path in ["etc/written", "etc/hosts", "tmp", "run", "proc"] {
        assert!(!image.join(path).exists(), "{path} is in the image");
    }
    Ok(())
}

/// A user namespace with one user has no other: there is nobody to be.
pub(crate) async fn a_program_is_the_user_it_is_to_be() -> Outcome {
    let image = TempDir::with_prefix("stickler-image-")?;
    let user = Some(User { id: 101, group: 82 });
    let bench = Bench::of_image(image, user, &[]).await;
    if std::fs::read_to_string("/proc/self/uid_map")?.split_whitespace().last() == Some("1") {
        ensure!(bench.is_err(), "somebody is who there is not");
        return Ok(());
    }
    let mut bench = bench?;
    let id = ["Uid:\t101\t101\t101\t101", "Gid:\t82\t82\t82\t82", "Groups:", "CapEff:\t0000000000000000"];
    assert_eq!(bench.said("id", &[]).await?, id);
    // What it was given is its own, and so is what its output is called.
    assert_eq!(bench.said("cat", &[&format!("{DIRECTORY}/conf/a")]).await?, ["contents"]);
    assert!(bench.said("touch", &["/tmp/x"]).await?.is_empty());
    assert!(bench.said("touch", &["/dev/stdout"]).await?.is_empty());
    assert!(bench.said("touch", &["/etc/x"]).await?.concat().contains("Permission denied"));
    let port = "/proc/sys/net/ipv4/ip_unprivileged_port_start";
    assert_eq!(bench.said("cat", &[port]).await?, ["0"]);
    // It still ends with this process, and this process is still one that can be looked at.
    assert_eq!(std::fs::metadata("/proc/self/status")?.uid(), 0);
    Ok(())
}

pub(crate) async fn what_a_program_started_ends_with_it_where_that_was_asked_for() -> Outcome {
    let mut bench = Bench::new().await?;
    let child = bench.programs.path().join("sleep");
    let program = bench.start("fork", &[]).await?;
    shown(&child, 1).await?;
    program.stop().await;
    shown(&child, 1).await?;
    drop(program);
    let program = bench.start("fork", &[]).await?.ending_all();
    shown(&child, 2).await?;
    // Nobody inside can ask for it.
    assert!(bench.said("terminate", &["1"]).await?.is_empty());
    shown(&child, 2).await?;
    program.stop().await;
    shown(&child, 0).await?;
    program.resume().await?;
    shown(&child, 1).await?;
    Ok(())
}

pub(crate) async fn the_end_of_a_program_is_told_with_its_last_words() -> Outcome {
    let mut bench = Bench::new().await?;
    let file = bench.programs.path().join("logs/noise.log");
    let _noise = bench.start_with("noise", &[], Output::to_file(&file)?).await?;
    let loss = bench.loss().await?;
    assert_eq!((loss.title.as_str(), loss.exit), ("noise on kube1.vm", Exit::Code(0)));
    let said: BTreeSet<&str> = loss.last_lines.iter().map(String::as_str).collect();
    assert_eq!(said, BTreeSet::from(["err", "out"]));
    assert!(loss.to_string().ends_with(&format!("; all it said is in `{}`", file.display())), "{loss}");
    let kept = std::fs::read_to_string(&file)?;
    assert!(kept.contains("out\n") && kept.contains("err\n"), "{kept:?}");
    let _failing = bench.start("exit", &["3"]).await?;
    let told = bench.loss().await?.to_string();
    assert_eq!(told, "exit on kube1.vm ended by itself with exit status 3 and had said nothing");
    let missing = vec!["/no/such/program".to_owned()];
    let enclosure = Arc::clone(&bench.enclosure);
    let refused =
        External::start(enclosure, "it".to_owned(), missing, Output::default(), bench.losses.clone()).await;
    assert_eq!(refused.err().map(|why| why.to_string()).as_deref(), Some("`/no/such/program` is not found"));
    Ok(())
}

pub(crate) async fn a_program_that_is_stopped_is_not_lost_and_starts_again() -> Outcome {
    let mut bench = Bench::new().await?;
    let program = bench.start("stubborn", &[]).await?;
    assert!(program.is_running().await);
    program.stop().await;
    program.stop().await;
    assert!(!program.is_running().await);
    assert!(bench.said("touch", &["/run/stickler/left"]).await?.is_empty());
    program.resume().await?;
    program.resume().await?;
    assert!(program.is_running().await);
    // What was left is still there, and the only ones that ended are those that were asked to.
    let left = bench.said("ls", &["/run/stickler"]).await?.concat();
    assert!(left.contains("left"), "{left}");
    let titles: Vec<String> = bench.losses.more_than(1).await.into_iter().map(|loss| loss.title).collect();
    assert_eq!(titles, ["touch on kube1.vm", "ls on kube1.vm"]);
    Ok(())
}

pub(crate) async fn nothing_survives_an_enclosure() -> Outcome {
    let bench = Bench::new().await?;
    let mut programs = Vec::new();
    for _ in 0..3 {
        programs.push(bench.start("sleep", &[]).await?);
    }
    let enclosure = Arc::downgrade(&bench.enclosure);
    let name = bench.programs.path().join("sleep");
    shown(&name, 3).await?;
    drop(programs);
    drop(bench);
    assert!(enclosure.upgrade().is_none());
    assert!(processes(&name).is_empty(), "processes are left");
    Ok(())
}

/// The processes that were started under a name, when there are this many.
///
/// The kernel shows the command line of a process only some time after its start is known to have
/// succeeded: an exec closes files before it lays out the arguments.
async fn shown(name: &Path, wanted: usize) -> anyhow::Result<Vec<u32>> {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let shown = processes(name);
        if shown.len() == wanted {
            return Ok(shown);
        }
        let name = name.display();
        anyhow::ensure!(Instant::now() < deadline, "{wanted} processes `{name}` were started, {shown:?} run");
        tokio::task::yield_now().await;
    }
}

/// The processes that were started under a name.
fn processes(name: &Path) -> Vec<u32> {
    let wanted = [name.as_os_str().as_encoded_bytes(), b"\0"].concat();
    let all = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid: &u32| {
        std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.starts_with(&wanted))
    })
    .collect()
}

/// A program and its enclosure, for the process that is to be killed: its id.
pub(crate) async fn start_sleeper() -> anyhow::Result<(Bench, External, u32)> {
    let bench = Bench::new().await?;
    let sleeper = bench.start("sleep", &[]).await?;
    let pids = shown(&bench.programs.path().join("sleep"), 1).await?;
    Ok((bench, sleeper, pids[0]))
}
