//! Sends two hundred keys of every kind through every route, rightly and wrongly, and then searches
//! for them in all output and all stored data of the service.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on says so by panicking"
)]

mod support {
    pub(crate) mod misuse;
    pub(crate) mod postgres;
    pub(crate) mod search;
    pub(crate) mod sqlite;
    pub(crate) mod wire;
}

use std::collections::{BTreeSet, HashSet};
use std::ops::{Deref, DerefMut};
use std::path::Path;
use std::process::Output;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use keys_core::{KeyPrefix, SecretKey};
use keys_service::{Clock as _, SystemClock};
use keys_testkit::server::{Answer, Call, PEPPER, Server};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use support::misuse::{self, Named};
use support::postgres::Talkative;
use support::search::{Encoding, Search, WINDOW};
use support::sqlite;
use support::wire::Wire;

const BINARY: &str = env!("CARGO_BIN_EXE_keys-server");

/// The password in the URL of the database.
const PASSWORD: &str = "qW3rTyUi0pAsDfGh";

/// Number of keys for each format of the log.
const KEYS_PER_FORMAT: usize = 100;

/// Life of keys that should expire.
const SHORT_LIFE: Duration = Duration::from_secs(3);

/// Number of concurrent requests.
const AT_ONCE: usize = 8;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Sqlite,
    Postgres,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Operator,
    Account,
    Session,
}

/// A key, and the values needed to use and revoke it.
#[derive(Debug, Clone)]
struct Key {
    secret: String,
    kind: Kind,
    /// `None` for sessions, whose answers have no id.
    id: Option<String>,
    /// A session of its account, which may revoke it.
    holder: String,
    expires: bool,
}

/// A text from the service, and the one secret it may contain.
struct Said {
    label: String,
    bytes: Vec<u8>,
    issued: Option<String>,
}

