//! Keys to be revoked, and the keys that revoke them.

use std::sync::Arc;

use keys_testkit::wire::{Wire, request, request_with};
use serde_json::Value;
use tokio::task::JoinSet;

/// A plan with limits that are never reached, and unlimited failures, because all requests come
/// from one address.
pub(crate) const PLAN: &str = "\
[http]
unauthenticated = { requests = 1000000, period_seconds = 10 }
[plans.proof]
keys = true
keys_max = 1000
[plans.proof.limits]
create = { requests = 1000000, period_seconds = 10 }
list = { requests = 1000000, period_seconds = 10 }
delete = { requests = 1000000, period_seconds = 10 }
verify = { requests = 1000000, period_seconds = 10 }
";

/// Keys of one account.
const KEYS_PER_ACCOUNT: usize = 50;

/// Concurrent creators.
const MAKERS: usize = 8;

/// A key.
#[derive(Debug)]
pub(crate) struct Key {
    pub(crate) id: String,
    pub(crate) secret: String,
    /// Another key of its account, which stays.
    pub(crate) manager: Arc<str>,
}

impl Key {
    /// Returns a request that verifies it.
    pub(crate) fn auth(&self) -> Vec<u8> {
        request("GET", "/v1/auth", &self.secret)
    }

    pub(crate) fn revoke(&self, query: &str) -> Vec<u8> {
        let path = format!("/api/api-keys/{}{query}", self.id);
        request("DELETE", &path, &self.manager)
    }
}

/// Creates keys. Neighbours in the list belong to different accounts.
pub(crate) async fn keys(url: &str, operator: &str, count: usize) -> Vec<Key> {
    let accounts = count.div_ceil(KEYS_PER_ACCOUNT).max(MAKERS.min(count));
    let mut makers = JoinSet::new();
    for maker in 0..MAKERS {
        let (url, operator) = (url.to_owned(), operator.to_owned());
        makers.spawn(async move {
            let mut wire = Wire::connect(&url).await;
            let mut made = Vec::new();
            for account in (maker..accounts).step_by(MAKERS) {
                let path = "/v1/accounts";
                let body = r#"{"plan":"proof"}"#;
                let path = format!(
                    "{path}/{}/keys",
                    text(&make(&mut wire, path, &operator, body).await, "id")
                );
                let manager = make(&mut wire, &path, &operator, "{}").await;
                let manager: Arc<str> = text(&manager, "key").into();
                for number in (account..count).step_by(accounts) {
                    let key = make(&mut wire, &path, &operator, "{}").await;
                    let key = Key {
                        id: text(&key, "id"),
                        secret: text(&key, "key"),
                        manager: Arc::clone(&manager),
                    };
                    made.push((number, key));
                }
            }
            made
        });
    }
    let mut made: Vec<_> = makers.join_all().await.into_iter().flatten().collect();
    made.sort_unstable_by_key(|(number, _)| *number);
    made.into_iter().map(|(_, key)| key).collect()
}

async fn make(wire: &mut Wire, path: &str, operator: &str, body: &str) -> Value {
    let request = request_with("POST", path, operator, body);
    // A machine that is busy with other tests may be late at times.
    for _ in 0..5 {
        let answer = wire.ask(&request).await;
        if answer.status == 201 {
            return serde_json::from_str(answer.body).unwrap();
        }
        assert_eq!(answer.status, 503, "{}", answer.body);
    }
    panic!("nothing can be made")
}

fn text(made: &Value, member: &str) -> String {
    made[member].as_str().unwrap().to_owned()
}
