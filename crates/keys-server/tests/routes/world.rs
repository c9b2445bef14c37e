//! A running server on either database, and helpers for tests.

use std::sync::{Arc, Weak};
use std::time::Duration;

use keys_core::Timestamp;
use keys_service::{Clock as _, SystemClock};
use keys_testkit::postgres::Database;
use keys_testkit::server::{Server, ServerBuilder};
use serde_json::{Value, json};
use tokio::sync::Mutex;

use crate::dialect::{Dialect, FLAT};
use crate::exchange::{self, Answer, Request};

/// Plans with large quotas, beside the documented ones, and unlimited failures, because all tests
/// use the same address.
const ROOMY: &str = r"
[http]
unauthenticated = { requests = 1000000, period_seconds = 60 }

# As many requests as a test has rows.
[plans.roomy]
keys = true
keys_max = 1000
[plans.roomy.limits]
create = { requests = 1000, period_seconds = 60 }
list = { requests = 1000, period_seconds = 60 }
delete = { requests = 1000, period_seconds = 60 }

# The documented number of keys, and more requests.
[plans.ten]
keys = true
keys_max = 10
[plans.ten.limits]
create = { requests = 1000, period_seconds = 60 }
list = { requests = 1000, period_seconds = 60 }
delete = { requests = 1000, period_seconds = 60 }

# Fewer keys.
[plans.three]
keys = true
keys_max = 3
[plans.three.limits]
create = { requests = 1000, period_seconds = 60 }
list = { requests = 1000, period_seconds = 60 }
delete = { requests = 1000, period_seconds = 60 }
";

/// The database of a test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    Sqlite,
    Postgres,
}

impl Place {
    /// Returns a server that other tests use as well. Only accounts belong to a single test.
    pub(crate) async fn shared(self) -> World {
        static SHARED: [Mutex<Weak<Home>>; 2] =
            [Mutex::const_new(Weak::new()), Mutex::const_new(Weak::new())];
        // Held weakly, so that the last test to use it stops it and removes its folder.
        let mut shared = match self {
            Self::Sqlite => SHARED[0].lock().await,
            Self::Postgres => SHARED[1].lock().await,
        };
        let home = if let Some(home) = shared.upgrade() {
            home
        } else {
            let home = Arc::new(Home::start(self, |server| server.config(ROOMY)).await);
            *shared = Arc::downgrade(&home);
            home
        };
        World::new(home)
    }

    /// Returns a server for this test alone, with default settings.
    pub(crate) async fn alone(self) -> World {
        self.with(|server| server).await
    }

    /// Returns a server for this test alone with the plans and limits of the shared one.
    pub(crate) async fn roomy(self) -> World {
        self.with(|server| server.config(ROOMY)).await
    }

    /// Returns a server for this test alone.
    pub(crate) async fn with(
        self,
        configure: impl FnOnce(ServerBuilder) -> ServerBuilder,
    ) -> World {
        World::new(Arc::new(Home::start(self, configure).await))
    }
}

/// A server with its database.
struct Home {
    // Stopped before its database.
    server: Server,
    stopped: bool,
    operator: String,
    database: Option<Database>,
}

impl Home {
    async fn start(place: Place, configure: impl FnOnce(ServerBuilder) -> ServerBuilder) -> Self {
        let builder = Server::builder(env!("CARGO_BIN_EXE_keys-server"));
        let (builder, database) = match place {
            Place::Sqlite => (builder, None),
            Place::Postgres => {
                let database = Database::create().await;
                (builder.postgres(&database.url()), Some(database))
            }
        };
        let server = configure(builder).start().await;
        Self {
            operator: server.operator_key("tests"),
            server,
            stopped: false,
            database,
        }
    }

    fn stop(&mut self) {
        self.stopped = true;
        let status = self.server.stop();
        assert!(status.success(), "{status}:\n{}", self.server.stderr());
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if !self.stopped && !std::thread::panicking() {
            self.stop();
        }
    }
}

/// A test's view of a server.
pub(crate) struct World {
    // Dropped first, because the stop would wait for open connections.
    client: reqwest::Client,
    home: Arc<Home>,
}

impl World {
    fn new(home: Arc<Home>) -> Self {
        const TIMEOUT: Duration = Duration::from_secs(30);
        let client = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(TIMEOUT)
            .build();
        Self {
            client: client.unwrap(),
            home,
        }
    }

    pub(crate) fn request(&self, method: &str, path: &str) -> Request {
        Request::new(&self.client, method, &self.home.server.url(""), path)
    }

    pub(crate) fn get(&self, path: &str) -> Request {
        self.request("GET", path)
    }

    pub(crate) fn post(&self, path: &str) -> Request {
        self.request("POST", path)
    }

    pub(crate) fn patch(&self, path: &str) -> Request {
        self.request("PATCH", path)
    }

    pub(crate) fn delete(&self, path: &str) -> Request {
        self.request("DELETE", path)
    }

