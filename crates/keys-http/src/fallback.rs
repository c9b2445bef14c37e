//! Answers to unknown paths and methods.

use std::future::{Ready, ready};

use actix_web::{HttpResponse, Resource, Route, guard, web};

use crate::problem;
use crate::rejection::{Rejection, Render};

/// 404 as a problem, outside of the two contracts.
pub(crate) fn unknown_path() -> Ready<HttpResponse> {
    ready(Rejection::UnknownPath.respond(problem::render))
}

/// 404 in the form of a surface, for paths below it.
#[cfg(feature = "surfaces")]
pub(crate) fn unknown_path_in(
    render: Render,
) -> impl Fn() -> Ready<HttpResponse> + Clone + 'static {
    move || ready(Rejection::UnknownPath.respond(render))
}

/// Returns a path with the methods `allow`. Any other method is 405, before anything else is
/// checked.
pub(crate) fn resource(path: &str, allow: &'static str, render: Render) -> Resource {
    let refuse = move || ready(Rejection::MethodNotAllowed { allow }.respond(render));
    web::resource(path).default_service(web::to(refuse))
}

/// Returns a route for `GET` and `HEAD`. The handler does not see the difference, because
/// actix-http leaves out the body of the answer to `HEAD` and keeps its `Content-Length` (RFC 9110
/// section 9.3.2).
pub(crate) fn read() -> Route {
    web::route().guard(guard::Any(guard::Get()).or(guard::Head()))
}
