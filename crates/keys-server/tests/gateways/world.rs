//! A server, a gateway, an application, and clients.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::time::Duration;

use keys_testkit::gateway::Gateway;
use keys_testkit::server::{Server, ServerBuilder};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

use crate::answers::Answer;
use crate::application::Application;
use crate::{Addresses, Kind};

/// Address of clients. It differs from that of gateways, because those are trusted proxies.
pub(crate) const CLIENT: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// Longer than any gateway takes, also on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(30);

pub(crate) struct World {
    pub(crate) server: Server,
    pub(crate) application: Application,
    client: reqwest::Client,
    gateway: Gateway,
    operator: String,
}

/// Returns a client at an address.
pub(crate) fn client(address: Ipv4Addr) -> reqwest::Client {
    if let Err(error) = TcpListener::bind((address, 0)) {
        // Linux has all of them.
        panic!("{address} is missing, try `ifconfig lo0 alias {address}`: {error}");
    }
    let client = reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .timeout(TIMEOUT);
    client.local_address(IpAddr::V4(address)).build().unwrap()
}

impl World {
    pub(crate) async fn open(kind: Kind) -> Self {
        let server = Server::builder(env!("CARGO_BIN_EXE_keys-server"))
            .env("KEYS_HTTP__TRUSTED_PROXIES", "127.0.0.1");
        Self::open_with(server, kind.start).await
    }

    /// Starts with other settings of the server.
    pub(crate) async fn open_with(
        server: ServerBuilder,
        start: impl FnOnce(Addresses) -> Gateway,
    ) -> Self {
        let server = server
            .config("[plans.pro.limits]\nrequests = { requests = 3, period_seconds = 3600 }\n")
            .start()
            .await;
        let application = Application::start();
        let keys = server.url("").replace("http://", "").parse().unwrap();
        let gateway = start(Addresses {
            keys,
            application: application.address,
        });
        // It must not listen on any other address of the machine.
        let elsewhere = TcpStream::connect((CLIENT, gateway.port())).await;
        assert!(elsewhere.is_err(), "the gateway listens everywhere");
        Self {
            operator: server.operator_key("test"),
            server,
            application,
            client: client(CLIENT),
            gateway,
        }
    }

    pub(crate) async fn manage(&self, method: &str, path: &str, body: &Value) -> Value {
        let call = self.server.call(method, path).bearer(&self.operator);
        let answer = call.json(body).send().await;
        assert!(answer.status < 300, "{answer:?}");
        answer.json()
    }

    pub(crate) async fn account(&self, external_id: Option<&str>) -> String {
        let draft = json!({ "plan": "pro", "external_id": external_id });
        let account = self.manage("POST", "/v1/accounts", &draft).await;
        account["id"].as_str().unwrap().to_owned()
    }

    /// Returns id and secret of a new key.
    pub(crate) async fn key(&self, account: &str, draft: &Value) -> (String, String) {
        let path = format!("/v1/accounts/{account}/keys");
        let issued = self.manage("POST", &path, draft).await;
        let text = |name: &str| issued[name].as_str().unwrap().to_owned();
        (text("id"), text("key"))
    }

    /// Returns the secret of a key of a new account, with scopes.
    pub(crate) async fn key_with(&self, scopes: &[&str]) -> String {
        let account = self.account(None).await;
        self.key(&account, &json!({ "scopes": scopes })).await.1
    }

    pub(crate) fn url(&self, path: &str) -> String {
        self.gateway.url(path)
    }

    pub(crate) fn call(&self, method: &str, path: &str) -> reqwest::RequestBuilder {
        self.client.request(method.parse().unwrap(), self.url(path))
    }

    pub(crate) fn get(&self, path: &str) -> reqwest::RequestBuilder {
        self.call("GET", path)
    }

    /// Sends a request, and asserts the status.
    pub(crate) async fn expect(&self, request: reqwest::RequestBuilder, status: u16) -> Answer {
        send(request).await.expect(status)
    }

    /// Sends a request unchanged, as no client library would. Its lines end with `\n` here.
    pub(crate) async fn raw(&self, request: &str) -> Answer {
        let exchange = async {
            let socket = TcpSocket::new_v4()?;
            socket.bind(SocketAddr::from((CLIENT, 0)))?;
            let gateway = SocketAddr::from((Ipv4Addr::LOCALHOST, self.gateway.port()));
            let mut stream = socket.connect(gateway).await?;
            let request = request.replace('\n', "\r\n");
            stream.write_all(request.as_bytes()).await?;
            let mut answer = Vec::new();
            // Not to the end of the connection, because some gateways keep it open for a while
            // after an error.
            loop {
                if let Some(answer) = Answer::parse(&answer) {
                    return Ok(answer);
                }
                if stream.read_buf(&mut answer).await? == 0 {
                    return Err(std::io::Error::other(String::from_utf8_lossy(&answer)));
                }
            }
        };
        let answer = tokio::time::timeout(TIMEOUT, exchange).await;
        let answer = answer.expect("the gateway answers");
        answer.unwrap_or_else(|error| panic!("{request}\n{error}"))
    }
}

/// Sends a request.
pub(crate) async fn send(request: reqwest::RequestBuilder) -> Answer {
    let response = request.send().await.unwrap();
    Answer {
        status: response.status().as_u16(),
        headers: response.headers().clone(),
        body: response.text().await.unwrap(),
    }
}
