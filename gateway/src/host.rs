//! Which names a server without API keys answers to.
//!
//! A web page can let its own name resolve to 127.0.0.1 (DNS rebinding); its scripts then reach a server
//! on loopback under the page's own origin, and no rule of the browser is in their way. What they cannot
//! change is the `Host` they send: the page's name. With API keys it does not matter who asks under
//! which name.

use std::net::IpAddr;

use http::header::HOST;
use http::uri::Authority;
use http::{HeaderMap, Uri};

use crate::error::ApiError;

/// The names that pass besides those of the loopback interface; `None` lets every name pass.
#[derive(Clone, Debug)]
pub struct Hosts {
    allowed: Option<Vec<String>>,
}

impl Hosts {
    /// `names` are `server.allowed_hosts`; `authenticated` says that API keys guard the server.
    pub fn new(names: &[String], authenticated: bool) -> Hosts {
        Hosts { allowed: (!authenticated).then(|| names.to_vec()) }
    }

    /// Every name the request gives for this server: HTTP/2's `:authority` (or an absolute URI) and `Host`.
    ///
    /// # Errors
    /// 403 for a name that is not allowed, or none at all: browsers always send one.
    pub fn check(&self, uri: &Uri, headers: &HeaderMap) -> Result<(), ApiError> {
        let Some(allowed) = &self.allowed else { return Ok(()) };
        let of_uri = uri.authority().map(|authority| authority.as_str().as_bytes());
        let mut given = of_uri.into_iter().chain(headers.get_all(HOST).iter().map(|value| value.as_bytes()));
        let Some(first) = given.next() else { return Err(ApiError::host_not_allowed("")) };
        match std::iter::once(first).chain(given).find(|host| !passes(host, allowed)) {
            None => Ok(()),
            Some(host) => Err(ApiError::host_not_allowed(&String::from_utf8_lossy(host))),
        }
    }
}

/// `host` as a header has it, with or without a port.
fn passes(host: &[u8], allowed: &[String]) -> bool {
    let Ok(authority) = Authority::try_from(host) else { return false };
    let name = authority.host();
    let port = authority.as_str().strip_prefix(name).map(|rest| rest.strip_prefix(':').unwrap_or(rest));
    if !port.is_some_and(|port| port.bytes().all(|byte| byte.is_ascii_digit())) {
        return false;
    }
    name.eq_ignore_ascii_case("localhost")
        || is_loopback(name)
        || allowed.iter().any(|allowed| name.eq_ignore_ascii_case(allowed))
}

fn is_loopback(name: &str) -> bool {
    let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    bare.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_loopback_and_configured_ones_pass() {
        let allowed = ["llm.example".to_owned(), "[2001:db8::1]".to_owned()];
        for (host, expected) in [
            ("localhost", true),
            ("LocalHost:8080", true),
            ("127.0.0.1:1", true),
            ("127.9.9.9", true),
            ("[::1]", true),
            ("[::1]:8080", true),
            ("[::ffff:127.0.0.1]:80", true),
            ("llm.example", true),
            ("LLM.example:443", true),
            ("[2001:db8::1]:443", true),
            ("evil.example", false),
            ("localhost.evil.example", false),
            ("127.0.0.1.evil.example", false),
            ("sub.llm.example", false),
            ("192.168.1.7", false),
            ("[::2]", false),
            ("0.0.0.0:8080", false),
            ("localhost:evil.example", false),
            ("localhost:80:80", false),
            ("user@localhost", false),
            ("a b", false),
            ("", false),
        ] {
            assert_eq!(passes(host.as_bytes(), &allowed), expected, "{host:?}");
        }
    }
}
