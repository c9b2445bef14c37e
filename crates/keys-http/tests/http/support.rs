//! The surfaces in an application inside the test, over a store in memory, with a controlled clock.

use std::time::Duration;

use actix_web::App;
use actix_web::body::{self, MessageBody};
use actix_web::dev::Response;
use actix_web::test::{self, TestRequest};
use keys_core::{Account, AccountId, KeyName, Plans, Quota, ScopeSet};
use keys_http::{Api, ApiBuilder};
use keys_service::ports::KeyStore;
use keys_service::{
    Actor, Issued, KeyDraft, KeyService, KeyServiceBuilder, MemoryStore, NewAccount,
    OperatorKeyDraft, SessionDraft,
};
use keys_testkit::clock::FakeClock;
use keys_testkit::data;
use keys_testkit::rng::seeded;

use crate::exchange::{Answer, Exchange, Request};

/// Default address of requests.
pub(crate) const CLIENT: &str = "203.0.113.5";

pub(crate) struct World {
    pub(crate) clock: FakeClock,
    pub(crate) service: KeyService,
    pub(crate) api: Api,
    peer: String,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with_api(|api| api)
    }

    pub(crate) fn with_api(configure: impl FnOnce(ApiBuilder) -> ApiBuilder) -> Self {
        Self::with(MemoryStore::new(), |service| service, configure)
    }

    pub(crate) fn with_store(store: impl KeyStore) -> Self {
        Self::with(store, |service| service, |api| api)
    }

    pub(crate) fn with(
        store: impl KeyStore,
        service: impl FnOnce(KeyServiceBuilder) -> KeyServiceBuilder,
        api: impl FnOnce(ApiBuilder) -> ApiBuilder,
    ) -> Self {
        let clock = FakeClock::default();
        let builder = KeyService::builder(store, data::pepper_ring("p1"))
            .clock(clock.clone())
            .rng(seeded(7));
        let service = service(builder).build();
        Self {
            clock,
            api: api(Api::builder(service.clone())).build(),
            service,
            peer: CLIENT.to_owned(),
        }
    }

    /// Returns the same world, seen from another address.
    pub(crate) fn from(&self, peer: &str) -> Self {
        Self {
            clock: self.clock.clone(),
            service: self.service.clone(),
            api: self.api.clone(),
            peer: peer.to_owned(),
        }
    }

    /// Returns the same world, in which changes are followed, so that the cache is used.
    pub(crate) async fn followed(self) -> Self {
        // A time before the start of the clock cannot be waited for.
        self.advance(1);
        let service = self.service.clone();
        actix_web::rt::spawn(async move { service.maintain().await });
        self.listener_is(true).await;
        self
    }

    /// Waits until the listener for changes is up, or down.
    pub(crate) async fn listener_is(&self, up: bool) {
        while self.service.cache_state().is_listening != up {
            actix_web::rt::time::sleep(Duration::from_millis(1)).await;
        }
    }

    pub(crate) fn advance(&self, seconds: u64) {
        self.clock.advance(Duration::from_secs(seconds));
    }

    pub(crate) async fn account(&self, plan: &str) -> Account {
        let new = NewAccount::new(plan.parse().unwrap());
        let system = Actor::system();
        let created = self.service.create_account(&system, new).await;
        created.unwrap()
    }

    pub(crate) async fn issue(&self, draft: KeyDraft) -> Issued {
        let system = Actor::system();
        let issued = self.service.issue_key(&system, draft).await;
        issued.unwrap()
    }

    pub(crate) async fn key(&self, account: &Account) -> String {
        let issued = self.issue(draft(account.id)).await;
        issued.secret.expose().to_owned()
    }

    /// A key of a new account on `pro`.
    pub(crate) async fn pro_key(&self) -> String {
        self.key(&self.account("pro").await).await
    }

    pub(crate) async fn session(&self, account: &Account) -> String {
        let ttl = Duration::from_mins(1);
        let system = Actor::system();
        let opened = self
            .service
            .open_session(&system, SessionDraft::new(account.id, ttl));
        opened.await.unwrap().secret.expose().to_owned()
    }

    pub(crate) async fn operator(&self, scopes: &[&str]) -> String {
        let draft = OperatorKeyDraft::new(KeyName::from_name("test").unwrap())
            .scopes(ScopeSet::parse(scopes).unwrap());
        let system = Actor::system();
        let issued = self.service.issue_operator_key(&system, draft);
        issued.await.unwrap().secret.expose().to_owned()
    }

    /// Creates an operator key with all scopes.
    pub(crate) async fn root(&self) -> String {
        let scopes = ["accounts:read", "accounts:write", "keys:read", "keys:write"];
        self.operator(&scopes).await
    }
}

pub(crate) fn draft(account_id: AccountId) -> KeyDraft {
    KeyDraft::new(account_id, "sk_live".parse().unwrap())
}

/// Returns the documented plans, with a limit of 3 a minute named `requests` in `pro`.
pub(crate) fn limited_plans() -> Plans {
    let quota = Quota::per_minute(3).unwrap();
    Plans::new(Plans::documented().iter().map(|(name, plan)| {
        let mut plan = plan.clone();
        if name.as_str() == "pro" {
            let limit = "requests".parse().unwrap();
            plan.limits.insert(limit, quota.into());
        }
        (name.clone(), plan)
    }))
}

impl Exchange for World {
    async fn exchange(&self, request: Request) -> Answer {
        let api = self.api.clone();
        let app = App::new()
            .wrap(api.log_requests())
            .configure(|app| api.configure(app));
        let request = test_request(&request, &self.peer);
        let service = test::init_service(app).await;
        answer(test::call_service(&service, request).await).await
    }
}

pub(crate) fn test_request(request: &Request, peer: &str) -> actix_http::Request {
    let method = request.method.parse().unwrap();
    let mut built = TestRequest::with_uri(&request.path).method(method);
    if !peer.is_empty() {
        built = built.peer_addr((peer.parse::<std::net::IpAddr>().unwrap(), 40_000).into());
    }
    for (name, value) in &request.headers {
        let value = actix_web::http::header::HeaderValue::from_bytes(value).unwrap();
        built = built.append_header((name.as_str(), value));
    }
    if !request.body.is_empty() {
        built = built.set_payload(request.body.clone());
    }
    built.to_request()
}

pub(crate) async fn answer<B: MessageBody>(response: impl Into<Response<B>>) -> Answer {
    let response = response.into();
    let headers = response.headers().iter().map(|(name, value)| {
        let value = value.to_str().unwrap().to_owned();
        (name.as_str().to_owned(), value)
    });
    let (status, headers) = (response.status().as_u16(), headers.collect());
    let body = body::to_bytes(response.into_body()).await.ok().unwrap();
    Answer {
        status,
        headers,
        body: String::from_utf8(body.to_vec()).unwrap(),
    }
}
