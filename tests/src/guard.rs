//! A door with TLS and credentials before a server that has neither: nginx, which lets through who says the
//! right `Authorization`.
//!
//! Not for: pages that nginx serves by itself (see [`crate::nginx`]).

use std::{fs, path::Path, time::Duration};

use anyhow::Result;

use crate::{
    certs::Authority,
    child::{Child, Plan},
    kafka::free_port,
    nginx::tool,
    poll,
};

/// A running door; ends when it is dropped.
#[derive(Debug)]
pub struct Guard {
    port: u16,
    _process: Child,
}

impl Guard {
    /// Starts one before `server` (`host:port`), with a certificate of `authority`, for those who say one of
    /// these (`ApiKey a2V5`).
    ///
    /// # Errors
    /// When it does not start.
    pub fn start(
        folder: &Path,
        authority: &Authority,
        server: &str,
        known: &[&str],
    ) -> Result<Self> {
        let port = free_port()?;
        for below in ["logs", "temp"] {
            fs::create_dir_all(folder.join(below))?;
        }
        authority.sign(
            "127.0.0.1",
            &folder.join("cert.pem"),
            &folder.join("key.pem"),
        )?;
        fs::write(
            folder.join("nginx.conf"),
            configuration(port, server, known),
        )?;
        let prefix = format!("{}/", folder.display());
        let plan = Plan::new(tool("nginx")).args(["-p", &prefix, "-c", "nginx.conf"]);
        let mut process = Child::start("guard", &plan, &folder.join("nginx.out"))?;
        poll::until("nginx to listen", Duration::from_secs(20), || {
            process.must_run()?;
            Ok(std::net::TcpStream::connect(("127.0.0.1", port)).ok())
        })?;
        Ok(Self {
            port,
            _process: process,
        })
    }

    /// `https://host:port`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }
}

fn configuration(port: u16, server: &str, known: &[&str]) -> String {
    let temp: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|part| format!("  {part}_temp_path temp/{part};\n"))
        .concat();
    let user = match rustix::process::geteuid().is_root() {
        true => "user root;\n",
        false => "",
    };
    let known: String = known.iter().map(|said| format!("\"{said}\" 1; ")).collect();
    format!(
        "daemon off;\n{user}worker_processes 1;\npid nginx.pid;\nerror_log logs/error.log warn;\n\
         events {{ worker_connections 512; }}\n\
         http {{\n{temp}  access_log off;\n  client_max_body_size 64m;\n\
         \x20 map $http_authorization $known {{ default 0; {known}}}\n\
         \x20 server {{\n    listen 127.0.0.1:{port} ssl;\n\
         \x20   ssl_certificate cert.pem;\n    ssl_certificate_key key.pem;\n    ssl_protocols TLSv1.3;\n\
         \x20   if ($known = 0) {{ return 401; }}\n\
         \x20   location / {{ proxy_pass http://{server}; }}\n  }}\n}}\n"
    )
}
