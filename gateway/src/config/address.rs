//! Where to listen, whether that is safe, and what a host's name looks like.

use std::net::{SocketAddr, ToSocketAddrs};

use http::uri::Authority;

use super::ConfigError;

const KEY: &str = "server.listen";

/// The address `listen` names (an IP address or host name, and a port).
///
/// # Errors
/// [`ConfigError::Invalid`] if it names none, or one that others can reach while `authenticated` is
/// false: an open inference server is found and used by strangers within hours.
pub fn listen_address(listen: &str, authenticated: bool) -> Result<SocketAddr, ConfigError> {
    let invalid = |reason: String| ConfigError::Invalid { key: KEY, reason };
    let mut addresses = listen.to_socket_addrs().map_err(|error| {
        invalid(format!("`{listen}` is not ADDRESS:PORT, as in 127.0.0.1:8080 ({error})"))
    })?;
    let address = addresses.next().ok_or_else(|| invalid(format!("`{listen}` has no address")))?;
    if !authenticated && !address.ip().to_canonical().is_loopback() {
        return Err(invalid(format!(
            "`{listen}` can be reached from other machines, and no API key is configured: anyone there could \
             use this server. Set auth.api_keys_file (or JANUS_AUTH_API_KEYS), or listen on 127.0.0.1"
        )));
    }
    Ok(address)
}

/// Whether `host` is a name or address as a `Host` header has it, without scheme and port.
pub fn is_host_name(host: &str) -> bool {
    host.parse::<Authority>().is_ok_and(|authority| authority.host() == host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn public_addresses_need_keys() {
        let rows = [
            ("127.0.0.1:8080", true, true),
            ("127.9.9.9:1", true, true),
            ("[::1]:8080", true, true),
            ("localhost:8080", true, true),
            ("[::ffff:127.0.0.1]:80", true, true),
            ("0.0.0.0:8080", false, true),
            ("[::]:8080", false, true),
            ("192.168.1.7:8080", false, true),
            ("8080", false, false),
            ("127.0.0.1", false, false),
            ("127.0.0.1:99999", false, false),
            ("", false, false),
        ];
        for (listen, open, keyed) in rows {
            assert_eq!(listen_address(listen, false).is_ok(), open, "{listen} without keys");
            assert_eq!(listen_address(listen, true).is_ok(), keyed, "{listen} with keys");
        }
    }

    #[test]
    fn host_names_have_no_scheme_or_port() {
        for (host, expected) in [
            ("llm.example", true),
            ("[2001:db8::1]", true),
            ("10.0.0.1", true),
            ("llm.example:443", false),
            ("http://llm.example", false),
            ("user@llm.example", false),
            ("a b", false),
            ("", false),
        ] {
            assert_eq!(is_host_name(host), expected, "{host:?}");
        }
    }
}