impl Said {
    fn answer(label: impl Into<String>, answer: &Answer) -> Self {
        let mut bytes = format!("{}\r\n", answer.status).into_bytes();
        for (name, value) in &answer.headers {
            bytes.extend([name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
        }
        bytes.extend(answer.body.as_bytes());
        Self {
            label: label.into(),
            bytes,
            issued: None,
        }
    }

    fn issues(mut self, secret: &str) -> Self {
        self.issued = Some(secret.to_owned());
        self
    }
}

/// The server. Its whole log is too long to be shown when a test fails.
struct Quiet(Option<Server>);

impl Deref for Quiet {
    type Target = Server;

    fn deref(&self) -> &Server {
        self.0.as_ref().unwrap()
    }
}

impl DerefMut for Quiet {
    fn deref_mut(&mut self) -> &mut Server {
        self.0.as_mut().unwrap()
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        const LINES: usize = 20;
        let Some(server) = self.0.take().filter(|_| std::thread::panicking()) else {
            return;
        };
        let log = server.stderr();
        let last: Vec<_> = log.lines().rev().take(LINES).collect();
        for line in last.iter().rev() {
            eprintln!("{line}");
        }
        let _ = std::fs::remove_dir_all(server.folder().parent().unwrap());
        // Dropping it would print everything. The process itself ends with this one.
        std::mem::forget(server);
    }
}

/// Secrets that must not be found, and the ones that were found.
struct Watch {
    search: Search,
    /// Descriptions of the secrets.
    secrets: Vec<String>,
    leaks: Mutex<BTreeSet<String>>,
    /// All statuses of answers.
    statuses: Mutex<BTreeSet<u16>>,
}

impl Watch {
    fn new(keys: &[Key], others: &[(&str, Vec<u8>)]) -> Self {
        let mut search = Search::new(keys.iter().map(|key| &key.secret));
        let mut secrets: Vec<_> = keys.iter().map(|key| key.secret.clone()).collect();
        for (name, bytes) in others {
            search.add(bytes);
            secrets.push((*name).to_owned());
        }
        Self {
            search,
            secrets,
            leaks: Mutex::default(),
            statuses: Mutex::default(),
        }
    }

    fn look(&self, said: &Said) {
        for found in self.search.find(&said.bytes) {
            let secret = &self.secrets[found.secret];
            if said.issued.as_ref() == Some(secret) {
                continue;
            }
            let around = found.at.saturating_sub(120)..(found.at + 60).min(said.bytes.len());
            let around = String::from_utf8_lossy(&said.bytes[around]);
            let encoding = found.encoding;
            let leak = format!("{}: {secret} as {encoding:?} in: {around}", said.label);
            self.leaks.lock().unwrap().insert(leak);
        }
    }

    fn look_at_bytes(&self, label: &str, bytes: impl Into<Vec<u8>>) {
        self.look(&Said {
            label: label.to_owned(),
            bytes: bytes.into(),
            issued: None,
        });
    }

    fn look_at_answer(&self, label: &str, answer: &Answer) {
        self.statuses.lock().unwrap().insert(answer.status);
        self.look(&Said::answer(label, answer));
    }

    async fn send(&self, named: Named) -> u16 {
        let (label, call) = named;
        let answer = call.send().await;
        self.look_at_answer(&label, &answer);
        answer.status
    }

    /// Panics with the first few leaks, if there are any.
    fn assert_nothing_found(&self) {
        let leaks = self.leaks.lock().unwrap();
        let shown: Vec<_> = leaks.iter().take(20).collect();
        assert!(
            leaks.is_empty(),
            "{} leaks, such as {shown:#?}",
            leaks.len()
        );
    }
}

/// Returns settings under which everything is logged, and only the plan `tight` has limits that are
/// reached.
fn settings(format: &str) -> String {
    let limits = |requests: u32| {
        ["create", "list", "delete"].map(|operation| {
            format!("limits.{operation} = {{ requests = {requests}, period_seconds = 3600 }}")
        })
    };
    format!(
        "[http]\ntrusted_proxies = [\"{}\"]\n[log]\nfilter = \"trace\"\nformat = \"{format}\"\n\
         [plans.pro]\nkeys = true\nkeys_max = 1000000\n{}\n\
         [plans.tight]\nkeys = true\nkeys_max = 1\n{}\n",
        misuse::PROXIES,
        limits(1_000_000).join("\n"),
        limits(3).join("\n"),
    )
}

/// Random enough to be unique, and as long as a key.
fn new_idempotency_key() -> String {
    let prefix: KeyPrefix = "idem".parse().unwrap();
    let key = SecretKey::generate(&prefix, &mut getrandom::SysRng).unwrap();
    key.expose().to_owned()
}

fn in_a_moment() -> String {
    SystemClock.now().saturating_add(SHORT_LIFE).to_string()
}

/// Creates keys of every kind in every way.
struct Issuer<'a> {
    server: &'a Server,
    keys: Vec<Key>,
    said: Vec<Said>,
    idempotency_keys: Vec<String>,
}

impl Issuer<'_> {
    /// Runs a command and returns its only line of output.
    fn command(&mut self, arguments: &[&str]) -> String {
        let Output {
            status,
            stdout,
            stderr,
        } = self.server.command(arguments);
        let label = arguments[..2].join(" ");
        let log = String::from_utf8_lossy(&stderr).into_owned();
        assert!(status.success(), "{label}: {log}");
        self.said.push(Said {
            label: format!("log of {label}"),
            bytes: stderr,
            issued: None,
        });
        String::from_utf8(stdout).unwrap().trim().to_owned()
    }

    fn made_by_command(&mut self, kind: Kind, holder: &str, arguments: &[&str]) -> String {
        let line = self.command(&[arguments, &["--json"]].concat());
        let json: Value = serde_json::from_str(&line).unwrap();
        let secret = json["key"].as_str().unwrap().to_owned();
        self.said.push(Said {
            label: arguments[..2].join(" "),
            bytes: line.into_bytes(),
            issued: Some(secret.clone()),
        });
        self.keys.push(Key {
            secret: secret.clone(),
            kind,
            id: json["id"].as_str().map(str::to_owned),
            holder: holder.to_owned(),
            expires: false,
        });
        secret
    }

