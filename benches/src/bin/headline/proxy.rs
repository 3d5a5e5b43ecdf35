//! The proxies that are compared, and how each is started.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::ValueEnum;
use tower_keep_alive_benches::child::{Child, install, run};

use crate::bare;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, ValueEnum)]
pub(crate) enum Proxy {
    /// Always measured.
    #[value(skip)]
    Base,
    Agent,
    AgentRuntimes,
    Agentkeepalive,
    Undici,
    Go,
    Nginx,
    Pingora,
}

impl Proxy {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Base => "plain sockets",
            Self::Agent => "agent",
            Self::AgentRuntimes => "agent, --runtimes 2",
            Self::Agentkeepalive => "agentkeepalive",
            Self::Undici => "undici",
            Self::Go => "go",
            Self::Nginx => "nginx",
            Self::Pingora => "pingora",
        }
    }

    /// Whether it can be told how many connections it may have, and lets requests wait for one. With two runtimes, a
    /// connection that comes free is often of the other one, and is closed for the request that waits.
    pub(crate) fn has_line(self) -> bool {
        !matches!(self, Self::AgentRuntimes | Self::Nginx | Self::Pingora)
    }

    /// A new process of it, installed or built where it is not there. Each but node, which has one, may use two threads.
    pub(crate) fn start(
        self,
        server: SocketAddr,
        sockets: usize,
        keeps: bool,
    ) -> io::Result<Child> {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let peers = here.join("peers");
        let keep = if keeps { "keep" } else { "close" };
        let upstream = format!("http://{server}");
        let mut command = match self {
            Self::Base => {
                let mut command = Command::new(std::env::current_exe()?);
                command.args([bare::NAME, &server.to_string()]);
                command.args([&sockets.to_string(), keep]);
                return Child::start(command);
            }
            Self::Agent | Self::AgentRuntimes => {
                run(Command::new(env!("CARGO"))
                    .args(["build", "--quiet", "--locked", "--release"])
                    .args(["--example", "proxy"])
                    .current_dir(here.join("..")))?;
                // Beside this program.
                let mut command = Command::new(beside_this("examples/proxy")?);
                command.env("TOKIO_WORKER_THREADS", "2");
                command.args(["--listen", "127.0.0.1:0", "--upstream", &upstream]);
                command.args(["--max-connections-per-host", &sockets.to_string()]);
                command.args((!keeps).then_some("--no-keep-alive"));
                if self == Self::AgentRuntimes {
                    command.args(["--runtimes", "2"]);
                }
                return Child::start(command);
            }
            Self::Agentkeepalive | Self::Undici => {
                install("node")?;
                let mut command = Command::new("node");
                command.arg(peers.join(self.name()).with_extension("cjs"));
                command
            }
            Self::Go => {
                install("go")?;
                let mut command = Command::new(peers.join("goproxy"));
                command.env("GOMAXPROCS", "2");
                command
            }
            Self::Nginx => {
                install("nginx")?;
                return nginx(server, keeps);
            }
            Self::Pingora => {
                install("pingora")?;
                let addr = free_addr()?;
                let mut command = Command::new(here.join("../target/pingora/release/pingora-peer"));
                command.args([&addr.to_string(), &server.to_string(), keep]);
                return Child::start_at(command, addr);
            }
        };
        command.args([&*upstream, &sockets.to_string(), keep]);
        Child::start(command)
    }
}

/// Two workers; each keeps as many idle connections as there are callers. It has its files in a folder of its own.
fn nginx(server: SocketAddr, keeps: bool) -> io::Result<Child> {
    let folder = beside_this("nginx")?;
    fs::create_dir_all(&folder)?;
    let (keepalive, connection, addr) = match keeps {
        true => (
            "keepalive 64; keepalive_requests 1000000000;",
            "\"\"",
            free_addr()?,
        ),
        false => ("", "close", free_addr()?),
    };
    let conf = format!(
        "daemon off;
        user root;
        worker_processes 2;
        pid nginx.pid;
        error_log error.log;
        events {{ worker_connections 1024; }}
        http {{
            access_log off;
            keepalive_requests 1000000000;
            upstream server {{ server {server}; {keepalive} }}
            server {{
                listen {addr} reuseport;
                location / {{
                    proxy_pass http://server;
                    proxy_http_version 1.1;
                    proxy_set_header Connection {connection};
                }}
            }}
        }}"
    );
    let file = folder.join("nginx.conf");
    fs::write(&file, conf)?;
    // Debian has it where the PATH of users does not lead.
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin";
    let mut command = Command::new("nginx");
    command.env("PATH", path).arg("-p").arg(&folder);
    command.arg("-e").arg(folder.join("error.log"));
    command.arg("-c").arg(file);
    Child::start_at(command, addr)
}

fn free_addr() -> io::Result<SocketAddr> {
    TcpListener::bind("127.0.0.1:0")?.local_addr()
}

/// In the folder that this program is in.
fn beside_this(name: &str) -> io::Result<PathBuf> {
    let program = std::env::current_exe()?;
    let folder = program.parent().expect("a program is in a folder");
    Ok(folder.join(name))
}
