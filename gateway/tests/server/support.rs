//! Starts servers, and a small HTTP/1.1 client that hides nothing: what tests send and see are bytes.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use engine::model::LoadedModel;
use engine::prompt::ChatTemplate;
use engine::testing::{self, IM_END, IM_START, MockOptions, NextToken};
use engine::{Engine, EngineOptions};
use gateway::loader::{EmptyShelf, Shelf};
use gateway::{Config, Front, Server};
use serde_json::Value;
use tokio::sync::oneshot;

/// Nothing here takes this long unless it hangs.
pub const PATIENCE: Duration = Duration::from_secs(20);

const TEMPLATE: &str = "{% for message in messages %}<|im_start|>{{ message['role'] }}\n\
    {{ message['content'] }}<|im_end|>\n{% endfor %}\
    {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

/// What the model called `chat` answers to everything.
pub const ANSWER: &str = "Hello, w\u{f6}rld!";

/// Says `text` after the last `<|im_start|>assistant\n`, or after nothing in a prompt without it.
pub fn answers(text: &'static str) -> NextToken {
    Arc::new(move |tokens| {
        let turn = tokens.iter().rposition(|token| *token == IM_START);
        let said =
            turn.map_or(tokens.len(), |turn| (tokens.len() - turn).saturating_sub("<assistant\n".len()));
        text.as_bytes().get(said).map_or(IM_END, |byte| u32::from(*byte))
    })
}

pub fn chat_model(name: &str, step_time: Duration, next: NextToken) -> LoadedModel {
    let options = MockOptions { name: name.into(), step_time, next, ..MockOptions::default() };
    let mut model = testing::chat_model(options);
    let template = ChatTemplate::new(TEMPLATE, &model.info.tokenizer).unwrap();
    model.info.chat_template = Some(Arc::new(template));
    model
}

/// `chat` says [`ANSWER`]; `endless` never stops, a token each 2 ms; `slow` takes 200 ms for one; `base` continues a text with letters
/// and has no chat template; `vectors` embeds; `org/slashed` has a slash in its name.
fn models() -> Vec<LoadedModel> {
    let mut base = chat_model("base", Duration::ZERO, testing::letters());
    base.info.chat_template = None;
    vec![
        chat_model("chat", Duration::ZERO, answers(ANSWER)),
        chat_model("endless", Duration::from_millis(2), testing::repeats("tick ")),
        chat_model("slow", Duration::from_millis(200), testing::repeats("tick ")),
        base,
        testing::embedding_model("vectors", 512, Duration::ZERO),
        chat_model("org/slashed", Duration::ZERO, answers(ANSWER)),
    ]
}

/// A server in this process.
pub struct Running {
    pub address: SocketAddr,
    /// What [`Running::get`] and what follows from it send as a key.
    pub key: Option<&'static str>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// Starts a server on a port of the system's choice.
pub fn start(configure: impl FnOnce(&mut Config)) -> Running {
    start_with(Arc::new(EmptyShelf), configure)
}

/// The same, with models that can be loaded later.
pub fn start_with(shelf: Arc<dyn Shelf>, configure: impl FnOnce(&mut Config)) -> Running {
    let (running, front, config) = start_closed(configure);
    open(&front, &config, shelf);
    running
}

/// A server whose models are not loaded yet; [`open`] does that.
pub fn start_closed(configure: impl FnOnce(&mut Config)) -> (Running, Arc<Front>, Config) {
    let mut config = Config::default();
    config.server.listen = "127.0.0.1:0".into();
    config.engine.kv_mib = 1;
    configure(&mut config);
    let front = Front::new(&config).unwrap();
    let served = Arc::clone(&front);
    let (stop, stopped) = oneshot::channel();
    let (report, address) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let server = Server::bind(served).await.unwrap();
            report.send(server.local_address()).unwrap();
            server.run(async { drop(stopped.await) }).await;
        });
    });
    let running =
        Running { address: address.recv().unwrap(), key: None, stop: Some(stop), thread: Some(thread) };
    (running, front, config)
}

pub fn open(front: &Front, config: &Config, shelf: Arc<dyn Shelf>) {
    let prefix = config.prefix.options().unwrap();
    let options = EngineOptions { prefix, ..config.engine.options() };
    front.open(Engine::start(models(), options).unwrap(), shelf);
}

impl Running {
    /// Begins the drain and returns.
    pub fn begin_stop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
    }

    /// Waits until the server has ended.
    pub fn wait(&mut self) {
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }

    pub fn connect(&self) -> Client {
        Client::new(self.address)
    }

    pub fn get(&self, path: &str) -> Reply {
        let authorization = self.key.map(|key| format!("Bearer {key}"));
        let headers: Vec<_> = authorization.iter().map(|value| ("authorization", value.as_str())).collect();
        self.connect().request("GET", path, &headers, "")
    }

    pub fn post(&self, path: &str, body: &str) -> Reply {
        self.connect().request("POST", path, &[("content-type", "application/json")], body)
    }

    /// The number after `name ` in the metrics' text.
    pub fn metric(&self, name: &str) -> f64 {
        let text = self.get("/metrics").text();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no metric {name} in\n{text}")).parse().unwrap()
    }

    /// Waits until nothing of any request is left.
    pub fn wait_until_idle(&self) {
        for name in
            ["janus_requests_in_flight", "janus_engine_running_sequences", "janus_engine_waiting_requests"]
        {
            eventually(name, || self.metric(name) == 0.0);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.begin_stop();
        if !std::thread::panicking() {
            self.wait();
        }
    }
}

