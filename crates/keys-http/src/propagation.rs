//! Propagation of a change to all instances, and `?wait=global`.

use actix_web::http::header::{HeaderName, HeaderValue};
use actix_web::{HttpRequest, HttpResponse};
use keys_core::Timestamp;
use keys_service::{Effective, KeyService};

use crate::field_error::FieldError;
use crate::query::Query;
use crate::rejection::Rejection;

const EFFECTIVE_EVERYWHERE_BY: HeaderName = HeaderName::from_static("effective-everywhere-by");

/// Time at which the answer to a change is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wait {
    /// Once this instance has applied the change.
    Local,
    /// Once all instances have.
    Global,
}

impl Wait {
    /// Reads it from the request.
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

    /// Waits for as long as that takes, and returns the time by which every instance has applied
    /// the change.
    pub(crate) async fn until(self, service: &KeyService, effective: Effective) -> Timestamp {
        match self {
            Self::Local => effective.everywhere_by(),
            Self::Global => service.everywhere(effective).await,
        }
    }

    /// Returns that time, for a body that contains it only if the request waited for it.
    pub(crate) fn shown(self, by: Timestamp) -> Option<String> {
        (self == Self::Global).then(|| by.to_string())
    }
}

/// Adds that time to the headers of an answer.
pub(crate) fn show(by: Timestamp, mut response: HttpResponse) -> HttpResponse {
    // A time is plain ASCII, so this never fails.
    if let Ok(value) = HeaderValue::try_from(by.to_string()) {
        let headers = response.headers_mut();
        headers.insert(EFFECTIVE_EVERYWHERE_BY, value);
    }
    response
}
