//! Names a server is asked under: a page of another site must not reach it by pointing its own name at
//! this machine.

use crate::support::{Reply, Running, start};

fn get(server: &Running, target: &str, headers: &str) -> Reply {
    let mut client = server.connect();
    client.send(format!("GET {target} HTTP/1.1\r\n{headers}\r\n").as_bytes());
    client.reply()
}

#[test]
fn a_server_without_keys_answers_to_its_own_names_only() {
    let server = start(|config| config.server.allowed_hosts = vec!["llm.example".into()]);
    for (target, headers, status) in [
        ("/v1/models", "host: localhost\r\n", 200),
        ("/v1/models", "host: 127.0.0.1:8080\r\n", 200),
        ("/v1/models", "host: [::1]:8080\r\n", 200),
        ("/v1/models", "host: LLM.example:80\r\n", 200),
        ("/v1/models", "host: evil.example\r\n", 403),
        ("/v1/models", "host: evil.example:8080\r\n", 403),
        ("/v1/models", "", 403),
        ("/v1/models", "host: localhost\r\nhost: evil.example\r\n", 403),
        ("http://evil.example/v1/models", "host: localhost\r\n", 403),
        ("http://localhost/v1/models", "host: localhost\r\n", 200),
        ("/metrics", "host: evil.example\r\n", 403),
        ("/healthz", "host: evil.example\r\n", 403),
        ("/nowhere", "host: evil.example\r\n", 403),
    ] {
        let reply = get(&server, target, headers);
        assert_eq!(reply.status, status, "{target} {headers:?}: {}", reply.text());
        if status == 403 {
            assert_eq!(reply.error(), (403, None, Some("host_not_allowed".into())));
            assert!(reply.text().contains("server.allowed_hosts"), "{}", reply.text());
        }
    }
}

#[test]
fn models_are_managed_without_keys_only_where_nobody_else_can_reach() {
    for (hosts, status) in [(vec![], 200), (vec!["llm.example".to_owned()], 403)] {
        let server = start(|config| config.server.allowed_hosts = hosts);
        // As a proxy may say it: under the name it reaches the server by.
        assert_eq!(get(&server, "/admin/models", "host: 127.0.0.1:8080\r\n").status, status);
    }
}

#[test]
fn a_server_with_keys_answers_to_any_name() {
    let server = start(|config| config.auth.api_keys = vec![gateway::config::Secret::new("secret")]);
    let key = "authorization: Bearer secret\r\n";
    assert_eq!(get(&server, "/v1/models", &format!("host: any.example\r\n{key}")).status, 200);
    assert_eq!(get(&server, "/v1/models", "host: any.example\r\n").status, 401);
}