    /// Sends a create, each fifth time with an idempotency key and twice.
    async fn create(
        &mut self,
        kind: Kind,
        holder: &str,
        body: &Value,
        call: impl Fn() -> Call,
    ) -> String {
        let replays = self.keys.len().is_multiple_of(5);
        let idempotency_key = new_idempotency_key();
        let call = || {
            let call = call().json(body);
            if replays {
                call.header("Idempotency-Key", &idempotency_key)
            } else {
                call
            }
        };
        let answer = call().send().await;
        assert_eq!(answer.status, 201, "{}", answer.body);
        let json = answer.json();
        let first = |pointers: &[&str]| {
            let found = pointers.iter().find_map(|pointer| json.pointer(pointer));
            found.and_then(Value::as_str).map(str::to_owned)
        };
        let secret = first(&["/key", "/meta/secret_token", "/token"]).unwrap();
        self.said
            .push(Said::answer("create", &answer).issues(&secret));
        if replays {
            let replay = call().send().await;
            assert_eq!((replay.status, &replay.body), (201, &answer.body));
            self.said
                .push(Said::answer("replay", &replay).issues(&secret));
            let other = call().json(&json!({"name": "another body"})).send().await;
            self.said.push(Said::answer("another body", &other));
            assert!([400, 422].contains(&other.status), "{}", other.body);
            self.idempotency_keys.push(idempotency_key.clone());
        }
        let expires = ["expiresAt", "expires_at"]
            .iter()
            .any(|name| body.get(name).is_some());
        self.keys.push(Key {
            secret: secret.clone(),
            kind,
            id: first(&["/id", "/data/identifier"]),
            holder: holder.to_owned(),
            expires: expires || body["ttl_seconds"] == SHORT_LIFE.as_secs(),
        });
        secret
    }

    async fn account(&mut self, operator: &str, plan: &str) -> String {
        let body = json!({"plan": plan});
        let call = self.server.post("/v1/accounts").bearer(operator);
        let answer = call.json(&body).send().await;
        assert_eq!(answer.status, 201, "{}", answer.body);
        self.said.push(Said::answer("create account", &answer));
        answer.text("/id")
    }

    async fn session(&mut self, operator: &str, account: &str, ttl: u64) -> String {
        let server = self.server;
        let path = format!("/v1/accounts/{account}/sessions");
        let body = json!({"ttl_seconds": ttl});
        self.create(Kind::Session, "", &body, || {
            server.post(&path).bearer(operator)
        })
        .await
    }

