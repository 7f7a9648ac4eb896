//! The binary `stickler`: one file per command.
#![expect(clippy::print_stderr, reason = "a command line program talks to its user")]

mod chaos;
mod cluster;
mod compare;
mod doctor;
mod explore;
mod github;
mod heal;
mod image;
mod list;
mod record;
mod replay;
mod report;
mod run;
mod table;
mod up;

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

/// A conformance and chaos harness for Kubernetes Services.
///
/// Without a command it does `run` on the testbed: a cluster of its own, inside this process, that
/// needs nothing but Linux.
#[derive(Parser)]
#[command(name = "stickler", version, after_help = EXIT_STATUS)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    /// What `run` takes can be given without the word.
    #[command(flatten)]
    run: run::Run,
    /// Tell what happens inside, on standard error: once or twice.
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    verbose: u8,
}

#[derive(Subcommand)]
enum Command {
    /// Check every promise of Services on a cluster, and report what was broken.
    #[command(after_help = EXIT_STATUS)]
    Run(run::Run),
    /// Let faults strike while clients call from everywhere, and judge every answer.
    #[command(after_help = EXIT_STATUS)]
    Chaos(chaos::ChaosArgs),
    /// Look for a world of services and pods in which a promise is broken, and for the fewest
    /// operations that lead there.
    #[command(after_help = EXIT_STATUS)]
    Explore(explore::Explore),
    /// Look from everywhere at every destination at once, and mark what is not as promised.
    #[command(after_help = EXIT_STATUS)]
    Table(table::Table),
    /// Perform a case that `explore` saved again.
    #[command(after_help = EXIT_STATUS)]
    Replay(replay::Replay),
    /// Compare the reports of several runs, check by check.
    Compare(compare::Compare),
    /// Render a report again, from the journal of its run.
    #[command(after_help = EXIT_STATUS)]
    Report(report::Render),
    /// List every check, or every bug that can be planted.
    List(list::List),
    /// Say what this machine, or a cluster, can and cannot do, and why.
    Doctor(doctor::Doctor),
    /// Start a cluster, say how to use it with kubectl, and keep it until Ctrl-C.
    Up(up::Up),
    /// Remove what a killed run left behind, on a cluster that exists or with a container engine.
    Heal(heal::Heal),
    /// Make the image that agents and fixtures run, as an archive.
    Image(image::Image),
}

const EXIT_STATUS: &str = "Exit status: 0 everything held; 1 a promise was broken, or it could not be told \
                           whether it was kept; 2 it could not run; 3 interrupted (the report is written \
                           anyway).";

/// How a command ends.
enum Ended {
    Held,
    Broken,
    Interrupted,
}

fn main() -> ExitCode {
    // What runs inside pods is this very program under another name, and so is an editor.
    if let Some(code) = stickler_suites::reexec() {
        return code;
    }
    let cli = parse();
    log(cli.verbose);
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        eprintln!("error: another cryptography provider is installed already");
        return ExitCode::from(2);
    }
    let command = cli.command.unwrap_or(Command::Run(cli.run));
    let ended = match command {
        Command::Run(run) => run.execute(),
        Command::Chaos(chaos) => chaos.execute(),
        Command::Explore(explore) => explore.execute(),
        Command::Table(table) => table.execute(),
        Command::Replay(replay) => replay.execute(),
        Command::Compare(compare) => compare.execute(),
        Command::Report(report) => report.execute(),
        Command::List(list) => list.execute(),
        Command::Doctor(doctor) => doctor.execute(),
        Command::Up(up) => up.execute(),
        Command::Heal(heal) => heal.execute(),
        Command::Image(image) => image.execute(),
    };
    match ended {
        Ok(Ended::Held) => ExitCode::SUCCESS,
        Ok(Ended::Broken) => ExitCode::from(1),
        Ok(Ended::Interrupted) => ExitCode::from(3),
        Err(error) => {
            eprintln!("error: {}", one_line(&error));
            ExitCode::from(2)
        }
    }
}

/// What happened and why. Readers of YAML draw a picture below their first line, which says it all; many
/// libraries name the cause of an error in its own words already.
fn one_line(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain().map(ToString::to_string) {
        let cause = cause.lines().next().unwrap_or_default();
        if line.ends_with(cause) {
            continue;
        }
        if !line.is_empty() {
            line.push_str(": ");
        }
        line.push_str(cause);
    }
    line
}

/// Reads the command line. What stands before a command's word would be for no command at all, so
/// it is a mistake.
fn parse() -> Cli {
    let matches = Cli::command().get_matches();
    if let Some(word) = matches.subcommand_name()
        && let Some(stray) = matches.ids().map(clap::Id::as_str).find(|id| {
            // Groups have no source, and `--verbose` is for every command.
            *id != "verbose" && matches!(matches.try_get_raw(id), Ok(Some(_))) && {
                matches.value_source(id) == Some(ValueSource::CommandLine)
            }
        })
    {
        let command = Cli::command();
        let argument = command.get_arguments().find(|argument| argument.get_id() == stray);
        let flag = argument.and_then(clap::Arg::get_long).unwrap_or(stray);
        let message = format!("`--{flag}` stands before the command; put it after `{word}`");
        Cli::command().error(ErrorKind::ArgumentConflict, message).exit();
    }
    Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
}

/// Prints a text on standard output. Who stopped reading, as `head` does, has seen enough.
fn print(text: &str) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(error).context("standard output cannot be written")
        }
        _ => Ok(()),
    }
}

fn log(verbose: u8) {
    let level = match verbose {
        // Whoever asked for what the API server refused is told by an error of their own.
        0 => "error,kube_client::client::builder=off",
        1 => "stickler=info,stickler_testbed=info,warn",
        _ => "stickler=debug,stickler_testbed=debug,info",
    };
    let filter = tracing_subscriber::EnvFilter::try_from_env("STICKLER_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(level));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
}
