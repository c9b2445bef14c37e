//! The account contract: `/api/account/api-keys`, wrapped views and pages, errors that name the
//! field.

mod create;
mod delete;
mod error;
mod list;
mod view;

use actix_web::dev::HttpServiceFactory;
use actix_web::http::header::CACHE_CONTROL;
use actix_web::middleware::DefaultHeaders;
use actix_web::web;

use crate::api::Api;
use crate::fallback;
use crate::mount::Mount;
use crate::surface::Surface;

pub(crate) fn scope(api: &Api, mount: &Mount) -> impl HttpServiceFactory + use<> {
    let surface = Surface::new(api, mount, error::render);
    let guard = || surface.guard(api);
    let keys = fallback::resource("", "GET, HEAD, POST", error::render)
        .route(fallback::read().to(list::list).wrap(guard()))
        .route(web::post().to(create::create).wrap(guard()));
    let key = fallback::resource("/{identifier}", "DELETE", error::render)
        .route(web::delete().to(delete::delete).wrap(guard()));
    web::scope(mount.path.as_str())
        .wrap(DefaultHeaders::new().add((CACHE_CONTROL, "no-store")))
        .service(keys)
        .service(key)
        .default_service(web::to(fallback::unknown_path_in(error::render)))
        .app_data(web::Data::new(surface))
}
