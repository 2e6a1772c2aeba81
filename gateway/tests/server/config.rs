//! Where values come from, and what is refused.

use gateway::config::{Config, LogFormat, Sources};

fn load(
    file: Option<&str>,
    environment: &[(&str, &str)],
    overrides: &[(&str, &str)],
) -> Result<Config, String> {
    let folder = tempfile();
    let path = folder.join("janus.toml");
    std::fs::write(&path, file.unwrap_or_default()).unwrap();
    let own = |rows: &[(&str, &str)]| rows.iter().map(|(a, b)| (a.to_string(), b.to_string())).collect();
    let sources = Sources {
        file: file.map(|_| path.as_path()),
        environment: own(environment),
        overrides: own(overrides),
    };
    let loaded = Config::load(&sources).map_err(|error| error.to_string());
    std::fs::remove_dir_all(&folder).unwrap();
    loaded
}

fn tempfile() -> std::path::PathBuf {
    use std::sync::atomic::{AtomicUsize, Ordering};
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let folder = std::env::temp_dir().join(format!("janus-config-{}-{number}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

#[test]
fn later_sources_stand_over_earlier_ones() {
    let file = "[server]\nlisten = \"127.0.0.1:1\"\nconnections_max = 7\n[log]\nformat = \"json\"\n[models]\nserve = [\"x\"]";
    let environment = [
        ("JANUS_SERVER_LISTEN", "127.0.0.1:2"),
        ("JANUS_AUTH_API_KEYS", "a, b,"),
        ("JANUS_TEST_MODELS", "/x"),
        ("JANUS_CONFIG", "/y"),
        ("HOME", "/root"),
        ("JANUS_MODELS_VERIFY", "true"),
    ];
    let overrides = [("server.listen", "127.0.0.1:3"), ("models.serve", "a,b"), ("models.serve", "c")];
    let config = load(Some(file), &environment, &overrides).unwrap();
    assert_eq!(config.server.listen, "127.0.0.1:3");
    assert_eq!(config.server.connections_max, 7);
    assert_eq!(config.log.format, LogFormat::Json);
    assert_eq!(config.models.serve, ["a,b", "c"]);
    assert!(config.models.verify);
    assert_eq!(config.auth.api_keys.iter().map(|key| key.reveal()).collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(config.limits, Config::default().limits);
    assert!(!format!("{config:?}").contains("\"a\", \"b\""), "keys are not shown");
}

#[test]
fn nothing_at_all_gives_the_defaults() {
    assert_eq!(load(None, &[], &[]).unwrap(), Config::default());
    assert_eq!(load(Some(""), &[], &[]).unwrap(), Config::default());
}

#[test]
fn variables_of_kubernetes_services_are_passed_over() {
    let rows = [
        ("JANUS_SERVER_SERVICE_HOST", true),
        ("JANUS_SERVER_SERVICE_PORT", true),
        ("JANUS_SERVER_SERVICE_PORT_HTTP", true),
        ("JANUS_SERVER_PORT", true),
        ("JANUS_SERVER_PORT_8080_TCP", true),
        ("JANUS_SERVER_PORT_8080_TCP_ADDR", true),
        ("JANUS_MODELS_SERVICE_HOST", true),
        ("JANUS_SERVER_SERVICE", false),
        ("JANUS_SERVER_PORTS", false),
        ("JANUS_SERVER_SERVICE_PORTS", false),
    ];
    for (name, passed_over) in rows {
        let loaded = load(None, &[(name, "tcp://10.0.0.1:8080")], &[]);
        assert_eq!(loaded.is_ok_and(|config| config == Config::default()), passed_over, "{name}");
    }
}

#[test]
fn faults_name_source_and_key() {
    type Rows<'a> = &'a [(&'a str, &'a str)];
    let rows: &[(&str, Rows<'_>, Rows<'_>, &str)] = &[
        ("[server]\nlisen = \"x\"", &[], &[], "there is no key `server.lisen`; did you mean `listen`?"),
        ("[sever]\nlisten = \"x\"", &[], &[], "there is no section `sever`; did you mean `server`?"),
        ("[log]\nzzz = 1", &[], &[], "there is no key `log.zzz`; known are filter, format"),
        ("listen = \"x\"", &[], &[], "there is no section `listen`"),
        ("server = 1", &[], &[], "`server` must be a section"),
        ("[server]\nconnections_max = \"x\"", &[], &[], "`server.connections_max` must be a whole number"),
        ("[server]\nconnections_max = 0", &[], &[], "`server.connections_max` must be at least 1"),
        ("[server]\nheader_bytes_max = 100", &[], &[], "`server.header_bytes_max` must be at least 8192"),
        ("[server]\nconnections_max = -4", &[], &[], "connections_max"),
        ("[limits]\nlogprobs_max = 21", &[], &[], "can be 20 at most"),
        ("[log]\nformat = \"xml\"", &[], &[], "format"),
        ("[models]\nserve = [1]", &[], &[], "`models.serve` must be a list of strings"),
        ("[server", &[], &[], "janus.toml: line 1, column 8: "),
        (
            "",
            &[("JANUS_SERVER_LISTENS", "x")],
            &[],
            "JANUS_SERVER_LISTENS: there is no key `server.listens`; did you mean `listen`?",
        ),
        (
            "[auth]\napi_keys = [\"sesame\"]",
            &[("JANUS_AUTH_API_KEYS", "")],
            &[],
            "JANUS_AUTH_API_KEYS: `auth.api_keys` must be set to something",
        ),
        ("", &[("JANUS_AUTH_ADMIN_KEYS", " , ")], &[], "`auth.admin_keys` must be set to something"),
        ("", &[("JANUS_AUTH_API_KEYS_FILE", "")], &[], "`auth.api_keys_file` must be set to something"),
        (
            "",
            &[("JANUS_MODELS_VERIFY", "perhaps")],
            &[],
            "JANUS_MODELS_VERIFY: `models.verify` must be true or false",
        ),
        (
            "",
            &[],
            &[("server.connections_max", "many")],
            "command line: `server.connections_max` must be a whole number",
        ),
        ("", &[], &[("nothing", "1")], "there is no section `nothing`"),
    ];
    for (file, environment, overrides, expected) in rows {
        let error = load(Some(file), environment, overrides).expect_err(file);
        assert!(error.contains(expected), "{file} {environment:?} {overrides:?}: {error}");
    }
    let missing = Sources { file: Some(std::path::Path::new("/nowhere/janus.toml")), ..Sources::default() };
    assert!(Config::load(&missing).unwrap_err().to_string().contains("cannot read /nowhere/janus.toml"));
}

#[test]
fn faults_do_not_show_keys() {
    const CANARY: &str = "8714900125";
    let rows = [
        "[auth]\napi_keys = KEY",
        "[auth]\napi_keys = [KEY]",
        "[auth]\napi_keys = [[\"KEY\"]]",
        "[auth]\napi_keys = \"KEY\"",
        "[auth]\napi_keys = sk-KEY",
        "[auth]\napi_keys = [\"sk-KEY]",
        "[auth]\napi_keys = [\"sk-KEY\"",
        "[auth]\napi_keys = [\"sk-KEY\"] x",
        "[auth]\napi_keys = [sk-KEY]",
        "[auth]\napi_keys = [\"\\qKEY\"]",
        "[auth]\napi_keys [\"KEY\"]",
        "[auth]\napi_keys_file = KEY",
    ];
    for row in rows {
        let error = load(Some(&row.replace("KEY", CANARY)), &[], &[]).expect_err(row);
        assert!(!error.contains(CANARY), "{row}: {error}");
        assert!(error.contains("line 2, column ") || error.contains("`auth.api_keys"), "{row}: {error}");
    }
}
