//! `POST /v1/embeddings`: texts or token ids to vectors.

use std::sync::Arc;

use axum::extract::Request;
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use engine::model::{ModelInfo, Task};
use engine::tokenizer::Tokenizer;
use engine::{EmbedRequest, ModelLease};
use openapi::embeddings::{Embedding, EmbeddingUsage, EncodingFormat, Vector};
use openapi::input::TextsOrTokens;
use openapi::object::{EmbeddingObject, ListObject};
use openapi::{EmbeddingList, EmbeddingRequest};

use super::body::{check_size, json_reply, read_json, run_sized};
use super::completions::check_vocabulary;
use super::sampling::at_most;
use crate::caller;
use crate::error::{ApiError, ApiResult};
use crate::wiring::{App, Loaded};

const INPUT_PARAM: &str = "input";

pub async fn create(Loaded(app): Loaded, request: Request) -> ApiResult<Response> {
    let caller = caller::of(&request);
    let (request, bytes) = read_json::<EmbeddingRequest>(&app, request).await?;
    let (model, dimensions) = embedding_model(&app, &request).await?;
    let format = request.encoding_format.unwrap_or_default();
    let inputs = inputs(&app, &model, request.input, bytes).await?;
    let tokens: u64 = inputs.iter().map(|input| input.len() as u64).sum();
    let refused = |error| ApiError::from_engine(error, INPUT_PARAM);
    let asked = EmbedRequest { model: model.name.clone(), caller, inputs };
    let submitted = app.engine.embed_with(&model, asked).map_err(refused)?;
    let vectors = submitted.wait().await.map_err(refused)?;
    let data = (0..).zip(vectors).map(|(index, vector)| Embedding {
        object: EmbeddingObject::Value,
        index,
        embedding: encode(shorten(vector, dimensions), format),
    });
    Ok(json_reply(&EmbeddingList {
        object: ListObject::Value,
        data: data.collect(),
        model: model.name.clone(),
        usage: EmbeddingUsage { prompt_tokens: tokens, total_tokens: tokens },
    }))
}

/// The model, and the dimensions of the vectors to return.
async fn embedding_model(app: &App, request: &EmbeddingRequest) -> ApiResult<(ModelLease, usize)> {
    let name = &request.model;
    let model = super::models::lease(app, name).await?;
    let Task::Embed { dimensions, truncatable } = model.task else {
        let message = format!("The model `{name}` generates text and makes no embeddings");
        return Err(ApiError::invalid("model", message));
    };
    let asked = request.dimensions.map_or(dimensions, |asked| asked as usize);
    let allowed = asked == dimensions || (truncatable && (1..dimensions).contains(&asked));
    if !allowed {
        let message = if truncatable {
            format!("'dimensions' must be from 1 to {dimensions} for the model `{name}`")
        } else {
            format!("The vectors of the model `{name}` have {dimensions} dimensions and cannot be shortened")
        };
        return Err(ApiError::invalid("dimensions", message));
    }
    Ok((model, asked))
}

async fn inputs(
    app: &App,
    model: &ModelInfo,
    input: TextsOrTokens,
    bytes: usize,
) -> ApiResult<Vec<Vec<u32>>> {
    let count = match &input {
        TextsOrTokens::Text(_) | TextsOrTokens::Tokens(_) => 1,
        TextsOrTokens::Texts(texts) => texts.len(),
        TextsOrTokens::TokenLists(lists) => lists.len(),
    };
    at_most(INPUT_PARAM, count, app.limits.embedding_inputs_max, "inputs")?;
    let (tokenizer, context_tokens) = (Arc::clone(&model.tokenizer), model.context_tokens);
    let work = move || tokenize(&tokenizer, context_tokens, input);
    let inputs = run_sized(&app.workers, bytes, work).await??;
    if inputs.is_empty() {
        return Err(ApiError::invalid(INPUT_PARAM, "'input' must not be empty"));
    }
    for (index, input) in inputs.iter().enumerate() {
        check_length(model, index, input)?;
    }
    Ok(inputs)
}

fn tokenize(tokenizer: &Tokenizer, context_tokens: usize, input: TextsOrTokens) -> ApiResult<Vec<Vec<u32>>> {
    let of_text = |text: String| {
        if text.is_empty() {
            return Err(ApiError::invalid(INPUT_PARAM, "'input' must not hold an empty string"));
        }
        check_size(tokenizer, text.len(), context_tokens, INPUT_PARAM)?;
        tokenizer.encode(&text, true).map_err(|error| ApiError::from_engine(error, INPUT_PARAM))
    };
    let of_tokens = |tokens: Vec<u32>| {
        check_vocabulary(tokenizer, &tokens, INPUT_PARAM)?;
        Ok(tokens)
    };
    match input {
        TextsOrTokens::Text(text) => Ok(vec![of_text(text)?]),
        TextsOrTokens::Texts(texts) => texts.into_iter().map(of_text).collect(),
        TextsOrTokens::Tokens(tokens) => Ok(vec![of_tokens(tokens)?]),
        TextsOrTokens::TokenLists(lists) => lists.into_iter().map(of_tokens).collect(),
    }
}

fn check_length(model: &ModelInfo, index: usize, input: &[u32]) -> ApiResult<()> {
    if input.is_empty() {
        return Err(ApiError::invalid(INPUT_PARAM, format!("input number {index} is empty")));
    }
    if input.len() > model.context_tokens {
        let error = engine::EngineError::ContextLength {
            prompt: input.len(),
            max_new_tokens: 0,
            limit: model.context_tokens,
        };
        return Err(ApiError::from_engine(error, INPUT_PARAM));
    }
    Ok(())
}

/// The first `dimensions` numbers, scaled to length 1 again if any were cut.
fn shorten(mut vector: Vec<f32>, dimensions: usize) -> Vec<f32> {
    if dimensions < vector.len() {
        vector.truncate(dimensions);
        let length = vector.iter().map(|number| number * number).sum::<f32>().sqrt();
        if length > 0.0 {
            vector.iter_mut().for_each(|number| *number /= length);
        }
    }
    vector
}

fn encode(vector: Vec<f32>, format: EncodingFormat) -> Vector {
    match format {
        EncodingFormat::Float => Vector::Floats(vector),
        EncodingFormat::Base64 => {
            let bytes: Vec<u8> = vector.iter().flat_map(|number| number.to_le_bytes()).collect();
            Vector::Base64(STANDARD.encode(bytes))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shortened_vectors_have_length_one() {
        for (vector, dimensions, expected) in [
            (vec![3.0, 4.0, 12.0], 2, vec![0.6, 0.8]),
            (vec![3.0, 4.0], 2, vec![3.0, 4.0]),
            (vec![0.0, 0.0, 1.0], 2, vec![0.0, 0.0]),
        ] {
            assert_eq!(shorten(vector, dimensions), expected);
        }
    }

    #[test]
    fn base64_is_little_endian_floats() {
        assert_eq!(encode(vec![1.0, -2.0], EncodingFormat::Base64), Vector::Base64("AACAPwAAAMA=".into()));
    }
}