/// Waits for `condition`, looking again and again.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < PATIENCE, "waited in vain for: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// One connection.
pub struct Client {
    reader: BufReader<TcpStream>,
}

/// An answer, its chunks put together.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    /// Status, `param` and `code` of an error, whose shape is checked.
    pub fn error(&self) -> (u16, Option<String>, Option<String>) {
        let json = self.json();
        let error = json["error"].as_object().unwrap_or_else(|| panic!("no error in {json}"));
        let members: Vec<&str> = error.keys().map(String::as_str).collect();
        assert_eq!(members, ["message", "type", "param", "code"]);
        assert!(!error["message"].as_str().unwrap().is_empty() && error["type"].is_string());
        let text = |name: &str| error[name].as_str().map(str::to_owned);
        (self.status, text("param"), text("code"))
    }

    /// The data of each event; the last is `[DONE]` and is checked and left out.
    pub fn events(&self) -> Vec<Value> {
        assert_eq!(self.header("content-type"), Some("text/event-stream; charset=utf-8"));
        let text = self.text();
        assert!(text.ends_with("\n\n"), "{text}");
        let mut data: Vec<&str> = text
            .split_terminator("\n\n")
            .filter(|event| !event.starts_with(':'))
            .map(|event| event.strip_prefix("data: ").unwrap_or_else(|| panic!("not an event: {event}")))
            .collect();
        assert_eq!(data.pop(), Some("[DONE]"), "{text}");
        data.into_iter().map(|data| serde_json::from_str(data).unwrap()).collect()
    }
}

impl Client {
    pub fn new(address: SocketAddr) -> Client {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Client { reader: BufReader::new(stream) }
    }

    pub fn stream(&mut self) -> &mut TcpStream {
        self.reader.get_mut()
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.stream().write_all(bytes).unwrap();
    }

    /// Sends a request without reading its answer.
    pub fn begin(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) {
        let mut head = format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\n");
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if !body.is_empty() {
            head.push_str(&format!("content-length: {}\r\n", body.len()));
        }
        self.send(format!("{head}\r\n{body}").as_bytes());
    }

    pub fn request(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Reply {
        self.begin(method, path, headers, body);
        self.reply()
    }

    pub fn post(&mut self, path: &str, body: &str) -> Reply {
        self.request("POST", path, &[("content-type", "application/json")], body)
    }

    /// Sends a JSON request without reading its answer.
    pub fn begin_post(&mut self, path: &str, body: &str) {
        self.begin("POST", path, &[("content-type", "application/json")], body);
    }

    /// Reads one whole answer.
    pub fn reply(&mut self) -> Reply {
        let (status, headers) = self.head();
        let header =
            |name: &str| headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str());
        let mut body = Vec::new();
        if header("transfer-encoding") == Some("chunked") {
            while let Some(chunk) = self.chunk() {
                body.extend(chunk);
            }
        } else {
            let length = header("content-length").map_or(0, |length| length.parse().unwrap());
            body.resize(length, 0);
            self.reader.read_exact(&mut body).unwrap();
        }
        Reply { status, headers, body }
    }

    /// Reads status and headers.
    pub fn head(&mut self) -> (u16, Vec<(String, String)>) {
        let status = self.line();
        let status =
            status.split(' ').nth(1).unwrap_or_else(|| panic!("not a status: {status:?}")).parse().unwrap();
        let mut headers = Vec::new();
        loop {
            let line = self.line();
            match line.split_once(": ") {
                Some((name, value)) => headers.push((name.to_ascii_lowercase(), value.to_owned())),
                None => return (status, headers),
            }
        }
    }

    /// The next chunk of a chunked body; `None` after the last.
    pub fn chunk(&mut self) -> Option<Vec<u8>> {
        let size = usize::from_str_radix(&self.line(), 16).unwrap();
        let mut chunk = vec![0; size];
        self.reader.read_exact(&mut chunk).unwrap();
        assert_eq!(self.line(), "");
        (size > 0).then_some(chunk)
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.reader.read_line(&mut line).unwrap();
        line.trim_end_matches(['\r', '\n']).to_owned()
    }

    /// Whether the server closes the connection, whatever it says before.
    pub fn is_closed(&mut self) -> bool {
        let mut rest = Vec::new();
        match self.reader.read_to_end(&mut rest) {
            Ok(_) => true,
            Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }
}
