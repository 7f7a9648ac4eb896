//! `stickler list`: the catalogue of checks, or of planted bugs.

use std::fmt::Write as _;

use clap::Args;
use serde_json::{Value, json};
use stickler::Class;

use crate::Ended;
use crate::record::Format;

/// Arguments of `stickler list`.
#[derive(Args)]
pub(crate) struct List {
    /// List the bugs that can be planted with `--bug` instead of the checks.
    #[arg(long)]
    bugs: bool,
    /// How to print it.
    #[arg(long, value_enum, default_value = "pretty")]
    format: Format,
}

impl List {
    pub(crate) fn execute(&self) -> anyhow::Result<Ended> {
        let rows = if self.bugs { bugs() } else { checks() };
        let mut text = String::new();
        match self.format {
            Format::Json => text = serde_json::to_string_pretty(&rows)? + "\n",
            Format::Pretty => rows.iter().for_each(|row| pretty(&mut text, row)),
        }
        crate::print(&text)?;
        Ok(Ended::Held)
    }
}

fn checks() -> Vec<Value> {
    let row = |check: &stickler::Check| {
        json!({
            "id": check.id,
            "title": check.title,
            "class": match check.class { Class::Promise => "promise", Class::Observation => "observation" },
            "promised_by": check.promised_by.iter().map(stickler::Source::url).collect::<Vec<_>>(),
            "needs": check.needs.iter().map(|need| need.name()).collect::<Vec<_>>(),
            "profile": stickler_suites::Profile::of(check).map(|profile| profile.name()).collect::<Vec<_>>(),
            "exclusive": check.exclusive,
            "unproven": is_unproven(check),
            "confirmed_by": match stickler_suites::confirmed_by(check) {
                [] => json!("only ours"),
                by => json!(by),
            },
        })
    };
    stickler_suites::all().map(row).collect()
}

/// Does no planted bug make it fail? Then nothing shows that it can.
#[cfg(target_os = "linux")]
fn is_unproven(check: &stickler::Check) -> bool {
    !stickler::providers::bugs::all().any(|card| card.caught_by.contains(&check.id))
}

/// Bugs can be planted where the testbed runs only.
#[cfg(not(target_os = "linux"))]
fn is_unproven(_: &stickler::Check) -> bool {
    true
}

#[cfg(target_os = "linux")]
fn bugs() -> Vec<Value> {
    let row = |card: &stickler::providers::bugs::BugCard| {
        json!({
            "id": card.id,
            "title": card.title,
            "component": card.component,
            "seen_in": card.seen_in,
            "caught_by": card.caught_by,
        })
    };
    stickler::providers::bugs::all().map(row).collect()
}

#[cfg(not(target_os = "linux"))]
fn bugs() -> Vec<Value> {
    Vec::new()
}

fn pretty(out: &mut String, row: &Value) {
    let text = |field: &str| row[field].as_str().unwrap_or_default().to_owned();
    let unproven = if row["unproven"] == true { " (unproven: no planted bug makes it fail)" } else { "" };
    let _ = writeln!(out, "{:34} {}{unproven}", text("id"), text("title"));
    for field in ["promised_by", "caught_by"] {
        for item in row[field].as_array().into_iter().flatten() {
            let _ = writeln!(
                out,
                "{:34}   {} {}",
                "",
                field.replace('_', " "),
                item.as_str().unwrap_or_default()
            );
        }
    }
}
