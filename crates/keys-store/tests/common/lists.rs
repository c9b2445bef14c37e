//! Lists of more keys than a page examines.

use keys_core::KeyStatus;
use keys_service::ports::{
    EXAMINED_MAX, KeyListing, KeyManagement as _, KeyQuery, ListPosition, ListedKeys, OTHERS_MAX,
};
use keys_store::Store;
use keys_testkit::data::{a_key, noon_plus};

use super::{Sql, add_account, add_key};

/// A search that finds nothing ends after the keys that a page may examine, and says where to go
/// on. So does one whose only match comes late. Ended keys are counted up to a maximum.
pub(crate) async fn a_page_examines_a_bounded_number_of_keys(store: &Store, sql: &impl Sql) {
    let account = add_account(store).await;
    let first = a_key().of(&account).created_at(noon_plus(-60));
    let first = add_key(store, first.name("first").build_new()).await;
    add_key(store, a_key().of(&account).name("many").build_new()).await;
    let many = format!(
        "with recursive n (i) as (select 1 union all select i + 1 from n where i < {}) \
         insert into api_key (id, account_id, kind, digest, pepper_id, shown_prefix, name, \
         allowed_networks, scopes, created_at) \
         select {}, account_id, kind, {}, pepper_id, shown_prefix, name, allowed_networks, scopes, \
         created_at from api_key, n where name = 'many'",
        EXAMINED_MAX + 50,
        sql.new_id(),
        sql.new_digest(),
    );
    sql.run(&many).await.unwrap();

    let page = async |query: &KeyQuery, after: Option<ListPosition>| -> ListedKeys {
        let listing = KeyListing::new(query.clone(), noon_plus(1)).after(after);
        store.list_keys(listing).await.unwrap()
    };
    for name in ["nothing", "first"] {
        let query = KeyQuery::new(10)
            .account(Some(account.id))
            .name(Some(name.to_owned()));
        let start = page(&query, None).await;
        assert!(start.keys.is_empty() && start.next.is_some(), "{name}");
        let rest = page(&query, start.next).await;
        let found: Vec<_> = rest.keys.iter().map(|one| one.key.id).collect();
        let expected = if name == "first" {
            vec![first.id]
        } else {
            vec![]
        };
        assert_eq!((found, rest.next), (expected, None), "{name}");
    }
    // Pages of what matches are full, however deep.
    let query = KeyQuery::new(1_000).account(Some(account.id));
    let (mut count, mut pages, mut after) = (0, 0, None);
    loop {
        let one = page(&query, after).await;
        count += one.keys.len();
        pages += 1;
        after = one.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!((count, pages), (EXAMINED_MAX + 52, 11));

    sql.run("update api_key set revoked_at = created_at where name = 'many'")
        .await
        .unwrap();
    for query in [query, KeyQuery::new(10)] {
        let others = page(&query, None).await.others.unwrap();
        assert_eq!((others.count, others.more), (OTHERS_MAX, true));
    }
    let searched = KeyQuery::new(10)
        .account(Some(account.id))
        .name(Some("none".to_owned()));
    let others = page(&searched, None).await.others.unwrap();
    assert_eq!((others.count, others.more), (0, true));
    let revoked = KeyQuery::new(10).statuses([KeyStatus::Revoked]);
    let found = page(&revoked, None).await;
    assert_eq!((found.keys.len(), found.others), (10, None));
}
