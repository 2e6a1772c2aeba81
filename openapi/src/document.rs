//! The OpenAPI 3.1 document: one row an operation, schemas derived from the wire types.

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Map, Value, json};

use crate::admin::{AdminModel, AdminModelList, LoadRequest, UnloadRequest, Unloaded};
use crate::{
    ChatChunk, ChatCompletion, ChatRequest, Completion, CompletionRequest, EmbeddingList, EmbeddingRequest,
    ErrorReply, Model, ModelList,
};

/// One operation. `path` has OpenAPI's form, as in `/v1/models/{model}`.
pub struct Operation {
    pub method: &'static str,
    pub path: &'static str,
    summary: &'static str,
    request: Option<SchemaOf>,
    reply: Reply,
    /// Statuses besides 200, all with the error shape.
    errors: &'static [u16],
}

type SchemaOf = fn(&mut SchemaGenerator) -> Value;

enum Reply {
    Json(SchemaOf),
    /// JSON, or with `stream: true` server-sent events of the second type.
    Stream(SchemaOf, SchemaOf),
    Text,
    /// `{"status": ...}`
    Status,
}

const GENERATION_ERRORS: &[u16] = &[400, 401, 403, 404, 408, 413, 415, 429, 500, 503, 504];

/// Everything the server answers.
pub const OPERATIONS: &[Operation] = &[
    Operation {
        method: "post",
        path: "/v1/chat/completions",
        summary: "Continue a conversation",
        request: Some(schema_of::<ChatRequest>),
        reply: Reply::Stream(schema_of::<ChatCompletion>, schema_of::<ChatChunk<'static>>),
        errors: GENERATION_ERRORS,
    },
    Operation {
        method: "post",
        path: "/v1/completions",
        summary: "Continue a text",
        request: Some(schema_of::<CompletionRequest>),
        reply: Reply::Stream(schema_of::<Completion<'static>>, schema_of::<Completion<'static>>),
        errors: GENERATION_ERRORS,
    },
    Operation {
        method: "post",
        path: "/v1/embeddings",
        summary: "Turn texts into vectors",
        request: Some(schema_of::<EmbeddingRequest>),
        reply: Reply::Json(schema_of::<EmbeddingList>),
        errors: GENERATION_ERRORS,
    },
    Operation {
        method: "get",
        path: "/v1/models",
        summary: "List the models served",
        request: None,
        reply: Reply::Json(schema_of::<ModelList>),
        errors: &[401, 403, 503],
    },
    Operation {
        method: "get",
        path: "/v1/models/{model}",
        summary: "Describe one model",
        request: None,
        reply: Reply::Json(schema_of::<Model>),
        errors: &[400, 401, 403, 404, 503],
    },
    Operation {
        method: "get",
        path: "/admin/models",
        summary: "List the models that take memory, and what is being loaded",
        request: None,
        reply: Reply::Json(schema_of::<AdminModelList>),
        errors: &[401, 403, 503],
    },
    Operation {
        method: "post",
        path: "/admin/models/load",
        summary: "Load a model, or a new version under a name that is served",
        request: Some(schema_of::<LoadRequest>),
        reply: Reply::Json(schema_of::<AdminModel>),
        errors: &[400, 401, 403, 404, 408, 409, 413, 415, 500, 503, 504],
    },
    Operation {
        method: "post",
        path: "/admin/models/unload",
        summary: "Unload a model once its requests have finished, or at once",
        request: Some(schema_of::<UnloadRequest>),
        reply: Reply::Json(schema_of::<Unloaded>),
        errors: &[400, 401, 403, 404, 408, 413, 415, 503, 504],
    },
    Operation {
        method: "get",
        path: "/healthz",
        summary: "Whether the process is alive",
        request: None,
        reply: Reply::Status,
        errors: &[403],
    },
    Operation {
        method: "get",
        path: "/readyz",
        summary: "Whether it takes new requests",
        request: None,
        reply: Reply::Status,
        errors: &[403, 503],
    },
    Operation {
        method: "get",
        path: "/metrics",
        summary: "Counters and gauges in Prometheus' text format",
        request: None,
        reply: Reply::Text,
        errors: &[401, 403],
    },
];

/// The document, in a stable order.
pub fn document() -> Value {
    let settings = SchemaSettings::draft2020_12()
        .with(|settings| settings.definitions_path = "/components/schemas".into());
    let mut generator = SchemaGenerator::new(settings);
    let paths = paths(&mut generator);
    let mut schemas = generator.take_definitions(true);
    schemas.sort_keys();
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Janus",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "The OpenAI API, served from local models.",
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": { "bearer": { "type": "http", "scheme": "bearer" } },
        },
        "security": [{ "bearer": [] }, {}],
    })
}

