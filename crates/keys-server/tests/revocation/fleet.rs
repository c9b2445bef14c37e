//! Three servers on one PostgreSQL and one Redis, and keys that are revoked while all of them are asked about them.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use keys_testkit::fault_proxy::{Fault, FaultProxy};
use keys_testkit::postgres::Database;
use keys_testkit::redis::Redis;
use keys_testkit::server::{Server, ServerBuilder};
use keys_testkit::wire::{Wire, request, request_with};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::customers::{self, Key, PLAN};
use crate::trial::{Sample, Tally, Trial, Verdict};
use crate::{BINARY, BOUND, between, dice, millis, now};

pub(crate) const SERVERS: usize = 3;

/// What the connection that follows changes calls itself, as does no other.
pub(crate) const LISTENER: &str = "keys feed";

/// How long a key is asked about after the bound.
const AFTERWARDS: Duration = millis(200);

/// How long before and after a moment of interest it is asked about closely.
const CLOSELY: Duration = millis(60);

/// How long a server that still accepts a key after the answer is asked closely, so that it is not taken for quicker than it is.
const SPREADING: Duration = millis(500);

/// Whether the servers reach their database over a network that can fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Network {
    Sound,
    Faulty,
}

/// The servers.
pub(crate) struct Fleet {
    // Stopped before what they need goes.
    servers: Vec<Server>,
    proxies: Vec<FaultProxy>,
    operator: String,
    database: Arc<Database>,
    _redis: Redis,
}

/// How often a key is asked about.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    /// Around its revocation.
    pub(crate) closely: Duration,
    /// Around the bound.
    pub(crate) at_the_bound: Duration,
    pub(crate) otherwise: Duration,
}

/// What is done to the keys.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Round {
    pub(crate) revokes: usize,
    /// Keys at a time.
    pub(crate) lanes: usize,
    pub(crate) pace: Pace,
    /// Whether revocations wait for all servers.
    pub(crate) is_global: bool,
}

impl Round {
    /// How long after the answer the other servers may accept.
    fn elsewhere(&self) -> Duration {
        if self.is_global {
            Duration::ZERO
        } else {
            BOUND
        }
    }
}

/// Keys that are never revoked.
#[derive(Debug, Default)]
pub(crate) struct Control {
    pub(crate) accepted: AtomicUsize,
    pub(crate) refused: AtomicUsize,
    pub(crate) unavailable: AtomicUsize,
}

/// A server that says little and limits nothing.
pub(crate) fn server(database_url: &str) -> ServerBuilder {
    Server::builder(BINARY)
        .postgres(database_url)
        .env("KEYS_LOG__FILTER", "warn")
        .config(PLAN)
}

impl Fleet {
    pub(crate) async fn start(network: Network) -> Self {
        let (database, redis) = (Database::create().await, Redis::start());
        let (mut servers, mut proxies) = (Vec::new(), Vec::new());
        for _ in 0..SERVERS {
            let url = match network {
                Network::Sound => database.url(),
                Network::Faulty => {
                    let (proxy, url) = FaultProxy::in_front_of(&database.url()).await;
                    proxies.push(proxy);
                    url
                }
            };
            let server = server(&url)
                .env("KEYS_LIMITS__REDIS_URL", redis.url())
                .env("KEYS_HTTP__WORKERS", "1");
            servers.push(server.start().await);
        }
        Self {
            operator: servers[0].operator_key("proof"),
            servers,
            proxies,
            database: Arc::new(database),
            _redis: redis,
        }
    }

    pub(crate) fn database(&self) -> Arc<Database> {
        Arc::clone(&self.database)
    }

    /// The network of one server's listener fails like this, and nobody else's.
    pub(crate) fn listener(&self, server: usize, fault: Fault) {
        self.proxies[server].aim(LISTENER, fault);
    }

    /// How often servers have found that they hear nothing.
    pub(crate) fn deaf(&self) -> usize {
        let said = self.servers.iter().map(Server::stderr);
        said.map(|said| said.matches("changes cannot be followed").count())
            .sum()
    }

