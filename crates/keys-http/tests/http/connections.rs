//! Requests over real connections.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use actix_web::dev::ServerHandle;
use actix_web::rt::net::TcpStream;
use actix_web::{App, HttpServer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::rows::FLAT;
use crate::support::World;

/// A server on a socket of its own.
struct Running {
    address: SocketAddr,
    handle: ServerHandle,
}

impl Running {
    fn start(world: &World) -> Self {
        let api = world.api.clone();
        let server = HttpServer::new(move || {
            App::new()
                .wrap(api.log_requests())
                .configure(|app| api.configure(app))
        });
        let any = (Ipv4Addr::LOCALHOST, 0);
        let server = server.workers(1).disable_signals().bind(any).unwrap();
        let address = server.addrs()[0];
        let server = server.run();
        let handle = server.handle();
        actix_web::rt::spawn(server);
        Self { address, handle }
    }

    /// Sends the pieces, each a moment after the one before. Returns the sorted lines of what the
    /// server answers until it closes the connection.
    async fn hears(&self, pieces: &[String]) -> Vec<String> {
        const MOMENT: Duration = Duration::from_millis(60);
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        for piece in pieces {
            stream.write_all(piece.as_bytes()).await.unwrap();
            actix_web::rt::time::sleep(MOMENT).await;
        }
        let mut said = Vec::new();
        // A reset is an end too.
        let _ = stream.read_to_end(&mut said).await;
        let said = String::from_utf8(said).unwrap();
        // Headers have no order, and the time of day may have advanced.
        let mut lines: Vec<_> = said.lines().map(str::to_owned).collect();
        lines.retain(|line| !line.starts_with("date: "));
        lines.sort();
        lines
    }
}

#[actix_web::test]
async fn head_is_answered_like_get_without_the_body() {
    let world = World::new().followed().await;
    let (key, operator) = (
        world.pro_key().await,
        world.operator(&["keys:verify"]).await,
    );
    let server = Running::start(&world);
    for (path, credential) in [
        ("/v1/auth", &*key),
        ("/v1/auth", "nonsense"),
        ("/v1/auth?cost=0", &key),
        ("/v1/keys/verify", &operator),
        (FLAT, &key),
        ("/api/account/api-keys", &key),
        ("/livez", ""),
        ("/readyz", ""),
        ("/nothing", ""),
    ] {
        let hears = async |method: &str| {
            let request = format!(
                "{method} {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {credential}\r\n\
                 Connection: close\r\n\r\n"
            );
            let said = server.hears(&[request]).await;
            // The clock of the world stands still, so the buckets differ by the requests that were
            // counted.
            world.advance(60);
            said
        };
        let (mut head, mut get) = (hears("HEAD").await, hears("GET").await);
        get.retain(|line| !line.starts_with(['{', '[']));
        assert!(
            head.iter().any(|line| line.starts_with("content-length: ")),
            "{head:?}"
        );
        if path == "/readyz" {
            // The body says how long ago changes were followed, in a number of digits that varies.
            for lines in [&mut head, &mut get] {
                lines.retain(|line| !line.starts_with("content-length: "));
            }
        }
        assert_eq!(head, get, "{path}");
    }
    server.handle.stop(false).await;
}

#[actix_web::test]
async fn body_that_never_comes_is_given_up_even_behind_another_request() {
    let world = World::new();
    let operator = world.operator(&["keys:verify"]).await;
    let server = Running::start(&world);
    let head = |length: usize| {
        format!(
            "POST /v1/keys/verify HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {operator}\r\n\
             Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
        )
    };
    let start = Instant::now();
    // The first one waits for its own body, so that the second has been read before its turn.
    let said = server.hears(&[head(2), "{}".to_owned() + &head(2)]).await;
    let said = said.join("\n");
    assert!(said.contains("HTTP/1.1 400 Bad Request"), "{said}");
    assert!(said.contains("HTTP/1.1 408 Request Timeout"), "{said}");
    assert!(start.elapsed() >= Duration::from_secs(15));
    server.handle.stop(false).await;
}

#[actix_web::test]
async fn answers_close_their_connections_while_draining() {
    let world = World::new();
    let server = Running::start(&world);
    world.api.start_draining();
    for path in ["/v1/auth", "/livez", "/nothing"] {
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
        let said = server.hears(&[request]).await;
        assert!(said.contains(&"connection: close".to_owned()), "{said:?}");
    }
    server.handle.stop(false).await;
}
