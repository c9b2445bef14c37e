//! When a change is effective everywhere, and `?wait=global`.

use actix_web::http::header::{HeaderName, HeaderValue};
use actix_web::{HttpRequest, HttpResponse};
use keys_core::Timestamp;
use keys_service::{Effective, KeyService};

use crate::field_error::FieldError;
use crate::query::Query;
use crate::rejection::Rejection;

const EFFECTIVE_EVERYWHERE_BY: HeaderName = HeaderName::from_static("effective-everywhere-by");

/// Until when the answer to a change is kept back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wait {
    /// Until this instance goes by the change.
    Local,
    /// Until all instances do.
    Global,
}

impl Wait {
    /// What the request asks for.
    pub(crate) fn of(request: &HttpRequest) -> Result<Self, Rejection> {
        if request.query_string().is_empty() {
            return Ok(Self::Local);
        }
        match Query::parse(request.query_string()).one("wait") {
            Ok(None) => Ok(Self::Local),
            Ok(Some("global")) => Ok(Self::Global),
            Ok(Some(_)) => Err(Rejection::field("wait", "must be global")),
            Err(FieldError { field, message }) => Err(Rejection::field(field, message)),
        }
    }

    /// Waits as long as that takes, and says by when no instance goes by what was before the change.
    pub(crate) async fn until(self, service: &KeyService, effective: Effective) -> Timestamp {
        match self {
            Self::Local => effective.everywhere_by(),
            Self::Global => service.everywhere(effective).await,
        }
    }

    /// That moment, for a body that shows it only to those who have waited for it.
    pub(crate) fn shown(self, by: Timestamp) -> Option<String> {
        (self == Self::Global).then(|| by.to_string())
    }
}

/// Shows that moment in the header of an answer.
pub(crate) fn show(by: Timestamp, mut response: HttpResponse) -> HttpResponse {
    // A time is plain ASCII, so this never fails.
    if let Ok(value) = HeaderValue::try_from(by.to_string()) {
        let headers = response.headers_mut();
        headers.insert(EFFECTIVE_EVERYWHERE_BY, value);
    }
    response
}