    /// Revokes so many keys, each on a server chosen at random, and sees what all of them say of it.
    pub(crate) async fn run(self: &Arc<Self>, round: Round) -> (Tally, Control) {
        let keys = customers::keys(&self.servers[0].url(""), &self.operator, round.revokes).await;
        let managers: Vec<_> = keys.iter().map(|key| Arc::clone(&key.manager)).collect();
        let waiting = Arc::new(Mutex::new(keys));
        let control = Arc::new(Control::default());
        let mut controls = JoinSet::new();
        for server in 0..SERVERS {
            let (fleet, control) = (Arc::clone(self), Arc::clone(&control));
            let managers = managers.clone();
            controls.spawn(async move { fleet.control(server, &managers, &control).await });
        }
        let tally = Arc::new(Mutex::new(Tally::default()));
        let mut lanes = JoinSet::new();
        for _ in 0..round.lanes {
            let (fleet, waiting) = (Arc::clone(self), Arc::clone(&waiting));
            let tally = Arc::clone(&tally);
            lanes.spawn(async move {
                let mut lane = Lane::open(&fleet, round).await;
                loop {
                    let key = waiting.lock().unwrap().pop();
                    let Some(key) = key else { return };
                    let trial = lane.revoke(&key).await;
                    tally.lock().unwrap().add(&trial, round.elsewhere());
                }
            });
        }
        lanes.join_all().await;
        controls.shutdown().await;
        let tally = Arc::into_inner(tally).unwrap().into_inner().unwrap();
        (tally, Arc::into_inner(control).unwrap())
    }

