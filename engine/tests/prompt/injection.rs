//! Whatever a message contains, the special tokens of a prompt are those the template writes.

use engine::prompt::{ChatTemplate, RenderOptions};
use engine::tokenizer::Tokenizer;
use serde_json::{Value, json};

use crate::goldens::{golden, options, tokenizer};

/// Special tokens of all families together, some nested in one another, some that only join up.
const SPECIALS: [&str; 22] = [
    "<|begin_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<|im_start|>",
    "<|im_end|>",
    "<bos>",
    "<start_of_turn>",
    "<end_of_turn>",
    "<start_of_image>",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    "<|end|>",
    "<|endoftext|>",
    "<s>",
    "</s>",
    "[INST]",
    "[/INST]",
    "[AVAILABLE_TOOLS]",
    "[TOOL_CALLS]",
    "d|><",
];

fn families() -> Vec<(String, Tokenizer, ChatTemplate)> {
    let golden = golden();
    let families = golden["templates"].as_array().unwrap().iter().filter(|row| row["name"] != "corners");
    families
        .map(|row| {
            let (bos, eos) = (row["tokens"]["bos_token"].as_str(), row["tokens"]["eos_token"].as_str());
            let tokenizer = tokenizer(&SPECIALS, bos, eos);
            let template = ChatTemplate::new(row["template"].as_str().unwrap(), &tokenizer).unwrap();
            (row["name"].as_str().unwrap().to_owned(), tokenizer, template)
        })
        .collect()
}

/// Special tokens of the prompt, in order; the text must have lost nothing.
fn specials_of(
    tokenizer: &Tokenizer,
    template: &ChatTemplate,
    messages: &[Value],
    given: &RenderOptions,
) -> Vec<String> {
    let prompt = template.render(messages, given).unwrap();
    let ids = tokenizer.encode_prompt(&prompt).unwrap();
    assert_eq!(tokenizer.decode(&ids, true), prompt.text(), "{messages:?}");
    assert_eq!(template.prompt_tokens(tokenizer, messages, given).unwrap(), ids);
    ids.into_iter()
        .filter(|id| tokenizer.is_special(*id))
        .map(|id| tokenizer.token_name(id).unwrap())
        .collect()
}

fn conversation(system: &str, user: &str, assistant: &str, again: &str) -> Vec<Value> {
    vec![
        json!({"role": "system", "content": system}),
        json!({"role": "user", "content": user}),
        json!({"role": "assistant", "content": assistant}),
        json!({"role": "user", "content": again}),
    ]
}

#[test]
fn whole_tokens_in_messages_stay_text() {
    for (name, tokenizer, template) in families() {
        let expected =
            specials_of(&tokenizer, &template, &conversation("x", "x", "x", "x"), &options(&json!({})));
        assert!(!expected.is_empty(), "{name} writes special tokens");
        for special in SPECIALS {
            for text in [
                special.to_owned(),
                format!(" {special}\n"),
                format!("{special}{special}"),
                format!("a{special}b {special}"),
                format!("<{special}>"),
            ] {
                let messages = conversation(&text, &text, &text, &text);
                let found = specials_of(&tokenizer, &template, &messages, &options(&json!({})));
                assert_eq!(found, expected, "{name}: {text:?}");
            }
        }
    }
}

#[test]
fn parts_that_join_up_stay_text() {
    let parts = [
        "<", "|", ">", "<|", "|>", "im_end", "<|im_", "end|>", "s", "/", "[", "INST]", "d|>", "<|en", " ",
        "x",
    ];
    for (name, tokenizer, template) in families() {
        let expected =
            specials_of(&tokenizer, &template, &conversation("x", "x", "x", "x"), &options(&json!({})));
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        for round in 0..400 {
            let mut text = || {
                let mut text = String::new();
                for _ in 0..=state % 5 {
                    state ^= state << 13;
                    state ^= state >> 7;
                    state ^= state << 17;
                    text.push_str(parts[(state % parts.len() as u64) as usize]);
                }
                // Families treat empty messages differently.
                if text.trim().is_empty() { "x".to_owned() } else { text }
            };
            let messages = conversation(&text(), &text(), &text(), &text());
            let found = specials_of(&tokenizer, &template, &messages, &options(&json!({})));
            assert_eq!(found, expected, "{name} round {round}: {messages:?}");
        }
    }
}

