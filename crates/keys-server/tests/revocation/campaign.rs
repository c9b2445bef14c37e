//! Revokes keys one after the other while their database crashes, moves or fails over, and collects
//! the answers of every server about each of them.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use keys_testkit::fault_proxy::{Fault, FaultProxy};
use keys_testkit::report::{figure, information};
use keys_testkit::server::Server;
use keys_testkit::wire::{Wire, request};
use tokio::task::JoinSet;

use crate::customers::{self, Key};
use crate::fleet::{Control, LISTENER, Question, SERVERS, server};
use crate::trial::Verdict;
use crate::{BOUND, Millis, Times, dice, end_the_line, millis, now};

/// Concurrent revocations.
const REVOKERS: usize = 12;

/// Connections that verify the keys on one server.
const ASKERS: usize = 6;

/// Every third revocation waits for all servers.
const GLOBAL_EVERY: usize = 3;

/// Time for which each key is verified after the bound of the last revocation.
const AFTERWARDS: Duration = millis(500);

/// Time limit for a server to give a verdict on every key.
const PATIENCE: Duration = Duration::from_mins(2);

/// Three servers, each with its own way to the database.
pub(crate) struct Trio {
    // Stopped before the proxies.
    pub(crate) servers: Vec<Server>,
    /// Empty if the servers connect to the database themselves.
    proxies: Vec<FaultProxy>,
    pub(crate) operator: String,
}

impl Trio {
    /// Starts the servers on this database, without proxies in between and not as root.
    pub(crate) async fn start_unprivileged(database_url: &str) -> Self {
        let mut servers = Vec::new();
        for _ in 0..SERVERS {
            let server = server(database_url).env("KEYS_HTTP__WORKERS", "1");
            servers.push(server.unprivileged().start().await);
        }
        Self {
            operator: servers[0].operator_key("proof"),
            servers,
            proxies: Vec::new(),
        }
    }

    /// Starts the servers on the database at `postgres://USER@HOST:PORT/NAME`.
    pub(crate) async fn start(database_url: &str) -> Self {
        let (mut servers, mut proxies) = (Vec::new(), Vec::new());
        for _ in 0..SERVERS {
            let (proxy, url) = FaultProxy::in_front_of(database_url).await;
            let server = server(&url).env("KEYS_HTTP__WORKERS", "1");
            servers.push(server.start().await);
            proxies.push(proxy);
        }
        Self {
            operator: servers[0].operator_key("proof"),
            servers,
            proxies,
        }
    }

    /// Cuts the connections of one server to its database, and refuses new ones.
    pub(crate) async fn cut(&self, server: usize) {
        self.proxies[server].set(Fault::Cut).await;
    }

    /// Cuts the connection by which one server follows changes, and no other. A new one is accepted
    /// at once.
    pub(crate) async fn cut_listener(&self, server: usize) {
        self.proxies[server].aim(LISTENER, Fault::Cut);
        tokio::time::sleep(millis(50)).await;
        self.proxies[server].aim(LISTENER, Fault::None);
    }

    /// Cuts the connections of all servers at once.
    pub(crate) async fn cut_all(&self) {
        for server in 0..SERVERS {
            self.cut(server).await;
        }
    }

    /// Directs new connections of one server to the database at `HOST:PORT`.
    pub(crate) fn lead(&self, server: usize, address: &str) {
        self.proxies[server].lead_to(address);
    }

    /// Lets one server connect again.
    pub(crate) async fn mend(&self, server: usize) {
        self.proxies[server].set(Fault::None).await;
    }

    /// Moves all servers to the database at `HOST:PORT`.
    pub(crate) async fn move_all(&self, address: &str) {
        self.cut_all().await;
        for server in 0..SERVERS {
            self.lead(server, address);
            self.mend(server).await;
        }
    }
}

/// Number and rate of revocations.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Size {
    pub(crate) keys: usize,
    /// Interval between revocations.
    pub(crate) every: Duration,
    /// Interval between requests on each connection.
    pub(crate) asking: Duration,
    /// Distance from the next key to revoke within which keys are verified. The others are verified
    /// at the end.
    pub(crate) window: usize,
    /// Time limit of the faults and the revocations.
    pub(crate) at_most: Duration,
}