    /// Returns a hundred keys, including those of `welcome`.
    async fn all(&mut self, welcome: Option<String>) -> World {
        let server = self.server;
        let operators = 6;
        self.keys.extend(welcome.map(|secret| Key {
            secret,
            kind: Kind::Operator,
            id: None,
            holder: String::new(),
            expires: false,
        }));
        while self.keys.len() < operators {
            let arguments = ["operator-key", "create", "--name", "canary"];
            let restricted = [&arguments[..], &["--ip", "192.0.2.0/24"]].concat();
            let arguments = if self.keys.len() == operators - 1 {
                &restricted
            } else {
                &arguments[..]
            };
            self.made_by_command(Kind::Operator, "", arguments);
        }
        let operator = self.keys[0].secret.clone();
        let mut accounts = Vec::new();
        for plan in ["pro", "pro", "pro", "pro", "pro", "tight"] {
            let account = self.account(&operator, plan).await;
            let session = self.session(&operator, &account, 600).await;
            accounts.push((account, session));
        }
        for (account, _) in accounts.iter().chain(&accounts).take(10) {
            self.session(&operator, account, SHORT_LIFE.as_secs()).await;
        }
        for (account, holder) in &accounts[..4] {
            let arguments = [
                "key",
                "create",
                "--account",
                account,
                "--name",
                "by command",
            ];
            self.made_by_command(Kind::Account, holder, &arguments);
        }
        // The three surfaces that create keys share the rest.
        for number in 0.. {
            if self.keys.len() == KEYS_PER_FORMAT - 1 {
                break;
            }
            let (account, holder) = &accounts[number % 5];
            let (holder, name) = (holder.clone(), format!("canary {number}"));
            let elsewhere = ["192.0.2.0/24", "2001:db8::/32"];
            match number % 3 {
                0 => {
                    let mut body = json!({"name": name});
                    match number % 4 {
                        0 => body["expires_at"] = in_a_moment().into(),
                        1 => body["allowed_ips"] = json!(elsewhere),
                        2 => body["prefix"] = "acme_eu".into(),
                        _ => body["scopes"] = json!(["orders:read"]),
                    }
                    let path = format!("/v1/accounts/{account}/keys");
                    let call = || server.post(&path).bearer(&operator);
                    self.create(Kind::Account, &holder, &body, call).await;
                }
                1 => {
                    let body = json!({"name": name});
                    let call = || server.post("/api/api-keys").header("X-API-Key", &holder);
                    self.create(Kind::Account, &holder, &body, call).await;
                }
                _ => {
                    let mut body = json!({"memo": name});
                    match number % 4 {
                        0 => body["expiresAt"] = in_a_moment().into(),
                        1 => body["allowedIps"] = json!(elsewhere),
                        _ => {}
                    }
                    let call = || server.post("/api/account/api-keys").bearer(&holder);
                    self.create(Kind::Account, &holder, &body, call).await;
                }
            }
        }
        let (tight, tight_holder) = accounts[5].clone();
        let path = format!("/v1/accounts/{tight}/keys");
        let call = || server.post(&path).bearer(&operator);
        let tight_key = self
            .create(Kind::Account, &tight_holder, &json!({}), call)
            .await;
        World {
            operator,
            holder: accounts[0].1.clone(),
            disabled: accounts[4].0.clone(),
            downgraded: accounts[3].0.clone(),
            tight,
            tight_key,
        }
    }
}

/// The keys with special roles.
struct World {
    operator: String,
    /// A session that stays valid.
    holder: String,
    disabled: String,
    downgraded: String,
    tight: String,
    tight_key: String,
}

