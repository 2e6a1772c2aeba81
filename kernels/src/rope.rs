//! Rotary position embedding (Su et al. 2021): frequencies, and the angles of a step's positions.

use crate::Tensor;

/// Which two values of a head are turned together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RopeStyle {
    /// (i, i + half): Hugging Face checkpoints, and GGUF files of qwen2, qwen3, gemma3, phi3, nomic.
    Half,
    /// (2i, 2i + 1): GGUF files of the llama architecture, whose q and k rows are permuted for it.
    Interleaved,
}

/// Frequencies of one rotary embedding. Scaling (linear, llama3, yarn, longrope) is already in them.
#[derive(Clone, Debug)]
pub struct RopeTable {
    pub style: RopeStyle,
    /// Radians per position of each turned pair; twice as many values of a head are turned, the rest
    /// of the head passes through.
    pub inverse_frequencies: Vec<f32>,
    /// Factor on cosine and sine (yarn, longrope); 1 otherwise.
    pub magnitude: f32,
}

impl RopeTable {
    /// Plain frequencies: `base^(-2i / rotary_dim)`.
    pub fn new(style: RopeStyle, rotary_dim: usize, base: f32) -> RopeTable {
        let inverse_frequencies =
            (0..rotary_dim / 2).map(|i| base.powf(-((2 * i) as f32) / rotary_dim as f32)).collect();
        RopeTable { style, inverse_frequencies, magnitude: 1.0 }
    }

    /// Cosines then sines of each position, one row a position, into `angles`
    /// (`positions.len()` x `2 * pairs`). Computed once a step and shared by all layers.
    pub fn angles(&self, positions: &[u32], angles: &mut Tensor) {
        let pairs = self.inverse_frequencies.len();
        angles.reshape(positions.len(), 2 * pairs);
        for (row, &position) in positions.iter().enumerate() {
            let (cosines, sines) = angles.row_mut(row).split_at_mut(pairs);
            for (i, frequency) in self.inverse_frequencies.iter().enumerate() {
                let (sine, cosine) = (position as f32 * frequency).sin_cos();
                cosines[i] = cosine * self.magnitude;
                sines[i] = sine * self.magnitude;
            }
        }
    }
}
