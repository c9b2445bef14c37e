//! A network that fails on request, by hand:
//!
//! ```sh
//! cargo run -p keys-testkit --example fault-proxy -- 127.0.0.1:6432 127.0.0.1:5432
//! ```
//!
//! Each line of standard input is a fault for all connections, such as `delay 200ms`,
//! `swallow to-client` or `pass`. A fault for the connections on which a client has sent some text
//! is written `aim keys feed: half-open`. The proxy ends with the input.

use std::io::{Error, ErrorKind};

use keys_testkit::fault_proxy::FaultProxy;
use tokio::sync::mpsc;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [listen, target] = &arguments[..] else {
        return Err(Error::new(
            ErrorKind::InvalidInput,
            "usage: fault-proxy LISTEN TARGET",
        ));
    };
    let proxy = FaultProxy::listen(listen, target).await?;
    eprintln!("{} leads to {target}", proxy.address());
    let mut lines = input();
    while let Some(line) = lines.recv().await {
        let obeyed = match line
            .strip_prefix("aim ")
            .and_then(|aim| aim.split_once(':'))
        {
            Some((text, fault)) => fault.parse().map(|fault| proxy.aim(text, fault)),
            None => match line.parse() {
                Ok(fault) => {
                    proxy.set(fault).await;
                    Ok(())
                }
                Err(error) => Err(error),
            },
        };
        match obeyed {
            Ok(()) => eprintln!("{line}; {} connections are open", proxy.open()),
            Err(error) => eprintln!("{error}"),
        }
    }
    Ok(())
}

/// The lines of standard input, read by a thread of their own so that the proxy does not wait for
/// them.
fn input() -> mpsc::UnboundedReceiver<String> {
    let (sender, lines) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    lines
}
