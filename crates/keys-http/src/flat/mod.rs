//! The flat contract: `/api/api-keys`, bare views, errors as `{"message","code"}`.

mod create;
mod error;
mod list;
mod view;

use actix_web::dev::HttpServiceFactory;
use actix_web::web;

use crate::api::Api;
use crate::delete::delete;
use crate::fallback;
use crate::mount::Mount;
use crate::surface::Surface;

pub(crate) fn scope(api: &Api, mount: &Mount) -> impl HttpServiceFactory + use<> {
    Surface::new(api, mount, error::render, "id").scope(
        api,
        fallback::read().to(list::list),
        web::post().to(create::create),
        web::delete().to(delete),
    )
}
