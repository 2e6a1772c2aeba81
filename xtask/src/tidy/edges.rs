//! Which crate may use which. The table is docs/ARCHITECTURE.md's picture, as data.

use super::{Finding, Tree};

/// What a crate of ours may depend on.
struct Layer {
    /// Folder, which is also the crate's name.
    name: &'static str,
    /// Crates of ours it may use.
    uses: &'static [&'static str],
    /// It may name third-party crates of HTTP and asynchronous runtimes.
    speaks_http: bool,
}

const LAYERS: &[Layer] = &[
    Layer { name: "kernels", uses: &[], speaks_http: false },
    Layer { name: "openapi", uses: &[], speaks_http: false },
    Layer { name: "engine", uses: &["kernels"], speaks_http: false },
    // kernels too: the command line chooses the device.
    Layer { name: "gateway", uses: &["openapi", "engine", "kernels"], speaks_http: true },
    Layer { name: "benches", uses: &["kernels", "openapi", "engine", "gateway"], speaks_http: true },
    Layer { name: "xtask", uses: &[], speaks_http: false },
];

/// Names a crate that does not speak HTTP must not depend on.
const HTTP: &[&str] = &[
    "axum",
    "http",
    "http-body",
    "http-body-util",
    "hyper",
    "hyper-util",
    "reqwest",
    "tower",
    "tower-http",
    "ureq",
];

/// Findings of every `Cargo.toml` in the tree but the workspace's own.
pub fn check(tree: &Tree) -> Vec<Finding> {
    let manifests = tree.files.iter().filter_map(|(path, text)| {
        let folder = path.strip_suffix("/Cargo.toml")?;
        // A fuzz crate stands outside the workspace and uses the crate it lies in.
        (!folder.ends_with("fuzz")).then_some((path, folder, text))
    });
    manifests.flat_map(|(path, folder, text)| check_manifest(path, folder, text)).collect()
}

fn check_manifest(path: &str, folder: &str, manifest: &str) -> Vec<Finding> {
    let Some(layer) = LAYERS.iter().find(|layer| layer.name == folder) else {
        let text = "this crate has no row in xtask/src/tidy/edges.rs: say what it may use";
        return vec![Finding::new(path, 0, text)];
    };
    dependencies(manifest)
        .into_iter()
        .filter_map(|(line, name)| Some(Finding::new(path, line, refusal(layer, name)?)))
        .collect()
}

/// Why `layer` must not depend on `name`, if it must not.
fn refusal(layer: &Layer, name: &str) -> Option<String> {
    let ours = LAYERS.iter().any(|other| other.name == name);
    if ours && name != layer.name && !layer.uses.contains(&name) {
        return Some(format!("{} must not use {name}", layer.name));
    }
    if HTTP.contains(&name) && !layer.speaks_http {
        return Some(format!("{name} is HTTP, which only gateway and the programs above it speak"));
    }
    None
}

/// (line, crate name) of each dependency, in every dependency section: `name = ...`, `name.workspace`,
/// and `[dependencies.name]`. Manifests here are written one dependency a line.
fn dependencies(manifest: &str) -> Vec<(usize, &str)> {
    let mut section = "";
    let mut found = Vec::new();
    for (index, line) in manifest.lines().enumerate() {
        let line = line.trim();
        if let Some(header) = line.strip_prefix('[') {
            section = header.trim_end_matches(']');
            if let Some((before, name)) = section.rsplit_once('.')
                && is_dependency_section(before)
            {
                found.push((index + 1, name));
            }
        } else if is_dependency_section(section)
            && let Some(name) = key(line)
        {
            found.push((index + 1, name));
        }
    }
    found
}

fn is_dependency_section(section: &str) -> bool {
    section.ends_with("dependencies") && section != "workspace.dependencies"
}

/// The key of `key = value` or `key.workspace = true`.
fn key(line: &str) -> Option<&str> {
    let (key, _) = line.split_once('=')?;
    let name = key.trim().split('.').next()?.trim_matches('"');
    (!name.is_empty() && !name.starts_with('#')).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(folder: &str, manifest: &str, expected: &[usize]) {
        let lines: Vec<usize> =
            check_manifest("x/Cargo.toml", folder, manifest).iter().map(|finding| finding.line).collect();
        assert_eq!(lines, expected, "{folder}: {manifest}");
    }

    #[test]
    fn edges() {
        check("engine", "[dependencies]\nkernels.workspace = true\nserde = \"1\"", &[]);
        check("engine", "[dependencies]\nkernels.workspace = true\nopenapi.workspace = true", &[3]);
        check("engine", "[dependencies]\n# openapi = \"no\"\ngateway = { path = \"../gateway\" }", &[3]);
        check("engine", "[dev-dependencies]\ngateway.workspace = true", &[2]);
        check("engine", "[dependencies.gateway]\npath = \"../gateway\"", &[1]);
        check("engine", "[target.'cfg(unix)'.dependencies]\nopenapi.workspace = true", &[2]);
        check("kernels", "[dependencies]\nengine.workspace = true", &[2]);
        check("openapi", "[dependencies]\naxum.workspace = true", &[2]);
        check("gateway", "[dependencies]\naxum.workspace = true\nengine.workspace = true", &[]);
        check("gateway", "[package]\nname = \"gateway\"\nopenapi = 1\n[features]\nxtask = []", &[]);
        check("elsewhere", "[dependencies]", &[0]);
    }
}
