//! A `janus serve` of its own for the client tests.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::process::{command, display};

const READY_MAX: Duration = Duration::from_secs(120);
const STOP_MAX: Duration = Duration::from_secs(30);

pub struct Server {
    child: Child,
    port: u16,
    log: PathBuf,
    janus: PathBuf,
    models: PathBuf,
}

impl Server {
    /// Starts it on a free port and waits until it is ready.
    pub fn start(janus: &Path, models: &Path) -> anyhow::Result<Server> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let log = janus.with_file_name("janus-client-tests.log");
        let log_file = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let mut serve = command(janus);
        serve.arg("serve").arg("--models-dir").arg(models).arg("--listen").arg(format!("127.0.0.1:{port}"));
        println!("$ {} > {}", display(&serve), log.display());
        let child = serve.stdout(log_file.try_clone()?).stderr(log_file).spawn()?;
        // Absolute: suites run in their own folders.
        let models = std::path::absolute(models)?;
        let mut server = Server { child, port, log, janus: janus.to_owned(), models };
        server.wait_until_ready()?;
        Ok(server)
    }

    fn wait_until_ready(&mut self) -> anyhow::Result<()> {
        let start = Instant::now();
        while start.elapsed() < READY_MAX {
            if is_ready(self.port) {
                println!("janus is ready after {:.1} s", start.elapsed().as_secs_f32());
                return Ok(());
            }
            if let Some(status) = self.child.try_wait()? {
                let log = std::fs::read_to_string(&self.log).unwrap_or_default();
                bail!("janus serve ended ({status}) before it was ready:\n{log}");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        bail!("janus serve is not ready after {READY_MAX:?}; see {}", self.log.display())
    }

    /// Tells a client suite where the server is, and what it needs to start one with other settings.
    pub fn environment<'a>(&self, suite: &'a mut Command) -> &'a mut Command {
        suite
            .env("JANUS_URL", format!("http://127.0.0.1:{}", self.port))
            .env("JANUS_BIN", &self.janus)
            .env("JANUS_TEST_MODELS", &self.models)
    }

    /// Asks it to end, as a service manager would; a server that does not end cleanly is an error.
    pub fn stop(mut self) -> anyhow::Result<()> {
        Command::new("kill")
            .arg("-TERM")
            .arg(self.child.id().to_string())
            .status()
            .context("cannot run kill")?;
        let start = Instant::now();
        while start.elapsed() < STOP_MAX {
            match self.child.try_wait()? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => bail!("janus serve ended with {status}; see {}", self.log.display()),
                None => std::thread::sleep(Duration::from_millis(50)),
            }
        }
        bail!("janus serve still runs {STOP_MAX:?} after SIGTERM; see {}", self.log.display())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Already ended after `stop`; otherwise a suite could not be run and this must not outlive us.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn is_ready(port: u16) -> bool {
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        stream.write_all(b"GET /readyz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    ask().is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
}
