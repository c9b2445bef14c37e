//! `GET /livez`, `GET /readyz`

use serde_json::json;

use crate::world::Place;

on_both_databases!(running_server_is_alive_and_ready_whoever_asks);

async fn running_server_is_alive_and_ready_whoever_asks(place: Place) {
    let world = place.shared().await;
    for path in ["/livez", "/readyz", "/livez?verbose", "/readyz?key=x"] {
        for request in [world.get(path), world.get(path).bearer("nonsense")] {
            let answer = request.send().await;
            assert_eq!((answer.status, &*answer.text("/status")), (200, "ok"));
            if path.starts_with("/livez") {
                assert_eq!(answer.json(), json!({ "status": "ok" }));
            } else {
                let changes = answer.text("/changes");
                assert!(
                    ["followed", "not_followed"].contains(&&*changes),
                    "{changes}"
                );
            }
            let answer = answer.has("content-type", "application/json");
            answer.has("www-authenticate", None);
        }
    }
}
