//! Programs that a bench starts, and ends.

use std::fs;
use std::io::{self, BufRead, BufReader};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child as Process, Command, Stdio};
use std::time::Duration;

use tokio::sync::Semaphore;

/// A server or a proxy that listens; killed when dropped.
#[derive(Debug)]
pub struct Child {
    process: Process,
    pub addr: SocketAddr,
}

/// What a process has cost so far.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    pub cpu_seconds: f64,
    pub peak_kib: u64,
}

impl Child {
    /// Starts it, and waits for `listening on ADDRESS` on its standard output.
    pub fn start(mut command: Command) -> io::Result<Self> {
        // The server of a bench ends with its standard input, however the bench ends.
        let mut process = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut said = BufReader::new(process.stdout.take().expect("it is piped"));
        let mut line = String::new();
        let read = said.read_line(&mut line);
        let addr = line.trim().strip_prefix("listening on ");
        match (read, addr.and_then(|it| it.parse().ok())) {
            (Ok(_), Some(addr)) => Ok(Self { process, addr }),
            (read, _) => {
                let _ = process.kill();
                let _ = process.wait();
                read?;
                Err(io::Error::other(format!("it said {line:?}")))
            }
        }
    }

    /// Starts it, and waits until somebody listens there. It says nothing.
    pub fn start_at(mut command: Command, addr: SocketAddr) -> io::Result<Self> {
        let quiet = command.stdin(Stdio::null()).stdout(Stdio::null());
        let process = quiet.stderr(Stdio::null()).spawn()?;
        let mut child = Self { process, addr };
        for _ in 0..500 {
            if TcpStream::connect(addr).is_ok() {
                return Ok(child);
            }
            if let Some(status) = child.process.try_wait()? {
                return Err(io::Error::other(format!("it ended with {status}")));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Err(io::Error::other(format!("it does not listen on {addr}")))
    }

    /// This program as a server that takes `delay` milliseconds over each answer.
    pub fn server(delay: u64) -> Self {
        Self::be(&["serve", &delay.to_string()])
    }

    /// The same, over so many answers at a time; more wait.
    pub fn server_of(delay: u64, workers: usize) -> Self {
        Self::be(&["serve", &delay.to_string(), &workers.to_string()])
    }

    /// This program as a server at so many addresses, from 127.0.0.1 on, and one port.
    pub fn server_at(addresses: u8) -> Self {
        let workers = Semaphore::MAX_PERMITS.to_string();
        Self::be(&["serve", "0", &workers, &addresses.to_string()])
    }

    /// This program as a server of HTTP/2.
    pub fn http2_server() -> Self {
        Self::be(&["serve-http2"])
    }

    fn be(arguments: &[&str]) -> Self {
        let mut command = Command::new(std::env::current_exe().expect("it runs"));
        command.args(arguments);
        Self::start(command).expect("a server")
    }

    /// Of the process and of those that it has started. Linux only.
    pub fn cost(&self) -> io::Result<Cost> {
        let mut cost = cost_of(self.process.id())?;
        for child in self.children() {
            let its = cost_of(child)?;
            cost.cpu_seconds += its.cpu_seconds;
            cost.peak_kib += its.peak_kib;
        }
        Ok(cost)
    }

    fn children(&self) -> Vec<u32> {
        let id = self.process.id();
        let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children"));
        let children = children.unwrap_or_default();
        let ids = children.split_whitespace().map(str::parse);
        ids.filter_map(Result::ok).collect()
    }
}

pub(crate) fn cost_of(process: u32) -> io::Result<Cost> {
    let about = |name| fs::read_to_string(format!("/proc/{process}/{name}"));
    let (stat, status) = (about("stat")?, about("status")?);
    let ticks = || {
        // The name, in parentheses, may have spaces.
        let (_, fields) = stat.rsplit_once(')')?;
        let mut times = fields.split_whitespace().skip(11).map(str::parse::<u64>);
        Some(times.next()?.ok()? + times.next()?.ok()?)
    };
    let peak = || {
        let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
        line.split_whitespace().nth(1)?.parse().ok()
    };
    let strange = || io::Error::other("/proc has another form than Linux's");
    Ok(Cost {
        // `USER_HZ` is 100 wherever Linux runs.
        cpu_seconds: ticks().ok_or_else(strange)? as f64 / 100.0,
        peak_kib: peak().ok_or_else(strange)?,
    })
}

impl Drop for Child {
    fn drop(&mut self) {
        // First: the workers of a process that is killed would stay. Without any there is nothing to run.
        let workers = self.children();
        let _ = self.process.kill();
        if !workers.is_empty() {
            let ids = workers.iter().map(u32::to_string);
            let _ = Command::new("kill").arg("-KILL").args(ids).status();
        }
        let _ = self.process.wait();
    }
}

/// Whether a program can be run at all.
pub fn is_there(program: &str, argument: &str) -> bool {
    let mut command = Command::new(program);
    let quiet = command
        .arg(argument)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    quiet.status().is_ok()
}

/// Installs or builds what a peer needs, where it is not there: `benches/peers/install.sh` knows how.
pub fn install(peer: &str) -> io::Result<()> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/peers/install.sh");
    run(Command::new(script).arg(peer))
}

/// Runs a command that prepares something; what it said last is why it could not.
pub fn run(command: &mut Command) -> io::Result<()> {
    let output = command.output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = [output.stderr, output.stdout].concat();
    let said = String::from_utf8_lossy(&said);
    Err(io::Error::other(
        said.lines().last().unwrap_or("it failed").to_owned(),
    ))
}
