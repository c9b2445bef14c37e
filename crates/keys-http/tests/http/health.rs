//! `GET /livez`, `GET /readyz`

use crate::exchange::get;
use crate::faulty::{Fault, Faulty};
use crate::support::World;

#[actix_web::test]
async fn missing_database_is_named_and_kills_nobody() {
    for (fault, body) in [
        (
            Fault::Unavailable,
            r#"{"status":"unavailable","database":"unreachable"}"#,
        ),
        (
            Fault::Unexpected,
            r#"{"status":"unavailable","database":"unusable"}"#,
        ),
    ] {
        let store = Faulty::default();
        let world = World::with_store(store.clone());
        let ok = r#"{"status":"ok"}"#;
        get("/readyz").expect(&world, 200, ok).await;
        store.fails_with(fault);
        let answer = get("/readyz").expect(&world, 503, body).await;
        assert_eq!(answer.header("retry-after"), Some("1"));
        get("/livez").expect(&world, 200, ok).await;
    }
}
