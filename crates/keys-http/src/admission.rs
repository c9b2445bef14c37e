//! What strangers hear, and how often they may ask.

use std::net::IpAddr;

use actix_web::HttpResponse;
use keys_service::Decision;

use crate::api::Api;
use crate::limits;
use crate::refusal::{Refusal, Render};

/// A refusal, and the limit that it was counted against.
pub(crate) struct Refused {
    pub(crate) refusal: Refusal,
    pub(crate) decision: Option<Decision>,
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        Self {
            refusal,
            decision: None,
        }
    }
}

impl Refused {
    /// Too much was asked for in too short a time.
    pub(crate) fn limited(decision: Decision) -> Self {
        Self {
            refusal: Refusal::RateLimited(decision.clone()),
            decision: Some(decision),
        }
    }

    pub(crate) fn respond(&self, render: Render) -> HttpResponse {
        let mut response = self.refusal.respond(render);
        if let Some(decision) = &self.decision {
            limits::show(decision, response.headers_mut());
        }
        response
    }
}

impl Api {
    /// Counts a refused credential against the client's address. After too many, the answer says that and nothing else.
    pub(crate) async fn refuse(&self, address: Option<IpAddr>, refusal: Refusal) -> Refused {
        let quota = self.inner.unauthenticated_quota;
        match self.inner.service.count_failure(address, quota).await {
            Ok(decision) if decision.allowed => Refused {
                refusal,
                decision: Some(decision),
            },
            Ok(decision) => Refused::limited(decision),
            Err(error) => Refusal::from(error).into(),
        }
    }
}
