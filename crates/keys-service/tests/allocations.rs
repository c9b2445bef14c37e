//! A warm verification allocates nothing.

use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use keys_core::{AllowedNetworks, KeyName, ScopeSet, Timestamp};
use keys_service::{Actor, KeyDraft, KeyService, MemoryStore, NewAccount, VerifyRequest};
use keys_testkit::data::pepper_ring;
use keys_testkit::report;

#[test]
fn warm_verification_allocates_nothing() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let service = KeyService::builder(MemoryStore::default(), pepper_ring("p1")).build();
    let secret = runtime.block_on(async {
        tokio::spawn({
            let service = service.clone();
            async move { service.maintain().await }
        });
        let system = Actor::system();
        let new =
            NewAccount::new("pro".parse().unwrap()).external_id(Some("user-1".parse().unwrap()));
        let account = service.create_account(&system, new).await.unwrap();
        let draft = KeyDraft::new(account.id, "sk_live".parse().unwrap())
            .name(Some(KeyName::from_name("Production Server").unwrap()))
            .allowed_networks(AllowedNetworks::parse(["10.0.0.0/8"]).unwrap())
            .scopes(Some(ScopeSet::parse(["orders:read"]).unwrap()))
            .expires_at(Some(Timestamp::MAX));
        let issued = service.issue_key(&system, draft).await.unwrap();
        while service.cache_state().behind.is_none() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        issued.secret
    });
    let scopes = ScopeSet::parse(["orders:read"]).unwrap();
    let request = VerifyRequest::new(secret.expose())
        .address(Some("10.1.2.3".parse().unwrap()))
        .scopes(&scopes);
    assert!(
        runtime
            .block_on(service.verify(&request))
            .unwrap()
            .is_valid()
    );

    // Counts the allocations of this thread; the service's own tasks run on another.
    let counted = allocation_counter::measure(|| {
        for _ in 0..1_000 {
            let verdict = pin!(service.verify(&request));
            let Poll::Ready(verdict) = verdict.poll(&mut Context::from_waker(Waker::noop())) else {
                panic!("a warm verification has nothing to wait for");
            };
            assert!(verdict.unwrap().is_valid());
        }
    });
    report::figure(
        "allocations in 1,000 verifications of a cached key",
        counted.count_total,
        "none",
        counted.count_total == 0,
    );
    assert_eq!(counted.count_total, 0);
}