    /// Asks one server about keys that are good, for ever.
    async fn control(&self, server: usize, managers: &[Arc<str>], control: &Control) {
        const PAUSE: Duration = millis(10);
        let mut wire = Wire::connect(&self.servers[server].url("")).await;
        for manager in managers.iter().cycle() {
            let answer = wire.ask(&request("GET", "/v1/auth", manager)).await;
            let count = match answer.status {
                200 => &control.accepted,
                503 => &control.unavailable,
                _ => &control.refused,
            };
            count.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// Connections for one key at a time.
struct Lane {
    asking: Vec<Wire>,
    urls: Vec<String>,
    operator: String,
    round: Round,
}

/// How far a revocation is.
#[derive(Debug, Clone, Copy)]
enum Stage {
    Before,
    Sent(Duration),
    Answered(Duration),
}

/// A question about a key, which the surfaces let one ask in several ways.
pub(crate) struct Question {
    request: Vec<u8>,
    read: fn(u16, &str, Option<&str>) -> Verdict,
}

impl Question {
    /// One of three ways to ask about a key.
    pub(crate) fn about(key: &Key, operator: &str, way: u64) -> Self {
        match way {
            0 => by_gateway(key.auth()),
            1 => by_gateway(request("GET", "/v1/auth?limit=verify", &key.secret)),
            _ => by_backend(key, operator),
        }
    }

    /// Asks and reads the verdict.
    pub(crate) async fn ask(&self, wire: &mut Wire) -> Verdict {
        let answer = wire.ask(&self.request).await;
        let denial = answer.header("x-denial");
        (self.read)(answer.status, answer.body, denial)
    }
}

impl Lane {
    async fn open(fleet: &Fleet, round: Round) -> Self {
        let urls = fleet.servers.iter().map(|server| server.url(""));
        let urls: Vec<_> = urls.collect();
        let mut asking = Vec::new();
        for url in &urls {
            asking.push(Wire::connect(url).await);
        }
        Self {
            asking,
            urls,
            operator: fleet.operator.clone(),
            round,
        }
    }

    async fn revoke(&mut self, key: &Key) -> Trial {
        let revoked_on = usize::try_from(dice(SERVERS as u64)).unwrap();
        let (round, stage) = (self.round, watch::Sender::new(Stage::Before));
        let known = AtomicUsize::new(0);
        let first = dice(3);
        let questions =
            [0, 1, 2].map(|server| Question::about(key, &self.operator, (first + server) % 3));
        let [one, two, three] = &mut self.asking[..] else {
            unreachable!("there are three servers")
        };
        let ask = |wire, question| ask(wire, question, stage.subscribe(), &known, round);
        let request = key.revoke(if round.is_global { "?wait=global" } else { "" });
        let revoke = async {
            while known.load(Ordering::Relaxed) < SERVERS {
                tokio::time::sleep(millis(1)).await;
            }
            // A new one each time: servers give up those on which nothing was ever asked.
            let mut wire = Wire::connect(&self.urls[revoked_on]).await;
            tokio::time::sleep(between(5, 40)).await;
            let (sent, answered) = loop {
                let sent = now();
                stage.send_replace(Stage::Sent(sent));
                let answer = wire.ask(&request).await;
                let answered = now();
                match answer.status {
                    200 | 204 => break (sent, answered),
                    // The machine is too busy, which is another matter.
                    503 => tokio::time::sleep(millis(50)).await,
                    status => panic!("{status}: {}", answer.body),
                }
            };
            stage.send_replace(Stage::Answered(answered));
            (sent, answered)
        };
        let ((sent, answered), one, two, three) = tokio::join!(
            revoke,
            ask(one, &questions[0]),
            ask(two, &questions[1]),
            ask(three, &questions[2])
        );
        Trial {
            revoked_on,
            sent,
            answered,
            samples: vec![one, two, three],
        }
    }
}

/// Asks one server about a key until some time after it was revoked.
async fn ask(
    wire: &mut Wire,
    question: &Question,
    mut stage: watch::Receiver<Stage>,
    known: &AtomicUsize,
    round: Round,
) -> Vec<Sample> {
    let mut samples = Vec::new();
    let mut is_known = false;
    loop {
        let sent = now();
        let verdict = question.ask(wire).await;
        let answered = now();
        samples.push(Sample {
            sent,
            answered,
            verdict,
        });
        if verdict == Verdict::Accepted && !is_known {
            is_known = true;
            known.fetch_add(1, Ordering::Relaxed);
        }
        let now_at = *stage.borrow_and_update();
        let Pace {
            closely,
            at_the_bound,
            otherwise,
        } = round.pace;
        let pause = match now_at {
            Stage::Before => closely,
            Stage::Sent(at) if answered < at + CLOSELY => closely,
            Stage::Sent(_) => otherwise,
            Stage::Answered(at) => {
                if sent >= at + BOUND + AFTERWARDS {
                    return samples;
                }
                let since = answered.saturating_sub(at);
                let until_closely = BOUND.saturating_sub(CLOSELY + since);
                let is_spreading = verdict == Verdict::Accepted && since < SPREADING;
                if since < CLOSELY || is_spreading {
                    closely
                } else if until_closely.is_zero() {
                    at_the_bound
                } else {
                    otherwise.min(until_closely)
                }
            }
        };
        // The very moment of the answer is the most interesting of all.
        let _ = tokio::time::timeout(pause, stage.changed()).await;
    }
}

fn by_gateway(request: Vec<u8>) -> Question {
    Question {
        request,
        read: |status, body, denial| match (status, denial) {
            (200, None) => Verdict::Accepted,
            (401, Some("revoked")) => Verdict::Refused,
            (503, _) => Verdict::Unavailable,
            _ => panic!("{status} {denial:?}: {body}"),
        },
    }
}

fn by_backend(key: &Key, operator: &str) -> Question {
    let body = format!(r#"{{"key":"{}"}}"#, key.secret);
    Question {
        request: request_with("POST", "/v1/keys/verify", operator, &body),
        read: |status, body, _| match status {
            200 if body.contains(r#""code":"valid""#) => Verdict::Accepted,
            200 if body.contains(r#""code":"revoked""#) => Verdict::Refused,
            503 => Verdict::Unavailable,
            _ => panic!("{status}: {body}"),
        },
    }
}
