//! The store in memory keeps the contract of all stores.

use std::future::ready;
use std::sync::Arc;

use keys_service::MemoryStore;
use keys_service::ports::KeyStore;
use keys_testkit::contract::AuditedStore;

fn memory() -> Arc<dyn KeyStore> {
    Arc::new(MemoryStore::new())
}

fn audited() -> AuditedStore {
    let store = Arc::new(MemoryStore::new());
    AuditedStore::new(store.clone(), move || store.audit_events())
}

keys_testkit::store_contract!(contract, ready(memory()));
keys_testkit::store_audit_contract!(audit, ready(audited()));
