//! What descriptions say, and what is refused.

use super::*;
use crate::models::registry::by_model_type;
use crate::models::rope::Scaling;
use serde_json::json;

fn read(mut config: Value, changes: Value) -> Result<Hyperparameters, String> {
    let Value::Object(changes) = changes else { panic!("changes are an object") };
    let fields = config.as_object_mut().unwrap();
    for (key, value) in changes {
        fields.insert(key, value);
    }
    let gguf = fields.contains_key("block_count");
    let fields = if gguf { Fields::gguf(fields.clone(), &[]) } else { Fields::json(fields, &[]) };
    Hyperparameters::read(&fields, RopeFactors::default())
}

fn json_config() -> Value {
    json!({
        "num_hidden_layers": 4, "hidden_size": 64, "intermediate_size": 128,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 100,
        "max_position_embeddings": 512, "rms_norm_eps": 1e-5, "hidden_act": "silu",
        "rope_theta": 5e5
    })
}

fn gguf_metadata() -> Value {
    json!({
        "block_count": 4, "embedding_length": 64, "feed_forward_length": 128,
        "attention.head_count": 4, "attention.head_count_kv": 2, "context_length": 512,
        "attention.layer_norm_rms_epsilon": 1e-5, "rope.freq_base": 5e5
    })
}

#[test]
fn both_sources_say_the_same() {
    let json = read(json_config(), json!({})).unwrap();
    let gguf = read(gguf_metadata(), json!({})).unwrap();
    assert_eq!((json.head_dim, json.kv_heads, json.rope.base), (16, 2, 5e5));
    let unsaid = Hyperparameters { vocabulary: None, activation: None, ..json };
    assert_eq!(gguf, unsaid);
}

/// Published configurations, reduced to what is read here.
#[test]
fn published_configurations() {
    let check = |row: &str, config: Value, expected: [usize; 5], scaling: fn(&Scaling) -> bool| {
        let architecture = by_model_type(row).unwrap();
        let fields = Fields::json(config.as_object().unwrap(), architecture.fallback);
        let h = Hyperparameters::read(&fields, RopeFactors::default()).unwrap();
        let found = [h.layers, h.heads, h.kv_heads, h.head_dim, h.window.unwrap_or(0)];
        assert_eq!(found, expected, "{row}");
        assert!(scaling(&h.rope.scaling), "{row}: {:?}", h.rope);
    };
    check(
        "gemma3",
        json!({
            "model_type": "gemma3", "eos_token_id": [1, 106],
            "text_config": {
                "hidden_size": 2560, "intermediate_size": 10240, "model_type": "gemma3_text",
                "num_hidden_layers": 34, "sliding_window": 1024,
                "rope_scaling": {"factor": 8.0, "rope_type": "linear"}
            },
            "vision_config": {"hidden_size": 1152, "num_hidden_layers": 27}
        }),
        [34, 8, 4, 256, 1024],
        |scaling| matches!(scaling, Scaling::Linear { factor: 8.0 }),
    );
    check(
        "mistral",
        json!({
            "hidden_size": 4096, "intermediate_size": 14336, "num_attention_heads": 32,
            "num_hidden_layers": 32, "num_key_value_heads": 8, "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0, "sliding_window": 4096, "vocab_size": 32000,
            "max_position_embeddings": 32768, "hidden_act": "silu"
        }),
        [32, 32, 8, 128, 4096],
        |scaling| *scaling == Scaling::None,
    );
    check(
        "phi3",
        json!({
            "hidden_size": 3072, "intermediate_size": 8192, "num_attention_heads": 24,
            "num_hidden_layers": 32, "num_key_value_heads": 8, "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0, "sliding_window": 262_144, "vocab_size": 200_064,
            "max_position_embeddings": 131_072, "original_max_position_embeddings": 4096,
            "partial_rotary_factor": 0.75, "hidden_act": "silu",
            "rope_scaling": {
                "type": "longrope", "short_factor": vec![1.0; 48], "long_factor": vec![2.0; 48]
            }
        }),
        [32, 24, 8, 128, 262_144],
        |scaling| matches!(scaling, Scaling::Long(long) if (long.magnitude - 1.1902381).abs() < 1e-6),
    );
}

