//! The account contract: `/api/account/api-keys`, wrapped views and pages, errors that name the
//! field.

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
    Surface::new(api, mount, error::render, "identifier").scope(
        api,
        fallback::read().to(list::list),
        web::post().to(create::create),
        web::delete().to(delete),
    )
}
