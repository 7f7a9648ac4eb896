//! `BROKEN.md`: each deed that it tells how to do by hand is done, as it is written there, on a cluster
//! that runs, and the checks say what it predicts.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use futures::future::join_all;
use libtest_mimic::{Completion, Failed, Trial};
use stickler::providers::{TestbedProvider, bugs_named};
use stickler::{Check, Ending, Verdict};
use tokio::runtime::Runtime;
use tokio::time::timeout;

use super::Bed;

/// What stands above the columns of every table.
const COLUMNS: [&str; 3] = ["check", "then", "it says"];

/// The programs that deeds are done with.
const PROGRAMS: [&str; 4] = ["ip", "kubectl", "nft", "nsenter"];

/// The most a command may take to do what it does, on a busy machine.
const DONE: Duration = Duration::from_secs(60);

/// The most a cluster may take to be whole again, with all checks that look.
const MENDED: Duration = Duration::from_secs(60);

/// Every deed has a cluster that performs many checks at once: two would slow each other down.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// One section: what is done to which cluster, and what the checks say then.
struct Deed {
    title: String,
    /// The bugs the cluster is started with.
    bugs: Vec<String>,
    commands: Vec<String>,
    predictions: Vec<Prediction>,
}

struct Prediction {
    check: &'static Check,
    verdict: Verdict,
    /// What stands between backticks in what is said.
    words: Vec<String>,
}

pub(super) fn trials() -> Vec<Trial> {
    let deeds = match deeds() {
        Ok(deeds) => deeds,
        Err(error) => {
            let failed = move || Err(Failed::from(format!("BROKEN.md: {error:#}")));
            return vec![Trial::test("broken/by-hand", failed)];
        }
    };
    let trial = |deed: Deed| {
        let name = deed.title.to_lowercase().replace(' ', "-");
        Trial::ignorable_test(format!("broken/{name}"), move || {
            if let Some(missing) = deed.missing() {
                return Ok(Completion::ignored_with(format!("there is no {missing} on PATH")));
            }
            let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
            let done = Runtime::new()?.block_on(deed.perform());
            done.map(|()| Completion::Completed).map_err(|error| Failed::from(format!("{error:#}")))
        })
    };
    deeds.into_iter().map(trial).collect()
}

impl Deed {
    /// A program that it needs and this machine does not have.
    fn missing(&self) -> Option<&'static str> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let is_there =
            |program: &str| std::env::split_paths(&path).any(|folder| folder.join(program).is_file());
        let mentions = |program: &str| {
            let words = |command: &String| command.split_whitespace().any(|word| word == program);
            self.commands.iter().any(words) || (program == "nsenter" && self.enters())
        };
        PROGRAMS.into_iter().find(|program| mentions(program) && !is_there(program))
    }

    fn enters(&self) -> bool {
        self.commands.iter().any(|command| command.contains("$KUBE") || command.contains("$LAN"))
    }

    async fn perform(&self) -> anyhow::Result<()> {
        let provider = TestbedProvider::enter(3, 0, bugs_named(&self.bugs)?)?;
        let bed = Bed::of(provider).await?;
        let session = bed.open().await?;
        let mut lasting = Vec::new();
        for command in &self.commands {
            lasting.extend(self.type_in(&bed, command).await.with_context(|| command.clone())?);
        }
        let performing = self.predictions.iter().map(|predicted| session.perform(predicted.check));
        let endings = join_all(performing).await;
        self.compare(&endings)?;
        if lasting.is_empty() {
            return Ok(());
        }
        // What lasted until somebody ended it is over now, and the cluster is whole again.
        for command in lasting {
            command.end()?;
        }
        let begun = Instant::now();
        // An agent that was given up stays so.
        session.give_back().await;
        let session = bed.open().await?;
        let mut broken: Vec<&'static Check> = self.predictions.iter().map(|one| one.check).collect();
        loop {
            let endings = join_all(broken.iter().map(|check| session.perform(check))).await;
            let pairs = broken.iter().copied().zip(endings);
            let still: Vec<_> = pairs.filter(|(_, ending)| ending.verdict != Verdict::Passed).collect();
            let Some((first, ending)) = still.first() else { return Ok(()) };
            let took = begun.elapsed();
            ensure!(took < MENDED, "`{}` {took:?} after it had ended: {}", first.id, said(ending));
            broken = still.into_iter().map(|(check, _)| check).collect();
        }
    }

    /// Types a command in, as a person would, and waits until it has done what it does: it ends, or tells
    /// something and lasts.
    async fn type_in(&self, bed: &Bed, command: &str) -> anyhow::Result<Option<Lasting>> {
        let terminal = bed.cluster.terminal().context("a testbed has machines")?;
        let kubeconfig = bed.folder.path().join("kubeconfig");
        std::fs::write(&kubeconfig, terminal.kubeconfig())?;
        let mut shell = Command::new("sh");
        shell.args(["-c", command]).env("KUBECONFIG", kubeconfig);
        for (machine, door) in terminal.doors() {
            let variable = machine.split('.').next().unwrap_or_default().to_uppercase();
            shell.env(variable, door);
        }
        let mut child = shell.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let output = child.stdout.take().context("it has an output")?;
        let first = tokio::task::spawn_blocking(move || {
            let mut output = BufReader::new(output);
            let mut line = String::new();
            output.read_line(&mut line).map(|_| (line, output))
        });
        let (line, mut output) = timeout(DONE, first).await.context("it does not tell anything")???;
        if command.contains("cat") {
            ensure!(!line.is_empty(), "it did not last: {}", last_words(child)?);
            // Whoever lasts may have more to tell, and is not to wait for anybody to listen.
            std::thread::spawn(move || std::io::copy(&mut output, &mut std::io::sink()));
            return Ok(Some(Lasting(child)));
        }
        let ended = tokio::task::spawn_blocking(move || {
            output.read_to_string(&mut String::new())?;
            last_words(child)
        });
        let words = timeout(DONE, ended).await.context("it does not end")???;
        ensure!(words.is_empty(), "{words}");
        Ok(None)
    }

    fn compare(&self, endings: &[Ending]) -> anyhow::Result<()> {
        let mut otherwise = Vec::new();
        for (predicted, ending) in self.predictions.iter().zip(endings) {
            let said = said(ending);
            let as_predicted = ending.verdict == predicted.verdict
                && predicted.words.iter().all(|word| said.contains(word.as_str()));
            if !as_predicted {
                let id = predicted.check.id;
                otherwise.push(format!("`{id}` was {:?}, and said: {said}", ending.verdict));
            }
        }
        ensure!(otherwise.is_empty(), "BROKEN.md predicts something else:\n{}", otherwise.join("\n"));
        Ok(())
    }
}