/// A revocation that was acknowledged.
#[derive(Debug, Clone, Copy)]
struct Revocation {
    on: usize,
    sent: Duration,
    answered: Duration,
    is_global: bool,
}

/// The answers of one server about one key.
#[derive(Debug, Default)]
struct Answers {
    /// Whether it accepted the key before a revocation was requested.
    was_known: bool,
    /// Time at which the last request with a verdict was sent.
    asked: Duration,
    /// Time at which the first refusal was read.
    refused: Option<Duration>,
    /// Send times of requests that were accepted after the revocation was first requested.
    accepted: Vec<Duration>,
    /// Number of requests sent after a refusal was read, and accepted.
    again: usize,
}

/// A key and all observations of it.
struct Watched {
    key: Key,
    /// Time at which a revocation was first requested.
    first_sent: Option<Duration>,
    revocation: Option<Revocation>,
    answers: [Answers; SERVERS],
}

/// The keys of one proof while they are revoked.
pub(crate) struct Campaign {
    size: Size,
    operator: String,
    urls: Vec<String>,
    watched: Vec<Mutex<Watched>>,
    next: AtomicUsize,
    acknowledged: AtomicUsize,
    /// Bit set of the servers that revoke.
    revoking: AtomicU8,
    /// Time of each acknowledgement, and the server that sent it.
    acknowledgements: Mutex<Vec<(usize, Duration)>>,
    /// Time after which the keys need no more verification. `None` while revocations are under way.
    until: Mutex<Option<Duration>>,
    is_over: AtomicBool,
    control: Control,
}

/// Keys whose acknowledged revocation the new primary lacked when it was promoted, and the time
/// from which servers followed it.
#[derive(Debug, Default)]
pub(crate) struct Circumstances {
    /// Identifiers of these keys. They count only for servers that acknowledged the revocation or
    /// had refused the key.
    pub(crate) lost: HashSet<String>,
    /// Time at which each server was seen to follow the new primary, if it may have followed
    /// another one until then.
    pub(crate) followed: Option<[Duration; SERVERS]>,
}

/// The result of a campaign.
pub(crate) struct Outcome {
    /// Acceptances that broke the promise.
    broken: Vec<String>,
    /// Number of lost revocations, and of those that some server accepted after the bound without
    /// ever having read them.
    lost: usize,
    lost_accepted: usize,
    global: usize,
    took: Times,
    lateness: Times,
}

impl Campaign {
    /// Creates the keys and makes every server accept each of them.
    pub(crate) async fn prepare(trio: &Trio, size: Size) -> Arc<Self> {
        let url = trio.servers[0].url("");
        let keys = customers::keys(&url, &trio.operator, size.keys).await;
        let watched = keys.into_iter().map(|key| {
            Mutex::new(Watched {
                key,
                first_sent: None,
                revocation: None,
                answers: Default::default(),
            })
        });
        let campaign = Arc::new(Self {
            size,
            operator: trio.operator.clone(),
            urls: trio.servers.iter().map(|server| server.url("")).collect(),
            watched: watched.collect(),
            next: AtomicUsize::new(0),
            acknowledged: AtomicUsize::new(0),
            revoking: AtomicU8::new(u8::MAX),
            acknowledgements: Mutex::default(),
            until: Mutex::new(None),
            is_over: AtomicBool::new(false),
            control: Control::default(),
        });
        for server in 0..SERVERS {
            let mut wire = Wire::connect(&campaign.urls[server]).await;
            for index in 0..size.keys {
                while !campaign.is_known(index, server) {
                    campaign.ask(&mut wire, index, server).await;
                }
            }
        }
        campaign
    }

    fn is_known(&self, index: usize, server: usize) -> bool {
        self.watched[index].lock().unwrap().answers[server].was_known
    }

