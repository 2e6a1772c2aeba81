//! `POST /v1/embeddings`. The model's vector is (length, first token, last token, sum of tokens).

use base64::Engine as _;
use serde_json::{Value, json};

use crate::support::{Running, start};

const PATH: &str = "/v1/embeddings";

fn ask(server: &Running, body: Value) -> Value {
    let reply = server.post(PATH, &body.to_string());
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json()
}

fn vectors(reply: &Value) -> Vec<Vec<f64>> {
    let numbers =
        |item: &Value| item["embedding"].as_array().unwrap().iter().map(|n| n.as_f64().unwrap()).collect();
    reply["data"].as_array().unwrap().iter().map(numbers).collect()
}

#[test]
fn inputs_have_four_forms() {
    let server = start(|_| {});
    let (abc, b) = (vec![3.0, 97.0, 99.0, 294.0], vec![1.0, 98.0, 98.0, 98.0]);
    let rows = [
        (json!("abc"), vec![abc.clone()], 3),
        (json!(["abc", "b"]), vec![abc.clone(), b.clone()], 4),
        (json!([97, 98, 99]), vec![abc.clone()], 3),
        (json!([[97, 98, 99], [98]]), vec![abc.clone(), b.clone()], 4),
    ];
    for (input, expected, tokens) in rows {
        let reply = ask(&server, json!({ "model": "vectors", "input": input, "encoding_format": "float" }));
        assert_eq!(vectors(&reply), expected, "{input}");
        assert_eq!(reply["usage"], json!({ "prompt_tokens": tokens, "total_tokens": tokens }), "{input}");
        assert_eq!((&reply["object"], &reply["model"]), (&json!("list"), &json!("vectors")));
        for (index, item) in reply["data"].as_array().unwrap().iter().enumerate() {
            assert_eq!((&item["object"], &item["index"]), (&json!("embedding"), &json!(index)));
        }
    }
}

#[test]
fn base64_holds_the_same_floats() {
    let server = start(|_| {});
    let reply = ask(&server, json!({ "model": "vectors", "input": "abc", "encoding_format": "base64" }));
    let text = reply["data"][0]["embedding"].as_str().unwrap();
    let bytes = base64::engine::general_purpose::STANDARD.decode(text).unwrap();
    let floats: Vec<f32> = bytes.chunks(4).map(|four| f32::from_le_bytes(four.try_into().unwrap())).collect();
    assert_eq!(floats, [3.0, 97.0, 99.0, 294.0]);
}

#[test]
fn dimensions_shorten_and_scale() {
    let server = start(|_| {});
    let reply = ask(&server, json!({ "model": "vectors", "input": "abc", "dimensions": 2 }));
    let vector = &vectors(&reply)[0];
    let length = (3.0_f64 * 3.0 + 97.0 * 97.0).sqrt();
    assert!(
        (vector[0] - 3.0 / length).abs() < 1e-6
            && (vector[1] - 97.0 / length).abs() < 1e-6
            && vector.len() == 2
    );
    let whole = ask(&server, json!({ "model": "vectors", "input": "abc", "dimensions": 4 }));
    assert_eq!(vectors(&whole)[0], [3.0, 97.0, 99.0, 294.0]);
}

#[test]
fn two_thousand_and_forty_eight_inputs_are_taken() {
    let server = start(|_| {});
    let inputs: Vec<String> = (0..2048).map(|number| number.to_string()).collect();
    let reply = ask(&server, json!({ "model": "vectors", "input": inputs }));
    assert_eq!(reply["data"].as_array().unwrap().len(), 2048);
    assert_eq!(vectors(&reply)[1234], [4.0, 49.0, 52.0, 202.0]);
}
