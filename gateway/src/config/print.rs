//! The default configuration as a commented TOML file, made from the types' own comments.

use schemars::generate::SchemaSettings;
use serde_json::Value as Json;
use toml::Table;

use super::{Config, layers};

const HEADING: &str = "\
# Configuration of Janus: every key with its default. Values in this file stand over the defaults,
# environment variables JANUS_SECTION_KEY (as in JANUS_SERVER_LISTEN) over this file, and flags over
# all. Keys that do not exist are refused. Deadlines are in milliseconds.
";

/// A file that, read back, gives the defaults.
pub fn print_default() -> String {
    let schema = SchemaSettings::draft2020_12()
        .with(|settings| settings.inline_subschemas = true)
        .into_generator()
        .into_root_schema_for::<Config>()
        .to_value();
    let mut text = HEADING.to_owned();
    let defaults = layers::default_table();
    // In the order of the struct, which the schema keeps.
    for (section, described) in schema["properties"].as_object().into_iter().flatten() {
        text.push('\n');
        push_comment(&mut text, described);
        text.push_str(&format!("[{section}]\n"));
        let values = defaults[section].as_table().expect("a section is a table");
        push_section(&mut text, described, values);
    }
    text
}

fn push_section(text: &mut String, described: &Json, values: &Table) {
    for (key, described) in described["properties"].as_object().into_iter().flatten() {
        push_comment(text, described);
        text.push_str(&format!("{key} = {}\n", values[key]));
    }
}

fn push_comment(text: &mut String, described: &Json) {
    for line in described["description"].as_str().unwrap_or_default().lines() {
        text.push_str(&format!("# {line}\n"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_reads_back_as_the_defaults() {
        let printed = print_default();
        let read: Config = toml::from_str(&printed).unwrap();
        assert_eq!(read, Config::default());
        read.check().unwrap();
    }

    #[test]
    fn every_key_is_printed_with_a_comment() {
        let printed = print_default();
        let lines: Vec<&str> = printed.lines().collect();
        for (section, values) in layers::default_table() {
            assert!(lines.contains(&format!("[{section}]").as_str()), "{section}");
            for key in values.as_table().unwrap().keys() {
                let at = lines.iter().position(|line| line.starts_with(&format!("{key} = ")));
                let at = at.unwrap_or_else(|| panic!("{section}.{key} is not printed"));
                assert!(lines[at - 1].starts_with("# "), "{section}.{key} has no comment");
            }
        }
    }
}
