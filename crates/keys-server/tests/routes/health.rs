//! `GET /livez`, `GET /readyz`

use serde_json::json;

use crate::world::Place;

on_both_databases!(running_server_is_alive_and_ready_whoever_asks);

async fn running_server_is_alive_and_ready_whoever_asks(place: Place) {
    let world = place.shared().await;
    for path in ["/livez", "/readyz", "/livez?verbose", "/readyz?key=x"] {
        for request in [world.get(path), world.get(path).bearer("nonsense")] {
            let answer = request.expect(200, &json!({ "status": "ok" })).await;
            let answer = answer.has("content-type", "application/json");
            answer.has("www-authenticate", None);
        }
    }
}
