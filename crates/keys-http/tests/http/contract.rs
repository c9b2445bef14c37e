//! Every row that needs no clock, over an application inside the test.

use std::time::Duration;

use crate::exchange::{Answer, Exchange, Request};
use crate::rows;
use crate::support::World;

/// Lets a little time pass between requests, as with any client. Keys created in the same
/// microsecond have no order.
struct Ticking<'a>(&'a World);

impl Exchange for Ticking<'_> {
    async fn exchange(&self, request: Request) -> Answer {
        self.0.clock.advance(Duration::from_millis(1));
        self.0.exchange(request).await
    }
}

#[actix_web::test]
async fn every_row_holds() {
    let world = World::new();
    let operator = world.root().await;
    rows::every_row(&Ticking(&world), &operator).await;
}