/// Runs `work` on all keys, some of them concurrently.
async fn with_all<F: Future<Output = ()> + Send + 'static>(
    keys: &[Key],
    work: impl Fn(usize, Key) -> F,
) {
    let mut tasks = JoinSet::new();
    for (number, key) in keys.iter().cloned().enumerate() {
        if tasks.len() >= AT_ONCE {
            tasks.join_next().await.unwrap().unwrap();
        }
        tasks.spawn(work(number, key));
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
}

/// Sends every key to every route, verifies it, mistypes it, and puts it into a quarter of the
/// wrong places.
async fn use_and_misuse(server: &Arc<Quiet>, watch: &Arc<Watch>, keys: &[Key], world: &World) {
    let credentials = (world.operator.clone(), world.holder.clone());
    with_all(keys, |number, Key { secret, .. }| {
        let (server, watch) = (Arc::clone(server), Arc::clone(watch));
        let (operator, holder) = credentials.clone();
        // The quarter changes every dozen keys, because the properties of keys repeat within a
        // dozen.
        let is_its_turn = move |place: usize| (place + number + number / 12).is_multiple_of(4);
        async move {
            for (label, call) in misuse::every_route(&server) {
                watch.send((label, call.bearer(&secret))).await;
            }
            let wrong = misuse::mistyped(&secret, number);
            for (label, call) in misuse::every_surface(&server) {
                let status = watch.send((label, call.bearer(&wrong))).await;
                assert_eq!(status, 401);
            }
            let mut questions = misuse::asked_about(&server, &secret, &operator);
            let faulty = questions.split_off(misuse::ANSWERED);
            for named in questions {
                watch.send(named).await;
            }
            let headers = misuse::in_headers(&server, &secret, &holder);
            let addresses = misuse::in_addresses(&server, &secret, &operator, &holder);
            let bodies = misuse::in_bodies(&server, &secret, &operator, &holder);
            let places = [faulty, headers, addresses, bodies].into_iter().flatten();
            for (place, named) in places.enumerate() {
                if is_its_turn(place) {
                    watch.send(named).await;
                }
            }
            let places = misuse::on_the_wire(&secret, &holder);
            for (place, bytes) in places.into_iter().enumerate() {
                if is_its_turn(place) {
                    let label = String::from_utf8_lossy(&bytes).replace(&secret, "KEY");
                    let label: String = label.chars().take(60).collect();
                    let mut wire = Wire::connect(&server.url("")).await.unwrap();
                    wire.send(bytes).await;
                    watch.look_at_bytes(&label, wire.read_to_end().await);
                }
            }
        }
    })
    .await;
}

/// Reaches limits and caps, and uses plans without keys and disabled accounts.
async fn be_refused(server: &Server, watch: &Watch, keys: &[Key], world: &World) {
    let operator = world.operator.as_str();
    for _ in 0..5 {
        for (label, call) in misuse::every_surface(server) {
            watch.send((label, call.bearer(&world.tight_key))).await;
        }
    }
    let path = format!("/v1/accounts/{}/keys", world.tight);
    let over_the_cap = server.post(&path).bearer(operator).json(&json!({}));
    assert_eq!(
        watch.send(("over the cap".to_owned(), over_the_cap)).await,
        403
    );
    // Until the limit of one address is used up.
    let wrong = misuse::mistyped(&keys[0].secret, 1);
    let address = misuse::new_address();
    let mut last = 0;
    for _ in 0..61 {
        let call = server
            .get("/api/api-keys")
            .header("X-Forwarded-For", &address);
        last = watch.send(("burst".to_owned(), call.bearer(&wrong))).await;
    }
    assert_eq!(last, 429);
    let external = json!({"plan": "pro", "external_id": world.tight});
    let statuses: Vec<_> = {
        let mut statuses = Vec::new();
        for _ in 0..2 {
            let call = server.post("/v1/accounts").bearer(operator).json(&external);
            statuses.push(watch.send(("external id".to_owned(), call)).await);
        }
        statuses
    };
    assert_eq!(statuses, [201, 409]);
    for (account, change) in [
        (&world.disabled, json!({"disabled": true})),
        (&world.downgraded, json!({"plan": "free"})),
    ] {
        let path = format!("/v1/accounts/{account}");
        let call = server.patch(&path).bearer(operator).json(&change);
        assert_eq!(watch.send(("change".to_owned(), call)).await, 200);
    }
    for key in keys.iter().step_by(3) {
        for (label, call) in misuse::every_surface(server) {
            watch.send((label, call.bearer(&key.secret))).await;
        }
    }
    for (account, change) in [
        (&world.disabled, json!({"disabled": false})),
        (&world.downgraded, json!({"plan": "pro"})),
    ] {
        let path = format!("/v1/accounts/{account}");
        let call = server.patch(&path).bearer(operator).json(&change);
        assert_eq!(watch.send(("change".to_owned(), call)).await, 200);
    }
}

/// Revokes keys in every way, waits for others to expire, and then uses them all again.
async fn revoke_and_use(server: &Server, watch: &Watch, keys: &[Key], world: &World) {
    let mut by_command = 0;
    // Sessions last, because they manage other keys.
    let is_session = |key: &&Key| key.kind == Kind::Session;
    let (sessions, others): (Vec<_>, Vec<_>) = keys.iter().partition(is_session);
    for (number, key) in others.into_iter().chain(sessions).enumerate() {
        let Some(id) = key.id.as_ref().filter(|_| key.secret != world.operator) else {
            continue;
        };
        if key.kind != Kind::Account || by_command < 4 {
            let output = server.command(["key", "revoke", id, "--json"]);
            assert!(output.status.success(), "{output:?}");
            watch.look_at_bytes("key revoke", [output.stdout, output.stderr].concat());
            by_command += 1;
            continue;
        }
        let path = ["/api/api-keys", "/api/account/api-keys"][number % 2];
        let call = server.delete(&format!("{path}/{id}")).bearer(&key.holder);
        let status = watch.send(("revoke".to_owned(), call)).await;
        // The limit of one of the accounts is used up.
        assert!(status == 200 || key.secret == world.tight_key, "{status}");
    }
    for key in keys {
        let revoked =
            key.id.is_some() && ![&world.operator, &world.tight_key].contains(&&key.secret);
        for (label, call) in misuse::every_surface(server) {
            let status = watch.send((label, call.bearer(&key.secret))).await;
            assert!(status == 401 || !(revoked || key.expires), "{status}");
        }
        for named in misuse::asked_about(server, &key.secret, &world.operator)
            .into_iter()
            .take(misuse::ANSWERED)
        {
            watch.send(named).await;
        }
    }
    for arguments in [
        &["key", "list", "--operators"][..],
        &["key", "list", "--operators", "--json"],
        &["account", "list"],
        &["migrate"],
    ] {
        let output = server.command(arguments);
        assert!(output.status.success(), "{output:?}");
        let label = arguments.join(" ");
        watch.look_at_bytes(&label, [output.stdout, output.stderr].concat());
    }
}

/// Uses some keys while the database is unavailable.
async fn use_without_database(server: &Server, watch: &Watch, keys: &[Key], postgres: &Talkative) {
    postgres.reachable(false);
    for key in keys.iter().step_by(5) {
        for (label, call) in misuse::every_surface(server) {
            let status = watch.send((label, call.bearer(&key.secret))).await;
            // Some are cached, and valid for a moment or refused anyway.
            assert!([200, 401, 403, 503].contains(&status), "{status}");
        }
    }
    postgres.reachable(true);
}

/// Searches every file of the embedded database. The pepper belongs in its own file, so there only
/// keys are searched for.
fn look_at_files(watch: &Watch, keys: &Watch, data: &Path) {
    let mut names = BTreeSet::new();
    for entry in std::fs::read_dir(data).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        let bytes = std::fs::read(entry.path()).unwrap();
        if name == "pepper" {
            keys.look_at_bytes(&name, bytes);
        } else {
            watch.look_at_bytes(&name, bytes);
        }
        names.insert(name);
    }
    assert!(
        names.contains("keys.db") && names.contains("pepper"),
        "{names:?}"
    );
}