#[test]
fn hostile_values_are_refused() {
    let check = |config: Value, changes: Value, expected: &str| {
        let reason = read(config, changes.clone()).unwrap_err();
        assert!(reason.contains(expected), "{changes}: {reason}");
    };
    for (changes, expected) in [
        (json!({"num_attention_heads": 0}), "0 heads"),
        (json!({"num_attention_heads": 5}), "5 heads"),
        (json!({"num_attention_heads": null}), "lacks `num_attention_heads`"),
        (json!({"num_attention_heads": -4}), "a count is expected"),
        (json!({"num_attention_heads": 4.5}), "a count is expected"),
        (json!({"num_attention_heads": "4"}), "a count is expected"),
        (json!({"num_key_value_heads": 0}), "0 key-value heads"),
        (json!({"num_key_value_heads": 3}), "do not divide among 3"),
        (json!({"num_hidden_layers": 4_000_000_000_u64}), "4000000000 layers"),
        (json!({"num_hidden_layers": 0}), "0 layers"),
        (json!({"hidden_size": u64::MAX}), "hidden values"),
        (json!({"head_dim": 15}), "heads of 15 values"),
        (json!({"head_dim": 0}), "0 values a head"),
        (json!({"intermediate_size": null}), "lacks `intermediate_size"),
        (json!({"vocab_size": 0}), "0 vocabulary entries"),
        (json!({"max_position_embeddings": 0}), "0 context tokens"),
        (json!({"rms_norm_eps": 0.0}), "norm epsilon"),
        (json!({"rms_norm_eps": "NaN"}), "a finite number is expected"),
        (json!({"rms_norm_eps": 1e300}), "a finite number is expected"),
        (json!({"rope_theta": -1.0}), "rotary base"),
        (json!({"hidden_act": "relu9"}), "activation `relu9`"),
        (json!({"query_pre_attn_scalar": 0}), "attention scale"),
        (json!({"partial_rotary_factor": 0.2}), "3 rotary dimensions"),
        (json!({"rope_scaling": {"type": "mrope"}}), "rotary scaling `mrope`"),
        (json!({"rope_scaling": {"type": "linear"}}), "factor"),
        (json!({"rope_scaling": {"type": "longrope", "short_factor": [1], "long_factor": "x"}}), "list"),
        (json!({"layer_types": ["full_attention"]}), "lists 1 layers of 4"),
    ] {
        check(json_config(), changes, expected);
    }
    for (changes, expected) in [
        (json!({"attention.head_count_kv": [2, 2, 1, 2]}), "a count is expected"),
        (json!({"attention.value_length": 32}), "keys of 16 values"),
        (json!({"attention.layer_norm_rms_epsilon": "NaN"}), "a finite number is expected"),
        (json!({"rope.dimension_count": 64}), "64 rotary dimensions"),
        (json!({"block_count": null}), "lacks `block_count`"),
    ] {
        check(gguf_metadata(), changes, expected);
    }
}

#[test]
fn windows_apply_to_the_layers_that_are_named() {
    let check = |changes: Value, expected: [bool; 4]| {
        let found = read(json_config(), changes.clone()).unwrap();
        let windowed: Vec<bool> = (0..4).map(|layer| found.window_of(layer).is_some()).collect();
        assert_eq!(windowed, expected, "{changes}");
    };
    check(json!({}), [false; 4]);
    check(json!({"sliding_window": 8}), [true; 4]);
    check(json!({"sliding_window": null}), [false; 4]);
    check(json!({"sliding_window": 8, "use_sliding_window": false}), [false; 4]);
    check(json!({"sliding_window": 8, "sliding_window_pattern": 2}), [true, false, true, false]);
    check(json!({"sliding_window": 8, "max_window_layers": 3}), [false, false, false, true]);
    let types = ["full_attention", "sliding_attention", "sliding_attention", "full_attention"];
    check(json!({"sliding_window": 8, "layer_types": types}), [false, true, true, false]);
}

#[test]
fn rotary_settings_are_found_where_versions_keep_them() {
    let check = |changes: Value, base: f32, dimensions: usize, scaling: Scaling| {
        let found = read(json_config(), changes.clone()).unwrap().rope;
        assert_eq!(found, Rope { base, dimensions, scaling }, "{changes}");
    };
    let linear = || Scaling::Linear { factor: 2.0 };
    check(json!({}), 5e5, 16, Scaling::None);
    check(json!({"partial_rotary_factor": 0.5}), 5e5, 8, Scaling::None);
    check(json!({"rope_scaling": {"type": "linear", "factor": 2.0}}), 5e5, 16, linear());
    check(json!({"rope_scaling": {"rope_type": "linear", "factor": 2.0}}), 5e5, 16, linear());
    check(
        json!({"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}}),
        1e4,
        16,
        linear(),
    );
    check(
        json!({"rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e6}}}),
        1e6,
        16,
        linear(),
    );
    check(json!({"rope_parameters": {"rope_type": "default"}}), 5e5, 16, Scaling::None);
}
