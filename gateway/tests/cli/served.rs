//! A `janus serve` process, and what one asks it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

/// Runs until it is told to end, or dropped, which kills it.
pub struct Served {
    process: Child,
    /// Host and port.
    pub address: String,
    /// The first line of what it says it serves.
    pub listed: String,
}

impl Served {
    /// Runs `janus serve` as `command` has it, on a port of the system's choice, until its models are there.
    pub fn start(command: &mut Command) -> Served {
        let command = command.args(["--listen", "127.0.0.1:0"]).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut process = command.spawn().expect("janus starts");
        let said = BufReader::new(process.stdout.take().expect("it is piped"));
        let mut said = said.lines().map_while(Result::ok);
        let heading = said.find(|line| line.contains("is ready at")).expect("the block of a ready server");
        let (_, address) = heading.split_once("http://").expect("an address");
        let address = address.split_whitespace().next().expect("an address").to_owned();
        Served { process, address, listed: said.next().unwrap_or_default() }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn is_running(&mut self) -> bool {
        self.process.try_wait().expect("its state").is_none()
    }

    pub fn signal(&self, name: &str) {
        signal(&self.process, name);
    }

    /// Its exit code after this signal; none when the signal itself ended it.
    pub fn end(self, name: &str) -> Option<i32> {
        self.signal(name);
        self.wait()
    }

    /// Its exit code once it has ended; none when a signal ended it.
    pub fn wait(mut self) -> Option<i32> {
        self.process.wait().expect("janus ends").code()
    }

    /// Sends a request; its answer comes out of the connection.
    pub fn send(&self, method: &str, path: &str, body: &str) -> TcpStream {
        send(&self.address, method, path, body).expect("it listens and reads")
    }

    /// What a request is answered, which has to be in full.
    pub fn post(&self, path: &str, body: &Value) -> Value {
        let (status, answer) = post(&self.address, path, body).expect("it answers");
        assert!(status.contains("200"), "{body} was answered {status}: {answer}");
        serde_json::from_str(&answer).expect("an answer in JSON")
    }

    /// The number after `name ` in the metrics' text.
    pub fn metric(&self, name: &str) -> u64 {
        let (_, text) = get(&self.address, "/metrics");
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("no metric {name} in\n{text}"))
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Sends a signal, as a terminal or a service manager does.
pub fn signal(process: &Child, name: &str) {
    let sent = Command::new("kill").arg(name).arg(process.id().to_string()).status();
    assert!(sent.expect("kill runs").success());
}

/// Status line and body of an answer.
pub fn get(address: &str, path: &str) -> (String, String) {
    send(address, "GET", path, "").and_then(read).expect("it answers")
}

/// The same, of a server that may go away meanwhile.
pub fn post(address: &str, path: &str, body: &Value) -> std::io::Result<(String, String)> {
    send(address, "POST", path, &body.to_string()).and_then(read)
}

fn send(address: &str, method: &str, path: &str, body: &str) -> std::io::Result<TcpStream> {
    let mut stream = TcpStream::connect(address)?;
    let length = body.len();
    let headers = "host: localhost\r\nconnection: close\r\ncontent-type: application/json";
    write!(stream, "{method} {path} HTTP/1.1\r\n{headers}\r\ncontent-length: {length}\r\n\r\n{body}")?;
    Ok(stream)
}

fn read(mut stream: TcpStream) -> std::io::Result<(String, String)> {
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or(std::io::ErrorKind::UnexpectedEof)?;
    Ok((head.lines().next().unwrap_or_default().to_owned(), body.to_owned()))
}
