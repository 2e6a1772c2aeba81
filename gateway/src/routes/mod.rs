//! The route table: one row an endpoint. A test holds it equal to the OpenAPI document.

mod admin;
pub mod body;
mod cache;
mod chat;
mod completions;
mod embeddings;
pub mod generation;
mod health;
pub mod logprob_room;
mod logprobs;
mod metrics;
mod models;
mod sampling;
mod unsupported;

use axum::Router;
use axum::routing::{MethodRouter, get, post};

use crate::wiring::SharedFront;

/// Which layers a route stands behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Costs something: admission, body limit and deadline.
    Priced,
    /// Manages the server: body limit and deadline, for admin keys.
    Admin,
    /// Answers always, at once, before the models are loaded too.
    Free,
}

/// Paths of [`Class::Admin`].
pub const ADMIN_PREFIX: &str = "/admin/";

pub struct Route {
    pub method: &'static str,
    /// In axum's form; the document has `{model}` for `{*model}`.
    pub path: &'static str,
    class: Class,
    handler: fn() -> MethodRouter<SharedFront>,
}

/// Everything the server answers.
pub const ROUTES: &[Route] = &[
    Route {
        method: "post",
        path: "/v1/chat/completions",
        class: Class::Priced,
        handler: || post(chat::create),
    },
    Route {
        method: "post",
        path: "/v1/completions",
        class: Class::Priced,
        handler: || post(completions::create),
    },
    Route {
        method: "post",
        path: "/v1/embeddings",
        class: Class::Priced,
        handler: || post(embeddings::create),
    },
    Route { method: "get", path: "/v1/models", class: Class::Priced, handler: || get(models::list) },
    // The rest of the path, because names of models may have slashes.
    Route {
        method: "get",
        path: "/v1/models/{*model}",
        class: Class::Priced,
        handler: || get(models::retrieve),
    },
    Route { method: "get", path: "/admin/models", class: Class::Admin, handler: || get(admin::list) },
    Route { method: "post", path: "/admin/models/load", class: Class::Admin, handler: || post(admin::load) },
    Route {
        method: "post",
        path: "/admin/models/unload",
        class: Class::Admin,
        handler: || post(admin::unload),
    },
    Route { method: "get", path: "/healthz", class: Class::Free, handler: || get(health::alive) },
    Route { method: "get", path: "/readyz", class: Class::Free, handler: || get(health::ready) },
    Route { method: "get", path: "/metrics", class: Class::Free, handler: || get(metrics::text) },
];

/// The routes of one class.
pub fn router(class: Class) -> Router<SharedFront> {
    let routes = ROUTES.iter().filter(|route| route.class == class);
    routes.fold(Router::new(), |router, route| router.route(route.path, (route.handler)()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_manages_the_server_stands_under_its_prefix() {
        for route in ROUTES {
            assert_eq!(route.class == Class::Admin, route.path.starts_with(ADMIN_PREFIX), "{}", route.path);
        }
    }

    #[test]
    fn the_document_describes_these_routes() {
        let served: Vec<_> =
            ROUTES.iter().map(|route| (route.method, route.path.replace("{*", "{"))).collect();
        let described: Vec<_> = openapi::document::OPERATIONS
            .iter()
            .map(|operation| (operation.method, operation.path.to_owned()))
            .collect();
        assert_eq!(served, described);
    }
}