/// How a command that ended went wrong; nothing if it did not.
fn last_words(mut child: Child) -> anyhow::Result<String> {
    drop(child.stdin.take());
    let mut words = String::new();
    child.stderr.take().context("it has an error output")?.read_to_string(&mut words)?;
    let status = child.wait()?;
    Ok(if status.success() { String::new() } else { format!("it ended with {status}: {words}") })
}

/// A command that lasts until its input ends.
struct Lasting(Child);

impl Lasting {
    fn end(self) -> anyhow::Result<()> {
        let words = last_words(self.0)?;
        ensure!(words.is_empty(), "{words}");
        Ok(())
    }
}

fn said(ending: &Ending) -> String {
    match &ending.finding {
        Some(finding) => format!("{}; {}", finding.promised, finding.observed),
        None => ending.reason.clone().unwrap_or_default(),
    }
}

/// Every section of the file.
fn deeds() -> anyhow::Result<Vec<Deed>> {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/BROKEN.md"))?;
    let deeds: Vec<Deed> = text
        .split("\n## ")
        .skip(1)
        .map(|section| {
            let (title, rest) = section.split_once('\n').context("a section is more than its heading")?;
            read(title, rest).with_context(|| format!("section \"{title}\""))
        })
        .collect::<Result<_, _>>()?;
    ensure!(!deeds.is_empty(), "it has no sections");
    Ok(deeds)
}

fn read(title: &str, section: &str) -> anyhow::Result<Deed> {
    let typed: Vec<&str> = section.lines().filter_map(|line| line.strip_prefix("$ ")).collect();
    let [up, commands @ ..] = typed.as_slice() else { bail!("it says nothing to type") };
    let up = up.strip_prefix("stickler up").context("the first thing to type is `stickler up`")?;
    let up: Vec<&str> = up.split_whitespace().filter(|word| *word != "&").collect();
    let bugs = up
        .chunks(2)
        .map(|flag| match flag {
            ["--bug", name] => Ok((*name).to_owned()),
            other => bail!("`{}` is no flag this test knows", other.join(" ")),
        })
        .collect::<Result<_, _>>()?;
    let mut rows = section.lines().filter(|line| line.starts_with('|')).map(cells);
    ensure!(rows.next().is_some_and(|columns| columns == COLUMNS), "its columns are {COLUMNS:?}");
    let predictions: Vec<Prediction> = rows.skip(1).map(|row| predict(&row)).collect::<Result<_, _>>()?;
    let is = |verdict| predictions.iter().any(|predicted| predicted.verdict == verdict);
    ensure!(is(Verdict::Passed), "it names no check that holds all the same");
    ensure!(is(Verdict::Failed) || is(Verdict::Inconclusive), "it names no check that is broken");
    let commands = commands.iter().map(|command| (*command).to_owned()).collect();
    Ok(Deed { title: title.to_owned(), bugs, commands, predictions })
}

/// What stands between the strokes of a row.
fn cells(line: &str) -> Vec<&str> {
    line.trim_matches('|').split('|').map(str::trim).collect()
}

fn predict(row: &[&str]) -> anyhow::Result<Prediction> {
    let [id, then, says] = row else { bail!("{row:?} is not three cells") };
    let id = id.trim_matches('`');
    let check = stickler_suites::all().find(|check| check.id == id);
    let verdict = match *then {
        "broken" => Verdict::Failed,
        "could not tell" => Verdict::Inconclusive,
        "holds" => Verdict::Passed,
        other => bail!("`{other}` is no word for what becomes of `{id}`"),
    };
    let words: Vec<String> = says.split('`').skip(1).step_by(2).map(str::to_owned).collect();
    ensure!(words.is_empty() == (verdict == Verdict::Passed), "what `{id}` says is not between backticks");
    Ok(Prediction { check: check.with_context(|| format!("there is no check `{id}`"))?, verdict, words })
}
