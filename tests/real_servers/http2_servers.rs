//! The servers of [`http2`](crate::http2), with the certificate of the tests; they log as those of [`servers`] do.

use std::fs::{read_to_string, write};
use std::path::PathBuf;
use std::process::Command;

use crate::running::{Running, program};
use crate::servers::{self, SOURCES};

/// nginx: a thousand requests a connection, and a second idle.
pub(crate) fn nginx() -> Option<Running> {
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
                log_format done '$request_method $arg_id $connection_requests';
                access_log {folder}/requests.log done;
                client_body_temp_path {folder}/body;
                proxy_temp_path {folder}/proxy;
                fastcgi_temp_path {folder}/fastcgi;
                uwsgi_temp_path {folder}/uwsgi;
                scgi_temp_path {folder}/scgi;
                keepalive_requests 1000;
                keepalive_timeout 1s;
                server {{
                    listen {addr} ssl http2;
                    ssl_certificate {folder}/cert.pem;
                    ssl_certificate_key {folder}/key.pem;
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

/// HAProxy, which keeps its connections a second, in front of an nginx of HTTP/1, which writes the log: both, HAProxy first.
pub(crate) fn haproxy_before_nginx() -> Option<(Running, Running)> {
    let haproxy = program("haproxy")?;
    let nginx = servers::plain_nginx()?;
    let front = Running::start(|folder, addr| {
        let part = |name: &str| read_to_string(folder.join(name)).expect("a file");
        let both = part("cert.pem") + &part("key.pem");
        write(folder.join("both.pem"), both).expect("a file");
        let conf = folder.join("haproxy.cfg");
        let text = format!(
            "defaults
                mode http
                timeout connect 5s
                timeout client 10s
                timeout server 10s
                timeout http-keep-alive 1s
            frontend front
                bind {addr} ssl crt {}/both.pem alpn h2
                default_backend back
            backend back
                server nginx {}\n",
            folder.display(),
            nginx.addr
        );
        write(&conf, text).expect("a file");
        let mut command = Command::new(&haproxy);
        command.args(["-db", "-q", "-f"]).arg(conf);
        command
    });
    Some((front, nginx))
}

/// Caddy, which keeps its connections a second, in front of an nginx of HTTP/1, which writes the log: both, Caddy first. Each
/// request to nginx has a connection of its own, as Caddy does not send a POST again that met a close.
pub(crate) fn caddy_before_nginx() -> Option<(Running, Running)> {
    let caddy = program("caddy")?;
    let nginx = servers::plain_nginx()?;
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

/// Apache httpd with its event worker: a second idle.
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
            LoadModule ssl_module /usr/lib/apache2/modules/mod_ssl.so
            LoadModule http2_module /usr/lib/apache2/modules/mod_http2.so
            User nobody
            Group nogroup
            KeepAlive On
            KeepAliveTimeout 1
            Protocols h2
            SSLEngine on
            SSLSessionCache none
            SSLCertificateFile {folder}/cert.pem
            SSLCertificateKeyFile {folder}/key.pem
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

/// Node: a hundred streams, and a thousand requests a connection.
pub(crate) fn node() -> Option<Running> {
    let node = program("node")?;
    let file = PathBuf::from(SOURCES).join("server_http2.mjs");
    Some(Running::start(|folder, addr| {
        let mut command = Command::new(&node);
        command
            .arg(&file)
            .args([addr.ip().to_string(), addr.port().to_string()])
            .arg(folder.join("requests.log"))
            .arg(folder);
        command
    }))
}

/// Go's net/http: a second idle, and a thousand requests a connection.
pub(crate) fn go() -> Option<Running> {
    let server = servers::go_program()?;
    Some(Running::start(|folder, addr| {
        let mut command = Command::new(&server);
        command
            .arg(addr.to_string())
            .arg(folder.join("requests.log"))
            .args([folder.join("cert.pem"), folder.join("key.pem")]);
        command
    }))
}