/// Asserts that the text is complete: it contains something of every key, though not the key.
fn assert_mentions_all(text: &str, keys: &[Key]) {
    let is_part_of_word = |character: char| character.is_ascii_alphanumeric() || character == '_';
    let words: HashSet<&str> = text
        .split(|character| !is_part_of_word(character))
        .collect();
    for key in keys {
        let shown = SecretKey::parse(&key.secret).unwrap().shown_prefix();
        assert!(words.contains(shown.as_str()), "{shown} is not mentioned");
    }
}

/// A server, its database, and every secret so far.
struct Canary {
    postgres: Option<Talkative>,
    server: Quiet,
    /// Output of the first start.
    welcome: String,
    keys: Vec<Key>,
    /// Other secrets that must not be found.
    others: Vec<(&'static str, Vec<u8>)>,
}

impl Canary {
    async fn start(place: Place, format: &str) -> Self {
        let postgres = (place == Place::Postgres).then(Talkative::start);
        let mut builder = Server::builder(BINARY).config(settings(format));
        if let Some(postgres) = &postgres {
            builder = builder.postgres(&postgres.url(PASSWORD));
        }
        let server = Quiet(Some(builder.start().await));
        let pepper = match place {
            Place::Sqlite => std::fs::read_to_string(server.folder().join("data/pepper")).unwrap(),
            Place::Postgres => PEPPER.to_owned(),
        };
        let others = vec![
            ("the pepper", STANDARD.decode(pepper.trim()).unwrap()),
            ("the database's password", PASSWORD.as_bytes().to_vec()),
        ];
        Self {
            postgres,
            welcome: server.stdout(),
            server,
            keys: Vec::new(),
            others,
        }
    }

    async fn start_again(&mut self, format: &str) {
        assert!(self.server.stop().success());
        let config = self.server.folder().parent().unwrap().join("config.toml");
        std::fs::write(config, settings(format)).unwrap();
        self.server.start_again().await;
    }

