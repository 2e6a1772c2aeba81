//! Rows of an encoder to one vector a sequence, and how a model's files say which way.

use std::ops::Range;

use kernels::Tensor;
use serde_json::Value;

use crate::EngineError;
use crate::files::{Folder, ModelFiles, bad_file};

/// How the vector of a sequence is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pooling {
    pub mode: PoolingMode,
    /// Scale to unit length.
    pub normalise: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PoolingMode {
    /// Mean of all rows.
    Mean,
    /// The first row (the `[CLS]` token's).
    First,
    /// The last row.
    Last,
}

impl Pooling {
    /// What the files say. A folder says it in sentence-transformers' `modules.json` and the pooling
    /// module's `config.json`, a GGUF file in `pooling_type`; where nothing is said it is the mean, to
    /// unit length.
    ///
    /// # Errors
    /// `Unsupported` for modules and modes that this code does not have.
    pub fn read(files: &ModelFiles, gguf_pooling_type: Option<usize>) -> Result<Pooling, EngineError> {
        let unsupported = |reason| EngineError::Unsupported { path: files.path().to_owned(), reason };
        match files {
            ModelFiles::Gguf(_) => of_gguf(gguf_pooling_type).map_err(unsupported),
            ModelFiles::Folder(folder) => match folder.json("modules.json")? {
                Some(modules) => of_modules(folder, &modules),
                None => of_gguf(None).map_err(unsupported),
            },
        }
    }

    /// One vector for each of `segments` of x's rows into `out` (`segments.len()` x x's columns).
    pub fn apply(self, x: &Tensor, segments: &[Range<usize>], out: &mut Tensor) {
        out.reshape(segments.len(), x.columns());
        for (index, segment) in segments.iter().enumerate() {
            let vector = out.row_mut(index);
            match self.mode {
                PoolingMode::Mean => mean(x, segment.clone(), vector),
                PoolingMode::First => vector.copy_from_slice(x.row(segment.start)),
                PoolingMode::Last => vector.copy_from_slice(x.row(segment.end - 1)),
            }
            if self.normalise {
                normalise(vector);
            }
        }
    }
}

/// llama.cpp scales every vector to unit length, so GGUF has no key for that.
fn of_gguf(pooling_type: Option<usize>) -> Result<Pooling, String> {
    let mode = match pooling_type.unwrap_or(1) {
        0 | 1 => PoolingMode::Mean,
        2 => PoolingMode::First,
        3 => PoolingMode::Last,
        other => return Err(format!("pooling type {other} makes no embedding")),
    };
    Ok(Pooling { mode, normalise: true })
}

fn of_modules(folder: &Folder, modules: &Value) -> Result<Pooling, EngineError> {
    let path = folder.path().join("modules.json");
    let unsupported = |reason| EngineError::Unsupported { path: path.clone(), reason };
    let modules = modules.as_array().ok_or_else(|| bad_file(&path, "is no list of modules"))?;
    let mut pooling = Pooling { mode: PoolingMode::Mean, normalise: false };
    for module in modules {
        let kind = module["type"].as_str().unwrap_or_default();
        // Types are Python paths; they moved between versions, their last part did not.
        match kind.rsplit('.').next().unwrap_or_default() {
            "Transformer" => {}
            "Normalize" => pooling.normalise = true,
            "Pooling" => {
                let place = module["path"].as_str().unwrap_or_default();
                let config = folder.json(&format!("{place}/config.json"))?.unwrap_or_default();
                pooling.mode = pooling_mode(&config).map_err(unsupported)?;
            }
            _ => return Err(unsupported(format!("module `{kind}` is not supported"))),
        }
    }
    Ok(pooling)
}

/// The one mode that a pooling module's configuration switches on.
fn pooling_mode(config: &Value) -> Result<PoolingMode, String> {
    let stated = config["pooling_mode"].as_str();
    let switched = config.as_object().into_iter().flatten().filter_map(|(key, value)| {
        (value.as_bool() == Some(true)).then(|| key.strip_prefix("pooling_mode_")).flatten()
    });
    let modes: Vec<&str> = stated.into_iter().chain(switched).collect();
    match modes.as_slice() {
        [] | ["mean" | "mean_tokens"] => Ok(PoolingMode::Mean),
        ["cls" | "cls_token"] => Ok(PoolingMode::First),
        ["lasttoken"] => Ok(PoolingMode::Last),
        other => Err(format!("pooling by {} is not supported", other.join(" and "))),
    }
}

fn mean(x: &Tensor, rows: Range<usize>, vector: &mut [f32]) {
    let share = 1.0 / rows.len() as f32;
    vector.fill(0.0);
    for row in rows {
        for (sum, value) in vector.iter_mut().zip(x.row(row)) {
            *sum += value;
        }
    }
    vector.iter_mut().for_each(|value| *value *= share);
}

fn normalise(vector: &mut [f32]) {
    let length = vector.iter().map(|value| value * value).sum::<f32>().sqrt();
    // sentence-transformers' floor: a zero vector stays zero.
    let factor = 1.0 / length.max(1e-12);
    vector.iter_mut().for_each(|value| *value *= factor);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configurations_name_their_mode() {
        let check = |config: &str, expected: Option<PoolingMode>| {
            let config = serde_json::from_str(config).unwrap();
            assert_eq!(pooling_mode(&config).ok(), expected, "{config}");
        };
        check(r#"{"pooling_mode_mean_tokens":true,"pooling_mode_cls_token":false}"#, Some(PoolingMode::Mean));
        check(r#"{"pooling_mode_cls_token":true}"#, Some(PoolingMode::First));
        check(r#"{"pooling_mode_lasttoken":true,"include_prompt":true}"#, Some(PoolingMode::Last));
        check(r#"{"pooling_mode":"cls"}"#, Some(PoolingMode::First));
        check("{}", Some(PoolingMode::Mean));
        check(r#"{"pooling_mode_max_tokens":true}"#, None);
        check(r#"{"pooling_mode_mean_tokens":true,"pooling_mode_cls_token":true}"#, None);
    }

    #[test]
    fn each_mode_makes_its_vector() {
        let mut x = Tensor::zeros(3, 2);
        x.values_mut().copy_from_slice(&[1.0, 2.0, 3.0, 6.0, 0.0, 5.0]);
        let check = |mode, normalise, expected: [f32; 4]| {
            let mut out = Tensor::default();
            Pooling { mode, normalise }.apply(&x, &[0..2, 2..3], &mut out);
            assert_eq!(out.values(), expected, "{mode:?}");
        };
        check(PoolingMode::Mean, false, [2.0, 4.0, 0.0, 5.0]);
        check(PoolingMode::First, false, [1.0, 2.0, 0.0, 5.0]);
        check(PoolingMode::Last, false, [3.0, 6.0, 0.0, 5.0]);
        check(PoolingMode::Last, true, [3.0 / 45f32.sqrt(), 6.0 / 45f32.sqrt(), 0.0, 1.0]);
    }
}
