//! Command lines: words as a shell would split them, and what stands in them for values of the lab.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::kubelet::init::candidates;

/// Where programs are looked for after `$PATH`: programs for administrators are there, and often it
/// lacks them.
const ALWAYS: &str = "/usr/local/sbin:/usr/sbin:/sbin";

/// Why a command line cannot be used.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum CommandError {
    #[error("`{0}` is no command line: a quote is open at its end, or a backslash stands there")]
    Unterminated(String),
    #[error("the command line is empty")]
    Empty,
    #[error("there is no program `{0}`; it was looked for in {1}")]
    NotInPath(String, String),
    #[error("there is no program at `{0}`")]
    NoProgram(String),
    #[error("`{0}` is no path: a program of an image is named by where it is there, as `/bin/sh`")]
    NoPath(String),
    #[error("`{{{word}}}` in `{text}` stands for nothing; there are: {known}")]
    Unknown { word: String, text: String, known: String },
}

/// A command line, split into words.
///
/// Quotes, backslashes and comments are a shell's; nothing else is: no variable, no pattern, no
/// redirection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandLine {
    /// The program, then its arguments, with their placeholders.
    words: Vec<String>,
}

impl CommandLine {
    /// Splits a command line, and finds its program on this machine: a name in `$PATH`, a relative path
    /// from the working directory.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, CommandError> {
        let mut line = Self::split(text)?;
        if let Some(program) = line.words.first_mut() {
            *program = find(program)?.display().to_string();
        }
        Ok(line)
    }

    /// The same for a program of an image whose files are in the folder `root`: it is named by its path
    /// there.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse_below(text: &str, root: &Path) -> Result<Self, CommandError> {
        let line = Self::split(text)?;
        let program = line.program();
        let below =
            program.strip_prefix("/").map_err(|_| CommandError::NoPath(program.display().to_string()));
        let path = root.join(below?);
        // A link there leads to something in the image, and not to what has that name here.
        match path.symlink_metadata() {
            Ok(file) if !file.is_dir() => Ok(line),
            _ => Err(CommandError::NoProgram(path.display().to_string())),
        }
    }

    /// The same, without a look at this machine.
    pub(crate) fn split(text: &str) -> Result<Self, CommandError> {
        let words = shlex::split(text).ok_or_else(|| CommandError::Unterminated(text.trim().to_owned()))?;
        if words.is_empty() {
            return Err(CommandError::Empty);
        }
        Values::check(&words)?;
        Ok(Self { words })
    }

    /// The path of its program.
    pub fn program(&self) -> &Path {
        Path::new(self.words.first().map_or("", String::as_str))
    }

    /// The first placeholder in it that is one of these.
    pub(crate) fn mentions<'a>(&self, names: &[&'a str]) -> Option<&'a str> {
        Values::mentioned(&self.words, names)
    }

    /// Its words with the values in their places.
    pub fn words(&self, values: &Values) -> Vec<String> {
        self.words.iter().map(|word| values.fill(word)).collect()
    }
}

impl fmt::Display for CommandLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Braces with a name in them are placeholders, which a shell leaves alone too.
        let is_plain = |word: &str| {
            !word.is_empty() && word.chars().all(|c| c.is_ascii_alphanumeric() || "-_=./:,@%+{}".contains(c))
        };
        for (index, word) in self.words.iter().enumerate() {
            let quoted = if is_plain(word) { None } else { shlex::try_quote(word).ok() };
            f.write_str(if index > 0 { " " } else { "" })?;
            f.write_str(quoted.as_deref().unwrap_or(word))?;
        }
        Ok(())
    }
}

/// The file a command name means.
fn find(name: &str) -> Result<PathBuf, CommandError> {
    let path = search_path();
    let found = candidates(name, &path).into_iter().find(|candidate| {
        use std::os::unix::fs::PermissionsExt as _;
        candidate.metadata().is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
    });
    match found {
        Some(found) => Ok(std::path::absolute(&found).unwrap_or(found)),
        None if name.contains('/') => Err(CommandError::NoProgram(name.to_owned())),
        None => Err(CommandError::NotInPath(name.to_owned(), path)),
    }
}

/// Where programs are looked for, and where they look themselves.
pub(crate) fn search_path() -> String {
    match std::env::var("PATH") {
        Ok(path) if !path.is_empty() => format!("{path}:{ALWAYS}"),
        _ => format!("/usr/local/bin:/usr/bin:/bin:{ALWAYS}"),
    }
}