/// The document as the committed file holds it.
pub fn document_text() -> String {
    let mut text = serde_json::to_string_pretty(&document()).expect("a JSON value always serialises");
    text.push('\n');
    text
}

fn paths(generator: &mut SchemaGenerator) -> Map<String, Value> {
    let mut paths = Map::new();
    for operation in OPERATIONS {
        let item = paths.entry(operation.path).or_insert_with(|| json!({}));
        item[operation.method] = describe(operation, generator);
    }
    paths
}

fn describe(operation: &Operation, generator: &mut SchemaGenerator) -> Value {
    let mut described = json!({
        "summary": operation.summary,
        "operationId": operation_id(operation),
        "responses": responses(operation, generator),
    });
    if operation.path.ends_with("{model}") {
        described["parameters"] =
            json!([{ "name": "model", "in": "path", "required": true, "schema": { "type": "string" } }]);
    }
    if let Some(request) = operation.request {
        described["requestBody"] =
            json!({ "required": true, "content": { "application/json": { "schema": request(generator) } } });
    }
    described
}

/// `get_v1_models_model` and the like.
fn operation_id(operation: &Operation) -> String {
    let path = operation.path.replace(['{', '}'], "").replace('/', "_");
    format!("{}{path}", operation.method)
}

fn responses(operation: &Operation, generator: &mut SchemaGenerator) -> Map<String, Value> {
    let mut responses = Map::new();
    let content = success_content(&operation.reply, generator);
    responses.insert("200".into(), json!({ "description": "Success", "content": content }));
    let error = schema_of::<ErrorReply>(generator);
    for status in operation.errors {
        let content = json!({ "application/json": { "schema": error } });
        responses.insert(status.to_string(), json!({ "description": meaning(*status), "content": content }));
    }
    responses
}

fn success_content(reply: &Reply, generator: &mut SchemaGenerator) -> Value {
    match reply {
        Reply::Json(schema) => json!({ "application/json": { "schema": schema(generator) } }),
        Reply::Stream(whole, chunk) => json!({
            "application/json": { "schema": whole(generator) },
            "text/event-stream": { "schema": event(chunk(generator)) },
        }),
        Reply::Text => json!({ "text/plain": { "schema": { "type": "string" } } }),
        Reply::Status => json!({ "application/json": { "schema": {
            "type": "object", "required": ["status"], "properties": { "status": { "type": "string" } }
        } } }),
    }
}

/// Before OpenAPI 3.2 the schema of an event stream is that of each event.
fn event(chunk: Value) -> Value {
    let json_text =
        json!({ "type": "string", "contentMediaType": "application/json", "contentSchema": chunk });
    json!({
        "type": "object",
        "description": "One server-sent event. The last one's data is `[DONE]`; a failure's is an error.",
        "required": ["data"],
        "properties": { "data": { "anyOf": [{ "const": "[DONE]" }, json_text] } }
    })
}

fn meaning(status: u16) -> &'static str {
    match status {
        400 => "The request cannot be served as it is; `param` names the parameter",
        401 => "No API key, or a wrong one",
        403 => "A key without the right to this, or a name that a server without API keys does not answer to",
        404 => "No such model",
        409 => "Another model is being loaded under this name",
        408 => "The body took too long to arrive",
        413 => "The body is too large",
        415 => "The body is not declared as JSON",
        429 => "The waiting line is full; try again after `retry-after`",
        503 => "Starting, overloaded or shutting down; try again after `retry-after`",
        504 => "The request took longer than the server allows",
        _ => "A fault in the server",
    }
}

fn schema_of<T: JsonSchema>(generator: &mut SchemaGenerator) -> Value {
    generator.subschema_for::<T>().to_value()
}