    /// Sends these bytes unchanged.
    pub(crate) async fn raw(&self, request: impl AsRef<[u8]>) -> Answer {
        exchange::raw(&self.home.server.url(""), request.as_ref()).await
    }

    /// Returns an operator key with every scope.
    pub(crate) fn operator(&self) -> &str {
        &self.home.operator
    }

    /// Returns the output of a command of the program.
    pub(crate) fn command(&self, arguments: &[&str]) -> String {
        let output = self.home.server.command(arguments);
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{arguments:?}: {said}");
        let printed = String::from_utf8(output.stdout).unwrap();
        printed.trim().to_owned()
    }

    pub(crate) fn server(&self) -> &Server {
        &self.home.server
    }

    /// Returns the database, if it is PostgreSQL.
    pub(crate) fn database(&self) -> Option<&Database> {
        self.home.database.as_ref()
    }

    fn own(&mut self) -> &mut Home {
        Arc::get_mut(&mut self.home).expect("only a server of one's own is stopped")
    }

    /// Stops the server as service managers do.
    pub(crate) fn stop(&mut self) {
        self.own().stop();
    }

    /// Ends the server as a failure would.
    pub(crate) fn kill(&mut self) {
        let home = self.own();
        home.stopped = true;
        home.server.kill();
    }

    /// Starts it again on the same database.
    pub(crate) async fn start_again(&mut self) {
        let home = self.own();
        home.server.start_again().await;
        home.stopped = false;
    }

    /// Gives the server other settings, from its next start on.
    pub(crate) fn configure(&self, toml: &str) {
        let folder = self.home.server.folder();
        let file = folder.parent().unwrap().join("config.toml");
        assert!(file.is_file(), "it was started with a file of settings");
        std::fs::write(file, toml).unwrap();
    }

    /// Creates an account. Returns its id.
    pub(crate) async fn account(&self, plan: &str) -> String {
        let created = self
            .post("/v1/accounts")
            .bearer(self.operator())
            .json(&json!({ "plan": plan }));
        let created = created.send().await;
        assert_eq!(created.status, 201, "{created:?}");
        created.text("/id")
    }

    /// Changes an account.
    pub(crate) async fn change(&self, account: &str, patch: &Value) {
        let changed = self.patch(&format!("/v1/accounts/{account}"));
        let changed = changed.bearer(self.operator()).json(patch).send().await;
        assert_eq!(changed.status, 200, "{changed:?}");
    }

    pub(crate) async fn change_plan(&self, account: &str, plan: &str) {
        self.change(account, &json!({ "plan": plan })).await;
    }

    /// Creates a key as an operator.
    pub(crate) async fn issue(&self, account: &str, draft: &Value) -> Answer {
        let issued = self.post(&format!("/v1/accounts/{account}/keys"));
        let issued = issued.bearer(self.operator()).json(draft).send().await;
        assert_eq!(issued.status, 201, "{issued:?}");
        issued
    }

    /// Creates a key of this account.
    pub(crate) async fn key(&self, account: &str) -> String {
        self.issue(account, &json!({})).await.text("/key")
    }

    /// Creates a key of a new account on this plan.
    pub(crate) async fn key_on(&self, plan: &str) -> String {
        self.key(&self.account(plan).await).await
    }

    /// Opens a session of this account.
    pub(crate) async fn session(&self, account: &str) -> String {
        let opened = self
            .post(&format!("/v1/accounts/{account}/sessions"))
            .bearer(self.operator())
            .json(&json!({ "ttl_seconds": 600 }));
        let opened = opened.send().await;
        assert_eq!(opened.status, 201, "{opened:?}");
        opened.text("/token")
    }

    /// Creates a key through a contract.
    pub(crate) async fn create(&self, dialect: Dialect, key: &str, name: &str) -> Answer {
        let request = self.post(dialect.path()).bearer(key);
        let request = request.json(&dialect.draft(name));
        request.expect(201, &dialect.created(name)).await
    }

    /// Returns the names of the keys that the flat contract lists.
    pub(crate) async fn names(&self, key: &str) -> Vec<String> {
        let listed = self.get(FLAT).bearer(key).send().await;
        assert_eq!(listed.status, 200, "{listed:?}");
        let names = Dialect::Flat.listed(&listed).into_iter().map(|key| {
            let name = key["name"].as_str();
            name.unwrap().to_owned()
        });
        names.collect()
    }

    /// Returns the status of a list with this credential: 200 if it is valid.
    pub(crate) async fn status(&self, key: &str) -> u16 {
        self.get(FLAT).bearer(key).send().await.status
    }
}

/// Returns a future time.
pub(crate) fn in_millis(millis: u64) -> Timestamp {
    SystemClock
        .now()
        .saturating_add(Duration::from_millis(millis))
}

/// Waits until this time.
pub(crate) async fn wait_until(moment: Timestamp) {
    tokio::time::sleep(moment.saturating_since(SystemClock.now())).await;
    while SystemClock.now() < moment {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Formats a time with all its digits.
pub(crate) fn exactly(moment: Timestamp) -> String {
    format!("{moment:?}")
}
