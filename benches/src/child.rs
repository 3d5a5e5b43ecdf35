//! Programs that a bench starts, and ends.

use std::fs;
use std::io::{self, BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child as Process, Command, Stdio};

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

    /// This program as a server that takes `delay` milliseconds over each answer.
    pub fn server(delay: u64) -> Self {
        Self::be(&["serve", &delay.to_string()])
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

    /// Linux only.
    pub fn cost(&self) -> io::Result<Cost> {
        let about = |name| fs::read_to_string(format!("/proc/{}/{name}", self.process.id()));
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
}

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.process.kill();
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
