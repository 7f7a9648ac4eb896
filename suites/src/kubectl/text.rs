//! The text: a Markdown file in which every `console` block is a conversation with a shell.

use std::borrow::Cow;

use anyhow::{Context as _, bail, ensure};

use super::NAMESPACE;
use super::output::Output;
use super::pattern::Pattern;

/// A part of the text that begins with an empty cluster.
#[derive(Debug, Default)]
pub struct Chapter {
    pub title: String,
    /// Where it is to be played.
    pub namespace: String,
    pub(crate) steps: Vec<Step>,
}

/// A command and what is expected of it.
#[derive(Debug)]
pub(crate) struct Step {
    /// Where it stands in the text, from 1.
    pub(crate) line: usize,
    pub(crate) place: Place,
    pub(crate) command: Vec<Pattern>,
    /// As it stands in the text.
    pub(crate) typed: String,
    pub(crate) expected: Output,
    /// As it stands in the text.
    pub(crate) printed: String,
    pub(crate) exit: i32,
    /// It is given again until the output is the expected one.
    pub(crate) repeated: bool,
    /// What is changed in the editor the command opens.
    pub(crate) edit: Option<String>,
}

/// Where a command is given.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Place {
    /// Where kubectl is.
    Desk,
    /// On a node of the cluster.
    Node(String),
    /// On a machine of the LAN that is no part of the cluster.
    Outside,
}

/// A manifest as the text shows it.
#[derive(Debug, PartialEq)]
pub(crate) struct Manifest {
    pub(crate) file: String,
    pub(crate) text: String,
}

/// The whole text.
#[derive(Debug, Default)]
pub(crate) struct Text {
    pub(crate) chapters: Vec<Chapter>,
    pub(crate) manifests: Vec<Manifest>,
}

impl Text {
    /// Reads the text as it is for one minor version of kubectl, and in one namespace.
    pub(crate) fn parse(text: &str, kubectl: u32, namespace: &str) -> anyhow::Result<Self> {
        let mut parsed = Self::default();
        let mut edit = None;
        let mut lines = text.lines().enumerate();
        while let Some((index, line)) = lines.next() {
            if let Some(title) = line.strip_prefix("## ") {
                let namespace = namespace.to_owned();
                parsed.chapters.push(Chapter { title: title.to_owned(), namespace, steps: Vec::new() });
            }
            let Some(info) = line.strip_prefix("```") else { continue };
            let mut block = Vec::new();
            loop {
                let (_, line) =
                    lines.next().with_context(|| format!("line {}: the block has no end", index + 1))?;
                if line == "```" {
                    break;
                }
                block.push(line);
            }
            let whole = || block.iter().map(|line| format!("{line}\n")).collect::<String>();
            match info.split_once(' ').unwrap_or((info, "")) {
                ("yaml", file) if !file.is_empty() => {
                    parsed.manifests.push(Manifest { file: file.to_owned(), text: whole() });
                }
                ("diff", "") => edit = Some(whole()),
                ("console", "") => {
                    let chapter = parsed.chapters.last_mut();
                    let chapter = chapter.with_context(|| format!("line {}: in no chapter", index + 1))?;
                    let block: Vec<_> = block.iter().map(|line| moved(line, namespace)).collect();
                    let block: Vec<&str> = block.iter().map(AsRef::as_ref).collect();
                    // The block's first line is the one after its opening.
                    conversation(&block, index + 2, kubectl, namespace, &mut edit, &mut chapter.steps)?;
                }
                _ => bail!("line {}: a block is `console`, `diff`, or `yaml FILE`, not `{info}`", index + 1),
            }
        }
        ensure!(edit.is_none(), "something is changed in an editor that no command opens");
        Ok(parsed)
    }

    /// The manifests the text shows.
    pub(crate) fn files(text: &str) -> anyhow::Result<Vec<Manifest>> {
        Ok(Self::parse(text, u32::MAX, NAMESPACE)?.manifests)
    }
}

/// A line as it is in another namespace than the one the text is written for.
fn moved<'a>(line: &'a str, namespace: &str) -> Cow<'a, str> {
    if namespace == NAMESPACE {
        return Cow::Borrowed(line);
    }
    let is_part_of_word = |c: char| c.is_alphanumeric() || c == '-' || c == '_';
    let mut moved = String::new();
    let mut rest = line;
    while let Some(at) = rest.find(NAMESPACE) {
        let (before, after) = (&rest[..at], &rest[at + NAMESPACE.len()..]);
        let stands_alone = !before.ends_with(is_part_of_word) && !after.starts_with(is_part_of_word);
        moved.push_str(before);
        moved.push_str(if stands_alone { namespace } else { NAMESPACE });
        rest = after;
    }
    moved.push_str(rest);
    Cow::Owned(moved)
}