    /// Revokes all keys while `faults` runs, and verifies every key on every server until the bound
    /// of the last one is over.
    pub(crate) async fn run(self: &Arc<Self>, faults: impl Future<Output = ()>) {
        let mut asking = JoinSet::new();
        for server in 0..SERVERS {
            for asker in 0..ASKERS {
                let campaign = Arc::clone(self);
                asking.spawn(async move { campaign.ask_about(server, asker).await });
            }
            let campaign = Arc::clone(self);
            asking.spawn(async move { campaign.control(server).await });
        }
        let mut revoking = JoinSet::new();
        let start = now();
        for _ in 0..REVOKERS {
            let campaign = Arc::clone(self);
            revoking.spawn(async move { campaign.revoke_all(start).await });
        }
        let work = async { tokio::join!(faults, revoking.join_all()) };
        let done = tokio::time::timeout(self.size.at_most, work).await;
        assert!(
            done.is_ok(),
            "the faults are not over, or only {} of {} revocations were acknowledged",
            self.acknowledged.load(Ordering::Relaxed),
            self.size.keys
        );
        *self.until.lock().unwrap() = Some(now() + BOUND + AFTERWARDS);
        let over = async {
            for _ in 0..SERVERS * ASKERS {
                asking.join_next().await.unwrap().unwrap();
            }
            self.is_over.store(true, Ordering::Relaxed);
            asking.join_all().await;
        };
        let over = tokio::time::timeout(PATIENCE, over).await;
        assert!(over.is_ok(), "a server gives no verdict on a key");
    }

    /// Waits until this share of the keys, in percent, has been revoked.
    pub(crate) async fn reaches(&self, percent: usize) {
        while self.acknowledged.load(Ordering::Relaxed) * 100 < self.size.keys * percent {
            tokio::time::sleep(millis(5)).await;
        }
    }

    /// Starts no further revocations. The other keys stay valid.
    pub(crate) fn revoke_no_more(&self) {
        self.next.fetch_max(self.size.keys, Ordering::Relaxed);
    }

    /// Records that a server has just acknowledged a change.
    pub(crate) fn acknowledged_by(&self, server: usize) {
        let mut acknowledgements = self.acknowledgements.lock().unwrap();
        acknowledgements.push((server, now()));
    }

    /// Returns when a server first acknowledged a change at or after this time.
    pub(crate) fn first_acknowledgement(&self, server: usize, since: Duration) -> Option<Duration> {
        let acknowledgements = self.acknowledgements.lock().unwrap();
        let of_server = acknowledgements.iter().filter(|one| one.0 == server);
        of_server.map(|one| one.1).filter(|at| *at >= since).min()
    }

    /// Lets only these servers revoke keys.
    pub(crate) fn revoke_on(&self, servers: &[usize]) {
        let bits = servers.iter().map(|server| 1 << server).sum();
        self.revoking.store(bits, Ordering::Relaxed);
    }

    /// Returns the identifiers of all keys whose revocation has been acknowledged so far.
    pub(crate) fn acknowledged(&self) -> HashSet<String> {
        let watched = self.watched.iter().map(|watched| watched.lock().unwrap());
        watched
            .filter(|watched| watched.revocation.is_some())
            .map(|watched| watched.key.id.clone())
            .collect()
    }

    async fn revoke_all(&self, start: Duration) {
        loop {
            let index = self.next.fetch_add(1, Ordering::Relaxed);
            if index >= self.size.keys {
                return;
            }
            let due = start + self.size.every * u32::try_from(index).unwrap();
            tokio::time::sleep(due.saturating_sub(now())).await;
            self.revoke(index).await;
        }
    }

