//! Three servers on one PostgreSQL and one Redis, and keys that are revoked while they are verified
//! on all of them.

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

/// Application name of the connection that follows changes. No other connection has it.
pub(crate) const LISTENER: &str = "keys feed";

/// Time for which a key is verified after the bound.
const AFTERWARDS: Duration = millis(200);

/// Time before and after a critical moment in which it is verified more often.
const CLOSELY: Duration = millis(60);

/// Time for which a server that still accepts a key after the answer is asked more often, so that
/// it is not measured as faster than it is.
const SPREADING: Duration = millis(500);

/// Whether the servers reach their database over a network that can fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Network {
    Sound,
    Faulty,
}

/// The servers.
pub(crate) struct Fleet {
    // Stopped before their dependencies.
    servers: Vec<Server>,
    proxies: Vec<FaultProxy>,
    operator: String,
    database: Arc<Database>,
    _redis: Redis,
}

/// Intervals between verifications of a key.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    /// Around its revocation.
    pub(crate) closely: Duration,
    /// Around the bound.
    pub(crate) at_the_bound: Duration,
    pub(crate) otherwise: Duration,
}

/// Parameters of a round.
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
    /// Returns how long after the answer the other servers may accept.
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

/// Returns a server with a short log and without limits.
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

    /// Sets a fault of the network of one server's listener, and no other.
    pub(crate) fn listener(&self, server: usize, fault: Fault) {
        self.proxies[server].aim(LISTENER, fault);
    }

    /// Returns how often servers have noticed that they miss notifications.
    pub(crate) fn deaf(&self) -> usize {
        let said = self.servers.iter().map(Server::stderr);
        said.map(|said| said.matches("changes cannot be followed").count())
            .sum()
    }

    /// Revokes keys, each on a server chosen at random, and collects the answers of all servers.
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

    /// Verifies valid keys on one server, for ever.
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

/// Progress of a revocation.
#[derive(Debug, Clone, Copy)]
enum Stage {
    Before,
    Sent(Duration),
    Answered(Duration),
}

/// A request about a key. The surfaces have several.
pub(crate) struct Question {
    request: Vec<u8>,
    read: fn(u16, &str, Option<&str>) -> Verdict,
}

impl Question {
    /// Returns one of three kinds of requests about a key.
    pub(crate) fn about(key: &Key, operator: &str, way: u64) -> Self {
        match way {
            0 => by_gateway(key.auth()),
            1 => by_gateway(request("GET", "/v1/auth?limit=verify", &key.secret)),
            _ => by_backend(key, operator),
        }
    }

    /// Sends it and reads the verdict.
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
            // A new one each time, because servers close connections that are never used.
            let mut wire = Wire::connect(&self.urls[revoked_on]).await;
            tokio::time::sleep(between(5, 40)).await;
            let (sent, answered) = loop {
                let sent = now();
                stage.send_replace(Stage::Sent(sent));
                let answer = wire.ask(&request).await;
                let answered = now();
                match answer.status {
                    200 | 204 => break (sent, answered),
                    // The machine is too busy, which this test does not measure.
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

/// Verifies a key on one server until some time after it was revoked.
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
        // The exact moment of the answer is the most critical one.
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
