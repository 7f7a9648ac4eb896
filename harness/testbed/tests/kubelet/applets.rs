//! The programs inside the pods of these tests.

use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::ExitCode;

/// Their names.
pub(crate) const APPLETS: &[&str] = &[
    "cat",
    "echo",
    "env",
    "exists",
    "exit",
    "fork",
    "graceful",
    "hostname",
    "id",
    "ls",
    "noise",
    "pid",
    "rm",
    "sleep",
    "stubborn",
    "terminal",
    "terminate",
    "touch",
];

pub(crate) fn dispatch() -> Option<ExitCode> {
    let mut arguments = std::env::args();
    let program = arguments.next()?;
    let program = Path::new(&program).file_name()?.to_str()?;
    let arguments: Vec<String> = arguments.collect();
    let first = arguments.first().map_or("", String::as_str);
    match program {
        "cat" => copy(first),
        "echo" => println!("{}", arguments.join(" ")),
        "env" => std::env::vars().for_each(|(name, value)| println!("{name}={value}")),
        "exists" => return Some(ExitCode::from(u8::from(!Path::new(first).exists()))),
        "exit" => return Some(ExitCode::from(first.parse::<u8>().unwrap_or(99))),
        "fork" => fork(),
        "graceful" => return Some(graceful()),
        "id" => identify(),
        "hostname" => copy("/proc/sys/kernel/hostname"),
        "ls" => list(first),
        "noise" => {
            println!("out");
            let _ = std::io::stderr().write_all(b"err\n");
        }
        "pid" => println!("{}", std::process::id()),
        "rm" => return Some(done(std::fs::remove_file(first))),
        "sleep" => sleep(),
        "stubborn" => stubborn(),
        "terminal" => terminal(),
        "terminate" => return Some(done(terminate(first))),
        "touch" => return Some(done(std::fs::write(first, ""))),
        _ => return None,
    }
    Some(ExitCode::SUCCESS)
}

fn done(result: std::io::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Asks a process to end.
#[expect(unsafe_code, reason = "signals have no wrapper in std")]
fn terminate(pid: &str) -> std::io::Result<()> {
    let pid = pid.parse().map_err(std::io::Error::other)?;
    // SAFETY: no memory is involved.
    match unsafe { libc::kill(pid, libc::SIGTERM) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

/// Whose it is, and what it may do.
fn identify() {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let told = ["Uid:", "Gid:", "Groups:", "CapEff:"];
    let lines = status.lines().filter(|line| told.iter().any(|name| line.starts_with(name)));
    lines.for_each(|line| println!("{}", line.trim_end()));
}

/// Goes on in another process too, that is called `sleep`.
fn fork() {
    use std::os::unix::process::CommandExt as _;
    let name = Path::new(&std::env::args().next().unwrap_or_default()).with_file_name("sleep");
    let started = std::process::Command::new("/proc/self/exe").arg0(name).process_group(0).spawn();
    println!("{:?}", started.map(|child| child.id()));
    sleep();
}

/// Does not listen to SIGTERM.
#[expect(unsafe_code, reason = "signals have no wrapper in std")]
fn stubborn() {
    // SAFETY: no memory is involved.
    unsafe { libc::signal(libc::SIGTERM, libc::SIG_IGN) };
    sleep();
}

fn copy(path: &str) {
    let mut text = String::new();
    let read = match path {
        "" => std::io::stdin().read_to_string(&mut text).map(|_| ()),
        path => std::fs::read_to_string(path).map(|read| text = read),
    };
    match read {
        Ok(()) => print(&text),
        Err(error) => println!("{error}"),
    }
}

fn print(text: &str) {
    let mut out = std::io::stdout();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

fn list(path: &str) {
    let mut names: Vec<String> = match std::fs::read_dir(path) {
        Ok(entries) => entries.flatten().map(|entry| entry.file_name().to_string_lossy().into()).collect(),
        Err(error) => vec![error.to_string()],
    };
    names.sort();
    println!("{}", names.join(" "));
}

fn sleep() {
    println!("sleeping");
    loop {
        std::thread::park();
    }
}

/// Ends with 7 when it is asked to.
#[expect(unsafe_code, reason = "signals have no wrapper in std")]
fn graceful() -> ExitCode {
    let mut number = 0;
    // SAFETY: the set is initialised by sigemptyset before use.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, libc::SIGTERM);
        libc::sigprocmask(libc::SIG_BLOCK, &set, std::ptr::null_mut());
        println!("ready");
        libc::sigwait(&set, &mut number);
    }
    println!("got {number}");
    ExitCode::from(7)
}

/// Waits for a line, then prints the window's size; ends by itself only if it has a terminal.
#[expect(unsafe_code, reason = "ioctl has no wrapper in std")]
fn terminal() {
    print("ready\n");
    let mut line = String::new();
    let _ = std::io::stdin().read_line(&mut line);
    // SAFETY: winsize is plain data and outlives the call.
    let size = unsafe {
        let mut size: libc::winsize = std::mem::zeroed();
        libc::ioctl(0, libc::TIOCGWINSZ, &raw mut size);
        size
    };
    let controlling = std::fs::File::open("/dev/tty").is_ok();
    println!("{}x{} {controlling} {}", size.ws_col, size.ws_row, line.trim());
}
