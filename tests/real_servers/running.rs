//! Servers that the tests start for themselves: on loopback, on a free port, in a folder that goes with them.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::support::tls::localhost;

/// Where Debian puts it. Without it there is nothing to test, unless the run says that it is here.
pub(crate) fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .chain([PathBuf::from("/usr/sbin")])
        .map(|folder| folder.join(name))
        .find(|program| program.is_file());
    if found.is_none() {
        let here = std::env::var("REAL_SERVERS").unwrap_or_default();
        assert!(
            !here.split_whitespace().any(|it| it == name),
            "{name} is not installed, and REAL_SERVERS says that it is",
        );
        println!("skipped: {name} is not installed");
    }
    found
}

/// A server of its own: a process, and a folder for its files.
pub(crate) struct Running {
    process: Child,
    pub(crate) folder: PathBuf,
    pub(crate) addr: SocketAddr,
}

impl Running {
    /// Starts it on a free port, with the certificate of the tests in its folder.
    pub(crate) fn start(start: impl Fn(&Path, SocketAddr) -> Command) -> Self {
        Self::start_saying(Stdio::null, start)
    }

    /// The same, with both ends of what it reads and writes; they end with it.
    pub(crate) fn start_piped(
        start: impl Fn(&Path, SocketAddr) -> Command,
    ) -> (Self, ChildStdin, ChildStdout) {
        let mut server = Self::start_saying(Stdio::piped, start);
        let process = &mut server.process;
        let stdin = process.stdin.take().expect("piped");
        let stdout = process.stdout.take().expect("piped");
        (server, stdin, stdout)
    }

    /// Its address under TLS, as the certificate of the tests has it.
    pub(crate) fn https(&self) -> String {
        format!("https://localhost:{}/", self.addr.port())
    }

    fn start_saying(stdout: fn() -> Stdio, start: impl Fn(&Path, SocketAddr) -> Command) -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("tower-keep-alive-{}-{number}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&folder).expect("a temporary folder");
        let identity = localhost();
        let (certificate, key) = identity.pem();
        std::fs::write(folder.join("cert.pem"), certificate).expect("a file");
        std::fs::write(folder.join("key.pem"), key).expect("a file");
        // Somebody else may have the port by then.
        for _ in 0..5 {
            let free = TcpListener::bind("127.0.0.1:0").expect("loopback can be bound");
            let addr = free.local_addr().expect("bound above");
            drop(free);
            let mut process = start(&folder, addr)
                .stdin(Stdio::piped())
                .stdout(stdout())
                .spawn()
                .expect("it starts");
            let begun = Instant::now();
            while begun.elapsed() < Duration::from_secs(10) {
                if process.try_wait().expect("a child").is_some() {
                    break;
                }
                if TcpStream::connect(addr).is_ok() {
                    return Self {
                        process,
                        folder,
                        addr,
                    };
                }
                std::thread::sleep(Duration::from_millis(10));
            }
            process.kill().ok();
            process.wait().ok();
        }
        panic!("it does not listen");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // nginx' workers end with a master that is asked to end, and not with one that is killed.
        let id = self.process.id().to_string();
        Command::new("kill").args(["-TERM", &id]).status().ok();
        self.process.wait().ok();
        std::fs::remove_dir_all(&self.folder).ok();
    }
}