    /// Creates another hundred keys, uses them up, and searches every answer.
    async fn live_through(mut self) -> Self {
        let mut issuer = Issuer {
            server: &self.server,
            keys: Vec::new(),
            said: Vec::new(),
            idempotency_keys: Vec::new(),
        };
        let mut words = self.welcome.split_whitespace();
        let welcome = words.find(|word| word.starts_with("operator_"));
        let welcome = welcome.filter(|_| self.keys.is_empty());
        let world = issuer.all(welcome.map(str::to_owned)).await;
        let Issuer {
            keys,
            said,
            idempotency_keys,
            ..
        } = issuer;
        assert_eq!(keys.len(), KEYS_PER_FORMAT);
        assert!(idempotency_keys.len() >= 10);
        self.keys.extend(keys.iter().cloned());
        let idempotency_keys = idempotency_keys.into_iter().map(String::into_bytes);
        self.others
            .extend(idempotency_keys.map(|key| ("an Idempotency-Key", key)));

        let watch = Arc::new(Watch::new(&self.keys, &self.others));
        for said in &said {
            watch.look(said);
        }
        let server = Arc::new(self.server);
        use_and_misuse(&server, &watch, &keys, &world).await;
        self.server = Arc::into_inner(server).unwrap();
        be_refused(&self.server, &watch, &keys, &world).await;
        revoke_and_use(&self.server, &watch, &keys, &world).await;
        let mut expected = BTreeSet::from([200, 201, 400, 401, 403, 404, 405, 409, 413, 415, 429]);
        if let Some(postgres) = &self.postgres {
            use_without_database(&self.server, &watch, &keys, postgres).await;
            expected.insert(503);
        }
        // On a busy machine some requests wait too long for the database and get 503.
        let mut statuses: BTreeSet<_> = watch.statuses.lock().unwrap().iter().copied().collect();
        if self.postgres.is_none() {
            statuses.remove(&503);
        }
        assert_eq!(statuses, expected);
        watch.assert_nothing_found();
        self
    }

