//! A file over HTTP(S), going on from where an earlier attempt ended.
//!
//! This also is how files come from the Hugging Face hub: its documented
//! `/{repo}/resolve/{revision}/{path}` answers plain ranged requests. The hub's own client crate would
//! bring an asynchronous HTTP stack and the hub's chunk store (reqwest and hf-xet, some 200 crates)
//! for one GET whose bytes are checked against a pinned hash anyway.

use std::io::Read;
use std::time::Duration;

use ureq::http::{Response, StatusCode};
use ureq::tls::{RootCerts, TlsConfig};
use ureq::{Agent, Body};

use super::super::HubRepository;
use super::super::partial::Partial;
use super::super::report::Report;
use super::super::size;
use super::SourceError;

/// A host that does not answer within this is passed over.
const CONNECT_MAX: Duration = Duration::from_secs(3);
/// A host that has taken the request must start its answer within this.
const ANSWER_MAX: Duration = Duration::from_secs(8);
/// A transfer that stands still this long is over.
const STALL_MAX: Duration = Duration::from_secs(15);
/// A broken transfer is taken up again this often while it makes headway.
const RESUMES_MAX: usize = 5;

const BUFFER_BYTES: usize = 64 * 1024;

/// Connections to file hosts.
pub struct Http {
    agent: Agent,
}

impl Default for Http {
    fn default() -> Http {
        Http::with_limits(CONNECT_MAX, ANSWER_MAX, STALL_MAX)
    }
}

impl Http {
    /// The limits, for tests that cannot wait that long.
    pub fn with_limits(connect: Duration, answer: Duration, stall: Duration) -> Http {
        // The system's certificates: a company's own authority is among them.
        let tls = TlsConfig::builder().root_certs(RootCerts::PlatformVerifier).build();
        let config = Agent::config_builder()
            .tls_config(tls)
            .timeout_resolve(Some(connect))
            .timeout_connect(Some(connect))
            .timeout_recv_response(Some(answer))
            .timeout_per_read(Some(stall))
            .http_status_as_error(false)
            .user_agent(concat!("janus/", env!("CARGO_PKG_VERSION")))
            .accept_encoding("identity")
            .build();
        Http { agent: Agent::new_with_config(config) }
    }

    /// Appends what is missing of `part` from `url`.
    pub fn fetch(&self, url: &str, part: &mut Partial<'_>, report: &dyn Report) -> Result<(), SourceError> {
        let mut resumes = 0;
        while part.missing() > 0 {
            let before = part.bytes();
            match self.fetch_once(url, part, report) {
                Ok(()) => {}
                // It was working: go on from here, on a new connection.
                Err(SourceError::Unreachable(_)) if part.bytes() > before && resumes < RESUMES_MAX => {}
                Err(error) => return Err(error),
            }
            resumes += 1;
        }
        Ok(())
    }

    fn fetch_once(&self, url: &str, part: &mut Partial<'_>, report: &dyn Report) -> Result<(), SourceError> {
        let mut request = self.agent.get(url);
        if part.bytes() > 0 {
            request = request.header("range", format!("bytes={}-", part.bytes()));
        }
        let mut response = request.call().map_err(|error| unreachable(&error))?;
        align(&response, part)?;
        report.start(&part.entry().path, part.entry().bytes, part.bytes());
        let copied = copy(&mut response, part, report);
        report.end();
        copied
    }
}

/// Makes the partial file end where the answer's body begins, or refuses the answer.
fn align(response: &Response<Body>, part: &mut Partial<'_>) -> Result<(), SourceError> {
    match response.status() {
        StatusCode::OK => part.rewind(0)?,
        StatusCode::PARTIAL_CONTENT if range_start(response) == Some(part.bytes()) => {}
        StatusCode::PARTIAL_CONTENT => {
            return Err(SourceError::Refused("answers with another range than asked for".into()));
        }
        // The file there is shorter than what is here.
        StatusCode::RANGE_NOT_SATISFIABLE => {
            part.rewind(0)?;
            return Err(SourceError::Refused("has a file of another size".into()));
        }
        status if status.is_server_error() => {
            return Err(SourceError::Unreachable(format!("answers {status}")));
        }
        status => return Err(SourceError::Refused(format!("answers {status}"))),
    }
    match response.body().content_length() {
        Some(length) if length != part.missing() => Err(SourceError::Refused(format!(
            "has a file of another size ({}, not {})",
            size(part.bytes() + length),
            size(part.entry().bytes)
        ))),
        _ => Ok(()),
    }
}

/// `N` of `content-range: bytes N-M/TOTAL`.
fn range_start(response: &Response<Body>) -> Option<u64> {
    let range = response.headers().get("content-range")?.to_str().ok()?;
    range.strip_prefix("bytes ")?.split('-').next()?.parse().ok()
}

fn copy(
    response: &mut Response<Body>,
    part: &mut Partial<'_>,
    report: &dyn Report,
) -> Result<(), SourceError> {
    let mut body = response.body_mut().as_reader();
    let mut buffer = vec![0; BUFFER_BYTES];
    while part.missing() > 0 {
        match body.read(&mut buffer) {
            Ok(0) => return Err(SourceError::Unreachable(ended(part))),
            Ok(read) if part.append(&buffer[..read])? => report.at(part.bytes()),
            Ok(_) => return Err(SourceError::Refused("sends more than the file holds".into())),
            Err(error) => return Err(SourceError::Unreachable(format!("{} ({error})", ended(part)))),
        }
    }
    Ok(())
}

fn ended(part: &Partial<'_>) -> String {
    format!("broke off after {} of {}", size(part.bytes()), size(part.entry().bytes))
}

fn unreachable(error: &ureq::Error) -> SourceError {
    let why = match error {
        ureq::Error::HostNotFound => "its address is not known here".to_owned(),
        ureq::Error::Timeout(_) => "does not answer".to_owned(),
        // What the system's resolver says when there is no network or no such host.
        ureq::Error::Io(error) if error.to_string().contains("lookup address") => {
            "its address is not known here".to_owned()
        }
        ureq::Error::Io(error) => error.to_string(),
        other => other.to_string(),
    };
    SourceError::Unreachable(why)
}

/// Where the hub is: `HF_ENDPOINT`, as its other clients have it, for a mirror.
pub fn hub_endpoint() -> String {
    std::env::var("HF_ENDPOINT").unwrap_or_else(|_| "https://huggingface.co".to_owned())
}

/// The hub's address of a file.
pub fn hub_url(endpoint: &str, hub: &HubRepository, path: &str) -> String {
    format!("{}/{}/resolve/{}/{path}", endpoint.trim_end_matches('/'), hub.repo, hub.revision)
}
