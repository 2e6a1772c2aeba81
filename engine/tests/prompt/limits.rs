//! A template is a program from a model file: what it may cost, and what it says when it is broken.

use std::time::{Duration, UNIX_EPOCH};

use engine::EngineError;
use engine::prompt::{ChatTemplate, RenderOptions};
use serde_json::json;

use crate::goldens::tokenizer;

fn outcome(source: &str) -> String {
    let tokenizer = tokenizer(&["<|end|>"], None, Some("<|end|>"));
    let options =
        RenderOptions { now: UNIX_EPOCH + Duration::from_secs(1_709_251_200), ..Default::default() };
    let rendered = ChatTemplate::new(source, &tokenizer)
        .and_then(|template| template.render(&[json!({"role": "user", "content": "hi"})], &options));
    match rendered {
        Ok(prompt) => prompt.text(),
        Err(EngineError::Template(message)) => format!("error: {message}"),
        Err(other) => panic!("{source}: {other}"),
    }
}

#[test]
fn hostile_templates_end() {
    let loops = "{% for i in range(90000) %}{% for j in range(90000) %}{% endfor %}{% endfor %}";
    let floods = "{% for i in range(90000) %}{{ 'x' * 1000000 }}{% endfor %}";
    let recursion = "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}";
    let repeats = "{{ 'x' * 10000000000 }}";
    let nested = format!("{{{{ {}1{} }}}}", "(".repeat(100_000), ")".repeat(100_000));
    let blocks = "{% if true %}".repeat(20_000);
    let include = "{% include 'chat_template' %}";
    let large = "x".repeat((1 << 20) + 1);
    for source in [loops, floods, recursion, repeats, &nested, &blocks, include, &large] {
        let found = outcome(source);
        assert!(found.starts_with("error: "), "{:.60}: {found:.200}", source);
    }
}

#[test]
fn errors_and_refusals_say_what_is_wrong() {
    let check = |source: &str, expected: &str| assert_eq!(outcome(source), expected, "{source}");
    check("{{ raise_exception('Only one turn, please') }}", "error: Only one turn, please");
    check(
        "{% macro m() %}{{ raise_exception('From a macro') }}{% endmacro %}{{ m() }}",
        "error: From a macro",
    );
    assert!(outcome("{% if %}").contains("syntax error"));
    assert!(outcome("{{ messages | nosuch }}").contains("nosuch"));
    assert!(outcome("{{ nothing.at.all }}").starts_with("error: "));
}

#[test]
fn what_a_template_is_given() {
    let check = |source: &str, expected: &str| assert_eq!(outcome(source), expected, "{source}");
    check("{{ strftime_now('%d %b %Y') }}", "01 Mar 2024");
    check("{{ eos_token }}{{ bos_token is defined }}", "<|end|>False");
    check("{{ tools is none }}{{ documents is none }}{{ add_generation_prompt }}", "TrueTrueTrue");
    check("a{%- generation -%}  b  {%- endgeneration %}c", "abc");
    check(
        "{{ 'x.y.z'.rsplit('.', 1) | join('|') }} {{ 'x.y'.partition('.')[2] }} {{ 'ab'.removeprefix('a') }}",
        "x.y|z y b",
    );
    check(
        "{{ ' \n'.isspace() }} {{ 'x.y.z'.rpartition('.')[0] }} {{ 'ab'.removesuffix('b') }}",
        "True x.y a",
    );
    check("{{ [1e16, 1e-5, 0.1, 100.0, -2.5e-7] | tojson }}", "[1e+16, 1e-05, 0.1, 100.0, -2.5e-07]");
    check("{{ messages | tojson }}", r#"[{"role": "user", "content": "hi"}]"#);
}