    /// Stops the server and searches all stored data.
    fn look_at_everything(mut self) {
        let watch = Watch::new(&self.keys, &self.others);
        let watch_keys = Watch::new(&self.keys, &[]);
        let data = self.server.folder().join("data");
        if self.postgres.is_none() {
            // Includes pages that are not in the main file yet.
            look_at_files(&watch, &watch_keys, &data);
            assert!(data.join("keys.db-wal").exists());
        }
        assert!(self.server.stop().success());
        let dump = if let Some(postgres) = &self.postgres {
            let log = postgres.log();
            assert_mentions_all(&String::from_utf8_lossy(&log), &self.keys);
            watch.look_at_bytes("the log of PostgreSQL", log);
            assert!(!data.exists());
            postgres.dump()
        } else {
            look_at_files(&watch, &watch_keys, &data);
            sqlite::dump(&data.join("keys.db"))
        };
        assert_mentions_all(&dump, &self.keys);
        watch.look_at_bytes("the dump", dump);

        let log = self.server.stderr();
        for line in [
            "POST /api/api-keys answered 201",
            r#""http.route":"/api/account/api-keys/{identifier}","http.status":200"#,
            "TRACE",
            r#""level":"TRACE""#,
        ] {
            assert!(log.contains(line), "{line}");
        }
        watch.look_at_bytes("the log", log);
        // Later starts printed nothing.
        assert_eq!(self.server.stdout(), self.welcome);
        watch.assert_nothing_found();
        watch_keys.assert_nothing_found();
    }
}

async fn no_key_is_anywhere_but_in_the_response_that_issues_it(place: Place) {
    let canary = Canary::start(place, "text").await;
    let mut canary = canary.live_through().await;
    canary.start_again("json").await;
    let canary = canary.live_through().await;
    assert_eq!(canary.keys.len(), 200);
    canary.look_at_everything();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_key_is_anywhere_but_in_the_response_that_issues_it_on_sqlite() {
    Box::pin(no_key_is_anywhere_but_in_the_response_that_issues_it(
        Place::Sqlite,
    ))
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_key_is_anywhere_but_in_the_response_that_issues_it_on_postgres() {
    Box::pin(no_key_is_anywhere_but_in_the_response_that_issues_it(
        Place::Postgres,
    ))
    .await;
}

fn some_keys() -> Vec<String> {
    let prefix: KeyPrefix = "sk_live".parse().unwrap();
    let key = || SecretKey::generate(&prefix, &mut getrandom::SysRng).unwrap();
    (0..20).map(|_| key().expose().to_owned()).collect()
}

#[test]
fn search_finds_a_key_in_every_encoding_at_every_alignment() {
    let keys = some_keys();
    let search = Search::new(&keys);
    for (number, key) in keys.iter().enumerate() {
        for encoding in Encoding::ALL {
            for before in 0..7 {
                let haystack = ["~".repeat(before), key.clone(), "~~~~".to_owned()].concat();
                let written = encoding.write(haystack.as_bytes());
                let written = [b"noise ".as_slice(), &written, b" noise"].concat();
                let found = search.find(&written);
                // Base62 in base64 never contains the characters in which the two alphabets differ.
                assert!(
                    found.iter().any(|found| found.encoding == encoding),
                    "{encoding:?} {before}"
                );
                assert!(found.iter().all(|found| found.secret == number));
            }
        }
    }
}

#[test]
fn search_finds_every_window_of_a_key_and_nothing_shorter() {
    let keys = some_keys();
    let search = Search::new(&keys);
    for key in &keys {
        let body = &key[key.len() - 32..];
        for start in 0..=body.len() - WINDOW {
            let window = &body[start..start + WINDOW];
            for haystack in [
                window.to_owned(),
                format!("noise {window}"),
                format!("{window} noise"),
            ] {
                assert_eq!(search.find(haystack.as_bytes()).len(), 1, "{haystack}");
            }
            let part = format!("noise {}~ noise", &window[1..]);
            assert!(search.find(part.as_bytes()).is_empty());
        }
        // The shown prefix of a key is public, so it does not count.
        assert!(
            search
                .find(format!("{}.. noise", &key[..12]).as_bytes())
                .is_empty()
        );
    }
    for other in some_keys() {
        assert!(search.find(other.as_bytes()).is_empty());
    }
}

#[test]
fn watch_reports_a_key_in_an_answer_unless_it_is_the_one_that_issues_it() {
    let keys: Vec<_> = some_keys()
        .into_iter()
        .map(|secret| Key {
            secret,
            kind: Kind::Account,
            id: None,
            holder: String::new(),
            expires: false,
        })
        .collect();
    let watch = Watch::new(
        &keys,
        &[("another secret", b"correct horse battery".to_vec())],
    );
    let said = |bytes: &str, issued: Option<&Key>| Said {
        label: "an answer".to_owned(),
        bytes: bytes.as_bytes().to_vec(),
        issued: issued.map(|key| key.secret.clone()),
    };
    let leaks = || watch.leaks.lock().unwrap().len();
    watch.look(&said(&keys[0].secret, Some(&keys[0])));
    assert_eq!(leaks(), 0);
    watch.look(&said(&keys[0].secret, Some(&keys[1])));
    assert_eq!(leaks(), 1);
    watch.look(&said(&keys[2].secret, None));
    assert_eq!(leaks(), 2);
    watch.look(&said("a CORRECT but also correct horse b", None));
    assert_eq!(leaks(), 3);
}

#[test]
fn dump_of_sqlite_shows_blobs_and_text_of_every_table() {
    use diesel::connection::SimpleConnection as _;
    use diesel::prelude::*;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.db");
    let mut connection = SqliteConnection::establish(path.to_str().unwrap()).unwrap();
    let made = "create table one (a blob, b text); create table two (c integer); \
                insert into one values (x'00ff10', 'text'); insert into two values (7), (null);";
    connection.batch_execute(made).unwrap();
    let dump = sqlite::dump(&path);
    for line in [
        "one: X'00FF10','text'",
        "two: 7",
        "two: NULL",
        "create table",
    ] {
        assert!(dump.to_lowercase().contains(&line.to_lowercase()), "{dump}");
    }
}