/// What the placeholders of a command stand for.
#[derive(Clone, Debug, Default)]
pub struct Values(BTreeMap<&'static str, String>);

impl Values {
    /// What may stand in braces, each with its meaning.
    pub const KNOWN: &'static [(&'static str, &'static str)] = &[
        ("kubeconfig", "the path of a kubeconfig with the component's own identity"),
        ("node", "the name of the node it runs on"),
        ("node_ip", "that node's address"),
        ("pod_cidr", "the range the addresses of that node's pods come from"),
        ("cluster_cidr", "the range pod addresses come from"),
        ("service_cidr", "the range cluster IPs come from"),
        ("dns_ip", "the cluster IP of cluster DNS"),
        ("dir", "a folder of its own, in memory, which has the files it was given"),
        ("namespace", "the namespace of an ingress controller"),
        ("pod", "the name of the pod there that stands for it"),
        ("service", "the name of the Service in front of it"),
        ("class", "the IngressClass it is to serve"),
        ("controller", "what `spec.controller` of that class says"),
    ];

    /// The first of these placeholders that is in any of the texts.
    pub(crate) fn mentioned<'a>(texts: &[String], names: &[&'a str]) -> Option<&'a str> {
        let is_in = |name: &&&str| texts.iter().any(|text| text.contains(&format!("{{{name}}}")));
        names.iter().find(is_in).copied()
    }

    /// Puts a value in the place of `{name}`.
    ///
    /// # Panics
    /// If the name is not one of [`Values::KNOWN`].
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        assert!(Self::KNOWN.iter().any(|(known, _)| *known == name), "`{name}` is a known placeholder");
        self.0.insert(name, value.into());
        self
    }

    /// The text with values in the places of their names; other braces are left as they are.
    pub fn fill(&self, text: &str) -> String {
        let mut filled = String::with_capacity(text.len());
        let mut rest = text;
        while let Some((before, word, after)) = next(rest) {
            filled.push_str(before);
            match self.0.get(word) {
                Some(value) => filled.push_str(value),
                None => filled.extend(["{", word, "}"]),
            }
            rest = after;
        }
        filled + rest
    }

    /// In a command line a name in braces that stands for nothing is a mistake.
    pub(crate) fn check(words: &[String]) -> Result<(), CommandError> {
        for text in words {
            let mut rest = text.as_str();
            while let Some((_, word, after)) = next(rest) {
                if !Self::KNOWN.iter().any(|(known, _)| *known == word) {
                    let known: Vec<String> =
                        Self::KNOWN.iter().map(|(known, _)| format!("`{{{known}}}`")).collect();
                    let (word, text, known) = (word.to_owned(), text.clone(), known.join(", "));
                    return Err(CommandError::Unknown { word, text, known });
                }
                rest = after;
            }
        }
        Ok(())
    }
}

/// The first name in braces: what stands before it, the name, what comes after.
fn next(text: &str) -> Option<(&str, &str, &str)> {
    let mut from = 0;
    while let Some(open) = text[from..].find('{') {
        let start = from + open + 1;
        let length = text[start..].find(|c: char| !(c.is_ascii_lowercase() || c == '_')).unwrap_or(0);
        if length > 0 && text[start + length..].starts_with('}') {
            return Some((&text[..start - 1], &text[start..start + length], &text[start + length + 1..]));
        }
        from = start;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_a_shells_and_nothing_is_expanded() {
        let line = CommandLine::parse("sh -c 'echo \"$HOME\" *'  --x=\"a b\" c\\ d # why\n  --last")
            .expect("a line");
        let words = line.words(&Values::default());
        assert!(Path::new(&words[0]).is_absolute() && words[0].ends_with("/sh"), "{words:?}");
        assert_eq!(words[1..], ["-c", "echo \"$HOME\" *", "--x=a b", "c d", "--last"]);
    }

    #[test]
    fn a_line_is_printed_as_it_could_be_typed() {
        let text = "proxy --kubeconfig={kubeconfig} --set=a,b --why='two words' ''";
        let line = CommandLine::split(text).expect("a line");
        assert_eq!(line.to_string(), text.replace("--why='two words'", "'--why=two words'"));
        assert_eq!(CommandLine::split(&line.to_string()), Ok(line));
    }

    #[test]
    fn a_line_that_cannot_be_used_says_why() {
        let why = |text: &str| CommandLine::parse(text).expect_err("a mistake").to_string();
        assert!(why("sh 'open").contains("a quote is open at its end"), "{}", why("sh 'open"));
        assert_eq!(why("  "), "the command line is empty");
        assert!(
            why("no-such-program --x")
                .starts_with("there is no program `no-such-program`; it was looked for in /")
        );
        assert_eq!(why("/no/such/program"), "there is no program at `/no/such/program`");
        // A folder is no program.
        assert_eq!(why("/etc"), "there is no program at `/etc`");
        let unknown = why("sh --config={kubeconfg}");
        assert!(
            unknown.starts_with("`{kubeconfg}` in `--config={kubeconfg}` stands for nothing"),
            "{unknown}"
        );
        assert!(unknown.contains("`{kubeconfig}`"), "{unknown}");
    }

    #[test]
    fn names_in_braces_are_replaced_and_other_braces_are_not() {
        let values = Values::default().with("node", "kube1.vm").with("dir", "/run/x");
        assert_eq!(values.fill("--on={node}:{dir}/{node}"), "--on=kube1.vm:/run/x/kube1.vm");
        let corefile = ".:53 {\n  log . {remote}\n  hosts {dir}/hosts {\n  }\n  env {$X} {{}}\n}";
        assert_eq!(values.fill(corefile), corefile.replace("{dir}", "/run/x"));
        // What was put in is not looked at again.
        assert_eq!(Values::default().with("node", "{dir}").with("dir", "x").fill("{node}"), "{dir}");
        assert_eq!(values.fill("{"), "{");
        assert_eq!(values.fill("{node"), "{node");
    }
}