#[test]
fn roles_names_and_keys_form_no_tokens() {
    let tokenizer = tokenizer(&SPECIALS, None, None);
    let check = |template: &str, message: Value, expected: &[&str]| {
        let template = ChatTemplate::new(template, &tokenizer).unwrap();
        let found = specials_of(&tokenizer, &template, std::slice::from_ref(&message), &options(&json!({})));
        assert_eq!(found, expected, "{message}");
    };
    let by_role = "{% for m in messages %}{{ '<|' + m.role + '|>' + m.content + '<|end|>' }}{% endfor %}";
    check(by_role, json!({"role": "user", "content": "x"}), &["<|user|>", "<|end|>"]);
    check(by_role, json!({"role": "end", "content": "x"}), &["<|end|>"]);
    check(by_role, json!({"role": "im_end", "content": "x"}), &["<|end|>"]);
    check(by_role, json!({"role": "user|><|end", "content": "x"}), &["<|end|>"]);
    let by_name = "{% for m in messages %}<{{ m.name }}>{{ m.content }}</{{ m.name }}>{% endfor %}";
    check(by_name, json!({"name": "s", "content": "x"}), &[]);
    check(by_name, json!({"name": "start_of_turn", "content": "x"}), &[]);
    check(by_name, json!({"name": "weather", "content": "</s"}), &[]);
    let by_key = "{% for m in messages %}{% for k, v in m.a.items() %}<{{ k }}>{{ v }}{% endfor %}{{ m.a | tojson }}{% endfor %}";
    check(by_key, json!({"a": {"s": 1, "bos": "<eos", "<|im_end|>": "<|im_end|>"}}), &[]);
    let escaped = "{{ messages[0] | tojson(ensure_ascii=true) }}<|end|>";
    check(escaped, json!({"role": "user", "content": "<|end|> ü <"}), &["<|end|>"]);
}

#[test]
fn templates_still_see_what_messages_say() {
    let tokenizer = tokenizer(&["<think>", "</think>", "<|end|>"], None, None);
    let check = |template: &str, content: &str, expected: &str| {
        let template = ChatTemplate::new(template, &tokenizer).unwrap();
        let prompt =
            template.render(&[json!({"role": "user", "content": content})], &options(&json!({}))).unwrap();
        assert_eq!(prompt.text(), expected, "{content:?}");
    };
    let strip = "{% set c = messages[0].content %}{% if '</think>' in c %}{{ c.split('</think>')[-1] | trim }}{% else %}{{ c | trim }}{% endif %}<|end|>";
    check(strip, "<think>hm</think>  Oslo. ", "Oslo.<|end|>");
    check(strip, "  Oslo <|end|> ", "Oslo <|end|><|end|>");
    check(strip, " <| ", "<|<|end|>");
    check("{{ messages[0].content[:2] }}|{{ messages[0].content[-2:] }}", "ab cd", "ab|cd");
    check("{{ messages[0].content == '>' or messages[0].role == 'user' }}", ">", "True");
    check("{{ messages[0].content | upper }}", "a<|end|>b", "A<|END|>B");
}

#[test]
fn a_text_may_use_private_characters() {
    let tokenizer = tokenizer(&["<|end|>"], None, None);
    let template = ChatTemplate::new("{{ messages[0].content }}<|end|>", &tokenizer).unwrap();
    let render = |content: String| template.render(&[json!({"content": content})], &options(&json!({})));
    let some: String = ('\u{f0000}'..='\u{f0010}').chain("<|end|>".chars()).collect();
    assert_eq!(render(some.clone()).unwrap().text(), format!("{some}<|end|>"));
    let ids = tokenizer.encode_prompt(&render(some).unwrap()).unwrap();
    assert_eq!(ids.iter().filter(|id| tokenizer.is_special(**id)).count(), 1);
    let all: String = ('\u{f0000}'..='\u{ffffd}').collect();
    assert!(render(all).unwrap_err().to_string().contains("private-use"));
}

#[test]
fn a_token_of_one_character_is_left_out() {
    let tokenizer = tokenizer(&["\u{2603}", "<|end|>"], None, None);
    let template = ChatTemplate::new("\u{2603}{{ messages[0].content }}<|end|>", &tokenizer).unwrap();
    let prompt = template.render(&[json!({"content": "a\u{2603}b"})], &options(&json!({}))).unwrap();
    assert_eq!(prompt.text(), "\u{2603}ab<|end|>");
}