/// Does the line show what only the namespace of the text has: the API server's own service?
fn is_elsewhere(line: &str, namespace: &str) -> bool {
    let name = line.strip_prefix("service/").unwrap_or(line);
    namespace != NAMESPACE && name.starts_with("kubernetes ")
}

fn conversation(
    block: &[&str],
    first: usize,
    kubectl: u32,
    namespace: &str,
    edit: &mut Option<String>,
    steps: &mut Vec<Step>,
) -> anyhow::Result<()> {
    let mut index = 0;
    while index < block.len() {
        let start = index;
        let at = || format!("line {}", first + start);
        let (place, command) = prompt(block[start]).with_context(at).with_context(|| {
            format!("line {}: a command begins with `$ `, `on NODE $ ` or `outside $ `", first + start)
        })?;
        index += 1;
        while block.get(index).is_some_and(|line| prompt(line).is_none()) {
            index += 1;
        }
        let (typed, remarks) = command.split_once("  # ").unwrap_or((command, ""));
        let typed = typed.trim();
        let (mut exit, mut repeated, mut any_order, mut meant) = (0, false, false, true);
        for remark in remarks.split(", ").filter(|remark| !remark.is_empty()) {
            match (remark, remark.strip_prefix("exits "), versions(remark)) {
                ("after a while", ..) => repeated = true,
                ("in any order", ..) => any_order = true,
                (_, Some(code), _) => exit = code.parse().with_context(at)?,
                (.., Some(range)) => meant &= range.contains(kubectl),
                _ => bail!("line {}: `{remark}` is no known remark", first + start),
            }
        }
        let mut expected = Vec::new();
        let mut numbers = Vec::new();
        for (number, line) in block.iter().enumerate().take(index).skip(start + 1) {
            let (text, range) =
                line.rsplit_once("  # ").map_or((*line, None), |(text, remark)| (text, versions(remark)));
            match range {
                None => expected.push(*line),
                Some(range) if range.contains(kubectl) => expected.push(text.trim_end()),
                Some(_) => continue,
            }
            if is_elsewhere(line, namespace) {
                expected.pop();
                continue;
            }
            numbers.push(number);
        }
        let output = Output::parse(&expected, any_order)
            .map_err(|(index, error)| error.context(format!("line {}", first + numbers[index])))?;
        let edit = if typed.starts_with("kubectl edit ") {
            Some(
                edit.take()
                    .with_context(|| format!("line {}: no `diff` says what to edit", first + start))?,
            )
        } else {
            None
        };
        if !meant {
            continue;
        }
        let words = words(typed).with_context(at)?;
        steps.push(Step {
            line: first + start,
            place,
            command: words
                .iter()
                .map(|word| Pattern::parse(word))
                .collect::<anyhow::Result<_>>()
                .with_context(at)?,
            typed: typed.to_owned(),
            expected: output,
            printed: expected.join("\n").trim_end().to_owned(),
            exit,
            repeated,
            edit,
        });
    }
    Ok(())
}

fn prompt(line: &str) -> Option<(Place, &str)> {
    let (place, command) = line.split_once("$ ")?;
    let place = match place {
        "" => Place::Desk,
        "outside " => Place::Outside,
        other => Place::Node(other.strip_prefix("on ")?.strip_suffix(' ')?.to_owned()),
    };
    Some((place, command))
}

/// Some minor versions of kubectl 1.
#[derive(Debug, PartialEq)]
struct Versions {
    from: u32,
    to: u32,
}

impl Versions {
    fn contains(&self, minor: u32) -> bool {
        (self.from..=self.to).contains(&minor)
    }
}

/// `kubectl 1.31 and newer`, `kubectl 1.30 and older`.
fn versions(remark: &str) -> Option<Versions> {
    let (minor, direction) = remark.strip_prefix("kubectl 1.")?.split_once(" and ")?;
    let minor = minor.parse().ok()?;
    match direction {
        "newer" => Some(Versions { from: minor, to: u32::MAX }),
        "older" => Some(Versions { from: 0, to: minor }),
        _ => None,
    }
}

/// The words of a command. Quotes hold one together; nothing else is special.
fn words(command: &str) -> anyhow::Result<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    for c in command.chars() {
        match quote {
            Some(open) if c == open => quote = None,
            None if c == '\'' || c == '"' => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            None if c.is_whitespace() => words.extend(word.take()),
            _ => word.get_or_insert_default().push(c),
        }
    }
    ensure!(quote.is_none(), "a quote is not closed");
    words.extend(word);
    ensure!(!words.is_empty(), "there is no command");
    Ok(words)
}