    /// Revokes a key on one server after the other until one has acknowledged it.
    async fn revoke(&self, index: usize) {
        const PAUSE: Duration = millis(30);
        let mut is_global = index.is_multiple_of(GLOBAL_EVERY);
        let query = if is_global { "?wait=global" } else { "" };
        let request = self.watched[index].lock().unwrap().key.revoke(query);
        let mut is_in_doubt = false;
        let (on, sent) = loop {
            let on = usize::try_from(dice(SERVERS as u64)).unwrap();
            if self.revoking.load(Ordering::Relaxed) & (1 << on) == 0 {
                tokio::time::sleep(millis(1)).await;
                continue;
            }
            let mut wire = Wire::connect(&self.urls[on]).await;
            let sent = now();
            self.asked_to_revoke(index, sent);
            let answer = wire.ask(&request).await;
            match answer.status {
                200 | 204 => break (on, sent),
                // Revoked by an attempt whose answer was 503. That attempt may still be waiting for
                // the others.
                404 if is_in_doubt => {
                    is_global = false;
                    break (on, sent);
                }
                503 => is_in_doubt = true,
                status => panic!("{status}: {}", answer.body),
            }
            tokio::time::sleep(PAUSE).await;
        };
        let answered = now();
        self.acknowledged_by(on);
        self.watched[index].lock().unwrap().revocation = Some(Revocation {
            on,
            sent,
            answered,
            is_global,
        });
        self.acknowledged.fetch_add(1, Ordering::Relaxed);
        // The moment after the answer is the most critical one.
        for server in 0..SERVERS {
            if server == on || is_global {
                let mut wire = Wire::connect(&self.urls[server]).await;
                self.ask(&mut wire, index, server).await;
            }
        }
    }

    fn asked_to_revoke(&self, index: usize, sent: Duration) {
        let mut watched = self.watched[index].lock().unwrap();
        watched.first_sent.get_or_insert(sent);
    }

    /// Verifies every `ASKERS`th key on one server, over and over, until it has given a verdict on
    /// each after the end.
    async fn ask_about(&self, server: usize, asker: usize) {
        let mut wire = Wire::connect(&self.urls[server]).await;
        loop {
            let until = *self.until.lock().unwrap();
            let mut is_done = true;
            for index in (asker..self.size.keys).step_by(ASKERS) {
                let asked = self.watched[index].lock().unwrap().answers[server].asked;
                let next = self.next.load(Ordering::Relaxed);
                let is_far = next.abs_diff(index) > self.size.window;
                let is_skipped = until.map_or(is_far, |until| asked >= until);
                if is_skipped {
                    continue;
                }
                is_done = false;
                self.ask(&mut wire, index, server).await;
                tokio::time::sleep(self.size.asking).await;
            }
            if until.is_some() && is_done {
                return;
            }
            if is_done {
                tokio::time::sleep(self.size.asking).await;
            }
        }
    }

    /// Verifies one key on one server and records the answer.
    async fn ask(&self, wire: &mut Wire, index: usize, server: usize) {
        let question = {
            let watched = self.watched[index].lock().unwrap();
            Question::about(&watched.key, &self.operator, dice(3))
        };
        let sent = now();
        let verdict = question.ask(wire).await;
        let answered = now();
        let mut watched = self.watched[index].lock().unwrap();
        let first_sent = watched.first_sent;
        let answers = &mut watched.answers[server];
        match verdict {
            Verdict::Unavailable => return,
            Verdict::Refused => {
                answers.refused.get_or_insert(answered);
            }
            Verdict::Accepted => {
                match first_sent {
                    Some(first) if sent >= first => answers.accepted.push(sent),
                    Some(_) => {}
                    None => answers.was_known = true,
                }
                if answers.refused.is_some_and(|refused| sent >= refused) {
                    answers.again += 1;
                }
            }
        }
        answers.asked = answers.asked.max(sent);
    }

    /// Verifies keys on one server that stay valid.
    async fn control(&self, server: usize) {
        const PAUSE: Duration = millis(15);
        let mut wire = Wire::connect(&self.urls[server]).await;
        let managers = self.watched.iter().map(|watched| {
            let manager = &watched.lock().unwrap().key.manager;
            request("GET", "/v1/auth", manager)
        });
        let managers: Vec<_> = managers.collect();
        for question in managers.iter().cycle() {
            if self.is_over.load(Ordering::Relaxed) {
                return;
            }
            let count = match wire.ask(question).await.status {
                200 => &self.control.accepted,
                503 => &self.control.unavailable,
                _ => &self.control.refused,
            };
            count.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(PAUSE).await;
        }
    }

    fn judge(&self, circumstances: &Circumstances) -> Outcome {
        let mut outcome = Outcome {
            broken: Vec::new(),
            lost: 0,
            lost_accepted: 0,
            global: 0,
            took: Times::default(),
            lateness: Times::default(),
        };
        for watched in &self.watched {
            judge(&watched.lock().unwrap(), circumstances, &mut outcome);
        }
        outcome
    }

