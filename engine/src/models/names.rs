//! What Hugging Face checkpoints call the tensors that GGUF calls `blk.3.attn_q.weight`.
//!
//! GGUF's names are the ones the rest of this crate uses. A family lists the other names of each;
//! several rows for one tensor are alternatives, tried in order.

/// Tensor names of one family of checkpoints.
pub struct Names {
    /// What may stand before all names: `model.` in a causal language model, nothing in a bare stack.
    pub roots: &'static [&'static str],
    /// What stands between root and layer number.
    pub layers: &'static [&'static str],
    /// (GGUF name, name here), without `.weight`. Layer tensors' GGUF names lack `blk.N.`.
    pub rows: &'static [&'static [(&'static str, &'static str)]],
    /// The same for tensors that stand outside the root.
    pub rootless: &'static [(&'static str, &'static str)],
}

impl Names {
    /// Names a tensor may have here, most likely first. `canonical` is a GGUF name such as
    /// `blk.3.attn_q.weight`; `root` one of [`Names::roots`].
    pub fn candidates(&self, root: &str, canonical: &str) -> Vec<String> {
        let (layer, name) = split_layer(canonical);
        let Some((stem, suffix)) = name.rsplit_once('.') else { return Vec::new() };
        let mut found = Vec::new();
        for (_, other) in self.rootless.iter().filter(|(gguf, _)| layer.is_none() && *gguf == stem) {
            found.extend(with_suffixes(other, suffix));
        }
        for (_, other) in self.rows.iter().flat_map(|rows| rows.iter()).filter(|(gguf, _)| *gguf == stem) {
            match layer {
                None => found.extend(with_suffixes(&format!("{root}{other}"), suffix)),
                Some(layer) => found.extend(
                    self.layers
                        .iter()
                        .flat_map(|layers| with_suffixes(&format!("{root}{layers}{layer}.{other}"), suffix)),
                ),
            }
        }
        found
    }
}

/// `blk.3.attn_q.weight` is layer "3", `attn_q.weight`.
fn split_layer(canonical: &str) -> (Option<&str>, &str) {
    match canonical.strip_prefix("blk.").and_then(|rest| rest.split_once('.')) {
        Some((layer, name)) => (Some(layer), name),
        None => (None, canonical),
    }
}

/// The name, and the one it had in checkpoints converted from TensorFlow.
fn with_suffixes(stem: &str, suffix: &str) -> [String; 2] {
    let old = if suffix == "bias" { "beta" } else { "gamma" };
    [format!("{stem}.{suffix}"), format!("{stem}.{old}")]
}

const DECODER_ROOTS: &[&str] = &["model.", "model.language_model.", "language_model.model.", ""];

const DECODER_ROWS: &[(&str, &str)] = &[
    ("token_embd", "embed_tokens"),
    ("output_norm", "norm"),
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_qkv", "self_attn.qkv_proj"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm"),
    ("attn_output", "self_attn.o_proj"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
];

/// llama, qwen2, qwen3.
pub const DECODER: Names = Names {
    roots: DECODER_ROOTS,
    layers: &["layers."],
    rows: &[DECODER_ROWS, &[("ffn_norm", "post_attention_layernorm")]],
    rootless: &[("output", "lm_head")],
};

/// Gate and up projection in one matrix; GGUF calls that one `ffn_up` too.
pub const PHI3: Names = Names {
    roots: DECODER_ROOTS,
    layers: &["layers."],
    rows: &[DECODER_ROWS, &[("ffn_norm", "post_attention_layernorm"), ("ffn_up", "mlp.gate_up_proj")]],
    rootless: &[("output", "lm_head")],
};

/// Norms before and after both halves of a layer.
pub const GEMMA3: Names = Names {
    roots: DECODER_ROOTS,
    layers: &["layers."],
    rows: &[
        DECODER_ROWS,
        &[
            ("post_attention_norm", "post_attention_layernorm"),
            ("ffn_norm", "pre_feedforward_layernorm"),
            ("post_ffw_norm", "post_feedforward_layernorm"),
        ],
    ],
    rootless: &[("output", "lm_head"), ("output", "language_model.lm_head")],
};

