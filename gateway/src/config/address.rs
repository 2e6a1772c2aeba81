//! Where to listen, and whether that is safe.

use std::net::{SocketAddr, ToSocketAddrs};

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
}
