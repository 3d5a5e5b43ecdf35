//! The servers of [`mixed`](crate::mixed) and [`http2`](crate::http2), each with the limits that it is here for. Those of
//! HTTP/2 have the certificate of the tests.
//!
//! Each answers with the number of the request, and writes a line to `requests.log` of its folder for each that it has
//! carried out: method, number, and which one it was on its connection.

use std::fs::{create_dir_all, read_to_string, write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::running::{Running, program};

pub(crate) const SOURCES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/real_servers");

/// What a server speaks: HTTP/1 in the clear, or HTTP/2 over TLS.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Speaks {
    Http1,
    Http2,
}

impl Speaks {
    /// `text`, for a server of HTTP/2.
    fn if_http2(self, text: impl Into<String>) -> String {
        match self {
            Self::Http1 => String::new(),
            Self::Http2 => text.into(),
        }
    }
}

/// nginx: seven requests a connection of HTTP/1, a thousand of HTTP/2, and a second idle.
pub(crate) fn nginx(speaks: Speaks) -> Option<Running> {
    logging_nginx(speaks, "$connection_requests")
}

/// `index` is its variable for the last word of the log.
fn logging_nginx(speaks: Speaks, index: &str) -> Option<Running> {
    let nginx = program("nginx")?;
    Some(Running::start(|folder, addr| {
        let conf = folder.join("nginx.conf");
        let folder = folder.display();
        let requests = match speaks {
            Speaks::Http1 => 7,
            Speaks::Http2 => 1000,
        };
        let listen = speaks.if_http2(" ssl http2");
        let certificate = speaks.if_http2(format!(
            "ssl_certificate {folder}/cert.pem;
                    ssl_certificate_key {folder}/key.pem;"
        ));
        let text = format!(
            "daemon off;
            worker_processes 1;
            pid {folder}/nginx.pid;
            events {{ worker_connections 256; }}
            http {{
                log_format done '$request_method $arg_id {index}';
                access_log {folder}/requests.log done;
                client_body_temp_path {folder}/body;
                proxy_temp_path {folder}/proxy;
                fastcgi_temp_path {folder}/fastcgi;
                uwsgi_temp_path {folder}/uwsgi;
                scgi_temp_path {folder}/scgi;
                keepalive_requests {requests};
                keepalive_timeout 1s;
                server {{
                    listen {addr}{listen};
                    {certificate}
                    location / {{ return 200 $arg_id; }}
                }}
            }}"
        );
        write(&conf, text).expect("a file");
        let mut command = Command::new(&nginx);
        command.arg("-p").arg(format!("{folder}"));
        command.arg("-c").arg(conf);
        command.arg("-e").arg(format!("{folder}/error.log"));
        command
    }))
}

/// HAProxy, which keeps its connections a second, in front of an nginx of HTTP/1, which writes the log: both, HAProxy
/// first.
pub(crate) fn haproxy_before_nginx(speaks: Speaks) -> Option<(Running, Running)> {
    let haproxy = program("haproxy")?;
    let (index, count) = match speaks {
        Speaks::Http1 => ("$http_x_use", COUNT_USES),
        Speaks::Http2 => ("$connection_requests", ""),
    };
    let nginx = logging_nginx(Speaks::Http1, index)?;
    let front = Running::start(|folder, addr| {
        let part = |name: &str| read_to_string(folder.join(name)).expect("a file");
        if speaks == Speaks::Http2 {
            let both = part("cert.pem") + &part("key.pem");
            write(folder.join("both.pem"), both).expect("a file");
        }
        let tls = speaks.if_http2(format!(" ssl crt {}/both.pem alpn h2", folder.display()));
        let conf = folder.join("haproxy.cfg");
        let text = format!(
            "defaults
                mode http
                timeout connect 5s
                timeout client 10s
                timeout server 10s
                timeout http-keep-alive 1s
            frontend front
                bind {addr}{tls}
                {count}
                default_backend back
            backend back
                server nginx {}\n",
            nginx.addr
        );
        write(&conf, text).expect("a file");
        let mut command = Command::new(&haproxy);
        command.args(["-db", "-q", "-f"]).arg(conf);
        command
    });
    Some((front, nginx))
}

/// Has HAProxy count the requests of a connection, for the log of the server behind it.
const COUNT_USES: &str =
    "http-request set-var(sess.uses) var(sess.uses),add(1) if { var(sess.uses) -m found }
                http-request set-var(sess.uses) int(1) unless { var(sess.uses) -m found }
                http-request set-header x-use %[var(sess.uses)]";