    /// Prints the result, and fails if a promise was broken.
    pub(crate) fn report(&self, what: &str, circumstances: &Circumstances) {
        let mut outcome = self.judge(circumstances);
        let figure = |name: &str, measured: &dyn std::fmt::Display, held: bool| {
            figure(&format!("{what}: {name}"), measured, "none", held);
        };
        let told = |name: &str, value: &dyn std::fmt::Display| {
            information(&format!("{what}: {name}"), value);
        };
        end_the_line();
        told("revocations", &outcome.took.0.len());
        told("of these with wait=global", &outcome.global);
        told("revocation answered after", &outcome.took.summary());
        told(
            "last acceptance elsewhere after the answer",
            &outcome.lateness.summary(),
        );
        if outcome.lost > 0 {
            told(
                "acknowledged revocations that the new primary did not have",
                &outcome.lost,
            );
            told(
                "of these accepted after the bound by a server that had not heard of them",
                &outcome.lost_accepted,
            );
        }
        let count = |count: &AtomicUsize| count.load(Ordering::Relaxed);
        let refused = count(&self.control.refused);
        figure(
            "good keys refused",
            &format_args!(
                "{refused} refused, {} not answered, of {}",
                count(&self.control.unavailable),
                count(&self.control.accepted) + refused + count(&self.control.unavailable)
            ),
            refused == 0,
        );
        figure(
            "acceptances after the bound",
            &outcome.broken.len(),
            outcome.broken.is_empty(),
        );
        let first = outcome.broken.iter().take(20).collect::<Vec<_>>();
        assert!(first.is_empty(), "{}: {first:#?}", outcome.broken.len());
        assert_eq!(refused, 0, "good keys were refused");
        assert!(count(&self.control.accepted) > 0);
    }
}

/// Adds the observations of one key.
fn judge(watched: &Watched, circumstances: &Circumstances, outcome: &mut Outcome) {
    let id = &watched.key.id;
    let Some(revocation) = watched.revocation else {
        let is_good = watched
            .answers
            .iter()
            .all(|answers| answers.refused.is_none());
        assert!(is_good || watched.first_sent.is_some(), "{id} was refused");
        return;
    };
    let Revocation {
        on,
        sent,
        answered,
        is_global,
    } = revocation;
    let is_lost = circumstances.lost.contains(id);
    outcome.took.0.push(answered.saturating_sub(sent));
    outcome.global += usize::from(is_global);
    outcome.lost += usize::from(is_lost);
    let (mut lateness, mut is_accepted) = (Duration::ZERO, false);
    for (server, answers) in watched.answers.iter().enumerate() {
        assert!(answers.was_known, "server {server} never accepted {id}");
        assert!(answers.refused.is_some() || is_lost || !answers.accepted.is_empty());
        if answers.again > 0 {
            outcome.broken.push(format!(
                "server {server} accepted {id} {} times after it had refused it (server {on} revoked, lost: {is_lost})",
                answers.again
            ));
        }
        let mut bound = answered;
        if server != on {
            if !is_global {
                bound += BOUND;
            }
            if let Some(followed) = circumstances.followed {
                bound = bound.max(followed[server] + BOUND);
            }
        }
        let mut late = answers.accepted.iter().filter(|sent| **sent >= bound);
        let Some(first) = late.next() else {
            if server != on && !is_lost {
                let last = answers.accepted.iter().max().copied();
                lateness = lateness.max(last.unwrap_or_default().saturating_sub(answered));
            }
            continue;
        };
        // If it had refused the key, it had read the revocation. That case is checked above.
        if is_lost && server != on {
            is_accepted = true;
            continue;
        }
        let last = late.max().unwrap_or(first);
        outcome.broken.push(format!(
            "server {server} accepted {id} from {} to {} after the bound (server {on} revoked at {}, global: {is_global})",
            Millis(first.saturating_sub(bound)),
            Millis(last.saturating_sub(bound)),
            Millis(answered),
        ));
    }
    outcome.lost_accepted += usize::from(is_accepted);
    outcome.lateness.0.push(lateness);
}
