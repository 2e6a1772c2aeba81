//! Element types that occur in model files. Only some have a kernel ([`TensorType::format`]); the
//! others can still be listed and measured.

use kernels::Format;

/// One element type. Blocks are the unit of storage: `block_values` values in `block_bytes` bytes.
#[derive(Debug, PartialEq, Eq)]
pub struct TensorType {
    pub name: &'static str,
    pub block_values: usize,
    pub block_bytes: usize,
    /// What kernels call it; `None` when nothing here computes with it.
    pub format: Option<Format>,
}

impl TensorType {
    const fn of(name: &'static str, block: (usize, usize), format: Option<Format>) -> TensorType {
        TensorType { name, block_values: block.0, block_bytes: block.1, format }
    }

    /// Bytes of a tensor of `shape` (outermost first).
    ///
    /// # Errors
    /// The reason, when the shape holds nothing, overflows, or its rows do not fill whole blocks.
    pub fn bytes(&self, shape: &[usize]) -> Result<usize, String> {
        if shape.contains(&0) {
            return Err(format!("shape {shape:?} holds no values"));
        }
        let columns = shape.last().copied().unwrap_or(1);
        if !columns.is_multiple_of(self.block_values) {
            return Err(format!(
                "rows of {columns} values do not fill {} blocks of {}",
                self.name, self.block_values
            ));
        }
        let values = shape.iter().try_fold(1usize, |product, dimension| product.checked_mul(*dimension));
        values
            .and_then(|values| (values / self.block_values).checked_mul(self.block_bytes))
            .ok_or_else(|| format!("shape {shape:?} overflows"))
    }
}

/// The type GGUF gives this number; `None` for numbers never assigned or withdrawn.
pub fn of_gguf_number(number: u32) -> Option<&'static TensorType> {
    GGUF_TYPES.iter().find(|(assigned, _)| *assigned == number).map(|(_, kind)| kind)
}

/// The type safetensors headers call `name`.
pub fn of_safetensors_name(name: &str) -> Option<&'static TensorType> {
    SAFETENSORS_TYPES.iter().find(|kind| kind.name == name)
}

/// `ggml_type` numbers. 4, 5, 31-33 and 36-38 were withdrawn.
static GGUF_TYPES: [(u32, TensorType); 34] = [
    (0, TensorType::of("F32", (1, 4), Some(Format::F32))),
    (1, TensorType::of("F16", (1, 2), Some(Format::F16))),
    (2, TensorType::of("Q4_0", (32, 18), Some(Format::Q4_0))),
    (3, TensorType::of("Q4_1", (32, 20), Some(Format::Q4_1))),
    (6, TensorType::of("Q5_0", (32, 22), Some(Format::Q5_0))),
    (7, TensorType::of("Q5_1", (32, 24), Some(Format::Q5_1))),
    (8, TensorType::of("Q8_0", (32, 34), Some(Format::Q8_0))),
    (9, TensorType::of("Q8_1", (32, 40), None)),
    (10, TensorType::of("Q2_K", (256, 84), Some(Format::Q2_K))),
    (11, TensorType::of("Q3_K", (256, 110), Some(Format::Q3_K))),
    (12, TensorType::of("Q4_K", (256, 144), Some(Format::Q4_K))),
    (13, TensorType::of("Q5_K", (256, 176), Some(Format::Q5_K))),
    (14, TensorType::of("Q6_K", (256, 210), Some(Format::Q6_K))),
    (15, TensorType::of("Q8_K", (256, 292), None)),
    (16, TensorType::of("IQ2_XXS", (256, 66), None)),
    (17, TensorType::of("IQ2_XS", (256, 74), None)),
    (18, TensorType::of("IQ3_XXS", (256, 98), None)),
    (19, TensorType::of("IQ1_S", (256, 50), None)),
    (20, TensorType::of("IQ4_NL", (32, 18), Some(Format::IQ4_NL))),
    (21, TensorType::of("IQ3_S", (256, 110), None)),
    (22, TensorType::of("IQ2_S", (256, 82), None)),
    (23, TensorType::of("IQ4_XS", (256, 136), Some(Format::IQ4_XS))),
    (24, TensorType::of("I8", (1, 1), None)),
    (25, TensorType::of("I16", (1, 2), None)),
    (26, TensorType::of("I32", (1, 4), None)),
    (27, TensorType::of("I64", (1, 8), None)),
    (28, TensorType::of("F64", (1, 8), None)),
    (29, TensorType::of("IQ1_M", (256, 56), None)),
    (30, TensorType::of("BF16", (1, 2), Some(Format::BF16))),
    (34, TensorType::of("TQ1_0", (256, 54), None)),
    (35, TensorType::of("TQ2_0", (256, 66), None)),
    (39, TensorType::of("MXFP4", (32, 17), Some(Format::MXFP4))),
    (40, TensorType::of("NVFP4", (64, 36), None)),
    (41, TensorType::of("Q1_0", (128, 18), None)),
];

/// Names as safetensors headers write them; types below one byte are counted in pairs or quadruples.
static SAFETENSORS_TYPES: [TensorType; 22] = [
    TensorType::of("F32", (1, 4), Some(Format::F32)),
    TensorType::of("F16", (1, 2), Some(Format::F16)),
    TensorType::of("BF16", (1, 2), Some(Format::BF16)),
    TensorType::of("F64", (1, 8), None),
    TensorType::of("F8_E4M3", (1, 1), None),
    TensorType::of("F8_E4M3FNUZ", (1, 1), None),
    TensorType::of("F8_E5M2", (1, 1), None),
    TensorType::of("F8_E5M2FNUZ", (1, 1), None),
    TensorType::of("F8_E8M0", (1, 1), None),
    TensorType::of("F6_E2M3", (4, 3), None),
    TensorType::of("F6_E3M2", (4, 3), None),
    TensorType::of("F4", (2, 1), None),
    TensorType::of("BOOL", (1, 1), None),
    TensorType::of("I8", (1, 1), None),
    TensorType::of("U8", (1, 1), None),
    TensorType::of("I16", (1, 2), None),
    TensorType::of("U16", (1, 2), None),
    TensorType::of("I32", (1, 4), None),
    TensorType::of("U32", (1, 4), None),
    TensorType::of("I64", (1, 8), None),
    TensorType::of("U64", (1, 8), None),
    TensorType::of("C64", (1, 8), None),
];