/// bert, xlm-roberta.
pub const BERT: Names = Names {
    roots: &["", "bert.", "roberta.", "model."],
    layers: &["encoder.layer."],
    rows: &[&[
        ("token_embd", "embeddings.word_embeddings"),
        ("position_embd", "embeddings.position_embeddings"),
        ("token_types", "embeddings.token_type_embeddings"),
        ("token_embd_norm", "embeddings.LayerNorm"),
        ("attn_q", "attention.self.query"),
        ("attn_k", "attention.self.key"),
        ("attn_v", "attention.self.value"),
        ("attn_output", "attention.output.dense"),
        ("attn_output_norm", "attention.output.LayerNorm"),
        ("ffn_up", "intermediate.dense"),
        ("ffn_down", "output.dense"),
        ("layer_output_norm", "output.LayerNorm"),
    ]],
    rootless: &[],
};

/// nomic-bert, as its authors and as `transformers` name it.
pub const NOMIC_BERT: Names = Names {
    roots: &["", "bert.", "nomic_bert.", "model."],
    layers: &["encoder.layers.", "layers."],
    rows: &[&[
        ("token_embd", "embeddings.word_embeddings"),
        ("token_types", "embeddings.token_type_embeddings"),
        ("token_embd_norm", "emb_ln"),
        ("token_embd_norm", "embeddings.LayerNorm"),
        ("attn_qkv", "attn.Wqkv"),
        ("attn_q", "self_attn.q_proj"),
        ("attn_k", "self_attn.k_proj"),
        ("attn_v", "self_attn.v_proj"),
        ("attn_output", "attn.out_proj"),
        ("attn_output", "self_attn.o_proj"),
        ("attn_output_norm", "norm1"),
        ("attn_output_norm", "post_attention_layernorm"),
        ("ffn_up", "mlp.fc11"),
        ("ffn_up", "mlp.up_proj"),
        ("ffn_gate", "mlp.fc12"),
        ("ffn_gate", "mlp.gate_proj"),
        ("ffn_down", "mlp.fc2"),
        ("ffn_down", "mlp.down_proj"),
        ("layer_output_norm", "norm2"),
        ("layer_output_norm", "post_mlp_layernorm"),
    ]],
    rootless: &[],
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_names_have_checkpoint_names() {
        let check = |names: &Names, root: &str, canonical: &str, expected: &str| {
            let found = names.candidates(root, canonical);
            assert!(found.iter().any(|name| name == expected), "{canonical}: {found:?}");
        };
        check(&DECODER, "model.", "blk.11.attn_q.weight", "model.layers.11.self_attn.q_proj.weight");
        check(&DECODER, "model.", "output.weight", "lm_head.weight");
        check(&DECODER, "", "token_embd.weight", "embed_tokens.weight");
        check(&PHI3, "model.", "blk.0.ffn_up.weight", "model.layers.0.mlp.gate_up_proj.weight");
        check(&GEMMA3, "model.", "blk.0.ffn_norm.weight", "model.layers.0.pre_feedforward_layernorm.weight");
        check(&BERT, "bert.", "token_embd_norm.bias", "bert.embeddings.LayerNorm.beta");
        check(&BERT, "", "blk.5.attn_output.bias", "encoder.layer.5.attention.output.dense.bias");
        check(&NOMIC_BERT, "", "blk.5.attn_qkv.weight", "encoder.layers.5.attn.Wqkv.weight");
    }

    #[test]
    fn unknown_names_have_none() {
        assert!(DECODER.candidates("model.", "blk.0.no_such.weight").is_empty());
        assert!(DECODER.candidates("model.", "token_embd").is_empty());
    }
}
