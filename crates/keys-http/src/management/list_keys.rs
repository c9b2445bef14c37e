//! `GET /v1/keys`, `GET /v1/accounts/{account_id}/keys`, `GET /v1/accounts/{account_id}/sessions`

use actix_web::{HttpRequest, HttpResponse, web};
use keys_core::{
    CreatedBy, Denial, KeyKind, KeyStatus, Metadata, Operation, OperatorScope, Scope, ShownPrefix,
    Timestamp,
};
use keys_service::Identity;
use keys_service::ports::{KEYS_PER_PAGE_MAX, KeyQuery, NAME_PART_MAX_CHARS};

use super::key_view::PageView;
use super::shared::{account_id, answer, manage_keys, operator};
use crate::api::Api;
use crate::field_error::FieldError;
use crate::fields::{self, Faults};
use crate::guard::Authenticated;
use crate::query::Query;
use crate::rejection::Rejection;
use crate::unknown;

const LIMIT_DEFAULT: u64 = 50;

/// What the name of each parameter by metadata begins with.
const METADATA: &str = "metadata.";

/// Parameters of lists of keys, except those by metadata.
const FILTERS: [&str; 14] = [
    "external_id",
    "prefix",
    "name",
    "status",
    "kind",
    "scope",
    "created_by",
    "created_after",
    "created_before",
    "last_used_before",
    "expires_before",
    "sort",
    "cursor",
    "limit",
];

const ACCOUNT_ID: &str = "account_id";

pub(super) async fn list_keys(
    api: web::Data<Api>,
    identity: Authenticated,
    request: HttpRequest,
) -> HttpResponse {
    manage_keys(&api, &identity, Operation::List, async |actor| {
        let known: Vec<&str> = [ACCOUNT_ID].into_iter().chain(FILTERS).collect();
        unknown::check_query_but(&request, &known, METADATA)?;
        let parameters = Query::parse(request.query_string());
        let mut faults = Faults::default();
        // An account that cannot exist is unknown like any other.
        let account = faults.note(parameters.one(ACCOUNT_ID).map(|id| id.map(str::to_owned)));
        let query = key_query(&parameters, faults)?;
        let account = account.map(|id| id.parse()).transpose();
        let account = account.map_err(|_| Rejection::AccountNotFound)?;
        allow_kind(&identity, query.kind)?;
        let page = api.service().find_keys(&actor, query.account(account));
        let page = page.await?;
        let view = PageView::of_keys(&page, api.service().now());
        Ok(HttpResponse::Ok().json(view))
    })
    .await
}

pub(super) async fn list_keys_of_account(
    api: web::Data<Api>,
    identity: Authenticated,
    request: HttpRequest,
) -> HttpResponse {
    manage_keys(&api, &identity, Operation::List, async |actor| {
        let account = account_id(&request)?;
        unknown::check_query_but(&request, &FILTERS, METADATA)?;
        let parameters = Query::parse(request.query_string());
        let query = key_query(&parameters, Faults::default())?;
        allow_kind(&identity, query.kind)?;
        let page = api
            .service()
            .find_keys(&actor, query.account(Some(account)));
        let page = page.await?;
        let view = PageView::of_keys(&page, api.service().now());
        Ok(HttpResponse::Ok().json(view))
    })
    .await
}

pub(super) async fn list_sessions(
    api: web::Data<Api>,
    identity: Authenticated,
    request: HttpRequest,
) -> HttpResponse {
    const KNOWN: [&str; 7] = [
        "status",
        "created_by",
        "created_after",
        "created_before",
        "sort",
        "cursor",
        "limit",
    ];
    let list = async || {
        let account = account_id(&request)?;
        unknown::check_query(&request, &KNOWN)?;
        let parameters = Query::parse(request.query_string());
        let query = key_query(&parameters, Faults::default())?
            .kind(KeyKind::Session)
            .account(Some(account));
        let actor = operator(&identity)?;
        let page = api.service().find_keys(&actor, query).await?;
        let view = PageView::of_sessions(&page, api.service().now());
        Ok(HttpResponse::Ok().json(view))
    };
    answer(list().await)
}

/// Checks that the caller may list keys of this kind. Those of accounts need no scope beyond that
/// of the route.
fn allow_kind(identity: &Identity, kind: KeyKind) -> Result<(), Rejection> {
    let needed = match kind {
        KeyKind::Account => return Ok(()),
        KeyKind::Session => OperatorScope::SessionsRead,
        KeyKind::Operator => OperatorScope::OperatorsRead,
    };
    let is_allowed = identity.key.kind == KeyKind::Operator
        && identity.key.scopes.contains(&Scope::from(needed));
    if is_allowed {
        Ok(())
    } else {
        Err(Rejection::denied(Denial::InsufficientScope))
    }
}

