//! A proxy for one service only, `kubernetes`: the least a testbed comes up with, and what an external
//! command is to these tests. It is their own executable under another name.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// What the executable is to be called.
pub(crate) const NAME: &str = "tiny-proxy";
pub(crate) const VERSION: &str = "tiny-proxy 0.1";
pub(crate) const EXIT: u8 = 7;
const SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);

/// Runs it if the executable is called so: `tiny-proxy --kubeconfig=FILE --until=FILE`. It serves until
/// the second file is there.
pub(crate) fn dispatch() -> Option<ExitCode> {
    let mut arguments = std::env::args();
    if Path::new(&arguments.next()?).file_name()? != NAME {
        return None;
    }
    let arguments: Vec<String> = arguments.collect();
    if arguments == ["--version"] {
        say(VERSION);
        return Some(ExitCode::SUCCESS);
    }
    let value = |name: &str| arguments.iter().find_map(|argument| argument.strip_prefix(name));
    let (kubeconfig, until) = (value("--kubeconfig=")?, PathBuf::from(value("--until=")?));
    if let Err(error) = serve(kubeconfig) {
        say(&format!("cannot serve: {error}"));
        return Some(ExitCode::FAILURE);
    }
    while !until.exists() {
        pause();
    }
    say("goodbye");
    Some(ExitCode::from(EXIT))
}

#[expect(clippy::print_stdout, reason = "its output is what the tests look for")]
fn say(text: &str) {
    println!("{text}");
}

/// Takes the address of the service for this node's own, and passes connections on to the API server.
fn serve(kubeconfig: &str) -> io::Result<()> {
    let text = std::fs::read_to_string(kubeconfig)?;
    let server = text.lines().find_map(|line| line.trim().strip_prefix("server: https://"));
    let server = server.and_then(|server| server.parse().ok());
    let server: SocketAddr = server.ok_or_else(|| io::Error::other("the kubeconfig names no server"))?;
    own(SERVICE)?;
    let listener = TcpListener::bind((SERVICE, 443))?;
    say(&format!("serves `kubernetes` by {server}"));
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            std::thread::spawn(move || relay(client, server));
        }
    });
    Ok(())
}

fn relay(mut client: TcpStream, server: SocketAddr) -> io::Result<u64> {
    let mut server = TcpStream::connect(server)?;
    let (mut answers, mut to_client) = (server.try_clone()?, client.try_clone()?);
    std::thread::spawn(move || io::copy(&mut answers, &mut to_client));
    io::copy(&mut client, &mut server)
}

/// Gives the loopback link a second address.
#[expect(unsafe_code, reason = "socket and ioctl have no safe wrapper in std")]
fn own(address: Ipv4Addr) -> io::Result<()> {
    let socket = std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    let mut name = [0; libc::IFNAMSIZ];
    for (to, from) in name.iter_mut().zip(b"lo:1") {
        *to = *from as libc::c_char;
    }
    // SAFETY: ifreq and sockaddr_in are plain data.
    let (mut request, mut inside): (libc::ifreq, libc::sockaddr_in) =
        unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
    request.ifr_name = name;
    inside.sin_family = libc::AF_INET as libc::sa_family_t;
    inside.sin_addr.s_addr = u32::from_ne_bytes(address.octets());
    // SAFETY: both kinds of address have the same size.
    request.ifr_ifru.ifru_addr = unsafe { std::mem::transmute::<libc::sockaddr_in, libc::sockaddr>(inside) };
    use std::os::fd::AsRawFd as _;
    // SAFETY: the request is a valid `ifreq` that outlives the call, which only reads it.
    match unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFADDR as _, &raw const request) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the test ends this program by a file; it ends with its enclosure anyway"
)]
fn pause() {
    std::thread::sleep(Duration::from_millis(20));
}
