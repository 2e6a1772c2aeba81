//! What a body that does not fit is told.

use openapi::{ChatRequest, CompletionRequest, EmbeddingRequest, ParseError, parse};

const MESSAGES: &str = r#""messages":[{"role":"user","content":"hi"}]"#;

fn chat_error(body: &str) -> ParseError {
    parse::<ChatRequest>(body.as_bytes()).expect_err(body)
}

/// The parameter named, and a piece of the message (empty for errors that carry none).
fn named(error: ParseError) -> (String, String) {
    match error {
        ParseError::Syntax { message } => (String::new(), message),
        ParseError::Unknown { param } => (param, "unknown".into()),
        ParseError::Missing { param } => (param, "missing".into()),
        ParseError::Invalid { param, message } => (param, message),
    }
}

#[test]
fn faults_are_named() {
    let deep = format!(r#"{{"model":"m","messages":{}1{}}}"#, "[".repeat(200), "]".repeat(200));
    let deep_value = format!(
        r#"{{"model":"m",{MESSAGES},"chat_template_kwargs":{{"a":{}1{}}}}}"#,
        "[".repeat(200),
        "]".repeat(200)
    );
    let rows: &[(&str, &str, &str)] = &[
        ("", "", "EOF while parsing a value at line 1 column 0"),
        ("{", "", "EOF while parsing an object at line 1 column 1"),
        ("{\"model\":\n  m}", "", "expected value at line 2 column 3"),
        ("[]", "", "invalid length 0"),
        ("\"x\"", "", "invalid type: string"),
        ("{\"model\":\"m\",\"messages\":[]} x", "", "trailing characters at line 1 column 29"),
        (r#"{"messages":[]}"#, "model", "missing"),
        (r#"{"model":"m"}"#, "messages", "missing"),
        (r#"{"model":"m","messages":[],"frobnicate":1}"#, "frobnicate", "unknown"),
        (
            r#"{"model":"m","messages":[{"role":"user","content":"x","colour":1}]}"#,
            "messages[0].colour",
            "unknown",
        ),
        (r#"{"model":"m","messages":[],"stream_options":{"usage":true}}"#, "stream_options.usage", "unknown"),
        (r#"{"model":"m","messages":[{"content":"x"}]}"#, "messages[0].role", "missing"),
        (r#"{"model":1,"messages":[]}"#, "model", "invalid type: integer `1`, expected a string"),
        (r#"{"model":null,"messages":[]}"#, "model", "invalid type: null"),
        (
            r#"{"model":"m","messages":[],"temperature":"hot"}"#,
            "temperature",
            "expected f32 at line 1 column",
        ),
        (r#"{"model":"m","messages":[],"n":-1}"#, "n", "expected u32"),
        (r#"{"model":"m","messages":[],"n":1.5}"#, "n", "expected u32"),
        (r#"{"model":"m","messages":[],"n":99999999999}"#, "n", "expected u32"),
        (r#"{"model":"m","messages":[],"n":1,"n":2}"#, "", "duplicate field `n`"),
        (r#"{"model":"m","messages":[],"logit_bias":{"1":"x"}}"#, "logit_bias.1", "expected f32"),
        (
            r#"{"model":"m","messages":[{"role":"robot","content":"x"}]}"#,
            "messages[0].role",
            "unknown variant `robot`",
        ),
        (
            r#"{"model":"m","messages":[{"role":"user","content":7}]}"#,
            "messages[0].content",
            "a list of content parts",
        ),
        (
            r#"{"model":"m","messages":[{"role":"user","content":[{"text":"x"}]}]}"#,
            "messages[0].content[0].type",
            "missing",
        ),
        (r#"{"model":"m","messages":[],"stop":[1]}"#, "stop[0]", "expected a string"),
        (&deep, "", "at line 1 column 27"),
        (&deep_value, "", "recursion limit exceeded"),
    ];
    for (body, param, message) in rows {
        let (found_param, found_message) = named(chat_error(body));
        assert_eq!(&found_param, param, "{body}: {found_message}");
        assert!(found_message.contains(message), "{body}: {found_message}");
    }
}

#[test]
fn a_list_is_not_a_request() {
    let error = parse::<EmbeddingRequest>(br#" ["m","x",null,null,null,null]"#).unwrap_err();
    assert_eq!(named(error), (String::new(), "expected a JSON object".into()));
}

#[test]
fn prompts_and_inputs_have_four_forms() {
    let rows: &[(&str, Option<&str>)] = &[
        (r#""a""#, Some(r#"Text("a")"#)),
        (r#"["a","b"]"#, Some(r#"Texts(["a", "b"])"#)),
        ("[1,2]", Some("Tokens([1, 2])")),
        ("[[1,2],[]]", Some("TokenLists([[1, 2], []])")),
        ("[]", Some("Texts([])")),
        (r#"["a",1]"#, None),
        (r#"[1,"a"]"#, None),
        ("[[1],2]", None),
        ("[-1]", None),
        ("[1.5]", None),
        ("[4294967296]", None),
        ("null", None),
        ("{}", None),
        ("true", None),
    ];
    for (input, expected) in rows {
        let embedding = parse::<EmbeddingRequest>(format!(r#"{{"model":"m","input":{input}}}"#).as_bytes());
        let completion =
            parse::<CompletionRequest>(format!(r#"{{"model":"m","prompt":{input}}}"#).as_bytes());
        assert_eq!(
            embedding.ok().map(|request| format!("{:?}", request.input)).as_deref(),
            *expected,
            "{input}"
        );
        assert_eq!(
            completion.ok().map(|request| format!("{:?}", request.prompt)).as_deref(),
            *expected,
            "{input}"
        );
    }
}

#[test]
fn what_clients_send_is_accepted() {
    let rows = [
        r#"{"model":"m","messages":[{"role":"developer","content":"x"},{"role":"user","name":"ann","content":[{"type":"text","text":"y"}]}]}"#,
        r#"{"model":"m","messages":[{"role":"assistant","content":null,"refusal":null,"audio":null,"function_call":null,"tool_calls":[{"id":"1","type":"function","function":{"name":"f","arguments":"{}"}}],"annotations":[]},{"role":"tool","tool_call_id":"1","content":"z"}]}"#,
        r#"{"model":"m","messages":[{"role":"assistant","content":"{}","parsed":null},{"role":"assistant","content":"{}","parsed":{"a":1}}]}"#,
        r#"{"model":"m","messages":[],"temperature":null,"n":null,"stop":null,"user":"u","metadata":{"a":"b"},"store":false,"service_tier":"auto","logit_bias":{"5":-100}}"#,
        r#"{"model":"m","messages":[],"top_k":-1,"min_p":0.1,"repetition_penalty":1.1,"ignore_eos":true,"stop_token_ids":[1],"min_tokens":2,"include_stop_str_in_output":true,"skip_special_tokens":false,"add_generation_prompt":true,"chat_template_kwargs":{"enable_thinking":false}}"#,
        r#"{"model":"m","messages":[],"stream":true,"stream_options":{"include_usage":true,"include_obfuscation":false},"stop":["a","b"],"tools":[],"response_format":{"type":"text"}}"#,
    ];
    for body in rows {
        parse::<ChatRequest>(body.as_bytes()).unwrap_or_else(|error| panic!("{body}: {error:?}"));
    }
}

#[test]
fn requests_survive_a_round_trip() {
    let body = r#"{"model":"m","messages":[{"role":"user","content":[{"type":"text","text":"y"}]}],"logit_bias":{"7":1.5},"stop":"a","seed":-3}"#;
    let request: ChatRequest = parse(body.as_bytes()).unwrap();
    let again: ChatRequest = parse(&serde_json::to_vec(&request).unwrap()).unwrap();
    assert_eq!(format!("{request:?}"), format!("{again:?}"));
}
