//! `GET /api/account/api-keys`

use actix_web::{HttpRequest, HttpResponse, web};
use keys_core::Operation;
use keys_service::ports::KeyOwner;

use super::view::PageView;
use crate::fields::Faults;
use crate::guard::Authenticated;
use crate::query::Query;
use crate::rejection::Rejection;
use crate::surface::Surface;

const LIMIT_DEFAULT: u64 = 50;
const LIMIT_MAX: u64 = 100;

struct Wanted {
    page: u64,
    limit: u32,
}

impl TryFrom<Query> for Wanted {
    type Error = Rejection;

    fn try_from(query: Query) -> Result<Self, Rejection> {
        let mut faults = Faults::default();
        let page = faults.note(query.number("page", 1, u64::MAX));
        let limit = faults.note(query.number("limit", LIMIT_DEFAULT, LIMIT_MAX));
        faults.finish()?;
        Ok(Self {
            page,
            limit: u32::try_from(limit).expect("the limit is at most 100"),
        })
    }
}

impl Wanted {
    /// Returns the number of keys before the page. It saturates, because there are no keys beyond
    /// the largest number either.
    fn offset(&self) -> u64 {
        (self.page - 1).saturating_mul(self.limit.into())
    }
}

pub(super) async fn list(
    surface: web::Data<Surface>,
    identity: Authenticated,
    request: HttpRequest,
) -> HttpResponse {
    surface
        .manage(&identity, Operation::List, async |manager| {
            let wanted = Wanted::try_from(Query::parse(request.query_string()))?;
            let owner = KeyOwner::Account(manager.account_id);
            let found = surface
                .service
                .list_keys(owner, wanted.offset(), wanted.limit)
                .await?;
            Ok(HttpResponse::Ok().json(PageView::new(&found, wanted.page, wanted.limit)))
        })
        .await
}
