//! The routes that logs and metrics name.

use std::borrow::Cow;

use actix_web::HttpRequest;

use crate::endpoint::Endpoint;

/// The route that answered a request, as logs and metrics name it.
pub(crate) enum Route {
    /// A route of verification, which gets far more requests than others.
    Hot(Endpoint),
    /// Any other pattern.
    Other(Cow<'static, str>),
}

impl Route {
    pub(crate) fn is_hot(&self) -> bool {
        matches!(self, Self::Hot(_))
    }

    pub(crate) fn pattern(&self) -> &str {
        match self {
            Self::Hot(endpoint) => endpoint.path(),
            Self::Other(pattern) => pattern,
        }
    }
}

/// Returns the route that answers a request.
pub(crate) fn route(request: &HttpRequest) -> Route {
    // Finding the pattern matches all routes once more, which would be too slow for verification.
    match Endpoint::of(request.path()) {
        Some(endpoint) => Route::Hot(endpoint),
        None => Route::Other(
            request
                .match_pattern()
                .map_or("unmatched".into(), Cow::Owned),
        ),
    }
}
