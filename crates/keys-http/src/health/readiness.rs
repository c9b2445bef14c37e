//! Readiness of the database.

use std::pin::Pin;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use futures_util::future::Shared;
use keys_core::chain;
use keys_service::KeyService;
use keys_service::ports::{Readiness, StoreError};
use parking_lot::Mutex;

/// Maximum age of an answer. Requests that arrive within this time after the database was asked
/// share its answer.
const AGE_MAX: Duration = Duration::from_millis(250);

/// Asks the database on behalf of all requests.
#[derive(Default)]
pub(crate) struct Prober {
    last: Mutex<Option<Probe>>,
}

/// The answer of the database. `Err` contains its fault.
type Said = Result<Readiness, &'static str>;

/// One query to the database. Each request that waits for its answer drives it, so it continues if
/// some of them are dropped.
#[derive(Clone)]
struct Probe {
    began: Instant,
    answer: Shared<Pin<Box<dyn Future<Output = Said> + Send>>>,
}

impl Prober {
    /// Returns whether the database can be used.
    pub(super) async fn ask(&self, service: &KeyService) -> Said {
        let arrived = Instant::now();
        loop {
            let probe = self.probe(service);
            let said = probe.answer.await;
            // An error counts from the time that it is known. A success is as old as its query.
            if said.is_err() || probe.began >= arrived || probe.began.elapsed() <= AGE_MAX {
                return said;
            }
        }
    }

    /// Returns the query under way, or the last one if its answer is recent enough, or a new one.
    fn probe(&self, service: &KeyService) -> Probe {
        let mut last = self.last.lock();
        if let Some(probe) = &*last
            && (probe.answer.peek().is_none() || probe.began.elapsed() <= AGE_MAX)
        {
            return probe.clone();
        }
        let service = service.clone();
        let probe = Probe {
            began: Instant::now(),
            answer: async move { probe(&service).await }.boxed().shared(),
        };
        *last = Some(probe.clone());
        probe
    }
}

async fn probe(service: &KeyService) -> Said {
    service.ready().await.map_err(|error| {
        tracing::warn!(error = chain(&error), "not ready: the database is missing");
        match error {
            StoreError::Unavailable(_) => "unreachable",
            _ => "unusable",
        }
    })
}