/// Reads the parameters of a list, and reports those at fault together with `faults`.
fn key_query(query: &Query, mut faults: Faults) -> Result<KeyQuery, Rejection> {
    let external_id = faults.note(parsed(query, "external_id", |text| {
        fields::known_external_id("external_id", text)
    }));
    let prefix = faults.note(parsed(query, "prefix", prefix));
    let name = faults.note(parsed(query, "name", name));
    let statuses = faults.note_all(statuses(query));
    let kind = faults.note(parsed(query, "kind", kind));
    let scope = faults.note(parsed(query, "scope", |text| {
        fields::parse::<Scope>("scope", text, fields::SCOPE)
    }));
    let created_by = faults.note(parsed(query, "created_by", |text| {
        let expectation = "must be operator: and the id of an operator key, or subject: and a text";
        fields::parse::<CreatedBy>("created_by", text, expectation)
    }));
    let mut time = |field| faults.note(parsed(query, field, |text| moment(field, text)));
    let created_after = time("created_after");
    let created_before = time("created_before");
    let last_used_before = time("last_used_before");
    let expires_before = time("expires_before");
    let metadata = faults.note(metadata(query));
    let sort = faults.note(parsed(query, "sort", |text| {
        let expectation =
            "must be created_at, last_used_at or expires_at, with - in front for the reverse";
        fields::parse("sort", text, expectation)
    }));
    let after = faults.note(parsed(query, "cursor", |text| {
        fields::parse("cursor", text, "must be a next_cursor of another page")
    }));
    let limit = query.number("limit", LIMIT_DEFAULT, KEYS_PER_PAGE_MAX.into());
    let limit = faults.note(limit);
    faults.finish()?;
    let limit = u32::try_from(limit).expect("the limit is at most 1,000");
    Ok(KeyQuery::new(limit)
        .external_id(external_id)
        .prefix(prefix)
        .name(name)
        .statuses(statuses)
        .kind(kind.unwrap_or(KeyKind::Account))
        .scope(scope)
        .created_by(created_by)
        .created_after(created_after)
        .created_before(created_before)
        .last_used_before(last_used_before)
        .expires_before(expires_before)
        .metadata(metadata)
        .sort(sort)
        .after(after))
}

/// Reads a parameter that may be missing.
fn parsed<T>(
    query: &Query,
    name: &str,
    parse: impl FnOnce(&str) -> Result<T, FieldError>,
) -> Result<Option<T>, FieldError> {
    query.one(name)?.map(parse).transpose()
}

fn prefix(text: &str) -> Result<ShownPrefix, FieldError> {
    let is_legal = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
    let prefix = is_legal.then(|| ShownPrefix::from_stored(text.to_owned()).ok());
    prefix.flatten().ok_or_else(|| {
        let message = "must be the whole key_prefix of a key, such as sk_live_a1b2";
        FieldError::new("prefix", message)
    })
}

fn name(text: &str) -> Result<String, FieldError> {
    if text.is_empty() || text.chars().nth(NAME_PART_MAX_CHARS).is_some() {
        let message = format!("must be 1 to {NAME_PART_MAX_CHARS} characters");
        return Err(FieldError::new("name", message));
    }
    Ok(text.to_owned())
}

fn kind(text: &str) -> Result<KeyKind, FieldError> {
    let mut all = KeyKind::ALL.into_iter();
    all.find(|kind| kind.as_str() == text)
        .ok_or_else(|| FieldError::new("kind", "must be account, session or operator"))
}

/// Reads any number of statuses, with commas between them or in parameters of their own.
fn statuses(query: &Query) -> Result<Vec<KeyStatus>, Vec<FieldError>> {
    let all = query.all("status").flat_map(|list| list.split(','));
    let statuses: Result<Vec<KeyStatus>, _> = all.map(str::parse).collect();
    statuses.map_err(|_| {
        let known = KeyStatus::ALL.map(KeyStatus::as_str).join(", ");
        let message = format!("must be one or several of {known}, with commas between them");
        vec![FieldError::new("status", message)]
    })
}

fn moment(field: &str, text: &str) -> Result<Timestamp, FieldError> {
    let time = Timestamp::parse_rfc3339(text);
    time.map_err(|_| FieldError::new(field, fields::TIME))
}

fn metadata(query: &Query) -> Result<Metadata, FieldError> {
    let pairs = query.pairs();
    let entries: Vec<(&str, &str)> = pairs
        .filter_map(|(name, value)| Some((name.strip_prefix(METADATA)?, value)))
        .collect();
    for (index, (name, _)) in entries.iter().enumerate() {
        if entries.iter().take(index).any(|(other, _)| other == name) && Metadata::is_name(name) {
            let field = format!("{METADATA}{name}");
            return Err(FieldError::new(field, "must be given once"));
        }
    }
    Metadata::new(entries).map_err(|error| FieldError::new("metadata", error.to_string()))
}
