//! Where templates are looked for.

use std::fs;

use engine::prompt::TemplateSources;

#[test]
fn a_folder_s_template() {
    let folder = std::env::temp_dir().join(format!("janus-template-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let sources = || TemplateSources::from_folder(&folder).unwrap();
    let write = |name: &str, text: &str| fs::write(folder.join(name), text).unwrap();
    assert_eq!(sources(), TemplateSources::default());
    write("tokenizer_config.json", r#"{"bos_token": "<s>"}"#);
    assert_eq!(sources().default_source(), None);
    write("tokenizer_config.json", r#"{"chat_template": "plain"}"#);
    assert_eq!(sources().default_source(), Some("plain"));
    let named =
        r#"{"chat_template": [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]}"#;
    write("tokenizer_config.json", named);
    assert_eq!((sources().default_source(), sources().named("tool_use")), (Some("d"), Some("t")));
    write("tokenizer_config.json", r#"{"chat_template": [{"name": "rag", "template": "r"}, {"bad": 1}]}"#);
    assert_eq!(sources().default_source(), Some("r"));
    write("chat_template.jinja", "file");
    assert_eq!(sources().default_source(), Some("file"));
    fs::write(folder.join("chat_template.jinja"), b"\xff").unwrap();
    assert!(TemplateSources::from_folder(&folder).unwrap_err().to_string().contains("UTF-8"));
    fs::remove_dir_all(&folder).unwrap();
}