/// Caddy, which keeps its connections a second, in front of an nginx of HTTP/1, which writes the log: both, Caddy first. Each
/// request to nginx has a connection of its own, as Caddy does not send a POST again that met a close.
pub(crate) fn caddy_before_nginx() -> Option<(Running, Running)> {
    let caddy = program("caddy")?;
    let nginx = nginx(Speaks::Http1)?;
    let front = Running::start(|folder, addr| {
        let conf = folder.join("Caddyfile");
        let folder = folder.display();
        let text = format!(
            "{{
                admin off
                auto_https off
                log {{
                    level ERROR
                }}
                servers {{
                    timeouts {{
                        idle 1s
                    }}
                }}
            }}
            https://localhost:{} {{
                bind {}
                tls {folder}/cert.pem {folder}/key.pem
                reverse_proxy {} {{
                    transport http {{
                        keepalive off
                    }}
                }}
            }}\n",
            addr.port(),
            addr.ip(),
            nginx.addr
        );
        write(&conf, text).expect("a file");
        let mut command = Command::new(&caddy);
        command.env("HOME", format!("{folder}"));
        command.args(["run", "--adapter", "caddyfile", "--config"]);
        command.arg(conf);
        command
    });
    Some((front, nginx))
}

/// Apache httpd with its event worker: a second idle, and a hundred requests a connection of HTTP/1, both of which it says.
pub(crate) fn apache(speaks: Speaks) -> Option<Running> {
    let apache = program("apache2")?;
    Some(Running::start(|folder, addr| {
        let lua = "function handle(r)\n  r:requestbody()\n  r:puts(r:parseargs().id)\n  return apache2.OK\nend\n";
        write(folder.join("answer.lua"), lua).expect("a file");
        let conf = folder.join("httpd.conf");
        let folder = folder.display();
        let modules = speaks.if_http2(
            "LoadModule ssl_module /usr/lib/apache2/modules/mod_ssl.so
            LoadModule http2_module /usr/lib/apache2/modules/mod_http2.so",
        );
        let version = match speaks {
            Speaks::Http1 => "MaxKeepAliveRequests 100".to_owned(),
            Speaks::Http2 => format!(
                "Protocols h2
            SSLEngine on
            SSLSessionCache none
            SSLCertificateFile {folder}/cert.pem
            SSLCertificateKeyFile {folder}/key.pem"
            ),
        };
        // What is said of users counts where it is started by root.
        let text = format!(
            "ServerRoot {folder}
            ServerName localhost
            PidFile {folder}/httpd.pid
            DefaultRuntimeDir {folder}
            ErrorLog {folder}/error.log
            Listen {addr}
            LoadModule mpm_event_module /usr/lib/apache2/modules/mod_mpm_event.so
            LoadModule authz_core_module /usr/lib/apache2/modules/mod_authz_core.so
            LoadModule lua_module /usr/lib/apache2/modules/mod_lua.so
            {modules}
            User nobody
            Group nogroup
            KeepAlive On
            KeepAliveTimeout 1
            {version}
            LuaMapHandler ^/ {folder}/answer.lua handle
            LogFormat \"%m %q %k\" done
            CustomLog {folder}/requests.log done\n"
        );
        write(&conf, text).expect("a file");
        let mut command = Command::new(&apache);
        command.arg("-DFOREGROUND").arg("-f").arg(conf);
        command
    }))
}

/// Node. HTTP/1: five requests a connection, and a second idle, which it says. HTTP/2: a hundred streams, and a thousand
/// requests a connection.
pub(crate) fn node(speaks: Speaks) -> Option<Running> {
    let node = program("node")?;
    let file = PathBuf::from(SOURCES).join(match speaks {
        Speaks::Http1 => "server.mjs",
        Speaks::Http2 => "server_http2.mjs",
    });
    Some(Running::start(|folder, addr| {
        let mut command = Command::new(&node);
        command
            .arg(&file)
            .args([addr.ip().to_string(), addr.port().to_string()]);
        command.arg(folder.join("requests.log"));
        if speaks == Speaks::Http2 {
            command.arg(folder);
        }
        command
    }))
}

/// Go's net/http: a second idle, and a thousand requests a connection of HTTP/2.
pub(crate) fn go(speaks: Speaks) -> Option<Running> {
    let server = go_program()?;
    Some(Running::start(|folder, addr| {
        let mut command = Command::new(&server);
        command
            .arg(addr.to_string())
            .arg(folder.join("requests.log"));
        if speaks == Speaks::Http2 {
            command.args([folder.join("cert.pem"), folder.join("key.pem")]);
        }
        command
    }))
}

/// The program, built.
fn go_program() -> Option<PathBuf> {
    let go = program("go")?;
    // Built where the next run finds it.
    let built = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("go");
    create_dir_all(&built).expect("a folder");
    let server = built.join("server");
    let mut build = Command::new(go);
    build
        .arg("build")
        .arg("-o")
        .arg(&server)
        .arg(Path::new(SOURCES).join("server.go"));
    assert!(build.status().expect("go runs").success(), "go builds it");
    Some(server)
}

/// Python's http.server: HTTP/1.0, a request a connection.
pub(crate) fn python() -> Option<Running> {
    let python = program("python3")?;
    let file = PathBuf::from(SOURCES).join("server.py");
    Some(Running::start(|folder: &Path, addr: SocketAddr| {
        let mut command = Command::new(&python);
        command
            .arg(&file)
            .args([addr.ip().to_string(), addr.port().to_string()]);
        command.arg(folder.join("requests.log"));
        command
    }))
}
