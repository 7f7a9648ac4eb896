//! Pods, and external programs, as processes: what is true of them, from the inside and from the
//! outside.
//!
//! Their program is this test itself, under other names.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "the programs of the pods talk through their output"
)]

mod applets;
mod containers;
mod external;

use std::ffi::OsString;
use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};

fn main() -> ExitCode {
    if let Some(code) = stickler_testbed::kubelet::init_main()
        .or_else(stickler_testbed::external::inside_main)
        .or_else(applets::dispatch)
    {
        return code;
    }
    let inside = std::env::var_os(containers::IN_USER_NAMESPACE).is_some();
    if (inside || !is_root())
        && let Err(error) = enter_user_namespace()
    {
        println!("cannot make a user namespace: {error}");
        return ExitCode::from(2);
    }
    if std::env::args_os().nth(1) == Some(OsString::from(containers::ORPHAN)) {
        return containers::be_killed();
    }
    let arguments = Arguments::from_args();
    let mut trials: Vec<Trial> = containers::TRIALS
        .iter()
        .map(|(name, run)| Trial::test(*name, move || containers::run(*run)))
        .collect();
    if !inside && is_root() {
        trials.push(Trial::test("everything_works_in_a_user_namespace", containers::user_namespace));
    }
    libtest_mimic::run(&arguments, trials).exit_code()
}

#[expect(unsafe_code, reason = "geteuid has no wrapper in std")]
fn is_root() -> bool {
    // SAFETY: always succeeds.
    unsafe { libc::geteuid() == 0 }
}

/// A single mapping, as an ordinary user can make it; before the first thread exists.
#[expect(unsafe_code, reason = "unshare has no wrapper in std")]
fn enter_user_namespace() -> std::io::Result<()> {
    // SAFETY: always succeeds.
    let (uid, gid) = unsafe { (libc::geteuid(), libc::getegid()) };
    // SAFETY: no memory is involved.
    if unsafe { libc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNS | libc::CLONE_NEWNET) } != 0 {
        return Err(std::io::Error::last_os_error());
    }
    std::fs::write("/proc/self/setgroups", "deny")?;
    std::fs::write("/proc/self/uid_map", format!("0 {uid} 1"))?;
    std::fs::write("/proc/self/gid_map", format!("0 {gid} 1"))
}
