//! The servers of [`mixed`](crate::mixed), each with the limits that it is here for.
//!
//! Each answers with the number of the request, and writes a line to `requests.log` of its folder for each that it has
//! carried out: method, number, and which one it was on its connection.

use std::fs::{create_dir_all, write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::running::{Running, program};

pub(crate) const SOURCES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/real_servers");

/// nginx: seven requests a connection, and a second idle. `index` is its variable for the last word of the log.
fn nginx(index: &str) -> Option<Running> {
    let nginx = program("nginx")?;
    Some(Running::start(|folder, addr| {
        let conf = folder.join("nginx.conf");
        let folder = folder.display();
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
                keepalive_requests 7;
                keepalive_timeout 1s;
                server {{
                    listen {addr};
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

pub(crate) fn plain_nginx() -> Option<Running> {
    nginx("$connection_requests")
}

/// HAProxy, which keeps its connections a second, in front of an nginx, which writes the log: both, HAProxy first.
pub(crate) fn haproxy_before_nginx() -> Option<(Running, Running)> {
    let haproxy = program("haproxy")?;
    let nginx = nginx("$http_x_use")?;
    let front = Running::start(|folder, addr| {
        let conf = folder.join("haproxy.cfg");
        let text = format!(
            "defaults
                mode http
                timeout connect 5s
                timeout client 10s
                timeout server 10s
                timeout http-keep-alive 1s
            frontend front
                bind {addr}
                http-request set-var(sess.uses) var(sess.uses),add(1) if {{ var(sess.uses) -m found }}
                http-request set-var(sess.uses) int(1) unless {{ var(sess.uses) -m found }}
                http-request set-header x-use %[var(sess.uses)]
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

/// Apache httpd with its event worker: a hundred requests a connection, and a second idle, both of which it says.
pub(crate) fn apache() -> Option<Running> {
    let apache = program("apache2")?;
    Some(Running::start(|folder, addr| {
        let lua = "function handle(r)\n  r:requestbody()\n  r:puts(r:parseargs().id)\n  return apache2.OK\nend\n";
        write(folder.join("answer.lua"), lua).expect("a file");
        let conf = folder.join("httpd.conf");
        let folder = folder.display();
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
            User nobody
            Group nogroup
            KeepAlive On
            KeepAliveTimeout 1
            MaxKeepAliveRequests 100
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

/// Node: five requests a connection, and a second idle, which it says.
pub(crate) fn node() -> Option<Running> {
    let node = program("node")?;
    let file = PathBuf::from(SOURCES).join("server.mjs");
    Some(Running::start(|folder, addr| {
        let mut command = Command::new(&node);
        command
            .arg(&file)
            .args([addr.ip().to_string(), addr.port().to_string()]);
        command.arg(folder.join("requests.log"));
        command
    }))
}

/// Go's net/http: a second idle.
pub(crate) fn go() -> Option<Running> {
    let server = go_program()?;
    Some(Running::start(|folder, addr| {
        let mut command = Command::new(&server);
        command
            .arg(addr.to_string())
            .arg(folder.join("requests.log"));
        command
    }))
}

/// The program, built.
pub(crate) fn go_program() -> Option<PathBuf> {
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
