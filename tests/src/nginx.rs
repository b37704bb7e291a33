//! A real web server (nginx), load on it (wrk), and logrotate.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow};

use crate::{
    child::{Child, Plan},
    http,
    kafka::free_port,
    packed, poll,
};

/// How the access log is rotated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Logrotate {
    /// Rename, then USR1 tells nginx to open the new file.
    RenameUsr1,
    /// As before, under a name with the time; what was rotated before that is compressed. At most
    /// once a second. The way of `deploy/logrotate/app`.
    DatedAndCompressed,
    /// Copy, then cut the file that nginx goes on writing to.
    CopyTruncate,
}

/// A running nginx with one worker; its folder holds everything.
#[derive(Debug)]
pub struct Nginx {
    folder: PathBuf,
    port: u16,
    process: Child,
}

impl Nginx {
    /// Starts it; every request becomes a line of the access log, with an id of its own at the end.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start(folder: &Path) -> Result<Self> {
        let port = free_port()?;
        for below in ["logs", "temp", "www"] {
            fs::create_dir_all(folder.join(below))?;
        }
        fs::write(
            folder.join("www/index.html"),
            "<h1>many small streams</h1>\n",
        )?;
        fs::write(folder.join("nginx.conf"), configuration(port))?;
        let plan = Plan::new(tool("nginx")).args([
            "-p",
            &format!("{}/", folder.display()),
            "-c",
            "nginx.conf",
        ]);
        let mut process = Child::start("nginx", &plan, &folder.join("nginx.out"))?;
        poll::until("nginx to serve", Duration::from_secs(20), || {
            process.must_run()?;
            Ok(http::get(&format!("127.0.0.1:{port}"), "/status").ok())
        })?;
        Ok(Self {
            folder: folder.to_owned(),
            port,
            process,
        })
    }

    /// The folder of the access log.
    #[must_use]
    pub fn logs(&self) -> PathBuf {
        self.folder.join("logs")
    }

    /// Puts load on it for so many seconds: 32 connections, as fast as it can.
    ///
    /// # Errors
    /// When wrk is missing or cannot connect.
    pub fn load(&self, seconds: u32) -> Result<Child> {
        let url = format!("http://127.0.0.1:{}/", self.port);
        let plan = Plan::new("wrk").args(["-t1", "-c32", &format!("-d{seconds}s"), &url]);
        Child::start("wrk", &plan, &self.folder.join("wrk.out"))
    }

    /// Requests that it has served since it started, by its own counter, this question included.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn requests(&self) -> Result<u64> {
        let text = http::get(&format!("127.0.0.1:{}", self.port), "/count")?.text();
        // "server accepts handled requests\n 7 7 1234 \n"
        let numbers = text.lines().nth(2).unwrap_or_default();
        let requests = numbers.split_whitespace().nth(2);
        Ok(requests
            .with_context(|| format!("unknown status page: {text}"))?
            .parse()?)
    }

    /// Rotates now.
    ///
    /// # Errors
    /// When logrotate fails.
    pub fn rotate(&self, how: Logrotate) -> Result<()> {
        let log = self.logs().join("access.log");
        let pid = self.folder.join("nginx.pid");
        let reopen = format!(
            "sharedscripts\npostrotate\nkill -USR1 $(cat {})\nendscript",
            pid.display()
        );
        let way = match how {
            Logrotate::CopyTruncate => "copytruncate".to_owned(),
            Logrotate::RenameUsr1 => format!("create\n{reopen}"),
            Logrotate::DatedAndCompressed => {
                format!("create\ndateext\ndateformat -%Y%m%d-%s\ncompress\ndelaycompress\n{reopen}")
            }
        };
        let su = if rustix::process::geteuid().is_root() {
            "su root root\n"
        } else {
            ""
        };
        let rules = format!(
            "{} {{\nrotate 100\nmissingok\n{su}{way}\n}}\n",
            log.display()
        );
        let file = self.folder.join("rotate.conf");
        fs::write(&file, rules)?;
        // logrotate refuses rules that others may write.
        fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o644))?;
        let state = self.folder.join("rotate.state");
        let args = [
            "-f",
            "-s",
            &state.display().to_string(),
            &file.display().to_string(),
        ];
        Plan::new(tool("logrotate")).args(args).output()?;
        Ok(())
    }

    /// Every line in the live and the rotated logs, without newlines.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn lines(&self) -> Result<Vec<Vec<u8>>> {
        let mut lines = Vec::new();
        for entry in fs::read_dir(self.logs())? {
            let path = entry?.path();
            let name = path
                .file_name()
                .ok_or_else(|| anyhow!("no name"))?
                .to_string_lossy();
            if name.starts_with("access.log") {
                let text = packed::read(&path)?;
                let whole = text
                    .split(|&byte| byte == b'\n')
                    .filter(|line| !line.is_empty());
                lines.extend(whole.map(<[u8]>::to_vec));
            }
        }
        Ok(lines)
    }

    /// Stops it in the quick, orderly way, so that every line is written.
    ///
    /// # Errors
    /// When it does not end.
    pub fn stop(&mut self) -> Result<()> {
        self.process.terminate(Duration::from_secs(20)).map(drop)
    }
}

/// Debian keeps these outside of an ordinary user's path.
pub(crate) fn tool(name: &str) -> PathBuf {
    let there = Path::new("/usr/sbin").join(name);
    if there.is_file() { there } else { name.into() }
}

fn configuration(port: u16) -> String {
    let temp: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|part| format!("  {part}_temp_path temp/{part};\n"))
        .concat();
    let user = if rustix::process::geteuid().is_root() {
        "user root;\n"
    } else {
        ""
    };
    format!(
        "daemon off;\n{user}worker_processes 1;\npid nginx.pid;\nerror_log logs/error.log warn;\n\
         events {{ worker_connections 512; }}\n\
         http {{\n{temp}\
         \x20 log_format ids '$remote_addr - $remote_user [$time_local] \"$request\" $status \
         $body_bytes_sent \"$http_referer\" \"$http_user_agent\" $request_id';\n\
         \x20 access_log logs/access.log ids;\n\
         \x20 server {{\n    listen 127.0.0.1:{port};\n    root www;\n\
         \x20   location = /count {{ access_log off; stub_status; }}\n\
         \x20   location = /status {{ access_log off; return 200; }}\n  }}\n}}\n"
    )
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::scratch;

    /// The rig's own measure must be right before it judges anybody.
    #[test]
    fn rename_and_usr1_keep_a_line_of_every_request() -> Result<()> {
        scratch::scenario("nginx-self", |folder| {
            let mut nginx = Nginx::start(folder)?;
            let before = nginx.requests()?;
            let mut load = nginx.load(1)?;
            nginx.rotate(Logrotate::RenameUsr1)?;
            load.wait(Duration::from_secs(30))?;
            nginx.rotate(Logrotate::RenameUsr1)?;
            let served = nginx.requests()? - before - 1;
            nginx.stop()?;
            let lines = nginx.lines()?;
            let once: HashSet<_> = lines.iter().collect();
            anyhow::ensure!(
                served > 100 && lines.len() as u64 == served && once.len() == lines.len(),
                "{served} requests, {} lines, {} of them different",
                lines.len(),
                once.len()
            );
            Ok(())
        })
    }
}
